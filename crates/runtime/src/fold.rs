//! Log lines that may come in floods.
//!
//! *Owns* when a kind of line was last written and how many were kept back since. *Never* loses a count
//! . *Invariant*: at most one line per interval; each says how many it stands for.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// One kind of log line.
#[derive(Debug)]
pub struct Fold {
    interval: Duration,
    /// Active nanoseconds at which the next line may be written.
    next: AtomicU64,
    folded: AtomicU64,
}

impl Fold {
    /// At most one line per `interval`.
    pub const fn every(interval: Duration) -> Self {
        Self { interval, next: AtomicU64::new(0), folded: AtomicU64::new(0) }
    }

    /// One more happened at `now` (active time). `Some(count)` if a line is due: it stands for `count`.
    pub fn note(&self, now: Duration) -> Option<u64> {
        let now = now.as_nanos() as u64;
        let next = self.next.load(Relaxed);
        let after = now.saturating_add(self.interval.as_nanos() as u64);
        let due = now >= next && self.next.compare_exchange(next, after, Relaxed, Relaxed).is_ok();
        if due {
            return Some(self.folded.swap(0, Relaxed) + 1);
        }
        self.folded.fetch_add(1, Relaxed);
        None
    }

    /// How many are not in any line yet.
    pub fn folded(&self) -> u64 {
        self.folded.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100,000 of a kind give few lines, and the lines' counts add up.
    #[test]
    fn a_flood_gives_few_lines_that_add_up() {
        let fold = Fold::every(Duration::from_secs(1));
        let lines: Vec<u64> =
            (0..100_000_u64).filter_map(|i| fold.note(Duration::from_micros(i * 100))).collect();
        assert_eq!(lines.len(), 10);
        assert_eq!(lines.iter().sum::<u64>() + fold.folded(), 100_000);
    }
}
