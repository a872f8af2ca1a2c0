//! Owns what networkproxy is sent about routes, and the second step of matching: the route of one request.
//!
//! Never names a port or a client: that was decided before. The table travels as JSON, whole, under one
//! generation number.
//!
//! Invariant: an authority that belongs to another entry is never answered by this one, even where a
//! wildcard or a catch-all route of this one would cover it; the client is told 421 (RFC 9110 section
//! 15.5.20) and comes back on a connection of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::by_path::ByPath;
use super::pattern::{DomainPattern, PathPattern, normal_name, parent_name};
use super::route::{Action, Forward, Protocol, Redirect, Respond, Route};
use crate::sourced::Sourced;

/// The bridged entries of one generation.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct InnerTable {
    /// The number that the hop header repeats.
    pub generation: u64,
    /// The entries by name.
    pub entries: BTreeMap<Arc<str>, InnerEntry>,
}

impl InnerTable {
    /// The entry that a hop header names.
    pub fn entry(&self, name: &str) -> Option<&InnerEntry> {
        self.entries.get(name)
    }

    /// The names that need a certificate, each once.
    pub fn terminated_domains(&self) -> BTreeSet<DomainPattern> {
        let terminated = self.entries.values().filter(|entry| entry.wire.terminated);
        terminated.flat_map(InnerEntry::routes).flat_map(|route| route.domains.iter().cloned()).collect()
    }
}

/// One bridged entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct InnerEntry {
    wire: Wire,
    by_domain: HashMap<DomainPattern, ByPath>,
    anywhere: ByPath,
}

/// What travels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Wire {
    name: Arc<str>,
    protocol: Protocol,
    terminated: bool,
    routes: Vec<InnerRoute>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    elsewhere: BTreeSet<DomainPattern>,
}

impl InnerEntry {
    /// An entry of `routes` in the order of the file. `elsewhere` are patterns that lead to other entries on
    /// at least one of its ports.
    pub fn new(
        name: Arc<str>,
        protocol: Protocol,
        terminated: bool,
        routes: Vec<InnerRoute>,
        elsewhere: BTreeSet<DomainPattern>,
    ) -> Self {
        Wire { name, protocol, terminated, routes, elsewhere }.into()
    }

    /// Unique in the table.
    pub fn name(&self) -> &Arc<str> {
        &self.wire.name
    }

    /// What is spoken inside.
    pub fn protocol(&self) -> Protocol {
        self.wire.protocol
    }

    /// Whether TLS is ended here.
    pub fn terminated(&self) -> bool {
        self.wire.terminated
    }

    /// The routes in the order of the file.
    pub fn routes(&self) -> &[InnerRoute] {
        &self.wire.routes
    }

    /// The route of one request.
    pub fn route_for(&self, request: &Request<'_>) -> Result<&InnerRoute, NoRoute> {
        let host = authority_host(request.authority).ok_or(NoRoute::BadAuthority)?;
        let host = normal_name(host);
        let (exact, wildcard) = patterns(&host);
        let lists = self.lists(&exact, wildcard.as_ref());
        let Some(level) = lists.iter().position(Option::is_some) else {
            return Err(NoRoute::Misdirected);
        };
        // smartproxy chose this entry for this very name: then it belongs nowhere else.
        let admitted = request.server_name.is_some_and(|name| normal_name(name) == host);
        let as_specific = [Some(&exact), wildcard.as_ref()].into_iter().take(level + 1).flatten();
        if !admitted && as_specific.into_iter().any(|pattern| self.wire.elsewhere.contains(pattern)) {
            return Err(NoRoute::Misdirected);
        }
        let best = lists.into_iter().enumerate().filter_map(|(level, list)| {
            list.and_then(|list| list.best(&self.wire.routes, request.path)).map(|route| (level, route))
        });
        best.min_by_key(|(level, route)| route.rank(*level)).map(|(_, route)| route).ok_or(NoRoute::NotFound)
    }

    /// How many routes, at most, a request for `host` (in normal form) and `path` is compared with.
    pub fn candidates(&self, host: &str, path: &str) -> usize {
        let (exact, wildcard) = patterns(host);
        self.lists(&exact, wildcard.as_ref()).into_iter().flatten().map(|list| list.candidates(path)).sum()
    }

    /// The routes that list the exact name, its wildcard, and no name.
    fn lists(&self, exact: &DomainPattern, wildcard: Option<&DomainPattern>) -> [Option<&ByPath>; 3] {
        let anywhere = Some(&self.anywhere).filter(|list| !list.is_empty());
        [self.by_domain.get(exact), wildcard.and_then(|pattern| self.by_domain.get(pattern)), anywhere]
    }
}

/// The two patterns that can cover a name.
fn patterns(host: &str) -> (DomainPattern, Option<DomainPattern>) {
    let wildcard = parent_name(host).map(|parent| DomainPattern::Wildcard(parent.into()));
    (DomainPattern::Exact(host.into()), wildcard)
}

/// What the second step of matching looks at.
#[derive(Debug, Clone, Copy)]
pub struct Request<'r> {
    /// The server name that the connection was admitted with.
    pub server_name: Option<&'r str>,
    /// The request's authority as it was sent (`Host`, `:authority` or the absolute form), with or without
    /// a port.
    pub authority: &'r str,
    /// The request's path, without its query.
    pub path: &'r str,
}

impl From<Wire> for InnerEntry {
    fn from(wire: Wire) -> Self {
        let mut listed: HashMap<DomainPattern, Vec<u32>> = HashMap::new();
        let mut anywhere = Vec::new();
        for (index, route) in (0..).zip(&wire.routes) {
            if route.domains.is_empty() {
                anywhere.push(index);
            }
            for domain in &route.domains {
                listed.entry(domain.clone()).or_default().push(index);
            }
        }
        let by_path = |list| ByPath::new(list, &wire.routes);
        let anywhere = by_path(anywhere);
        let by_domain = listed.into_iter().map(|(domain, list)| (domain, by_path(list))).collect();
        Self { wire, by_domain, anywhere }
    }
}

impl From<InnerEntry> for Wire {
    fn from(entry: InnerEntry) -> Self {
        entry.wire
    }
}

/// One route, as networkproxy needs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InnerRoute {
    /// The route's name.
    pub name: Arc<str>,
    /// The names that this entry answers for the route; empty = any.
    pub domains: Vec<DomainPattern>,
    /// The request's path; `None` = any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathPattern>,
    /// Above 0 beats everything without one.
    #[serde(default)]
    pub priority: i32,
    /// The position in the file, the last tie-breaker.
    pub order: u32,
    /// What it does.
    pub action: InnerAction,
    /// The route's own deadlines.
    #[serde(default)]
    pub timeouts: InnerTimeoutOverrides,
}

impl InnerRoute {
    /// `route` as networkproxy needs it, answering only the `domains` of its entry.
    pub(crate) fn new(route: &Route, domains: Vec<DomainPattern>) -> Self {
        Self {
            name: Arc::clone(&route.name),
            domains,
            path: route.matching.path.clone(),
            priority: route.matching.priority,
            order: route.order,
            action: match &route.action {
                Action::Forward(forward) => InnerAction::Forward(forward.clone()),
                Action::Redirect(redirect) => InnerAction::Redirect(redirect.clone()),
                Action::Respond(respond) => InnerAction::Respond(respond.clone()),
                Action::StatusPage => InnerAction::StatusPage,
                Action::Block => InnerAction::Block,
            },
            timeouts: InnerTimeoutOverrides {
                connect: route.timeouts.connect.clone(),
                inactivity: route.timeouts.inactivity.clone(),
                half_close: route.timeouts.half_close.clone(),
            },
        }
    }

    pub(super) fn covers_path(&self, path: &str) -> bool {
        self.path.as_ref().is_none_or(|pattern| pattern.covers(path))
    }

    /// Lower wins: priority, then exact name (level 0), wildcard, none, then the longer path, then order.
    pub(super) fn rank(&self, level: usize) -> impl Ord + use<> {
        let path = self.path.as_ref().map(PathPattern::specificity);
        (std::cmp::Reverse(self.priority), level, std::cmp::Reverse(path), self.order)
    }
}

/// What networkproxy does with a request, or (for `protocol: tcp`) with the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InnerAction {
    /// Sends it to a target.
    Forward(Forward),
    /// Answers with a `location`.
    Redirect(Redirect),
    /// Answers with fixed text.
    Respond(Respond),
    /// Answers with the built-in status page.
    StatusPage,
    /// Answers 403.
    Block,
}

/// What a route writes in place of networkproxy's own deadlines; `None` = networkproxy's file rules.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InnerTimeoutOverrides {
    /// In place of `connect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Sourced<Duration>>,
    /// In place of `stream_idle` and `tunnel_idle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inactivity: Option<Sourced<Duration>>,
    /// In place of `half_close`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_close: Option<Sourced<Duration>>,
}

/// Why a request has no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum NoRoute {
    /// The authority is no host, or a host and more.
    #[error("the request's authority is malformed")]
    BadAuthority,
    /// None of the entry's routes lists the authority.
    #[error("the request's authority does not belong to this connection")]
    Misdirected,
    /// The authority is listed, the path is not.
    #[error("no route for this path")]
    NotFound,
}

impl NoRoute {
    /// The HTTP status that says so.
    pub fn status(self) -> u16 {
        match self {
            Self::BadAuthority => 400,
            Self::NotFound => 404,
            Self::Misdirected => 421,
        }
    }
}

/// The host of an authority, without its port; none where the authority is malformed (RFC 3986 section 3.2;
/// a user part is not allowed in HTTP).
pub(crate) fn authority_host(authority: &str) -> Option<&str> {
    if authority
        .bytes()
        .any(|b| b <= b' ' || b == 0x7f || matches!(b, b'@' | b'/' | b'?' | b'#' | b'\\' | b','))
    {
        return None;
    }
    let (host, port) = if authority.starts_with('[') {
        let end = authority.find(']')? + 1;
        (&authority[..end], &authority[end..])
    } else {
        authority.split_at(authority.find(':').unwrap_or(authority.len()))
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    let well_formed =
        (port.is_empty() || port.starts_with(':')) && digits.bytes().all(|b| b.is_ascii_digit());
    well_formed.then_some(host)
}
