//! One connection as this process knows it: both halves, and what they add up to.
//!
//! *Owns* which halves of an id belong together, and what the record as a whole says. *Never* asks a clock.
//! *Invariant*: both processes make the same record of the same halves.

use std::time::Duration;

use ledger::{ConnectionId, Half, Known, Now, Phase, Role, Routing, Stretch, Termination, TrafficTotals};

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) id: ConnectionId,
    pub(crate) front: Option<Known>,
    pub(crate) inner: Option<Known>,
    pub(crate) superseded: Vec<Known>,
}

/// Which process carries a connection's bytes to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandledBy {
    Smartproxy,
    Networkproxy,
}

impl Record {
    /// The records of a stretch, in order of id.
    pub(crate) fn all_of(mut stretch: Stretch) -> Vec<Self> {
        stretch.halves.sort_by_key(|known| known.half.key);
        let mut records: Vec<Self> = Vec::new();
        for known in stretch.halves {
            let id = known.half.key.connection;
            if records.last().is_none_or(|record| record.id != id) {
                records.push(Self { id, front: None, inner: None, superseded: Vec::new() });
            }
            let Some(record) = records.last_mut() else { continue };
            match known.half.role {
                Role::Front => record.front = Some(known),
                Role::Inner => record.superseded.push(known),
            }
        }
        records.iter_mut().for_each(Self::join);
        records
    }

    /// Finds the inner half that is not given up: of several, the latest attempt.
    fn join(&mut self) {
        let gave_up = |known: &Known| {
            self.front.as_ref().is_some_and(|front| front.half.gave_up(known.half.key.attempt))
        };
        let latest = (0..self.superseded.len())
            .filter(|index| !gave_up(&self.superseded[*index]))
            .max_by_key(|index| self.superseded[*index].half.key.attempt);
        self.inner = latest.map(|index| self.superseded.remove(index));
        self.superseded.sort_by_key(|known| known.half.key.attempt);
    }

    /// Every half.
    pub(crate) fn halves(&self) -> impl Iterator<Item = &Known> {
        self.front.iter().chain(&self.inner).chain(&self.superseded)
    }

    /// The halves whose causes are the record's: front, then inner.
    fn pair(&self) -> impl Iterator<Item = &Half> {
        self.front.iter().chain(&self.inner).map(|known| &*known.half)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.halves().any(|known| self.counts_as_live(known))
    }

    /// A half that was last told to be live counts as live no longer than the half it is joined to waits for its
    /// end: a process that was killed, or cannot be reached, never tells.
    fn counts_as_live(&self, known: &Known) -> bool {
        let told = known.now.is_none();
        known.half.is_live() && !(told && self.pair().any(|half| half.settlement.is_some()))
    }

    pub(crate) fn phase(&self) -> Phase {
        let live = |known: &Option<Known>| {
            known.as_ref().filter(|known| self.counts_as_live(known)).map(shown_phase)
        };
        match (live(&self.front), live(&self.inner)) {
            (Some(Phase::Connecting | Phase::Relaying) | None, Some(inner)) => inner,
            (Some(front), _) => front,
            (None, None) => {
                let left = self.superseded.iter().find(|known| self.counts_as_live(known));
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
        if self.is_live() {
            return None;
        }
        self.any().find_map(|half| half.settlement.as_ref()).map(|settlement| &settlement.value.cause)
    }

    /// Over, but the cause is not settled.
    pub(crate) fn is_provisional(&self) -> bool {
        !self.is_live() && self.termination().is_none()
    }

    /// The half that speaks for the record: the front; where it is not known, the inner; else what is left.
    fn any(&self) -> impl Iterator<Item = &Half> {
        self.pair().chain(self.superseded.iter().map(|known| &*known.half))
    }

    /// The half that speaks for the record.
    pub(crate) fn first(&self) -> Option<&Known> {
        self.halves().next()
    }

    pub(crate) fn ended_at(&self) -> Option<ledger::Wall> {
        if self.is_live() {
            return None;
        }
        self.any().find_map(|half| half.end.as_ref()).map(|end| end.value.at)
    }

    pub(crate) fn age(&self, now: Now) -> Duration {
        self.first().map_or(Duration::ZERO, |known| age(known, now))
    }

    /// What was read and decided, as `pick` finds it, in the inner half first: it decides routes.
    pub(crate) fn routing<T>(&self, pick: impl Fn(&Routing) -> Option<&T>) -> Option<&T> {
        let halves = self.inner.iter().chain(&self.front).chain(&self.superseded);
        halves.filter_map(|known| known.half.routing.as_ref()).find_map(|routing| pick(&routing.value))
    }
}

/// What a half has counted: a live own half, by now.
pub(crate) fn traffic(known: &Known) -> TrafficTotals {
    let mut totals = known.half.traffic;
    if let Some((now, _)) = &known.now {
        totals.merge(now);
    }
    totals
}

/// The phase to show: whether HTTP is idle or active follows from the counts.
pub(crate) fn shown_phase(known: &Known) -> Phase {
    match known.half.phase {
        Phase::HttpIdle | Phase::HttpActive if traffic(known).requests_open() > 0 => Phase::HttpActive,
        Phase::HttpActive => Phase::HttpIdle,
        other => other,
    }
}

/// How old a half is, or was at its end. Of a peer's live half the times of day are compared: both processes
/// run on one machine.
pub(crate) fn age(known: &Known, now: Now) -> Duration {
    match (&known.half.end, &known.now) {
        (Some(end), _) => end.value.age,
        (None, Some((_, age))) => *age,
        (None, None) => Duration::from_micros(now.wall.0.saturating_sub(known.half.accept.value.at.0)),
    }
}
