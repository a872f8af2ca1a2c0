//! A leg as rustls and hyper want it.
//!
//! *Owns* the bytes that were read past a header and must be read again first.
//! *Never* closes the socket: a shutdown sends our FIN, and the [`crate::Leg`]'s owner says goodbye.
//! *Invariant*: its bytes and errors go through the same counts and evidence as the leg's own.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::leg::Wire;

/// `AsyncRead` and `AsyncWrite` over a [`crate::Leg`]'s socket. At most one at a time may be polled.
#[derive(Debug)]
pub struct LegIo {
    wire: Arc<Wire>,
    prefix: Vec<u8>,
    taken: usize,
}

impl LegIo {
    pub(crate) fn new(wire: Arc<Wire>, prefix: Vec<u8>) -> Self {
        Self { wire, prefix, taken: 0 }
    }

    fn take_prefix(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = &self.prefix[self.taken..];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.taken += count;
        if self.taken == self.prefix.len() {
            self.prefix = Vec::new();
            self.taken = 0;
        }
    }
}

impl AsyncRead for LegIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if !self.prefix.is_empty() {
            self.take_prefix(buffer);
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.wire.poll_readable(cx))?;
            match self.wire.try_read_buf(buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for LegIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_attempt(cx, |wire| wire.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_attempt(cx, |wire| wire.try_write_vectored(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.shutdown_write();
        Poll::Ready(Ok(()))
    }
}

impl LegIo {
    fn poll_attempt(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&Wire) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.wire.poll_writable(cx))?;
            match write(&self.wire) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}
