//! What a client's HTTP connection is doing, as its deadlines need to know it.
//!
//! *Owns* the moments that the deadlines of [`Phase::HttpIdle`](ledger::Phase) run from: the last response's
//! end, a head's first byte, the first open request, since when the hop takes no bytes. *Never* sets a timer
//! and never ends anything. *Invariant*: a request is started and finished once, whatever becomes of it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ledger::{Armed, Traffic};
use runtime::{Clock, Histogram};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The doings of one connection; shared by its socket, its requests and its owner. Times are active time.
#[derive(Debug)]
pub struct Activity {
    clock: Clock,
    traffic: Arc<Traffic>,
    durations: Arc<Histogram>,
    open: AtomicU32,
    /// When the last request ended; before the first, when HTTP began.
    idle_since: AtomicU64,
    /// When the first byte of the next head came; 0 is not yet.
    head_since: AtomicU64,
    /// When the first of the open requests began.
    open_since: AtomicU64,
    /// Since when the hop takes no bytes; 0 is not blocked.
    blocked_since: AtomicU64,
    /// The deadline of the latest request that waits for its target.
    awaited: Mutex<Option<Armed>>,
    /// Bodies on their way to the client, each with the moment since which nobody has asked for its next
    /// frame; 0 while the target is waited for. HTTP/2 only.
    bodies: Mutex<Vec<Weak<AtomicU64>>>,
    /// Bytes that came since a request last made progress.
    fruitless: AtomicU64,
    /// When the first of them came.
    fruitless_since: AtomicU64,
    served: AtomicBool,
    plain_end: AtomicBool,
    /// One of the above changed in a way that a deadline may come earlier now.
    turned: AtomicBool,
}

impl Activity {
    /// What a client may send of bodies before somebody takes it: HTTP/2's flow control (RFC 9113, 5.2), for
    /// each stream and for the connection.
    pub const WINDOW: u32 = 1024 * 1024;
    /// PING, SETTINGS and other frames that ask for nothing may add up to 256 KiB (some 15,000 PINGs) beyond
    /// that window between two steps of requests, within ten seconds.
    pub const MOST_FRUITLESS: u64 = Self::WINDOW as u64 + 256 * 1024;
    /// A client that takes longer for them than this may go on: whoever asks every second whether we live is
    /// no flood.
    const FRUITLESS_WITHIN: Duration = Duration::from_secs(10);

    /// Of a connection on which HTTP begins now. How long its requests take goes into `durations`.
    pub fn new(clock: Clock, traffic: Arc<Traffic>, durations: Arc<Histogram>) -> Self {
        let now = clock.active().as_nanos() as u64;
        Self {
            clock,
            traffic,
            durations,
            open: AtomicU32::new(0),
            idle_since: AtomicU64::new(now),
            head_since: AtomicU64::new(0),
            open_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            awaited: Mutex::default(),
            bodies: Mutex::default(),
            fruitless: AtomicU64::new(0),
            fruitless_since: AtomicU64::new(0),
            served: AtomicBool::new(false),
            plain_end: AtomicBool::new(false),
            turned: AtomicBool::new(true),
        }
    }

    /// Where bytes and requests are counted.
    pub const fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// The clock that everything here is timed by.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Requests in progress.
    pub fn open(&self) -> u32 {
        self.open.load(Relaxed)
    }

    /// Was there a request at all?
    pub fn has_served(&self) -> bool {
        self.served.load(Relaxed)
    }

    /// When the last request ended; before the first, when HTTP began.
    pub fn idle_since(&self) -> Duration {
        Duration::from_nanos(self.idle_since.load(Relaxed))
    }

    /// When the first byte of a head came that is not complete.
    pub fn head_since(&self) -> Option<Duration> {
        moment(&self.head_since)
    }

    /// Is it between two requests?
    pub fn is_quiet(&self) -> bool {
        self.open() == 0 && self.head_since().is_none() && self.has_served()
    }

    /// When the first of the open requests began, where there is one.
    pub fn open_since(&self) -> Option<Duration> {
        moment(&self.open_since).filter(|_| self.open() > 0)
    }

    /// Does the hop take no bytes at the moment? Idle clocks pause while it does not.
    pub fn is_blocked(&self) -> bool {
        self.blocked_since.load(Relaxed) != 0
    }

    /// The deadline that the latest request waits under, where one waits for its target.
    pub fn awaited(&self) -> Option<Armed> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A request begins to wait for its target under `armed`, or has its answer.
    pub fn await_target(&self, armed: Option<Armed>) {
        *self.awaited.lock().unwrap_or_else(PoisonError::into_inner) = armed;
        self.turned.store(true, Relaxed);
    }

    /// A body begins that may have to wait for its stream's window.
    pub fn register_body(&self) -> Arc<AtomicU64> {
        let unasked = Arc::new(AtomicU64::new(self.stamp()));
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        if bodies.len() >= 2 * self.open() as usize + 16 {
            bodies.retain(|body| body.strong_count() > 0);
        }
        bodies.push(Arc::downgrade(&unasked));
        unasked
    }

    /// Since when the body that has waited longest has not been asked for; `None` where there is none.
    pub fn unasked_since(&self) -> Option<Duration> {
        let bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        let since =
            bodies.iter().filter_map(Weak::upgrade).map(|body| body.load(Relaxed)).filter(|at| *at > 0);
        since.min().map(Duration::from_nanos)
    }

    /// Is any body on its way to the client?
    pub fn has_bodies(&self) -> bool {
        let bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        bodies.iter().any(|body| body.strong_count() > 0)
    }

    /// A frame of a body passed, in either direction.
    pub fn progressed(&self) {
        self.fruitless.store(0, Relaxed);
    }

    /// Bytes that came since a request last made progress.
    pub fn fruitless(&self) -> u64 {
        self.fruitless.load(Relaxed)
    }

    /// Did the client end its stream in order (`close_notify`; in clear text, its FIN)?
    pub fn saw_end(&self) -> bool {
        self.plain_end.load(Relaxed)
    }

    /// Did a deadline possibly move forward since the last call?
    pub fn has_turned(&self) -> bool {
        self.turned.swap(false, Relaxed)
    }

    fn now(&self) -> u64 {
        // 0 means never.
        (self.clock.active().as_nanos() as u64).max(1)
    }

    /// As of the kernel's tick: cheaper.
    fn stamp(&self) -> u64 {
        (self.clock.stamp().as_nanos() as u64).max(1)
    }

    fn bytes_came(&self, count: u64) {
        let before = self.fruitless.fetch_add(count, Relaxed);
        if before == 0 {
            self.fruitless_since.store(self.stamp(), Relaxed);
        }
        if before + count >= Self::MOST_FRUITLESS {
            let took = self.now().saturating_sub(self.fruitless_since.load(Relaxed));
            if took > Self::FRUITLESS_WITHIN.as_nanos() as u64 {
                self.progressed();
            } else {
                self.turned.store(true, Relaxed);
            }
        }
        if self.open() == 0 && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(self.stamp(), Relaxed);
            self.turned.store(true, Relaxed);
        }
    }

    fn blocked(&self) {
        if self.blocked_since.load(Relaxed) == 0 {
            self.blocked_since.store(self.stamp(), Relaxed);
        }
    }

    fn unblocked(&self) {
        if self.blocked_since.load(Relaxed) != 0 {
            self.blocked_since.store(0, Relaxed);
        }
    }
}

/// One request in progress: started when made, finished when dropped.
#[derive(Debug)]
pub struct RequestGuard {
    activity: Arc<Activity>,
    /// Active nanoseconds.
    began: u64,
}

impl RequestGuard {
    /// A head was read.
    pub fn start(activity: &Arc<Activity>) -> Self {
        let now = activity.now();
        activity.traffic.request_started();
        activity.served.store(true, Relaxed);
        activity.head_since.store(0, Relaxed);
        activity.progressed();
        if activity.open.fetch_add(1, Relaxed) == 0 {
            activity.open_since.store(now, Relaxed);
        }
        activity.turned.store(true, Relaxed);
        Self { activity: Arc::clone(activity), began: now }
    }

    /// When the head was read, in active time.
    pub const fn began(&self) -> Duration {
        Duration::from_nanos(self.began)
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let activity = &self.activity;
        let now = activity.now();
        activity.durations.observe(Duration::from_nanos(now.saturating_sub(self.began)));
        activity.idle_since.store(now, Relaxed);
        activity.open.fetch_sub(1, Relaxed);
        activity.traffic.request_finished();
        activity.turned.store(true, Relaxed);
    }
}

/// A client's socket as hyper gets it: plain bytes, watched.
#[derive(Debug)]
pub struct WatchedIo<S> {
    socket: S,
    activity: Arc<Activity>,
    /// Read already, and to be read again.
    put_back: Bytes,
}

impl<S> WatchedIo<S> {
    /// Watches `socket` for `activity`.
    pub const fn new(socket: S, activity: Arc<Activity>) -> Self {
        Self { socket, activity, put_back: Bytes::new() }
    }

    /// The next that is read: `bytes`, which were read from it before.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.put_back = bytes;
    }

    /// The socket again.
    pub fn into_inner(self) -> S {
        self.socket
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => self.activity.blocked(),
            Poll::Ready(_) => self.activity.unblocked(),
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.put_back.is_empty() {
            let count = self.put_back.len().min(buffer.remaining());
            buffer.put_slice(&self.put_back.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let room = buffer.remaining();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = read {
            match buffer.filled().len() - before {
                0 if room > 0 => self.activity.plain_end.store(true, Relaxed),
                0 => {}
                count => self.activity.bytes_came(count as u64),
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bytes);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        // TLS takes bytes into its own buffer first: it is the flush that waits for the hop.
        match &flushed {
            Poll::Pending => self.activity.blocked(),
            Poll::Ready(_) => self.activity.unblocked(),
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

fn moment(at: &AtomicU64) -> Option<Duration> {
    match at.load(Relaxed) {
        0 => None,
        nanos => Some(Duration::from_nanos(nanos)),
    }
}
