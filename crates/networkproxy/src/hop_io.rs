//! The hop's socket as rustls and hyper get it, and the watch over it while neither reads.
//!
//! *Owns* the few bytes that were read from the hop while a request was waiting for its target: the only way
//! to see an end of stream is to read up to it. *Never* reads more than `AHEAD` bytes ahead.
//! *Invariant*: bytes come out in the order in which they came in, whoever read them from the socket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

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
    /// Over `leg`; `prefix` was read from it after the hop header.
    pub fn new(leg: &Leg, prefix: Vec<u8>) -> Self {
        Self { io: leg.io(prefix), ahead: Arc::default() }
    }

    /// What its watch needs.
    pub fn ahead(&self) -> Arc<Ahead> {
        Arc::clone(&self.ahead)
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
        if self.ahead.len.load(Relaxed) > 0 {
            self.ahead.take(buffer);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for HopIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
