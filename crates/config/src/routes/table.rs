//! Owns the table of entries: how routes become entries, and the indexes that a decision looks into.
//!
//! Never looks at a connection (`decide.rs` does). Building finds what only several routes together can get
//! wrong: identical matches, passthrough beside termination, clear TCP beside clear HTTP.
//!
//! Invariant: an entry is a distinct list of routes that answer for at least one (port, class, name); every
//! such triple leads to at most one entry per set of client networks and protocols.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use self::group::{Group, entry_class, groups};
use super::decide::Class;
use super::entry::{Entry, EntryClass, EntryTimeouts, Transport};
use super::inner::{InnerEntry, InnerRoute, InnerTable};
use super::pattern::{DomainPattern, parent_name};
use super::route::Route;
use crate::problem::{Place, Problem};
use crate::smartproxy::SmartproxyConfig;

mod conflict;
mod group;

/// Routes and entries, ready for decisions.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    entries: Vec<Arc<Entry>>,
    elsewhere: Vec<BTreeSet<DomainPattern>>,
    by_name: HashMap<Arc<str>, u32>,
    ports: BTreeMap<u16, Port>,
}

impl RouteTable {
    /// Builds the table, or says what is wrong between routes.
    pub fn build(config: &SmartproxyConfig) -> Result<Self, Vec<Problem>> {
        let routes: Vec<Arc<Route>> = config.routes.iter().cloned().map(Arc::new).collect();
        let groups = groups(&routes)?;
        let problems = conflict::between(&routes, &groups, config);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self::assemble(routes, groups, config))
    }

    /// The entries in the order of the file.
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// The routes in the order of the file.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The entry of that name.
    pub fn entry(&self, name: &str) -> Option<&Arc<Entry>> {
        self.by_name.get(name).map(|index| self.entry_at(*index))
    }

    /// The public ports, ascending.
    pub fn listeners(&self) -> impl Iterator<Item = Listener<'_>> {
        self.ports.iter().map(|(port, rows)| {
            let place = &self.routes[rows.first_route as usize].place;
            Listener { port: *port, tls: !rows.tls.is_empty(), clear: !rows.clear.is_empty(), place }
        })
    }

    /// Whether a port's connections are dialled on at once, without waiting for first bytes: it has only
    /// clear-text `protocol: tcp` routes, so the server may be the one to speak first.
    pub fn server_speaks_first(&self, port: u16) -> bool {
        self.ports.get(&port).is_some_and(|rows| rows.server_speaks_first)
    }

    /// Whether networkproxy serves any of a port's connections.
    pub fn bridges(&self, port: u16) -> bool {
        self.ports.get(&port).is_some_and(|rows| rows.bridges)
    }

    /// What networkproxy is sent, under a generation number.
    pub fn inner(&self, generation: u64) -> InnerTable {
        let entries = (0..).zip(&self.entries).filter_map(|(index, entry)| {
            self.inner_entry(index).map(|inner| (Arc::clone(&entry.name), inner))
        });
        InnerTable { generation, entries: entries.collect() }
    }

    /// What networkproxy is sent of one entry; none where the entry is not bridged.
    pub(crate) fn inner_entry(&self, index: u32) -> Option<InnerEntry> {
        let entry = self.entry_at(index);
        let Transport::Bridge { protocol, terminated } = entry.transport else { return None };
        let routes = entry.routes.iter().map(|route| {
            let listed = route.matching.domains.iter();
            let domains = listed.filter(|domain| !terminated || entry.domains.contains(domain)).cloned();
            InnerRoute::new(route, domains.collect())
        });
        let elsewhere = self.elsewhere[index as usize].clone();
        Some(InnerEntry::new(Arc::clone(&entry.name), protocol, terminated, routes.collect(), elsewhere))
    }

    pub(crate) fn index_of(&self, entry: &Entry) -> Option<u32> {
        self.by_name.get(&entry.name).copied()
    }

    pub(crate) fn entry_at(&self, index: u32) -> &Arc<Entry> {
        &self.entries[index as usize]
    }

    pub(crate) fn port(&self, port: u16) -> Option<&Port> {
        self.ports.get(&port)
    }

    fn assemble(routes: Vec<Arc<Route>>, groups: Vec<Group>, config: &SmartproxyConfig) -> Self {
        let mut table = Self { routes, ..Self::default() };
        let mut by_routes: HashMap<(EntryClass, Vec<u32>), u32> = HashMap::new();
        let mut built: Vec<Entry> = Vec::new();
        for group in groups {
            let key = (entry_class(&group, &table.routes), group.routes);
            let index = *by_routes.entry(key).or_insert_with_key(|(class, members)| {
                built.push(entry(*class, members, &table.routes, config));
                built.len() as u32 - 1
            });
            let entry = &mut built[index as usize];
            if let Some(domain) = &group.key.domain
                && !entry.domains.contains(domain)
            {
                entry.domains.push(domain.clone());
            }
            let candidate =
                Candidate { entry: index, rank: rank(&entry.routes[0], group.key.domain.as_ref()) };
            let first_route = entry.routes[0].order;
            let rows = table.ports.entry(group.key.port).or_insert_with(|| Port::new(first_route));
            rows.first_route = rows.first_route.min(first_route);
            rows.bridges |= entry.is_bridged();
            let names = if group.key.class == Class::Tls { &mut rows.tls } else { &mut rows.clear };
            names.add(group.key.domain.as_ref(), candidate);
        }
        for rows in table.ports.values_mut() {
            rows.sort();
            let relays = |candidate: &Candidate| {
                matches!(built[candidate.entry as usize].transport, Transport::Relay { .. })
            };
            rows.server_speaks_first = rows.tls.is_empty() && rows.clear.any.iter().all(relays);
        }
        table.elsewhere = elsewhere(&table.ports, &built);
        name_entries(&mut built);
        table.entries = built.into_iter().map(Arc::new).collect();
        table.by_name =
            (0..).zip(&table.entries).map(|(index, entry)| (Arc::clone(&entry.name), index)).collect();
        table
    }
}

/// A public port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener<'t> {
    /// The port; 0 asks the kernel for a free one.
    pub port: u16,
    /// Whether a route takes TLS here.
    pub tls: bool,
    /// Whether a route takes clear text here.
    pub clear: bool,
    /// The first route that names the port.
    pub place: &'t Place,
}

/// What leads where on one port.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub(crate) tls: Names,
    pub(crate) clear: Names,
    pub(crate) server_speaks_first: bool,
    pub(crate) bridges: bool,
    first_route: u32,
}

impl Port {
    fn new(first_route: u32) -> Self {
        let (tls, clear) = (Names::default(), Names::default());
        Self { tls, clear, server_speaks_first: false, bridges: false, first_route }
    }

    fn sort(&mut self) {
        for names in [&mut self.tls, &mut self.clear] {
            let named = names.exact.values_mut().chain(names.wildcard.values_mut());
            for list in named.chain([&mut names.any]) {
                list.sort_by_key(|candidate| candidate.rank);
            }
        }
    }
}

/// The candidates of one port and class, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    pub(crate) exact: HashMap<Arc<str>, Vec<Candidate>>,
    pub(crate) wildcard: HashMap<Arc<str>, Vec<Candidate>>,
    pub(crate) any: Vec<Candidate>,
}

impl Names {
    pub(crate) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty() && self.any.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &Candidate> {
        self.exact.values().chain(self.wildcard.values()).flatten().chain(&self.any)
    }

    fn of(&self, domain: &DomainPattern) -> &[Candidate] {
        let list = match domain {
            DomainPattern::Exact(name) => self.exact.get(name),
            DomainPattern::Wildcard(parent) => self.wildcard.get(parent),
        };
        list.map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, domain: Option<&DomainPattern>, candidate: Candidate) {
        let list = match domain {
            Some(DomainPattern::Exact(name)) => self.exact.entry(Arc::clone(name)).or_default(),
            Some(DomainPattern::Wildcard(name)) => self.wildcard.entry(Arc::clone(name)).or_default(),
            None => &mut self.any,
        };
        list.push(candidate);
    }
}

/// An entry that takes a connection if its other clauses hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) entry: u32,
    pub(crate) rank: Rank,
}

/// Lower is tried first: priority, then exact name, wildcard, none, then with client networks before without,
/// with protocols before without, then the order of the file.
pub(crate) type Rank = (Reverse<i32>, u8, bool, bool, u32);

fn rank(route: &Route, domain: Option<&DomainPattern>) -> Rank {
    let level = match domain {
        Some(DomainPattern::Exact(_)) => 0,
        Some(DomainPattern::Wildcard(_)) => 1,
        None => 2,
    };
    let matching = &route.matching;
    (Reverse(matching.priority), level, matching.client_ip.is_empty(), matching.alpn.is_empty(), route.order)
}

/// An entry of the routes numbered `members`, yet without domains and with the name of its first route.
fn entry(class: EntryClass, members: &[u32], routes: &[Arc<Route>], config: &SmartproxyConfig) -> Entry {
    let routes: Vec<Arc<Route>> =
        members.iter().map(|member| Arc::clone(&routes[*member as usize])).collect();
    let transports = || routes.iter().map(|route| route.transport());
    let transport = transports().find(|transport| *transport != Transport::Block).unwrap_or(Transport::Block);
    let acting = routes.iter().find(|route| route.transport() != Transport::Block).unwrap_or(&routes[0]);
    let bridged = matches!(transport, Transport::Bridge { .. });
    Entry {
        name: Arc::clone(&routes[0].name),
        class,
        domains: Vec::new(),
        transport,
        timeouts: EntryTimeouts::new(&config.timeouts, acting, bridged),
        routes,
    }
}

/// For each entry that ends TLS: the patterns that lead to other entries on at least one of its ports, and are
/// as specific as one of its own or more so.
fn elsewhere(ports: &BTreeMap<u16, Port>, entries: &[Entry]) -> Vec<BTreeSet<DomainPattern>> {
    let mut elsewhere = vec![BTreeSet::new(); entries.len()];
    let terminates = |index: u32| matches!(entries[index as usize].transport, Transport::Bridge { .. });
    let foreign = |index: u32, owners: &[Candidate]| owners.iter().all(|owner| owner.entry != index);
    for Port { tls: names, .. } in ports.values() {
        for (name, owners) in &names.exact {
            let covering = parent_name(name).and_then(|parent| names.wildcard.get(parent));
            for candidate in covering.into_iter().flatten().chain(&names.any) {
                if terminates(candidate.entry) && foreign(candidate.entry, owners) {
                    elsewhere[candidate.entry as usize].insert(DomainPattern::Exact(Arc::clone(name)));
                }
            }
        }
        for (parent, owners) in &names.wildcard {
            for candidate in &names.any {
                if terminates(candidate.entry) && foreign(candidate.entry, owners) {
                    elsewhere[candidate.entry as usize].insert(DomainPattern::Wildcard(Arc::clone(parent)));
                }
            }
        }
        // A name of the entry on another port may be another entry's on this one.
        let here: BTreeSet<u32> = names.all().map(|candidate| candidate.entry).collect();
        for index in here.into_iter().filter(|index| terminates(*index)) {
            for domain in &entries[index as usize].domains {
                if foreign(index, names.of(domain)) {
                    elsewhere[index as usize].insert(domain.clone());
                }
            }
        }
    }
    elsewhere
}

/// Makes the names unique: the first entry of a route keeps the route's name, others add what they answer.
fn name_entries(entries: &mut [Entry]) {
    let mut taken: BTreeSet<Arc<str>> = BTreeSet::new();
    for entry in entries {
        if taken.contains(&entry.name) {
            let class = if entry.class == EntryClass::Clear { "clear" } else { "tls" };
            let door = entry.domains.first().map_or_else(|| class.to_owned(), ToString::to_string);
            let plain = format!("{}/{door}", entry.name);
            let numbered = (2..).map(|number| format!("{plain}/{number}"));
            let free =
                [plain.clone()].into_iter().chain(numbered).find(|name| !taken.contains(name.as_str()));
            entry.name = free.unwrap_or(plain).into();
        }
        taken.insert(Arc::clone(&entry.name));
    }
}
