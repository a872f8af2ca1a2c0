//! One connection as this process knows it: both halves, and what they add up to.
//!
//! *Owns* which halves of an id belong together, and what the record as a whole says. *Never* asks a clock.
//! *Invariant*: both processes make the same record of the same halves.

use std::sync::Arc;
use std::time::Duration;

use ledger::{
    ConnectionId, Half, InstanceId, Known, Now, Phase, Role, Routing, Settlement, Stretch, Termination,
    TrafficTotals,
};

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) id: ConnectionId,
    pub(crate) front: Option<Seen>,
    pub(crate) inner: Option<Seen>,
    pub(crate) superseded: Vec<Seen>,
}

/// One half as this process sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) half: Arc<Half>,
    /// For a live own half: what it has counted by now, and how old it is.
    pub(crate) now: Option<(TrafficTotals, Duration)>,
    /// It counts as live.
    pub(crate) live: bool,
}

/// Which process carries a connection's bytes to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandledBy {
    Smartproxy,
    Networkproxy,
}

impl Record {
    /// The records of a stretch, in order of id, as `own` knows them. `in_step` says of a peer whether what its
    /// mirror says is the present.
    pub(crate) fn all_of(
        mut stretch: Stretch,
        own: InstanceId,
        in_step: impl Fn(InstanceId) -> bool,
    ) -> Vec<Self> {
        stretch.halves.sort_by_key(|known| known.half.key);
        let mut records: Vec<Self> = Vec::new();
        for Known { half, now } in stretch.halves {
            let id = half.key.connection;
            if records.last().is_none_or(|record| record.id != id) {
                records.push(Self { id, front: None, inner: None, superseded: Vec::new() });
            }
            let Some(record) = records.last_mut() else { continue };
            let live = half.is_live();
            let seen = Seen { half, now, live };
            match seen.half.role {
                Role::Front => record.front = Some(seen),
                Role::Inner => record.superseded.push(seen),
            }
        }
        for record in &mut records {
            record.join();
            record.presume(own, &in_step);
        }
        records
    }

    /// Finds the inner half that is not given up: of several, the latest attempt.
    fn join(&mut self) {
        let gave_up =
            |seen: &Seen| self.front.as_ref().is_some_and(|front| front.half.gave_up(seen.half.key.attempt));
        let latest = (0..self.superseded.len())
            .filter(|index| !gave_up(&self.superseded[*index]))
            .max_by_key(|index| self.superseded[*index].half.key.attempt);
        self.inner = latest.map(|index| self.superseded.remove(index));
        self.superseded.sort_by_key(|seen| seen.half.key.attempt);
    }

    /// While a peer cannot tell (it was killed, or the channel is away), its half counts as live exactly if the
    /// own half that is joined to it is.
    fn presume(&mut self, own: InstanceId, in_step: impl Fn(InstanceId) -> bool) {
        let live = |seen: &Option<Seen>| {
            seen.as_ref().is_some_and(|seen| seen.live && seen.half.key.instance == own)
        };
        let (front_is_live, inner_is_live) = (live(&self.front), live(&self.inner));
        let told =
            |seen: &&mut Seen| seen.live && seen.half.key.instance != own && !in_step(seen.half.key.instance);
        if let Some(front) = self.front.as_mut().filter(told) {
            front.live = inner_is_live;
        }
        if let Some(inner) = self.inner.as_mut().filter(told) {
            inner.live = front_is_live;
        }
        for superseded in self.superseded.iter_mut().filter(told) {
            superseded.live = false;
        }
    }

    /// Every half.
    pub(crate) fn halves(&self) -> impl Iterator<Item = &Seen> {
        self.front.iter().chain(&self.inner).chain(&self.superseded)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.halves().any(|seen| seen.live)
    }

    pub(crate) fn phase(&self) -> Phase {
        let live = |seen: &Option<Seen>| seen.as_ref().filter(|seen| seen.live).map(shown_phase);
        match (live(&self.front), live(&self.inner)) {
            (Some(Phase::Connecting | Phase::Relaying) | None, Some(inner)) => inner,
            (Some(front), _) => front,
            (None, None) => {
                let left = self.superseded.iter().find(|seen| seen.live);
                left.map_or(Phase::Closed, shown_phase)
            }
        }
    }

    pub(crate) fn handled_by(&self) -> Option<HandledBy> {
        let bridged = self.front.as_ref().is_some_and(|front| {
            front.half.hop.as_ref().is_some_and(|hop| hop.value.attempts > 0)
                || front.half.phase == Phase::Held
        });
        if bridged || self.inner.is_some() || !self.superseded.is_empty() {
            return Some(HandledBy::Networkproxy);
        }
        self.front.as_ref()?.half.target.as_ref().map(|_| HandledBy::Smartproxy)
    }

    /// The cause of the end, once settled.
    pub(crate) fn termination(&self) -> Option<&Termination> {
        self.settlement().map(|settlement| &settlement.cause)
    }

    /// The cause of the end and what became known after it, once settled.
    pub(crate) fn settlement(&self) -> Option<&Settlement> {
        if self.is_live() {
            return None;
        }
        self.any().find_map(|half| half.settlement.as_ref()).map(|settlement| &*settlement.value)
    }

    /// Over, but the cause is not settled.
    pub(crate) fn is_provisional(&self) -> bool {
        !self.is_live() && self.termination().is_none()
    }

    /// The halves by how well they speak for the record: front, inner, what is left.
    fn any(&self) -> impl Iterator<Item = &Half> {
        self.halves().map(|seen| &*seen.half)
    }

    /// The half that speaks for the record.
    pub(crate) fn first(&self) -> Option<&Seen> {
        self.halves().next()
    }

    pub(crate) fn ended_at(&self) -> Option<ledger::Wall> {
        if self.is_live() {
            return None;
        }
        self.any().find_map(|half| half.end.as_ref()).map(|end| end.value.at)
    }

    pub(crate) fn age(&self, now: Now) -> Duration {
        self.first().map_or(Duration::ZERO, |seen| age(seen, now))
    }

    /// What was read and decided, as `pick` finds it, in the inner half first: it decides routes.
    pub(crate) fn routing<T>(&self, pick: impl Fn(&Routing) -> Option<&T>) -> Option<&T> {
        let halves = self.inner.iter().chain(&self.front).chain(&self.superseded);
        halves.filter_map(|seen| seen.half.routing.as_ref()).find_map(|routing| pick(&routing.value))
    }
}

/// What a half has counted: a live own half, by now.
pub(crate) fn traffic(seen: &Seen) -> TrafficTotals {
    let mut totals = seen.half.traffic;
    if let Some((now, _)) = &seen.now {
        totals.merge(now);
    }
    totals
}

/// The phase to show: whether HTTP is idle or active follows from the counts.
pub(crate) fn shown_phase(seen: &Seen) -> Phase {
    match seen.half.phase {
        Phase::HttpIdle | Phase::HttpActive if traffic(seen).requests_open() > 0 => Phase::HttpActive,
        Phase::HttpActive => Phase::HttpIdle,
        other => other,
    }
}

/// How old a half is, or was at its end. Of a peer's live half the times of day are compared: both processes
/// run on one machine.
pub(crate) fn age(seen: &Seen, now: Now) -> Duration {
    match (&seen.half.end, &seen.now) {
        (Some(end), _) => end.value.age,
        (None, Some((_, age))) => *age,
        (None, None) => Duration::from_micros(now.wall.0.saturating_sub(seen.half.accept.value.at.0)),
    }
}
