//! How many new connections a worker takes in hand at once, and whom it turns away when more come than it can
//! serve.
//!
//! ```text
//!   the kernel's queue ──accept──▶ in hand: our next step is due ──▶ answered, or waiting for somebody else
//!   (costs nothing)        │       (at most so many at once)
//!                          └─▶ turned away: waited too long in a queue that does not get shorter
//! ```
//!
//! A worker that accepted all that come would serve everybody late, and soon only clients that have left. So what
//! cannot be begun yet waits in the listener's queue; and when that has not got shorter for two seconds, those who
//! waited in it for longer than the limit are refused at once, at a fraction of what serving costs.
//!
//! *Owns* the count of connections in hand and the judgement of one listener's queue. *Never* counts a connection
//! that waits for its client, a target, or a networkproxy that answers nobody. *Invariant*: in hand = the live
//! [`InHand`]s that are not set aside.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::accept::accept_now;
use crate::clock::Clock;
use crate::socket::{self, ListenQueue};

/// In hand at once for each worker: enough for every step to have work, few enough for each to be short.
const AT_ONCE: usize = 40;
/// When nothing in hand got on for this long, it is not for want of our time, and bounds nobody else.
const STALLED: Duration = Duration::from_millis(100);
/// How often a queue in which somebody waits is judged.
const WINDOW: Duration = Duration::from_millis(250);
/// For how long more must come than are served before anybody is turned away. A crowd that comes once is served
/// to the last.
const SPELL: Duration = Duration::from_secs(2);
/// How many may be turned away for each that is taken, so that refusing leaves time for serving.
const REFUSALS: u32 = 6;
/// Who waited so many times the limit is not worth that rule.
const HOPELESS: u32 = 3;

/// What one worker has in hand. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Intake {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    at_once: usize,
    in_hand: AtomicUsize,
    /// Active nanoseconds when a limit was reached, or something in hand got on, last; of all workers, as they
    /// wait for the same networkproxies.
    moved: Arc<AtomicU64>,
    room: Notify,
}

/// A new connection in hand. Counts until it is dropped or set aside.
#[derive(Debug)]
pub struct InHand {
    shared: Arc<Shared>,
    counted: bool,
}

/// What is done with a client that waited too long: it gets the socket, whose it is, and how long that was. It must
/// not wait.
type TurnAway = Box<dyn FnMut(std::net::TcpStream, SocketAddr, Duration) + Send>;

/// A worker's intake from one listener.
pub struct Queue {
    intake: Intake,
    /// How long somebody may have waited to be accepted while more come than can be served.
    longest: Option<Duration>,
    turn_away: TurnAway,
    trend: Trend,
    /// Turned away since somebody was taken.
    refused: u32,
}

impl Intake {
    /// An intake with nothing in hand for each of `workers`.
    pub fn of_workers(workers: usize, clock: &Clock) -> Vec<Self> {
        Self::limited(workers, AT_ONCE, clock)
    }

    fn limited(workers: usize, at_once: usize, clock: &Clock) -> Vec<Self> {
        let moved = Arc::<AtomicU64>::default();
        let intake = |_| {
            let (clock, moved) = (clock.clone(), Arc::clone(&moved));
            Self {
                shared: Arc::new(Shared {
                    clock,
                    at_once,
                    in_hand: AtomicUsize::new(0),
                    moved,
                    room: Notify::new(),
                }),
            }
        };
        (0..workers).map(intake).collect()
    }

    /// Takes a new connection in hand.
    pub fn take(&self) -> InHand {
        let mut taken = InHand { shared: Arc::clone(&self.shared), counted: false };
        taken.take_up();
        taken
    }

    /// The intake from one listener, which turns away who waited `longest` when more come than can be served.
    pub fn from_queue(
        &self,
        longest: Option<Duration>,
        turn_away: impl FnMut(std::net::TcpStream, SocketAddr, Duration) + Send + 'static,
    ) -> Queue {
        let (turn_away, trend) = (Box::new(turn_away), Trend::default());
        Queue { intake: self.clone(), longest, turn_away, trend, refused: 0 }
    }

    /// New connections in hand now.
    pub fn in_hand(&self) -> usize {
        self.shared.in_hand.load(Relaxed)
    }

    /// Waits until there is room; did it have to? Cancel safe.
    async fn room(&self) -> bool {
        let shared = &*self.shared;
        if shared.in_hand.load(Relaxed) < shared.at_once {
            return false;
        }
        loop {
            let mut room = pin!(shared.room.notified());
            room.as_mut().enable();
            let still = shared.quiet_for();
            if shared.in_hand.load(Relaxed) <= shared.again() || still >= STALLED {
                return true;
            }
            tokio::select! {
                () = room => {}
                () = tokio::time::sleep(STALLED.saturating_sub(still)) => {}
            }
        }
    }
}

impl Shared {
    /// Below this more are taken again: in batches, not one by one.
    const fn again(&self) -> usize {
        self.at_once - self.at_once.div_ceil(4)
    }

    fn moves(&self) {
        self.moved.store(self.clock.stamp().as_nanos() as u64, Relaxed);
    }

    /// How long nothing got on.
    fn quiet_for(&self) -> Duration {
        self.clock.stamp().saturating_sub(Duration::from_nanos(self.moved.load(Relaxed)))
    }
}

impl InHand {
    /// The next step is somebody else's: the client's, a target's.
    pub fn set_aside(&mut self) {
        if !std::mem::take(&mut self.counted) {
            return;
        }
        let left = self.shared.in_hand.fetch_sub(1, Relaxed) - 1;
        self.shared.moves();
        if left == self.shared.again() {
            self.shared.room.notify_waiters();
        }
    }

    /// The next step is ours again.
    pub fn take_up(&mut self) {
        if std::mem::replace(&mut self.counted, true) {
            return;
        }
        let before = self.shared.in_hand.fetch_add(1, Relaxed);
        if before + 1 == self.shared.at_once {
            self.shared.moves();
        }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.set_aside();
    }
}

impl Queue {
    /// Accepts the next one to be served, when there is room; those who waited too long are turned away on the way.
    /// Cancel safe.
    pub(crate) async fn accept(&mut self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            if self.intake.room().await {
                self.judge(listener);
            }
            if !self.trend.is_overload(self.intake.shared.clock.stamp()) {
                return self.accept_next(listener).await;
            }
            tokio::task::consume_budget().await;
            // Straight from the kernel: who is turned away is not registered with the reactor first.
            let (socket, client) = match accept_now(listener) {
                Ok(accepted) => accepted,
                // Nobody waits, so who comes next has not waited.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.accept_next(listener).await;
                }
                Err(error) => return Err(error),
            };
            let waited = self.waited_too_long(&socket);
            self.popped(waited.is_none());
            match waited {
                Some(waited) => (self.turn_away)(socket, client, waited),
                None => return Ok((TcpStream::from_std(socket)?, client)),
            }
        }
    }

    /// Waits for the next one, who is served.
    async fn accept_next(&mut self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        let accepted = listener.accept().await?;
        self.popped(true);
        Ok(accepted)
    }

    /// Somebody left the queue.
    fn popped(&mut self, taken: bool) {
        self.refused = if taken { 0 } else { self.refused + 1 };
        self.trend.popped(taken);
    }

    /// A look at the queue, when it is time for one.
    fn judge(&mut self, listener: &TcpListener) {
        let now = self.intake.shared.clock.stamp();
        if self.trend.is_due(now)
            && let Ok(queue) = ListenQueue::of(listener)
        {
            self.trend.note(now, queue);
        }
    }

    /// How long `socket` waited, where that is too long in an overload.
    fn waited_too_long(&self, socket: &std::net::TcpStream) -> Option<Duration> {
        let longest = self.longest?;
        let waited = socket::quiet_since_last_data(socket).ok().filter(|waited| *waited > longest)?;
        (self.refused < REFUSALS || waited > longest.saturating_mul(HOPELESS)).then_some(waited)
    }
}

/// Whether a queue gets shorter, judged from window to window. Pure.
#[derive(Debug, Default)]
struct Trend {
    window: Option<Window>,
    /// When the first of the latest windows began in which it did not.
    spell: Option<Duration>,
    /// How long they have lasted.
    lasted: Duration,
}

#[derive(Debug)]
struct Window {
    began: Duration,
    waiting: u32,
    taken: u32,
    refused: u32,
}

impl Window {
    /// After a while without a look there was room for everybody.
    fn is_recent(&self, now: Duration) -> bool {
        now.saturating_sub(self.began) <= WINDOW * 4
    }
}

impl Trend {
    /// Do more come than are served, for long enough, and still?
    fn is_overload(&self, now: Duration) -> bool {
        self.lasted >= SPELL && self.window.as_ref().is_some_and(|window| window.is_recent(now))
    }

    /// Is it time for a look at the queue?
    fn is_due(&self, now: Duration) -> bool {
        self.window.as_ref().is_none_or(|window| now.saturating_sub(window.began) >= WINDOW)
    }

    /// Somebody left the queue.
    fn popped(&mut self, taken: bool) {
        if let Some(window) = &mut self.window {
            *(if taken { &mut window.taken } else { &mut window.refused }) += 1;
        }
    }

    /// Nobody could be taken until `now`, with this queue behind.
    fn note(&mut self, now: Duration, queue: ListenQueue) {
        let next = Window { began: now, waiting: queue.waiting, taken: 0, refused: 0 };
        let grew = self.window.replace(next).filter(|window| {
            let unbroken = window.is_recent(now);
            let came = i64::from(window.taken) + i64::from(window.refused) + i64::from(queue.waiting)
                - i64::from(window.waiting);
            let more = came * 4 > i64::from(window.taken) * 5;
            // The kernel drops what a full queue cannot take, and does not say so here.
            let full = queue.waiting >= queue.capacity - queue.capacity / 64;
            unbroken && queue.waiting > 0 && (more || full)
        });
        self.spell = grew.map(|window| self.spell.unwrap_or(window.began));
        self.lasted = self.spell.map_or(Duration::ZERO, |since| now.saturating_sub(since));
    }
}

#[cfg(test)]
mod tests;
