//! What the process is told from outside.
//!
//! *Owns* the signal handlers. *Never* exits: `main` does, when it is empty. *Invariant*: the first
//! SIGTERM or SIGINT drains, the second stops; SIGHUP never ends anything.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::drain::DrainSwitch;

/// Serves signals until the task is dropped; `on_hangup` is called for each SIGHUP.
pub async fn serve_signals(
    switch: DrainSwitch,
    drain_limit: Duration,
    mut on_hangup: impl FnMut(),
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hangup.recv() => {
                on_hangup();
                continue;
            }
        };
        if switch.drain(drain_limit) {
            tracing::info!(signal = name, limit = ?drain_limit, "draining; the same again stops now");
        } else if switch.stop() {
            tracing::info!(signal = name, "stopping now");
        }
    }
}
