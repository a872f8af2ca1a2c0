//! What the peer told: its halves as of the last applied position.
//!
//! *Owns* the copy of one peer instance's table, its tally and digest, and a snapshot being received.
//! *Never* invents a fact: it applies what came, in order, once. *Invariant*: at every pull's end the
//! mirror's digest equals the one the peer sent with it; a difference is drift, is counted and is repaired
//! by a snapshot, never silently. What contradicts itself is refused before it is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::digest::Digest;
use crate::half::{Half, HalfUpdate};
use crate::id::{Attempt, HalfKey, InstanceId, Role};
use crate::tally::{Share, Tally};

/// One peer instance's halves.
#[derive(Debug)]
pub(crate) struct Mirror {
    instance: InstanceId,
    /// The process that looks into it.
    viewer: InstanceId,
    role: Role,
    table: Table,
    /// Applied so far, batch by batch.
    applied: u64,
    /// The last pull's end that was reached: what a resume may build on.
    complete: u64,
    /// Nothing was ever applied, or what was cannot be trusted: only a snapshot will do.
    needs_snapshot: bool,
    staged: Option<Staged>,
    replaced: Option<Replaced>,
    /// The most halves it holds, live and closed; staged ones apart.
    pub(crate) most: usize,
}

/// Halves and what they add up to.
#[derive(Debug, Default)]
struct Table {
    halves: BTreeMap<HalfKey, (u64, Arc<Half>)>,
    settled: BTreeSet<(u64, HalfKey)>,
    live: u64,
    /// The live ones that are joined to the process that looks.
    joined: u64,
    settling: u64,
    base: Tally,
    tally: Tally,
    digest: Digest,
}

/// A snapshot that is not complete: the table that takes the other's place in one step.
#[derive(Debug, Default)]
struct Staged {
    next_index: u64,
    through: u64,
    table: Table,
}

/// The table that a snapshot took the place of, as far as nobody has been told yet what that changed.
#[derive(Debug)]
struct Replaced {
    old: BTreeMap<HalfKey, (u64, Arc<Half>)>,
    /// Of the new halves, those up to here were told.
    told: Option<HalfKey>,
    /// All of them were: what is left is what is gone.
    all_told: bool,
}

/// Why an update cannot be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unappliable {
    /// The batch starts somewhere else than where the mirror stands.
    Gap {
        /// Where the mirror stands.
        applied: u64,
        /// Where the batch starts.
        after: u64,
    },
    /// A snapshot's chunk came out of order.
    ChunkOutOfOrder,
    /// A half of another instance or role.
    Foreign,
    /// A change of a half that was never described.
    Undescribed,
    /// The digests differ at a pull's end.
    Drift,
    /// A position outside of what the message says it covers, a half twice, a half that takes back what was
    /// counted, an end without CLOSED or the other way round, a cause without an end.
    Contradiction,
    /// More halves than the peer can have.
    TooMany,
}

/// What a chunk did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Staging {
    /// More chunks are to come.
    More,
    /// It was the last: the table is replaced.
    Replaced,
}

/// What an application changed, also where it failed half way: `before` and `after` per key.
pub(crate) type Changes = Vec<(Option<Arc<Half>>, Option<Arc<Half>>)>;

impl Mirror {
    pub(crate) fn new(instance: InstanceId, role: Role, viewer: InstanceId) -> Self {
        Self {
            instance,
            viewer,
            role,
            table: Table::default(),
            applied: 0,
            complete: 0,
            needs_snapshot: true,
            staged: None,
            replaced: None,
            most: usize::MAX,
        }
    }

    /// A new session begins: it builds on the last complete position, or on a snapshot (`None`).
    pub(crate) fn rewind(&mut self) -> Option<u64> {
        self.staged = None;
        self.applied = self.complete;
        (!self.needs_snapshot).then_some(self.complete)
    }

    /// Nothing that was applied can be trusted: only a snapshot will do.
    pub(crate) fn distrust(&mut self) {
        self.needs_snapshot = true;
        self.staged = None;
    }

    /// Applies one batch; `digest` is present in the last of a pull.
    pub(crate) fn apply(
        &mut self,
        after: u64,
        through: u64,
        horizon: u64,
        updates: Vec<HalfUpdate>,
        digest: Option<&Digest>,
        changes: &mut Changes,
    ) -> Result<(), Unappliable> {
        if self.needs_snapshot || after != self.applied || through < after {
            return Err(Unappliable::Gap { applied: self.applied, after });
        }
        let mut from = after;
        for update in &updates {
            if update.seq <= from || update.seq > through {
                return Err(Unappliable::Contradiction);
            }
            from = update.seq;
        }
        self.apply_unchecked(through, horizon, updates, digest, changes)
    }

    /// As [`Mirror::apply`] without the position check; separate so that a test can plant its absence.
    pub(crate) fn apply_unchecked(
        &mut self,
        through: u64,
        horizon: u64,
        updates: Vec<HalfUpdate>,
        digest: Option<&Digest>,
        changes: &mut Changes,
    ) -> Result<(), Unappliable> {
        if updates.iter().any(|update| !self.owns(update)) {
            return Err(Unappliable::Foreign);
        }
        for update in updates {
            let (key, seq) = (update.key, update.seq);
            let before = self.half(key).cloned();
            let half = match &before {
                Some(known) => {
                    let mut half = Half::clone(known);
                    half.apply(update);
                    Arc::new(half)
                }
                None => Arc::new(Half::from_update(update).ok_or(Unappliable::Undescribed)?),
            };
            let was_joined = before.as_ref().is_some_and(|before| self.is_joined(before));
            let joined = self.is_joined(&half);
            self.table.put(seq, &half, (was_joined, joined), self.most)?;
            changes.push((before, Some(half)));
        }
        self.applied = through;
        if let Some(digest) = digest {
            self.complete = through;
            self.fold_through(horizon, changes);
            if *digest != self.table.digest {
                return Err(Unappliable::Drift);
            }
        }
        Ok(())
    }

    /// Takes one chunk of a snapshot; the last one replaces the table. What that changes is told by
    /// [`Mirror::tell_replaced`].
    pub(crate) fn stage(
        &mut self,
        index: u64,
        through: u64,
        base: Option<Tally>,
        updates: Vec<HalfUpdate>,
        digest: Option<&Digest>,
    ) -> Result<Staging, Unappliable> {
        if updates.iter().any(|update| !self.owns(update)) {
            return Err(Unappliable::Foreign);
        }
        if index == 0 {
            self.staged = Some(Staged { next_index: 0, through, table: Table::on(base.unwrap_or_default()) });
        }
        let mut staged =
            self.staged.take().filter(|s| s.next_index == index).ok_or(Unappliable::ChunkOutOfOrder)?;
        staged.next_index += 1;
        if staged.through != through || updates.iter().any(|update| update.seq > through) {
            return Err(Unappliable::Contradiction);
        }
        for update in updates {
            let (key, seq) = (update.key, update.seq);
            let mut half = Half::from_update(update).ok_or(Unappliable::Undescribed)?;
            if staged.table.halves.contains_key(&key) {
                return Err(Unappliable::Contradiction);
            }
            if let Some(known) = self.half(key).filter(|_| half.is_live()) {
                half.traffic.merge(&known.traffic);
            }
            let joined = self.is_joined(&half);
            staged.table.put(seq, &Arc::new(half), (false, joined), self.most)?;
        }
        let Some(digest) = digest else {
            self.staged = Some(staged);
            return Ok(Staging::More);
        };
        if *digest != staged.table.digest {
            return Err(Unappliable::Drift);
        }
        let old = std::mem::replace(&mut self.table, staged.table);
        self.replaced = Some(Replaced { old: old.halves, told: None, all_told: false });
        self.applied = through;
        self.complete = through;
        self.needs_snapshot = false;
        Ok(Staging::Replaced)
    }

    /// Is there something that [`Mirror::tell_replaced`] has not told?
    pub(crate) const fn has_to_tell(&self) -> bool {
        self.replaced.is_some()
    }

    /// What the last snapshot changed: about `limit` halves at a time, first those that there are, then those
    /// that are gone. Is there more?
    pub(crate) fn tell_replaced(&mut self, limit: usize, changes: &mut Changes) -> bool {
        let Some(replaced) = &mut self.replaced else { return false };
        if !replaced.all_told {
            let beyond = replaced.told.map_or(Bound::Unbounded, Bound::Excluded);
            let untold = self.table.halves.range((beyond, Bound::Unbounded)).take(limit);
            let told = changes.len();
            changes.extend(untold.map(|(key, (_, half))| {
                let before = replaced.old.get(key).map(|(_, old)| Arc::clone(old));
                replaced.told = Some(*key);
                (before, Some(Arc::clone(half)))
            }));
            replaced.all_told = changes.len() - told < limit;
            return true;
        }
        for _ in 0..limit {
            let Some((key, (_, half))) = replaced.old.pop_first() else {
                self.replaced = None;
                return false;
            };
            if !self.table.halves.contains_key(&key) {
                changes.push((Some(half), None));
            }
        }
        true
    }

    /// Unnumbered progress of a live half; ignored after its end and for halves not (yet) known.
    pub(crate) fn progress(&mut self, key: HalfKey, totals: &crate::TrafficTotals) {
        let staged = self.staged.as_mut().map(|staged| &mut staged.table);
        for table in [Some(&mut self.table), staged].into_iter().flatten() {
            if let Some((_, half)) = table.halves.get_mut(&key).filter(|(_, half)| half.is_live()) {
                Arc::make_mut(half).traffic.merge(totals);
            }
        }
    }

    pub(crate) fn half(&self, key: HalfKey) -> Option<&Arc<Half>> {
        self.table.halves.get(&key).map(|(_, half)| half)
    }

    /// The halves with these keys, in order of key.
    pub(crate) fn in_order(
        &self,
        range: (Bound<HalfKey>, Bound<HalfKey>),
    ) -> impl DoubleEndedIterator<Item = &Arc<Half>> {
        self.table.halves.range(range).map(|(_, (_, half))| half)
    }

    pub(crate) fn halves(&self) -> impl Iterator<Item = &Arc<Half>> {
        self.table.halves.values().map(|(_, half)| half)
    }

    pub(crate) const fn applied(&self) -> u64 {
        self.applied
    }

    pub(crate) const fn live_len(&self) -> u64 {
        self.table.live
    }

    /// Live halves that are joined to the process that looks.
    pub(crate) const fn joined_live(&self) -> u64 {
        self.table.joined
    }

    pub(crate) const fn settling_len(&self) -> u64 {
        self.table.settling
    }

    pub(crate) const fn tally(&self) -> &Tally {
        &self.table.tally
    }

    pub(crate) const fn digest(&self) -> &Digest {
        &self.table.digest
    }

    /// Halves of a snapshot that is not complete.
    #[cfg(test)]
    pub(crate) fn staged_len(&self) -> usize {
        self.staged.as_ref().map_or(0, |staged| staged.table.halves.len())
    }

    /// The running numbers are those of a recount.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let mut tally = self.table.base.clone();
        self.halves().for_each(|half| tally.fold(half));
        assert_eq!(tally, self.table.tally, "mirrored tally");
        assert_eq!(
            self.table.live,
            self.halves().filter(|half| half.is_live()).count() as u64,
            "mirrored live"
        );
        assert_eq!(self.table.settling, self.halves().filter(|half| half.is_settling()).count() as u64);
        let joined = self.halves().filter(|half| half.is_live() && self.is_joined(half)).count();
        assert_eq!(self.table.joined, joined as u64, "mirrored and joined");
        assert!(
            self.table.halves.len() <= self.most,
            "{} halves of at most {}",
            self.table.halves.len(),
            self.most
        );
    }

    fn owns(&self, update: &HalfUpdate) -> bool {
        let HalfUpdate { key, role, front_instance, .. } = update;
        let front = key.attempt == Attempt::FRONT && *front_instance == self.instance;
        key.instance == self.instance && *role == self.role && (front || *role == Role::Inner)
    }

    fn is_joined(&self, half: &Half) -> bool {
        match self.role {
            Role::Front => half.bridged().is_some_and(|(inner, _)| inner == self.viewer),
            Role::Inner => half.front_instance == self.viewer,
        }
    }

    /// The peer has folded its settled halves up to `horizon`; so do we.
    fn fold_through(&mut self, horizon: u64, changes: &mut Changes) {
        let table = &mut self.table;
        while let Some(&(seq, key)) = table.settled.first().filter(|(seq, _)| *seq <= horizon) {
            table.settled.remove(&(seq, key));
            if let Some((_, half)) = table.halves.remove(&key) {
                table.base.fold(&half);
                changes.push((Some(half), None));
            }
        }
    }
}

impl Table {
    /// Empty, but for what was folded.
    fn on(base: Tally) -> Self {
        let digest = Digest { opened: base.opened, closed: base.closed, ..Digest::default() };
        Self { tally: base.clone(), digest, base, ..Self::default() }
    }

    /// Takes a half in its newest state, unless it contradicts itself or what was counted of it. `joined`: was
    /// it, and is it, joined to the process that looks?
    fn put(
        &mut self,
        seq: u64,
        half: &Arc<Half>,
        (was_joined, joined): (bool, bool),
        most: usize,
    ) -> Result<(), Unappliable> {
        let key = half.key;
        let known = self.halves.get(&key);
        let share = known.map_or_else(Share::default, |(_, old)| Share::of(old));
        let now = Share::of(half);
        let sound =
            half.phase.is_closed() == half.end.is_some() && (half.end.is_some() || half.settlement.is_none());
        if !sound || !share.grows_to(&now) {
            return Err(Unappliable::Contradiction);
        }
        if known.is_none() && self.halves.len() >= most {
            return Err(Unappliable::TooMany);
        }
        let before = self.halves.insert(key, (seq, Arc::clone(half)));
        self.tally.moved(&share, &now);
        if let Some((old_seq, old)) = &before {
            if old.is_live() {
                self.live -= 1;
                self.joined -= u64::from(was_joined);
                self.digest.remove(key, old.phase);
            } else if old.is_settling() {
                self.settling -= 1;
            } else {
                self.settled.remove(&(*old_seq, key));
            }
        } else {
            self.digest.opened = self.digest.opened.wrapping_add(1);
        }
        if half.is_live() {
            self.live += 1;
            self.joined += u64::from(joined);
            self.digest.add(key, half.phase);
        } else {
            let ends = u64::from(before.is_none_or(|(_, old)| old.is_live()));
            self.digest.closed = self.digest.closed.wrapping_add(ends);
            if half.is_settling() {
                self.settling += 1;
            } else {
                self.settled.insert((seq, key));
            }
        }
        Ok(())
    }
}
