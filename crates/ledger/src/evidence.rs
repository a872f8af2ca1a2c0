//! What a half saw, in order, and what of it counts.
//!
//! *Owns* [`Observation`] and [`End`], the account of a half's end exactly as it travels to the peer.
//! *Never* compares clocks of two processes: only the order within one half matters, and how the hop stood.
//! *Invariant*: [`End::key`] depends on nothing but the fields that are on the wire, so both processes
//! compute the same root cause from the same two messages.

use std::time::Duration;

use crate::id::Role;
use crate::phase::Phase;
use crate::reason::{Class, Initiator, Reason};
use crate::time::Wall;

/// One of the sockets (or, for the target, pooled connections) of a half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LegName {
    /// The client's socket (front).
    Client = 1,
    /// The loopback hop between the processes.
    Hop = 2,
    /// The target's socket.
    Target = 3,
}

impl LegName {
    /// The leg of a wire number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Client),
            2 => Some(Self::Hop),
            3 => Some(Self::Target),
            _ => None,
        }
    }

    /// The lower-case name in logs and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Hop => "hop",
            Self::Target => "target",
        }
    }
}

/// How the hop stood when something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HopState {
    /// Reset: what comes after is a consequence.
    Reset,
    /// The other half had sent its FIN.
    Fin,
    /// Nothing had come from the other half.
    Open,
}

/// The configured rule that fired: its name, value and where the value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The configuration key, such as `half_close`.
    pub name: Box<str>,
    /// The configured limit, as written for people (`1m`, `1000`).
    pub limit: Box<str>,
    /// `default`, `file:line`, or a route's name with its line.
    pub source: Box<str>,
}

/// One thing that a half saw or decided, in the order it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What it was.
    pub reason: Reason,
    /// How strong it is: travels with it, so that an unknown reason ranks alike everywhere.
    pub class: Class,
    /// Who began it.
    pub initiator: Initiator,
    /// On which leg, where it was on one.
    pub leg: Option<LegName>,
    /// Time since the half opened, on the observer's monotonic clock.
    pub after: Duration,
    /// The configured rule, where one fired.
    pub rule: Option<Rule>,
    /// What was measured against the rule, such as `60.001s`.
    pub observed: Option<Box<str>>,
    /// errno, TLS alert, actor and note, parser's message.
    pub detail: Option<Box<str>>,
}

/// What a half counted on the hop, header apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HopCount {
    /// Bytes written to the hop.
    pub sent: u64,
    /// Bytes read from the hop, discarded ones included.
    pub received: u64,
    /// Was the hop read to its EOF?
    pub read_to_eof: bool,
}

/// A half's own account of its end, as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The phase it was in before it began to close.
    pub phase: Phase,
    /// What was seen, first to last; at most [`End::MAX_OBSERVATIONS`].
    pub observations: Vec<Observation>,
    /// How long the process was suspended during this half's life.
    pub suspended: Duration,
    /// The hop's bytes.
    pub hop: HopCount,
    /// Bytes read from one leg that could not be delivered to the other.
    pub undelivered: u64,
    /// Time of day of the end.
    pub at: Wall,
    /// Age at the end, monotonic.
    pub age: Duration,
}

impl Observation {
    /// Bytes of a detail.
    pub const LONGEST_DETAIL: usize = 200;
    /// Bytes of what was measured.
    pub const LONGEST_OBSERVED: usize = 64;

    /// An observation without rule or detail, with the reason's usual class and initiator.
    pub fn new(observer: Role, reason: Reason, leg: Option<LegName>, after: Duration) -> Self {
        Self {
            reason,
            class: reason.class(),
            initiator: reason.initiator(observer),
            leg,
            after,
            rule: None,
            observed: None,
            detail: None,
        }
    }

    /// With the configured rule that fired and what was measured.
    #[must_use]
    pub fn by_rule(mut self, rule: Rule, observed: impl Into<Box<str>>) -> Self {
        self.rule = Some(rule);
        self.observed = Some(observed.into());
        self
    }

    /// With an errno text, an alert's name, an actor and note.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Box<str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Clips every text to what the wire carries, so that both processes read the same.
    pub(crate) fn clip(&mut self) {
        let Self { rule, observed, detail, .. } = self;
        if let Some(Rule { name, limit, source }) = rule {
            clip(name, Rule::LONGEST_NAME);
            clip(limit, Rule::LONGEST_NAME);
            clip(source, Rule::LONGEST_SOURCE);
        }
        for (text, limit) in [(observed, Self::LONGEST_OBSERVED), (detail, Self::LONGEST_DETAIL)] {
            if let Some(text) = text {
                clip(text, limit);
            }
        }
    }

    /// Are they alike but for their times?
    fn says_the_same(&self, other: &Self) -> bool {
        let Self { reason, class, initiator, leg, after: _, rule, observed, detail } = self;
        (*reason, *class, *initiator, *leg) == (other.reason, other.class, other.initiator, other.leg)
            && (rule, observed, detail) == (&other.rule, &other.observed, &other.detail)
    }

    fn is_on_hop(&self) -> bool {
        self.leg == Some(LegName::Hop) && self.class == Class::Consequence
    }
}

impl Rule {
    /// Bytes of a name, and of a limit.
    pub const LONGEST_NAME: usize = 64;
    /// Bytes of the place where the value was written.
    pub const LONGEST_SOURCE: usize = 200;
}

impl End {
    /// More observations than this are not evidence, they are noise.
    pub const MAX_OBSERVATIONS: usize = 16;

    /// The observation that counts, and how the hop stood before it: the first hard one, else the first
    /// orderly one. What comes after a hop reset does not count, unless nothing else was seen before it.
    pub fn key(&self) -> Option<(&Observation, HopState)> {
        let hard = self.first(Class::is_hard);
        let orderly = self.first(|class| class == Class::Orderly);
        let before_reset = |found: &(_, HopState)| found.1 != HopState::Reset;
        hard.filter(before_reset).or_else(|| orderly.filter(before_reset)).or(hard).or(orderly)
    }

    /// Is all the same that a cause is made of? When things were seen, and how many bytes had passed, is not.
    pub(crate) fn tells_the_same(&self, other: &Self) -> bool {
        self.phase == other.phase
            && self.suspended == other.suspended
            && self.observations.len() == other.observations.len()
            && self.observations.iter().zip(&other.observations).all(|(one, other)| one.says_the_same(other))
    }

    /// How the hop stood at the end.
    pub fn hop_state(&self) -> HopState {
        self.observations.iter().fold(HopState::Open, after)
    }

    fn first(&self, wanted: impl Fn(Class) -> bool) -> Option<(&Observation, HopState)> {
        let mut hop = HopState::Open;
        for observation in &self.observations {
            if wanted(observation.class) {
                return Some((observation, hop));
            }
            hop = after(hop, observation);
        }
        None
    }
}

/// Clips at a character's boundary.
fn clip(text: &mut Box<str>, limit: usize) {
    if text.len() > limit {
        *text = text[..text.floor_char_boundary(limit)].into();
    }
}

/// The hop's state after one more observation; a reset is final.
fn after(before: HopState, observation: &Observation) -> HopState {
    match observation.reason {
        Reason::HopReset if observation.is_on_hop() => HopState::Reset,
        Reason::HopClosed if observation.is_on_hop() => before.min(HopState::Fin),
        _ => before,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(reasons: &[Reason]) -> End {
        let observe = |reason: &Reason| {
            let hop = matches!(reason, Reason::HopReset | Reason::HopClosed);
            Observation::new(Role::Front, *reason, hop.then_some(LegName::Hop), Duration::ZERO)
        };
        End {
            phase: Phase::Relaying,
            observations: reasons.iter().map(observe).collect(),
            suspended: Duration::ZERO,
            hop: HopCount::default(),
            undelivered: 0,
            at: Wall(0),
            age: Duration::ZERO,
        }
    }

    fn key(reasons: &[Reason]) -> Option<(Reason, HopState)> {
        end(reasons).key().map(|(observation, hop)| (observation.reason, hop))
    }

    #[test]
    fn hard_evidence_counts_before_an_earlier_fin() {
        use Reason::*;
        assert_eq!(key(&[ClientClosed, HalfCloseTimeout]), Some((HalfCloseTimeout, HopState::Open)));
        assert_eq!(key(&[ClientClosed, HopClosed, ClientReset]), Some((ClientReset, HopState::Fin)));
        assert_eq!(key(&[ClientClosed, HopClosed]), Some((ClientClosed, HopState::Open)));
        assert_eq!(key(&[HopClosed, ClientClosed]), Some((ClientClosed, HopState::Fin)));
    }

    #[test]
    fn what_follows_a_hop_reset_yields_to_what_came_before_it() {
        use Reason::*;
        assert_eq!(key(&[ClientClosed, HopReset, ClientReset]), Some((ClientClosed, HopState::Open)));
        assert_eq!(key(&[HopReset, ClientReset]), Some((ClientReset, HopState::Reset)));
        assert_eq!(key(&[HopReset]), None);
        assert_eq!(end(&[HopClosed, HopReset, HopClosed]).hop_state(), HopState::Reset);
    }
}
