//! Closed halves whose cause is not settled, and when to look at which of them again.
//!
//! *Owns* the waiting list and its two orders: by the position that the peer has yet to acknowledge, and by
//! the time at which patience ends. *Never* decides a cause. *Invariant*: an acknowledgement or a tick
//! touches the halves that it concerns, however many others wait.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use crate::id::{HalfKey, InstanceId};

/// The waiting list.
#[derive(Debug, Default)]
pub(crate) struct WaitingList {
    halves: BTreeMap<HalfKey, Waiting>,
    /// By the instance of the joined half and the position of the own end.
    unacked: BTreeMap<(InstanceId, u64), HalfKey>,
    due: BTreeSet<(Duration, HalfKey)>,
}

/// A closed half that waits for its cause.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Active time of its end.
    pub(crate) ended: Duration,
    /// Active time at which the peer had acknowledged its end.
    pub(crate) acked: Option<Duration>,
    end_seq: u64,
    peer: InstanceId,
    due: Option<Duration>,
}

impl WaitingList {
    /// A half that is joined to one of `peer` has ended, at position `end_seq`.
    pub(crate) fn add(&mut self, key: HalfKey, peer: InstanceId, end_seq: u64, ended: Duration) {
        self.unacked.insert((peer, end_seq), key);
        self.halves.insert(key, Waiting { ended, acked: None, end_seq, peer, due: None });
    }

    pub(crate) fn remove(&mut self, key: HalfKey) {
        let Some(waiting) = self.halves.remove(&key) else { return };
        self.unacked.remove(&(waiting.peer, waiting.end_seq));
        if let Some(due) = waiting.due {
            self.due.remove(&(due, key));
        }
    }

    pub(crate) fn entry(&self, key: HalfKey) -> Option<&Waiting> {
        self.halves.get(&key)
    }

    /// `peer` has acknowledged everything through `position`: notes it once, and says for which halves.
    pub(crate) fn acknowledge(&mut self, peer: InstanceId, position: u64, now: Duration) -> Vec<HalfKey> {
        let mut acknowledged = Vec::new();
        while let Some((&at, &key)) = self.unacked.range((peer, 0)..=(peer, position)).next() {
            self.unacked.remove(&at);
            if let Some(waiting) = self.halves.get_mut(&key) {
                waiting.acked = Some(now);
                acknowledged.push(key);
            }
        }
        acknowledged
    }

    /// This half is to be looked at again at `at`, and not before for the sake of time alone.
    pub(crate) fn look_again(&mut self, key: HalfKey, at: Duration) {
        let Some(waiting) = self.halves.get_mut(&key) else { return };
        if let Some(earlier) = waiting.due.replace(at) {
            self.due.remove(&(earlier, key));
        }
        self.due.insert((at, key));
    }

    /// The halves whose time has come, at most `limit`; they are told of once.
    pub(crate) fn take_due(&mut self, limit: usize, now: Duration) -> Vec<HalfKey> {
        let mut come = Vec::new();
        while let Some((at, key)) = self.due.first().copied().filter(|(at, _)| *at <= now)
            && come.len() < limit
        {
            self.due.remove(&(at, key));
            if let Some(waiting) = self.halves.get_mut(&key) {
                waiting.due = None;
            }
            come.push(key);
        }
        come
    }

    /// The halves beyond `from` that are joined to one of `peer`, and how far it looked: at `limit` halves, or
    /// (`None`) at all that there are. For rare events.
    pub(crate) fn of_peer(
        &self,
        peer: InstanceId,
        from: Option<HalfKey>,
        limit: usize,
    ) -> (Vec<HalfKey>, Option<HalfKey>) {
        let beyond = from.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut found, mut looked, mut last) = (Vec::new(), 0, None);
        for (key, waiting) in self.halves.range((beyond, Bound::Unbounded)).take(limit) {
            looked += 1;
            last = Some(*key);
            if waiting.peer == peer {
                found.push(*key);
            }
        }
        (found, last.filter(|_| looked >= limit))
    }

    /// Entries in all three orders.
    #[cfg(feature = "planted-faults")]
    pub(crate) fn len(&self) -> usize {
        self.halves.len() + self.unacked.len() + self.due.len()
    }
}
