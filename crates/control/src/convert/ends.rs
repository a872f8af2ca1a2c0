//! What was seen and how it ended: observations, ends, terminations, settlements.
//!
//! *Owns* these messages in both directions: as a record shows them, and as they travel. *Never* drops an enum
//! number that can be kept: a reason or phase that this build does not know is shown by its number and ranks by
//! the class that travelled with it. *Invariant*: the evidence that decides a root cause (order, class, reason,
//! leg) is never clipped.

use std::sync::Arc;

use ledger::{
    Class, End, HopCount, Initiator, LegName, Observation, Phase, Reason, Role, Rule, SettledFrom,
    Settlement, Termination,
};

use super::known::Known;
use super::scalar::{
    clip, clipped, count, duration, duration_of, push, required, text_of, timestamp, timestamp_of,
    write_duration, write_optional_text, write_timestamp,
};
use super::{Fault, Malformed};
use crate::proto::admin::v1 as wire;
use crate::wire::{Fields, Writer};

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
    leg_number(leg).into()
}

/// The same, as it travels.
pub(super) fn leg_number(leg: Option<LegName>) -> u8 {
    leg.map_or(0, |leg| leg as u8)
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

fn write_rule(writer: &mut Writer, field: u32, rule: &Rule) {
    writer.message(field, |writer| {
        writer.text(1, clipped(&rule.name, SHORT));
        writer.text(2, clipped(&rule.limit, SHORT));
        writer.text(3, clipped(&rule.source, SOURCE));
    });
}

fn read_rule(mut fields: Fields<'_>) -> Result<Rule, Malformed> {
    let (mut name, mut limit, mut source) = ("", "", "");
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => name = text_of(value, "rule.name")?,
            2 => limit = text_of(value, "rule.limit")?,
            3 => source = text_of(value, "rule.source")?,
            _ => {}
        }
    }
    Ok(Rule { name: name.into(), limit: limit.into(), source: source.into() })
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

/// As [`observation`], into a half that travels.
fn write_observation(writer: &mut Writer, seen: &Observation) {
    writer.number(1, seen.reason.number());
    writer.number(2, seen.class as u8);
    writer.number(3, seen.initiator as u8);
    writer.number(4, leg_number(seen.leg));
    write_duration(writer, 5, seen.after);
    if let Some(rule) = &seen.rule {
        write_rule(writer, 6, rule);
    }
    write_optional_text(writer, 7, seen.observed.as_deref(), SHORT);
    write_optional_text(writer, 8, seen.detail.as_deref(), DETAIL);
}

fn read_observation(mut fields: Fields<'_>) -> Result<Observation, Malformed> {
    let (mut reason, mut class, mut initiator, mut leg, mut after) = (0, 0, 0, 0, None);
    let (mut rule, mut observed, mut detail) = (None, None, None);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => reason = value.enumeration("observation.reason")?,
            2 => class = value.enumeration("observation.evidence_class")?,
            3 => initiator = value.enumeration("observation.initiator")?,
            4 => leg = value.enumeration("observation.leg")?,
            5 => after = Some(duration_of(value, "observation.after")?),
            6 => rule = Some(read_rule(value.fields("observation.rule")?)?),
            7 => observed = Some(text_of(value, "observation.observed")?.into()),
            8 => detail = Some(text_of(value, "observation.detail")?.into()),
            _ => {}
        }
    }
    Ok(Observation {
        reason: read_reason(reason, "observation.reason")?,
        class: read_class(class),
        initiator: read_initiator(initiator),
        leg: read_leg(leg),
        after: required(after, "observation.after")?,
        rule,
        observed,
        detail,
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

/// As [`end`], into a half that travels.
pub(super) fn write_end(writer: &mut Writer, end: &End) {
    writer.number(1, end.phase.number());
    for seen in &end.observations {
        writer.message(2, |writer| write_observation(writer, seen));
    }
    write_duration(writer, 3, end.suspended);
    writer.message(4, |writer| {
        writer.number(1, end.hop.sent);
        writer.number(2, end.hop.received);
        writer.flag(3, end.hop.read_to_eof);
    });
    writer.number(5, end.undelivered);
    write_timestamp(writer, 6, end.at);
    write_duration(writer, 7, end.age);
}

/// The same, read.
pub(super) fn read_end(mut fields: Fields<'_>) -> Result<End, Malformed> {
    let mut phase = 0;
    let mut observations = Vec::new();
    let (mut suspended, mut hop, mut undelivered, mut at, mut age) = (None, None, 0, None, None);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => phase = value.enumeration("end.phase")?,
            2 => {
                let field = "end.observations";
                let seen = read_observation(value.fields(field)?)?;
                push(&mut observations, End::MAX_OBSERVATIONS, field, seen)?;
            }
            3 => suspended = Some(duration_of(value, "end.suspended")?),
            4 => hop = Some(read_hop_count(value.fields("end.hop")?)?),
            5 => undelivered = value.number("end.undelivered_bytes")?,
            6 => at = Some(timestamp_of(value, "end.ended_at")?),
            7 => age = Some(duration_of(value, "end.age")?),
            _ => {}
        }
    }
    Ok(End {
        hop: required(hop, "end.hop")?,
        phase: read_phase(phase, "end.phase")?,
        observations,
        suspended: required(suspended, "end.suspended")?,
        undelivered: count(undelivered, "end.undelivered_bytes")?,
        at: required(at, "end.ended_at")?,
        age: required(age, "end.age")?,
    })
}

fn read_hop_count(mut fields: Fields<'_>) -> Result<HopCount, Malformed> {
    let mut hop = HopCount::default();
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => hop.sent = count(value.number("end.hop.sent_bytes")?, "end.hop.sent_bytes")?,
            2 => hop.received = count(value.number("end.hop.received_bytes")?, "end.hop.received_bytes")?,
            3 => hop.read_to_eof = value.flag("end.hop.read_to_eof")?,
            _ => {}
        }
    }
    Ok(hop)
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

/// As [`termination`], into a half that travels.
fn write_termination(writer: &mut Writer, cause: &Termination) {
    writer.number(1, cause.reason.number());
    writer.number(2, cause.class as u8);
    writer.number(3, cause.initiator as u8);
    writer.number(4, cause.phase.number());
    writer.number(5, leg_number(cause.side));
    if let Some(rule) = &cause.rule {
        write_rule(writer, 6, rule);
    }
    write_optional_text(writer, 7, cause.observed.as_deref(), SHORT);
    write_optional_text(writer, 8, cause.evidence.as_deref(), DETAIL);
    writer.text(9, clipped(&cause.sentence, SENTENCE));
    for link in cause.chain.iter().take(LINKS) {
        writer.present_text(10, clipped(link, LINK));
    }
}

fn read_termination(mut fields: Fields<'_>) -> Result<Termination, Malformed> {
    let (mut reason, mut class, mut initiator, mut phase, mut side) = (0, 0, 0, 0, 0);
    let (mut rule, mut observed, mut evidence) = (None, None, None);
    let mut sentence = "";
    let mut chain = Vec::new();
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => reason = value.enumeration("termination.reason")?,
            2 => class = value.enumeration("termination.evidence_class")?,
            3 => initiator = value.enumeration("termination.initiator")?,
            4 => phase = value.enumeration("termination.phase")?,
            5 => side = value.enumeration("termination.side")?,
            6 => rule = Some(read_rule(value.fields("termination.rule")?)?),
            7 => observed = Some(text_of(value, "termination.observed")?.into()),
            8 => evidence = Some(text_of(value, "termination.evidence")?.into()),
            9 => sentence = text_of(value, "termination.sentence")?,
            10 => {
                let field = "termination.chain";
                push(&mut chain, LINKS, field, text_of(value, field)?.into())?;
            }
            _ => {}
        }
    }
    Ok(Termination {
        reason: read_reason(reason, "termination.reason")?,
        class: read_class(class),
        initiator: read_initiator(initiator),
        phase: read_phase(phase, "termination.phase")?,
        side: read_leg(side),
        rule,
        observed,
        evidence,
        sentence: sentence.into(),
        chain,
    })
}

const fn settled_from(from: SettledFrom) -> wire::SettledFrom {
    match from {
        SettledFrom::Both => wire::SettledFrom::Both,
        SettledFrom::Alone => wire::SettledFrom::Alone,
        SettledFrom::Only => wire::SettledFrom::Only,
    }
}

/// A cause and what came after it.
pub(crate) fn settlement(settlement: &Settlement) -> wire::Settlement {
    wire::Settlement {
        cause: Some(termination(&settlement.cause)),
        settled_from: settled_from(settlement.from).into(),
        late_evidence: settlement.late.iter().take(LATE).map(|late| clip(late, LINK)).collect(),
    }
}

/// As [`settlement`], into a half that travels.
pub(super) fn write_settlement(writer: &mut Writer, settlement: &Settlement) {
    writer.message(1, |writer| write_termination(writer, &settlement.cause));
    writer.number(2, settled_from(settlement.from) as u8);
    for late in settlement.late.iter().take(LATE) {
        writer.present_text(3, clipped(late, LINK));
    }
}

/// The same, read. Most connections end like others before them.
pub(super) fn read_settlement(bytes: &[u8], known: &mut Known) -> Result<Arc<Settlement>, Malformed> {
    known.settlements.get(bytes, || read_new_settlement(bytes).map(Arc::new))
}

fn read_new_settlement(bytes: &[u8]) -> Result<Settlement, Malformed> {
    let mut fields = Fields::of(bytes, "half.settlement");
    let (mut cause, mut from, mut late) = (None, 0, Vec::new());
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => cause = Some(read_termination(value.fields("settlement.cause")?)?),
            2 => from = value.enumeration("settlement.settled_from")?,
            3 => {
                let field = "settlement.late_evidence";
                push(&mut late, LATE, field, text_of(value, field)?.into())?;
            }
            _ => {}
        }
    }
    let from = match wire::SettledFrom::try_from(from) {
        Ok(wire::SettledFrom::Both) => SettledFrom::Both,
        Ok(wire::SettledFrom::Alone) => SettledFrom::Alone,
        Ok(wire::SettledFrom::Only) => SettledFrom::Only,
        _ => return Err(Fault::Number(from.into()).of("settlement.settled_from")),
    };
    Ok(Settlement { cause: required(cause, "settlement.cause")?, from, late })
}

/// The cause as a record shows it: what came after settlement is at the end of the chain.
pub(crate) fn ended_by(settlement: &Settlement) -> wire::Termination {
    let mut ended = termination(&settlement.cause);
    let late = settlement.late.iter().take(LATE).map(|late| clip(late, LINK));
    ended.chain.extend(late.map(|late| format!("{late} (later)")));
    ended
}
