//! One request, from its head to the head of its response.
//!
//! *Owns* the choice of the route and of the target, the one retry of a stale connection, and the deadlines
//! until a response begins (what follows is [`super::body`]'s). *Never* sends a request twice that a target
//! may have acted on. *Invariant*: every request gets a response, or its stream is reset; what
//! went wrong with a target is the client's 502, 503 or 504, with the connection's id.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use config::{Forward, InnerAction, InnerRoute, TargetAddress, TargetHost};
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use ledger::{Armed, DeadlineName, Limit, Reason, Restart};
use runtime::{DialError, DialOptions, dial};

use super::activity::RequestGuard;
use super::answer::{self, Answer};
use super::body::{RequestBody, ResponseBody, TargetBody, Upload};
use super::conversation::{Chosen, Conversation, HttpVersion, TunnelOffer};
use super::head::{self, Asked, HeadFault};
use super::status_page;
use super::vigil::WATCHED_AFTER;
use crate::ending::Ended;
use crate::failure::TargetFailure;
use crate::pool::{Lease, PoolKey};
use crate::settings::RouteTimeouts;

/// Answers one request.
pub async fn exchange(
    conversation: Arc<Conversation>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let guard = Arc::new(RequestGuard::start(&conversation.activity));
    let version = request.version();
    let response = match decide(&conversation, request, &guard).await {
        Ok(response) => response,
        Err(answer) => {
            let (mut parts, body) = answer.into_parts();
            // Whoever sends a head that is refused may not mean what we read next.
            if parts.status == StatusCode::BAD_REQUEST && version < Version::HTTP_2 {
                parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Response::from_parts(parts, ResponseBody::Whole(Some(body), guard))
        }
    };
    conversation.count(response.status().as_u16());
    Ok(response)
}

/// A response of a target's, or an answer of ours.
async fn decide(
    conversation: &Arc<Conversation>,
    request: Request<Incoming>,
    guard: &Arc<RequestGuard>,
) -> Result<Response<ResponseBody>, Answer> {
    let id = conversation.key.connection;
    let (parts, incoming) = request.into_parts();
    let asked = head::check(&parts, conversation.gateway.limits.max_headers)
        .map_err(|fault: HeadFault| answer::refusal(fault.status(), fault.reason(), id))?;
    let Some(entry) = conversation.entry() else {
        return Err(answer::refusal(StatusCode::NOT_FOUND, Reason::NoRoute, id));
    };
    let wanted = config::Request {
        server_name: conversation.routing.server_name.as_deref(),
        authority: asked.authority(),
        path: asked.target.path(),
    };
    let route = entry.route_for(&wanted).map_err(|none| {
        let (status, reason) = match none {
            config::NoRoute::BadAuthority => (StatusCode::BAD_REQUEST, Reason::HttpProtocolError),
            config::NoRoute::Misdirected => (StatusCode::MISDIRECTED_REQUEST, Reason::AuthorityMismatch),
            config::NoRoute::NotFound => (StatusCode::NOT_FOUND, Reason::NoRoute),
        };
        answer::refusal(status, reason, id)
    })?;
    let protocol = match conversation.version {
        _ if asked.websocket => "websocket",
        HttpVersion::One => "http/1.1",
        HttpVersion::Two => "h2",
    };
    let forward = match &route.action {
        InnerAction::Forward(forward) => forward,
        own => {
            conversation.show(&route.name, protocol, None);
            return Err(match own {
                InnerAction::Redirect(redirect) => answer::redirect(redirect, &asked),
                InnerAction::Respond(respond) => answer::respond(respond),
                InnerAction::StatusPage => status_page::page(&conversation.gateway, id, &parts.headers),
                _ => answer::refusal(StatusCode::FORBIDDEN, Reason::RouteBlocked, id),
            });
        }
    };
    let forwarding = Forwarding {
        conversation,
        route,
        forward,
        timeouts: RouteTimeouts::new(&conversation.gateway.timeouts, &route.timeouts),
        protocol,
        began: guard.began(),
        turn: conversation.turn(&route.name),
    };
    forwarding.run(parts, incoming, &asked, guard).await.map_err(|failure| match failure {
        Failure::Target(failure) => answer::refusal(answer::status_of(failure.reason), failure.reason, id),
        Failure::Answered(answer) => answer,
    })
}

/// One request on its way to a target.
struct Forwarding<'a> {
    conversation: &'a Arc<Conversation>,
    route: &'a InnerRoute,
    forward: &'a Forward,
    timeouts: RouteTimeouts<'a>,
    protocol: &'static str,
    /// Active time.
    began: Duration,
    turn: u64,
}

/// Why there is no response of a target.
enum Failure {
    Target(TargetFailure),
    /// Not the target's fault.
    Answered(Answer),
}

/// May an idle connection be taken?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Allowed,
    Fresh,
}

impl Forwarding<'_> {
    async fn run(
        &self,
        mut parts: Parts,
        incoming: Incoming,
        asked: &Asked,
        guard: &Arc<RequestGuard>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let conversation = self.conversation;
        let (body, upload) = RequestBody::new(incoming, &conversation.activity, guard, self.began);
        let replayable = body.is_empty() && parts.method.is_idempotent();
        conversation.introduction.rewrite(&mut parts, asked);
        if !body.is_empty() && !parts.headers.contains_key(header::CONTENT_LENGTH) {
            // By itself hyper frames no body of a GET or HEAD whose length it does not know: it would be lost.
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let mut request = Request::from_parts(parts, body);

        // The dial of a new connection is large, and most requests do without: it is made when it is needed.
        let mut lease = match self.take_idle() {
            Some(lease) => lease,
            None => Box::pin(self.connect(Reuse::Allowed)).await.map_err(Failure::Target)?,
        };
        let mut tried_again = false;
        let response = loop {
            if asked.websocket {
                lease.expect_switch();
            }
            let may_try_again = lease.reused && !tried_again && conversation.pool.retries_stale();
            let copy = (may_try_again && replayable).then(|| copy_of(&request));
            let error = match self.await_response(lease.send(request), &upload).await? {
                Ok(response) => break response,
                Err(error) => error,
            };
            if upload.is_broken() {
                // The client stopped sending its request: not the target's doing.
                let id = conversation.key.connection;
                let refusal = answer::refusal(StatusCode::BAD_REQUEST, Reason::HttpProtocolError, id);
                return Err(Failure::Answered(refusal));
            }
            let stale = may_try_again && !lease.wire().has_answered();
            let failure = TargetFailure::in_response(error.error(), Some(lease.wire()));
            let mut error = error;
            // Given back, it was never written; a copy may be sent again because that changes nothing (RFC
            // 9110 section 9.2.2).
            let Some(again) = error.take_message().or(copy).filter(|_| stale) else {
                return Err(Failure::Target(failure));
            };
            request = again;
            tried_again = true;
            lease = Box::pin(self.connect(Reuse::Fresh)).await.map_err(Failure::Target)?;
        };

        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(response, lease, asked, guard).await;
        }
        let (mut head, incoming) = response.into_parts();
        head::rewrite_response(&mut head.headers);
        head.version = Version::HTTP_11;
        let clocks = (self.timeouts.stream_idle(), self.whole());
        let body =
            TargetBody::new(incoming, lease, upload, clocks, Arc::clone(conversation), Arc::clone(guard));
        Ok(Response::from_parts(head, ResponseBody::Target(Box::new(body))))
    }

    /// An idle connection to the target whose turn it is, where nothing has to be looked up for it.
    fn take_idle(&self) -> Option<Lease> {
        let targets = &self.forward.targets;
        let target = targets.get((self.turn % (targets.len() as u64).max(1)) as usize)?;
        let TargetHost::Address(ip) = target.host else { return None };
        let key = PoolKey { address: SocketAddr::new(ip, target.port) };
        let lease = self.conversation.pool.take(key, self.conversation.activity.traffic())?;
        self.show(target, &lease);
        Some(lease)
    }

    fn show(&self, target: &TargetAddress, lease: &Lease) {
        let (address, reused, connect) = (lease.address(), lease.reused, lease.connect);
        let chosen = Chosen { target, address, reused, connect };
        self.conversation.show(&self.route.name, self.protocol, Some(chosen));
    }

    /// A connection to the target whose turn it is: an idle one, or a new one. Where that target refuses,
    /// the next one's: nothing was sent yet.
    async fn connect(&self, reuse: Reuse) -> Result<Lease, TargetFailure> {
        let gateway = &self.conversation.gateway;
        let pool = &self.conversation.pool;
        let payer = self.conversation.activity.traffic();
        let connect = self.timeouts.connect();
        let count = self.forward.targets.len() as u64;
        let mut failure = TargetFailure::of(Reason::NoHealthyTarget);
        for step in 0..count {
            let target = &self.forward.targets[((self.turn + step) % count) as usize];
            // Each target has `connect`, from its name to its socket.
            let until = gateway.clock().active().saturating_add(connect.value);
            let resolved = tokio::select! {
                resolved = gateway.resolve(target) => resolved,
                () = gateway.clock().sleep_until(until) => {
                    let armed = armed(DeadlineName::Connect, &connect, until.saturating_sub(connect.value));
                    return Err(TargetFailure::expired(Reason::TargetResolveFailed, &armed));
                }
            };
            let mut addresses = match resolved {
                Ok(addresses) => addresses,
                Err(unresolved) => {
                    failure = unresolved;
                    continue;
                }
            };
            let first = (self.turn / count) as usize % addresses.len();
            addresses.rotate_left(first);
            let idle = match reuse {
                Reuse::Allowed => pool.take(PoolKey { address: addresses[0] }, payer),
                Reuse::Fresh => None,
            };
            let leased = if let Some(lease) = idle {
                Ok(lease)
            } else {
                match dial(&addresses, until, DialOptions::default(), gateway.clock()).await {
                    Ok(dialled) => pool
                        .adopt(dialled, payer)
                        .map_err(|error| (TargetFailure::in_response(&error, None), Next::Stop)),
                    Err(error) => Err((TargetFailure::in_dial(&error, &connect), Next::after(&error))),
                }
            };
            match leased {
                Ok(lease) => {
                    self.show(target, &lease);
                    return Ok(lease);
                }
                Err((last, Next::TryAnother)) => failure = last,
                Err((last, Next::Stop)) => return Err(last),
            }
        }
        Err(failure)
    }

    /// Waits for the head of the response: while the request's body moves, as long as it moves; then for
    /// `response`; in all, for `request`.
    async fn await_response(
        &self,
        sent: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>>,
        upload: &Upload,
    ) -> Result<Result<Response<Incoming>, TrySendError<Request<RequestBody>>>, Failure> {
        let clock = self.conversation.activity.clock();
        let limits = &self.conversation.gateway.timeouts;
        let mut sent = pin!(sent);
        let activity = &self.conversation.activity;
        if let Some(response) = self.await_prompt_response(sent.as_mut(), upload).await {
            return Ok(response);
        }
        loop {
            let now = clock.active();
            let armed = self.awaited(upload);
            for armed in [&armed, &self.whole()] {
                if !armed.limit.is_zero() && armed.expires_at(Duration::ZERO) <= now {
                    activity.await_target(None);
                    return Err(self.gave_up(armed, upload));
                }
            }
            // The body may end while we sleep, and `response` begin: look again before it could be over.
            let wake = [armed.limit, limits.response.value, self.whole_left(now)];
            let wake =
                wake.into_iter().filter(|limit| !limit.is_zero()).min().unwrap_or(Duration::from_hours(1));
            let wake = now.saturating_add(wake).min(armed_end(&armed));
            activity.await_target(Some(armed));
            tokio::select! {
                biased;
                response = sent.as_mut() => {
                    activity.await_target(None);
                    return Ok(response);
                }
                () = clock.sleep_until(wake) => {}
            }
        }
    }

    /// HTTP/1: waits for a response that is soon there, without a timer of its own: the connection is looked at
    /// when the request has taken [`WATCHED_AFTER`], and all that it waits for with it. `None` from then on, or
    /// where a deadline could pass before.
    async fn await_prompt_response<F: Future>(
        &self,
        mut sent: Pin<&mut F>,
        upload: &Upload,
    ) -> Option<F::Output> {
        let limits = &self.conversation.gateway.timeouts;
        let all = [limits.response.value, self.timeouts.stream_idle().value, limits.request.value];
        if self.conversation.version != HttpVersion::One
            || all.into_iter().any(|limit| !limit.is_zero() && limit <= WATCHED_AFTER)
        {
            return None;
        }
        let activity = &self.conversation.activity;
        activity.await_target(Some(self.awaited(upload)));
        let until = self.began.saturating_add(WATCHED_AFTER);
        let answered = poll_fn(|cx| match sent.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending if activity.clock().active() >= until => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        let answered = answered.await;
        if answered.is_some() {
            activity.await_target(None);
        }
        answered
    }

    /// What the request waits under: while its body moves, that it moves; then the target's answer.
    fn awaited(&self, upload: &Upload) -> Armed {
        match upload.done() {
            Some(done) => armed(DeadlineName::Response, &self.conversation.gateway.timeouts.response, done),
            None => armed(DeadlineName::StreamIdle, &self.timeouts.stream_idle(), upload.progress()),
        }
    }

    /// What the client is told when a deadline passed before a response began.
    fn gave_up(&self, armed: &Armed, upload: &Upload) -> Failure {
        let id = self.conversation.key.connection;
        let uploading = upload.done().is_none();
        if uploading {
            // The rest of the request will not be read: the connection ends after the answer, and this is why.
            self.conversation.cut(Ended::Expired(armed.clone()));
        }
        let reason = match armed.name {
            DeadlineName::Response => {
                return Failure::Target(TargetFailure::expired(Reason::TargetResponseTimeout, armed));
            }
            DeadlineName::Request => Reason::HttpRequestTimeout,
            _ => Reason::InactivityTimeout,
        };
        let status = if uploading { StatusCode::REQUEST_TIMEOUT } else { StatusCode::GATEWAY_TIMEOUT };
        Failure::Answered(answer::refusal(status, reason, id))
    }

    /// The target switched protocols: right if the client had asked for that.
    async fn switch(
        &self,
        response: Response<Incoming>,
        lease: Lease,
        asked: &Asked,
        guard: &Arc<RequestGuard>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let headers = response.headers().clone();
        if !asked.websocket || !head::names(&headers, &header::UPGRADE, "websocket") {
            return Err(Failure::Target(TargetFailure::of(Reason::UpgradeFailed)));
        }
        let target = lease.into_upgraded(response).await;
        let target = target.map_err(|_| Failure::Target(TargetFailure::of(Reason::UpgradeFailed)))?;
        self.conversation.offer_tunnel(TunnelOffer {
            target,
            tunnel_idle: self.timeouts.tunnel_idle(),
            half_close: self.timeouts.half_close(),
        });
        let mut switched = Response::new(ResponseBody::Whole(None::<Bytes>, Arc::clone(guard)));
        *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *switched.headers_mut() = headers;
        head::rewrite_response(switched.headers_mut());
        switched.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        switched.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        Ok(switched)
    }

    /// The deadline of the whole exchange.
    fn whole(&self) -> Armed {
        armed(DeadlineName::Request, &self.conversation.gateway.timeouts.request, self.began)
    }

    fn whole_left(&self, now: Duration) -> Duration {
        let whole = self.whole();
        if whole.limit.is_zero() { whole.limit } else { whole.expires_at(Duration::ZERO).saturating_sub(now) }
    }
}

/// After a dial that failed.
enum Next {
    TryAnother,
    Stop,
}

impl Next {
    /// Another target helps against a fast no; after a timeout the client has waited its time, and where we
    /// lack something there is no use.
    const fn after(error: &DialError) -> Self {
        match error {
            DialError::Refused(_) | DialError::Unreachable { .. } | DialError::NoAddress => Self::TryAnother,
            _ => Self::Stop,
        }
    }
}

/// A request whose body is empty, once more.
fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn armed(name: DeadlineName, limit: &Limit, since: Duration) -> Armed {
    let source = Arc::clone(&limit.source);
    Armed { name, limit: limit.value, source, since, restart: Restart::Never }
}

fn armed_end(armed: &Armed) -> Duration {
    if armed.limit.is_zero() { Duration::MAX } else { armed.expires_at(Duration::ZERO) }
}
