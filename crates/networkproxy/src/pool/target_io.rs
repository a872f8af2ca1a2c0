//! The socket of a pooled connection, as hyper gets it.
//!
//! *Owns* whom its bytes are counted for at the moment, and what it saw of the target. *Never* outlives the
//! connection's driver, unless an upgrade takes it. *Invariant*: every byte of a request and its response is
//! counted for the half whose request it is, and for no other.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use ledger::{Direction, LegName, Traffic};
use runtime::{Clock, LegIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::DropGuard;

/// What the socket of one target connection tells those who use it.
#[derive(Debug)]
pub struct TargetWire {
    clock: Clock,
    /// The half whose request is in progress.
    payer: Mutex<Option<Arc<Traffic>>>,
    /// Bytes read since the last request began.
    answered: AtomicU64,
    fin: AtomicBool,
    /// The first errno; 0 is none.
    errno: AtomicI32,
}

impl TargetWire {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            payer: Mutex::default(),
            answered: AtomicU64::new(0),
            fin: AtomicBool::new(false),
            errno: AtomicI32::new(0),
        }
    }

    /// A request begins, counted for `payer`.
    pub(super) fn begin(&self, payer: Arc<Traffic>) {
        self.answered.store(0, Relaxed);
        *self.payer.lock().unwrap_or_else(PoisonError::into_inner) = Some(payer);
    }

    /// The request is over.
    pub(super) fn end(&self) {
        *self.payer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Did a byte come since the last request began?
    pub fn has_answered(&self) -> bool {
        self.answered.load(Relaxed) > 0
    }

    /// Was the target's end of stream read?
    pub fn saw_fin(&self) -> bool {
        self.fin.load(Relaxed)
    }

    /// What broke the socket, if something did.
    pub fn failure(&self) -> Option<io::Error> {
        match self.errno.load(Relaxed) {
            0 => None,
            errno => Some(io::Error::from_raw_os_error(errno)),
        }
    }

    fn moved(&self, direction: Direction, count: usize) {
        if direction == Direction::In {
            self.answered.fetch_add(count as u64, Relaxed);
        }
        if let Some(payer) = &*self.payer.lock().unwrap_or_else(PoisonError::into_inner) {
            payer.moved(LegName::Target, direction, count as u64, self.clock.stamp());
        }
    }

    fn broke(&self, error: &io::Error) {
        // The first counts.
        if let Some(errno) = error.raw_os_error() {
            let _first = self.errno.compare_exchange(0, errno, Relaxed, Relaxed).is_ok();
        }
    }
}

/// `AsyncRead` and `AsyncWrite` over a target's socket.
#[derive(Debug)]
pub struct TargetIo {
    io: LegIo,
    wire: Arc<TargetWire>,
    /// Dropped after `io`: whoever says goodbye waits for it.
    _released: DropGuard,
}

impl TargetIo {
    pub(super) const fn new(io: LegIo, wire: Arc<TargetWire>, released: DropGuard) -> Self {
        Self { io, wire, _released: released }
    }

    fn wrote(&self, written: io::Result<usize>) -> io::Result<usize> {
        match &written {
            Ok(count) => self.wire.moved(Direction::Out, *count),
            Err(error) => self.wire.broke(error),
        }
        written
    }
}

impl AsyncRead for TargetIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        match &read {
            Err(error) => self.wire.broke(error),
            Ok(()) => match buffer.filled().len() - before {
                0 => self.wire.fin.store(true, Relaxed),
                count => self.wire.moved(Direction::In, count),
            },
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for TargetIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes));
        Poll::Ready(self.wrote(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bytes));
        Poll::Ready(self.wrote(written))
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
