//! How a connection's sockets are left: deliver, FIN, bounded wait, close, or RST.
//!
//! *Owns* the end of every data socket ([`cleanup_socket`]) and of a connection's pair of them
//! ([`cleanup_connection`]). *Never* lets a truncated stream look complete: whoever is not told everything,
//! or does not answer, is reset.
//! *Invariant*: every wait is bounded: delivery by `write_stall` since the last progress, the answer to our
//! FIN by `close`.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use ledger::{Armed, Change, Class, DeadlineName, HopCount, LegName, Limit, Phase, Reason, Restart};

use crate::buffer;
use crate::evidence::News;
use crate::leg::Leg;
use crate::tracked::TrackedConnection;

/// Pauses between two looks at a send queue, which has no event: the first and the longest. A kernel that has
/// nothing to send delays its acknowledgement by 40 ms (`TCP_DELACK_MIN`): looking more often costs more than
/// the goodbye.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(50));

/// How a socket is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// Deliver, FIN, wait for the other's end of stream.
    Orderly,
    /// Deliver, then RST: passes a reset on.
    Reset,
    /// RST at once: what is not delivered by now never will be.
    Abort,
}

/// A socket to be left.
#[derive(Debug)]
pub struct Parting {
    /// The socket.
    pub leg: Leg,
    /// How.
    pub goodbye: Goodbye,
    /// Bytes that were read for it and not written yet.
    pub rest: Vec<u8>,
}

/// The bounds of a goodbye.
#[derive(Clone, Debug)]
pub struct FarewellLimits {
    /// How long the other end may take none of our bytes.
    pub write_stall: Limit,
    /// How long it may leave our FIN unanswered.
    pub close: Limit,
}

/// How a goodbye went.
#[derive(Debug)]
pub struct Departure {
    /// Which socket.
    pub leg: LegName,
    /// What became of it.
    pub outcome: Outcome,
    /// What had passed over it.
    pub count: HopCount,
    /// Bytes for it that it did not get, as far as its kernel told.
    pub undelivered: u64,
    /// What it told meanwhile.
    pub news: Vec<News>,
    /// Everything was delivered before it ended.
    pub delivered: bool,
    /// It had closed for good before our last few bytes came.
    pub left_before: bool,
}

/// What became of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both FINs, everything delivered, closed.
    Closed,
    /// Reset by us, as intended.
    Reset,
    /// It broke, or was broken before.
    Broken,
    /// Reset by us: it took no bytes for `write_stall`.
    Stalled,
    /// Reset by us: our FIN was not answered within `close`.
    Unanswered,
}

/// What a connection's end needs to know of its sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Farewell {
    /// The hop's bytes; zeros where there was none.
    pub hop: HopCount,
    /// Bytes read and not delivered.
    pub undelivered: u64,
}

/// Leaves a connection's sockets, both at once, and adds what they told to the evidence. The record is in
/// CLOSING meanwhile, if that takes any time, and is still open when this returns: sockets first, record
/// last.
pub async fn cleanup_connection(
    tracked: &mut TrackedConnection,
    first: Parting,
    second: Option<Parting>,
    limits: &FarewellLimits,
) -> Farewell {
    let progress = [Progress::default(), Progress::default()];
    if second.is_none() {
        progress[1].set(Stage::Done);
    }
    let mut first = pin!(cleanup(first, limits, &progress[0]));
    let mut second = pin!(async {
        match second {
            Some(parting) => Some(cleanup(parting, limits, &progress[1]).await),
            None => None,
        }
    });
    let mut departures = (None, None);
    let mut shown = None;
    std::future::poll_fn(|cx| {
        if departures.0.is_none()
            && let Poll::Ready(departure) = first.as_mut().poll(cx)
        {
            departures.0 = Some(departure);
        }
        if departures.1.is_none()
            && let Poll::Ready(departure) = second.as_mut().poll(cx)
        {
            departures.1 = Some(departure);
        }
        if departures.0.is_some() && departures.1.is_some() {
            return Poll::Ready(());
        }
        let stage = progress.iter().map(Progress::stage).min();
        if shown != stage {
            show(tracked, stage == Some(Stage::Delivering), limits);
            shown = stage;
        }
        Poll::Pending
    })
    .await;
    let mut farewell = Farewell::default();
    for departure in [departures.0, departures.1.flatten()].into_iter().flatten() {
        farewell.undelivered += departure.undelivered;
        if departure.leg == LegName::Hop {
            farewell.hop = departure.count;
        }
        testify(tracked, &departure, limits);
    }
    farewell
}

/// Leaves one socket.
pub async fn cleanup_socket(parting: Parting, limits: &FarewellLimits) -> Departure {
    cleanup(parting, limits, &Progress::default()).await
}

/// How far a goodbye is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Delivering,
    Waiting,
    Done,
}

/// A goodbye's stage, to be looked at from beside it.
#[derive(Debug, Default)]
struct Progress(AtomicU8);

impl Progress {
    fn stage(&self) -> Stage {
        [Stage::Delivering, Stage::Waiting, Stage::Done][usize::from(self.0.load(Relaxed))]
    }

    fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Relaxed);
    }
}

/// Shows on the record what the goodbye waits for.
fn show(tracked: &mut TrackedConnection, delivering: bool, limits: &FarewellLimits) {
    tracked.deadlines_mut().keep_only(&[]);
    if delivering {
        tracked.arm(DeadlineName::WriteStall, &limits.write_stall, Restart::OnBytes);
    } else {
        tracked.arm(DeadlineName::Close, &limits.close, Restart::Never);
    }
    let closing = (tracked.current_phase() != Phase::Closing).then_some(Change::Phase(Phase::Closing, None));
    tracked.record(closing);
}

/// Adds a departure to the evidence. What happens to a socket that has everything we owed it is a
/// consequence of what was seen before, not a cause.
fn testify(tracked: &mut TrackedConnection, departure: &Departure, limits: &FarewellLimits) {
    let leg = departure.leg;
    for news in &departure.news {
        let mut observation = tracked.observation_of(news, leg);
        let consequence = departure.delivered || departure.left_before;
        if consequence && observation.class.is_hard() && !tracked.observations().is_empty() {
            observation.class = Class::Consequence;
        }
        tracked.observe(observation);
    }
    let (name, limit, reason) = match departure.outcome {
        Outcome::Stalled => (DeadlineName::WriteStall, &limits.write_stall, Reason::WriteStallTimeout),
        Outcome::Unanswered => (DeadlineName::Close, &limits.close, Reason::CloseTimeout),
        Outcome::Closed | Outcome::Reset | Outcome::Broken => return,
    };
    let since = tracked.clock().active().saturating_sub(limit.value);
    let source = limit.source.clone();
    let armed = Armed { name, limit: limit.value, source, since, restart: Restart::Never };
    let mut observation =
        tracked.observation(reason, Some(leg)).by_rule(armed.rule(), format!("{:?}", limit.value));
    if departure.outcome == Outcome::Unanswered && !tracked.observations().is_empty() {
        observation.class = Class::Consequence;
    }
    tracked.observe(observation);
}

async fn cleanup(parting: Parting, limits: &FarewellLimits, progress: &Progress) -> Departure {
    let Parting { leg, goodbye, rest } = parting;
    let mut left = rest.len() as u64;
    let outcome = say_goodbye(&leg, goodbye, &rest, &mut left, limits, progress).await;
    let delivered = progress.stage() == Stage::Waiting;
    progress.set(Stage::Done);
    let undelivered = match outcome {
        Outcome::Closed => 0,
        _ => left + leg.unacknowledged(),
    };
    match outcome {
        Outcome::Closed => leg.clear_linger(),
        // Closing the descriptor resets, unless it is not the last one.
        _ if leg.is_shared() => leg.tear(),
        _ => {}
    }
    if leg.is_shared() {
        tracing::error!(leg = leg.name().name(), "our bug: a handle of a socket outlives its goodbye");
    }
    let left_before = leg.left_before_our_goodbye();
    let (name, count, news) = (leg.name(), leg.count(), leg.take_news());
    Departure { leg: name, outcome, count, undelivered, news, delivered, left_before }
}

async fn say_goodbye(
    leg: &Leg,
    goodbye: Goodbye,
    rest: &[u8],
    left: &mut u64,
    limits: &FarewellLimits,
    progress: &Progress,
) -> Outcome {
    let broken = leg.evidence().failure.is_some();
    match goodbye {
        _ if broken => return Outcome::Broken,
        Goodbye::Abort => return Outcome::Reset,
        Goodbye::Orderly | Goodbye::Reset => {}
    }
    if let Err(outcome) = hand_over(leg, rest, left, limits.write_stall.value).await {
        return outcome;
    }
    if goodbye == Goodbye::Orderly {
        // Before the queue is empty: the FIN follows the last byte, and the slowest reader waits for nothing.
        leg.shutdown_write();
    }
    if let Err(outcome) = drain(leg, limits.write_stall.value).await {
        return outcome;
    }
    progress.set(Stage::Waiting);
    if goodbye == Goodbye::Reset {
        return Outcome::Reset;
    }
    await_end(leg, limits.close.value).await
}

/// Writes what is left. Meanwhile discards what comes in: the other end may not read before it has written.
async fn hand_over(leg: &Leg, rest: &[u8], left: &mut u64, stall: Duration) -> Result<(), Outcome> {
    let mut rest = rest;
    let mut until = after(leg, stall);
    while !rest.is_empty() {
        match leg.try_write(rest) {
            Ok(count) => {
                rest = &rest[count..];
                *left -= count as u64;
                until = after(leg, stall);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                leg.tolerate_stall(stall);
                tokio::select! {
                    _ = leg.writable() => {}
                    () = discard(leg) => {}
                    () = bound(leg, until) => return Err(Outcome::Stalled),
                }
            }
            Err(_) => return Err(Outcome::Broken),
        }
    }
    Ok(())
}

/// Waits until the other kernel has every byte. Not for its answer to our FIN, which it may delay: what is
/// acknowledged is complete, and a FIN that is lost is sent again by the kernel after we closed.
async fn drain(leg: &Leg, stall: Duration) -> Result<(), Outcome> {
    let mut until = after(leg, stall);
    let mut acked = None;
    let mut pause = PAUSES.0;
    loop {
        let Ok(queue) = leg.send_queue() else { return Err(Outcome::Broken) };
        if leg.evidence().failure.is_some() {
            return Err(Outcome::Broken);
        }
        if leg.lacking(&queue) == 0 {
            return Ok(());
        }
        if queue.ended {
            // Whoever took the error from the socket has noted it, or is about to.
            return Err(Outcome::Broken);
        }
        if acked.replace(queue.acked) != Some(queue.acked) {
            until = after(leg, stall);
        }
        if pause == PAUSES.1 {
            leg.tolerate_stall(stall);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSES.1),
            () = discard(leg) => {}
            _ = leg.failed() => return Err(Outcome::Broken),
            () = bound(leg, until) => return Err(Outcome::Stalled),
        }
    }
}

/// Waits for the other end's FIN.
async fn await_end(leg: &Leg, close: Duration) -> Outcome {
    let until = after(leg, close);
    if leg.name() == LegName::Hop && leg.evidence().fin.is_none() {
        // The last words on the hop are waited for by our own other half.
        leg.acknowledge_at_once();
    }
    loop {
        if leg.evidence().failure.is_some() {
            return Outcome::Broken;
        }
        if leg.evidence().fin.is_some() {
            return Outcome::Closed;
        }
        tokio::select! {
            () = discard(leg) => {}
            () = bound(leg, until) => return Outcome::Unanswered,
        }
    }
}

/// Waits for bytes and drops them; they count as received. Pending for ever after the end of the stream or
/// an error, which are evidence by then.
async fn discard(leg: &Leg) {
    let seen = leg.evidence();
    if seen.fin.is_some() || seen.failure.is_some() {
        return std::future::pending().await;
    }
    if leg.readable().await.is_ok() {
        // The outcome is counted, or evidence.
        drop(buffer::with(|buffer| leg.try_read(buffer)));
    }
}

/// The moment `limit` from now; `None` where there is no limit.
fn after(leg: &Leg, limit: Duration) -> Option<Duration> {
    (!limit.is_zero()).then(|| leg.clock().active().saturating_add(limit))
}

async fn bound(leg: &Leg, until: Option<Duration>) {
    match until {
        Some(at) => leg.clock().sleep_until(at).await,
        None => std::future::pending().await,
    }
}
