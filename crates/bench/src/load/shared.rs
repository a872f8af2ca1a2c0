//! Owns what the tasks of a generator count together, and the window in which they do.
//!
//! Never counts a unit outside the window; losses count always. Invariant: a task is warm once, and every task that
//! [`Shared::worker`] was given ends after [`Shared::over`] turns true.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use rustls::HandshakeKind;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::accounting::{Watch, Window};
use crate::outcome::Outcome;
use crate::stats::Percentiles;

/// How long warming up and finishing may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// After a loss, so that a dead proxy does not make a busy loop.
const PAUSE: Duration = Duration::from_millis(5);

/// The counts.
#[derive(Default)]
pub(super) struct Shared {
    measuring: Cell<bool>,
    over: Cell<bool>,
    warm: Cell<usize>,
    units: Cell<f64>,
    lost: Cell<u64>,
    first_loss: RefCell<Option<String>>,
    full: Cell<u64>,
    resumed: Cell<u64>,
    latencies: RefCell<Vec<u64>>,
    tasks: RefCell<JoinSet<()>>,
}

impl Shared {
    /// Repeats `unit` in a task until the time is over. The first one that succeeds makes the task warm.
    pub(super) fn worker<F: AsyncFnMut() -> Result<()> + 'static>(self: &Rc<Self>, mut unit: F) {
        let shared = self.clone();
        self.tasks.borrow_mut().spawn_local(async move {
            let mut warm = false;
            while !shared.over.get() {
                match unit().await {
                    Ok(()) if warm => {}
                    Ok(()) => {
                        warm = true;
                        shared.warm.set(shared.warm.get() + 1);
                    }
                    Err(error) => {
                        shared.lose(&error);
                        sleep(PAUSE).await;
                    }
                }
            }
        });
    }

    /// Some work was done.
    pub(super) fn did(&self, units: f64) {
        if self.measuring.get() {
            self.units.set(self.units.get() + units);
        }
    }

    /// A unit that began then is done.
    pub(super) fn took(&self, start: Instant) {
        if self.measuring.get() {
            self.latencies.borrow_mut().push(start.elapsed().as_nanos() as u64);
        }
    }

    /// Something went wrong.
    pub(super) fn lose(&self, error: &Error) {
        self.lost.set(self.lost.get() + 1);
        self.first_loss.borrow_mut().get_or_insert_with(|| format!("{error:#}"));
    }

    /// A handshake is complete.
    pub(super) fn shook_hands(&self, kind: Option<HandshakeKind>) {
        if !self.measuring.get() {
            return;
        }
        let count = if kind == Some(HandshakeKind::Resumed) { &self.resumed } else { &self.full };
        count.set(count.get() + 1);
    }

    /// The tasks should come to an end.
    pub(super) fn over(&self) -> bool {
        self.over.get()
    }

    /// Opens the window now.
    pub(super) fn open(&self, watch: &Watch) -> Result<Window> {
        let window = Window::open(watch)?;
        self.measuring.set(true);
        Ok(window)
    }

    /// Closes it.
    pub(super) fn close(&self, window: Window) -> Result<Outcome> {
        let outcome = window.close()?;
        self.measuring.set(false);
        self.over.set(true);
        Ok(outcome)
    }

    /// Waits for every task to be warm, measures, waits for every task to end.
    pub(super) async fn measure(
        &self,
        watch: &Watch,
        warm_up: Duration,
        window: Duration,
    ) -> Result<Outcome> {
        let tasks = self.tasks.borrow().len();
        let bound = Instant::now() + PATIENCE;
        while self.warm.get() < tasks && Instant::now() < bound {
            sleep(Duration::from_millis(1)).await;
        }
        if self.warm.get() < tasks {
            let cold = tasks - self.warm.get();
            self.lose(&Error::msg(format!("{cold} of {tasks} did nothing within {PATIENCE:?}")));
        }
        sleep(warm_up).await;
        let opened = self.open(watch)?;
        sleep(window).await;
        let outcome = self.close(opened)?;
        let mut tasks = self.tasks.take();
        if timeout(PATIENCE, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
            self.lose(&Error::msg(format!("{} did not finish within {PATIENCE:?}", tasks.len())));
        }
        Ok(self.add_to(outcome))
    }

    /// The outcome of a window, with what was counted.
    pub(super) fn add_to(&self, outcome: Outcome) -> Outcome {
        Outcome {
            units: self.units.get(),
            lost: self.lost.get(),
            first_loss: self.first_loss.borrow().clone(),
            full: self.full.get(),
            resumed: self.resumed.get(),
            latency: Percentiles::of(self.latencies.take()),
            ..outcome
        }
    }
}
