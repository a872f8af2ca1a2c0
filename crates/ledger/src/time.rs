//! Time as a parameter.
//!
//! *Owns* the three readings that a caller passes in, taken at one moment.
//! *Never* reads a clock. *Never* subtracts a wall-clock time from a monotonic one.
//! *Invariant*: deadlines and liveness windows use [`Now::active`], which stands still while the process
//! is suspended; ages use [`Now::mono`]; times of day use [`Now::wall`].

use std::time::Duration;

/// One reading of the process's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic time since the process started; runs on while the process is stopped.
    pub mono: Duration,
    /// As `mono`, less the time the process was suspended (SIGSTOP, a frozen machine).
    pub active: Duration,
    /// Time of day.
    pub wall: Wall,
}

/// A duration in half the room of a [`Duration`], for what every record holds many of: whole nanoseconds, at most
/// 584 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Nanos(pub u64);

/// A time of day: microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Wall(pub u64);

impl From<Duration> for Nanos {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Nanos> for Duration {
    fn from(nanos: Nanos) -> Self {
        Self::from_nanos(nanos.0)
    }
}

impl Wall {
    /// This time of day, `after` later.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX)))
    }
}
