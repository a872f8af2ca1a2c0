//! The process's clocks, as the control channel reads them.
//!
//! *Owns* waiting in active time. *Never* measures a limit in real time: a process that was suspended is not
//! late. *Invariant*: [`Time::sleep_until`] returns only when active time has come that far.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ledger::Now;

/// Reads the process's clocks. Cheap to clone.
#[derive(Clone)]
pub struct Time(Arc<dyn Fn() -> Now + Send + Sync>);

impl Time {
    /// Time as `now` reads it.
    pub fn new(now: impl Fn() -> Now + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Every reading, taken at one moment.
    pub fn now(&self) -> Now {
        (self.0)()
    }

    /// Waits until active time reaches `at`.
    pub(crate) async fn sleep_until(&self, at: Duration) {
        loop {
            let now = self.now().active;
            if now >= at {
                return;
            }
            // Never less than the timer's own grain, or the loop would spin on the last microseconds.
            tokio::time::sleep(at.saturating_sub(now).max(Duration::from_millis(1))).await;
        }
    }

    /// Waits for `future`, for at most `limit` of active time.
    pub(crate) async fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        let at = self.now().active + limit;
        tokio::select! {
            biased;
            value = future => Some(value),
            () = self.sleep_until(at) => None,
        }
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Time").field(&self.now()).finish()
    }
}
