//! A walk over every half that a process knows, in stretches short enough for the lock.
//!
//! *Owns* the merging of the own table and every mirror by connection. *Never* copies a half: it clones
//! pointers. *Invariant*: a stretch holds whole connections; walking on from its end meets every connection
//! that was there all along exactly once, whatever came and went meanwhile.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::half::Half;
use crate::id::{Attempt, ConnectionId, HalfKey, InstanceId, Role};
use crate::ledger::Ledger;
use crate::peer::Peer;
use crate::time::Now;
use crate::traffic::TrafficTotals;

/// Beyond so many, what is in flight is not looked through under the lock.
const MOST_IN_FLIGHT: usize = 1_000;

/// Which way a walk goes: ids ascend with the time of accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heading {
    /// Towards the latest accepted.
    Newer,
    /// Towards the earliest accepted.
    Older,
}

/// Part of a walk.
#[derive(Clone, Debug, Default)]
pub struct Stretch {
    /// The halves of whole connections, in no order.
    pub halves: Vec<Known>,
    /// Where to walk on from; `None` at the end.
    pub next: Option<ConnectionId>,
}

/// A half as it is known at one moment.
#[derive(Clone, Debug)]
pub struct Known {
    /// The half. Of a live own half, its traffic is as old as its last change: see `now`.
    pub half: Arc<Half>,
    /// For a live own half: what it has counted by now, and how old it is.
    pub now: Option<(TrafficTotals, Duration)>,
}

impl Ledger {
    /// The halves of the connections beyond `from` (all, where it is `None`): at least one connection where
    /// there is one, and not many more than `limit` halves of each process.
    pub fn walk(&self, from: Option<ConnectionId>, heading: Heading, limit: usize, now: Now) -> Stretch {
        let range = match (from, heading) {
            (None, _) => (Bound::Unbounded, Bound::Unbounded),
            (Some(from), Heading::Newer) => (Bound::Excluded(last_key(from)), Bound::Unbounded),
            (Some(from), Heading::Older) => (Bound::Unbounded, Bound::Excluded(first_key(from))),
        };
        let mut halves = Vec::new();
        let mut end = None;
        let mut take = |stretch: Vec<&Arc<Half>>, cut: Option<ConnectionId>| {
            halves.extend(stretch.into_iter().map(Arc::clone));
            end = match (end, cut) {
                (Some(end), Some(cut)) if heading == Heading::Newer => Some(cut.min(end)),
                (Some(end), Some(cut)) => Some(cut.max(end)),
                (end, cut) => end.or(cut),
            };
        };
        match heading {
            Heading::Newer => {
                let (stretch, cut) = whole(self.own.in_order(range), limit);
                take(stretch, cut);
            }
            Heading::Older => {
                let (stretch, cut) = whole(self.own.in_order(range).rev(), limit);
                take(stretch, cut);
            }
        }
        for peer in self.peers.values() {
            let (stretch, cut) = match heading {
                Heading::Newer => whole(peer.mirror.in_order(range), limit),
                Heading::Older => whole(peer.mirror.in_order(range).rev(), limit),
            };
            take(stretch, cut);
        }
        if let Some(end) = end {
            halves.retain(|half| match heading {
                Heading::Newer => half.key.connection <= end,
                Heading::Older => half.key.connection >= end,
            });
        }
        let known = |half: Arc<Half>| {
            let slot = self.live.get(&half.key);
            let now = slot.map(|slot| (slot.traffic.totals(), now.mono.saturating_sub(slot.opened().mono)));
            Known { half, now }
        };
        Stretch { halves: halves.into_iter().map(known).collect(), next: end }
    }

    /// How many connections have a live half, here or at a peer, without looking at them: from the tables' own
    /// counts and what is in flight. A peer's half that is only presumed to be live counts where ours is. `None`
    /// where that is not all there is to it (a snapshot is being taken in, a peer has halves of another
    /// smartproxy, much is in flight): then they have to be walked over.
    pub fn live_connections(&self) -> Option<u64> {
        let in_step = |peer: &Peer| peer.session.as_ref().is_some_and(|session| session.in_step);
        let told: Vec<_> = self.peers.iter().filter(|(_, peer)| in_step(peer)).collect();
        if told.iter().any(|(_, peer)| peer.mirror.has_to_tell() || peer.in_flight.len() > MOST_IN_FLIGHT) {
            return None;
        }
        let mut apart = BTreeSet::new();
        for (at, peer) in &told {
            for (connection, attempt) in peer.in_flight.keys() {
                let front =
                    HalfKey::front(*connection, if self.role == Role::Front { self.instance } else { **at });
                let inner = HalfKey::inner(
                    *connection,
                    if self.role == Role::Front { **at } else { self.instance },
                    *attempt,
                );
                let live = |key: HalfKey| {
                    let half =
                        if key.instance == self.instance { self.own.half(key) } else { peer.half(key) };
                    half.is_some_and(|half| half.is_live())
                };
                if live(inner) && !live(front) {
                    apart.insert(*connection);
                }
            }
        }
        let fronts = match self.role {
            Role::Front => {
                // Of another smartproxy's connections there is no front here to count.
                let foreign =
                    told.iter().any(|(_, peer)| peer.mirror.live_len() != peer.mirror.joined_live());
                (!foreign).then_some(self.live.len() as u64)?
            }
            Role::Inner => {
                // Two attempts of one connection would count twice.
                let known = |at: &InstanceId| told.iter().any(|(told, _)| *told == at);
                self.joined.keys().all(known).then_some(())?;
                told.iter().map(|(_, peer)| peer.mirror.live_len()).sum()
            }
        };
        Some(fronts + apart.len() as u64)
    }
}

/// At least `limit` halves, up to the end of a connection; and where that was, if there are more.
fn whole<'a>(
    halves: impl Iterator<Item = &'a Arc<Half>>,
    limit: usize,
) -> (Vec<&'a Arc<Half>>, Option<ConnectionId>) {
    let mut taken: Vec<&Arc<Half>> = Vec::new();
    for half in halves {
        if let Some(last) = taken.last().filter(|_| taken.len() >= limit.max(1))
            && last.key.connection != half.key.connection
        {
            let cut = last.key.connection;
            return (taken, Some(cut));
        }
        taken.push(half);
    }
    (taken, None)
}

const fn first_key(connection: ConnectionId) -> HalfKey {
    HalfKey { connection, instance: InstanceId(0), attempt: Attempt(0) }
}

const fn last_key(connection: ConnectionId) -> HalfKey {
    HalfKey { connection, instance: InstanceId(u128::MAX), attempt: Attempt(u64::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::half::{Accept, AddressSource};
    use crate::ledger::LedgerLimits;
    use crate::session::{Next, Rhythm};
    use crate::time::Wall;

    fn accept() -> Arc<Accept> {
        let address = ([127, 0, 0, 1], 1).into();
        Arc::new(Accept {
            listener: "127.0.0.1:1".into(),
            client: address,
            remote: address,
            local: address,
            source: AddressSource::Socket,
            at: Wall(1),
        })
    }

    /// Two ledgers: fronts 1 to 50 here, inner halves of the odd ones (two each) mirrored.
    fn joined() -> Ledger {
        let (front_at, inner_at) = (InstanceId(1), InstanceId(2));
        let limits = LedgerLimits::default();
        let mut front = Ledger::new(front_at, Role::Front, limits, Rhythm::default());
        let mut inner = Ledger::new(inner_at, Role::Inner, limits, Rhythm::default());
        let now = Now::default();
        for id in 1..=50_u64 {
            let connection = ConnectionId(id.into());
            front.open_front(connection, accept(), now).unwrap();
            for attempt in [id * 2, id * 2 + 1].into_iter().filter(|_| id % 2 == 1) {
                let arrival = inner.arrive();
                inner.open_inner(arrival, connection, Attempt(attempt), front_at, accept(), now).unwrap();
            }
        }
        let (_, answer) = front.answer(&inner.dial(1), now).unwrap();
        let at_inner = inner.established(1, &answer, now).unwrap();
        let at_front = crate::SessionKey { peer: inner_at, number: 1 };
        while let Next::Send(message) = inner.next(at_inner, now) {
            front.receive(at_front, message, now).unwrap();
        }
        front
    }

    #[test]
    fn a_walk_meets_every_connection_once_and_whole_in_either_direction() {
        let ledger = joined();
        for heading in [Heading::Newer, Heading::Older] {
            for limit in [1, 2, 7, 1_000] {
                let mut from = None;
                let mut met = Vec::new();
                loop {
                    let stretch = ledger.walk(from, heading, limit, Now::default());
                    assert!(stretch.next.is_none() || stretch.next != from, "it goes on");
                    let mut ids: Vec<_> =
                        stretch.halves.iter().map(|known| known.half.key.connection).collect();
                    ids.sort_unstable();
                    let mut once = ids.clone();
                    once.dedup();
                    for id in &once {
                        let expected = if id.0 % 2 == 1 { 3 } else { 1 };
                        assert_eq!(
                            ids.iter().filter(|at| *at == id).count(),
                            expected,
                            "{id} in one stretch"
                        );
                    }
                    met.extend(once);
                    match stretch.next {
                        Some(next) => from = Some(next),
                        None => break,
                    }
                }
                met.sort_unstable();
                assert_eq!(met, (1..=50).map(ConnectionId).collect::<Vec<_>>(), "{heading:?} {limit}");
            }
        }
    }

    #[test]
    fn live_own_halves_say_how_old_they_are() {
        let ledger = joined();
        let now = Now { mono: Duration::from_secs(5), ..Now::default() };
        let stretch = ledger.walk(None, Heading::Newer, 1_000, now);
        for known in &stretch.halves {
            let own = known.half.key.instance == InstanceId(1);
            assert_eq!(known.now.map(|(_, age)| age), own.then_some(Duration::from_secs(5)));
        }
    }
}
