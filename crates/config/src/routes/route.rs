//! Owns one route of the file, after its own checks: what it matches and what it does.
//!
//! Never compares routes with each other (`table.rs` does). Invariant: impossible combinations cannot be
//! built by the checker: a passthrough route forwards, a redirect speaks HTTP, a block has no transport.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::decide::{Clause, Question};
use super::entry::{EntryClass, Transport};
use super::pattern::{DomainPattern, PathPattern, PortRange};
use super::target::TargetAddress;
use crate::problem::Place;
use crate::sourced::Sourced;

/// One route.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Unique in the file.
    pub name: Arc<str>,
    /// Where the route starts in the file.
    pub place: Place,
    /// Its position among the routes, from 0: the last tie-breaker.
    pub order: u32,
    /// What it matches.
    pub matching: Match,
    /// What happens to TLS; `None` = clear text (or, for `block`, either).
    pub tls: Option<TlsMode>,
    /// What is spoken inside, once TLS is out of the way.
    pub protocol: Protocol,
    /// What it does.
    pub action: Action,
    /// Its own deadlines.
    pub timeouts: RouteTimeouts,
}

impl Route {
    /// What smartproxy does with the route's connections.
    pub fn transport(&self) -> Transport {
        match (&self.action, self.tls, self.protocol) {
            (Action::Block, ..) => Transport::Block,
            (Action::Forward(forward), Some(TlsMode::Passthrough), _)
            | (Action::Forward(forward), None, Protocol::Tcp) => {
                Transport::Relay { targets: forward.targets.as_slice().into(), balance: forward.balance }
            }
            (_, tls, protocol) => Transport::Bridge { protocol, terminated: tls.is_some() },
        }
    }

    /// Which first bytes lead here.
    pub fn class(&self) -> EntryClass {
        match (&self.action, self.tls) {
            (Action::Block, _) => EntryClass::Either,
            (_, Some(_)) => EntryClass::Tls,
            (_, None) => EntryClass::Clear,
        }
    }
}

/// What a route matches. Empty lists match everything, except `ports`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Ports; never empty.
    pub ports: Vec<PortRange>,
    /// Server names (TLS) or Hosts (clear-text HTTP).
    #[serde(default)]
    pub domains: Vec<DomainPattern>,
    /// Client networks.
    #[serde(default)]
    pub client_ip: Vec<IpNet>,
    /// Application protocols, one of which the client must offer.
    #[serde(default)]
    pub alpn: Vec<String>,
    /// The request's path.
    #[serde(default)]
    pub path: Option<PathPattern>,
    /// Above 0 beats everything without one; 0 by default.
    #[serde(default)]
    pub priority: i32,
}

impl Match {
    /// Whether the route names the port.
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|range| range.ports().contains(&port))
    }

    /// The first clause, other than port, class and name, that a connection fails.
    pub(crate) fn failed_clause(&self, question: &Question<'_>) -> Option<Clause> {
        let client = question.client_ip.to_canonical();
        if !self.client_ip.is_empty() && !self.client_ip.iter().any(|net| net.contains(&client)) {
            return Some(Clause::ClientIp);
        }
        let offers = |wanted: &String| question.alpn.contains(&wanted.as_bytes());
        if !self.alpn.is_empty() && !self.alpn.iter().any(offers) {
            return Some(Clause::Alpn);
        }
        None
    }
}

/// What a route does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Sends the bytes, or the request, to a target.
    Forward(Forward),
    /// Answers with a `location`.
    Redirect(Redirect),
    /// Answers with fixed text.
    Respond(Respond),
    /// Answers with networkproxy's built-in status page.
    StatusPage,
    /// Refuses.
    Block,
}

/// Where a route sends to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// At least one.
    pub targets: Vec<TargetAddress>,
    /// How one is picked.
    pub balance: Balance,
}

/// How a target is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each in turn.
    RoundRobin,
}

/// An answer with a `location`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The location.
    pub to: RedirectTarget,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A location with `{host}`, `{path}`, `{query}` and `{path_and_query}` to be filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RedirectTarget(pub(crate) String);

impl RedirectTarget {
    /// The words that may stand in braces.
    pub(crate) const WORDS: [&'static str; 4] = ["host", "path", "query", "path_and_query"];

    /// The location for one request. `host` is the request's authority without its port; `path_and_query`
    /// is the request's target as it was sent (`/a?b`).
    pub fn location(&self, host: &str, path_and_query: &str) -> String {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let mut location = String::with_capacity(self.0.len() + host.len() + path_and_query.len());
        let mut rest = self.0.as_str();
        while let Some((before, from_word)) = rest.split_once('{') {
            location.push_str(before);
            let Some((word, after)) = from_word.split_once('}') else { break };
            location.push_str(match word {
                "host" => host,
                "path" => path,
                "query" => query,
                _ => path_and_query,
            });
            rest = after;
        }
        location.push_str(rest);
        location
    }
}

impl fmt::Display for RedirectTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A fixed answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    /// Plain text.
    pub body: String,
}

/// What happens to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// The target ends it; smartproxy relays ciphertext.
    Passthrough,
    /// networkproxy ends it.
    Terminate,
}

/// What is spoken inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2, spoken by networkproxy.
    Http,
    /// Opaque bytes.
    Tcp,
}

/// A route's own deadlines; `None` = the process's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteTimeouts {
    /// To connect to the target.
    #[serde(default)]
    pub connect: Option<Sourced<Duration>>,
    /// To wait for a networkproxy; zero = do not wait.
    #[serde(default)]
    pub hold: Option<Sourced<Duration>>,
    /// No byte in either direction.
    #[serde(default)]
    pub inactivity: Option<Sourced<Duration>>,
    /// One side closed, no progress on the other.
    #[serde(default)]
    pub half_close: Option<Sourced<Duration>>,
    /// A side does not take our bytes.
    #[serde(default)]
    pub write_stall: Option<Sourced<Duration>>,
    /// From accept to the end; an inner `None` = no limit.
    #[serde(default)]
    pub max_lifetime: Option<Sourced<Option<Duration>>>,
    /// To deliver what is left and say goodbye.
    #[serde(default)]
    pub close: Option<Sourced<Duration>>,
    /// To let connections finish when draining.
    #[serde(default)]
    pub drain: Option<Sourced<Duration>>,
    /// Keep-alive probes, and `TCP_USER_TIMEOUT`.
    #[serde(default)]
    pub tcp_keepalive: Option<Sourced<Duration>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_keeps_the_path_and_the_query() {
        for (to, location) in [
            ("https://{host}{path_and_query}", "https://a.example/x/y?q=1"),
            ("https://new.example{path}", "https://new.example/x/y"),
            ("/search?{query}", "/search?q=1"),
            ("/plain", "/plain"),
        ] {
            assert_eq!(RedirectTarget(to.to_owned()).location("a.example", "/x/y?q=1"), location);
        }
    }

    /// A request must not be able to write placeholders of its own.
    #[test]
    fn braces_in_a_request_are_left_alone() {
        let to = RedirectTarget("https://{host}{path_and_query}".to_owned());
        assert_eq!(to.location("a", "/{host}?{path}"), "https://a/{host}?{path}");
    }
}
