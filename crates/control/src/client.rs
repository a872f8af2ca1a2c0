//! networkproxy's side of the control channel.
//!
//! *Owns* the dialling of smartproxy and what it tells: hop keys and routes. *Never* gives up: a missing
//! token, an absent smartproxy or another version of the protocol is waited for. *Invariant*: one session at
//! a time; keys and routes survive it.

mod dial;
mod keyring;
mod tables;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use config::InnerTable;
use ledger::{InstanceId, SharedLedger};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::convert::message::{Acknowledged, Greeting, InnerTerms, Notice};
use crate::directory::Directory;
use crate::key::HopKey;
use crate::outbox::Announcement;
use crate::time::Time;
use crate::token::TokenFile;
use crate::wake::Wake;

pub use keyring::KeyRing;
use tables::{Assembly, Tables};

/// What networkproxy needs to register with smartproxy.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// smartproxy's control address.
    pub connect: SocketAddr,
    /// The token; read anew before each dial.
    pub token: TokenFile,
    /// This software's version, for people.
    pub version: String,
    /// This process's gRPC address for operators.
    pub admin_address: SocketAddr,
    /// What smartproxy should know.
    pub terms: InnerTerms,
}

/// The control channel to smartproxy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ledger: SharedLedger,
    time: Time,
    settings: UpstreamSettings,
    directory: Directory,
    wake: Wake,
    announcement: watch::Sender<Announcement>,
    keys: ArcSwap<KeyRing>,
    tables: ArcSwap<Tables>,
    /// Grows with every table that is put in force.
    table_changed: watch::Sender<u64>,
    drain_acknowledged: watch::Sender<bool>,
    state: Mutex<UpstreamState>,
}

/// How the channel stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamState {
    /// Not dialled yet.
    Idle,
    /// A session is up.
    Connected(InstanceId),
    /// There is none, and the last attempt ended like this.
    Waiting(String),
}

impl Upstream {
    /// A channel that is not dialled yet. Takes the ledger's wake-up: make one per ledger.
    pub fn new(ledger: SharedLedger, time: Time, settings: UpstreamSettings) -> Self {
        let wake = Wake::of(&ledger);
        let shared = Shared {
            ledger,
            time,
            settings,
            directory: Directory::new(),
            wake,
            announcement: watch::Sender::default(),
            keys: ArcSwap::default(),
            tables: ArcSwap::default(),
            table_changed: watch::Sender::default(),
            drain_acknowledged: watch::Sender::new(false),
            state: Mutex::new(UpstreamState::Idle),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Dials, and dials again, until `leaving`; then tells smartproxy what is left to tell, and says goodbye.
    pub async fn run(&self, leaving: CancellationToken) {
        tokio::select! {
            () = self.dial_until(leaving) => {}
            () = self.shared.wake.run() => {}
            () = self.keep_house() => {}
        }
    }

    /// The hop keys in force, as of now.
    pub fn keys(&self) -> Arc<KeyRing> {
        self.shared.keys.load_full()
    }

    /// The routes of this generation of this smartproxy: the latest and the ones before are known.
    pub fn table(&self, front: InstanceId, generation: u64) -> Option<Arc<InnerTable>> {
        self.shared.tables.load().find(front, generation).cloned()
    }

    /// The latest routes, once there are some.
    pub fn latest_table(&self) -> Option<Arc<InnerTable>> {
        self.shared.tables.load().latest().cloned()
    }

    /// A number that grows with every new [`Upstream::latest_table`].
    pub fn table_changed(&self) -> watch::Receiver<u64> {
        self.shared.table_changed.subscribe()
    }

    /// How many connections this process takes at once, from now on.
    pub fn announce_capacity(&self, capacity: u64) {
        self.shared.announcement.send_modify(|announcement| announcement.capacity = Some(capacity));
    }

    /// This process takes no new connections. Go on accepting until [`Upstream::drain_acknowledged`], and
    /// for as long after it as a dial may take: smartproxy may have picked this process just before.
    pub fn announce_draining(&self) {
        self.shared.announcement.send_modify(|announcement| announcement.draining = true);
    }

    /// Terminated names that have no certificate; replaces what was announced before.
    pub fn announce_names_without_certificate(&self, names: impl IntoIterator<Item = String>) {
        let names: Arc<[String]> = names.into_iter().collect();
        self.shared.announcement.send_if_modified(|announcement| {
            let news = announcement.names != names;
            announcement.names = names;
            news
        });
    }

    /// Waits until smartproxy has acknowledged the drain; for ever where there is no smartproxy.
    pub async fn drain_acknowledged(&self) {
        let mut acknowledged = self.shared.drain_acknowledged.subscribe();
        // The sender lives as long as `self`.
        acknowledged.wait_for(|acknowledged| *acknowledged).await.ok();
    }

    /// How the channel stands.
    pub fn state(&self) -> UpstreamState {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known of each smartproxy.
    pub fn directory(&self) -> &Directory {
        &self.shared.directory
    }

    /// The books.
    pub fn ledger(&self) -> &SharedLedger {
        &self.shared.ledger
    }

    /// Tells the ledger that time passes, and lets old keys go.
    async fn keep_house(&self) {
        let Shared { ledger, time, keys, directory, .. } = &*self.shared;
        loop {
            crate::tick(ledger, time).await;
            let now = time.now();
            let mut ring = KeyRing::clone(&keys.load());
            if ring.sweep(now.active) {
                self.shared.keys.rcu(|ring| {
                    let mut ring = KeyRing::clone(ring);
                    ring.sweep(now.active);
                    ring
                });
            }
            directory.retain(|instance| ledger.standing(instance, now).is_some());
        }
    }

    /// Notes a session that begins: the key is in force before it is acknowledged.
    fn begin(&self, greeting: &Greeting, key: HopKey) {
        let front = greeting.hello.instance;
        self.shared.directory.greet(greeting, None, self.shared.time.now());
        self.shared.keys.rcu(|ring| {
            let mut ring = KeyRing::clone(ring);
            ring.adopt(key, front);
            ring
        });
        self.set_state(UpstreamState::Connected(front));
    }

    fn end(&self, front: InstanceId) {
        let now = self.shared.time.now();
        self.shared.keys.rcu(|ring| {
            let mut ring = KeyRing::clone(ring);
            ring.session_gone(front, now.active);
            ring
        });
    }

    /// Takes what smartproxy said; what is returned is acknowledged to it.
    fn take(&self, front: InstanceId, notice: Notice, assembly: &mut Assembly) -> Option<Acknowledged> {
        match notice {
            Notice::RouteTable { generation, offset, total, json } => {
                match assembly.add(generation, offset, total, &json)? {
                    // The same again, after the channel was away: nothing changes.
                    Ok(table) if self.table(front, generation).is_some_and(|known| *known == table) => {
                        Some(Acknowledged { generation: Some(generation), ..Acknowledged::default() })
                    }
                    Ok(table) => {
                        let table = Arc::new(table);
                        self.shared.tables.rcu(|tables| tables.with(front, Arc::clone(&table)));
                        self.shared.table_changed.send_modify(|count| *count += 1);
                        self.shared.directory.amend(front, |facts| facts.generation = Some(generation));
                        tracing::info!(peer = %front, generation, "routes are in force");
                        Some(Acknowledged { generation: Some(generation), ..Acknowledged::default() })
                    }
                    Err(error) => {
                        tracing::error!(peer = %front, generation, error, "routes cannot be taken");
                        Some(Acknowledged { table_error: Some(error), ..Acknowledged::default() })
                    }
                }
            }
            Notice::Drain => {
                self.shared.directory.amend(front, |facts| facts.draining = true);
                Some(Acknowledged { drain: true, ..Acknowledged::default() })
            }
            Notice::Acknowledged(acknowledged) => {
                if acknowledged.drain {
                    self.shared.drain_acknowledged.send_replace(true);
                }
                None
            }
            Notice::Capacity(_) | Notice::Draining(_) | Notice::NamesWithoutCertificate(_) => None,
        }
    }

    /// Notes how the channel stands, and says so in the log, once.
    fn set_state(&self, state: UpstreamState) {
        let mut before = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *before == state {
            return;
        }
        let connect = self.shared.settings.connect;
        match &state {
            UpstreamState::Connected(instance) => {
                tracing::info!(peer = %instance, %connect, "control session established");
            }
            UpstreamState::Waiting(why) => {
                tracing::warn!(%connect, why, "no control session; dialling again");
            }
            UpstreamState::Idle => {}
        }
        *before = state;
    }
}
