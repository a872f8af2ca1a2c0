//! Opaque bytes between a client, behind TLS or not, and one target: WebSockets and `protocol: tcp`.
//!
//! *Owns* what was read from one side and not written to the other, and when to stop. *Never* reads on while
//! the other side is slow, never turns a reset into an end of stream or the other way round.
//! *Invariant*: each direction ends by itself; what was read before a side broke is written to the
//! other side before that learns of it.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use ledger::{Armed, DeadlineName, LegName, Limit, Reason, Restart};
use runtime::{CloseOrder, Goodbye, Leg, TrackedConnection};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::ending::{Ended, conclude};
use crate::tls::TlsFailure;

/// How much is read at once: a TLS record.
const CHUNK: usize = 16 * 1024;
/// Chunks moved before other tasks get their turn.
const ROUNDS: usize = 16;

/// One side of a tunnel.
#[derive(Debug)]
pub struct Side<'a, S> {
    /// What is read and written.
    pub socket: S,
    /// The leg below it.
    pub leg: &'a Leg,
    /// Read from it already.
    pub read_ahead: Bytes,
}

/// What a tunnel is bounded by, beside `tunnel_idle`, which its owner has armed.
#[derive(Debug, Clone)]
pub struct TunnelLimits {
    /// No byte in either direction.
    pub tunnel_idle: Limit,
    /// One side closed, no progress on the other.
    pub half_close: Limit,
    /// A side takes no bytes once the other is gone.
    pub write_stall: Limit,
    /// To say goodbye.
    pub close: Limit,
}

/// How the two sockets are to be left. Why is in the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelEnd {
    /// The hop.
    pub hop: Goodbye,
    /// The target.
    pub target: Goodbye,
    /// Bytes that were read and can no longer be delivered.
    pub undelivered: u64,
}

/// Relays until both directions ended, a side broke, a deadline of `tracked` passed or it was ordered to close.
pub async fn tunnel<C, T>(
    mut client: Side<'_, C>,
    mut target: Side<'_, T>,
    tracked: &mut TrackedConnection,
    limits: &TunnelLimits,
) -> TunnelEnd
where
    C: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let legs = [client.leg, target.leg];
    let mut flows = [
        Flow::starting_with(std::mem::take(&mut client.read_ahead)),
        Flow::starting_with(std::mem::take(&mut target.read_ahead)),
    ];
    let mut broken = [false; 2];
    let mut failed = (pin!(legs[0].failed()), pin!(legs[1].failed()));
    let hop = loop {
        let event = {
            let mut ordered = pin!(tracked.closing());
            let mut expired = pin!(tracked.expired());
            std::future::poll_fn(|cx| {
                if let Poll::Ready(order) = ordered.as_mut().poll(cx) {
                    return Poll::Ready(Event::Ordered(order));
                }
                if let Poll::Ready(happened) = flows[0].poll(cx, &mut client.socket, &mut target.socket) {
                    return Poll::Ready(Event::Flow(0, happened));
                }
                if let Poll::Ready(happened) = flows[1].poll(cx, &mut target.socket, &mut client.socket) {
                    return Poll::Ready(Event::Flow(1, happened));
                }
                // Whoever reads notices by reading, after everything that came before.
                if !broken[0] && !flows[0].is_reading() && failed.0.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Broke(0));
                }
                if !broken[1] && !flows[1].is_reading() && failed.1.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Broke(1));
                }
                expired.as_mut().poll(cx).map(Event::Expired)
            })
            .await
        };
        match event {
            Event::Ordered(order) => break conclude(Ended::Ordered(order), tracked, legs[0]),
            Event::Expired(armed) if armed.name == DeadlineName::TunnelIdle && flows[1].is_blocked() => {
                // The idle clock pauses while the hop takes no bytes; smartproxy's `write_stall` rules that.
                tracked.arm(DeadlineName::TunnelIdle, &limits.tunnel_idle, Restart::OnBytes);
                tracked.record([]);
            }
            Event::Expired(armed) => break conclude(Ended::Expired(armed), tracked, legs[0]),
            Event::Flow(side, Happened::SourceClosed) => {
                observe_end(side, tracked, legs);
                if side == 1 {
                    // The client's answer to `close_notify` must not overtake our FIN at the front.
                    legs[0].hold_for_fin();
                }
                if !flows[1 - side].is_source_done() && !broken[1 - side] {
                    tracked.half_closed(legs[side].name(), &limits.half_close);
                }
            }
            Event::Flow(_, Happened::Finished) => {
                if flows.iter().all(Flow::is_finished) {
                    break Goodbye::Orderly;
                }
            }
            Event::Flow(side, Happened::SourceBroke(error)) => {
                note_broken(side, &error, tracked, legs);
                broken[side] = true;
                flows[1 - side].stop();
                if broken[1 - side] || flows[side].is_flushed() {
                    break Goodbye::Reset;
                }
                tracked.arm(DeadlineName::WriteStall, &limits.write_stall, Restart::OnBytes);
                tracked.record([]);
            }
            Event::Flow(side, Happened::Flushed) => {
                debug_assert!(broken[side], "a flow is flushed out only after its source broke");
                break Goodbye::Reset;
            }
            Event::Flow(side, Happened::SinkBroke) => {
                if on_broken(1 - side, &mut broken, &mut flows, tracked, legs) {
                    break Goodbye::Reset;
                }
            }
            Event::Broke(side) => {
                if on_broken(side, &mut broken, &mut flows, tracked, legs) {
                    break Goodbye::Reset;
                }
            }
        }
    };
    let undelivered = flows.iter().map(Flow::left).sum();
    if hop == Goodbye::Orderly {
        let goodbyes = async {
            // `close_notify` on one side, FIN on both; whoever broke meanwhile is seen at its leg.
            let _told = (client.socket.shutdown().await, target.socket.shutdown().await);
        };
        let _in_time = tokio::time::timeout(limits.close.value, goodbyes).await.is_ok();
    }
    let left = |side: usize| if broken[side] { Goodbye::Abort } else { hop };
    TunnelEnd { hop: left(0), target: left(1), undelivered }
}

enum Event {
    Ordered(CloseOrder),
    /// Something about the direction that reads from this side.
    Flow(usize, Happened),
    /// This side's socket broke while nobody read from it.
    Broke(usize),
    Expired(Armed),
}

/// Enters an end of stream into the evidence.
fn observe_end(side: usize, tracked: &mut TrackedConnection, legs: [&Leg; 2]) {
    tracked.observe_leg(legs[side]);
    if side == 0 && legs[0].evidence().fin.is_none() {
        // Under TLS the client alone can say it; the FIN may follow.
        let seen = tracked.observation(Reason::ClientClosed, Some(LegName::Client));
        tracked.observe(seen.with_detail("close_notify"));
    }
}

/// Enters a failure into the evidence: the socket's, or, where that is whole, TLS's.
fn note_broken(side: usize, error: &io::Error, tracked: &mut TrackedConnection, legs: [&Leg; 2]) {
    let socket_broke = legs[side].evidence().failure.is_some();
    tracked.observe_leg(legs[side]);
    if !socket_broke && side == 0 {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
        if let Some(inner) = inner {
            let failure = TlsFailure::from(io::Error::new(error.kind(), inner));
            let _reset = conclude(Ended::Tls(failure), tracked, legs[0]);
        }
    }
}

/// A socket broke while nobody read from it. What it had sent before is still read and passed on. `true`
/// where nothing is left to pass on.
fn on_broken(
    side: usize,
    broken: &mut [bool; 2],
    flows: &mut [Flow; 2],
    tracked: &mut TrackedConnection,
    legs: [&Leg; 2],
) -> bool {
    broken[side] = true;
    flows[1 - side].stop();
    tracked.observe_leg(legs[side]);
    flows[side].is_source_done() || broken[1 - side]
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    rest: Bytes,
    state: State,
    /// Bytes may be waiting inside TLS.
    unflushed: bool,
    blocked: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The source's end was read; the sink is not told yet.
    SourceClosed,
    /// The sink was told.
    Finished,
    /// The source broke; what it had sent is on its way.
    SourceBroke,
    /// Nothing more can be done.
    Stopped,
}

/// What happened to a direction.
enum Happened {
    SourceClosed,
    Finished,
    SourceBroke(io::Error),
    /// After `SourceBroke`: the sink has everything.
    Flushed,
    SinkBroke,
}

impl Flow {
    fn starting_with(rest: Bytes) -> Self {
        Self { rest, ..Self::default() }
    }

    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<Happened>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if matches!(self.state, State::Finished | State::Stopped) {
            return Poll::Pending;
        }
        for _ in 0..ROUNDS {
            if !self.rest.is_empty() {
                if ready!(self.poll_write_rest(cx, to)).is_err() {
                    return Poll::Ready(Happened::SinkBroke);
                }
                continue;
            }
            match self.state {
                State::SourceClosed => {
                    if ready!(self.poll_flush(cx, to)).is_err()
                        || ready!(Pin::new(&mut *to).poll_shutdown(cx)).is_err()
                    {
                        return Poll::Ready(Happened::SinkBroke);
                    }
                    self.state = State::Finished;
                    return Poll::Ready(Happened::Finished);
                }
                State::SourceBroke => {
                    let flushed = ready!(self.poll_flush(cx, to));
                    self.state = State::Stopped;
                    return Poll::Ready(if flushed.is_ok() {
                        Happened::Flushed
                    } else {
                        Happened::SinkBroke
                    });
                }
                State::Open => {}
                State::Finished | State::Stopped => return Poll::Pending,
            }
            let mut space = [0_u8; CHUNK];
            let mut buffer = ReadBuf::new(&mut space);
            match Pin::new(&mut *from).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    if ready!(self.poll_flush(cx, to)).is_err() {
                        return Poll::Ready(Happened::SinkBroke);
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    self.state = State::SourceClosed;
                    return Poll::Ready(Happened::SourceClosed);
                }
                // A FIN below TLS without its `close_notify`: many clients end so.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.state = State::SourceClosed;
                    return Poll::Ready(Happened::SourceClosed);
                }
                Poll::Ready(Err(error)) => {
                    self.state = State::SourceBroke;
                    return Poll::Ready(Happened::SourceBroke(error));
                }
                Poll::Ready(Ok(())) => {
                    let read = buffer.filled();
                    let written = match Pin::new(&mut *to).poll_write(cx, read) {
                        Poll::Ready(Ok(count)) => count,
                        Poll::Ready(Err(_)) => {
                            self.rest = Bytes::copy_from_slice(read);
                            return Poll::Ready(Happened::SinkBroke);
                        }
                        Poll::Pending => 0,
                    };
                    self.unflushed = true;
                    // Only what the sink does not take is kept: an idle tunnel holds nothing.
                    self.rest = Bytes::copy_from_slice(&read[written..]);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Is it waiting for the source to send?
    fn is_reading(&self) -> bool {
        self.state == State::Open && self.rest.is_empty() && !self.blocked
    }

    /// Does the sink take nothing at the moment?
    fn is_blocked(&self) -> bool {
        self.blocked && self.state != State::Stopped
    }

    /// Was everything read that the source had?
    fn is_source_done(&self) -> bool {
        !matches!(self.state, State::Open)
    }

    fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Has the sink everything that was read?
    fn is_flushed(&self) -> bool {
        self.rest.is_empty() && !self.unflushed
    }

    fn stop(&mut self) {
        self.state = State::Stopped;
    }

    /// Bytes read and not written.
    fn left(&self) -> u64 {
        self.rest.len() as u64
    }

    fn poll_write_rest<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        let written = Pin::new(to).poll_write(cx, &self.rest);
        self.blocked = written.is_pending();
        let count = ready!(written)?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        drop(self.rest.split_to(count));
        Poll::Ready(Ok(()))
    }

    fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        if !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(to).poll_flush(cx);
        self.blocked = flushed.is_pending();
        ready!(flushed)?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}
