//! The change feed: every half once, at the position of its latest change.
//!
//! *Owns* a process's own halves, live and retained, their positions, the running tally and digest.
//! *Never* waits, queues or drops: a reader that is away costs nothing, because a half that changes ten
//! times is still one entry; a reader too far behind gets a snapshot. *Invariant*: `table` and `feed` hold
//! the same halves; tally = base + fold of the feed; digest = mix over the live halves.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::digest::Digest;
use crate::half::Half;
use crate::id::{ConnectionId, HalfKey, InstanceId};
use crate::tally::{Share, Tally};

mod reading;

pub(crate) use reading::ReadingId;
use reading::Readings;

/// A process's own halves as a feed of changes.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    table: BTreeMap<HalfKey, u64>,
    feed: BTreeMap<u64, Arc<Half>>,
    settling: BTreeSet<u64>,
    settled: BTreeSet<u64>,
    closed_weight: usize,
    next: u64,
    horizon: u64,
    base: Tally,
    tally: Tally,
    digest: Digest,
    readings: Readings,
}

/// What a reader gets: everything that changed after `from`, as of one instant.
#[derive(Debug)]
pub(crate) struct Pull {
    pub(crate) from: u64,
    pub(crate) through: u64,
    pub(crate) horizon: u64,
    /// The halves, in order of position.
    pub(crate) reading: ReadingId,
    pub(crate) digest: Digest,
    /// Present where the reader was behind the horizon: then the reading is of everything.
    pub(crate) snapshot: Option<Tally>,
}

impl Journal {
    /// Adds a half, which may have ended and settled already. `false` where the key is taken.
    pub(crate) fn open(&mut self, mut half: Half) -> bool {
        let Entry::Vacant(place) = self.table.entry(half.key) else { return false };
        self.next += 1;
        place.insert(self.next);
        half.opened_seq = self.next;
        half.accept.seq = self.next;
        half.log.iter_mut().for_each(|entry| entry.seq = self.next);
        if let Some(routing) = &mut half.routing {
            routing.seq = self.next;
        }
        if let Some(hop) = &mut half.hop {
            hop.seq = self.next;
        }
        if let Some(end) = &mut half.end {
            end.seq = self.next;
        }
        if let Some(settlement) = &mut half.settlement {
            settlement.seq = self.next;
        }
        self.digest.opened += 1;
        if half.is_live() {
            self.digest.add(half.key, half.phase);
        } else {
            self.digest.closed += 1;
            self.file_closed(&half);
        }
        self.tally.moved(&Share::default(), &Share::of(&half));
        self.feed.insert(self.next, Arc::new(half));
        true
    }

    /// Changes a half and moves it to the end of the feed; `change` gets the new position.
    /// `None` where there is no such half.
    pub(crate) fn amend<R>(&mut self, key: HalfKey, change: impl FnOnce(&mut Half, u64) -> R) -> Option<R> {
        let seq = self.table.get_mut(&key)?;
        let mut entry = self.feed.remove(seq).expect("table and feed hold the same halves");
        self.readings.keep(*seq, &entry);
        if entry.end.is_some() {
            let index = if entry.is_settling() { &mut self.settling } else { &mut self.settled };
            index.remove(seq);
            self.closed_weight -= entry.weight();
        }
        self.next += 1;
        *seq = self.next;
        let before = (Share::of(&entry), entry.phase, entry.is_live());
        let half = Arc::make_mut(&mut entry);
        let result = change(half, self.next);
        let after = Share::of(half);
        debug_assert!(before.0.grows_to(&after), "what was counted of {key:?} is taken back");
        self.tally.moved(&before.0, &after);
        let stays = before.2 && half.is_live();
        if before.2 && !(stays && before.1 == half.phase) {
            self.digest.remove(key, before.1);
            if stays {
                self.digest.add(key, half.phase);
            }
        }
        debug_assert!(before.2 || !half.is_live(), "a closed half does not come back");
        if !half.is_live() {
            self.digest.closed += u64::from(before.2);
            self.file_closed(&entry);
        }
        self.feed.insert(self.next, entry);
        Some(result)
    }

    /// Notes a closed half under the position that it has now.
    fn file_closed(&mut self, half: &Half) {
        self.closed_weight += half.weight();
        let index = if half.is_settling() { &mut self.settling } else { &mut self.settled };
        index.insert(self.next);
    }

    /// Everything that changed after `cursor`, or a snapshot where there is no usable
    /// cursor: none at all, behind the horizon, or of another life.
    pub(crate) fn pull(&mut self, cursor: Option<u64>) -> Pull {
        let usable = cursor.filter(|cursor| (self.horizon..=self.next).contains(cursor));
        let (from, snapshot) = (usable.unwrap_or(0), usable.is_none());
        Pull {
            from,
            through: self.next,
            horizon: self.horizon,
            reading: self.begin_reading(from),
            digest: self.digest,
            snapshot: snapshot.then(|| self.base.clone()),
        }
    }

    /// How many halves changed after `cursor`, at most `limit`. A cursor behind the horizon has something to
    /// come even if nothing else changed: what was folded.
    pub(crate) fn pending(&self, cursor: u64, limit: usize) -> usize {
        if cursor >= self.next {
            return 0;
        }
        let changed = self.feed.range(cursor.saturating_add(1)..).take(limit).count();
        changed.max(usize::from(cursor < self.horizon))
    }

    /// The closed half that retention gives up next: settled before settling, lowest position first.
    pub(crate) fn eviction_candidate(&self) -> Option<(HalfKey, &Arc<Half>)> {
        let seq = self.settled.first().or_else(|| self.settling.first())?;
        self.feed.get(seq).map(|half| (half.key, half))
    }

    /// Folds a closed half into the base.
    pub(crate) fn evict(&mut self, key: HalfKey) -> Option<Arc<Half>> {
        let seq = *self.table.get(&key)?;
        if self.feed.get(&seq)?.is_live() {
            return None;
        }
        self.table.remove(&key);
        let half = self.feed.remove(&seq)?;
        self.readings.keep(seq, &half);
        self.settled.remove(&seq);
        self.settling.remove(&seq);
        self.closed_weight -= half.weight();
        self.base.fold(&half);
        self.horizon = self.horizon.max(seq);
        Some(half)
    }

    pub(crate) fn half(&self, key: HalfKey) -> Option<&Arc<Half>> {
        self.feed.get(self.table.get(&key)?)
    }

    /// The halves of `connection` at `instance`, by attempt.
    pub(crate) fn of_connection(
        &self,
        connection: ConnectionId,
        instance: InstanceId,
    ) -> impl Iterator<Item = &Arc<Half>> {
        self.keys_of_connection(connection, instance).filter_map(|key| self.half(key))
    }

    /// The keys of the same.
    pub(crate) fn keys_of_connection(
        &self,
        connection: ConnectionId,
        instance: InstanceId,
    ) -> impl Iterator<Item = HalfKey> {
        let from = HalfKey::inner(connection, instance, crate::Attempt(0));
        let to = HalfKey::inner(connection, instance, crate::Attempt(u64::MAX));
        self.table.range(from..=to).map(|(key, _)| *key)
    }

    /// The halves with these keys, in order of key.
    pub(crate) fn in_order(
        &self,
        range: (Bound<HalfKey>, Bound<HalfKey>),
    ) -> impl DoubleEndedIterator<Item = &Arc<Half>> {
        self.table.range(range).filter_map(|(_, seq)| self.feed.get(seq))
    }

    pub(crate) fn halves(&self) -> impl Iterator<Item = &Arc<Half>> {
        self.feed.values()
    }

    /// Closed halves kept, settled or not.
    pub(crate) fn closed_len(&self) -> usize {
        self.settling.len() + self.settled.len()
    }

    pub(crate) fn settling_len(&self) -> usize {
        self.settling.len()
    }

    pub(crate) fn live_len(&self) -> usize {
        self.feed.len() - self.closed_len()
    }

    pub(crate) const fn closed_weight(&self) -> usize {
        self.closed_weight
    }

    pub(crate) const fn position(&self) -> u64 {
        self.next
    }

    pub(crate) const fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(crate) const fn base(&self) -> &Tally {
        &self.base
    }

    pub(crate) const fn digest(&self) -> &Digest {
        &self.digest
    }
}

#[cfg(test)]
mod tests;
