//! What is known of each peer beside the books: who it is, where it is, what it said about itself.
//!
//! *Owns* one entry per peer instance, for the data path, for readiness and for people. *Never* holds a
//! count: how many connections a peer has is the ledger's to say. *Invariant*: an entry lives as long as the
//! ledger knows the peer, so that the same instance finds the same hop key when it comes back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ledger::{InstanceId, Now};

use crate::convert::message::{Greeting, InnerTerms};
use crate::key::HopKey;

/// Every peer of this process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    peers: Arc<Mutex<BTreeMap<InstanceId, PeerFacts>>>,
}

/// What one peer said about itself.
#[derive(Clone, Debug)]
pub(crate) struct PeerFacts {
    pub(crate) version: String,
    pub(crate) admin_address: String,
    /// The latest session.
    pub(crate) session: u64,
    /// The peer's active clock and ours, at one moment.
    clock: (Duration, Duration),
    /// It takes (or, smartproxy: has) no new connections.
    pub(crate) draining: bool,
    /// The routes that it has in force (smartproxy: that it sent).
    pub(crate) generation: Option<u64>,
    /// A networkproxy, seen by smartproxy.
    pub(crate) inner: Option<InnerFacts>,
}

/// What smartproxy knows of a networkproxy.
#[derive(Clone, Debug)]
pub(crate) struct InnerFacts {
    pub(crate) terms: InnerTerms,
    pub(crate) key: HopKey,
    pub(crate) key_acknowledged: bool,
    pub(crate) table_error: Option<String>,
    pub(crate) names_without_certificate: Vec<String>,
}

impl Directory {
    /// No peers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where operators reach the peer, as `address:port`.
    pub fn admin_address(&self, peer: InstanceId) -> Option<String> {
        let facts = self.facts(peer)?;
        (!facts.admin_address.is_empty()).then_some(facts.admin_address)
    }

    /// Terminated names that any networkproxy has no certificate for.
    pub fn names_without_certificate(&self) -> Vec<String> {
        let peers = self.lock();
        let names = peers.values().filter_map(|peer| peer.inner.as_ref());
        let names: std::collections::BTreeSet<_> =
            names.flat_map(|inner| inner.names_without_certificate.iter().cloned()).collect();
        names.into_iter().collect()
    }

    /// What the peer's active clock shows now, as far as its last heartbeat tells.
    pub(crate) fn active_of(&self, peer: InstanceId, now: Now) -> Option<Duration> {
        let (theirs, ours) = self.lock().get(&peer)?.clock;
        Some(theirs + now.active.saturating_sub(ours))
    }

    pub(crate) fn facts(&self, peer: InstanceId) -> Option<PeerFacts> {
        self.lock().get(&peer).cloned()
    }

    /// Notes a Hello. The rest of what was known of the instance stays.
    pub(crate) fn greet(&self, greeting: &Greeting, inner: Option<InnerFacts>, now: Now) {
        let mut peers = self.lock();
        let before = peers.remove(&greeting.hello.instance);
        let facts = PeerFacts {
            version: greeting.version.clone(),
            admin_address: greeting.admin_address.clone(),
            session: greeting.hello.session,
            clock: (greeting.active, now.active),
            draining: before.as_ref().is_some_and(|before| before.draining),
            generation: before.and_then(|before| before.generation),
            inner,
        };
        peers.insert(greeting.hello.instance, facts);
    }

    /// Notes a peer's clock.
    pub(crate) fn hear(&self, peer: InstanceId, theirs: Duration, now: Now) {
        self.amend(peer, |facts| facts.clock = (theirs, now.active));
    }

    pub(crate) fn amend<R>(&self, peer: InstanceId, change: impl FnOnce(&mut PeerFacts) -> R) -> Option<R> {
        self.lock().get_mut(&peer).map(change)
    }

    /// Looks at every peer, in order of instance.
    pub(crate) fn each<R>(&self, look: impl FnMut((&InstanceId, &PeerFacts)) -> R) -> Vec<R> {
        self.lock().iter().map(look).collect()
    }

    /// Forgets the peers that `keep` does not name.
    pub(crate) fn retain(&self, keep: impl Fn(InstanceId) -> bool) {
        self.lock().retain(|instance, _| keep(*instance));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, PeerFacts>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
