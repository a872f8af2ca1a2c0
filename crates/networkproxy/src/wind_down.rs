//! The word that connections are to come to an end.
//!
//! *Owns* whether it was given. *Never* takes it back. *Invariant*: whoever waits for it is woken once it is given,
//! and whoever asks whether it was pays for one load: connections ask with every request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio_util::sync::CancellationToken;

/// The word. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct WindDown {
    given: Arc<AtomicBool>,
    waiting: CancellationToken,
}

impl WindDown {
    /// Gives it.
    pub fn give(&self) {
        self.given.store(true, SeqCst);
        self.waiting.cancel();
    }

    /// Was it given?
    pub fn is_given(&self) -> bool {
        self.given.load(SeqCst)
    }

    /// Waits for it. Cancel safe.
    pub async fn given(&self) {
        self.waiting.cancelled().await;
    }
}
