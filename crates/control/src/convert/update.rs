//! A half's changes as they travel.
//!
//! *Owns* `HalfUpdate`, `HalfProgress` and what they are made of; both are written to bytes and read from them without a
//! copy in between, as nothing else is said so often. *Never* sends the instance of a half: it is the session's peer's,
//! so a peer cannot speak of another's halves. *Invariant*: applying what was read back gives the same half as applying
//! the original.

use std::sync::Arc;

use ledger::{
    Armed, Attempt, DeadlineName, HalfKey, HalfUpdate, InstanceId, LogEntry, MeterTotal, Nanos, Restart,
    Role, TrafficTotals,
};
use prost::bytes::Bytes;

use super::ends::{leg_number, read_end, read_leg, read_phase, read_settlement, write_end, write_settlement};
use super::groups::{
    read_accept, read_hop, read_routing, read_target, read_tls, write_accept, write_hop, write_routing,
    write_target, write_tls,
};
use super::known::Known;
use super::scalar::{clipped, count, duration_of, id_of, push, required, text_of, write_duration};
use super::{Fault, Malformed};
use crate::wire::{Fields, Writer};

/// Entries of a phase log in one update; a half keeps twice [`ledger::Half::LOG_HEAD`].
const LOG: usize = 64;
/// Deadlines of one half.
const ARMED: usize = 32;
/// Bytes of the place that a deadline's value was written.
const SOURCE: usize = 200;

/// Every element, of about `each` bytes, as `write` writes it: in one allocation.
pub(super) fn written<T>(elements: &[T], each: usize, write: impl Fn(&mut Writer, &T)) -> Vec<Bytes> {
    let mut writer = Writer::with_capacity(elements.len() * each);
    let ends: Vec<usize> = elements
        .iter()
        .map(|element| {
            write(&mut writer, element);
            writer.len()
        })
        .collect();
    let whole = Bytes::from(writer.into_bytes());
    let mut from = 0;
    ends.into_iter().map(|to| whole.slice(std::mem::replace(&mut from, to)..to)).collect()
}

/// A half's changes.
pub(super) fn write_update(writer: &mut Writer, update: &HalfUpdate) {
    writer.number(1, update.seq);
    writer.shown(2, update.key.connection);
    writer.number(3, update.key.attempt.0);
    if update.role == Role::Inner {
        writer.shown(4, update.front_instance);
    }
    writer.number(5, update.opened_seq);
    if let Some(accept) = &update.accept {
        writer.message(6, |writer| write_accept(writer, accept));
    }
    if let Some(routing) = &update.routing {
        writer.message(7, |writer| write_routing(writer, routing));
    }
    if let Some(hop) = &update.hop {
        writer.message(8, |writer| write_hop(writer, hop));
    }
    if let Some(tls) = &update.tls {
        writer.message(9, |writer| write_tls(writer, tls));
    }
    if let Some(target) = &update.target {
        writer.message(10, |writer| write_target(writer, target));
    }
    writer.number(11, update.phase.number());
    writer.number(12, leg_number(update.half_closed));
    for entry in &update.log {
        writer.message(13, |writer| write_entry(writer, entry));
    }
    writer.number(14, update.log_dropped);
    for armed in &*update.armed {
        writer.message(15, |writer| write_armed(writer, armed));
    }
    writer.message(16, |writer| write_traffic(writer, &update.traffic));
    if let Some(end) = &update.end {
        writer.message(17, |writer| write_end(writer, end));
    }
    if let Some(settlement) = &update.settlement {
        writer.message(18, |writer| write_settlement(writer, settlement));
    }
}

/// Reads an update that `sender` sent.
pub(super) fn read_update(
    bytes: &[u8],
    sender: InstanceId,
    known: &mut Known,
) -> Result<HalfUpdate, Malformed> {
    let mut update = empty(sender);
    let (mut connection, mut phase, mut traffic) = (None, 0, None);
    let mut armed = Vec::new();
    let mut fields = Fields::of(bytes, "half");
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => update.seq = value.number("half.seq")?,
            2 => connection = Some(id_of(value, "half.connection_id")?),
            3 => update.key.attempt = Attempt(value.number("half.attempt")?),
            4 => {
                update.role = Role::Inner;
                update.front_instance = id_of(value, "half.front_instance_id")?;
            }
            5 => update.opened_seq = value.number("half.opened_seq")?,
            6 => update.accept = Some(read_accept(value.fields("half.accept")?, known)?),
            7 => update.routing = Some(read_routing(value.bytes("half.routing")?, known)?),
            8 => update.hop = Some(Arc::new(read_hop(value.fields("half.hop")?)?)),
            9 => update.tls = Some(read_tls(value.bytes("half.tls")?, known)?),
            10 => update.target = Some(read_target(value.fields("half.target")?, known)?),
            11 => phase = value.enumeration("half.phase")?,
            12 => update.half_closed = read_leg(value.enumeration("half.half_closed")?),
            13 => push(&mut update.log, LOG, "half.log", read_entry(value.fields("half.log")?)?)?,
            14 => update.log_dropped = value.number32("half.log_dropped")?,
            15 => {
                let field = "half.armed";
                push(&mut armed, ARMED, field, read_armed(value.fields(field)?, known)?)?;
            }
            16 => traffic = Some(read_traffic(value.fields("half.traffic")?)?),
            17 => update.end = Some(Arc::new(read_end(value.fields("half.end")?)?)),
            18 => update.settlement = Some(read_settlement(value.bytes("half.settlement")?, known)?),
            _ => {}
        }
    }
    update.key.connection = connection.ok_or(Fault::Id.of("half.connection_id"))?;
    update.phase = read_phase(phase, "half.phase")?;
    update.traffic = required(traffic, "half.traffic")?;
    if !armed.is_empty() {
        update.armed = armed.into_iter().flatten().collect();
    }
    Ok(update)
}

/// A live half's counts, between changes.
pub(super) fn write_progress(writer: &mut Writer, (key, totals): &(HalfKey, TrafficTotals)) {
    writer.shown(1, key.connection);
    writer.number(2, key.attempt.0);
    writer.message(3, |writer| write_traffic(writer, totals));
}

/// The same, read, of a half of `sender`.
pub(super) fn read_progress(bytes: &[u8], sender: InstanceId) -> Result<(HalfKey, TrafficTotals), Malformed> {
    let (mut connection, mut attempt, mut traffic) = (None, Attempt(0), None);
    let mut fields = Fields::of(bytes, "progress");
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => connection = Some(id_of(value, "progress.connection_id")?),
            2 => attempt = Attempt(value.number("progress.attempt")?),
            3 => traffic = Some(read_traffic(value.fields("progress.traffic")?)?),
            _ => {}
        }
    }
    let connection = connection.ok_or(Fault::Id.of("progress.connection_id"))?;
    Ok((HalfKey { connection, instance: sender, attempt }, required(traffic, "progress.traffic")?))
}

/// What an update without any field would say, if it could: a front half of `sender`.
fn empty(sender: InstanceId) -> HalfUpdate {
    HalfUpdate {
        seq: 0,
        key: HalfKey::front(ledger::ConnectionId(0), sender),
        role: Role::Front,
        front_instance: sender,
        opened_seq: 0,
        accept: None,
        routing: None,
        hop: None,
        tls: None,
        target: None,
        phase: ledger::Phase::Accepted,
        half_closed: None,
        log: Vec::new(),
        log_dropped: 0,
        armed: Arc::default(),
        traffic: TrafficTotals::default(),
        end: None,
        settlement: None,
    }
}

fn write_entry(writer: &mut Writer, entry: &LogEntry) {
    writer.number(1, entry.seq);
    writer.number(2, entry.phase.number());
    write_duration(writer, 3, entry.after.into());
}

fn read_entry(mut fields: Fields<'_>) -> Result<LogEntry, Malformed> {
    let (mut seq, mut phase, mut after) = (0, 0, None);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => seq = value.number("half.log.seq")?,
            2 => phase = value.enumeration("half.log.phase")?,
            3 => after = Some(duration_of(value, "half.log.after")?),
            _ => {}
        }
    }
    let phase = read_phase(phase, "half.log.phase")?;
    Ok(LogEntry { seq, phase, after: required(after, "half.log.after")?.into() })
}

fn write_armed(writer: &mut Writer, armed: &Armed) {
    writer.text(1, armed.name.name());
    write_duration(writer, 2, armed.limit);
    writer.text(3, clipped(&armed.source, SOURCE));
    write_duration(writer, 4, armed.since);
    writer.flag(5, armed.restart == Restart::OnBytes);
}

/// `None` for a deadline that this build does not know: it cannot be shown as one of ours.
fn read_armed(mut fields: Fields<'_>, known: &mut Known) -> Result<Option<Armed>, Malformed> {
    let (mut name, mut source) = ("", "");
    let (mut limit, mut since) = (None, None);
    let mut restart = Restart::Never;
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => name = text_of(value, "half.armed.name")?,
            2 => limit = Some(duration_of(value, "half.armed.limit")?),
            3 => source = text_of(value, "half.armed.source")?,
            4 => since = Some(duration_of(value, "half.armed.since")?),
            5 if value.flag("half.armed.restarts_on_bytes")? => restart = Restart::OnBytes,
            _ => {}
        }
    }
    let Some(name) = DeadlineName::ALL.into_iter().find(|known| known.name() == name) else {
        return Ok(None);
    };
    Ok(Some(Armed {
        name,
        limit: required(limit, "half.armed.limit")?,
        source: known.texts.text(source),
        since: required(since, "half.armed.since")?,
        restart,
    }))
}

fn write_traffic(writer: &mut Writer, totals: &TrafficTotals) {
    // Client, hop, target; in and out of each.
    for (field, MeterTotal { bytes, last }) in (1..).zip(totals.meters.iter().flatten()) {
        if *bytes != 0 || last.0 != 0 {
            writer.message(field, |writer| {
                writer.number(1, *bytes);
                writer.number(2, last.0);
            });
        }
    }
    writer.number(7, totals.requests_started);
    writer.number(8, totals.requests_finished);
}

fn read_traffic(mut fields: Fields<'_>) -> Result<TrafficTotals, Malformed> {
    let mut totals = TrafficTotals::default();
    while let Some((number, value)) = fields.next()? {
        match number {
            1..=6 => {
                let leg = (number as usize - 1) / 2;
                let direction = (number as usize - 1) % 2;
                totals.meters[leg][direction] = read_meter(value.fields("traffic.meter")?)?;
            }
            7 => {
                let field = "traffic.requests_started";
                totals.requests_started = count(value.number(field)?, field)?;
            }
            8 => {
                let field = "traffic.requests_finished";
                totals.requests_finished = count(value.number(field)?, field)?;
            }
            _ => {}
        }
    }
    Ok(totals)
}

fn read_meter(mut fields: Fields<'_>) -> Result<MeterTotal, Malformed> {
    let (mut bytes, mut last_nanos) = (0, 0);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => bytes = value.number("traffic.bytes")?,
            2 => last_nanos = value.number("traffic.last_nanos")?,
            _ => {}
        }
    }
    Ok(MeterTotal { bytes: count(bytes, "traffic.bytes")?, last: Nanos(last_nanos) })
}
