//! Bytes and activity of a live half, written by its data path without a lock.
//!
//! *Owns* the atomics that a `Leg` bumps after each read and write, and their frozen copy. *Never* counts a
//! byte twice: one meter per leg and direction, moved only by the call that moved the bytes.
//! *Invariant*: meters only grow; whether HTTP is idle or active follows from started and finished counts,
//! so it needs no journal entry.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::evidence::LegName;
use crate::time::Nanos;

/// Which way bytes went, seen from this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Read from the leg.
    In = 0,
    /// Written to the leg.
    Out = 1,
}

/// The live meters of one half; shared between its data path and the ledger.
#[derive(Debug, Default)]
pub struct Traffic {
    meters: [[Meter; 2]; 3],
    requests_started: AtomicU64,
    requests_finished: AtomicU64,
}

#[derive(Debug, Default)]
struct Meter {
    bytes: AtomicU64,
    /// Active time of the last byte, nanoseconds; 0 is never.
    last: AtomicU64,
}

/// A frozen copy of [`Traffic`], absolute values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficTotals {
    /// Per leg (client, hop, target) and direction (in, out).
    pub meters: [[MeterTotal; 2]; 3],
    /// HTTP requests whose head was read.
    pub requests_started: u64,
    /// HTTP requests whose response (or failure) is complete.
    pub requests_finished: u64,
}

/// Bytes of one leg in one direction and when the last one moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeterTotal {
    /// Bytes.
    pub bytes: u64,
    /// Active time of the last byte since the process started; zero is never.
    pub last: Nanos,
}

impl Traffic {
    /// `count` bytes moved at `at` (active time). One writer per leg and direction.
    pub fn moved(&self, leg: LegName, direction: Direction, count: u64, at: Duration) {
        let meter = &self.meters[leg as usize - 1][direction as usize];
        meter.bytes.fetch_add(count, Relaxed);
        meter.last.store(at.as_nanos() as u64, Relaxed);
    }

    /// A request head was read.
    pub fn request_started(&self) {
        self.requests_started.fetch_add(1, Relaxed);
    }

    /// A request is over, however it ended.
    pub fn request_finished(&self) {
        self.requests_finished.fetch_add(1, Relaxed);
    }

    /// Bytes so far of one leg in one direction.
    pub fn bytes(&self, leg: LegName, direction: Direction) -> u64 {
        self.meters[leg as usize - 1][direction as usize].bytes.load(Relaxed)
    }

    /// When the last byte moved on any leg in any direction; zero is never.
    pub fn last_activity(&self) -> Duration {
        let last = self.meters.iter().flatten().map(|m| m.last.load(Relaxed)).max();
        Duration::from_nanos(last.unwrap_or(0))
    }

    /// A copy of every meter.
    pub fn totals(&self) -> TrafficTotals {
        let total =
            |m: &Meter| MeterTotal { bytes: m.bytes.load(Relaxed), last: Nanos(m.last.load(Relaxed)) };
        let finished = self.requests_finished.load(Relaxed);
        TrafficTotals {
            meters: std::array::from_fn(|leg| std::array::from_fn(|d| total(&self.meters[leg][d]))),
            requests_finished: finished,
            requests_started: self.requests_started.load(Relaxed).max(finished),
        }
    }
}

impl TrafficTotals {
    /// One meter.
    pub const fn meter(&self, leg: LegName, direction: Direction) -> MeterTotal {
        self.meters[leg as usize - 1][direction as usize]
    }

    /// Requests in progress.
    pub const fn requests_open(&self) -> u64 {
        self.requests_started.saturating_sub(self.requests_finished)
    }

    /// Takes the larger of both, meter by meter: progress may arrive late or twice.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.meters.iter_mut().flatten().zip(other.meters.iter().flatten()) {
            mine.bytes = mine.bytes.max(theirs.bytes);
            mine.last = mine.last.max(theirs.last);
        }
        self.requests_started = self.requests_started.max(other.requests_started);
        self.requests_finished = self.requests_finished.max(other.requests_finished);
    }

    /// When the last byte moved on any leg in any direction; zero is never.
    pub fn last_activity(&self) -> Duration {
        self.meters.iter().flatten().map(|m| m.last).max().unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_merges_by_maximum_in_any_order() {
        let traffic = Traffic::default();
        traffic.moved(LegName::Client, Direction::In, 5, Duration::from_secs(1));
        let early = traffic.totals();
        traffic.moved(LegName::Client, Direction::In, 7, Duration::from_secs(2));
        traffic.request_started();
        let late = traffic.totals();
        let (mut a, mut b) = (early, late);
        a.merge(&late);
        b.merge(&early);
        assert_eq!((a, b), (late, late));
        assert_eq!(a.meter(LegName::Client, Direction::In).bytes, 12);
        assert_eq!(a.requests_open(), 1);
        assert_eq!(traffic.last_activity(), Duration::from_secs(2));
    }
}
