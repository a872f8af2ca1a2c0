//! Bytes from one leg to the other, both ways, until it is over.
//!
//! *Owns* what was read and not written yet, and when to stop. *Never* holds a buffer while idle, never
//! reads on while the other side is slow, never turns a reset into an end of stream or the
//! other way round.
//! *Invariant*: whatever was read from one leg before it ended is written to the other, or reported as
//! undelivered; each direction ends by itself.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use ledger::{Armed, DeadlineName, LegName, Limit, Reason, Restart};
use tokio::time::{Instant, Sleep};

use crate::cleanup::Goodbye;
use crate::clock::Clock;
use crate::close::{CloseMode, CloseOrder};
use crate::flow::{Flow, FlowEvent};
use crate::leg::Leg;
use crate::socket::Keepalive;
use crate::splice::Splicing;
use crate::tracked::TrackedConnection;

/// A write that blocks this long is shown on the record, with its deadline.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
/// A relay that lasts this long has its second leg probed.
const PROBED_AFTER: Duration = Duration::from_secs(1);
/// Longer waits are cut into such.
const FAR: Duration = Duration::from_hours(24);

/// What a relay is bounded by, beside the deadlines that its connection has armed already.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// How bytes are moved.
    pub mode: Mode,
    /// One side closed, no progress on the other.
    pub half_close: Limit,
    /// A side takes no bytes.
    pub write_stall: Limit,
    /// When a silent second leg is taken for gone, where its socket was not born with that: five system calls,
    /// which a connection that is soon over does without.
    pub keepalive: Option<Keepalive>,
}

/// How bytes are moved.
#[derive(Clone, Debug, Default)]
pub enum Mode {
    /// Read and write through this thread's buffer.
    #[default]
    Copy,
    /// Likewise at first, and through a pipe while much comes: in the kernel, at a third of the cost.
    Splice(Splicing),
}

/// What is left to do once a relay is over. Why it is over was added to the connection's evidence.
#[derive(Debug)]
pub struct RelayEnd {
    /// For the first leg: how to leave it, and the bytes still to be delivered to it.
    pub first: (Goodbye, Vec<u8>),
    /// For the second leg.
    pub second: (Goodbye, Vec<u8>),
    /// Bytes that were read and can no longer be delivered.
    pub undelivered: u64,
}

/// Relays between `first` and `second` until both directions ended, one leg broke, a deadline of `tracked`
/// fired or it was ordered to close. `initial_chunk` was read from `first` before and is written to
/// `second` first.
///
/// The caller has put the connection into its phase and armed that phase's deadlines; a first FIN puts it
/// into HALF_CLOSED.
pub async fn relay(
    first: &Leg,
    second: &Leg,
    initial_chunk: Vec<u8>,
    tracked: &mut TrackedConnection,
    options: &RelayOptions,
) -> RelayEnd {
    let slot = tracked.slot();
    let mut ordered = pin!(slot.given());
    let mut failed = (pin!(first.failed()), pin!(second.failed()));
    let mut timer =
        Timer { sleep: pin!(tokio::time::sleep(FAR)), due: Duration::MAX, clock: tracked.clock().clone() };
    let mut relay = Relay {
        legs: [first, second],
        flows: [Flow::starting_with(initial_chunk), Flow::default()],
        broken: [false; 2],
        unprobed: options.keepalive.map(|keepalive| (tracked.clock().active() + PROBED_AFTER, keepalive)),
        options,
    };
    // Once it has this task's waker, the slot's flag says whether it is worth to ask: that costs no lock.
    let mut listening = false;
    loop {
        timer.bring_forward(tracked.next_expiry());
        let event = std::future::poll_fn(|cx| {
            if (!listening || slot.is_given())
                && let Poll::Ready(order) = ordered.as_mut().poll(cx)
            {
                return Poll::Ready(Event::Ordered(order));
            }
            listening = true;
            for side in [0, 1] {
                if let Poll::Ready(event) = relay.poll_flow(cx, side) {
                    return Poll::Ready(Event::Flow(side, event));
                }
            }
            if relay.is_unwatched(0) && failed.0.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Broke(0));
            }
            if relay.is_unwatched(1) && failed.1.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Broke(1));
            }
            timer.poll(cx, &mut relay, tracked).map(Event::Expired)
        })
        .await;
        if let Some(end) = relay.on(event, tracked) {
            return end;
        }
    }
}

enum Event {
    Ordered(CloseOrder),
    /// Something about the direction that reads from this side.
    Flow(usize, FlowEvent),
    /// This side's socket broke while nobody read from it.
    Broke(usize),
    Expired(Armed),
}

struct Relay<'a> {
    legs: [&'a Leg; 2],
    /// `flows[side]` reads from `legs[side]` and writes to the other.
    flows: [Flow; 2],
    broken: [bool; 2],
    /// From when on the second leg is to be probed, and how.
    unprobed: Option<(Duration, Keepalive)>,
    options: &'a RelayOptions,
}

impl Relay<'_> {
    fn poll_flow(&mut self, cx: &mut Context<'_>, side: usize) -> Poll<FlowEvent> {
        let (from, to) = (&self.legs[side].wire, &self.legs[1 - side].wire);
        self.flows[side].poll(cx, from, to, &self.options.mode)
    }

    /// Does nobody read from this side at the moment, so that a reset would go unnoticed?
    fn is_unwatched(&self, side: usize) -> bool {
        !self.broken[side] && !self.flows[side].is_reading()
    }

    /// Applies an event; the end, if that is what it brings.
    fn on(&mut self, event: Event, tracked: &mut TrackedConnection) -> Option<RelayEnd> {
        match event {
            Event::Ordered(order) => {
                tracked.observe(order.observation);
                let goodbye = match order.mode {
                    CloseMode::Graceful => Goodbye::Orderly,
                    CloseMode::Abort => Goodbye::Abort,
                };
                Some(self.end([goodbye; 2]))
            }
            Event::Expired(armed) => Some(self.on_expiry(&armed, tracked)),
            Event::Flow(side, FlowEvent::SourceClosed) => {
                if self.legs[1 - side].name() == LegName::Hop {
                    // A client may answer networkproxy's goodbye before we have read the FIN behind it.
                    tracked.observe_early_fin(self.legs[1 - side]);
                }
                tracked.observe_leg(self.legs[side]);
                if !self.flows[1 - side].is_source_closed() && !self.broken[1 - side] {
                    tracked.half_closed(self.legs[side].name(), &self.options.half_close);
                }
                None
            }
            Event::Flow(_, FlowEvent::Finished) => {
                self.flows.iter().all(Flow::is_finished).then(|| self.end([Goodbye::Orderly; 2]))
            }
            Event::Flow(side, FlowEvent::SourceBroke) => {
                self.note_broken(side, tracked);
                Some(self.end_after_break())
            }
            Event::Flow(side, FlowEvent::SinkBroke) => self.on_broken(1 - side, tracked),
            Event::Broke(side) => self.on_broken(side, tracked),
        }
    }

    /// A leg broke. What it had sent before is still read and passed on, then the reset is.
    fn on_broken(&mut self, side: usize, tracked: &mut TrackedConnection) -> Option<RelayEnd> {
        self.note_broken(side, tracked);
        let all_read = self.flows[side].is_source_closed() || self.broken[1 - side];
        all_read.then(|| self.end_after_break())
    }

    fn note_broken(&mut self, side: usize, tracked: &mut TrackedConnection) {
        self.broken[side] = true;
        self.flows[1 - side].stop();
        tracked.observe_leg(self.legs[side]);
    }

    fn end_after_break(&mut self) -> RelayEnd {
        let goodbye = |broken| if broken { Goodbye::Abort } else { Goodbye::Reset };
        self.end(self.broken.map(goodbye))
    }

    fn on_expiry(&mut self, armed: &Armed, tracked: &mut TrackedConnection) -> RelayEnd {
        let stalled = self.flows.iter().position(Flow::is_blocked);
        let leg = match armed.name {
            DeadlineName::WriteStall => stalled.map(|side| self.legs[1 - side].name()),
            _ => None,
        };
        let (reason, goodbyes) = match (armed.name, stalled) {
            (DeadlineName::WriteStall, Some(0)) => {
                (Reason::WriteStallTimeout, [Goodbye::Reset, Goodbye::Abort])
            }
            (DeadlineName::WriteStall, _) => (Reason::WriteStallTimeout, [Goodbye::Abort, Goodbye::Reset]),
            // The open direction is cut in the middle for all we know: it must not look complete (P4).
            (DeadlineName::HalfClose, _) => (Reason::HalfCloseTimeout, [Goodbye::Abort; 2]),
            (DeadlineName::MaxLifetime, _) => (Reason::MaxLifetime, [Goodbye::Reset; 2]),
            (DeadlineName::Drain, _) => (Reason::DrainDeadline, [Goodbye::Abort; 2]),
            _ => (Reason::InactivityTimeout, [Goodbye::Orderly; 2]),
        };
        tracked.observe_expiry(armed, reason, leg);
        self.end(goodbyes)
    }

    fn end(&mut self, mut goodbyes: [Goodbye; 2]) -> RelayEnd {
        for side in [0, 1] {
            // Whatever ends it: what a broken leg sent is not complete, and must not look so.
            if self.broken[1 - side] && goodbyes[side] == Goodbye::Orderly {
                goodbyes[side] = Goodbye::Reset;
            }
        }
        let mut undelivered = 0;
        let [to_first, to_second] = [1, 0].map(|from| {
            let rest = self.flows[from].take_rest();
            if goodbyes[1 - from] == Goodbye::Abort {
                undelivered += rest.len() as u64;
                return (goodbyes[1 - from], Vec::new());
            }
            (goodbyes[1 - from], rest)
        });
        RelayEnd { first: to_first, second: to_second, undelivered }
    }

    /// Since when the write that has been blocked longest is.
    fn blocked_since(&self) -> Option<Duration> {
        self.flows.iter().filter_map(Flow::blocked_since).min()
    }

    /// When a blocked write is to be shown.
    fn stall_shown_at(&self) -> Option<Duration> {
        self.blocked_since().map(|since| since + self.shown_after())
    }

    fn shown_after(&self) -> Duration {
        let limit = self.options.write_stall.value;
        if limit.is_zero() { SHOWN_AFTER } else { SHOWN_AFTER.min(limit / 2) }
    }

    /// Sets the second leg's keepalive once it is time.
    fn begin_to_probe(&mut self, now: Duration) {
        if let Some((_, keepalive)) = self.unprobed.take_if(|(at, _)| *at <= now) {
            self.legs[1].keep_alive(keepalive);
        }
    }

    /// A write that blocks for long gets its deadline armed and shown; one that goes on loses it.
    fn show_stall(&self, tracked: &mut TrackedConnection) {
        let now = tracked.clock().active();
        let stall = self.blocked_since().filter(|since| now.saturating_sub(*since) >= self.shown_after());
        let shown = tracked.deadlines().armed().iter().find(|a| a.name == DeadlineName::WriteStall);
        if shown.map(|armed| armed.since) == stall || self.options.write_stall.value.is_zero() {
            return;
        }
        match stall {
            Some(since) => {
                let limit = &self.options.write_stall;
                tracked.deadlines_mut().arm(DeadlineName::WriteStall, limit, Restart::Never, since);
                for flow in [0, 1] {
                    if self.flows[flow].is_blocked() {
                        self.legs[1 - flow].tolerate_stall(limit.value);
                    }
                }
            }
            None => tracked.deadlines_mut().disarm(DeadlineName::WriteStall),
        }
        tracked.record([]);
    }
}

/// One timer for all deadlines of a relay. Bytes never touch it: it looks at the last activity when it
/// fires. Only a write that blocks brings it forward, and at most once a second.
struct Timer<'a> {
    sleep: Pin<&'a mut Sleep>,
    /// Active time at which `sleep` ends.
    due: Duration,
    clock: Clock,
}

impl Timer<'_> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        relay: &mut Relay<'_>,
        tracked: &mut TrackedConnection,
    ) -> Poll<Armed> {
        let probed_at = |relay: &Relay<'_>| relay.unprobed.map(|(at, _)| at);
        self.bring_forward(relay.stall_shown_at());
        self.bring_forward(probed_at(relay));
        while self.sleep.as_mut().poll(cx).is_ready() {
            relay.begin_to_probe(self.clock.active());
            relay.show_stall(tracked);
            if let Some(armed) = tracked.overdue() {
                return Poll::Ready(armed);
            }
            let now = self.clock.active();
            let again = relay.stall_shown_at().map(|at| at.max(now + relay.shown_after()));
            self.set(
                [tracked.next_expiry(), again, probed_at(relay)]
                    .into_iter()
                    .flatten()
                    .min()
                    .unwrap_or(now + FAR),
            );
        }
        Poll::Pending
    }

    /// Wakes at `at`, unless it does so before.
    fn bring_forward(&mut self, at: Option<Duration>) {
        if let Some(at) = at.filter(|at| *at < self.due) {
            self.set(at);
        }
    }

    fn set(&mut self, due: Duration) {
        self.due = due;
        let wait = due.saturating_sub(self.clock.active()).min(FAR);
        self.sleep.as_mut().reset(Instant::now() + wait);
    }
}
