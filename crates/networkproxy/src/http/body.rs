//! Bodies on their way through: never held, only watched.
//!
//! *Owns* the end of an exchange: which body is still moving, how long none has, and what becomes of the
//! target's connection after the last byte. *Never* buffers: a frame is asked for when the other side takes
//! one. *Invariant*: a request is finished when both its bodies are over, in whatever order; a target's
//! connection goes back to the pool only after its whole response was read.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use ledger::{Armed, DeadlineName, Limit, Restart};
use thiserror::Error;

use super::activity::{Activity, RequestGuard};
use super::conversation::{Conversation, HttpVersion};
use crate::ending::Ended;
use crate::failure::TargetFailure;
use crate::pool::Lease;

/// How far a request's body is. Times are active time.
#[derive(Debug)]
pub struct Upload {
    /// When its last frame was passed on.
    progress: AtomicU64,
    /// When its end was; 0 is not yet.
    done: AtomicU64,
    /// The client did not finish it.
    broken: AtomicBool,
}

impl Upload {
    /// Of a request without a body.
    pub fn none(now: Duration) -> Self {
        let now = nanos(now);
        Self { progress: AtomicU64::new(now), done: AtomicU64::new(now), broken: AtomicBool::new(false) }
    }

    fn starting(now: Duration) -> Self {
        Self { done: AtomicU64::new(0), ..Self::none(now) }
    }

    /// When it was complete, if it is.
    pub fn done(&self) -> Option<Duration> {
        match self.done.load(Relaxed) {
            0 => None,
            at => Some(Duration::from_nanos(at)),
        }
    }

    /// When it last moved.
    pub fn progress(&self) -> Duration {
        Duration::from_nanos(self.progress.load(Relaxed))
    }

    /// Did the client stop in the middle?
    pub fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }
}

/// A request's body on its way to a target.
#[derive(Debug)]
pub enum RequestBody {
    /// There is none.
    Empty,
    /// As the client sends it.
    Client(Box<ClientBody>),
}

/// A body that a client sends.
#[derive(Debug)]
pub struct ClientBody {
    incoming: Incoming,
    upload: Arc<Upload>,
    activity: Arc<Activity>,
    _guard: Arc<RequestGuard>,
}

impl RequestBody {
    /// Passes `incoming` on; with it, how far it is. `now` is active time.
    pub fn new(
        incoming: Incoming,
        activity: &Arc<Activity>,
        guard: &Arc<RequestGuard>,
        now: Duration,
    ) -> (Self, Arc<Upload>) {
        if incoming.is_end_stream() {
            return (Self::Empty, Arc::new(Upload::none(now)));
        }
        let upload = Arc::new(Upload::starting(now));
        let (activity, guard) = (Arc::clone(activity), Arc::clone(guard));
        let body = ClientBody { incoming, upload: Arc::clone(&upload), activity, _guard: guard };
        (Self::Client(Box::new(body)), upload)
    }

    /// Is there none?
    pub const fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self::Client(body) = self.get_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(&mut body.incoming).poll_frame(cx);
        if let Poll::Ready(frame) = &polled {
            let now = nanos(body.activity.clock().active());
            // An empty frame is none: they may come for ever (CVE-2019-9518).
            let is_empty = |frame: &Frame<Bytes>| frame.data_ref().is_some_and(Bytes::is_empty);
            if !matches!(frame, Some(Ok(frame)) if is_empty(frame)) {
                body.activity.progressed();
            }
            body.upload.progress.store(now, Relaxed);
            match frame {
                Some(Err(_)) => body.upload.broken.store(true, Relaxed),
                Some(Ok(_)) if !body.incoming.is_end_stream() => {}
                _ => body.upload.done.store(now, Relaxed),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client(body) => body.incoming.size_hint(),
        }
    }
}

/// A response's body on its way to the client.
#[derive(Debug)]
pub enum ResponseBody {
    /// One of ours, whole; with what finishes the request when it is dropped.
    Whole(Option<Bytes>, Arc<RequestGuard>),
    /// As a target sends it.
    Target(Box<TargetBody>),
}

/// Why a response stops in the middle. Whoever reads it is told by a reset, never by an end.
#[derive(Debug, Error)]
pub enum BodyFault {
    /// The target failed.
    #[error("the target failed in the middle of its response")]
    Target,
    /// A deadline passed.
    #[error("a deadline passed in the middle of the response")]
    Expired,
}

/// A body that a target sends.
#[derive(Debug)]
pub struct TargetBody {
    incoming: Incoming,
    /// Until the response was read to its end.
    lease: Option<Lease>,
    upload: Arc<Upload>,
    clock: Patience,
    /// HTTP/2: since when nobody has asked for the next frame; 0 while the target is waited for.
    unasked: Option<Arc<AtomicU64>>,
    conversation: Arc<Conversation>,
    _guard: Arc<RequestGuard>,
}

impl TargetBody {
    /// Passes `incoming` on, bounded by `idle` between frames and by `whole` in all.
    pub fn new(
        incoming: Incoming,
        lease: Lease,
        upload: Arc<Upload>,
        (idle, whole): (Limit, Armed),
        conversation: Arc<Conversation>,
        guard: Arc<RequestGuard>,
    ) -> Self {
        let clock = Patience { idle, whole, waiting_since: None, sleep: None };
        let unasked =
            (conversation.version == HttpVersion::Two).then(|| conversation.activity.register_body());
        let mut body =
            Self { incoming, lease: Some(lease), upload, clock, unasked, conversation, _guard: guard };
        body.settle();
        body
    }

    /// Gives the connection back, once the response is complete.
    fn settle(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }

    /// The client's side has a frame, or waits for one.
    fn mark(&self, unasked_since: u64) {
        if let Some(unasked) = &self.unasked {
            unasked.store(unasked_since, Relaxed);
        }
    }

    fn fail(&mut self, ended: Ended, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.lease = None;
        self.conversation.cut(ended);
        Poll::Ready(Some(Err(fault)))
    }
}

impl Body for TargetBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.clock.waiting_since = None;
                this.conversation.activity.progressed();
                if this.unasked.is_some() {
                    this.mark(nanos(this.conversation.activity.clock().active()));
                }
                this.settle();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                if let Some(lease) = this.lease.take() {
                    lease.give_back();
                }
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let failure = TargetFailure::in_response(&error, this.lease.as_ref().map(Lease::wire));
                this.fail(Ended::Target(failure), BodyFault::Target)
            }
            Poll::Pending => {
                this.mark(0);
                match this.clock.poll_expired(cx, &this.upload, &this.conversation.activity) {
                    Poll::Ready(armed) => this.fail(Ended::Expired(armed), BodyFault::Expired),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match self.get_mut() {
            Self::Whole(bytes, _) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Target(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes, _) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Target(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes, _) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Target(body) => body.size_hint(),
        }
    }
}

/// The clocks of a response's body. They run only while the client's side asks for a frame: a client that
/// takes no bytes asks for none, and whose bytes wait in our buffers pauses them too.
#[derive(Debug)]
struct Patience {
    idle: Limit,
    /// The whole request's.
    whole: Armed,
    waiting_since: Option<Duration>,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Patience {
    fn poll_expired(&mut self, cx: &mut Context<'_>, upload: &Upload, activity: &Activity) -> Poll<Armed> {
        loop {
            let now = activity.clock().active();
            let waiting = *self.waiting_since.get_or_insert(now);
            let since = waiting.max(upload.progress());
            let mut due = self.whole_due();
            if !self.idle.value.is_zero() {
                let idle_due = since.saturating_add(self.idle.value);
                if idle_due <= now {
                    if activity.is_blocked() {
                        self.waiting_since = Some(now);
                        continue;
                    }
                    let (limit, source) = (self.idle.value, Arc::clone(&self.idle.source));
                    let name = DeadlineName::StreamIdle;
                    return Poll::Ready(Armed { name, limit, source, since, restart: Restart::OnBytes });
                }
                due = due.min(idle_due);
            }
            if self.whole_due() <= now {
                return Poll::Ready(self.whole.clone());
            }
            if due == Duration::MAX {
                return Poll::Pending;
            }
            let wait = due.saturating_sub(now).min(LONGEST_SLEEP);
            let sleep = match &mut self.sleep {
                Some(sleep) => {
                    // Left alone while it wakes early enough: a frame costs no timer.
                    let until = tokio::time::Instant::now() + wait;
                    if sleep.is_elapsed() || sleep.deadline() > until {
                        sleep.as_mut().reset(until);
                    }
                    sleep
                }
                none => none.insert(Box::pin(tokio::time::sleep(wait))),
            };
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn whole_due(&self) -> Duration {
        if self.whole.limit.is_zero() {
            Duration::MAX
        } else {
            self.whole.since.saturating_add(self.whole.limit)
        }
    }
}

/// Longer waits are cut into such.
const LONGEST_SLEEP: Duration = Duration::from_hours(24);

fn nanos(at: Duration) -> u64 {
    (at.as_nanos() as u64).max(1)
}
