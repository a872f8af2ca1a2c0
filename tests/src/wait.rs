//! Owns the one way in which a test waits: for a state, with a bound.
//!
//! Never sleeps to let something happen: it asks again until the state is there, and fails with words when it does
//! not come.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a state may take that should come at once. Generous: the machine may be busy.
pub const SOON: Duration = Duration::from_secs(10);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `look` finds something, at most `bound`; `what` names it in the error.
pub async fn until<T>(what: &str, bound: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if start.elapsed() > bound {
            bail!("waited {bound:?} in vain: {what}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Runs `future` to its end, at most `bound`; `what` names it in the error.
pub async fn within<T>(what: &str, bound: Duration, future: impl Future<Output = T>) -> Result<T> {
    match tokio::time::timeout(bound, future).await {
        Ok(value) => Ok(value),
        Err(_) => bail!("not done after {bound:?}: {what}"),
    }
}
