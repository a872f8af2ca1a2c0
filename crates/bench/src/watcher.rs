//! Owns a thread that asks both processes questions all the time while traffic runs, and remembers how long answers took.
//!
//! Never on the proxies' core where that is pinned. A question that fails is counted and the next one is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::admin::{Admin, scrape};
use crate::stats::Percentiles;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Questions {
    /// Status and the first page, every 50 ms.
    Few,
    /// Every record of both, both audits, both `/metrics`; again 100 ms after the last answer.
    Everything,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Rounds of questions.
    pub rounds: u64,
    /// Questions that failed, and how the first did.
    pub failed: u64,
    /// The first failure.
    pub first_failure: Option<String>,
    /// Records of the last list.
    pub records: usize,
    status: Vec<u64>,
    first_page: Vec<u64>,
    round: Vec<u64>,
    /// How often the control channel's heartbeats were not fresh.
    pub stale: u64,
    /// The oldest heartbeat.
    pub oldest: Duration,
}

impl Seen {
    /// Latencies of `GetStatus`.
    pub(crate) fn status(&self) -> Option<Percentiles> {
        Percentiles::of(self.status.clone())
    }

    /// Latencies of a first page.
    pub(crate) fn first_page(&self) -> Option<Percentiles> {
        Percentiles::of(self.first_page.clone())
    }

    /// Latencies of a whole round of questions.
    pub(crate) fn round(&self) -> Option<Percentiles> {
        Percentiles::of(self.round.clone())
    }

    /// What both have seen.
    pub(crate) fn add(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.records = other.records;
        self.status.extend(other.status);
        self.first_page.extend(other.first_page);
        self.round.extend(other.round);
        self.stale += other.stale;
        self.oldest = self.oldest.max(other.oldest);
    }

    fn note<T>(&mut self, answer: Result<T>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| format!("{error:#}"));
                None
            }
        }
    }

    fn few(&mut self, admin: &Admin) {
        let start = Instant::now();
        if let Some(status) = self.note(admin.status()) {
            self.status.push(nanoseconds(start));
            for peer in status.peers {
                self.stale += u64::from(!peer.heartbeats_fresh);
                let age = peer.since_heartbeat.unwrap_or_default();
                self.oldest = self.oldest.max(Duration::try_from(age).unwrap_or_default());
            }
        }
        self.page(admin);
    }

    fn everything(&mut self, admin: &Admin) {
        let start = Instant::now();
        self.page(admin);
        for process in 0..2 {
            if let Some(records) = self.note(admin.list(process)) {
                self.records = records;
            }
            self.note(admin.audit(process, None));
        }
        self.note(scrape());
        self.round.push(nanoseconds(start));
    }

    fn page(&mut self, admin: &Admin) {
        let start = Instant::now();
        if self.note(admin.page(0, String::new(), 100)).is_some() {
            self.first_page.push(nanoseconds(start));
        }
    }
}

/// The thread.
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Seen>>,
}

impl Watcher {
    /// Begins, on `core`.
    pub(crate) fn start(questions: Questions, core: Option<usize>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            if let Some(core) = core {
                let mut set = CpuSet::new();
                set.set(core);
                sched_setaffinity(None, &set)?;
            }
            let admin = Admin::connect().context("the watcher")?;
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) {
                let pause = match questions {
                    Questions::Few => {
                        seen.few(&admin);
                        Duration::from_millis(50)
                    }
                    Questions::Everything => {
                        seen.everything(&admin);
                        Duration::from_millis(100)
                    }
                };
                seen.rounds += 1;
                std::thread::sleep(pause);
            }
            Ok(seen)
        });
        Self { stop, thread }
    }

    /// Ends after the question that is being asked.
    pub(crate) fn finish(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the watcher panicked"))?
    }
}

fn nanoseconds(start: Instant) -> u64 {
    start.elapsed().as_nanos() as u64
}
