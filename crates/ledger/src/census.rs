//! What the live halves add up to by now, counted in stretches short enough for the lock.
//!
//! *Owns* the sums over live halves that no running number has, because the data path counts without the lock:
//! bytes, requests, and so whether HTTP is idle or active. *Never* looks a record up. *Invariant*: a census
//! counts each half that was live when it began exactly once, also one that ends before its turn, and none
//! that opened later; so its phases add up to the live records of the instant at which it began.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::id::HalfKey;
use crate::ledger::{Ledger, LiveSlot};
use crate::phase::Phase;

/// Sums over live halves.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveSums {
    /// By phase, as shown: few at once, mostly one.
    phases: Vec<(Phase, u64)>,
    /// Per leg and direction.
    pub(crate) bytes: [[u64; 2]; 3],
    /// Requests finished.
    pub(crate) requests: u64,
}

/// The censuses in progress. Mostly none.
#[derive(Debug, Default)]
pub(crate) struct Censuses {
    open: Vec<Census>,
    begun: u64,
}

/// One census. To be ended by [`Ledger::end_census`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a census that is not ended is kept up to date for ever"]
pub(crate) struct CensusId(u64);

#[derive(Debug)]
struct Census {
    id: CensusId,
    /// Halves that opened later are not counted.
    through: u64,
    /// Everybody up to here was counted.
    at: Option<HalfKey>,
    sums: LiveSums,
}

impl LiveSums {
    pub(crate) fn add(&mut self, slot: &LiveSlot) {
        let totals = slot.traffic.totals();
        let shown = slot.phase().shown_with(&totals);
        match self.phases.iter_mut().rfind(|(phase, _)| *phase == shown) {
            Some((_, count)) => *count += 1,
            None => self.phases.push((shown, 1)),
        }
        self.requests += totals.requests_finished;
        for (sum, meter) in self.bytes.iter_mut().flatten().zip(totals.meters.iter().flatten()) {
            *sum += meter.bytes;
        }
    }

    /// Live halves by phase, as shown.
    pub(crate) fn phases(&self) -> BTreeMap<Phase, u64> {
        self.phases.iter().copied().collect()
    }
}

impl Censuses {
    /// A half leaves the live ones.
    pub(crate) fn ended(&mut self, key: HalfKey, slot: &LiveSlot) {
        for census in &mut self.open {
            if slot.opened_seq() <= census.through && census.at.is_none_or(|at| key > at) {
                census.sums.add(slot);
            }
        }
    }
}

impl Ledger {
    /// Begins to count the halves that are live now.
    pub(crate) fn begin_census(&mut self) -> CensusId {
        self.censuses.begun += 1;
        let id = CensusId(self.censuses.begun);
        let through = self.own.position();
        self.censuses.open.push(Census { id, through, at: None, sums: LiveSums::default() });
        id
    }

    /// Counts the next `limit` halves. Are there more?
    pub(crate) fn count_on(&mut self, census: CensusId, limit: usize) -> bool {
        let Some(census) = self.censuses.open.iter_mut().find(|open| open.id == census) else { return false };
        let beyond = census.at.map_or(Bound::Unbounded, Bound::Excluded);
        let mut left = limit;
        for (key, slot) in self.live.range((beyond, Bound::Unbounded)).take(limit) {
            left -= 1;
            census.at = Some(*key);
            if slot.opened_seq() <= census.through {
                census.sums.add(slot);
            }
        }
        left == 0
    }

    /// What it came to.
    pub(crate) fn end_census(&mut self, census: CensusId) -> LiveSums {
        let at = self.censuses.open.iter().position(|open| open.id == census);
        at.map(|at| self.censuses.open.swap_remove(at).sums).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::evidence::LegName;
    use crate::id::{ConnectionId, Role};
    use crate::ledger::LedgerLimits;
    use crate::rig::{FRONT, accept, ending, front_key, now};
    use crate::session::Rhythm;
    use crate::{Direction, Reason};

    /// Halves open and end between the stretches, before and behind the place that was come to.
    #[test]
    fn a_census_counts_whom_it_found_live_and_nobody_else() {
        let at = now(Duration::ZERO);
        let mut ledger = Ledger::new(FRONT, Role::Front, LedgerLimits::default(), Rhythm::default());
        let open = |ledger: &mut Ledger, id: u64| {
            let traffic = ledger.open_front(ConnectionId(id.into()), accept(), at).unwrap();
            traffic.moved(LegName::Client, Direction::In, 1, Duration::ZERO);
            traffic.request_started();
            traffic.request_finished();
        };
        for id in 0..100 {
            open(&mut ledger, id * 10);
        }
        let census = ledger.begin_census();
        for step in 0..50 {
            ledger.count_on(census, 3);
            // One that was counted, one that was not yet, or both were at an earlier step.
            for id in [step, 99 - step] {
                ledger.close(front_key(id * 10), ending(Role::Front, Reason::ClientClosed), at).ok();
            }
            for new in 1..4 {
                open(&mut ledger, step * 10 + new);
            }
        }
        while ledger.count_on(census, 3) {}
        let sums = ledger.end_census(census);
        assert_eq!(sums.phases(), BTreeMap::from([(Phase::Accepted, 100)]));
        assert_eq!((sums.bytes[0][0], sums.requests), (100, 100));
        assert!(ledger.censuses.open.is_empty());
    }
}
