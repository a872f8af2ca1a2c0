//! HTTP between clients and backends.
//!
//! ```text
//!   TLS or clear bytes ─▶ hyper ─▶ exchange ─▶ route ─▶ pool ─▶ target
//!        WatchedIo           │        head: checked, written anew      │
//!                            ▼                                         ▼
//!          vigil: idle, header, half-close        body: streamed, watched, given back
//! ```
//!
//! *Owns* one connection's time in HTTP: serving it until something ends it, and winding it down in order.
//! *Never* decides what the end means ([`crate::ending`] does) and never closes the socket. *Invariant*: the
//! hop is watched whoever reads it: its end or error is seen also while a request waits for its target.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ledger::{Armed, DeadlineName, LegName, Phase, Reason, Restart};
use runtime::{CloseMode, CloseOrder, Goodbye, Leg, TrackedConnection};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::ending::{Ended, conclude};
use crate::hop_io::{Ahead, Sight};
use crate::wind_down::WindDown;

pub mod activity;
pub mod answer;
pub mod body;
pub mod conversation;
pub mod exchange;
pub mod head;
mod resting;
mod status_page;
mod streams;
mod vigil;

use activity::{Activity, WatchedIo};
use conversation::{Conversation, HttpVersion, TunnelOffer};
use exchange::exchange;
use resting::Resting;
use streams::{Streams, WithStreams};
use vigil::{Look, Vigil};

/// What may wait to be sent on one HTTP/2 stream (R-51).
const SEND_BUFFER: usize = 128 * 1024;

/// How a connection's time in HTTP ended.
#[derive(Debug)]
pub enum Served<S> {
    /// It is over.
    Over(Over),
    /// The last request became a tunnel.
    Tunnel {
        /// The client's socket.
        socket: S,
        /// Read from it already, after the request.
        read_ahead: Bytes,
        /// The target.
        offer: TunnelOffer,
    },
}

/// The end of a connection.
#[derive(Debug)]
pub enum Over {
    /// For this reason, which is not in the evidence yet.
    Because(Ended),
    /// For a reason that is in the evidence already; this is how to leave the hop.
    Concluded(Goodbye),
}

/// What a connection in HTTP needs beside its socket.
pub struct Attendance<'a> {
    /// Its record.
    pub tracked: &'a mut TrackedConnection,
    /// Its hop.
    pub hop: &'a Leg,
    /// What was read ahead from the hop.
    pub ahead: &'a Ahead,
    /// Given when the connection should come to an end.
    pub wind_down: &'a WindDown,
}

/// Serves HTTP/1.0 and HTTP/1.1 until it ends.
pub async fn serve_one<S>(
    socket: S,
    conversation: Arc<Conversation>,
    mut attendance: Attendance<'_>,
) -> Served<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let sleep = pin!(tokio::time::sleep(Duration::ZERO));
    let mut vigil = Vigil::of(&conversation, sleep);
    let mut socket = WatchedIo::new(socket, Arc::clone(&conversation.activity));
    let mut rest = Rest::Allowed;
    loop {
        // hyper's state and buffers, some 10 KiB: made for a connection that is in use, and dropped while it
        // is not.
        let mut http = Box::new(serve_connection(socket, &conversation));
        let over = match attend(&mut *http, &mut vigil, &conversation, &mut attendance, rest).await {
            Attended::Over(over) => over,
            Attended::Quiet => {
                let hyper::server::conn::http1::Parts { io, read_buf, .. } = http.into_parts();
                socket = io.into_inner();
                if !read_buf.is_empty() {
                    // The beginning of a head: it goes on being read.
                    socket.put_back(read_buf);
                    rest = Rest::Never;
                    continue;
                }
                // Empty, it still holds the buffer that it was read into.
                drop(read_buf);
                let mut resting = Resting::new(socket, attendance.hop);
                let attended =
                    attend(&mut resting, &mut vigil, &conversation, &mut attendance, Rest::Never).await;
                match attended {
                    Attended::Over(over) if !resting.is_awake() => return Served::Over(over),
                    _ => {
                        socket = resting.into_inner();
                        continue;
                    }
                }
            }
        };
        return match over {
            Over::Because(Ended::Finished) => match conversation.take_tunnel() {
                Some(offer) => {
                    let parts = http.into_parts();
                    let socket = parts.io.into_inner().into_inner();
                    Served::Tunnel { socket, read_ahead: parts.read_buf, offer }
                }
                None => Served::Over(over),
            },
            Over::Because(Ended::Expired(armed))
                if armed.name == DeadlineName::RequestHeader
                    && conversation.activity.head_since().is_some() =>
            {
                let mut socket = http.into_parts().io.into_inner().into_inner();
                let close = conversation.gateway.timeouts.close.value;
                // Bounded by `close` as every goodbye; whoever does not read it is left all the same.
                let _told = tokio::time::timeout(close, say_timeout(&mut socket)).await.is_ok();
                Served::Over(Over::Because(Ended::Expired(armed)))
            }
            over => Served::Over(over),
        };
    }
}

#[expect(clippy::type_complexity, reason = "hyper's type; the service in it has no name")]
fn serve_connection<S>(
    socket: WatchedIo<S>,
    conversation: &Arc<Conversation>,
) -> http1::Connection<
    TokioIo<WatchedIo<S>>,
    impl hyper::service::Service<
        http::Request<hyper::body::Incoming>,
        Response = http::Response<body::ResponseBody>,
        Error = std::convert::Infallible,
        Future = impl Future<Output = Result<http::Response<body::ResponseBody>, std::convert::Infallible>>,
    >,
>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &conversation.gateway.limits;
    let requests = Arc::clone(conversation);
    http1::Builder::new()
        // A client that has said all it wants to say still reads (R-16).
        .half_close(true)
        .header_read_timeout(None)
        .max_headers(limits.max_headers)
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(limits.max_header_bytes.max(16 * 1024))
        .serve_connection(
            TokioIo::new(socket),
            service_fn(move |request| exchange(Arc::clone(&requests), request)),
        )
}

/// Serves HTTP/2 until it ends.
pub async fn serve_two<S>(socket: S, conversation: Arc<Conversation>, mut attendance: Attendance<'_>) -> Over
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &conversation.gateway.limits;
    let socket = TokioIo::new(WatchedIo::new(socket, Arc::clone(&conversation.activity)));
    let streams = Streams::default();
    let requests = Arc::clone(&conversation);
    let http = http2::Builder::new(streams.clone())
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        .initial_connection_window_size(Activity::WINDOW)
        .initial_stream_window_size(Activity::WINDOW)
        .serve_connection(socket, service_fn(move |request| exchange(Arc::clone(&requests), request)));
    let mut http = WithStreams::new(http, streams);
    let sleep = pin!(tokio::time::sleep(Duration::ZERO));
    let mut vigil = Vigil::of(&conversation, sleep);
    match attend(&mut http, &mut vigil, &conversation, &mut attendance, Rest::Never).await {
        Attended::Over(over) => over,
        Attended::Quiet => unreachable!("it was not to rest"),
    }
}

/// hyper's connection, of either version.
trait Http: Future<Output = hyper::Result<()>> + Unpin {
    /// Takes no further request, finishes those in progress, then ends.
    fn wind_down(&mut self);
}

impl<I, F, S> Http for http1::Connection<I, S>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    F: Future<Output = Result<http::Response<body::ResponseBody>, std::convert::Infallible>>,
    S: hyper::service::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<body::ResponseBody>,
            Error = std::convert::Infallible,
            Future = F,
        >,
{
    fn wind_down(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}

impl<I, F, S> Http for WithStreams<http2::Connection<I, S, Streams>>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    F: Future<Output = Result<http::Response<body::ResponseBody>, std::convert::Infallible>> + Send + 'static,
    S: hyper::service::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<body::ResponseBody>,
            Error = std::convert::Infallible,
            Future = F,
        >,
{
    fn wind_down(&mut self) {
        self.connection.as_mut().graceful_shutdown();
    }
}

/// What a connection in HTTP waits for.
enum Event {
    Http(hyper::Result<()>),
    Ordered(CloseOrder),
    Draining,
    Told,
    Hop,
    Expired(Armed),
    Outdated,
    Flood(&'static str),
}

/// Is whoever attends to be told when nothing has happened for a while?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Allowed,
    Never,
}

/// What came of attending.
enum Attended {
    Over(Over),
    /// Nothing is going on, and nothing has been for a second.
    Quiet,
}

/// Serves until it ends, or until whoever ends it has been told.
async fn attend<H: Http>(
    http: &mut H,
    vigil: &mut Vigil<'_>,
    conversation: &Conversation,
    attendance: &mut Attendance<'_>,
    rest: Rest,
) -> Attended {
    let Attendance { tracked, hop, ahead, wind_down } = attendance;
    let timeouts = &conversation.gateway.timeouts;
    let activity = &*conversation.activity;
    // What was said already: how to leave the hop once the last request is done.
    let mut leaving: Option<Goodbye> = None;
    let mut last = Last::Open;
    loop {
        let waits = Waits { tracked, hop, ahead, wind_down, leaving: leaving.is_some() };
        let event = next(http, vigil, activity, waits, &mut last).await;
        match event {
            Event::Outdated => {
                vigil.show(tracked);
                if rest == Rest::Allowed && last == Last::Open && leaving.is_none() && activity.is_quiet() {
                    return Attended::Quiet;
                }
            }
            // Whoever was let in just before the end of letting in is served once.
            Event::Draining if conversation.version == HttpVersion::One && !activity.has_served() => {
                last = Last::Awaited;
            }
            Event::Draining => {
                last = Last::Begun;
                http.wind_down();
            }
            // From here on the client may go as soon as it has heard us: that it does is not the cause.
            Event::Told => {
                tracked.observe_leg(hop);
                tracked.observe(tracked.observation(Reason::Drained, None));
            }
            Event::Ordered(CloseOrder { mode: CloseMode::Graceful, observation }) => {
                let order = CloseOrder { mode: CloseMode::Graceful, observation };
                leaving = Some(take_leave(http, Ended::Ordered(order), tracked, hop, vigil, timeouts));
            }
            Event::Flood(_) if leaving.is_some() => return Attended::Over(Over::Concluded(Goodbye::Reset)),
            // GOAWAY, and what is in progress may finish, until `close`.
            Event::Flood(kind) => {
                leaving = Some(take_leave(http, Ended::Flood(kind), tracked, hop, vigil, timeouts));
            }
            Event::Ordered(order) => return Attended::Over(Over::Because(Ended::Ordered(order))),
            Event::Expired(armed) if armed.name == DeadlineName::KeepAlive && leaving.is_none() => {
                leaving = Some(take_leave(http, Ended::Expired(armed), tracked, hop, vigil, timeouts));
            }
            // The goodbye took too long: what is still in progress is cut.
            Event::Expired(_) if leaving.is_some() => return Attended::Over(Over::Concluded(Goodbye::Reset)),
            Event::Expired(armed) => return Attended::Over(Over::Because(Ended::Expired(armed))),
            Event::Hop if hop.evidence().failure.is_some() => {
                return Attended::Over(Over::Because(Ended::Hop));
            }
            Event::Hop => {
                tracked.observe_leg(hop);
                if tracked.current_phase() != Phase::HalfClosed {
                    tracked.half_closed(LegName::Hop, &timeouts.half_close);
                    vigil.rearm(tracked);
                }
            }
            Event::Http(result) => {
                return Attended::Over(match (leaving, conversation.take_cut(), result) {
                    (Some(goodbye), None, Ok(())) => Over::Concluded(goodbye),
                    (Some(_), ..) => Over::Concluded(Goodbye::Reset),
                    (None, Some(cut), _) => Over::Because(cut),
                    (None, None, Err(error)) => Over::Because(Ended::Http(error)),
                    (None, None, Ok(())) if last == Last::Told => Over::Because(Ended::Hop),
                    (None, None, Ok(())) if hop.evidence().fin.is_some() => Over::Because(Ended::Hop),
                    (None, None, Ok(())) if activity.saw_end() => Over::Because(Ended::ClientClosed),
                    (None, None, Ok(())) if last == Last::Begun => Over::Because(Ended::Drained),
                    (None, None, Ok(())) => Over::Because(Ended::Finished),
                });
            }
        }
    }
}

/// Enters the reason, takes no further request, and gives those in progress until `close`.
fn take_leave<H: Http>(
    http: &mut H,
    ended: Ended,
    tracked: &mut TrackedConnection,
    hop: &Leg,
    vigil: &mut Vigil<'_>,
    timeouts: &crate::settings::Timeouts,
) -> Goodbye {
    let goodbye = conclude(ended, tracked, hop);
    http.wind_down();
    tracked.arm(DeadlineName::Close, &timeouts.close, Restart::Never);
    tracked.record([]);
    vigil.rearm(tracked);
    goodbye
}

/// Is there to be a last request?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// No end is in sight.
    Open,
    /// The next request is the last.
    Awaited,
    /// No further request is taken.
    Begun,
    /// The last one is answered, and the client knows.
    Told,
}

/// What a connection waits for beside its HTTP.
struct Waits<'a> {
    tracked: &'a TrackedConnection,
    hop: &'a Leg,
    ahead: &'a Ahead,
    wind_down: &'a WindDown,
    /// Was it told to leave already?
    leaving: bool,
}

/// Waits for the next thing that concerns the connection, serving it meanwhile.
async fn next<H: Http>(
    http: &mut H,
    vigil: &mut Vigil<'_>,
    activity: &Activity,
    waits: Waits<'_>,
    last: &mut Last,
) -> Event {
    let Waits { tracked, hop, ahead, wind_down, leaving } = waits;
    let mut ordered = pin!(tracked.closing());
    let mut winds_down = pin!(wind_down.given());
    let mut watch = pin!(ahead.watch(hop));
    // Once they have this task's waker, their flags say whether it is worth to ask them: that costs no lock.
    let mut listening = false;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = Pin::new(&mut *http).poll(cx) {
                return Poll::Ready(Event::Http(result));
            }
            if *last == Last::Awaited && activity.has_served() {
                *last = Last::Begun;
                http.wind_down();
                continue;
            }
            if *last == Last::Begun && !leaving && activity.open() == 0 {
                *last = Last::Told;
                return Poll::Ready(Event::Told);
            }
            if !leaving
                && (!listening || tracked.is_ordered_to_close())
                && let Poll::Ready(order) = ordered.as_mut().poll(cx)
            {
                return Poll::Ready(Event::Ordered(order));
            }
            if *last == Last::Open
                && !leaving
                && (!listening || wind_down.is_given())
                && winds_down.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Event::Draining);
            }
            listening = true;
            if vigil.watching
                && let Poll::Ready(sight) = watch.as_mut().poll(cx)
            {
                watch.set(ahead.watch(hop));
                match sight {
                    Sight::Bytes => continue,
                    Sight::Evidence => return Poll::Ready(Event::Hop),
                }
            }
            return match vigil.poll(cx, tracked) {
                Poll::Ready(Look::Expired(armed)) => Poll::Ready(Event::Expired(armed)),
                Poll::Ready(Look::Outdated) => Poll::Ready(Event::Outdated),
                Poll::Ready(Look::Flood(kind)) => Poll::Ready(Event::Flood(kind)),
                // The watch was just switched on: it must be polled once to be woken.
                Poll::Pending if vigil.watching && !vigil.was_watching() => continue,
                Poll::Pending => Poll::Pending,
            };
        }
    })
    .await
}

/// RFC 9110 section 15.5.9: a head that began and did not come whole in time.
async fn say_timeout(socket: &mut (impl AsyncWrite + Unpin)) {
    let said = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    if socket.write_all(said).await.is_ok() {
        let _flushed = socket.shutdown().await.is_ok();
    }
}
