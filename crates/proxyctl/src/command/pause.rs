//! `pause`: does nothing, in a container whose network namespace others share.
//!
//! *Owns* the two signals that end it, and the processes that lose their parent while it is the first process
//! of its PID namespace. *Never* opens a socket or a file. *Invariant*: it ends at SIGTERM and SIGINT also as
//! PID 1, where the kernel drops signals that nobody handles (pid_namespaces(7)).

use std::process::ExitCode;

use rustix::process::WaitOptions;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

pub(super) async fn run() -> Result<ExitCode, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Signals)?;
    let mut child = signal(SignalKind::child()).map_err(Failure::Signals)?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            // Signals coalesce: one may stand for several children.
            _ = child.recv() => while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {},
        }
    }
}
