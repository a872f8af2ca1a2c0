//! From a change of the books to every session that should tell it.
//!
//! *Owns* the one wake-up that a ledger has, and its fan-out. *Never* makes a data path wait: a change costs
//! it one atomic, and at most one wake-up of the control thread per [`GRAIN`]. *Invariant*: a change that
//! comes after a session looked is followed by a wake-up of that session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ledger::SharedLedger;
use tokio::sync::{Notify, watch};

/// Under load, changes wake the sessions this often. The first after a pause wakes them at once; the ledger
/// gathers what comes within 20 ms of it at least, so waking them more often would only cost: they would look, and wait.
const GRAIN: Duration = Duration::from_millis(20);

/// The wake-up of a ledger's sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Wake {
    signal: Arc<Signal>,
    woken: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Signal {
    pending: AtomicBool,
    notify: Notify,
}

impl Wake {
    /// Takes the ledger's wake-up. A ledger has one: call this once.
    pub(crate) fn of(ledger: &SharedLedger) -> Self {
        let signal = Arc::new(Signal::default());
        let from_ledger = Arc::clone(&signal);
        ledger.on_change(move || from_ledger.raise());
        Self { signal, woken: watch::Sender::new(0) }
    }

    /// Sees every wake-up from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.woken.subscribe()
    }

    /// Passes wake-ups on, for ever.
    pub(crate) async fn run(&self) {
        loop {
            self.signal.notify.notified().await;
            // Before the sessions look: a change from here on raises the signal again.
            self.signal.pending.store(false, Ordering::SeqCst);
            self.woken.send_modify(|count| *count += 1);
            tokio::time::sleep(GRAIN).await;
        }
    }
}

impl Signal {
    fn raise(&self) {
        if !self.pending.swap(true, Ordering::SeqCst) {
            self.notify.notify_one();
        }
    }
}
