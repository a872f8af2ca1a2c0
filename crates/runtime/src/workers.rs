//! The threads that carry connections.
//!
//! *Owns* one thread per worker, each with a runtime of its own: a connection stays on the thread that accepted
//! it, with the tasks that it spawns, and no thread waits for another's queue. *Never* moves a task between
//! threads, and never carries control traffic. *Invariant*: a worker runs until [`Workers`] is dropped; what is
//! left on it then is dropped with it, before the drop returns.

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Workers {
    /// Starts `count` threads, one at least.
    pub fn start(count: u32) -> io::Result<Self> {
        let mut workers = Self { handles: Vec::new(), threads: Vec::new(), stop: CancellationToken::new() };
        for number in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            workers.handles.push(runtime.handle().clone());
            let stop = workers.stop.clone();
            let name = format!("worker {number}");
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                runtime.block_on(stop.cancelled());
            })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// Where to spawn onto each.
    pub fn handles(&self) -> &[Handle] {
        &self.handles
    }
}

/// How many threads can run at once: a worker for each, where nothing else is configured.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("our bug: a worker thread panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tasks;

    /// Tasks run on the worker they were given to, and are gone once the workers are.
    #[test]
    fn a_task_stays_on_its_worker_and_ends_with_it() {
        let workers = Workers::start(2).unwrap();
        assert_eq!(workers.count(), 2);
        let (told, tell) = std::sync::mpsc::channel();
        let alive = Arc::new(());
        for handle in workers.handles() {
            let (told, alive) = (told.clone(), Arc::clone(&alive));
            tasks::spawn_on(handle, "waits", async move {
                let name = || std::thread::current().name().map(ToOwned::to_owned);
                let first = name();
                tokio::task::yield_now().await;
                told.send((first, name())).unwrap();
                std::future::pending::<()>().await;
                drop(alive);
            });
        }
        let mut seen: Vec<_> = tell.iter().take(2).collect();
        seen.sort();
        let worker = |number: u32| Some(format!("worker {number}"));
        assert_eq!(seen, [(worker(0), worker(0)), (worker(1), worker(1))]);
        drop(workers);
        assert_eq!(Arc::strong_count(&alive), 1, "what was left on them was dropped");
    }
}
