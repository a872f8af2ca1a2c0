//! Owns what only several routes together can get wrong.
//!
//! Never looks at one route alone (`schema/route.rs` does). Each pair of routes is named once for each kind
//! of conflict, at the later one, with the line of the earlier one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::group::Group;
use super::{Class, Route, Transport};
use crate::problem::Problem;
use crate::routes::entry::EntryTimeouts;
use crate::routes::pattern::{DomainPattern, PathPattern};
use crate::routes::route::Protocol;
use crate::smartproxy::SmartproxyConfig;

/// Everything wrong between `routes`.
pub(super) fn between(routes: &[Arc<Route>], groups: &[Group], config: &SmartproxyConfig) -> Vec<Problem> {
    let mut conflicts = Conflicts { routes, said: BTreeSet::new(), problems: Vec::new() };
    conflicts.clear_tcp_beside_http(groups);
    for group in groups {
        let Some(first) = group.routes.first() else { continue };
        for other in &group.routes[1..] {
            conflicts.transports(group, *first, *other);
        }
        conflicts.identical(group);
        conflicts.deadlines(group, config);
    }
    conflicts.problems
}

struct Conflicts<'r> {
    routes: &'r [Arc<Route>],
    said: BTreeSet<(Kind, u32, u32)>,
    problems: Vec<Problem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ClearTcpAndHttp,
    Transport,
    Identical,
    Deadline,
}

impl<'r> Conflicts<'r> {
    fn route(&self, number: u32) -> &'r Route {
        &self.routes[number as usize]
    }

    fn say(&mut self, kind: Kind, pair: (u32, u32), what: String, expected: String) {
        let (earlier, later) = (pair.0.min(pair.1), pair.0.max(pair.1));
        if self.said.insert((kind, earlier, later)) {
            self.problems.push(Problem::new(self.route(later).place.clone(), what, expected));
        }
    }

    fn clear_tcp_beside_http(&mut self, groups: &[Group]) {
        let mut first: BTreeMap<u16, [Option<u32>; 2]> = BTreeMap::new();
        for group in groups.iter().filter(|group| group.key.class == Class::Clear) {
            for number in &group.routes {
                let kind = match self.route(*number).transport() {
                    Transport::Relay { .. } => 0,
                    Transport::Bridge { .. } => 1,
                    Transport::Block => continue,
                };
                first.entry(group.key.port).or_default()[kind].get_or_insert(*number);
            }
        }
        for (port, pair) in first {
            if let [Some(tcp), Some(http)] = pair {
                let what = format!(
                    "port {port} has clear-text TCP (route `{}`, line {}) beside clear-text HTTP (route `{}`, line {}), \
                     which cannot be told apart yet",
                    self.route(tcp).name,
                    self.route(tcp).place.line,
                    self.route(http).name,
                    self.route(http).place.line,
                );
                self.say(Kind::ClearTcpAndHttp, (tcp, http), what, "one of the two on this port".to_owned());
            }
        }
    }

    fn transports(&mut self, group: &Group, first: u32, other: u32) {
        let (a, b) = (self.route(first), self.route(other));
        let door = door(group);
        let both = format!("routes `{}` (line {}) and `{}`", a.name, a.place.line, b.name);
        match (a.transport(), b.transport()) {
            (Transport::Relay { .. }, Transport::Bridge { .. })
            | (Transport::Bridge { .. }, Transport::Relay { .. })
                if group.key.class == Class::Tls =>
            {
                let what = format!("{both} pass TLS through and terminate it for the same {door}");
                let expected = "one of the two, as nobody can look inside before deciding".to_owned();
                self.say(Kind::Transport, (first, other), what, expected);
            }
            (Transport::Bridge { .. }, Transport::Bridge { .. }) if speaks_http(a) != speaks_http(b) => {
                let what = format!("{both} have different protocols for the same {door}");
                self.say(Kind::Transport, (first, other), what, "the same `protocol` in both".to_owned());
            }
            _ => {}
        }
    }

    fn identical(&mut self, group: &Group) {
        let mut seen: HashMap<(Option<&DomainPattern>, Option<&PathPattern>, i32), u32> = HashMap::new();
        for number in &group.routes {
            let route = self.route(*number);
            let by_host = group.key.class == Class::Clear;
            let hosts: Vec<Option<&DomainPattern>> = match &group.key.domain {
                Some(domain) => vec![Some(domain)],
                None if by_host && !route.matching.domains.is_empty() => {
                    route.matching.domains.iter().map(Some).collect()
                }
                None => vec![None],
            };
            for host in hosts {
                let earlier = *seen
                    .entry((host, route.matching.path.as_ref(), route.matching.priority))
                    .or_insert(*number);
                let differ = self.said.contains(&(Kind::Transport, earlier, *number))
                    || self.said.contains(&(Kind::ClearTcpAndHttp, earlier, *number));
                if earlier == *number || differ {
                    continue;
                }
                let other = self.route(earlier);
                let name = host.map_or_else(|| "any name".to_owned(), ToString::to_string);
                let what = format!(
                    "route `{}` matches exactly what route `{}` (line {}) matches: port {}, {name}",
                    route.name, other.name, other.place.line, group.key.port,
                );
                let expected = "one of the two to match less, by port or domain".to_owned();
                self.say(Kind::Identical, (earlier, *number), what, expected);
            }
        }
    }

    /// smartproxy arms its deadlines before the route is known, so an entry's routes agree on them.
    fn deadlines(&mut self, group: &Group, config: &SmartproxyConfig) {
        let bridged = |number: &&u32| matches!(self.route(**number).transport(), Transport::Bridge { .. });
        let members: Vec<u32> = group.routes.iter().filter(bridged).copied().collect();
        let Some((first, others)) = members.split_first() else { return };
        let of = |number: u32| EntryTimeouts::new(&config.timeouts, self.route(number), true);
        let differing: Vec<(u32, &'static str)> = others
            .iter()
            .filter_map(|other| of(*first).first_difference(&of(*other)).map(|name| (*other, name)))
            .collect();
        for (other, name) in differing {
            let (a, b) = (self.route(*first), self.route(other));
            let what = format!(
                "routes `{}` (line {}) and `{}` have different `{name}` deadlines for the same {}, which start before \
                 the request shows which route it is",
                a.name,
                a.place.line,
                b.name,
                door(group),
            );
            self.say(Kind::Deadline, (*first, other), what, format!("the same `timeouts.{name}` in both"));
        }
    }
}

fn door(group: &Group) -> String {
    match &group.key.domain {
        Some(domain) => format!("port {} and name {domain}", group.key.port),
        None => format!("port {}", group.key.port),
    }
}

/// Whether a bridged route speaks HTTP inside.
fn speaks_http(route: &Route) -> bool {
    matches!(route.transport(), Transport::Bridge { protocol: Protocol::Http, .. })
}
