//! What was seen and how it ended: observations, ends, terminations, settlements.
//!
//! *Owns* these messages in both directions. *Never* drops an enum number that can be kept: a reason or phase
//! that this build does not know is shown by its number and ranks by the class that travelled with it.
//! *Invariant*: the evidence that decides a root cause (order, class, reason, leg) is never clipped.

use ledger::{
    Class, End, HopCount, Initiator, LegName, Observation, Phase, Reason, Role, Rule, SettledFrom,
    Settlement, Termination,
};

use super::scalar::{
    clip, count, duration, list, optional_text, read_duration, read_text, read_timestamp, required, timestamp,
};
use super::{Fault, Malformed};
use crate::proto::admin::v1 as wire;

/// Bytes of an observation's detail.
pub(crate) const DETAIL: usize = 200;
/// Bytes of a rule's name or limit, or of what was observed.
const SHORT: usize = 64;
/// Bytes of the place that a value was written.
const SOURCE: usize = 200;
/// Bytes of a sentence.
const SENTENCE: usize = 800;
/// Bytes of a link of a chain, or of a piece of late evidence.
const LINK: usize = 160;
/// Links of a chain: what both halves may have seen, and a suspension of each.
const LINKS: usize = 2 * End::MAX_OBSERVATIONS + 2;
/// Pieces of late evidence.
const LATE: usize = 16;

/// A phase's number; unspecified is an error, unknown numbers are kept.
pub(crate) fn read_phase(number: i32, field: &'static str) -> Result<Phase, Malformed> {
    match u8::try_from(number) {
        Ok(0) => Err(Fault::Missing.of(field)),
        Ok(number) => Ok(Phase::from_number(number)),
        Err(_) => Err(Fault::Number(number.into()).of(field)),
    }
}

/// A reason's number; unspecified is an error, unknown numbers are kept.
pub(crate) fn read_reason(number: i32, field: &'static str) -> Result<Reason, Malformed> {
    match u16::try_from(number) {
        Ok(0) => Err(Fault::Missing.of(field)),
        Ok(number) => Ok(Reason::from_number(number)),
        Err(_) => Err(Fault::Number(number.into()).of(field)),
    }
}

/// An initiator's number; one that is not known is shown as the peer's loss.
pub(crate) fn read_initiator(number: i32) -> Initiator {
    Initiator::from_number(u8::try_from(number).unwrap_or(0))
}

fn read_class(number: i32) -> Class {
    Class::from_number(u8::try_from(number).unwrap_or(0))
}

/// A leg's number; unspecified and unknown are none.
pub(crate) fn read_leg(number: i32) -> Option<LegName> {
    u8::try_from(number).ok().and_then(LegName::from_number)
}

/// A leg's number; none is unspecified.
pub(crate) fn leg(leg: Option<LegName>) -> i32 {
    leg.map_or(0, |leg| leg as i32)
}

/// A role's number.
pub(crate) const fn role(role: Role) -> i32 {
    match role {
        Role::Front => wire::Role::Front as i32,
        Role::Inner => wire::Role::Inner as i32,
    }
}

/// A role; there is no third.
pub(crate) fn read_role(number: i32, field: &'static str) -> Result<Role, Malformed> {
    match wire::Role::try_from(number) {
        Ok(wire::Role::Front) => Ok(Role::Front),
        Ok(wire::Role::Inner) => Ok(Role::Inner),
        _ => Err(Fault::Number(number.into()).of(field)),
    }
}

fn rule(rule: &Rule) -> wire::Rule {
    wire::Rule {
        name: clip(&rule.name, SHORT),
        limit: clip(&rule.limit, SHORT),
        source: clip(&rule.source, SOURCE),
    }
}

fn read_rule(rule: wire::Rule) -> Result<Rule, Malformed> {
    Ok(Rule {
        name: read_text(rule.name, "rule.name")?,
        limit: read_text(rule.limit, "rule.limit")?,
        source: read_text(rule.source, "rule.source")?,
    })
}

pub(crate) fn observation(seen: &Observation) -> wire::Observation {
    wire::Observation {
        reason: seen.reason.number().into(),
        evidence_class: seen.class as i32,
        initiator: seen.initiator as i32,
        leg: leg(seen.leg),
        after: Some(duration(seen.after)),
        rule: seen.rule.as_ref().map(rule),
        observed: seen.observed.as_deref().map(|text| clip(text, SHORT)),
        detail: seen.detail.as_deref().map(|text| clip(text, DETAIL)),
    }
}

fn read_observation(seen: wire::Observation) -> Result<Observation, Malformed> {
    Ok(Observation {
        reason: read_reason(seen.reason, "observation.reason")?,
        class: read_class(seen.evidence_class),
        initiator: read_initiator(seen.initiator),
        leg: read_leg(seen.leg),
        after: read_duration(seen.after, "observation.after")?,
        rule: seen.rule.map(read_rule).transpose()?,
        observed: optional_text(seen.observed, "observation.observed")?,
        detail: optional_text(seen.detail, "observation.detail")?,
    })
}

/// A half's account of its end.
pub(crate) fn end(end: &End) -> wire::End {
    wire::End {
        phase: end.phase.number().into(),
        observations: end.observations.iter().map(observation).collect(),
        suspended: Some(duration(end.suspended)),
        hop: Some(wire::HopCount {
            sent_bytes: end.hop.sent,
            received_bytes: end.hop.received,
            read_to_eof: end.hop.read_to_eof,
        }),
        undelivered_bytes: end.undelivered,
        ended_at: Some(timestamp(end.at)),
        age: Some(duration(end.age)),
    }
}

/// The same, read.
pub(crate) fn read_end(end: wire::End) -> Result<End, Malformed> {
    let hop = required(end.hop, "end.hop")?;
    Ok(End {
        phase: read_phase(end.phase, "end.phase")?,
        observations: list(end.observations, End::MAX_OBSERVATIONS, "end.observations", read_observation)?,
        suspended: read_duration(end.suspended, "end.suspended")?,
        hop: HopCount {
            sent: count(hop.sent_bytes, "end.hop.sent_bytes")?,
            received: count(hop.received_bytes, "end.hop.received_bytes")?,
            read_to_eof: hop.read_to_eof,
        },
        undelivered: count(end.undelivered_bytes, "end.undelivered_bytes")?,
        at: read_timestamp(end.ended_at, "end.ended_at")?,
        age: read_duration(end.age, "end.age")?,
    })
}

/// A cause.
pub(crate) fn termination(cause: &Termination) -> wire::Termination {
    wire::Termination {
        reason: cause.reason.number().into(),
        evidence_class: cause.class as i32,
        initiator: cause.initiator as i32,
        phase: cause.phase.number().into(),
        side: leg(cause.side),
        rule: cause.rule.as_ref().map(rule),
        observed: cause.observed.as_deref().map(|text| clip(text, SHORT)),
        evidence: cause.evidence.as_deref().map(|text| clip(text, DETAIL)),
        sentence: clip(&cause.sentence, SENTENCE),
        chain: cause.chain.iter().take(LINKS).map(|link| clip(link, LINK)).collect(),
    }
}

fn read_termination(cause: wire::Termination) -> Result<Termination, Malformed> {
    Ok(Termination {
        reason: read_reason(cause.reason, "termination.reason")?,
        class: read_class(cause.evidence_class),
        initiator: read_initiator(cause.initiator),
        phase: read_phase(cause.phase, "termination.phase")?,
        side: read_leg(cause.side),
        rule: cause.rule.map(read_rule).transpose()?,
        observed: optional_text(cause.observed, "termination.observed")?,
        evidence: optional_text(cause.evidence, "termination.evidence")?,
        sentence: read_text(cause.sentence, "termination.sentence")?,
        chain: list(cause.chain, LINKS, "termination.chain", |link| read_text(link, "termination.chain"))?,
    })
}

/// A cause and what came after it.
pub(crate) fn settlement(settlement: &Settlement) -> wire::Settlement {
    let from = match settlement.from {
        SettledFrom::Both => wire::SettledFrom::Both,
        SettledFrom::Alone => wire::SettledFrom::Alone,
        SettledFrom::Only => wire::SettledFrom::Only,
    };
    wire::Settlement {
        cause: Some(termination(&settlement.cause)),
        settled_from: from.into(),
        late_evidence: settlement.late.iter().take(LATE).map(|late| clip(late, LINK)).collect(),
    }
}

/// The cause as a record shows it: what came after settlement is at the end of the chain.
pub(crate) fn ended_by(settlement: &Settlement) -> wire::Termination {
    let mut ended = termination(&settlement.cause);
    let late = settlement.late.iter().take(LATE).map(|late| clip(late, LINK));
    ended.chain.extend(late.map(|late| format!("{late} (later)")));
    ended
}

/// The same, read.
pub(crate) fn read_settlement(settlement: wire::Settlement) -> Result<Settlement, Malformed> {
    let from = match wire::SettledFrom::try_from(settlement.settled_from) {
        Ok(wire::SettledFrom::Both) => SettledFrom::Both,
        Ok(wire::SettledFrom::Alone) => SettledFrom::Alone,
        Ok(wire::SettledFrom::Only) => SettledFrom::Only,
        _ => return Err(Fault::Number(settlement.settled_from.into()).of("settlement.settled_from")),
    };
    Ok(Settlement {
        cause: read_termination(required(settlement.cause, "settlement.cause")?)?,
        from,
        late: list(settlement.late_evidence, LATE, "settlement.late_evidence", |late| {
            read_text(late, "settlement.late_evidence")
        })?,
    })
}
