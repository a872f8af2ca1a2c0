//! The one place where tasks are spawned.
//!
//! *Owns* the count of live tasks, which `GetStatus` shows and tests compare with a baseline.
//! *Never* spawns a task without a name. *Invariant*: a task is counted from the call of [`spawn`] until its
//! future is dropped, whether it returned, panicked or was aborted.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::Instrument;

static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// Spawns `future` as a task called `name` on the current runtime.
///
/// The name is a span at debug level: at the usual level it costs nothing.
pub fn spawn(name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let counted = counted(future);
    tokio::spawn(counted.instrument(tracing::debug_span!("task", name)))
}

/// As [`spawn`], on the runtime of `handle`.
pub fn spawn_on(
    handle: &Handle,
    name: &'static str,
    future: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let counted = counted(future);
    handle.spawn(counted.instrument(tracing::debug_span!("task", name)))
}

/// As [`spawn`], on the current thread's `LocalSet` or local runtime: for futures that are not `Send`.
pub fn spawn_local(name: &'static str, future: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    let counted = counted(future);
    tokio::task::spawn_local(counted.instrument(tracing::debug_span!("task", name)))
}

/// In a box, because what is put round a future moves it, eight times over until it is a task, and a connection's
/// has kilobytes. No `async` block: that would hold it twice, as what it captured and as what it awaits.
fn counted<F: Future<Output = ()>>(future: F) -> impl Future<Output = ()> + use<F> {
    let alive = Alive::count();
    Box::pin(future).map(move |()| drop(alive))
}

/// How many spawned tasks have not ended.
pub fn alive() -> usize {
    ALIVE.load(Ordering::Relaxed)
}

/// Counts one task while it exists.
struct Alive;

impl Alive {
    fn count() -> Self {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// returned, panicked and aborted tasks all leave the count. (The only unit test that spawns
    /// through here: the count is the process's.)
    #[tokio::test]
    async fn every_way_to_end_leaves_the_count() {
        let before = alive();
        let returned = spawn("returns", async {});
        let panicked = spawn("panics", async { panic!("on purpose") });
        let aborted = spawn("waits", std::future::pending());
        assert_eq!(alive(), before + 3);
        aborted.abort();
        assert!(returned.await.is_ok());
        assert!(panicked.await.unwrap_err().is_panic());
        assert!(aborted.await.unwrap_err().is_cancelled());
        assert_eq!(alive(), before);
    }
}
