//! The one cause of a close.
//!
//! *Owns* [`root_cause`], which joins two ends, and [`alone`], which judges one when the other will not be
//! known. *Never* reads a clock or a table. *Invariant*: `root_cause` is a pure function of the two ends as
//! they travel, so both processes name the same cause for every pair that both settled from both halves.

use std::fmt::Write as _;

use crate::evidence::{End, HopState, LegName, Observation, Rule};
use crate::id::{InstanceId, Role};
use crate::phase::Phase;
use crate::reason::{Class, Initiator, Reason};

/// Why a connection is over: made once, at settlement, and never changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Termination {
    /// The one cause.
    pub reason: Reason,
    /// Its class as it travelled.
    pub class: Class,
    /// Who began it.
    pub initiator: Initiator,
    /// The phase of the half that saw the cause, before it began to close.
    pub phase: Phase,
    /// The leg on which it was seen.
    pub side: Option<LegName>,
    /// The rule that fired, where one did.
    pub rule: Option<Rule>,
    /// What was measured against the rule.
    pub observed: Option<Box<str>>,
    /// errno, alert, actor and note, parser's message, lost instance.
    pub evidence: Option<Box<str>>,
    /// One English sentence.
    pub sentence: Box<str>,
    /// The consequences, in order, in the form `client reset → hop reset`.
    pub chain: Vec<Box<str>>,
}

/// What a settlement was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SettledFrom {
    /// Both halves' ends.
    Both,
    /// This half's end alone.
    Alone,
    /// This half was never bridged: there is nothing to wait for.
    Only,
}

/// Why a half that was bridged settles without the other half's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AloneBecause {
    /// The session to the peer's instance has been down for two heartbeats.
    SessionDown(InstanceId),
    /// The joined half was missing from a snapshot, or was never seen.
    Unseen,
    /// Retention had to evict this half.
    Evicted,
    /// The connection was bridged again; this half was given up.
    Superseded,
}

/// The cause of a pair: the better evidence of the two ends.
///
/// Order: hard evidence with the hop open before it; hard after a hop FIN; orderly with the hop open before
/// it; orderly after a hop FIN. What follows a hop reset is a consequence. Ties: by [`Class`], then what one of
/// our processes decided before an outside FIN (whoever hears our goodbye first answers it with a FIN, which
/// the front may read before the hop's), then the front.
pub fn root_cause(front: &End, inner: &End) -> Termination {
    let (winner, winner_role, other, other_role) = match (rank(front), rank(inner)) {
        (f, i) if i > f => (inner, Role::Inner, front, Role::Front),
        _ => (front, Role::Front, inner, Role::Inner),
    };
    let best = winner.key().filter(|(_, hop)| *hop != HopState::Reset);
    let cause = best.map_or_else(|| only_the_hop(winner, winner_role, None), |(o, _)| o.clone());
    let mut chain = chain_of(winner, winner_role);
    chain.append(&mut chain_of(other, other_role));
    termination(&cause, winner.phase, chain)
}

/// The cause of a half whose other half's end will not be known in time.
pub fn alone(own: &End, role: Role, because: AloneBecause) -> Termination {
    let chain = chain_of(own, role);
    if because == AloneBecause::Superseded {
        let cause = Observation::new(role, Reason::Superseded, Some(LegName::Hop), own.age);
        return termination(&cause, own.phase, chain);
    }
    let hard = own.key().filter(|(o, hop)| o.class.is_hard() && *hop != HopState::Reset);
    let orderly = own.key().filter(|(o, hop)| o.class == Class::Orderly && *hop == HopState::Open);
    let lost = match because {
        AloneBecause::SessionDown(instance) => Some(instance),
        _ => None,
    };
    let cause = match (hard, own.hop_state(), orderly) {
        (Some((hard, _)), _, _) => hard.clone(),
        (None, HopState::Reset, _) => only_the_hop(own, role, lost),
        (None, _, Some((orderly, _))) => orderly.clone(),
        (None, _, None) => only_the_hop(own, role, None),
    };
    termination(&cause, own.phase, chain)
}

/// The cause of a half that was never bridged.
pub fn only(own: &End, role: Role) -> Termination {
    let cause = match own.key() {
        Some((observation, _)) => observation.clone(),
        None => Observation::new(role, Reason::Abandoned, None, own.age),
    };
    termination(&cause, own.phase, chain_of(own, role))
}

/// Larger is better evidence; 0 is none.
fn rank(end: &End) -> (u8, Class, bool) {
    let (level, of) = match end.key() {
        None | Some((_, HopState::Reset)) => return (0, Class::Consequence, false),
        Some((o, HopState::Open)) if o.class.is_hard() => (4, o),
        Some((o, HopState::Fin)) if o.class.is_hard() => (3, o),
        Some((o, HopState::Open)) => (2, o),
        Some((o, HopState::Fin)) => (1, o),
    };
    let decided = matches!(of.initiator, Initiator::Smartproxy | Initiator::Networkproxy);
    (level, of.class, of.class == Class::Orderly && decided)
}

/// The cause of an end that saw nothing but the hop.
fn only_the_hop(end: &End, role: Role, lost: Option<InstanceId>) -> Observation {
    let reason = match (end.hop_state(), lost) {
        (HopState::Reset, Some(_)) => Reason::PeerLost,
        (HopState::Reset, None) => Reason::HopReset,
        _ => Reason::HopClosed,
    };
    let seen = end.observations.iter().find(|o| o.leg == Some(LegName::Hop)).map_or(end.age, |o| o.after);
    let cause = Observation::new(role, reason, Some(LegName::Hop), seen);
    match lost {
        Some(instance) if reason == Reason::PeerLost => cause.with_detail(format!("instance {instance}")),
        _ => cause,
    }
}

fn chain_of(end: &End, role: Role) -> Vec<Box<str>> {
    let mut chain: Vec<Box<str>> = end.observations.iter().map(|o| link(o, role)).collect();
    if !end.suspended.is_zero() {
        chain.push(format!("{} was suspended for {:?}", role.process(), end.suspended).into());
    }
    chain
}

fn link(observation: &Observation, role: Role) -> Box<str> {
    let mut text = String::with_capacity(64);
    let _ = write!(text, "{}: {}", role.process(), observation.reason);
    if let Some(detail) = &observation.detail {
        let _ = write!(text, " ({detail})");
    }
    text.into()
}

fn termination(cause: &Observation, phase: Phase, chain: Vec<Box<str>>) -> Termination {
    // One allocation for the usual end.
    let mut sentence = String::with_capacity(160);
    sentence.push_str(cause.reason.sentence());
    if let Some(rule) = &cause.rule {
        let _ = write!(sentence, "; rule {}={} ({})", rule.name, rule.limit, rule.source);
    }
    if let Some(observed) = &cause.observed {
        let _ = write!(sentence, ", observed {observed}");
    }
    if let Some(detail) = &cause.detail {
        let _ = write!(sentence, "; {detail}");
    }
    let _ = write!(sentence, "; in phase {}", phase.name());
    Termination {
        reason: cause.reason,
        class: cause.class,
        initiator: cause.initiator,
        phase,
        side: cause.leg,
        rule: cause.rule.clone(),
        observed: cause.observed.clone(),
        evidence: cause.detail.clone(),
        sentence: sentence.into(),
        chain,
    }
}

#[cfg(test)]
mod tests;
