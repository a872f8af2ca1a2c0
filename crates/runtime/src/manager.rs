//! Every live connection of a process, and the one way to have one closed from outside.
//!
//! *Owns* the slots into which orders to close are put. *Never* ends a connection itself and keeps no count:
//! the books are the ledger's. *Invariant*: a slot exists exactly as long as its [`TrackedConnection`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ledger::{
    Accept, Arrival, Attempt, ConnectionId, HalfKey, InstanceId, LegName, Now, Observation, Opening,
    RecordError, SharedLedger, Traffic,
};
use tokio::net::TcpStream;

use crate::clock::Clock;
use crate::close::{CloseOrder, CloseSlot};
use crate::leg::{Leg, Origin};
use crate::mint;
use crate::tracked::TrackedConnection;

/// Between two sweeps for records without an owner.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Keys looked at per hold of the books.
const AT_ONCE: usize = 1_024;

/// The live connections of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ConnectionManager {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ledger: SharedLedger,
    clock: Clock,
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    slots: HashMap<HalfKey, Arc<CloseSlot>>,
    /// Records ever opened, by listener.
    opened: BTreeMap<Arc<str>, u64>,
}

impl Live {
    fn count_opened(&mut self, listener: &Arc<str>) {
        match self.opened.get_mut(listener) {
            Some(count) => *count += 1,
            None => drop(self.opened.insert(Arc::clone(listener), 1)),
        }
    }
}

impl ConnectionManager {
    /// The connections whose records are in `ledger`.
    pub fn new(ledger: SharedLedger, clock: Clock) -> Self {
        Self { shared: Arc::new(Shared { ledger, clock, live: Mutex::default() }) }
    }

    /// Opens the record of a client that was just accepted: before any decision about it.
    pub fn create_connection(&self, socket: TcpStream, accept: Accept) -> (TrackedConnection, Leg) {
        let (now, listener) = (self.clock().now(), Arc::clone(&accept.listener));
        let (key, traffic) = self.open_front(accept, now);
        let tracked = self.track(key, &listener, traffic, now);
        let leg = tracked.leg(socket, LegName::Client, Origin::Accepted);
        (tracked, leg)
    }

    /// Lets go of the socket of a client that is turned away before anything is done for it, which resets it, and
    /// books it in one step, `seen` being why: no task, no deadline, nothing that could be ordered to close.
    pub fn turn_away(&self, socket: std::net::TcpStream, accept: Accept, seen: impl Fn() -> Observation) {
        drop(socket);
        let (now, accept) = (self.clock().now(), Arc::new(accept));
        under_new_id(|id| self.ledger().turn_away(id, Arc::clone(&accept), seen(), now));
        self.live().count_opened(&accept.listener);
    }

    /// Opens the inner half of a hop socket whose header verified. `read_past` bytes were read from it after
    /// the header; they count as received, and the caller hands them to [`Leg::io`] or to the relay.
    pub fn adopt_inner(
        &self,
        socket: TcpStream,
        read_past: usize,
        arrival: Arrival,
        (connection, attempt): (ConnectionId, Attempt),
        front: InstanceId,
        opening: Opening,
    ) -> Result<(TrackedConnection, Leg), RecordError> {
        let (now, listener) = (self.clock().now(), Arc::clone(&opening.accept.listener));
        let traffic = self.ledger().open_inner(arrival, connection, attempt, front, opening, now)?;
        let key = HalfKey::inner(connection, self.ledger().instance(), attempt);
        let tracked = self.track(key, &listener, traffic, now);
        let leg = tracked.leg(socket, LegName::Hop, Origin::Accepted);
        leg.count_read_before(read_past);
        Ok((tracked, leg))
    }

    /// Orders one connection to close. `false` where it is not live or was ordered to before: the first
    /// caller's reason counts, and everyone may call.
    pub fn initiate_cleanup_once(&self, key: HalfKey, order: CloseOrder) -> bool {
        let slot = self.live().slots.get(&key).cloned();
        slot.is_some_and(|slot| slot.give(order, self.clock().mono()))
    }

    /// Orders every live connection to close; how many were not ordered to before.
    pub fn close_all(&self, order: &CloseOrder) -> usize {
        let slots: Vec<_> = self.live().slots.values().cloned().collect();
        let now = self.clock().mono();
        slots.into_iter().filter(|slot| slot.give(order.clone(), now)).count()
    }

    /// Waits until no record is live.
    pub async fn emptied(&self) {
        while self.ledger().connected_clients() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The keys of the live records, in stretches short enough for whoever waits for the books meanwhile.
    pub fn live_keys(&self) -> impl Iterator<Item = Vec<HalfKey>> + '_ {
        let stretch_beyond = |from| Some(self.ledger().live(from, AT_ONCE)).filter(|keys| !keys.is_empty());
        std::iter::successors(stretch_beyond(None), move |keys| stretch_beyond(keys.last().copied()))
    }

    /// Ends the live records that no connection owns, now and at the last call; how many. By construction there
    /// are none: each is a bug, is logged and counted. `suspects` is kept from call to call.
    pub fn sweep(&self, suspects: &mut BTreeSet<HalfKey>) -> usize {
        let mut unowned = BTreeSet::new();
        for stretch in self.live_keys() {
            let live = self.live();
            unowned.extend(stretch.iter().filter(|key| !live.slots.contains_key(key)));
        }
        // Between its record's opening and its slot, and between the slot's end and the record's, a key looks so.
        let zombies: Vec<HalfKey> = unowned.intersection(suspects).copied().collect();
        *suspects = unowned;
        let repaired = |key: &&HalfKey| {
            let repaired = self.ledger().repair(**key, self.clock().now());
            if repaired {
                tracing::error!(id = %key.connection, "our bug: a record that nobody owned was ended by the sweep");
            }
            repaired
        };
        zombies.iter().filter(repaired).count()
    }

    /// Sweeps every half minute, for ever. To be run on the control thread.
    pub async fn keep_sweeping(&self) {
        let mut suspects = BTreeSet::new();
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.sweep(&mut suspects);
        }
    }

    /// Records ever opened, by listener.
    pub fn opened(&self) -> Vec<(Arc<str>, u64)> {
        self.live().opened.iter().map(|(listener, count)| (Arc::clone(listener), *count)).collect()
    }

    /// The books.
    pub fn ledger(&self) -> &SharedLedger {
        &self.shared.ledger
    }

    /// The clocks.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Opens a front's record under a new id.
    fn open_front(&self, accept: Accept, now: Now) -> (HalfKey, Arc<Traffic>) {
        let accept = Arc::new(accept);
        let (id, traffic) = under_new_id(|id| self.ledger().open_front(id, Arc::clone(&accept), now));
        (HalfKey::front(id, self.ledger().instance()), traffic)
    }

    fn track(
        &self,
        key: HalfKey,
        listener: &Arc<str>,
        traffic: Arc<Traffic>,
        opened: Now,
    ) -> TrackedConnection {
        let slot = Arc::new(CloseSlot::new(opened.mono));
        let mut live = self.live();
        live.slots.insert(key, Arc::clone(&slot));
        live.count_opened(listener);
        drop(live);
        TrackedConnection::new(self.clone(), key, traffic, opened, slot)
    }

    /// The connection's owner is done with it.
    pub(crate) fn forget(&self, key: HalfKey) {
        self.live().slots.remove(&key);
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.shared.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a record under an id that no other has: the first, most likely for ever.
fn under_new_id<R>(open: impl Fn(ConnectionId) -> Result<R, RecordError>) -> (ConnectionId, R) {
    loop {
        let id = mint::connection_id();
        if let Ok(opened) = open(id) {
            return (id, opened);
        }
    }
}
