//! What the front counts beside the books: waits and second attempts.
//!
//! *Owns* numbers that are events, not states. *Never* a gauge: those are lengths of tables. *Invariant*:
//! they only grow.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use runtime::Histogram;

/// Events of the bridge.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    rebridged: AtomicU64,
    held: Histogram,
}

impl Counts {
    /// An attempt came to nothing and the connection went back to HELD: `hop_rebridged_total`.
    pub(crate) fn rebridge(&self) {
        self.rebridged.fetch_add(1, Relaxed);
    }

    /// A held connection was served after all: `hold_duration_seconds`.
    pub(crate) fn held_for(&self, duration: Duration) {
        self.held.observe(duration);
    }

    pub(crate) fn rebridged(&self) -> u64 {
        self.rebridged.load(Relaxed)
    }

    pub(crate) const fn held(&self) -> &Histogram {
        &self.held
    }
}
