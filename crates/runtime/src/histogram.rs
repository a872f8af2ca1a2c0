//! Durations in fixed buckets.
//!
//! *Owns* the bounds. *Never* locks. *Invariant*: buckets only grow, and their sum is the count.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets in milliseconds; one more takes what is longer. From a loopback dial to a
/// tunnel of a day.
pub(crate) const BOUNDS_MILLIS: [u64; 16] =
    [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 60_000, 300_000, 3_600_000, 86_400_000];

/// Counts durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_MILLIS.len() + 1],
    /// Nanoseconds.
    sum: AtomicU64,
}

impl Histogram {
    /// One more.
    pub fn observe(&self, duration: Duration) {
        let bucket = BOUNDS_MILLIS.iter().position(|bound| duration <= Duration::from_millis(*bound));
        self.buckets[bucket.unwrap_or(BOUNDS_MILLIS.len())].fetch_add(1, Relaxed);
        self.sum.fetch_add(duration.as_nanos() as u64, Relaxed);
    }

    /// How many in each bucket; the last is without bound.
    pub fn buckets(&self) -> [u64; BOUNDS_MILLIS.len() + 1] {
        std::array::from_fn(|bucket| self.buckets[bucket].load(Relaxed))
    }

    /// All durations added.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum.load(Relaxed))
    }
}
