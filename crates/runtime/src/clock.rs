//! The process's clocks, with the time it was suspended taken out.
//!
//! *Owns* the one reading of the monotonic clock and of the time of day, and the detection of suspensions
//! (`SIGSTOP`, a frozen machine): a ticker thread observes the clock four times a heartbeat, and a reader
//! that finds the last observation too old accounts for the gap before it gets its answer.
//! *Never* subtracts a time of day. *Invariant*: active time stands still while the process is
//! suspended and never goes backwards, and no reader sees a gap that was not taken out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ledger::{Now, Wall};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_getres, clock_gettime};

/// The clocks of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: Source,
    /// An observation at least this old, in nanoseconds, means that the process was suspended.
    late: u64,
    /// The usual distance of two observations: this much of a gap was not a suspension.
    tick: u64,
    /// Monotonic nanoseconds of the last observation.
    seen: AtomicU64,
    suspended: AtomicU64,
    /// Held while a gap is taken out, so that it is taken out once.
    accounting: Mutex<()>,
}

/// Where monotonic time comes from.
#[derive(Debug)]
enum Source {
    /// `CLOCK_MONOTONIC`, since the clock was started.
    System { start: Instant, coarse: Coarse },
    /// tokio's clock, which tests may pause.
    Tokio(tokio::time::Instant),
    /// A number that a test moves.
    Manual(Arc<AtomicU64>),
}

/// `CLOCK_MONOTONIC_COARSE` (clock_gettime(2)): the same time as of the kernel's last tick. Not reading the
/// counter makes it several times cheaper.
#[derive(Clone, Copy, Debug)]
struct Coarse {
    /// The clock's reading at the start.
    start: u64,
    /// How far it may be behind.
    tick: u64,
}

/// The hand of a manual clock.
#[derive(Clone, Debug)]
pub struct Hand(Arc<AtomicU64>);

impl Clock {
    /// Starts the clocks and the ticker thread, which ends with the last clone.
    ///
    /// An observation that comes a quarter of `heartbeat` after the one before is on time; one that comes
    /// 1.25 heartbeats after it is at least one heartbeat late, and the process was suspended.
    pub fn start(heartbeat: Duration) -> Self {
        // In this order: it must not start after the other.
        let coarse = Coarse::start();
        let clock = Self::of(Source::System { start: Instant::now(), coarse }, Some(heartbeat));
        let ticker = Arc::downgrade(&clock.shared);
        let pause = heartbeat / 4;
        let spawned =
            std::thread::Builder::new().name("clock".to_owned()).spawn(move || tick(&ticker, pause));
        if let Err(error) = spawned {
            tracing::error!(%error, "the clock has no ticker thread: suspensions will be seen by readers only");
        }
        clock
    }

    /// A clock that follows tokio's, for tests under paused time. It sees no suspensions: paused time jumps.
    pub fn of_tokio() -> Self {
        Self::of(Source::Tokio(tokio::time::Instant::now()), None)
    }

    /// A clock that only its [`Hand`] moves, for tests; a jump of 1.25 heartbeats is a suspension.
    pub fn manual(heartbeat: Duration) -> (Self, Hand) {
        let hand = Hand(Arc::default());
        (Self::of(Source::Manual(Arc::clone(&hand.0)), Some(heartbeat)), hand)
    }

    /// Every reading, taken at one moment.
    pub fn now(&self) -> Now {
        let (mono, suspended) = self.shared.read();
        Now {
            mono: Duration::from_nanos(mono),
            active: Duration::from_nanos(mono.saturating_sub(suspended)),
            wall: self.shared.source.wall(),
        }
    }

    /// Active time alone: what deadlines and activity are measured in. Cheaper than [`Clock::now`].
    pub fn active(&self) -> Duration {
        let (mono, suspended) = self.shared.read();
        Duration::from_nanos(mono.saturating_sub(suspended))
    }

    /// Active time as of the kernel's tick, rounded up to the next: what moving bytes are stamped with. Late by at
    /// most one tick (1 to 10 ms), and early only where a tick itself came late, by as much: a host that gives a
    /// virtual machine no time does that. Much cheaper than [`Clock::active`].
    pub fn stamp(&self) -> Duration {
        let (mono, suspended) = self.shared.read_by(Source::stamp);
        Duration::from_nanos(mono.saturating_sub(suspended))
    }

    /// Monotonic time alone: what ages are measured in.
    pub fn mono(&self) -> Duration {
        Duration::from_nanos(self.shared.read().0)
    }

    /// How long the process has been suspended since it started.
    pub fn suspended(&self) -> Duration {
        Duration::from_nanos(self.shared.read().1)
    }

    /// Waits until active time reaches `at`. A suspension moves the wait by as long as it took.
    pub async fn sleep_until(&self, at: Duration) {
        loop {
            let now = self.active();
            if now >= at {
                return;
            }
            tokio::time::sleep(at.saturating_sub(now)).await;
        }
    }

    fn of(source: Source, heartbeat: Option<Duration>) -> Self {
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let shared = Shared {
            source,
            late: heartbeat.map_or(u64::MAX, |h| nanos(h + h / 4)),
            tick: heartbeat.map_or(0, |h| nanos(h / 4)),
            seen: AtomicU64::new(0),
            suspended: AtomicU64::new(0),
            accounting: Mutex::new(()),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Hand {
    /// Lets `by` pass.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Shared {
    /// (monotonic, suspended), consistent with each other.
    ///
    /// A suspension may fall between any two of these loads. A reading from before it is fine as long as the
    /// suspended time is from before it too: hence the second look.
    fn read(&self) -> (u64, u64) {
        self.read_by(Source::mono)
    }

    fn read_by(&self, mono: impl Fn(&Source) -> u64) -> (u64, u64) {
        loop {
            let suspended = self.suspended.load(Ordering::Acquire);
            let mono = mono(&self.source);
            let seen = self.seen.load(Ordering::Acquire);
            if mono.saturating_sub(seen) >= self.late {
                self.observe();
            } else if self.suspended.load(Ordering::Acquire) == suspended {
                return (mono, suspended);
            }
        }
    }

    /// Notes that the process runs now; a gap since the last time is taken out.
    fn observe(&self) {
        let _one_at_a_time = self.accounting.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.source.mono();
        let gap = now.saturating_sub(self.seen.load(Ordering::Acquire));
        if gap >= self.late {
            // Before `seen`: whoever sees the new `seen` sees this too.
            self.suspended.fetch_add(gap - self.tick, Ordering::AcqRel);
        }
        self.seen.store(now, Ordering::Release);
    }
}

impl Source {
    fn mono(&self) -> u64 {
        match self {
            Self::System { start, .. } => start.elapsed().as_nanos() as u64,
            Self::Tokio(start) => start.elapsed().as_nanos() as u64,
            Self::Manual(nanos) => nanos.load(Ordering::SeqCst),
        }
    }

    fn stamp(&self) -> u64 {
        match self {
            Self::System { coarse, .. } => coarse.read(),
            Self::Tokio(_) | Self::Manual(_) => self.mono(),
        }
    }

    fn wall(&self) -> Wall {
        match self {
            Self::System { .. } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Wall(since.as_micros() as u64)
            }
            Self::Tokio(_) | Self::Manual(_) => Wall(1_700_000_000_000_000 + self.mono() / 1_000),
        }
    }
}

impl Coarse {
    fn start() -> Self {
        let nanos = |read: nix::Result<TimeSpec>| read.map_or(0, |at| Duration::from(at).as_nanos() as u64);
        Self {
            start: nanos(clock_gettime(ClockId::CLOCK_MONOTONIC)),
            tick: nanos(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)),
        }
    }

    /// Nanoseconds since the start, rounded up.
    fn read(self) -> u64 {
        let at = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("every Linux since 2.6.32 has it");
        (at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64 + self.tick).saturating_sub(self.start)
    }
}

fn tick(clock: &Weak<Shared>, pause: Duration) {
    while let Some(shared) = clock.upgrade() {
        shared.observe();
        drop(shared);
        std::thread::sleep(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: Duration = Duration::from_secs(1);
    const S: Duration = Duration::from_secs(1);

    /// What the ticker thread does, at its pace.
    fn run(clock: &Clock, hand: &Hand, quarters: u32) {
        for _ in 0..quarters {
            hand.advance(H / 4);
            clock.shared.observe();
        }
    }

    #[test]
    fn a_running_process_loses_no_time() {
        let (clock, hand) = Clock::manual(H);
        run(&clock, &hand, 400);
        hand.advance(H);
        assert_eq!((clock.now().mono, clock.now().active), (S * 101, S * 101), "a tick may be late by less");
        assert_eq!(clock.suspended(), Duration::ZERO);
    }

    /// bytes are stamped with the kernel's tick, rounded up, so that a deadline that restarts with them does
    /// not fire before its time; and never later than a tick from now.
    #[test]
    fn a_stamp_is_the_kernels_tick_rounded_up() {
        let clock = Clock::start(S);
        let Source::System { coarse, .. } = clock.shared.source else { panic!("not the system's clock") };
        let tick = Duration::from(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).unwrap());
        let kernels = || {
            let at = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).unwrap());
            (at + tick).saturating_sub(Duration::from_nanos(coarse.start))
        };
        for _ in 0..10_000 {
            let (before, stamp, after, now) = (kernels(), clock.stamp(), kernels(), clock.active());
            assert!(
                before <= stamp && stamp <= after && stamp <= now + tick,
                "{before:?} {stamp:?} {after:?}"
            );
        }
    }

    /// A stamp after a suspension leaves the suspension out, whoever looks first.
    #[test]
    fn a_stamp_takes_a_suspension_out() {
        let (clock, hand) = Clock::manual(H);
        hand.advance(S * 10);
        assert_eq!((clock.stamp(), clock.suspended() + H / 4), (H / 4, S * 10));
    }

    /// Ledger page, Synchronisation 7: whoever looks first after a suspension accounts for it before
    /// anything else, and only once.
    #[test]
    fn a_suspension_is_taken_out_once_by_whoever_looks_first() {
        let (clock, hand) = Clock::manual(H);
        run(&clock, &hand, 8);
        hand.advance(S * 10);
        let first = clock.now();
        assert_eq!(first.mono, S * 12);
        assert_eq!(first.active, S * 2 + H / 4, "the usual tick is not a suspension");
        clock.shared.observe();
        assert_eq!(clock.now().active, first.active);
        assert_eq!(clock.suspended() + H / 4, S * 10);
        run(&clock, &hand, 4);
        assert_eq!(clock.active(), first.active + S);
    }

    #[test]
    fn the_ticker_takes_a_suspension_out_too() {
        let (clock, hand) = Clock::manual(H);
        hand.advance(H + H / 4);
        clock.shared.observe();
        assert_eq!(clock.suspended(), H);
        assert_eq!(clock.active(), H / 4);
    }

    #[test]
    fn many_readers_see_one_suspension_and_time_that_never_goes_back() {
        let (clock, hand) = Clock::manual(H);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut last = Duration::ZERO;
                    while last < S * 100 {
                        let active = clock.active();
                        assert!(active >= last, "{active:?} after {last:?}");
                        last = active;
                    }
                });
            }
            for round in 0..400 {
                hand.advance(H / 4);
                clock.shared.observe();
                if round % 40 == 0 {
                    hand.advance(S * 60);
                }
            }
            hand.advance(S);
        });
        assert!(clock.suspended() >= S * 595, "{:?}", clock.suspended());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_ends_at_its_active_time() {
        let clock = Clock::of_tokio();
        clock.sleep_until(S * 5).await;
        assert!(clock.active() >= S * 5 && clock.active() < S * 6);
    }

    #[test]
    fn the_ticker_thread_ends_with_the_last_clone() {
        let clock = Clock::start(Duration::from_millis(8));
        let ticker = Arc::downgrade(&clock.shared);
        assert!(clock.now().wall > Wall(1_600_000_000_000_000));
        drop(clock);
        let patience = Instant::now();
        while ticker.strong_count() > 0 && patience.elapsed() < S * 10 {
            std::thread::yield_now();
        }
        assert_eq!(ticker.strong_count(), 0);
    }
}
