//! A half's changes as they travel.
//!
//! *Owns* `HalfUpdate`, `HalfProgress` and what they are made of. *Never* sends the instance of a half: it is
//! the session's peer's, so a peer cannot speak of another's halves. *Invariant*: applying what was read back
//! gives the same half as applying the original.

use std::sync::Arc;
use std::time::Duration;

use ledger::{
    Armed, Attempt, DeadlineName, Direction, HalfKey, HalfUpdate, InstanceId, LegName, LogEntry, MeterTotal,
    Restart, Role, TrafficTotals,
};

use super::Malformed;
use super::ends::{end, leg, read_end, read_leg, read_phase, read_settlement, settlement};
use super::groups::{
    accept, hop, read_accept, read_hop, read_routing, read_target, read_tls, routing, target, tls,
};
use super::scalar::{clip, count, duration, id, list, read_duration, read_text, required};
use crate::proto::control::v1 as wire;

/// Entries of a phase log in one update; a half keeps twice [`ledger::Half::LOG_HEAD`].
const LOG: usize = 64;
/// Deadlines of one half.
const ARMED: usize = 32;
/// Bytes of the place that a deadline's value was written.
const SOURCE: usize = 200;

pub(crate) fn update(update: &HalfUpdate) -> wire::HalfUpdate {
    wire::HalfUpdate {
        seq: update.seq,
        connection_id: update.key.connection.to_string(),
        attempt: update.key.attempt.0,
        front_instance_id: (update.role == Role::Inner).then(|| update.front_instance.to_string()),
        opened_seq: update.opened_seq,
        accept: update.accept.as_deref().map(accept),
        routing: update.routing.as_deref().map(routing),
        hop: update.hop.as_ref().map(hop),
        tls: update.tls.as_deref().map(tls),
        target: update.target.as_deref().map(target),
        phase: update.phase.number().into(),
        half_closed: leg(update.half_closed),
        log: update.log.iter().map(entry).collect(),
        log_dropped: update.log_dropped,
        armed: update.armed.iter().map(armed).collect(),
        traffic: Some(traffic(&update.traffic)),
        end: update.end.as_deref().map(end),
        settlement: update.settlement.as_deref().map(settlement),
    }
}

/// Reads an update that `sender` sent.
pub(crate) fn read_update(update: wire::HalfUpdate, sender: InstanceId) -> Result<HalfUpdate, Malformed> {
    let connection = id(&update.connection_id, "half.connection_id")?;
    let (role, front_instance) = match &update.front_instance_id {
        Some(front) => (Role::Inner, id(front, "half.front_instance_id")?),
        None => (Role::Front, sender),
    };
    let armed = list(update.armed, ARMED, "half.armed", read_armed)?;
    Ok(HalfUpdate {
        seq: update.seq,
        key: HalfKey { connection, instance: sender, attempt: Attempt(update.attempt) },
        role,
        front_instance,
        opened_seq: update.opened_seq,
        accept: update.accept.map(read_accept).transpose()?,
        routing: update.routing.map(read_routing).transpose()?,
        hop: update.hop.map(read_hop).transpose()?,
        tls: update.tls.map(read_tls).transpose()?,
        target: update.target.map(read_target).transpose()?,
        phase: read_phase(update.phase, "half.phase")?,
        half_closed: read_leg(update.half_closed),
        log: list(update.log, LOG, "half.log", |entry| read_entry(&entry))?,
        log_dropped: update.log_dropped,
        armed: armed.into_iter().flatten().collect(),
        traffic: read_traffic(required(update.traffic, "half.traffic")?)?,
        end: update.end.map(read_end).transpose()?.map(Arc::new),
        settlement: update.settlement.map(read_settlement).transpose()?.map(Arc::new),
    })
}

/// A live half's counts, between changes.
pub(crate) fn progress(key: HalfKey, totals: &TrafficTotals) -> wire::HalfProgress {
    wire::HalfProgress {
        connection_id: key.connection.to_string(),
        attempt: key.attempt.0,
        traffic: Some(traffic(totals)),
    }
}

/// The same, read, of a half of `sender`.
pub(crate) fn read_progress(
    progress: &wire::HalfProgress,
    sender: InstanceId,
) -> Result<(HalfKey, TrafficTotals), Malformed> {
    let connection = id(&progress.connection_id, "progress.connection_id")?;
    let key = HalfKey { connection, instance: sender, attempt: Attempt(progress.attempt) };
    Ok((key, read_traffic(required(progress.traffic, "progress.traffic")?)?))
}

fn entry(entry: &LogEntry) -> wire::PhaseEntry {
    wire::PhaseEntry {
        seq: entry.seq,
        phase: entry.phase.number().into(),
        after: Some(duration(entry.after)),
    }
}

fn read_entry(entry: &wire::PhaseEntry) -> Result<LogEntry, Malformed> {
    Ok(LogEntry {
        seq: entry.seq,
        phase: read_phase(entry.phase, "half.log.phase")?,
        after: read_duration(entry.after, "half.log.after")?,
    })
}

fn armed(armed: &Armed) -> wire::ArmedDeadline {
    wire::ArmedDeadline {
        name: armed.name.name().to_owned(),
        limit: Some(duration(armed.limit)),
        source: clip(&armed.source, SOURCE),
        since: Some(duration(armed.since)),
        restarts_on_bytes: armed.restart == Restart::OnBytes,
    }
}

/// `None` for a deadline that this build does not know: it cannot be shown as one of ours.
fn read_armed(armed: wire::ArmedDeadline) -> Result<Option<Armed>, Malformed> {
    let Some(name) = DeadlineName::ALL.into_iter().find(|known| known.name() == armed.name) else {
        return Ok(None);
    };
    Ok(Some(Armed {
        name,
        limit: read_duration(armed.limit, "half.armed.limit")?,
        source: read_text(armed.source, "half.armed.source")?,
        since: read_duration(armed.since, "half.armed.since")?,
        restart: if armed.restarts_on_bytes { Restart::OnBytes } else { Restart::Never },
    }))
}

fn traffic(totals: &TrafficTotals) -> wire::Traffic {
    let meter = |leg, direction| {
        let MeterTotal { bytes, last } = totals.meter(leg, direction);
        let last_nanos = u64::try_from(last.as_nanos()).unwrap_or(u64::MAX);
        (bytes != 0 || last_nanos != 0).then_some(wire::Meter { bytes, last_nanos })
    };
    wire::Traffic {
        client_in: meter(LegName::Client, Direction::In),
        client_out: meter(LegName::Client, Direction::Out),
        hop_in: meter(LegName::Hop, Direction::In),
        hop_out: meter(LegName::Hop, Direction::Out),
        target_in: meter(LegName::Target, Direction::In),
        target_out: meter(LegName::Target, Direction::Out),
        requests_started: totals.requests_started,
        requests_finished: totals.requests_finished,
    }
}

fn read_traffic(traffic: wire::Traffic) -> Result<TrafficTotals, Malformed> {
    let meter = |meter: Option<wire::Meter>| {
        let wire::Meter { bytes, last_nanos } = meter.unwrap_or_default();
        let last = Duration::from_nanos(last_nanos);
        Ok::<_, Malformed>(MeterTotal { bytes: count(bytes, "traffic.bytes")?, last })
    };
    Ok(TrafficTotals {
        meters: [
            [meter(traffic.client_in)?, meter(traffic.client_out)?],
            [meter(traffic.hop_in)?, meter(traffic.hop_out)?],
            [meter(traffic.target_in)?, meter(traffic.target_out)?],
        ],
        requests_started: count(traffic.requests_started, "traffic.requests_started")?,
        requests_finished: count(traffic.requests_finished, "traffic.requests_finished")?,
    })
}
