//! The hop's socket as rustls and hyper get it, and the watch over it while neither reads.
//!
//! *Owns* the few bytes that were read from the hop while a request was waiting for its target: the only way
//! to see an end of stream is to read up to it. And those that TLS wrote in a handshake and that may wait:
//! whatever it writes goes out before it waits for the client, but the session tickets of TLS 1.3, for which
//! nobody waits, go with the first response, which saves a packet and two wake-ups on each side of the hop.
//! *Never* reads more than `AHEAD` bytes ahead.
//! *Invariant*: bytes come out in the order in which they came in, whoever read them from the socket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use runtime::{Leg, LegIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// Read ahead at most, for one connection.
const AHEAD: usize = 16 * 1024;

/// The hop as rustls and hyper get it.
#[derive(Debug)]
pub struct HopIo {
    io: LegIo,
    ahead: Arc<Ahead>,
    held: Held,
    /// Nothing is read from it any more.
    input_ended: bool,
}

/// What TLS has written and the socket was not given yet.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    /// How many of them were.
    sent: usize,
    until: Until,
}

/// How long what is written is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Until {
    /// Written at once, and before it what was held.
    #[default]
    Written,
    /// A handshake is going on: until it reads.
    Read,
}

/// What was read ahead; shared by a [`HopIo`] and its watch.
#[derive(Debug, Default)]
pub struct Ahead {
    len: AtomicUsize,
    bytes: Mutex<Vec<u8>>,
    /// Told when bytes were taken out.
    taken: Notify,
}

/// What the watch found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Bytes came: whoever reads should look again.
    Bytes,
    /// The end of stream, or an error, is evidence on the leg now.
    Evidence,
}

impl HopIo {
    /// Over `leg`; `prefix` was read from it after the hop header, and what is watched for goes to `ahead`.
    pub fn new(leg: &Leg, prefix: Vec<u8>, ahead: &Arc<Ahead>) -> Self {
        Self { io: leg.io(prefix), ahead: Arc::clone(ahead), held: Held::default(), input_ended: false }
    }

    /// A handshake begins: what it writes goes out when it waits for the client, in one packet.
    pub fn begin_handshake(&mut self) {
        self.held.until = Until::Read;
    }

    /// The handshake is over. What it wrote last may go with what is written next: TLS 1.3's session tickets.
    pub fn end_handshake(&mut self) {
        self.held.until = Until::Written;
    }

    /// Whoever reads gets the end of the stream from now on.
    pub fn end_input(&mut self) {
        self.input_ended = true;
    }

    /// Sends what is held.
    pub async fn release(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_release(cx)).await
    }

    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.bytes.is_empty() {
            let written = Pin::new(&mut self.io).poll_write(cx, &self.held.bytes[self.held.sent..]);
            let count = ready!(written)?;
            self.held.took(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl Held {
    fn left(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// The socket took `count` more of them.
    fn took(&mut self, count: usize) {
        self.sent += count;
        if self.left() == 0 {
            // Given back: an idle connection holds nothing.
            self.bytes = Vec::new();
            self.sent = 0;
        }
    }
}

impl Ahead {
    /// Waits until something comes that nobody is reading: bytes, the end of stream, an error. Cancel safe.
    ///
    /// Called while the reader is idle, on the reader's task: who gets [`Sight::Bytes`] polls the reader again.
    pub async fn watch(&self, leg: &Leg) -> Sight {
        let seen = leg.evidence();
        if seen.fin.is_some() {
            // Only a reset can follow.
            leg.failed().await;
            return Sight::Evidence;
        }
        loop {
            if self.len.load(Relaxed) >= AHEAD {
                tokio::select! {
                    _ = leg.failed() => return Sight::Evidence,
                    () = self.taken.notified() => continue,
                }
            }
            tokio::select! {
                biased;
                _ = leg.failed() => return Sight::Evidence,
                _ = leg.readable() => {}
            }
            let mut bytes = self.bytes();
            let kept = bytes.len();
            bytes.resize(AHEAD, 0);
            let read = leg.try_read(&mut bytes[kept..]);
            bytes.truncate(kept + read.as_ref().map_or(0, |count| *count));
            self.len.store(bytes.len(), Relaxed);
            match read {
                Ok(0) => return Sight::Evidence,
                Ok(_) => return Sight::Bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Sight::Evidence,
            }
        }
    }

    fn take(&self, buffer: &mut ReadBuf<'_>) {
        let mut bytes = self.bytes();
        let count = bytes.len().min(buffer.remaining());
        buffer.put_slice(&bytes[..count]);
        if count == bytes.len() {
            // Given back: an idle connection holds nothing.
            *bytes = Vec::new();
        } else {
            bytes.drain(..count);
        }
        self.len.store(bytes.len(), Relaxed);
        drop(bytes);
        self.taken.notify_waiters();
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for HopIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.held.until == Until::Read {
            ready!(self.poll_release(cx))?;
        }
        if self.input_ended {
            return Poll::Ready(Ok(()));
        }
        if self.ahead.len.load(Relaxed) > 0 {
            self.ahead.take(buffer);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for HopIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.held.until == Until::Written && self.held.bytes.is_empty() {
            return Pin::new(&mut self.io).poll_write(cx, bytes);
        }
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.held.until == Until::Read {
            let before = self.held.bytes.len();
            for slice in bytes {
                self.held.bytes.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(self.held.bytes.len() - before));
        }
        while !self.held.bytes.is_empty() {
            let HopIo { io, held, .. } = &mut *self;
            let all: Vec<IoSlice<'_>> = std::iter::once(IoSlice::new(&held.bytes[held.sent..]))
                .chain(bytes.iter().copied())
                .collect();
            let count = ready!(Pin::new(io).poll_write_vectored(cx, &all))?;
            let of_held = count.min(held.left());
            held.took(of_held);
            if count > of_held {
                return Poll::Ready(Ok(count - of_held));
            }
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
