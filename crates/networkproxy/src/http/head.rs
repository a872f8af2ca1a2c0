//! Request and response heads: what is refused, what is rewritten before it goes on.
//!
//! *Owns* the checks that hyper's parsers leave to us and the header rules of both directions.
//! *Never* forwards a head that two readers could understand differently: it is refused, or written anew in
//! one form. *Invariant*: what a backend reads in `x-forwarded-*`, `forwarded` and `x-connection-id` was
//! written here and by nobody before us.
//!
//! hyper refuses by itself: differing or malformed Content-Length, a last transfer coding other than
//! chunked, Transfer-Encoding in HTTP/1.0, obs-fold, space before a colon, NUL and invalid names. It drops
//! Content-Length beside Transfer-Encoding and closes after that request (RFC 9112 section 6.1), takes a
//! bare LF for CRLF, and writes every head and chunk anew.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode, Uri, Version};
use ledger::{ConnectionId, Reason};
use thiserror::Error;

const X_CONNECTION_ID: HeaderName = HeaderName::from_static("x-connection-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const ALT_SVC: HeaderName = HeaderName::from_static("alt-svc");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The most header fields that we add to a request.
const OURS: usize = 8;

/// Which side of TLS the client's HTTP was on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Clear text.
    Http,
    /// TLS, ended here.
    Https,
}

/// Why a request head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeadFault {
    /// RFC 9112 section 3.2: exactly one Host in HTTP/1.1, at most one anywhere.
    #[error("the request needs exactly one Host")]
    Host,
    /// The Host (or authority) is no authority.
    #[error("the Host is malformed")]
    MalformedHost,
    /// The absolute form, or `:authority`, and the Host name different servers.
    #[error("the request names two different hosts")]
    TwoHosts,
    /// RFC 9112 section 6.1: we understand `chunked` and nothing before it.
    #[error("the transfer coding is not chunked")]
    TransferEncoding,
    /// Neither a path nor `OPTIONS *`.
    #[error("the request target is malformed")]
    Target,
    /// CONNECT asks for a forward proxy.
    #[error("CONNECT is not served")]
    Connect,
    /// More header fields than `limits.max_headers`.
    #[error("too many header fields")]
    TooMany,
}

impl HeadFault {
    /// The status that says so.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooMany => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// What the request is annotated with.
    pub const fn reason(self) -> Reason {
        match self {
            Self::TooMany => Reason::HttpHeaderTooLarge,
            _ => Reason::HttpProtocolError,
        }
    }
}

/// What a checked head says about where it wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The one authority of the request, as it was sent; empty where HTTP/1.0 named none.
    pub authority: HeaderValue,
    /// Path and query in origin form, or `*`.
    pub target: PathAndQuery,
    /// Does it ask to become a WebSocket (RFC 6455 section 4.1)? Other upgrades are not offered on.
    pub websocket: bool,
}

impl Asked {
    /// The authority as text; it was checked to be ASCII.
    pub fn authority(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }
}

/// Checks a request head that hyper has accepted.
pub fn check(parts: &Parts, max_headers: usize) -> Result<Asked, HeadFault> {
    if parts.method == Method::CONNECT {
        return Err(HeadFault::Connect);
    }
    // HTTP/1 heads were counted by the parser; HTTP/2 only bounds their bytes.
    if parts.headers.len() > max_headers {
        return Err(HeadFault::TooMany);
    }
    let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    if codings.next().is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || codings.next().is_some()
    {
        return Err(HeadFault::TransferEncoding);
    }
    let target = match parts.uri.path_and_query() {
        Some(target) if target.path().starts_with('/') => target.clone(),
        Some(target) if target.as_str() == "*" && parts.method == Method::OPTIONS => target.clone(),
        _ => return Err(HeadFault::Target),
    };
    // A request that has a body is not over when its head is: the protocol cannot change yet (RFC 9110, 7.8).
    let has_body = parts.headers.contains_key(header::TRANSFER_ENCODING)
        || parts.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    let websocket = parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && !has_body
        && names(&parts.headers, &header::CONNECTION, "upgrade")
        && names(&parts.headers, &header::UPGRADE, "websocket");
    Ok(Asked { authority: authority(parts)?, target, websocket })
}

/// The one authority that the request names.
fn authority(parts: &Parts) -> Result<HeaderValue, HeadFault> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err(HeadFault::Host);
    }
    match (host, parts.uri.authority()) {
        (Some(host), None) => {
            let text = host.to_str().map_err(|_| HeadFault::MalformedHost)?;
            if !text.is_empty() {
                text.parse::<Authority>().map_err(|_| HeadFault::MalformedHost)?;
            }
            Ok(host.clone())
        }
        (Some(host), Some(named)) if !host.as_bytes().eq_ignore_ascii_case(named.as_str().as_bytes()) => {
            Err(HeadFault::TwoHosts)
        }
        (_, Some(named)) if parts.version >= Version::HTTP_2 || host.is_some() => {
            HeaderValue::from_str(named.as_str()).map_err(|_| HeadFault::MalformedHost)
        }
        (None, _) if parts.version >= Version::HTTP_11 => Err(HeadFault::Host),
        (None, Some(named)) => HeaderValue::from_str(named.as_str()).map_err(|_| HeadFault::MalformedHost),
        _ => Ok(HeaderValue::from_static("")),
    }
}

/// What every request of one connection tells its backend about the client.
#[derive(Clone, Debug)]
pub struct Introduction {
    connection_id: HeaderValue,
    client: HeaderValue,
    /// The client as RFC 7239 section 6 writes it.
    node: Box<str>,
    scheme: Scheme,
    /// The authority that the connection named first, and the `forwarded` for it: most name no other.
    first: OnceLock<(HeaderValue, HeaderValue)>,
}

impl Introduction {
    /// Of the connection `id` from `client`.
    pub fn new(id: ConnectionId, client: SocketAddr, scheme: Scheme) -> Self {
        let ip = client.ip().to_canonical();
        let visible =
            |text: String| HeaderValue::try_from(text).expect("hex digits and dots are visible ASCII");
        let node = match ip {
            IpAddr::V4(ip) => format!("{ip}"),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        Self {
            connection_id: visible(id.to_string()),
            client: visible(ip.to_string()),
            node: node.into(),
            scheme,
            first: OnceLock::new(),
        }
    }

    /// RFC 7239 section 4.
    fn forwarded(&self, asked: &Asked) -> Option<HeaderValue> {
        if let Some((authority, forwarded)) = self.first.get()
            && *authority == asked.authority
        {
            return Some(forwarded.clone());
        }
        let proto = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        // The checked authority has no quote or backslash: it was parsed as one.
        let forwarded = format!("for={};host=\"{}\";proto={proto}", self.node, asked.authority());
        let forwarded = HeaderValue::try_from(forwarded).ok()?;
        // Copied: the authority is part of a larger buffer, which it would keep.
        if let Ok(authority) = HeaderValue::from_bytes(asked.authority.as_bytes()) {
            self.first.get_or_init(|| (authority, forwarded.clone()));
        }
        Some(forwarded)
    }

    /// Turns a client's head into the one that goes to the backend.
    pub fn rewrite(&self, parts: &mut Parts, asked: &Asked) {
        let wants_trailers = names(&parts.headers, &header::TE, "trailers");
        remove_hop_by_hop(&mut parts.headers);
        parts.headers.remove(header::EXPECT);
        if parts.version >= Version::HTTP_2 {
            join_cookies(&mut parts.headers);
        }
        remove_spoofed(&mut parts.headers);
        let proto = match self.scheme {
            Scheme::Http => HeaderValue::from_static("http"),
            Scheme::Https => HeaderValue::from_static("https"),
        };
        let headers = &mut parts.headers;
        headers.reserve(OURS);
        if asked.websocket {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        } else if wants_trailers {
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if let Some(forwarded) = self.forwarded(asked) {
            headers.insert(header::FORWARDED, forwarded);
        }
        headers.insert(X_FORWARDED_FOR, self.client.clone());
        headers.insert(X_FORWARDED_PROTO, proto);
        headers.insert(X_FORWARDED_HOST, asked.authority.clone());
        headers.insert(X_CONNECTION_ID, self.connection_id.clone());
        headers.insert(header::HOST, asked.authority.clone());
        parts.uri = Uri::from(asked.target.clone());
        parts.version = Version::HTTP_11;
    }
}

/// Turns a backend's response head into the one that goes to the client.
pub fn rewrite_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    // It would send clients to a port of UDP that nobody serves here.
    headers.remove(ALT_SVC);
}

/// Does `name` list `token`, in any of its lines, in any case?
pub fn names(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|listed| listed.trim().eq_ignore_ascii_case(token))
}

/// RFC 9110 section 7.6.1: what `Connection` names, and what is for this connection anyway.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let lines: Vec<HeaderValue> = headers.get_all(header::CONNECTION).iter().cloned().collect();
        let tokens = lines.iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
        for name in tokens.filter_map(|token| HeaderName::try_from(token.trim()).ok()) {
            // How long a message is must not depend on who reads it.
            if name != header::CONTENT_LENGTH {
                headers.remove(name);
            }
        }
        headers.remove(header::CONNECTION);
    }
    // Most heads have none: a look at each name is cheaper than a search for each of these.
    if headers.keys().any(is_hop_by_hop) {
        for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TE, header::TRANSFER_ENCODING, header::UPGRADE] {
            headers.remove(name);
        }
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == header::TRANSFER_ENCODING
        || *name == header::TE
        || *name == header::UPGRADE
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
}

/// HTTP/2 clients may send each cookie in a line of its own; HTTP/1.1 knows one line (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Removes what only a proxy may say: `forwarded`, every `x-forwarded-*`, `x-real-ip`, `x-connection-id`,
/// and the spellings with underscores that CGI-like backends take for the same.
fn remove_spoofed(headers: &mut HeaderMap) {
    let ours = |name: &HeaderName| {
        let name = name.as_str();
        if !name.starts_with(['x', 'f']) {
            return false;
        }
        let dashed = |at: &str| name.len() == at.len() && same_but_dashes(name, at);
        dashed("forwarded")
            || dashed("x-connection-id")
            || dashed("x-real-ip")
            || name.get(..12).is_some_and(|start| same_but_dashes(start, "x-forwarded-"))
    };
    let spoofed: Vec<HeaderName> = headers.keys().filter(|name| ours(name)).cloned().collect();
    for name in spoofed {
        headers.remove(name);
    }
}

fn same_but_dashes(name: &str, dashed: &str) -> bool {
    name.bytes().zip(dashed.bytes()).all(|(have, want)| have == want || (have == b'_' && want == b'-'))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(version: Version, method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().version(version).method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn authority_of(version: Version, uri: &str, headers: &[(&str, &str)]) -> Result<String, HeadFault> {
        check(&head(version, "GET", uri, headers), 100).map(|asked| asked.authority().to_owned())
    }

    /// duplicate Host, absolute form against Host.
    #[test]
    fn a_request_names_one_host() {
        use HeadFault::{Host, MalformedHost, TwoHosts};
        let (h10, h11, h2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        let a = ("host", "a.example");
        for (version, uri, headers, want) in [
            (h11, "/", &[a][..], Ok("a.example")),
            (h11, "/", &[("host", "a.example:8443")], Ok("a.example:8443")),
            (h11, "/", &[], Err(Host)),
            (h11, "/", &[a, a], Err(Host)),
            (h11, "/", &[a, ("host", "b.example")], Err(Host)),
            (h11, "/", &[("host", "a.example, b.example")], Err(MalformedHost)),
            (h11, "/", &[("host", "a.example/x")], Err(MalformedHost)),
            (h11, "/", &[("host", "caf\u{e9}.example")], Err(MalformedHost)),
            (h11, "http://a.example/", &[("host", "A.example")], Ok("a.example")),
            (h11, "http://a.example/", &[("host", "b.example")], Err(TwoHosts)),
            (h11, "http://a.example/", &[], Err(Host)),
            (h10, "/", &[], Ok("")),
            (h10, "/", &[a], Ok("a.example")),
            (h10, "http://a.example/", &[], Ok("a.example")),
            (h10, "/", &[a, a], Err(Host)),
            (h2, "https://a.example/", &[], Ok("a.example")),
            (h2, "https://a.example/", &[a], Ok("a.example")),
            (h2, "https://a.example/", &[("host", "b.example")], Err(TwoHosts)),
            (h2, "/", &[a], Ok("a.example")),
            (h2, "/", &[], Err(Host)),
        ] {
            let got = authority_of(version, uri, headers);
            assert_eq!(got.as_deref().map_err(|fault| *fault), want, "{version:?} {uri} {headers:?}");
        }
    }

    /// a coding that we do not undo would leave the body's meaning to the next reader.
    #[test]
    fn a_transfer_coding_other_than_chunked_is_refused() {
        let host = ("host", "a.example");
        for (codings, refused) in [
            (&["chunked"][..], false),
            (&["Chunked"], false),
            (&["gzip, chunked"], true),
            (&["chunked", "chunked"], true),
            (&["identity"], true),
            (&["xchunked"], true),
        ] {
            let mut headers = vec![host];
            headers.extend(codings.iter().map(|coding| ("transfer-encoding", *coding)));
            let got = check(&head(Version::HTTP_11, "POST", "/", &headers), 100);
            assert_eq!(got.err(), refused.then_some(HeadFault::TransferEncoding), "{codings:?}");
        }
    }

    #[test]
    fn only_paths_and_options_star_are_targets_and_connect_is_not_served() {
        let host = [("host", "a.example")];
        let check_target = |method, uri| {
            check(&head(Version::HTTP_11, method, uri, &host), 100).map(|asked| asked.target.to_string())
        };
        assert_eq!(check_target("GET", "/a?b=c"), Ok("/a?b=c".to_owned()));
        assert_eq!(check_target("GET", "http://a.example/x"), Ok("/x".to_owned()));
        assert_eq!(check_target("OPTIONS", "*"), Ok("*".to_owned()));
        assert_eq!(check_target("GET", "*"), Err(HeadFault::Target));
        assert_eq!(check_target("GET", "a.example:80"), Err(HeadFault::Target));
        assert_eq!(check_target("CONNECT", "a.example:443"), Err(HeadFault::Connect));
        let many: Vec<(&str, &str)> = host.into_iter().chain([("a", "1"); 100]).collect();
        assert_eq!(check(&head(Version::HTTP_2, "GET", "/", &many), 100), Err(HeadFault::TooMany));
    }

    fn rewritten(headers: &[(&str, &str)]) -> HeaderMap {
        let mut parts = head(Version::HTTP_11, "GET", "http://a.example:81/x?y", headers);
        let asked = check(&parts, 100).unwrap();
        let client = "[::ffff:192.0.2.7]:4711".parse().unwrap();
        Introduction::new(ConnectionId(0xabc), client, Scheme::Https).rewrite(&mut parts, &asked);
        assert_eq!(parts.uri, "/x?y", "origin form");
        parts.headers
    }

    /// R-79, P1: what clients say about themselves is replaced, in every spelling.
    #[test]
    fn what_only_a_proxy_may_say_is_replaced() {
        let headers = rewritten(&[
            ("host", "a.example:81"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "7.7.7.7"),
            ("X_Forwarded_For", "6.6.6.6"),
            ("x-forwarded-user", "root"),
            ("x-forwarded-proto", "http"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("x-connection-id", "mine"),
            ("x_connection_id", "mine"),
            ("x-other", "kept"),
            ("from", "kept"),
        ]);
        let all = |name: &str| {
            headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(all("x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(all("x-forwarded-proto"), ["https"]);
        assert_eq!(all("x-forwarded-host"), ["a.example:81"]);
        assert_eq!(all("forwarded"), ["for=192.0.2.7;host=\"a.example:81\";proto=https"]);
        assert_eq!(all("x-connection-id"), [ConnectionId(0xabc).to_string()]);
        assert_eq!(all("host"), ["a.example:81"]);
        assert_eq!((all("x-other"), all("from")), (vec!["kept".to_owned()], vec!["kept".to_owned()]));
        assert_eq!(headers.len(), 8, "{headers:?}");
    }

    /// hop-by-hop fields end here, also those that Connection names; framing and our own do not.
    #[test]
    fn hop_by_hop_fields_do_not_go_on() {
        let headers = rewritten(&[
            ("host", "a.example:81"),
            ("connection", "close, x-secret, x-forwarded-for, host, content-length"),
            ("connection", "x-more"),
            ("x-secret", "1"),
            ("x-more", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x-sum"),
            ("content-length", "3"),
        ]);
        for gone in [
            "connection",
            "x-secret",
            "x-more",
            "keep-alive",
            "proxy-connection",
            "te",
            "upgrade",
            "expect",
            "transfer-encoding",
        ] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        for kept in ["host", "x-forwarded-for", "content-length", "trailer"] {
            assert!(headers.contains_key(kept), "{kept}");
        }
    }

    #[test]
    fn a_websocket_handshake_and_te_trailers_are_asked_for_anew() {
        let host = ("host", "a.example:81");
        let headers = rewritten(&[host, ("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]);
        assert_eq!(
            (&headers["connection"], &headers["upgrade"]),
            (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
        let headers = rewritten(&[host, ("upgrade", "websocket")]);
        assert!(!headers.contains_key("upgrade"), "Connection does not name it");
        // RFC 6455, 4.1 and RFC 9110, 7.8: GET, and nothing of the request is still to come.
        let asks = |method: &str, extra: &[(&str, &str)]| {
            let own = [host, ("connection", "upgrade"), ("upgrade", "websocket")];
            let headers: Vec<_> = own.into_iter().chain(extra.iter().copied()).collect();
            check(&super::tests::head(Version::HTTP_11, method, "/", &headers), 100).unwrap().websocket
        };
        assert!(asks("GET", &[]) && asks("GET", &[("content-length", "0")]));
        assert!(!asks("HEAD", &[]) && !asks("POST", &[("content-length", "0")]));
        assert!(
            !asks("GET", &[("content-length", "5")]) && !asks("GET", &[("transfer-encoding", "chunked")])
        );
        let headers = rewritten(&[host, ("te", "gzip, Trailers")]);
        assert_eq!(
            (&headers["connection"], &headers["te"]),
            (&"te".parse().unwrap(), &"trailers".parse().unwrap())
        );
    }

    #[test]
    fn a_response_loses_its_hop_by_hop_fields_and_alt_svc() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("alt-svc", "h3=\":443\""),
            ("date", "then"),
            ("server", "theirs"),
            ("set-cookie", "a=b"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        rewrite_response(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["date", "server", "set-cookie"]);
    }
}
