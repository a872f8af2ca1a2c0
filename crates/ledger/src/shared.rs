//! The only way in: one ledger, shared by the threads of a process.
//!
//! *Owns* the mutex and the wake-up of the control thread. *Never* exposes the guard, never awaits under
//! it, never encodes or formats under it. *Invariant*: a call holds the lock for one step of the books, or
//! for cloning shared pointers.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::admission::AdmissionLimits;
use crate::arrivals::Arrival;
use crate::audit::{Audit, Counters};
use crate::half::{Accept, Half};
use crate::id::{Attempt, ConnectionId, HalfKey, InstanceId, Role};
use crate::ledger::{Change, Ending, Ledger, RecordError};
use crate::link::{HelloRefused, SessionKey};
use crate::message::{Hello, Message};
use crate::peer::PeerStatus;
use crate::reason::Reason;
use crate::session::{Next, Rhythm, SessionEnd};
use crate::standing::Standing;
use crate::time::Now;
use crate::traffic::{Traffic, TrafficTotals};
use crate::walk::{Heading, Stretch};

/// A ledger that the threads of a process share. Cheap to clone.
#[derive(Clone)]
pub struct SharedLedger {
    inner: Arc<Inner>,
}

struct Inner {
    ledger: Mutex<Ledger>,
    instance: InstanceId,
    role: Role,
    waker: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// Every half a process knows, as of one instant: pointers, not copies.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The process's own halves, live and retained.
    pub own: Vec<Arc<Half>>,
    /// What the live ones among them have counted by now.
    pub live: Vec<(HalfKey, Arc<Traffic>)>,
    /// The peers' halves.
    pub mirrored: Vec<Arc<Half>>,
}

impl SharedLedger {
    /// Shares `ledger`.
    pub fn new(ledger: Ledger) -> Self {
        let (instance, role) = (ledger.instance(), ledger.role());
        let ledger = Mutex::new(ledger);
        Self { inner: Arc::new(Inner { ledger, instance, role, waker: OnceLock::new() }) }
    }

    /// `wake` is called, without the lock, after a change that others should be told. Set once.
    pub fn on_change(&self, wake: impl Fn() + Send + Sync + 'static) {
        let first = self.inner.waker.set(Box::new(wake)).is_ok();
        debug_assert!(first, "one control thread is woken");
    }

    /// This life of the process.
    pub fn instance(&self) -> InstanceId {
        self.inner.instance
    }

    /// Which process.
    pub fn role(&self) -> Role {
        self.inner.role
    }

    /// See [`Ledger::open_front`].
    pub fn open_front(
        &self,
        id: ConnectionId,
        accept: Arc<Accept>,
        now: Now,
    ) -> Result<Arc<Traffic>, RecordError> {
        self.changed(|ledger| ledger.open_front(id, accept, now))
    }

    /// See [`Ledger::arrive`].
    pub fn arrive(&self) -> Arrival {
        self.lock().arrive()
    }

    /// See [`Ledger::refuse`].
    pub fn refuse(&self, arrival: Arrival, reason: Reason) {
        self.lock().refuse(arrival, reason);
    }

    /// See [`Ledger::open_inner`].
    pub fn open_inner(
        &self,
        arrival: Arrival,
        connection: ConnectionId,
        attempt: Attempt,
        front: InstanceId,
        accept: Arc<Accept>,
        now: Now,
    ) -> Result<Arc<Traffic>, RecordError> {
        self.changed(|ledger| ledger.open_inner(arrival, connection, attempt, front, accept, now))
    }

    /// See [`Ledger::admit`].
    pub fn admit(
        &self,
        key: HalfKey,
        address: std::net::IpAddr,
        limits: &AdmissionLimits,
    ) -> Result<(), Reason> {
        self.lock().admit(key, address, limits)
    }

    /// See [`Ledger::record`].
    pub fn record(
        &self,
        key: HalfKey,
        changes: impl IntoIterator<Item = Change>,
        now: Now,
    ) -> Result<(), RecordError> {
        // Not under the lock: this is the caller's code.
        let changes: Vec<Change> = changes.into_iter().collect();
        self.changed(|ledger| ledger.record(key, changes, now))
    }

    /// See [`Ledger::close`].
    pub fn close(&self, key: HalfKey, ending: Ending, now: Now) -> Result<(), RecordError> {
        self.changed(|ledger| ledger.close(key, ending, now))
    }

    /// See [`Ledger::live`].
    pub fn live(&self, from: Option<HalfKey>, limit: usize) -> Vec<HalfKey> {
        self.lock().live(from, limit)
    }

    /// See [`Ledger::repair`].
    pub fn repair(&self, key: HalfKey, now: Now) -> bool {
        self.changed(|ledger| ledger.repair(key, now))
    }

    /// See [`Ledger::tick`].
    pub fn tick(&self, now: Now) {
        self.changed(|ledger| ledger.tick(now));
    }

    /// See [`Ledger::since_tick`].
    pub fn since_tick(&self, now: Now) -> std::time::Duration {
        self.lock().since_tick(now)
    }

    /// See [`Ledger::take_settled`].
    pub fn take_settled(&self, limit: usize) -> Vec<Arc<Half>> {
        self.lock().take_settled(limit)
    }

    /// See [`Ledger::dial`].
    pub fn dial(&self, session: u64) -> Hello {
        self.lock().dial(session)
    }

    /// See [`Ledger::answer`].
    pub fn answer(&self, hello: &Hello, now: Now) -> Result<(SessionKey, Hello), HelloRefused> {
        self.lock().answer(hello, now)
    }

    /// See [`Ledger::established`].
    pub fn established(&self, dialled: u64, answer: &Hello, now: Now) -> Result<SessionKey, HelloRefused> {
        self.lock().established(dialled, answer, now)
    }

    /// See [`Ledger::next`].
    pub fn next(&self, at: SessionKey, now: Now) -> Next {
        self.lock().next(at, now)
    }

    /// See [`Ledger::receive`].
    pub fn receive(&self, at: SessionKey, message: Message, now: Now) -> Result<(), SessionEnd> {
        self.changed(|ledger| ledger.receive(at, message, now))
    }

    /// See [`Ledger::end_session`].
    pub fn end_session(&self, at: SessionKey, why: SessionEnd, now: Now) {
        self.lock().end_session(at, why, now);
    }

    /// See [`Ledger::is_drained`].
    pub fn is_drained(&self, at: SessionKey) -> bool {
        self.lock().is_drained(at)
    }

    /// See [`Ledger::bye`].
    pub fn bye(&self) -> Message {
        self.lock().bye()
    }

    /// See [`Ledger::standing`].
    pub fn standing(&self, peer: InstanceId, now: Now) -> Option<Standing> {
        self.lock().standing(peer, now)
    }

    /// See [`Ledger::adopt_rhythm`].
    pub fn adopt_rhythm(&self, rhythm: Rhythm) {
        self.lock().adopt_rhythm(rhythm);
    }

    /// See [`Ledger::audit`].
    pub fn audit(&self, now: Now) -> Audit {
        self.lock().audit(now)
    }

    /// See [`Ledger::counters`].
    pub fn counters(&self, now: Now) -> Counters {
        self.lock().counters(now)
    }

    /// See [`Ledger::peer_status`].
    pub fn peer_status(&self, now: Now) -> Vec<PeerStatus> {
        self.lock().peer_status(now)
    }

    /// See [`Ledger::totals`].
    pub fn totals(&self, key: HalfKey) -> Option<TrafficTotals> {
        self.lock().totals(key)
    }

    /// Live own halves that are joined to `instance`.
    pub fn joined_live(&self, instance: InstanceId) -> u64 {
        self.lock().joined_live(instance)
    }

    /// Live own halves that are joined to any instance.
    pub fn joined_total(&self) -> u64 {
        self.lock().joined.values().sum()
    }

    /// Closed halves whose cause is not settled.
    pub fn settling(&self) -> u64 {
        self.lock().own.settling_len() as u64
    }

    /// Live records.
    pub fn connected_clients(&self) -> u64 {
        self.lock().live.len() as u64
    }

    /// One own half.
    pub fn half(&self, key: HalfKey) -> Option<Arc<Half>> {
        self.lock().own.half(key).cloned()
    }

    /// See [`Ledger::walk`].
    pub fn walk(&self, from: Option<ConnectionId>, heading: Heading, limit: usize, now: Now) -> Stretch {
        self.lock().walk(from, heading, limit, now)
    }

    /// Every half this process knows, as of one instant.
    pub fn view(&self) -> View {
        let ledger = self.lock();
        View {
            own: ledger.own.halves().cloned().collect(),
            live: ledger.live.iter().map(|(key, slot)| (*key, Arc::clone(&slot.traffic))).collect(),
            mirrored: ledger.peers.values().flat_map(|peer| peer.mirror.halves().cloned()).collect(),
        }
    }

    fn changed<R>(&self, step: impl FnOnce(&mut Ledger) -> R) -> R {
        let result = step(&mut self.lock());
        if let Some(wake) = self.inner.waker.get() {
            wake();
        }
        result
    }

    /// A panic under the lock is a bug of ours that one connection pays for, not every one: the books are
    /// consistent between steps, and each step ends in `debug_check`.
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.inner.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLedger").field("instance", &self.inner.instance).finish_non_exhaustive()
    }
}
