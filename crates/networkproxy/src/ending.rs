//! Why an inner half ends: the one place where it is decided.
//!
//! *Owns* [`Ended`], everything that can end a step of a connection, and [`conclude`], the one function that
//! turns it into evidence and into the way in which the hop is left. *Never* lets a consequence speak first:
//! what the hop has told by then goes into the record before what we made of it. *Invariant*: every end has at
//! least one observation.

use ledger::{Armed, DeadlineName, LegName, Reason};
use runtime::{CloseMode, CloseOrder, Goodbye, Leg, TrackedConnection};

use crate::failure::{TargetFailure, chain};
use crate::tls::{TlsFailure, alert_name};

/// What ended a step of a connection, and with it the connection.
#[derive(Debug)]
pub enum Ended {
    /// TLS failed, in the handshake or later.
    Tls(TlsFailure),
    /// A deadline passed.
    Expired(Armed),
    /// Somebody ordered it.
    Ordered(CloseOrder),
    /// The hop ended or broke; its leg knows how.
    Hop,
    /// The client ended its stream in order, and nothing was in progress.
    ClientClosed,
    /// The last exchange was complete, and one side had said that it is the last.
    Finished,
    /// As `Finished`; the process is draining.
    Drained,
    /// The client broke HTTP, or hyper gave up for a reason of the client's making.
    Http(hyper::Error),
    /// The client abused HTTP/2 in this way, without breaking it.
    Flood(&'static str),
    /// The target failed in a way that only an end of this connection can tell.
    Target(TargetFailure),
    /// The entry is not what the client spoke (an opaque entry whose route does not forward).
    NoRoute,
}

/// Enters why a connection ends into its evidence, and says how to leave the hop.
pub fn conclude(ended: Ended, tracked: &mut TrackedConnection, hop: &Leg) -> Goodbye {
    tracked.observe_leg(hop);
    let broken = hop.evidence().failure.is_some();
    let (observation, goodbye) = match ended {
        Ended::Ordered(order) => {
            let goodbye = match order.mode {
                CloseMode::Graceful => Goodbye::Orderly,
                CloseMode::Abort => Goodbye::Abort,
            };
            (Some(order.observation), goodbye)
        }
        Ended::Expired(armed) => {
            let (reason, leg, goodbye) = meaning_of(armed.name);
            tracked.observe_expiry(&armed, reason, leg);
            (None, goodbye)
        }
        Ended::Hop => (None, Goodbye::Orderly),
        Ended::ClientClosed => {
            let seen = tracked.observation(Reason::ClientClosed, Some(LegName::Client));
            // In clear text the FIN on the hop says it; under TLS only the client can have.
            let says_more = hop.evidence().fin.is_none();
            (says_more.then(|| seen.with_detail("close_notify")), Goodbye::Orderly)
        }
        Ended::Finished => (Some(tracked.observation(Reason::Finished, None)), Goodbye::Orderly),
        Ended::Drained => (Some(tracked.observation(Reason::Drained, None)), Goodbye::Orderly),
        // Whatever failed after the hop broke failed because of it.
        Ended::Tls(_) | Ended::Http(_) if broken => (None, Goodbye::Abort),
        Ended::Tls(failure) => (of_tls(&failure, tracked), Goodbye::Orderly),
        Ended::Http(error) => (of_http(&error, tracked, hop), Goodbye::Orderly),
        Ended::Flood(kind) => {
            let seen = tracked.observation(Reason::Http2Flood, Some(LegName::Client));
            (Some(seen.with_detail(kind)), Goodbye::Reset)
        }
        Ended::Target(failure) => {
            let seen = tracked.observation(failure.reason, Some(LegName::Target));
            // What the client has of the response is not all of it: it must not look complete (P4).
            (Some(failure.complete(seen)), Goodbye::Reset)
        }
        Ended::NoRoute => (Some(tracked.observation(Reason::NoRoute, None)), Goodbye::Orderly),
    };
    if let Some(observation) = observation {
        tracked.observe(observation);
    }
    if tracked.observations().is_empty() {
        // Nobody said anything and the hop is open: we closed in order.
        let finished = tracked.observation(Reason::Finished, None);
        tracked.observe(finished);
    }
    if broken { Goodbye::Abort } else { goodbye }
}

/// What a deadline of an inner half means when it passes, on which leg, and how the hop is left.
const fn meaning_of(name: DeadlineName) -> (Reason, Option<LegName>, Goodbye) {
    use DeadlineName as D;
    match name {
        D::TlsHandshake => (Reason::TlsHandshakeTimeout, None, Goodbye::Orderly),
        D::RequestHeader => (Reason::HttpHeaderTimeout, None, Goodbye::Orderly),
        D::KeepAlive => (Reason::KeepAliveTimeout, None, Goodbye::Orderly),
        D::Request => (Reason::HttpRequestTimeout, None, Goodbye::Reset),
        D::Response => (Reason::TargetResponseTimeout, Some(LegName::Target), Goodbye::Reset),
        D::Connect => (Reason::TargetConnectTimeout, Some(LegName::Target), Goodbye::Reset),
        D::HalfClose => (Reason::HalfCloseTimeout, None, Goodbye::Abort),
        D::Close => (Reason::CloseTimeout, None, Goodbye::Abort),
        D::WriteStall => (Reason::WriteStallTimeout, Some(LegName::Hop), Goodbye::Abort),
        D::MaxLifetime => (Reason::MaxLifetime, None, Goodbye::Reset),
        D::Drain => (Reason::DrainDeadline, None, Goodbye::Abort),
        D::TunnelIdle => (Reason::InactivityTimeout, None, Goodbye::Orderly),
        // A body that stands still is cut in the middle for all we know.
        _ => (Reason::InactivityTimeout, None, Goodbye::Reset),
    }
}

fn of_tls(failure: &TlsFailure, tracked: &TrackedConnection) -> Option<ledger::Observation> {
    let client = Some(LegName::Client);
    let seen = match failure {
        TlsFailure::Socket(_) => return None,
        TlsFailure::NoCertificate => tracked.observation(Reason::TlsNoCertificate, client),
        TlsFailure::Alert(alert) => {
            tracked.observation(Reason::TlsAlertReceived, client).with_detail(alert_name(*alert))
        }
        TlsFailure::Protocol(error) => {
            tracked.observation(Reason::TlsProtocolError, client).with_detail(error.to_string())
        }
    };
    Some(seen)
}

fn of_http(error: &hyper::Error, tracked: &TrackedConnection, hop: &Leg) -> Option<ledger::Observation> {
    let client = Some(LegName::Client);
    if let Some(failure) = tls_failure_in(error) {
        return of_tls(&failure, tracked);
    }
    if let Some(h2) = source_of::<h2::Error>(error) {
        if h2.is_io() || (h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR)) {
            return None;
        }
        let flooded = h2.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) && !h2.is_remote();
        let reason = if flooded { Reason::Http2Flood } else { Reason::HttpProtocolError };
        return Some(tracked.observation(reason, client).with_detail(h2.to_string()));
    }
    // It stopped in the middle of a message: its FIN, which came first, says what there is to say.
    let left = error.is_incomplete_message() || source_of::<std::io::Error>(error).is_some();
    if left && (hop.evidence().fin.is_some() || hop.evidence().failure.is_some()) {
        return None;
    }
    let reason =
        if error.is_parse_too_large() { Reason::HttpHeaderTooLarge } else { Reason::HttpProtocolError };
    Some(tracked.observation(reason, client).with_detail(chain(error)))
}

/// rustls' complaint, if hyper's error was one.
fn tls_failure_in(error: &hyper::Error) -> Option<TlsFailure> {
    let io = source_of::<std::io::Error>(error)?;
    let inner = io.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(std::io::Error::new(io.kind(), inner.clone()).into())
}

fn source_of<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut below = std::error::Error::source(error);
    while let Some(cause) = below {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        below = cause.source();
    }
    None
}
