//! The networkproxies that are registered, and which of them takes the next connection.
//!
//! *Owns* readiness: the one place that decides whether an instance may be picked. *Never* counts
//! connections: how many an instance has is read from the ledger, at the moment of the pick. *Invariant*:
//! who is picked has a live session, fresh heartbeats, acknowledged its hop key and the current routes, is
//! not draining and not full.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use config::InnerTable;
use ledger::{InstanceId, Now, Rhythm, SharedLedger};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::convert::message::{Acknowledged, Greeting, InnerTerms, LARGEST_TABLE, Notice};
use crate::directory::{Directory, InnerFacts, PeerFacts};
use crate::key::HopKey;
use crate::outbox::{Announcement, EncodedTable};
use crate::time::Time;
use crate::wake::Wake;

/// The most networkproxies that may be connected at once.
pub(crate) const MOST_PEERS: usize = 64;

/// The registry of networkproxies. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ledger: SharedLedger,
    time: Time,
    rhythm: Rhythm,
    directory: Directory,
    wake: Wake,
    announcement: watch::Sender<Announcement>,
    changed: watch::Sender<u64>,
    turn: AtomicUsize,
    /// Somebody was told that nobody is ready, or that all are full, and may be waiting for better news.
    turned_away: AtomicBool,
    sessions: Mutex<BTreeMap<InstanceId, Running>>,
    last_review: Mutex<Vec<(InstanceId, Readiness)>>,
}

/// The session of one peer that is running.
#[derive(Debug)]
struct Running {
    number: u64,
    replaced: CancellationToken,
}

/// Who takes the next connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// This one.
    Ready(NetworkProxy),
    /// Some are ready but for having as many connections as they take.
    Full,
    /// None is ready.
    None,
}

/// A networkproxy that may be given a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkProxy {
    /// This life of it.
    pub instance: InstanceId,
    /// Where it listens for the hop.
    pub hop: SocketAddr,
    /// The key of its hop headers.
    pub key: HopKey,
    /// Its limit for a TLS handshake.
    pub tls_handshake: Duration,
    /// The largest of its idle limits.
    pub largest_idle: Duration,
    /// The largest of its limits for half-closed connections.
    pub half_close: Duration,
}

/// Whether a networkproxy may be given connections, and if not, what speaks against it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It may.
    Ready,
    /// It has as many connections as it takes.
    Full,
    /// It takes no new ones.
    Draining,
    /// It has not acknowledged the current routes.
    Routes,
    /// It has not acknowledged its hop key.
    Key,
    /// Its heartbeats are older than two intervals.
    Stale,
    /// It has no session.
    Down,
}

/// Why routes could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// They cannot be written as JSON.
    #[error("the route table cannot be encoded")]
    Encode(#[from] serde_json::Error),
    /// They are larger than a peer accepts.
    #[error("the route table is {0} bytes, more than 64 MiB")]
    TooLarge(u64),
}

impl Peers {
    /// No networkproxies yet. Takes the ledger's wake-up: make one per ledger.
    pub fn new(ledger: SharedLedger, time: Time, rhythm: Rhythm) -> Self {
        let wake = Wake::of(&ledger);
        Self {
            shared: Arc::new(Shared {
                ledger,
                time,
                rhythm,
                directory: Directory::new(),
                wake,
                announcement: watch::Sender::default(),
                changed: watch::Sender::default(),
                turn: AtomicUsize::new(0),
                turned_away: AtomicBool::new(false),
                sessions: Mutex::default(),
                last_review: Mutex::default(),
            }),
        }
    }

    /// Who takes the next connection: of those that are ready, the one with the fewest; in turn, where
    /// several have as few.
    pub fn pick(&self) -> Pick {
        self.pick_other_than(None)
    }

    /// As [`Peers::pick`], another than the one that has just failed, where another is ready.
    pub fn pick_other_than(&self, failed: Option<InstanceId>) -> Pick {
        let Shared { directory, turn, .. } = &*self.shared;
        let now = self.shared.time.now();
        let generation = self.generation();
        let mut fewest: Vec<((bool, u64), NetworkProxy)> = Vec::new();
        let mut full = false;
        for (readiness, joined, candidate) in
            directory.each(|(instance, facts)| self.judge(*instance, facts, generation, now))
        {
            full |= readiness == Readiness::Full;
            let Some(candidate) = candidate.filter(|_| readiness == Readiness::Ready) else { continue };
            let load = (failed == Some(candidate.instance), joined);
            match fewest.first().map_or(std::cmp::Ordering::Equal, |(least, _)| load.cmp(least)) {
                std::cmp::Ordering::Less => fewest = vec![(load, candidate)],
                std::cmp::Ordering::Equal => fewest.push((load, candidate)),
                std::cmp::Ordering::Greater => {}
            }
        }
        if fewest.is_empty() {
            // A change between this look and the next review would otherwise be nobody's news.
            self.shared.turned_away.store(true, Ordering::SeqCst);
            return if full { Pick::Full } else { Pick::None };
        }
        let turn = turn.fetch_add(1, Ordering::Relaxed) % fewest.len();
        Pick::Ready(fewest.swap_remove(turn).1)
    }

    /// Is any of them ready? Takes nobody's turn.
    pub fn has_ready(&self) -> bool {
        let (now, generation) = (self.shared.time.now(), self.generation());
        let judged =
            self.shared.directory.each(|(instance, facts)| self.judge(*instance, facts, generation, now));
        judged.into_iter().any(|(readiness, ..)| readiness == Readiness::Ready)
    }

    /// A number that grows whenever the answer of [`Peers::pick`] may have changed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// May this instance be given connections?
    pub fn is_ready(&self, instance: InstanceId) -> bool {
        self.readiness(instance) == Readiness::Ready
    }

    /// May this instance be given connections, and if not, why?
    pub fn readiness(&self, instance: InstanceId) -> Readiness {
        let Some(facts) = self.shared.directory.facts(instance) else { return Readiness::Down };
        self.judge(instance, &facts, self.generation(), self.shared.time.now()).0
    }

    /// Is there a session with this instance?
    pub fn session_is_up(&self, instance: InstanceId) -> bool {
        let standing = self.shared.ledger.standing(instance, self.shared.time.now());
        standing.is_some_and(|standing| standing.session.is_some())
    }

    /// The age of this instance's latest heartbeat; `None` without a session.
    pub fn heartbeat_age(&self, instance: InstanceId) -> Option<Duration> {
        self.shared.ledger.standing(instance, self.shared.time.now())?.since_heartbeat
    }

    /// Sends these routes to every networkproxy, now and when it comes. Until an instance has acknowledged
    /// them it is not ready.
    pub fn publish(&self, table: &InnerTable) -> Result<(), PublishError> {
        let json = serde_json::to_vec(table)?;
        if json.len() as u64 > LARGEST_TABLE {
            return Err(PublishError::TooLarge(json.len() as u64));
        }
        let table = EncodedTable { generation: table.generation, json: json.into() };
        self.shared.announcement.send_modify(|announcement| announcement.table = Some(Arc::new(table)));
        self.review();
        Ok(())
    }

    /// Tells every networkproxy that no new clients are taken.
    pub fn announce_drain(&self) {
        self.shared.announcement.send_modify(|announcement| announcement.drain = true);
    }

    /// What is known of each peer.
    pub fn directory(&self) -> &Directory {
        &self.shared.directory
    }

    /// The books.
    pub fn ledger(&self) -> &SharedLedger {
        &self.shared.ledger
    }

    pub(crate) fn time(&self) -> &Time {
        &self.shared.time
    }

    pub(crate) fn rhythm(&self) -> Rhythm {
        self.shared.rhythm
    }

    pub(crate) fn wake(&self) -> &Wake {
        &self.shared.wake
    }

    pub(crate) fn announced(&self) -> watch::Receiver<Announcement> {
        self.shared.announcement.subscribe()
    }

    /// May a session with this instance begin, or are there as many as may be?
    pub(crate) fn has_room_for(&self, instance: InstanceId) -> bool {
        let sessions = self.sessions();
        sessions.len() < MOST_PEERS || sessions.contains_key(&instance)
    }

    /// Notes a session that begins; the instance's earlier one is told to stop. Returns the hop key of the
    /// pair, and what tells this session to stop.
    pub(crate) fn begin(&self, greeting: &Greeting, terms: InnerTerms) -> (HopKey, CancellationToken) {
        let instance = greeting.hello.instance;
        let before = self.shared.directory.facts(instance).and_then(|facts| facts.inner);
        let inner = match before {
            Some(inner) => InnerFacts { terms, ..inner },
            None => InnerFacts {
                terms,
                key: HopKey::draw(),
                key_acknowledged: false,
                table_error: None,
                names_without_certificate: Vec::new(),
            },
        };
        let key = inner.key;
        self.shared.directory.greet(greeting, Some(inner), self.shared.time.now());
        let replaced = CancellationToken::new();
        let running = Running { number: greeting.hello.session, replaced: replaced.clone() };
        if let Some(older) = self.sessions().insert(instance, running) {
            older.replaced.cancel();
        }
        self.review();
        (key, replaced)
    }

    /// Notes a session that is over.
    pub(crate) fn end(&self, instance: InstanceId, number: u64) {
        let mut sessions = self.sessions();
        if sessions.get(&instance).is_some_and(|running| running.number == number) {
            sessions.remove(&instance);
        }
        drop(sessions);
        self.review();
    }

    /// Takes what a networkproxy said; what is returned is acknowledged to it.
    pub(crate) fn take(&self, instance: InstanceId, notice: Notice) -> Option<Acknowledged> {
        let directory = &self.shared.directory;
        let mut owed = None;
        directory.amend(instance, |facts| match notice {
            Notice::Draining(draining) => {
                facts.draining = draining;
                owed = draining.then(|| Acknowledged { drain: true, ..Acknowledged::default() });
            }
            Notice::Capacity(capacity) => {
                facts.inner.iter_mut().for_each(|inner| inner.terms.capacity = capacity);
            }
            Notice::NamesWithoutCertificate(names) => {
                if let Some(inner) = &mut facts.inner {
                    inner.names_without_certificate = names;
                }
            }
            Notice::Acknowledged(acknowledged) => {
                facts.generation = acknowledged.generation.or(facts.generation);
                if let Some(inner) = &mut facts.inner {
                    inner.key_acknowledged |= acknowledged.hop_key == Some(inner.key.id);
                    if acknowledged.generation.is_some() || acknowledged.table_error.is_some() {
                        inner.table_error = acknowledged.table_error;
                    }
                }
            }
            Notice::RouteTable { .. } | Notice::Drain => {}
        });
        self.review();
        owed
    }

    /// Finds out whether anybody's readiness has changed, and says so.
    pub(crate) fn review(&self) {
        let now = self.shared.time.now();
        let generation = self.generation();
        let found = self
            .shared
            .directory
            .each(|(instance, facts)| (*instance, self.judge(*instance, facts, generation, now).0));
        let mut last = self.shared.last_review.lock().unwrap_or_else(PoisonError::into_inner);
        let any = found.iter().any(|(_, readiness)| *readiness == Readiness::Ready);
        let awaited = any && self.shared.turned_away.swap(false, Ordering::SeqCst);
        if awaited || *last != found {
            for (instance, readiness) in found.iter().filter(|entry| !last.contains(entry)) {
                tracing::info!(peer = %instance, %readiness, "a networkproxy's readiness changed");
            }
            *last = found;
            drop(last);
            self.shared.changed.send_modify(|count| *count += 1);
        }
    }

    /// Forgets the instances that the ledger has forgotten, and their keys with them.
    pub(crate) fn forget_the_gone(&self) {
        let now = self.shared.time.now();
        let ledger = &self.shared.ledger;
        let running = self.sessions();
        self.shared
            .directory
            .retain(|instance| running.contains_key(&instance) || ledger.standing(instance, now).is_some());
    }

    /// How many networkproxies are connected.
    pub fn connected(&self) -> usize {
        self.sessions().len()
    }

    /// The generation of the routes that are published.
    pub fn generation(&self) -> Option<u64> {
        self.shared.announcement.borrow().table.as_ref().map(|table| table.generation)
    }

    /// The one judgement of readiness.
    fn judge(
        &self,
        instance: InstanceId,
        facts: &PeerFacts,
        generation: Option<u64>,
        now: Now,
    ) -> (Readiness, u64, Option<NetworkProxy>) {
        let standing = self.shared.ledger.standing(instance, now);
        let joined = standing.map_or(0, |standing| standing.joined);
        let Some(inner) = &facts.inner else { return (Readiness::Down, joined, None) };
        let readiness = match standing {
            None => Readiness::Down,
            Some(standing) if standing.session != Some(facts.session) => Readiness::Down,
            Some(standing) if !standing.heartbeats_fresh => Readiness::Stale,
            Some(_) if !inner.key_acknowledged => Readiness::Key,
            Some(_) if facts.generation.is_none() || facts.generation != generation => Readiness::Routes,
            Some(_) if facts.draining => Readiness::Draining,
            Some(_) if joined >= inner.terms.capacity => Readiness::Full,
            Some(_) => Readiness::Ready,
        };
        let InnerTerms { hop, tls_handshake, largest_idle, half_close, .. } = inner.terms;
        let proxy = NetworkProxy { instance, hop, key: inner.key, tls_handshake, largest_idle, half_close };
        (readiness, joined, Some(proxy))
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, BTreeMap<InstanceId, Running>> {
        self.shared.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Full => "it has as many connections as it takes",
            Self::Draining => "it is draining",
            Self::Routes => "it has not acknowledged the current routes",
            Self::Key => "it has not acknowledged its hop key",
            Self::Stale => "its heartbeats are old",
            Self::Down => "it is not connected",
        })
    }
}
