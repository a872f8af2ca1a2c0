//! Owns what must hold between several keys of `smartproxy.yaml`.
//!
//! Never looks at one value alone (the schema does), nor at routes against routes (the table does).

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::Surroundings;
use crate::problem::Problems;
use crate::routes::{Action, PortRange, Route, TargetHost};
use crate::smartproxy::SmartproxyConfig;
use crate::tree::{Data, Node};
use crate::units::{Auto, duration_text};

pub(super) fn settings(
    config: &SmartproxyConfig,
    root: &Node,
    around: &Surroundings<'_>,
    problems: &mut Problems,
) {
    let control = &config.control;
    if control.stall_after < control.heartbeat * 2 {
        let at = match root.find(&["control", "stall_after"]) {
            Some(node) => node.at,
            None => root.place_of(&["control", "heartbeat"]),
        };
        let what = format!(
            "`control.stall_after` is {}, less than two heartbeats of {}",
            duration_text(control.stall_after),
            duration_text(control.heartbeat),
        );
        problems.error(at, what, format!("at least {}", duration_text(control.heartbeat * 2)));
    }
    plaintext("control", control.listen, control.allow_plaintext, root, problems);
    if control.listen.port() != 0 && clash(control.listen, config.metrics.listen) {
        let what = format!("`metrics.listen` is {}, where `control.listen` is", config.metrics.listen);
        problems.error(root.place_of(&["metrics", "listen"]), what, "two addresses");
    }
    let elements = root.find(&["bind"]).map_or(&[][..], Node::elements);
    for (i, ip) in config.bind.iter().enumerate() {
        if config.bind[..i].contains(ip) {
            let at = elements.get(i).map_or(root.at, |element| element.at);
            problems.error(at, format!("`{ip}` is in `bind` twice"), "each address once");
        }
    }
    most_connections(config.limits.max_connections.value, root, around, problems);
    if let Some(path) = &control.token_file {
        token_file(path, root, around, problems);
    }
    if config.routes.is_empty() && root.find(&["routes"]).is_none_or(|routes| routes.elements().is_empty()) {
        let at = root.place_of(&["routes"]);
        problems.warn(at, "there are no routes, so no public port is opened", "at least one route");
    }
}

/// Off loopback the gRPC port needs a word that plain text is meant.
pub(super) fn plaintext(
    section: &str,
    listen: SocketAddr,
    allowed: bool,
    root: &Node,
    problems: &mut Problems,
) {
    let local = listen.ip().to_canonical().is_loopback();
    if !local && !allowed {
        let what = format!("`{section}.listen` is {listen}, off loopback, without TLS");
        let expected = format!("a loopback address, or `{section}.allow_plaintext: true`");
        problems.error(root.place_of(&[section, "listen"]), what, expected);
    }
    if local && allowed {
        let what = format!("`{section}.allow_plaintext` has no effect on a loopback address");
        problems.warn(root.place_of(&[section, "allow_plaintext"]), what, "the file without it");
    }
}

/// A limit above what the process may open cannot be kept.
pub(super) fn most_connections(
    limit: Auto<u64>,
    root: &Node,
    around: &Surroundings<'_>,
    problems: &mut Problems,
) {
    if let (Auto::Exactly(wanted), Some(most)) = (limit, around.most_connections)
        && wanted > most
    {
        let what = format!("`limits.max_connections` is {wanted}, but the limit on open files allows {most}");
        let expected = format!("`auto`, a number up to {most}, or a higher RLIMIT_NOFILE");
        problems.error(root.place_of(&["limits", "max_connections"]), what, expected);
    }
}

/// A missing token file is made or waited for; one that is there must be readable.
pub(super) fn token_file(path: &Path, root: &Node, around: &Surroundings<'_>, problems: &mut Problems) {
    match (around.readable)(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let what = format!("`control.token_file`: `{}` cannot be read: {error}", path.display());
            problems.error(root.place_of(&["control", "token_file"]), what, "a readable file, or none yet");
        }
        _ => {}
    }
}

/// Whether two addresses cannot be bound at the same time.
pub(super) fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let (one, other) = (a.ip(), b.ip());
    let covers = |ip: IpAddr, other: IpAddr| ip.is_unspecified() && ip.is_ipv4() == other.is_ipv4();
    a.port() != 0 && a.port() == b.port() && (one == other || covers(one, other) || covers(other, one))
}

/// A route's name is its name in records and metrics, so there is one of each.
pub(super) fn names(nodes: &[Node], problems: &mut Problems) {
    let mut seen: HashMap<&str, u32> = HashMap::new();
    for node in nodes {
        let Some(Node { at, data: Data::Scalar { text, .. } }) = node.find(&["name"]) else { continue };
        if let Some(line) = seen.get(text.as_str()) {
            let what = format!("the name `{text}` is taken by the route on line {line}");
            problems.error(*at, what, "a name of its own for each route");
        } else {
            seen.insert(text, at.line);
        }
    }
}

/// Public ports must leave the process's own ports alone.
pub(super) fn ports(config: &SmartproxyConfig, root: &Node, problems: &mut Problems) {
    let own = [("control.listen", config.control.listen), ("metrics.listen", config.metrics.listen)];
    let nodes = root.find(&["routes"]).map_or(&[][..], Node::elements);
    for route in &config.routes {
        let Some(node) = nodes.get(route.order as usize) else { continue };
        for (name, address) in own {
            let taken = |ip: &IpAddr| clash(SocketAddr::new(*ip, address.port()), address);
            if route.matching.has_port(address.port()) && config.bind.iter().any(taken) {
                let what = format!(
                    "port {} of route `{}` is the port of `{name}` ({address})",
                    address.port(),
                    route.name
                );
                problems.error(node.place_of(&["match", "ports"]), what, "another port");
            }
        }
    }
}

/// A target that is one of our own public ports is a loop.
pub(super) fn targets(config: &SmartproxyConfig, nodes: &[Node], problems: &mut Problems) {
    // Many routes share few ranges of ports.
    let mut ranges: BTreeMap<PortRange, &Route> = BTreeMap::new();
    for route in &config.routes {
        for range in &route.matching.ports {
            ranges.entry(*range).or_insert(route);
        }
    }
    for route in &config.routes {
        let Action::Forward(forward) = &route.action else { continue };
        let Some(node) = nodes.get(route.order as usize) else { continue };
        let elements = node.find(&["forward", "targets"]).map_or(&[][..], Node::elements);
        for (i, target) in forward.targets.iter().enumerate() {
            let ours = match &target.host {
                TargetHost::Address(ip) => config.bind.iter().any(|bind| reaches(*ip, *bind)),
                TargetHost::Name(name) => {
                    **name == *"localhost"
                        && config.bind.iter().any(|bind| bind.is_unspecified() || bind.is_loopback())
                }
            };
            let listens = |range: &PortRange| range.ports().contains(&target.port);
            let listener = ranges.iter().find(|(range, _)| listens(range)).map(|(_, route)| route);
            if let (true, Some(listener)) = (ours, listener) {
                let what = format!(
                    "target `{target}` points back at our own port {} (route `{}`), a loop",
                    target.port, listener.name
                );
                let at = elements.get(i).map_or(node.at, |element| element.at);
                problems.error(at, what, "the address of a backend");
            }
        }
    }
}

/// Whether a connection to `ip` arrives at a socket bound on `bind`, as far as the file alone can tell.
fn reaches(ip: IpAddr, bind: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let here = ip.is_loopback() || ip.is_unspecified();
    ip == bind
        || (bind.is_unspecified() && here && ip.is_ipv4() == bind.is_ipv4())
        || (ip.is_unspecified() && bind.is_loopback())
}
