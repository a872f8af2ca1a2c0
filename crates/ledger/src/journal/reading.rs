//! Reading a journal bit by bit, as of one instant.
//!
//! *Owns* what readers have not come to yet. *Never* copies a table: a reading notes a position, walks the
//! feed behind it at its own pace, and is handed the old state of a half that changes before it gets there.
//! *Invariant*: what a reading yields, over all its stretches, is exactly what the feed held between its two
//! positions when it began, in order of position.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Journal;
use crate::half::Half;

/// The readings in progress: one per session that is sending a pull, one per audit. Mostly none.
#[derive(Debug, Default)]
pub(super) struct Readings {
    open: Vec<Reading>,
    begun: u64,
}

/// One reading. To be ended by [`Journal::end_reading`]: until then it keeps what changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a reading that is not ended keeps what changes"]
pub(crate) struct ReadingId(u64);

#[derive(Debug)]
struct Reading {
    id: ReadingId,
    /// Everything up to here was yielded.
    at: u64,
    /// The position of the instant it shows.
    through: u64,
    /// Halves that have moved on since, at the positions they had.
    kept: BTreeMap<u64, Arc<Half>>,
}

impl Readings {
    /// The half at `seq` is about to change, or to go.
    pub(super) fn keep(&mut self, seq: u64, half: &Arc<Half>) {
        for reading in &mut self.open {
            if reading.at < seq && seq <= reading.through {
                reading.kept.insert(seq, Arc::clone(half));
            }
        }
    }
}

impl Journal {
    /// Begins to read what changed after `from`, as of now.
    pub(crate) fn begin_reading(&mut self, from: u64) -> ReadingId {
        self.readings.begun += 1;
        let id = ReadingId(self.readings.begun);
        self.readings.open.push(Reading { id, at: from, through: self.next, kept: BTreeMap::new() });
        id
    }

    /// Yields the next halves with their positions, until `each` has had enough (it returns `false`) or there
    /// are no more. Are there more?
    pub(crate) fn read_on(
        &mut self,
        reading: ReadingId,
        mut each: impl FnMut(u64, &Arc<Half>) -> bool,
    ) -> bool {
        let Some(reading) = self.readings.open.iter_mut().find(|open| open.id == reading) else {
            return false;
        };
        let mut unchanged =
            self.feed.range(reading.at.saturating_add(1)..=reading.through.max(reading.at.saturating_add(1)));
        let mut next = unchanged.next();
        let mut wanted = true;
        loop {
            let kept = reading.kept.first_key_value().map(|(seq, _)| *seq);
            let fresh = next.filter(|(seq, _)| **seq <= reading.through);
            if kept.is_none() && fresh.is_none() {
                return false;
            }
            if !wanted {
                return true;
            }
            match fresh {
                Some((seq, half)) if kept.is_none_or(|kept| *seq < kept) => {
                    wanted = each(*seq, half);
                    reading.at = *seq;
                    next = unchanged.next();
                }
                _ => {
                    let Some((seq, half)) = reading.kept.pop_first() else { return false };
                    wanted = each(seq, &half);
                    reading.at = seq;
                }
            }
        }
    }

    /// Ends a reading: nothing is kept for it any more.
    pub(crate) fn end_reading(&mut self, reading: ReadingId) {
        self.readings.open.retain(|open| open.id != reading);
    }

    /// Readings in progress.
    pub(crate) fn readings(&self) -> usize {
        self.readings.open.len()
    }
}
