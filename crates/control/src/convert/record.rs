//! Records as people see them.
//!
//! *Owns* `Connection`, `Half` and the timeline. *Never* reads these back: the admin services only show.
//! *Invariant*: a duration is measured on the clock of the half's own process, or left out.

use std::time::Duration;

use ledger::{Now, Phase, Reason, Role};

use super::ends::{end, ended_by, leg, role, settlement};
use super::groups::{accept, hop, routing, target, tls};
use super::scalar::{duration, timestamp};
use super::tally::bytes;
use crate::admin::record::{HandledBy, Record, Seen, age, shown_phase, traffic};
use crate::directory::Directory;
use crate::proto::admin::v1 as wire;

/// What a record is shown by.
pub(crate) struct Viewer<'a> {
    pub(crate) own: ledger::InstanceId,
    pub(crate) directory: &'a Directory,
    pub(crate) now: Now,
    pub(crate) detail: Detail,
}

/// How much of a record is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// As in a list: no timeline, no route trace.
    Listed,
    /// Everything.
    Whole,
}

impl Viewer<'_> {
    /// One connection.
    pub(crate) fn connection(&self, record: &Record) -> wire::Connection {
        let first = record.first();
        let came = first.map(|seen| &*seen.half.accept.value);
        let (from_client, to_client) = client_bytes(record);
        wire::Connection {
            id: record.id.to_string(),
            phase: record.phase().number().into(),
            handled_by: match record.handled_by() {
                None => wire::HandledBy::Unspecified,
                Some(HandledBy::Smartproxy) => wire::HandledBy::Smartproxy,
                Some(HandledBy::Networkproxy) => wire::HandledBy::Networkproxy,
            }
            .into(),
            accepted_at: came.map(|accept| timestamp(accept.at)),
            age: Some(duration(record.age(self.now))),
            ended_at: record.ended_at().map(timestamp),
            client_address: came.map(|accept| accept.client.to_string()).unwrap_or_default(),
            listener: came.map(|accept| accept.listener.to_string()).unwrap_or_default(),
            server_name: record.routing(|routing| routing.server_name.as_ref()).map(ToString::to_string),
            entry: record.routing(|routing| routing.entry.as_ref()).map(ToString::to_string),
            route: record.routing(|routing| routing.route.as_ref()).map(ToString::to_string),
            bytes_from_client: from_client,
            bytes_to_client: to_client,
            termination: record.settlement().map(ended_by),
            provisional: record.is_provisional(),
            front: record.front.as_ref().map(|seen| self.half(seen)),
            inner: record.inner.as_ref().map(|seen| self.half(seen)),
            superseded: record.superseded.iter().map(|seen| self.half(seen)).collect(),
            timeline: if self.detail == Detail::Whole { timeline(record) } else { Vec::new() },
        }
    }

    fn half(&self, seen: &Seen) -> wire::Half {
        let half = &*seen.half;
        let totals = traffic(seen);
        let live = seen.live;
        let clock = self.clock_of(seen);
        let last = Some(totals.last_activity()).filter(|last| !last.is_zero());
        let began = half.log.last().map(|entry| entry.after);
        let mut shown_routing = half.routing.as_ref().map(|group| routing(&group.value));
        if let Some(routing) = shown_routing.as_mut().filter(|_| self.detail == Detail::Listed) {
            routing.trace = None;
        }
        wire::Half {
            instance_id: half.key.instance.to_string(),
            role: role(half.role),
            attempt: half.key.attempt.0,
            own: half.key.instance == self.own,
            front_instance_id: half.front_instance.to_string(),
            phase: shown_phase(seen).number().into(),
            half_closed: leg(half.half_closed),
            in_phase: began
                .filter(|_| live)
                .map(|began| duration(age(seen, self.now).saturating_sub(began.into()))),
            accept: Some(accept(&half.accept.value)),
            routing: shown_routing,
            hop: half.hop.as_ref().map(|group| hop(&group.value)),
            tls: half.tls.as_ref().map(|group| tls(&group.value)),
            target: half.target.as_ref().map(|group| target(&group.value)),
            bytes: Some(bytes(&totals.meters.map(|leg| leg.map(|meter| meter.bytes)))),
            idle: match (clock, last) {
                (Some(clock), Some(last)) if live => Some(duration(clock.saturating_sub(last))),
                _ => None,
            },
            requests_started: totals.requests_started,
            requests_finished: totals.requests_finished,
            deadlines: deadlines(seen, clock),
            end: half.end.as_ref().map(|group| end(&group.value)),
            settlement: half.settlement.as_ref().map(|group| settlement(&group.value)),
            log_dropped: half.log_dropped,
        }
    }

    /// The active clock of the half's own process, now.
    fn clock_of(&self, seen: &Seen) -> Option<Duration> {
        let instance = seen.half.key.instance;
        if instance == self.own {
            Some(self.now.active)
        } else {
            self.directory.active_of(instance, self.now)
        }
    }
}

fn client_bytes(record: &Record) -> (u64, u64) {
    use ledger::{Direction, LegName};
    let Some(seen) = record.first() else { return (0, 0) };
    // Without the front, what the hop carried is the nearest to it.
    let leg = if seen.half.role == Role::Front { LegName::Client } else { LegName::Hop };
    let totals = traffic(seen);
    (totals.meter(leg, Direction::In).bytes, totals.meter(leg, Direction::Out).bytes)
}

fn deadlines(seen: &Seen, clock: Option<Duration>) -> Vec<wire::Deadline> {
    let last = traffic(seen).last_activity();
    let mut armed: Vec<_> = seen.half.armed.iter().map(|armed| (armed.expires_at(last), armed)).collect();
    armed.sort_by_key(|(at, _)| *at);
    let shown = armed.into_iter().map(|(at, armed)| wire::Deadline {
        name: armed.name.name().to_owned(),
        limit: Some(duration(armed.limit)),
        source: armed.source.to_string(),
        time_left: clock.map(|clock| signed(at, clock)),
        restarts_on_bytes: armed.restart == ledger::Restart::OnBytes,
    });
    shown.collect()
}

/// `at` less `clock`, negative where it has passed.
fn signed(at: Duration, clock: Duration) -> prost_types::Duration {
    if let Some(left) = at.checked_sub(clock) {
        return duration(left);
    }
    let prost_types::Duration { seconds, nanos } = duration(clock.saturating_sub(at));
    prost_types::Duration { seconds: -seconds, nanos: -nanos }
}

/// Both halves' stories as one, by time of day; of one moment, in the order of each half.
fn timeline(record: &Record) -> Vec<wire::TimelineEvent> {
    let mut events: Vec<(u64, wire::TimelineEvent)> = Vec::new();
    for seen in record.halves() {
        let half = &*seen.half;
        let opened = half.accept.value.at;
        let event = |after: Duration, text: String, phase: Option<Phase>, reason: Option<Reason>| {
            let at = opened.plus(after);
            let event = wire::TimelineEvent {
                at: Some(timestamp(at)),
                role: role(half.role),
                attempt: half.key.attempt.0,
                text,
                phase: phase.map_or(0, |phase| phase.number().into()),
                reason: reason.map_or(0, |reason| reason.number().into()),
            };
            (at.0, event)
        };
        let process = half.role.process();
        let mut own = Vec::new();
        if let Some(end) = &half.end {
            for seen in &end.value.observations {
                let detail = seen.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
                let text = format!("{process} saw {}{detail}", seen.reason);
                own.push(event(seen.after, text, None, Some(seen.reason)));
            }
        }
        for entry in &half.log {
            let text = format!("{process}: {}", entry.phase.name());
            own.push(event(entry.after.into(), text, Some(entry.phase), None));
        }
        if let Some(end) = &half.end {
            if !end.value.suspended.is_zero() {
                let text = format!("{process} had been suspended for {:?}", end.value.suspended);
                own.push(event(end.value.age, text, None, None));
            }
            if let Some(settlement) = &half.settlement {
                let cause = &settlement.value.cause;
                let text = format!("{process} settled: {}", cause.sentence);
                own.push(event(end.value.age, text, None, Some(cause.reason)));
                let late = settlement.value.late.iter();
                own.extend(late.map(|late| {
                    event(end.value.age, format!("{process} learned later: {late}"), None, None)
                }));
            }
        }
        own.sort_by_key(|(at, _)| *at);
        events.extend(own);
    }
    events.sort_by_key(|(at, _)| *at);
    events.into_iter().map(|(_, event)| event).collect()
}
