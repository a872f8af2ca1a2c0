//! One direction of a relay.
//!
//! *Owns* the bytes that were read from one leg and that the other did not take yet, in memory or in a pipe.
//! *Never* reads while there are such bytes and keeps nothing otherwise, no empty buffer and no pipe.
//! *Invariant*: the FIN of the source is passed on after everything that came before it.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::buffer;
use crate::leg::Wire;
use crate::pipe::Lease;
use crate::relay::Mode;
use crate::splice::{Bulk, NotSpliced};

/// Buffers moved before other tasks of this thread get their turn.
const ROUNDS: usize = 16;
/// How long what is in a pipe may take to leave it: a slow sink's bytes wait in memory, and the pipe serves
/// others.
const HOLD: Duration = Duration::from_secs(1);

/// One direction: from a source to a sink.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    rest: Vec<u8>,
    written: usize,
    /// Never empty between two polls, and never beside a `rest`.
    pipe: Option<Lease>,
    /// Active time when `pipe` was filled.
    filled: Duration,
    bulk: Bulk,
    state: State,
    /// Active time since which the sink takes nothing of what is kept.
    blocked: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The source's end was read; the sink is not told yet.
    SourceClosed,
    /// The sink was told.
    Finished,
    /// The sink broke: nothing more can be done.
    Stopped,
}

/// What happened to a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlowEvent {
    /// The source's end of stream was read.
    SourceClosed,
    /// The end of stream was passed on.
    Finished,
    /// The source broke; what it had sent before was read.
    SourceBroke,
    /// The sink broke.
    SinkBroke,
}

/// What one read brought.
enum Moved {
    Bytes,
    Nothing,
    End(FlowEvent),
}

impl Flow {
    /// A direction that begins with bytes that were read before.
    pub(crate) fn starting_with(rest: Vec<u8>) -> Self {
        Self { rest, ..Self::default() }
    }

    /// Moves bytes until it would have to wait, or something is to be told.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &Wire,
        to: &Wire,
        mode: &Mode,
    ) -> Poll<FlowEvent> {
        let polled = self.poll_rounds(cx, from, to, mode);
        self.pipe.take_if(|pipe| pipe.held() == 0);
        polled
    }

    fn poll_rounds(&mut self, cx: &mut Context<'_>, from: &Wire, to: &Wire, mode: &Mode) -> Poll<FlowEvent> {
        if matches!(self.state, State::Finished | State::Stopped) {
            return Poll::Pending;
        }
        for _ in 0..ROUNDS {
            if !self.is_empty() {
                if ready!(self.poll_flush(cx, to)).is_err() {
                    return Poll::Ready(FlowEvent::SinkBroke);
                }
            } else if self.state == State::SourceClosed {
                self.state = State::Finished;
                to.shutdown_write();
                return Poll::Ready(FlowEvent::Finished);
            } else if ready!(from.poll_readable(cx)).is_err() {
                return Poll::Ready(FlowEvent::SourceBroke);
            } else if let Moved::End(event) = self.advance(from, to, mode) {
                return Poll::Ready(event);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Is it waiting for the source to send?
    pub(crate) fn is_reading(&self) -> bool {
        self.state == State::Open && self.is_empty()
    }

    /// Was the source's end of stream read?
    pub(crate) fn is_source_closed(&self) -> bool {
        matches!(self.state, State::SourceClosed | State::Finished)
    }

    /// Was it passed on?
    pub(crate) fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Does the sink take nothing at the moment?
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked_since().is_some()
    }

    /// Since when the sink takes nothing, in active time.
    pub(crate) fn blocked_since(&self) -> Option<Duration> {
        self.blocked.filter(|_| self.state != State::Stopped)
    }

    /// The sink broke: what is left cannot be delivered.
    pub(crate) fn stop(&mut self) {
        self.leave_pipe();
        self.state = State::Stopped;
    }

    /// What was read and not written.
    pub(crate) fn take_rest(&mut self) -> Vec<u8> {
        self.leave_pipe();
        let mut rest = std::mem::take(&mut self.rest);
        rest.drain(..std::mem::take(&mut self.written));
        rest
    }

    /// Is nothing kept?
    fn is_empty(&self) -> bool {
        self.written == self.rest.len() && self.pipe.as_ref().is_none_or(|pipe| pipe.held() == 0)
    }

    /// Moves what is in a pipe to memory, and gives the pipe back.
    fn leave_pipe(&mut self) {
        if let Some(mut pipe) = self.pipe.take()
            && pipe.held() > 0
        {
            self.rest = pipe.empty();
        }
    }

    /// One chunk from the source to the sink, in whichever way pays.
    fn advance(&mut self, from: &Wire, to: &Wire, mode: &Mode) -> Moved {
        if let Mode::Splice(splicing) = mode
            && self.bulk.reached(splicing.after)
        {
            if self.pipe.is_none() {
                self.pipe = splicing.pool.borrow();
            }
            if let Some(moved) = self.splice(from, to) {
                return moved;
            }
        }
        self.copy(from, to)
    }

    /// One chunk into the pipe and at once out of it, as far as the sink takes it. `None` where there is no
    /// pipe, or only a read can tell what the source has.
    fn splice(&mut self, from: &Wire, to: &Wire) -> Option<Moved> {
        let pipe = self.pipe.as_mut()?;
        match from.splice_into(pipe) {
            Ok(0) => {
                self.state = State::SourceClosed;
                return Some(Moved::End(FlowEvent::SourceClosed));
            }
            Ok(count) => self.bulk.note(count),
            Err(NotSpliced::Ask) => return None,
            Err(NotSpliced::Broke) => return Some(Moved::End(FlowEvent::SourceBroke)),
        }
        self.filled = from.active();
        Some(match to.splice_from(pipe) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Moved::End(FlowEvent::SinkBroke),
            _ => Moved::Bytes,
        })
    }

    /// One read, and at once the write of what it brought; only what the sink does not take is kept.
    fn copy(&mut self, from: &Wire, to: &Wire) -> Moved {
        buffer::with(|buffer| {
            let count = match from.try_read(buffer) {
                Ok(0) => {
                    self.state = State::SourceClosed;
                    return Moved::End(FlowEvent::SourceClosed);
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Moved::Nothing,
                Err(_) => return Moved::End(FlowEvent::SourceBroke),
            };
            self.bulk.note(count);
            let (written, broke) = match to.try_write(&buffer[..count]) {
                Ok(written) => (written, false),
                Err(error) => (0, error.kind() != io::ErrorKind::WouldBlock),
            };
            self.rest.extend_from_slice(&buffer[written..count]);
            if broke { Moved::End(FlowEvent::SinkBroke) } else { Moved::Bytes }
        })
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &Wire) -> Poll<io::Result<()>> {
        loop {
            if to.poll_writable(cx)?.is_pending() {
                let now = to.active();
                self.blocked.get_or_insert(now);
                if self.pipe.is_some() && now.saturating_sub(self.filled) >= HOLD {
                    self.leave_pipe();
                }
                return Poll::Pending;
            }
            let wrote = match &mut self.pipe {
                Some(pipe) => to.splice_from(pipe).map(drop),
                None => to.try_write(&self.rest[self.written..]).map(|count| self.written += count),
            };
            match wrote {
                Ok(()) if self.is_empty() => {
                    // Given back, not kept for the next time: an idle direction holds nothing.
                    self.rest = Vec::new();
                    self.written = 0;
                    self.blocked = None;
                    return Poll::Ready(Ok(()));
                }
                Ok(()) => self.blocked = Some(to.active()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ledger::{LegName, Traffic};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::clock::Clock;
    use crate::leg::{Leg, Origin};
    use crate::pipe::PipePool;
    use crate::splice::Splicing;

    async fn leg(clock: &Clock) -> (Leg, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (far, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let traffic = Arc::new(Traffic::default());
        let leg = Leg::adopt(accepted.unwrap().0, LegName::Client, Origin::Accepted, traffic, clock.clone());
        (leg, far.unwrap())
    }

    /// while the sink is slow one buffer's worth at most is kept and nothing more is read; once it
    /// has gone on, nothing is held at all, not even an empty buffer.
    #[tokio::test]
    async fn nothing_is_held_while_idle_and_one_buffer_at_most_while_blocked() {
        let pool = PipePool::new(1);
        for mode in [Mode::Copy, Mode::Splice(Splicing { pool: pool.clone(), after: 0 })] {
            nothing_held(&mode).await;
            assert_eq!(pool.lent(), 0);
        }
    }

    async fn nothing_held(mode: &Mode) {
        let clock = Clock::start(Duration::from_secs(1));
        let ((from, mut source), (to, mut sink)) = (leg(&clock).await, leg(&clock).await);
        let mut flow = Flow::default();
        let sender = tokio::spawn(async move {
            source.write_all(&vec![7; 32 << 20]).await.unwrap();
            source
        });
        while !flow.is_blocked() {
            let event = std::future::poll_fn(|cx| {
                let event = flow.poll(cx, &from.wire, &to.wire, mode);
                if flow.is_blocked() { Poll::Ready(Poll::Pending) } else { event.map(Poll::Ready) }
            });
            assert!(event.await.is_pending());
        }
        let read = from.count().received;
        let kept = flow.rest.len() + flow.pipe.as_ref().map_or(0, |pipe| pipe.held());
        assert!((1..=buffer::SIZE).contains(&kept) && !flow.is_reading());
        tokio::task::yield_now().await;
        let polled = std::future::poll_fn(|cx| Poll::Ready(flow.poll(cx, &from.wire, &to.wire, mode))).await;
        assert!(polled.is_pending() && from.count().received == read, "nothing is read meanwhile");
        let draining = async {
            let mut got = vec![0; 32 << 20];
            sink.read_exact(&mut got).await.unwrap();
        };
        let flowing = std::future::poll_fn(|cx| flow.poll(cx, &from.wire, &to.wire, mode));
        tokio::select! {
            () = draining => {}
            event = flowing => panic!("{event:?}"),
        }
        assert_eq!((flow.rest.capacity(), flow.blocked_since()), (0, None));
        assert!(flow.pipe.is_none(), "no pipe either");
        drop(sender.await.unwrap());
    }

    /// What was read for a sink that broke is counted as undelivered, to the byte.
    #[tokio::test]
    async fn bytes_for_a_broken_sink_are_not_forgotten() {
        let pool = PipePool::new(1);
        for mode in [Mode::Copy, Mode::Splice(Splicing { pool: pool.clone(), after: 0 })] {
            nothing_forgotten(&mode).await;
            assert_eq!(pool.lent(), 0);
        }
    }

    async fn nothing_forgotten(mode: &Mode) {
        let clock = Clock::start(Duration::from_secs(1));
        let ((from, mut source), (to, sink)) = (leg(&clock).await, leg(&clock).await);
        socket2::SockRef::from(&sink).set_linger(Some(Duration::ZERO)).unwrap();
        drop(sink);
        to.failed().await;
        source.write_all(&[7; 1_000]).await.unwrap();
        let mut flow = Flow::default();
        let event = std::future::poll_fn(|cx| flow.poll(cx, &from.wire, &to.wire, mode)).await;
        assert_eq!(event, FlowEvent::SinkBroke);
        assert_eq!((flow.take_rest().len(), from.count().received), (1_000, 1_000));
    }
}
