//! The control thread: a runtime of its own for the control channel and the admin services.
//!
//! *Owns* the thread. *Never* shares a queue with data paths: nothing that carries a client's bytes runs
//! here, so neither can hold the other up. *Invariant*: the thread ends when what it was started for
//! returns, and whoever started it can wait for that.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// The running control thread.
#[derive(Debug)]
pub struct ControlThread {
    handle: Handle,
    ended: watch::Receiver<bool>,
    thread: JoinHandle<()>,
}

/// Starts the thread and runs `work` on it.
pub fn start<F>(name: &str, work: impl FnOnce() -> F + Send + 'static) -> io::Result<ControlThread>
where
    F: Future<Output = ()>,
{
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    let handle = runtime.handle().clone();
    let (ending, ended) = watch::channel(false);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        runtime.block_on(async move { work().await });
        // Tasks that are still there hold nothing that must be said: sessions were waited for.
        runtime.shutdown_background();
        ending.send_replace(true);
    })?;
    Ok(ControlThread { handle, ended, thread })
}

impl ControlThread {
    /// Spawns onto the thread's runtime.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits, on any runtime, until the work has returned (or panicked).
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        ended.wait_for(|ended| *ended).await.ok();
    }

    /// Waits for the thread. An error is the panic that ended it.
    pub fn join(self) -> std::thread::Result<()> {
        self.thread.join()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_thread_ends_with_its_work() {
        let thread = start("control", || async {
            assert_eq!(std::thread::current().name(), Some("control"));
        });
        let thread = thread.unwrap();
        thread.ended().await;
        thread.join().unwrap();
    }
}
