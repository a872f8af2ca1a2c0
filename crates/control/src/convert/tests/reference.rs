//! The same halves in prost's types: what `convert::update` writes has to be what prost would write.

use ledger::{Armed, Direction, HalfUpdate, LegName, LogEntry, MeterTotal, Restart, Role, TrafficTotals};

use crate::convert::ends::{end, leg, settlement};
use crate::convert::groups::{accept, hop, routing, target, tls};
use crate::convert::scalar::{clip, duration};
use crate::proto::control::v1 as wire;

/// Bytes of the place that a deadline's value was written.
const SOURCE: usize = 200;

pub(super) fn update(update: &HalfUpdate) -> wire::HalfUpdate {
    wire::HalfUpdate {
        seq: update.seq,
        connection_id: update.key.connection.to_string(),
        attempt: update.key.attempt.0,
        front_instance_id: (update.role == Role::Inner).then(|| update.front_instance.to_string()),
        opened_seq: update.opened_seq,
        accept: update.accept.as_deref().map(accept),
        routing: update.routing.as_deref().map(routing),
        hop: update.hop.as_deref().map(hop),
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

fn entry(entry: &LogEntry) -> wire::PhaseEntry {
    wire::PhaseEntry {
        seq: entry.seq,
        phase: entry.phase.number().into(),
        after: Some(duration(entry.after.into())),
    }
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

pub(super) fn traffic(totals: &TrafficTotals) -> wire::Traffic {
    let meter = |leg, direction| {
        let MeterTotal { bytes, last } = totals.meter(leg, direction);
        (bytes != 0 || last.0 != 0).then_some(wire::Meter { bytes, last_nanos: last.0 })
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
