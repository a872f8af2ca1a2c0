//! The only way in: one ledger, shared by the threads of a process.
//!
//! *Owns* the mutex and the wake-up of the control thread. *Never* exposes the guard, never awaits under
//! it, never encodes or formats under it. *Invariant*: a call holds the lock for one step of the books, or
//! for a stretch of what concerns many halves; between two stretches, whoever waits goes first.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use crate::admission::AdmissionLimits;
use crate::arrivals::Arrival;
use crate::audit::{Audit, Counters, Draft};
use crate::evidence::Observation;
use crate::half::{Accept, Half, Opening};
use crate::id::{Attempt, ConnectionId, HalfKey, InstanceId, Role};
use crate::journal::ReadingId;
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

/// Halves looked at per hold, where all are looked at.
const STRETCH: usize = 256;
/// Nothing is recorded: only to measure what recording costs.
pub const STUBBED: bool = cfg!(feature = "stubbed");
/// How often a long piece of work lets others go first, between two of its holds.
const WAYS: usize = 256;

/// A ledger that the threads of a process share. Cheap to clone.
#[derive(Clone)]
pub struct SharedLedger {
    inner: Arc<Inner>,
}

struct Inner {
    ledger: Mutex<Ledger>,
    /// Calls that wait for the lock.
    waiting: AtomicUsize,
    /// Calls that ever had to.
    waits: AtomicU64,
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
        let (waiting, waits) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { inner: Arc::new(Inner { ledger, waiting, waits, instance, role, waker: OnceLock::new() }) }
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
        if STUBBED {
            return Ok(Arc::default());
        }
        self.changed(|ledger| ledger.open_front(id, accept, now))
    }

    /// See [`Ledger::turn_away`].
    pub fn turn_away(
        &self,
        id: ConnectionId,
        accept: Arc<Accept>,
        seen: Observation,
        now: Now,
    ) -> Result<(), RecordError> {
        if STUBBED {
            return Ok(());
        }
        self.changed(|ledger| ledger.turn_away(id, accept, seen, now))
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
        opening: Opening,
        now: Now,
    ) -> Result<Arc<Traffic>, RecordError> {
        self.changed(|ledger| ledger.open_inner(arrival, connection, attempt, front, opening, now))
    }

    /// See [`Ledger::admit`].
    pub fn admit(
        &self,
        key: HalfKey,
        address: std::net::IpAddr,
        limits: &AdmissionLimits,
    ) -> Result<(), Reason> {
        if STUBBED {
            return Ok(());
        }
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
        if STUBBED {
            return Ok(());
        }
        self.changed(|ledger| ledger.record(key, changes, now))
    }

    /// See [`Ledger::close`].
    pub fn close(&self, key: HalfKey, ending: Ending, now: Now) -> Result<(), RecordError> {
        if STUBBED {
            return Ok(());
        }
        self.changed(|ledger| ledger.close(key, ending, now))
    }

    /// See [`Ledger::live`].
    pub fn live(&self, from: Option<HalfKey>, limit: usize) -> Vec<HalfKey> {
        self.give_way();
        self.lock().live(from, limit)
    }

    /// See [`Ledger::repair`].
    pub fn repair(&self, key: HalfKey, now: Now) -> bool {
        self.changed(|ledger| ledger.repair(key, now))
    }

    /// See [`Ledger::tick`].
    pub fn tick(&self, now: Now) {
        while self.changed(|ledger| ledger.tick_part(now, STRETCH)) {
            self.give_way();
        }
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
        let mut more = self.changed(|ledger| ledger.receive_part(at, message, now))?;
        while more {
            self.give_way();
            more = self.changed(|ledger| ledger.receive_on(at, STRETCH, now))?;
        }
        Ok(())
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

    /// See [`Ledger::audit`]: of one instant, but recounted in many short holds.
    pub fn audit(&self, now: Now) -> Audit {
        let (mut draft, recounting) = Recounting::begin(self, now);
        let mut halves = Vec::with_capacity(STRETCH);
        loop {
            let more = self.lock().own.read_on(recounting.reading, |_, half| {
                halves.push(Arc::clone(half));
                halves.len() < STRETCH
            });
            halves.drain(..).for_each(|half| draft.recount(&half));
            if !more {
                return draft.conclude();
            }
            self.give_way();
        }
    }

    /// See [`Ledger::counters`]: of one instant, apart from bytes and requests, which move without the lock;
    /// counted in many short holds.
    pub fn counters(&self, now: Now) -> Counters {
        let (mut counters, census) = {
            let mut ledger = self.lock();
            (ledger.running_counters(now), ledger.begin_census())
        };
        while self.lock().count_on(census, STRETCH) {
            self.give_way();
        }
        let sums = self.lock().end_census(census);
        counters.count(&sums);
        counters
    }

    /// As [`SharedLedger::counters`], but without what has to be summed over the live halves (phases, their bytes
    /// and requests are empty): cheap enough for every request.
    pub fn running_counters(&self, now: Now) -> Counters {
        self.lock().running_counters(now)
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
        // One of many, most likely: whoever waits since the last one goes first.
        self.give_way();
        self.lock().walk(from, heading, limit, now)
    }

    /// See [`Ledger::live_connections`].
    pub fn live_connections(&self) -> Option<u64> {
        self.lock().live_connections()
    }

    /// Every half this process knows, as of one instant: for tests, as the books are held for as long as it takes.
    pub fn view(&self) -> View {
        let ledger = self.lock();
        View {
            own: ledger.own.halves().cloned().collect(),
            live: ledger.live.iter().map(|(key, slot)| (*key, Arc::clone(&slot.traffic))).collect(),
            mirrored: ledger.peers.values().flat_map(|peer| peer.mirror.halves().cloned()).collect(),
        }
    }

    fn changed<R>(&self, step: impl FnOnce(&mut Ledger) -> R) -> R {
        let mut ledger = self.lock();
        let before = ledger.own.position();
        let result = step(&mut ledger);
        let news = ledger.own.position() != before;
        drop(ledger);
        // An acknowledgement, a heartbeat or a tick that changed nothing is nothing to tell.
        if news && let Some(wake) = self.inner.waker.get() {
            wake();
        }
        result
    }

    /// Calls that found the books held by another and had to wait, since the process started.
    pub fn waits(&self) -> u64 {
        self.inner.waits.load(Relaxed)
    }

    /// A panic under the lock is a bug of ours that one connection pays for, not every one: the books are
    /// consistent between steps, and each step ends in `debug_check`.
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        match self.inner.ledger.try_lock() {
            Ok(ledger) => ledger,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.inner.waits.fetch_add(1, Relaxed);
                self.inner.waiting.fetch_add(1, Relaxed);
                let ledger = self.inner.ledger.lock().unwrap_or_else(PoisonError::into_inner);
                self.inner.waiting.fetch_sub(1, Relaxed);
                ledger
            }
        }
    }

    /// Keeps everybody waiting.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Drop + '_ {
        self.lock()
    }

    /// Between two holds of a long piece of work: the lock is not fair, and whoever waits for it would find it
    /// taken again before it has woken.
    fn give_way(&self) {
        for _ in 0..WAYS {
            if self.inner.waiting.load(Relaxed) == 0 {
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// An audit's reading, which ends whatever becomes of the audit.
struct Recounting<'l> {
    ledger: &'l SharedLedger,
    reading: ReadingId,
}

impl<'l> Recounting<'l> {
    fn begin(ledger: &'l SharedLedger, now: Now) -> (Draft, Self) {
        let mut books = ledger.lock();
        let draft = books.draft_audit(now);
        books.audits += 1;
        let reading = books.own.begin_reading(0);
        (draft, Self { ledger, reading })
    }
}

impl Drop for Recounting<'_> {
    fn drop(&mut self) {
        let mut books = self.ledger.lock();
        books.audits -= 1;
        books.own.end_reading(self.reading);
    }
}

impl fmt::Debug for SharedLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLedger").field("instance", &self.inner.instance).finish_non_exhaustive()
    }
}
