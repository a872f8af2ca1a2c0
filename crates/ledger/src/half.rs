//! One process's part of a connection, and the changes that travel.
//!
//! *Owns* the facts of a half, grouped so that a change of one group sends that group alone, and
//! [`HalfUpdate`], what a pull carries of a half. *Never* decides anything. *Invariant*: applying to an
//! older copy the update made from its position gives the newer half, whatever was applied twice before.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::deadline::Armed;
use crate::evidence::{End, LegName};
use crate::id::{Attempt, HalfKey, InstanceId, Role};
use crate::phase::Phase;
use crate::termination::{SettledFrom, Termination};
use crate::time::{Nanos, Wall};
use crate::traffic::TrafficTotals;

/// One half of a connection: identity, phase, traffic, end, settlement.
#[derive(Clone, Debug)]
pub struct Half {
    /// Who it is.
    pub key: HalfKey,
    /// Front or inner.
    pub role: Role,
    /// The smartproxy instance: its own for a front, the one whose key verified it for an inner half.
    pub front_instance: InstanceId,
    /// Where it came from; set when it opened.
    pub accept: Stamped<Arc<Accept>>,
    /// What was read and decided, once it was.
    pub routing: Option<Stamped<Arc<Routing>>>,
    /// The hop, once there is one (or was).
    pub hop: Option<Stamped<Arc<Hop>>>,
    /// TLS with the client, once the handshake is complete.
    pub tls: Option<Stamped<Arc<Tls>>>,
    /// The target, once one was chosen.
    pub target: Option<Stamped<Arc<Target>>>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Which side has closed, in [`Phase::HalfClosed`].
    pub half_closed: Option<LegName>,
    /// The phases it went through; the first [`Half::LOG_HEAD`] and the latest ones.
    pub log: Vec<LogEntry>,
    /// How many log entries were dropped from the middle.
    pub log_dropped: u32,
    /// The armed deadlines as of the last change.
    pub armed: Arc<[Armed]>,
    /// Absolute counts: as of the end, or as last reported.
    pub traffic: TrafficTotals,
    /// Its own account of its end.
    pub end: Option<Stamped<Arc<End>>>,
    /// The cause, once settled.
    pub settlement: Option<Stamped<Arc<Settlement>>>,
    /// The position at which it opened.
    pub opened_seq: u64,
}

/// A value and the journal position of its latest change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped<T> {
    /// Position of the latest change.
    pub seq: u64,
    /// The value.
    pub value: T,
}

/// Where a half came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// The listener, as `address:port`.
    pub listener: Arc<str>,
    /// The real client.
    pub client: SocketAddr,
    /// Who opened the socket: the client, or a load balancer in front.
    pub remote: SocketAddr,
    /// The address that was connected to.
    pub local: SocketAddr,
    /// Where `client` was learned.
    pub source: AddressSource,
    /// Time of day.
    pub at: Wall,
}

/// Where the client's address was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// From the socket itself.
    Socket = 1,
    /// From a PROXY v1 header.
    ProxyV1 = 2,
    /// From a PROXY v2 header (an inner half: the hop header).
    ProxyV2 = 3,
}

/// What is known of a half when it opens.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Where it came from.
    pub accept: Arc<Accept>,
    /// What was read and decided: an inner half's header says it.
    pub routing: Option<Arc<Routing>>,
    /// The hop, where it came over one.
    pub hop: Option<Arc<Hop>>,
}

impl From<Arc<Accept>> for Opening {
    fn from(accept: Arc<Accept>) -> Self {
        Self { accept, routing: None, hop: None }
    }
}

/// What was read first and decided from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// The entry's name.
    pub entry: Option<Arc<str>>,
    /// The route's name, where one is decided (the latest, over several requests).
    pub route: Option<Arc<str>>,
    /// The configuration generation that decided.
    pub generation: u64,
    /// Server name indication, lower case.
    pub server_name: Option<Arc<str>>,
    /// Protocols that the client offered.
    pub alpn_offered: Vec<Box<str>>,
    /// Which entries were considered and what spoke against each.
    pub trace: Option<Arc<str>>,
    /// HTTP protocol, where it is HTTP: `http/1.1`, `h2`, `websocket`.
    pub protocol: Option<Arc<str>>,
}

/// The hop of a half.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// A front: the inner half it is bridged to, kept after the end.
    pub bridged: Option<(InstanceId, Attempt)>,
    /// A front: the latest attempt that it gave up; inner halves up to it are superseded.
    pub given_up: Option<Attempt>,
    /// How many times it was bridged.
    pub attempts: u32,
    /// Our address on the hop.
    pub local: Option<SocketAddr>,
    /// The other's address on the hop.
    pub remote: Option<SocketAddr>,
}

/// TLS with the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// `TLSv1.2`, `TLSv1.3`.
    pub version: Box<str>,
    /// The cipher suite's IANA name.
    pub cipher: Box<str>,
    /// The protocol that was chosen.
    pub alpn: Option<Box<str>>,
    /// Was a session resumed?
    pub resumed: bool,
}

/// The target of a half (of its latest request, over several).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As configured: `host:port`.
    pub name: Arc<str>,
    /// The address that was dialled, once connected.
    pub address: Option<SocketAddr>,
    /// Was a pooled connection used again?
    pub reused: bool,
    /// How long the dial took.
    pub connect: Option<Duration>,
}

/// One step of a half's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Journal position.
    pub seq: u64,
    /// The phase that began.
    pub phase: Phase,
    /// Time since the half opened, monotonic.
    pub after: Nanos,
}

/// The one cause, and what came after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Made once, never changed.
    pub cause: Termination,
    /// What it was made from.
    pub from: SettledFrom,
    /// What became known later; never changes the cause.
    pub late: Vec<Box<str>>,
}

/// What a pull carries of a half: absolute values, groups newer than the pull's start.
#[derive(Clone, Debug)]
pub struct HalfUpdate {
    /// The half's position in the journal.
    pub seq: u64,
    /// Who it is.
    pub key: HalfKey,
    /// Front or inner.
    pub role: Role,
    /// The smartproxy instance.
    pub front_instance: InstanceId,
    /// Where it opened, if this carries everything (a first pull, a snapshot).
    pub opened_seq: u64,
    /// Present in a first pull, in a snapshot, and if newer.
    pub accept: Option<Arc<Accept>>,
    /// If newer.
    pub routing: Option<Arc<Routing>>,
    /// If newer.
    pub hop: Option<Arc<Hop>>,
    /// If newer.
    pub tls: Option<Arc<Tls>>,
    /// If newer.
    pub target: Option<Arc<Target>>,
    /// Always.
    pub phase: Phase,
    /// Always.
    pub half_closed: Option<LegName>,
    /// Entries newer than the pull's start.
    pub log: Vec<LogEntry>,
    /// Always.
    pub log_dropped: u32,
    /// Always; empty once ended.
    pub armed: Arc<[Armed]>,
    /// Always.
    pub traffic: TrafficTotals,
    /// If newer.
    pub end: Option<Arc<End>>,
    /// If newer.
    pub settlement: Option<Arc<Settlement>>,
}

impl Half {
    /// Log entries kept from the beginning; as many more are kept from the end.
    pub const LOG_HEAD: usize = 12;

    /// One that has opened, and of which nothing else is known. Its journal gives it its positions.
    pub(crate) fn new(
        key: HalfKey,
        role: Role,
        front_instance: InstanceId,
        opening: Opening,
        log: Vec<LogEntry>,
    ) -> Self {
        Self {
            key,
            role,
            front_instance,
            accept: Stamped { seq: 0, value: opening.accept },
            routing: opening.routing.map(|value| Stamped { seq: 0, value }),
            hop: opening.hop.map(|value| Stamped { seq: 0, value }),
            tls: None,
            target: None,
            phase: Phase::Accepted,
            half_closed: None,
            log,
            log_dropped: 0,
            armed: Arc::default(),
            traffic: TrafficTotals::default(),
            end: None,
            settlement: None,
            opened_seq: 0,
        }
    }

    /// Is it neither closed nor gone?
    pub const fn is_live(&self) -> bool {
        self.end.is_none()
    }

    /// Closed, its cause not settled.
    pub const fn is_settling(&self) -> bool {
        self.end.is_some() && self.settlement.is_none()
    }

    /// The phase to show: whether HTTP is idle or active follows from the counts.
    pub const fn shown_phase(&self) -> Phase {
        self.phase.shown_with(&self.traffic)
    }

    /// The inner half a front is bridged to; for an inner half, its front.
    pub fn joined_key(&self) -> Option<HalfKey> {
        match self.role {
            Role::Front => self.bridged().map(|(i, a)| HalfKey::inner(self.key.connection, i, a)),
            Role::Inner => Some(HalfKey::front(self.key.connection, self.front_instance)),
        }
    }

    /// The instance and attempt a front is bridged to.
    pub fn bridged(&self) -> Option<(InstanceId, Attempt)> {
        self.hop.as_ref().and_then(|hop| hop.value.bridged)
    }

    /// Has this front given up `attempt` (or a later one)?
    pub fn gave_up(&self, attempt: Attempt) -> bool {
        let hop = self.hop.as_ref().map(|hop| &hop.value);
        let given_up = hop.and_then(|hop| hop.given_up).is_some_and(|given_up| attempt <= given_up);
        given_up || self.bridged().is_some_and(|(_, current)| attempt < current)
    }

    /// Notes that `phase` began.
    pub(crate) fn log(&mut self, entry: LogEntry) {
        if self.log.len() >= Self::LOG_HEAD * 2 {
            self.log.remove(Self::LOG_HEAD);
            self.log_dropped = self.log_dropped.saturating_add(1);
        }
        self.log.push(entry);
    }

    /// What a pull that starts after `from` carries.
    pub fn update_since(&self, from: u64, seq: u64) -> HalfUpdate {
        let whole = self.opened_seq > from;
        let from = if whole { 0 } else { from };
        HalfUpdate {
            seq,
            key: self.key,
            role: self.role,
            front_instance: self.front_instance,
            opened_seq: self.opened_seq,
            accept: (whole || self.accept.seq > from).then(|| Arc::clone(&self.accept.value)),
            routing: newer(self.routing.as_ref(), from),
            hop: newer(self.hop.as_ref(), from),
            tls: newer(self.tls.as_ref(), from),
            target: newer(self.target.as_ref(), from),
            phase: self.phase,
            half_closed: self.half_closed,
            log: self.log.iter().filter(|e| e.seq > from).copied().collect(),
            log_dropped: self.log_dropped,
            armed: Arc::clone(&self.armed),
            traffic: self.traffic,
            end: newer(self.end.as_ref(), from),
            settlement: newer(self.settlement.as_ref(), from),
        }
    }

    /// The half that a first update describes; `None` where it carries no identity.
    pub fn from_update(update: HalfUpdate) -> Option<Self> {
        let accept = update.accept.clone()?;
        let mut half = Self::new(update.key, update.role, update.front_instance, accept.into(), Vec::new());
        half.opened_seq = update.opened_seq;
        half.apply(update);
        Some(half)
    }

    /// Brings an older copy up to date. Applying the same update twice changes nothing.
    pub fn apply(&mut self, update: HalfUpdate) {
        let seq = update.seq;
        if let Some(accept) = update.accept {
            self.accept = Stamped { seq: update.opened_seq, value: accept };
        }
        renew(&mut self.routing, update.routing, seq);
        renew(&mut self.hop, update.hop, seq);
        renew(&mut self.tls, update.tls, seq);
        renew(&mut self.target, update.target, seq);
        renew(&mut self.end, update.end, seq);
        renew(&mut self.settlement, update.settlement, seq);
        self.phase = update.phase;
        self.half_closed = update.half_closed;
        self.armed = update.armed;
        self.traffic.merge(&update.traffic);
        let known = self.log.last().map_or(0, |entry| entry.seq);
        for entry in update.log.into_iter().filter(|entry| entry.seq > known) {
            self.log(entry);
        }
        self.log_dropped = self.log_dropped.max(update.log_dropped);
    }

    /// An estimate of the memory it holds, for retention by memory.
    pub fn weight(&self) -> usize {
        let trace = self.routing.as_ref().and_then(|r| r.value.trace.as_ref()).map_or(0, |t| t.len());
        let hop = self.hop.as_ref().map_or(0, |_| size_of::<Hop>() + 16);
        let seen = self.end.as_ref().map_or(0, |end| 64 + end.value.observations.len() * 160);
        let cause = self.settlement.as_ref().map_or(0, |s| 512 + s.value.cause.chain.len() * 48);
        size_of::<Self>() + 320 + self.log.len() * size_of::<LogEntry>() + trace + hop + seen + cause
    }
}

impl HalfUpdate {
    /// An estimate of its encoded size, for chunking.
    pub fn weight(&self) -> usize {
        let routing = self.routing.as_ref().map_or(0, |r| 96 + r.trace.as_ref().map_or(0, |t| t.len()));
        let end = self.end.as_ref().map_or(0, |end| 48 + end.observations.len() * 96);
        let cause = self.settlement.as_ref().map_or(0, |s| 160 + s.cause.chain.len() * 48);
        128 + self.accept.as_ref().map_or(0, |_| 96) + routing + self.log.len() * 12 + end + cause
    }
}

fn newer<T: Clone>(group: Option<&Stamped<T>>, from: u64) -> Option<T> {
    group.filter(|g| g.seq > from).map(|g| g.value.clone())
}

fn renew<T>(group: &mut Option<Stamped<T>>, newer: Option<T>, seq: u64) {
    if let Some(value) = newer {
        *group = Some(Stamped { seq, value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ConnectionId;
    use crate::ledger::{Change, Ledger, LedgerLimits};
    use crate::session::Rhythm;
    use crate::time::Now;

    /// T7: each bridged connection holds four of them, two in each process.
    #[test]
    fn a_half_is_small() {
        assert!(size_of::<Half>() + 16 <= 384, "{}: jemalloc's next class is 448", size_of::<Half>());
        assert_eq!(size_of::<LogEntry>(), 24);
    }

    /// the real client becomes known after the first pull, from a PROXY header; the peer learns it.
    #[test]
    fn a_client_that_becomes_known_later_is_told() {
        let instance = InstanceId(1);
        let mut ledger = Ledger::new(instance, Role::Front, LedgerLimits::default(), Rhythm::default());
        let balancer = ([10, 0, 0, 1], 1).into();
        let accept = Accept {
            listener: "0.0.0.0:443".into(),
            client: balancer,
            remote: balancer,
            local: balancer,
            source: AddressSource::Socket,
            at: Wall(1),
        };
        let key = HalfKey::front(ConnectionId(1), instance);
        ledger.open_front(key.connection, Arc::new(accept.clone()), Now::default()).unwrap();
        let first = ledger.half(key).unwrap();
        let mut mirrored = Half::from_update(first.update_since(0, first.opened_seq)).unwrap();
        let client = ([192, 0, 2, 1], 7).into();
        let learned = Arc::new(Accept { client, source: AddressSource::ProxyV2, ..accept });
        ledger.record(key, [Change::Accept(learned)], Now::default()).unwrap();
        mirrored.apply(ledger.half(key).unwrap().update_since(1, 2));
        assert_eq!(mirrored.accept.value.client, client);
    }
}
