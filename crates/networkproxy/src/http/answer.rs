//! Answers of our own: fixed responses, redirects, and what is said when a request cannot be served.
//!
//! *Owns* their form: short text with the reason and the connection's id, so that a user can quote it and an
//! operator can find it. *Never* says anything about targets (addresses are nobody's business).
//! *Invariant*: the status follows from the reason as the ledger's table says.

use bytes::Bytes;
use config::{Redirect, Respond};
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use ledger::{ConnectionId, Reason};

use super::head::Asked;

/// A whole response of ours.
pub type Answer = Response<Bytes>;

/// The configured text of a `respond` route.
pub fn respond(respond: &Respond) -> Answer {
    let status = StatusCode::from_u16(respond.status).unwrap_or(StatusCode::OK);
    text(status, respond.body.clone())
}

/// The location of a `redirect` route for one request.
pub fn redirect(redirect: &Redirect, asked: &Asked) -> Answer {
    let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::PERMANENT_REDIRECT);
    let location = redirect.to.location(host_of(asked.authority()), asked.target.as_str());
    let mut answer = text(status, format!("{location}\n"));
    match HeaderValue::try_from(location) {
        Ok(location) => answer.headers_mut().insert(header::LOCATION, location),
        Err(_) => return text(StatusCode::BAD_REQUEST, "the location cannot be written\n".to_owned()),
    };
    answer
}

/// Why a request is not served, in the client's view.
pub fn refusal(status: StatusCode, reason: Reason, id: ConnectionId) -> Answer {
    let title = status.canonical_reason().unwrap_or("");
    let mut answer =
        text(status, format!("{} {title}\nreason: {reason}\nconnection: {id}\n", status.as_u16()));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The status of a request that its target's failure ended (ledger page, "Closing").
pub const fn status_of(reason: Reason) -> StatusCode {
    match reason {
        Reason::TargetConnectTimeout | Reason::TargetResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
        Reason::HttpRequestTimeout => StatusCode::REQUEST_TIMEOUT,
        Reason::NoHealthyTarget
        | Reason::OutOfFileDescriptors
        | Reason::OutOfMemory
        | Reason::OutOfPorts
        | Reason::Shutdown => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_GATEWAY,
    }
}

/// The host of an authority, without its port; brackets of IPv6 stay.
pub(super) fn host_of(authority: &str) -> &str {
    let end = match authority.strip_prefix('[').and_then(|rest| rest.find(']')) {
        Some(bracket) => bracket + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    &authority[..end]
}

fn text(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(Bytes::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_told_from_its_port() {
        for (authority, host) in [
            ("a.example", "a.example"),
            ("a.example:81", "a.example"),
            ("[::1]:8", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(host_of(authority), host);
        }
    }

    #[test]
    fn a_redirect_keeps_path_and_query_and_drops_the_port() {
        let to: Redirect =
            serde_json::from_str(r#"{"to": "https://{host}{path_and_query}", "status": 308}"#).unwrap();
        let asked = Asked {
            authority: HeaderValue::from_static("a.example:8080"),
            target: "/x?y=z".parse().unwrap(),
            websocket: false,
        };
        let answer = redirect(&to, &asked);
        assert_eq!(answer.status(), 308);
        assert_eq!(answer.headers()["location"], "https://a.example/x?y=z");
    }

    /// Ledger page: 502, 503 and 504 by reason; the id and the reason are in the body.
    #[test]
    fn the_status_follows_from_the_reason() {
        for (reason, status) in [
            (Reason::TargetRefused, 502),
            (Reason::TargetUnreachable, 502),
            (Reason::TargetReset, 502),
            (Reason::TargetClosed, 502),
            (Reason::TargetTlsFailed, 502),
            (Reason::TargetProtocolError, 502),
            (Reason::TargetResolveFailed, 502),
            (Reason::UpgradeFailed, 502),
            (Reason::NoHealthyTarget, 503),
            (Reason::OutOfFileDescriptors, 503),
            (Reason::OutOfPorts, 503),
            (Reason::TargetConnectTimeout, 504),
            (Reason::TargetResponseTimeout, 504),
        ] {
            assert_eq!(status_of(reason).as_u16(), status, "{reason}");
        }
        let id = ConnectionId(7);
        let answer = refusal(StatusCode::BAD_GATEWAY, Reason::TargetRefused, id);
        assert_eq!(answer.body(), &format!("502 Bad Gateway\nreason: target_refused\nconnection: {id}\n"));
    }
}
