//! What settled connections add up to, beside the ledger's own tallies.
//!
//! *Owns* the counts by entry and the histograms that are made from a settled half. *Never* is asked for a
//! live number. *Invariant*: each settled half is counted once, by whoever takes it from the ledger; entries
//! beyond the cap share one count, so the sum stays right.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ledger::Half;

use crate::histogram::Histogram;

/// Entries that are counted by name; further ones together.
pub const MAX_ENTRIES: usize = 1_000;
/// What further ones are called.
pub const OTHER: &str = "other";

/// Sums over settled halves.
#[derive(Debug, Default)]
pub struct SettledTotals {
    entries: Mutex<BTreeMap<Arc<str>, u64>>,
    durations: Histogram,
    target_connects: Histogram,
}

impl SettledTotals {
    /// One more settled half.
    pub fn count(&self, half: &Half) {
        if let Some(end) = &half.end {
            self.durations.observe(end.value.age);
        }
        if let Some(took) = half.target.as_ref().filter(|t| !t.value.reused).and_then(|t| t.value.connect) {
            self.target_connects.observe(took);
        }
        if let Some(entry) = half.routing.as_ref().and_then(|routing| routing.value.entry.as_ref()) {
            self.count_entry(entry);
        }
    }

    /// Settled connections by entry.
    pub fn entries(&self) -> BTreeMap<Arc<str>, u64> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long connections lived.
    pub const fn durations(&self) -> &Histogram {
        &self.durations
    }

    /// How long dials took.
    pub const fn target_connects(&self) -> &Histogram {
        &self.target_connects
    }

    fn count_entry(&self, entry: &Arc<str>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let full = entries.len() >= MAX_ENTRIES;
        match entries.get_mut(entry) {
            Some(count) => *count += 1,
            None if full => *entries.entry(OTHER.into()).or_default() += 1,
            None => drop(entries.insert(Arc::clone(entry), 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100,000 names make a bounded number of series whose sum is right.
    #[test]
    fn names_beyond_the_cap_share_one_count() {
        let totals = SettledTotals::default();
        for entry in 0..100_000 {
            totals.count_entry(&format!("entry-{entry}").into());
        }
        let entries = totals.entries();
        assert_eq!(entries.len(), MAX_ENTRIES + 1);
        assert_eq!(entries.values().sum::<u64>(), 100_000);
        assert_eq!(entries[OTHER], 99_000);
    }
}
