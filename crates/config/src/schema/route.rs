//! Owns what one route alone can get wrong, and the step from its keys to a [`Route`].
//!
//! Never compares routes with each other (`routes/table/conflict.rs` does). Invariant: a key that would have
//! no effect where it stands is an error.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::smartproxy::ROUTE;
use crate::problem::Problems;
use crate::routes::{
    Action, Balance, DomainPattern, Forward, Match, Protocol, Redirect, Respond, Route, RouteTimeouts,
    TargetAddress, TlsMode, Transport,
};
use crate::tree::{Data, Node};

/// A route as the file writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteKeys {
    name: Arc<str>,
    pub(crate) order: u32,
    #[serde(rename = "match")]
    matching: Match,
    tls: Option<TlsMode>,
    protocol: Option<Protocol>,
    forward: Option<ForwardKeys>,
    redirect: Option<Redirect>,
    respond: Option<RespondKeys>,
    block: Option<BlockKeys>,
    timeouts: Option<RouteTimeouts>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ForwardKeys {
    targets: Vec<TargetKeys>,
    balance: Balance,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetKeys {
    address: TargetAddress,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RespondKeys {
    status: u16,
    body: String,
    status_page: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockKeys {}

/// The keys that say what a route does.
const ACTIONS: [&str; 4] = ["forward", "redirect", "respond", "block"];
const ONE_ACTION: &str = "exactly one of `forward`, `redirect`, `respond` or `block`";

/// Checks a route and builds it; `node` is where the file has it.
pub(crate) fn route(keys: RouteKeys, node: &Node, problems: &mut Problems) -> Option<Route> {
    let errors = problems.errors.len();
    let action_name = one_action(node, problems)?;
    let mut checks = Checks { node, problems };
    checks.respond(keys.respond.as_ref());
    let action = match (keys.forward, keys.redirect, keys.respond, keys.block) {
        (Some(forward), ..) => Action::Forward(Forward {
            targets: forward.targets.into_iter().map(|target| target.address).collect(),
            balance: forward.balance,
        }),
        (_, Some(redirect), ..) => Action::Redirect(redirect),
        (_, _, Some(respond), _) if respond.status_page => Action::StatusPage,
        (_, _, Some(respond), _) => Action::Respond(Respond { status: respond.status, body: respond.body }),
        (.., Some(BlockKeys {})) => Action::Block,
        (None, None, None, None) => return None,
    };
    checks.transport(&action, action_name, keys.tls, keys.protocol);
    let answers = !matches!(action, Action::Forward(_) | Action::Block);
    let protocol = keys.protocol.unwrap_or(match keys.tls {
        Some(TlsMode::Terminate) => Protocol::Http,
        _ if answers => Protocol::Http,
        _ => Protocol::Tcp,
    });
    let name = keys.name;
    let timeouts = keys.timeouts.map(|timeouts| in_route(timeouts, &name)).unwrap_or_default();
    let place = checks.problems.place(node.at);
    let route = Route {
        name,
        place,
        order: keys.order,
        matching: keys.matching,
        tls: keys.tls,
        protocol,
        action,
        timeouts,
    };
    checks.matching(&route);
    checks.timeouts(&route);
    (problems.errors.len() == errors).then_some(route)
}

/// The one key that says what the route does, where there is exactly one. Nothing is said of a route with
/// unknown keys, one of which may be the action misspelt.
pub(crate) fn one_action(node: &Node, problems: &mut Problems) -> Option<&'static str> {
    let Data::Section(pairs) = &node.data else { return None };
    if !pairs.iter().all(|pair| ROUTE.iter().any(|key| key.name == pair.key)) {
        return None;
    }
    let mut named = ACTIONS.into_iter().filter(|action| node.pair(action).is_some());
    let Some(first) = named.next() else {
        problems.error(node.at, "the route does nothing", ONE_ACTION);
        return None;
    };
    let others: Vec<&str> = named.collect();
    for pair in others.iter().filter_map(|other| node.pair(other)) {
        problems.error(pair.at, format!("the route has `{first}` and `{}`", pair.key), ONE_ACTION);
    }
    others.is_empty().then_some(first)
}

struct Checks<'c> {
    node: &'c Node,
    problems: &'c mut Problems,
}

impl Checks<'_> {
    fn error(&mut self, keys: &[&str], what: impl Into<String>, expected: &str) {
        let at = self.node.place_of(keys);
        self.problems.error(at, what, expected);
    }

    /// As [`Self::error`], at the last key itself.
    fn error_at_key(&mut self, keys: &[&str], what: impl Into<String>, expected: &str) {
        let (last, above) = keys.split_last().expect("a key is named");
        let section = self.node.find(above);
        let at = section.and_then(|section| section.pair(last)).map_or(self.node.at, |pair| pair.at);
        self.problems.error(at, what, expected);
    }

    fn respond(&mut self, respond: Option<&RespondKeys>) {
        let Some(respond) = respond else { return };
        if respond.status_page {
            for key in ["status", "body"] {
                if self.node.find(&["respond", key]).is_some() {
                    let what = format!("`{key}` has no effect beside `status_page`");
                    self.error_at_key(&["respond", key], what, "`status_page: true` alone");
                }
            }
        } else if matches!(respond.status, 204 | 205 | 304) && !respond.body.is_empty() {
            let what = format!("a response with status {} has no body", respond.status);
            self.error(&["respond", "body"], what, "another status, or no `body`");
        }
    }

    fn transport(&mut self, action: &Action, name: &str, tls: Option<TlsMode>, protocol: Option<Protocol>) {
        match action {
            Action::Block => {
                for key in ["tls", "protocol"] {
                    if self.node.pair(key).is_some() {
                        let what = format!(
                            "`{key}` has no effect on `block`, which refuses TLS and clear text alike"
                        );
                        self.error_at_key(&[key], what, "`block` without it");
                    }
                }
            }
            Action::Forward(_) => {
                if (tls, protocol) == (Some(TlsMode::Passthrough), Some(Protocol::Http)) {
                    let what = "`tls: passthrough` shows no HTTP to anybody but the target";
                    self.error(&["protocol"], what, "`tls: terminate`, or no `protocol`");
                }
            }
            Action::Redirect(_) | Action::Respond(_) | Action::StatusPage => {
                if tls == Some(TlsMode::Passthrough) {
                    let what = format!("`{name}` answers requests, which `tls: passthrough` never shows");
                    self.error(&["tls"], what, "`tls: terminate`, or no `tls` on a clear-text port");
                }
                if protocol == Some(Protocol::Tcp) {
                    let what = format!("`{name}` answers HTTP requests, and `protocol: tcp` has none");
                    self.error(&["protocol"], what, "`protocol: http`, or none");
                }
            }
        }
    }

    fn matching(&mut self, route: &Route) {
        let matching = &route.matching;
        let elements = self.node.find(&["match", "ports"]).map_or(&[][..], Node::elements);
        for (i, range) in matching.ports.iter().enumerate() {
            let overlaps =
                |other: &&crate::routes::PortRange| other.first <= range.last && range.first <= other.last;
            if let Some(other) = matching.ports[..i].iter().find(overlaps) {
                let at = elements.get(i).map_or(self.node.at, |element| element.at);
                self.problems.error(
                    at,
                    format!("`{range}` overlaps `{other}` in the same list"),
                    "each port once",
                );
            }
        }
        let elements = self.node.find(&["match", "domains"]).map_or(&[][..], Node::elements);
        for (i, domain) in matching.domains.iter().enumerate() {
            let at = elements.get(i).map_or(self.node.at, |element| element.at);
            if matching.domains[..i].contains(domain) {
                self.problems.error(at, format!("`{domain}` is in the same list twice"), "each name once");
            }
            if route.tls.is_some() && is_address(domain) {
                let what = format!("`{domain}` is an address, which no client sends as a server name");
                self.problems.error(at, what, "a name, or no `domains`");
            }
        }
        let clear_tcp =
            route.tls.is_none() && route.protocol == Protocol::Tcp && route.action != Action::Block;
        if clear_tcp && !matching.domains.is_empty() {
            let what = "clear-text TCP shows no name, so the route would never match";
            self.error_at_key(&["match", "domains"], what, "no `domains`, or `tls: …`, or `protocol: http`");
        }
        if matching.path.is_some() && route.protocol == Protocol::Tcp {
            let what = "`path` is known only where HTTP is spoken";
            self.error_at_key(
                &["match", "path"],
                what,
                "no `path`, or `tls: terminate`, or `protocol: http`",
            );
        }
    }

    fn timeouts(&mut self, route: &Route) {
        let without_effect: &[(&str, &str)] = match (route.transport(), &route.action) {
            (Transport::Block, _) => {
                if self.node.pair("timeouts").is_some() {
                    self.error_at_key(
                        &["timeouts"],
                        "`timeouts` have no effect on `block`",
                        "`block` without them",
                    );
                }
                &[]
            }
            (Transport::Relay { .. }, _) => &[("hold", "a route that needs no networkproxy waits for none")],
            (Transport::Bridge { .. }, Action::Forward(_)) => &[],
            (Transport::Bridge { .. }, _) => &[("connect", "a route without targets connects to none")],
        };
        for (key, why) in without_effect {
            if self.node.find(&["timeouts", key]).is_some() {
                let what = format!("`timeouts.{key}` has no effect here: {why}");
                self.error_at_key(&["timeouts", key], what, "the route without it");
            }
        }
    }
}

fn is_address(domain: &DomainPattern) -> bool {
    matches!(domain, DomainPattern::Exact(name) if name.parse::<IpAddr>().is_ok())
}

/// Says of each deadline that the route set it.
fn in_route(timeouts: RouteTimeouts, name: &Arc<str>) -> RouteTimeouts {
    RouteTimeouts {
        connect: timeouts.connect.map(|deadline| deadline.in_route(name)),
        hold: timeouts.hold.map(|deadline| deadline.in_route(name)),
        inactivity: timeouts.inactivity.map(|deadline| deadline.in_route(name)),
        half_close: timeouts.half_close.map(|deadline| deadline.in_route(name)),
        write_stall: timeouts.write_stall.map(|deadline| deadline.in_route(name)),
        max_lifetime: timeouts.max_lifetime.map(|deadline| deadline.in_route(name)),
        close: timeouts.close.map(|deadline| deadline.in_route(name)),
        drain: timeouts.drain.map(|deadline| deadline.in_route(name)),
        tcp_keepalive: timeouts.tcp_keepalive.map(|deadline| deadline.in_route(name)),
    }
}
