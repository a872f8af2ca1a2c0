//! A TLS connection as its users write it: in pieces that are copied fast.
//!
//! What is written is copied once, by rustls, to behind a record's five bytes of header. Such a copy goes to an odd
//! address, and from some 2 KiB on the C library makes it by `rep movsb`, which on AMD's Zen 3 and Zen 4 is then up
//! to twenty times slower than its own loops (glibc bug 30994, mended in 2024): a third of what a large body cost.
//! Copies of 2 KiB never take that way, and are as fast elsewhere. What is read is copied as it is: in
//! pieces it cost a quarter more.
//!
//! *Owns* the TLS session and the socket below. *Never* changes what is sent: records are cut as before.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

/// What is copied at once: glibc's threshold is 2,112 bytes where the processor has `fsrm`, and above elsewhere.
const PIECE: usize = 2_048;
/// Pieces of one write: four records.
const PIECES: usize = 32;

/// A TLS connection after its handshake.
#[derive(Debug)]
pub struct TlsIo<S> {
    // A TLS session has more than a kilobyte, and its users move it about.
    stream: Box<TlsStream<S>>,
}

impl<S> TlsIo<S> {
    /// Takes a connection whose handshake is complete.
    pub fn new(stream: TlsStream<S>) -> Self {
        Self { stream: Box::new(stream) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        for (place, piece) in pieces.iter_mut().zip(bytes.iter().flat_map(|slice| slice.chunks(PIECE))) {
            *place = IoSlice::new(piece);
            count += 1;
        }
        Pin::new(&mut *self.stream).poll_write_vectored(cx, &pieces[..count])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}
