//! Owns the first step of building: sorting routes into groups that smartproxy cannot tell apart.
//!
//! Never decides what a group does (`table.rs`), nor what is wrong with it (`conflict.rs`).
//!
//! Invariant: a route is in one group for each (port, class, name) that can lead to it, once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;

use crate::problem::Problem;
use crate::routes::decide::Class;
use crate::routes::entry::{EntryClass, Transport};
use crate::routes::pattern::DomainPattern;
use crate::routes::route::Route;

/// Port and name pairs that one table may hold: what a slip like `ports: ["1-65535"]` multiplies.
const MOST_KEYS: usize = 1_000_000;

/// What smartproxy can tell apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) port: u16,
    pub(super) class: Class,
    pub(super) domain: Option<DomainPattern>,
    pub(super) client_ip: Vec<IpNet>,
    pub(super) alpn: Vec<String>,
}

/// The routes that smartproxy cannot tell apart, in the order of the file.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: Key,
    pub(super) routes: Vec<u32>,
}

/// Sorts the routes into groups, in the order of the file.
pub(super) fn groups(routes: &[Arc<Route>]) -> Result<Vec<Group>, Vec<Problem>> {
    let clear_http: BTreeSet<u16> = routes
        .iter()
        .filter(|route| matches!(route.transport(), Transport::Bridge { terminated: false, .. }))
        .flat_map(|route| route.matching.ports.iter().flat_map(|range| range.ports()))
        .collect();
    let mut groups: Vec<Group> = Vec::new();
    let mut index: HashMap<Key, usize> = HashMap::new();
    let mut keys = 0;
    for (number, route) in (0..).zip(routes) {
        for port in route.matching.ports.iter().flat_map(|range| range.ports()) {
            for (class, domain) in doors(route, clear_http.contains(&port)) {
                keys += 1;
                if keys > MOST_KEYS {
                    let what = format!(
                        "with route `{}` there are more than {MOST_KEYS} pairs of port and name",
                        route.name
                    );
                    return Err(vec![Problem::new(
                        route.place.clone(),
                        what,
                        "fewer ports or fewer domains",
                    )]);
                }
                let client_ip = sorted(&route.matching.client_ip);
                let alpn = sorted(&route.matching.alpn);
                let key = Key { port, class, domain, client_ip, alpn };
                let at = *index.entry(key).or_insert_with_key(|key| {
                    groups.push(Group { key: key.clone(), routes: Vec::new() });
                    groups.len() - 1
                });
                if groups[at].routes.last() != Some(&number) {
                    groups[at].routes.push(number);
                }
            }
        }
    }
    Ok(groups)
}

/// The classes and names by which smartproxy can tell that a connection may be the route's. Clear text shows
/// no name in time: there, domains are networkproxy's to match.
fn doors(route: &Route, clear_http: bool) -> Vec<(Class, Option<DomainPattern>)> {
    let class = route.class();
    let mut doors = Vec::new();
    if class != EntryClass::Clear {
        if route.matching.domains.is_empty() {
            doors.push((Class::Tls, None));
        }
        doors.extend(route.matching.domains.iter().map(|domain| (Class::Tls, Some(domain.clone()))));
    }
    let blocks_by_host = route.matching.domains.is_empty() || clear_http;
    if class == EntryClass::Clear || (class == EntryClass::Either && blocks_by_host) {
        doors.push((Class::Clear, None));
    }
    doors
}

fn sorted<T: Ord + Clone>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort();
    list
}

/// Groups that only block are one entry for both classes.
pub(super) fn entry_class(group: &Group, routes: &[Arc<Route>]) -> EntryClass {
    let blocks = |number: &u32| routes[*number as usize].transport() == Transport::Block;
    match group.key.class {
        _ if group.routes.iter().all(blocks) => EntryClass::Either,
        Class::Tls => EntryClass::Tls,
        Class::Clear => EntryClass::Clear,
    }
}
