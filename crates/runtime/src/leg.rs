//! One data socket of a connection: client, hop or target.
//!
//! *Owns* the socket, the count of every byte at the moment of its system call, and the evidence of how the
//! other end behaved (FIN, reset, errno, when). It is the only way to touch a data socket; rustls and hyper
//! get a [`LegIo`] of it.
//! *Never* closes in order by itself: [`crate::cleanup_socket`] does; dropping a leg resets.
//! *Invariant*: a reset is never read as an end of stream, although the kernel says so once the error was
//! taken from the socket; after a reset what was queued is read first.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use ledger::{Direction, HopCount, LegName, Traffic};
use rustix::io::Errno;
use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::evidence::{Evidence, Failure, News};
use crate::leg_io::LegIo;
use crate::socket::{Keepalive, SendQueue};

/// The most that a protocol says when it ends: two TLS records with an alert, an HTTP/2 GOAWAY.
const GOODBYE_BYTES: u64 = 512;

/// One data socket. Not `Clone`: it has one owner, who says goodbye.
#[derive(Debug)]
pub struct Leg {
    pub(crate) wire: Arc<Wire>,
}

/// What a leg shares with its [`LegIo`].
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    name: LegName,
    origin: Origin,
    traffic: Arc<Traffic>,
    clock: Clock,
    /// Bytes that the socket took from us, header included.
    written: AtomicU64,
    /// Bytes read, those before a hop header's end apart.
    read: AtomicU64,
    /// The first bytes written that are a header and count nowhere.
    header: AtomicU64,
    seen: Mutex<Seen>,
    /// Told when `seen` gets a failure.
    failed: Notify,
}

/// Who opened the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The other end; we accepted.
    Accepted,
    /// We dialled.
    Dialled,
}

#[derive(Debug, Default)]
struct Seen {
    evidence: Evidence,
    /// What [`Leg::take_news`] has handed out.
    told: Evidence,
    shut_down: bool,
}

impl Leg {
    /// Takes a socket that was set up by [`crate::set_from_birth`] (or accepted from a listener that was).
    pub fn adopt(
        stream: TcpStream,
        name: LegName,
        origin: Origin,
        traffic: Arc<Traffic>,
        clock: Clock,
    ) -> Self {
        let wire = Wire {
            stream,
            name,
            origin,
            traffic,
            clock,
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            header: AtomicU64::new(0),
            seen: Mutex::default(),
            failed: Notify::new(),
        };
        Self { wire: Arc::new(wire) }
    }

    /// Which leg of the connection it is.
    pub fn name(&self) -> LegName {
        self.wire.name
    }

    /// Our address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.wire.stream.local_addr()
    }

    /// The other end's address.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.wire.stream.peer_addr()
    }

    /// A handle for rustls or hyper. `prefix` is read first: bytes that were read past a header.
    pub fn io(&self, prefix: Vec<u8>) -> LegIo {
        LegIo::new(Arc::clone(&self.wire), prefix)
    }

    /// The next `len` bytes written are a hop header: they count nowhere. To be called before the write.
    pub fn exclude_header(&self, len: usize) {
        self.wire.header.store(self.wire.written.load(Relaxed) + len as u64, Relaxed);
    }

    /// `len` bytes were read from the socket before it became a leg (past a hop header, by its parser).
    pub fn count_read_before(&self, len: usize) {
        self.wire.count_read(len);
    }

    /// Waits until reading may give something: bytes, an end of stream or an error.
    pub async fn readable(&self) -> io::Result<()> {
        self.wire.stream.readable().await
    }

    /// As [`Leg::readable`], for whoever is polled.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_readable(cx)
    }

    /// Waits until writing may take something, or fails.
    pub async fn writable(&self) -> io::Result<()> {
        self.wire.stream.writable().await
    }

    /// Reads what is there. 0 is the end of the stream; `WouldBlock` that nothing is there now.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wire.try_read(buffer)
    }

    /// Writes what the socket takes now.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.wire.try_write(bytes)
    }

    /// As [`Leg::try_write`], from several slices in one call.
    pub fn try_write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.wire.try_write_vectored(bytes)
    }

    /// Waits until the socket breaks, also while nobody reads or writes. Cancel safe.
    ///
    /// What was queued before a reset can still be read.
    pub async fn failed(&self) -> Failure {
        self.wire.failed().await
    }

    /// Waits until the other end's FIN is the next thing to be read. Pending for ever while bytes wait before
    /// it, and on a broken socket ([`Leg::failed`] tells). Reads nothing. Cancel safe.
    pub async fn ended(&self) {
        if self.wire.next_byte().await != Ok(None) {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the first sign from the other end: `true` where bytes wait to be read, `false` where it
    /// ended or broke without any. Reads nothing. Cancel safe.
    pub async fn answered(&self) -> bool {
        matches!(self.wire.next_byte().await, Ok(Some(_)))
    }

    /// Sends our FIN. On a broken socket there is nothing to send it on; that is evidence already.
    pub fn shutdown_write(&self) {
        self.wire.shutdown_write();
    }

    /// What of our bytes the other kernel has not taken.
    pub fn send_queue(&self) -> io::Result<SendQueue> {
        SendQueue::of(&self.wire.stream)
    }

    /// Bytes written that were not acknowledged: a count of what is lost if the socket goes now.
    pub fn unacknowledged(&self) -> u64 {
        self.send_queue().map_or(0, |queue| self.lacking(&queue))
    }

    /// Did the other end close for good, and answer only our last few bytes (a close_notify, a GOAWAY) with a
    /// reset? Then it left in order: the reset says no more than that nobody reads any more.
    pub(crate) fn left_before_our_goodbye(&self) -> bool {
        let seen = self.evidence();
        let reset_after_fin = seen.failure.is_some_and(|f| f.errno == Errno::PIPE.raw_os_error());
        seen.fin.is_some() && reset_after_fin && (1..=GOODBYE_BYTES).contains(&self.unacknowledged())
    }

    /// As [`Leg::unacknowledged`], by an answer of the kernel. Our FIN is no byte.
    pub(crate) fn lacking(&self, queue: &SendQueue) -> u64 {
        // A dialling socket's SYN counts as acknowledged byte.
        let acked = queue.acked.saturating_sub(u64::from(self.wire.origin == Origin::Dialled));
        self.wire.written.load(Relaxed).saturating_sub(acked)
    }

    /// Resets the connection now, although a handle of the socket is still somewhere.
    pub(crate) fn tear(&self) {
        ignore(rustix::net::connect_unspec(&self.wire.stream));
    }

    /// Is a [`LegIo`] of it still somewhere?
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.wire) > 1
    }

    /// Takes a silent peer for gone after another time than the socket was born with.
    pub fn keep_alive(&self, keepalive: Keepalive) {
        ignore(keepalive.set(&SockRef::from(&self.wire.stream)));
    }

    /// Lets a peer that answers, but takes no bytes, do so for `limit`: by itself `TCP_USER_TIMEOUT` ends a
    /// connection whose window stays closed that long, and would name the wrong cause.
    pub fn tolerate_stall(&self, limit: Duration) {
        let socket = SockRef::from(&self.wire.stream);
        let longer = limit + Duration::from_mins(1);
        if socket.tcp_user_timeout().ok().flatten().is_some_and(|now| now < longer) {
            ignore(socket.set_tcp_user_timeout(Some(longer)));
        }
    }

    /// From here on closing is orderly. Only after a goodbye that the other end answered.
    pub fn clear_linger(&self) {
        ignore(SockRef::from(&self.wire.stream).set_linger(None));
    }

    /// How the other end behaved so far.
    pub fn evidence(&self) -> Evidence {
        self.wire.seen().evidence
    }

    /// The other end's FIN, once, where our kernel has it already: bytes before it may wait to be read.
    ///
    /// Who answers a FIN may be heard before the FIN itself is read; this tells them apart.
    pub fn take_early_fin(&self) -> Option<News> {
        let at = self.wire.clock.mono();
        let here = SendQueue::of(&self.wire.stream).is_ok_and(|queue| queue.closed_by_peer);
        let mut seen = self.wire.seen();
        let news = here && seen.told.fin.is_none() && seen.evidence == Evidence::default();
        news.then(|| {
            seen.told.fin = Some(at);
            News::Closed { at }
        })
    }

    /// Keeps the last part of a segment back until our FIN goes with it, for at most 200 ms (tcp(7),
    /// `TCP_CORK`): the other end then has both or neither.
    pub fn hold_for_fin(&self) {
        ignore(rustix::net::sockopt::set_tcp_cork(&self.wire.stream, true));
    }

    /// Acknowledges what comes from now on without delay (tcp(7), `TCP_QUICKACK`).
    pub(crate) fn acknowledge_at_once(&self) {
        ignore(rustix::net::sockopt::set_tcp_quickack(&self.wire.stream, true));
    }

    /// The evidence since the last call, in the order in which it was seen.
    pub fn take_news(&self) -> Vec<News> {
        let mut seen = self.wire.seen();
        let Evidence { fin, failure } = seen.evidence;
        let told = seen.told;
        seen.told = Evidence { fin: fin.or(told.fin), failure };
        let closed = fin.filter(|_| told.fin.is_none()).map(|at| News::Closed { at });
        let failed = failure.filter(|_| told.failure.is_none()).map(News::Failed);
        let mut news: Vec<News> = closed.into_iter().chain(failed).collect();
        news.sort_by_key(News::at);
        news
    }

    /// What passed over this socket, header apart. On the hop this goes into the record's end.
    pub fn count(&self) -> HopCount {
        let written = self.wire.written.load(Relaxed);
        HopCount {
            sent: written.saturating_sub(self.wire.header.load(Relaxed)),
            received: self.wire.read.load(Relaxed),
            read_to_eof: self.evidence().fin.is_some(),
        }
    }

    /// The clock that its bytes are timed by.
    pub fn clock(&self) -> &Clock {
        &self.wire.clock
    }
}

impl Wire {
    pub(crate) fn active(&self) -> Duration {
        self.clock.active()
    }

    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_read_ready(cx)
    }

    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_write_ready(cx)
    }

    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        debug_assert!(!buffer.is_empty(), "an empty read looks like an end of stream");
        let room = buffer.len();
        let flags = rustix::net::RecvFlags::empty();
        let read = self.attempt(Interest::READABLE, room, || {
            rustix::net::recv(&self.stream, &mut *buffer, flags).map(|(_, count)| count)
        });
        self.was_read(read)
    }

    /// As [`Wire::try_read`], into memory that need not be initialised.
    pub(crate) fn try_read_buf(&self, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
        let room = buffer.remaining();
        debug_assert!(room > 0, "an empty read looks like an end of stream");
        let read = self.attempt(Interest::READABLE, room, || {
            // Without a number it is no system call's: the readiness was taken back meanwhile.
            let numbered = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN);
            self.stream.try_read_buf(buffer).map_err(numbered)
        });
        self.was_read(read)
    }

    fn was_read(&self, read: io::Result<usize>) -> io::Result<usize> {
        match read {
            Ok(0) => self.ended(),
            Ok(count) => {
                self.count_read(count);
                Ok(count)
            }
            Err(error) => Err(self.broke(error)),
        }
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = rustix::net::SendFlags::NOSIGNAL;
        let written =
            self.attempt(Interest::WRITABLE, bytes.len(), || rustix::net::send(&self.stream, bytes, flags));
        self.wrote(written)
    }

    pub(crate) fn try_write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let len = bytes.iter().map(|slice| slice.len()).sum();
        let mut no_control = rustix::net::SendAncillaryBuffer::default();
        let flags = rustix::net::SendFlags::NOSIGNAL;
        let written = self.attempt(Interest::WRITABLE, len, || {
            rustix::net::sendmsg(&self.stream, bytes, &mut no_control, flags)
        });
        self.wrote(written)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(crate) fn shutdown_write(&self) {
        if std::mem::replace(&mut self.seen().shut_down, true) {
            return;
        }
        ignore(rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write));
    }

    /// Looks at the next byte without taking it; `None` is the end of the stream.
    async fn next_byte(&self) -> Result<Option<u8>, io::ErrorKind> {
        let mut byte = [0];
        match self.stream.peek(&mut byte).await {
            // Not `ended`: the end is evidence once it is read, and the bytes before it are not forgotten.
            Ok(0) => match self.seen().evidence {
                Evidence { fin: None, failure: Some(failure) } => Err(failure.error().kind()),
                _ => Ok(None),
            },
            Ok(_) => Ok(Some(byte[0])),
            Err(error) => Err(self.broke(error).kind()),
        }
    }

    async fn failed(&self) -> Failure {
        let mut told = std::pin::pin!(self.failed.notified());
        loop {
            told.as_mut().enable();
            if let Some(failure) = self.seen().evidence.failure {
                return failure;
            }
            tokio::select! {
                () = told.as_mut() => told.set(self.failed.notified()),
                _ = self.stream.ready(Interest::ERROR) => {
                    if let Some(errno) = self.stream.take_error().ok().flatten().and_then(|e| e.raw_os_error()) {
                        // Of the socket itself: an EPIPE here is a reset that came after its FIN.
                        self.note(errno);
                    } else {
                        // A read or write on another thread took the error and is about to note it.
                        told.as_mut().await;
                        told.set(self.failed.notified());
                    }
                }
            }
        }
    }

    /// One system call. A short count empties the socket (or fills it): the readiness is cleared with it,
    /// which saves the call that would only say `EAGAIN`.
    pub(crate) fn attempt(
        &self,
        interest: Interest,
        room: usize,
        mut call: impl FnMut() -> Result<usize, Errno>,
    ) -> io::Result<usize> {
        let mut short = None;
        let outcome = self.stream.try_io(interest, || {
            loop {
                match call() {
                    Err(Errno::INTR) => {}
                    Ok(count) if count > 0 && count < room => {
                        short = Some(count);
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    done => return done.map_err(io::Error::from),
                }
            }
        });
        short.map_or(outcome, Ok)
    }

    pub(crate) fn count_read(&self, count: usize) {
        self.read.fetch_add(count as u64, Relaxed);
        self.traffic.moved(self.name, Direction::In, count as u64, self.clock.stamp());
    }

    pub(crate) fn wrote(&self, written: io::Result<usize>) -> io::Result<usize> {
        let count = written.map_err(|error| self.broke(error))?;
        let before = self.written.fetch_add(count as u64, Relaxed);
        let header = self.header.load(Relaxed);
        let counted = (before + count as u64).max(header) - before.max(header);
        if counted > 0 {
            self.traffic.moved(self.name, Direction::Out, counted, self.clock.stamp());
        }
        Ok(count)
    }

    /// The kernel says end of stream: true, unless the socket broke before its FIN was read. Then the error
    /// was taken by a write or by `failed`, and the kernel has only the shutdown left to tell.
    pub(crate) fn ended(&self) -> io::Result<usize> {
        let at = self.clock.mono();
        let mut seen = self.seen();
        if let (None, Some(failure)) = (seen.evidence.fin, seen.evidence.failure) {
            return Err(failure.error());
        }
        seen.evidence.fin.get_or_insert(at);
        Ok(0)
    }

    /// Notes an error, once: what came first counts, and is what callers get from then on.
    pub(crate) fn broke(&self, error: io::Error) -> io::Error {
        let Some(errno) = error.raw_os_error().filter(|_| error.kind() != io::ErrorKind::WouldBlock) else {
            return error;
        };
        let seen = self.seen();
        if seen.shut_down && errno == Errno::PIPE.raw_os_error() && seen.evidence.failure.is_none() {
            return error;
        }
        drop(seen);
        self.note(errno).error()
    }

    fn note(&self, errno: i32) -> Failure {
        let at = self.clock.mono();
        let failure = *self.seen().evidence.failure.get_or_insert(Failure { at, errno });
        self.failed.notify_waiters();
        failure
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outcome of a call that fails only on a socket that is broken already, which is evidence elsewhere.
fn ignore<T, E>(outcome: Result<T, E>) {
    drop(outcome);
}
