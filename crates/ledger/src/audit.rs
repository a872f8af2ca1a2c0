//! The laws, with both sides' numbers.
//!
//! *Owns* the equations that [`Ledger::audit`] prints and what excuses a difference. *Never* repairs: a
//! law that does not hold is shown, with both numbers. *Invariant*: `balanced` exactly if every law holds,
//! where an id that is live on one side only holds while it is excused.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::arrivals::ArrivalCounts;
use crate::census::LiveSums;
use crate::half::Half;
use crate::id::{Attempt, ConnectionId, InstanceId, Role};
use crate::ledger::{Alarms, Departed, Ledger};
use crate::peer::{Peer, PeerStatus};
use crate::phase::Phase;
use crate::session::Session;
use crate::tally::Tally;
use crate::time::Now;

/// The laws of one process at one moment.
#[derive(Clone, Debug)]
pub struct Audit {
    /// Whose.
    pub instance: InstanceId,
    /// Which process.
    pub role: Role,
    /// Each law with its numbers.
    pub laws: Vec<Law>,
    /// What is live on one side only.
    pub in_flight: Vec<InFlight>,
    /// Counts that should be zero.
    pub alarms: Alarms,
    /// Does every law hold?
    pub balanced: bool,
}

/// One equation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Law {
    /// The equation, in words.
    pub name: &'static str,
    /// With which peer, where it is about a pair.
    pub peer: Option<InstanceId>,
    /// The left side.
    pub left: (&'static str, u64),
    /// The right side.
    pub right: (&'static str, u64),
    /// How many differences are excused for now.
    pub excused: u64,
    /// Does it hold (as stated)?
    pub holds: bool,
}

/// A connection that is live on one side only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Which connection.
    pub connection: ConnectionId,
    /// Which bridging.
    pub attempt: Attempt,
    /// With which peer.
    pub peer: InstanceId,
    /// For how long.
    pub age: Duration,
    /// Which half is live.
    pub live: Role,
    /// Why that is in order for now; `None` is a fault.
    pub excuse: Option<Excuse>,
}

/// Why a connection may be live on one side only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excuse {
    /// Less than two heartbeats have passed.
    Young,
    /// The peer's heartbeats are older than two intervals.
    PeerStale,
    /// The remaining half is dialling, half-closed or closing, each bounded by its deadline.
    Leaving,
}

/// A process's own numbers, and what it believes of each peer.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Whose.
    pub instance: InstanceId,
    /// Which process.
    pub role: Role,
    /// Live records.
    pub connected_clients: u64,
    /// Live inner halves; on smartproxy, live bridged fronts.
    pub port_proxy_connections: u64,
    /// Closed, cause not settled.
    pub settling: u64,
    /// Sums over everything that ever was.
    pub tally: Tally,
    /// Live records by phase, as shown.
    pub phases: BTreeMap<Phase, u64>,
    /// Bytes of the live halves: per leg and direction.
    pub live_bytes: [[u64; 2]; 3],
    /// Requests finished on the live halves.
    pub live_requests: u64,
    /// Hop sockets (networkproxy).
    pub arrivals: ArrivalCounts,
    /// Clients admitted and the addresses they come from.
    pub admitted: u64,
    /// Distinct addresses with an admitted connection.
    pub addresses: u64,
    /// Counts that should be zero.
    pub alarms: Alarms,
    /// Each known peer's mirror.
    pub mirrors: Vec<MirrorCounters>,
    /// Peers that were folded.
    pub departed: Departed,
}

/// What a process believes of one peer.
#[derive(Clone, Debug)]
pub struct MirrorCounters {
    /// Session, positions, lag.
    pub status: PeerStatus,
    /// Is what follows as of now, or as of the last digest?
    pub stale: bool,
    /// The peer's live records. While its session is down: those joined to a live half of ours.
    pub connected_clients: u64,
    /// The peer's live bridged halves, likewise.
    pub port_proxy_connections: u64,
    /// Sums over everything the peer ever told.
    pub tally: Tally,
}

/// An audit whose recount is not done: the running numbers of one instant, and what was recounted so far of the
/// halves of that instant.
#[derive(Debug)]
pub(crate) struct Draft {
    instance: InstanceId,
    role: Role,
    tally: Tally,
    slots: u64,
    joined: u64,
    digest_opened: u64,
    arrivals: ArrivalCounts,
    alarms: Alarms,
    pair_laws: Vec<Law>,
    in_flight: Vec<InFlight>,
    recounted: Recount,
}

#[derive(Debug)]
struct Recount {
    tally: Tally,
    live: u64,
    settling: u64,
    joined: u64,
}

impl Draft {
    /// Counts one of the process's own halves.
    pub(crate) fn recount(&mut self, half: &Half) {
        let counted = &mut self.recounted;
        counted.live += u64::from(half.is_live());
        counted.settling += u64::from(half.is_settling());
        counted.joined += u64::from(half.is_live() && half.joined_key().is_some());
        counted.tally.fold(half);
    }

    /// Every half was counted.
    pub(crate) fn conclude(self) -> Audit {
        let mut laws = self.own_laws();
        let Self { instance, role, alarms, in_flight, pair_laws, .. } = self;
        laws.extend(pair_laws);
        let balanced = laws.iter().all(|law| law.holds);
        Audit { instance, role, laws, in_flight, alarms, balanced }
    }

    fn own_laws(&self) -> Vec<Law> {
        let Self { tally, arrivals, recounted, .. } = self;
        let (recount, live) = (&recounted.tally, recounted.live);
        let refused: u64 = arrivals.refused.values().sum();
        let mut laws = vec![
            law(
                "opened = live + settling + settled",
                ("opened", tally.opened),
                ("recounted", live + recounted.settling + recount.settled_total()),
            ),
            law("running tally = recount", ("closed", tally.closed), ("recounted", recount.closed)),
            law("connected_clients = live records", ("slots", self.slots), ("records", live)),
            law(
                "tls_terminated_connections = halves that completed a handshake",
                ("tally", tally.tls_terminated),
                ("recounted", recount.tls_terminated),
            ),
            law("joined live halves = recount", ("joined", self.joined), ("recounted", recounted.joined)),
            law("digest opened = opened", ("digest", self.digest_opened), ("tally", tally.opened)),
            law(
                "hop bytes sent = received, or the gap is reported",
                ("contradictions", self.alarms.hop_contradictions),
                ("allowed", 0),
            ),
        ];
        laws[1].holds &= recount == tally;
        if self.role == Role::Inner {
            let sum = arrivals.pending + arrivals.verified + refused;
            laws.push(law(
                "hop arrived = pending + verified + refused",
                ("arrived", arrivals.arrived),
                ("sum", sum),
            ));
            laws.push(law(
                "hop verified = inner halves opened",
                ("verified", arrivals.verified),
                ("opened", tally.opened),
            ));
        }
        laws
    }
}

impl Counters {
    /// Adds what the live halves come to.
    pub(crate) fn count(&mut self, sums: &LiveSums) {
        self.phases = sums.phases();
        self.live_bytes = sums.bytes;
        self.live_requests = sums.requests;
    }
}

impl Ledger {
    /// The laws, recounted from the tables, beside the running numbers. Looks at every half: where others wait
    /// meanwhile, see [`crate::SharedLedger::audit`].
    pub fn audit(&self, now: Now) -> Audit {
        let mut draft = self.draft_audit(now);
        self.own.halves().for_each(|half| draft.recount(half));
        draft.conclude()
    }

    /// Everything that an audit says except for the recount: the running numbers of this instant.
    pub(crate) fn draft_audit(&self, now: Now) -> Draft {
        let mut pair_laws = Vec::new();
        let mut in_flight = Vec::new();
        for (instance, peer) in &self.peers {
            let flights = self.flights_of(*instance, peer, now);
            pair_laws.extend(self.pair_laws(*instance, peer, &flights, now));
            in_flight.extend(flights);
        }
        Draft {
            instance: self.instance,
            role: self.role,
            tally: self.own.tally().clone(),
            slots: self.live.len() as u64,
            joined: self.joined.values().sum(),
            digest_opened: self.own.digest().opened,
            arrivals: self.arrivals.counts(),
            alarms: self.alarms,
            pair_laws,
            in_flight,
            recounted: Recount { tally: self.own.base().clone(), live: 0, settling: 0, joined: 0 },
        }
    }

    /// The process's own numbers, and what it believes of each peer. Looks at every live half: where others
    /// wait meanwhile, see [`crate::SharedLedger::counters`].
    pub fn counters(&self, now: Now) -> Counters {
        let mut sums = LiveSums::default();
        self.live.values().for_each(|slot| sums.add(slot));
        let mut counters = self.running_counters(now);
        counters.count(&sums);
        counters
    }

    /// As [`Ledger::counters`], without what has to be summed over the live halves.
    pub(crate) fn running_counters(&self, now: Now) -> Counters {
        Counters {
            instance: self.instance,
            role: self.role,
            connected_clients: self.live.len() as u64,
            port_proxy_connections: self.joined.values().sum(),
            settling: self.own.settling_len() as u64,
            tally: self.own.tally().clone(),
            phases: BTreeMap::new(),
            live_bytes: [[0; 2]; 3],
            live_requests: 0,
            arrivals: self.arrivals.counts(),
            admitted: self.admission.admitted(),
            addresses: self.admission.addresses() as u64,
            alarms: self.alarms,
            mirrors: self.peers.iter().map(|(at, peer)| self.mirror_counters(*at, peer, now)).collect(),
            departed: self.departed.clone(),
        }
    }

    /// One own half.
    pub fn half(&self, key: crate::HalfKey) -> Option<&std::sync::Arc<crate::Half>> {
        self.own.half(key)
    }

    /// Counts that should be zero, or explain why they are not.
    pub const fn alarms(&self) -> Alarms {
        self.alarms
    }

    /// Closed halves kept, settled or not.
    pub fn closed_records(&self) -> usize {
        self.own.closed_len()
    }

    /// Session, positions and lag of every known peer.
    pub fn peer_status(&self, now: Now) -> Vec<PeerStatus> {
        self.peers.iter().map(|(at, peer)| self.status_of(*at, peer, now)).collect()
    }

    fn pair_laws(&self, at: InstanceId, peer: &Peer, flights: &[InFlight], now: Now) -> Vec<Law> {
        let counters = self.mirror_counters(at, peer, now);
        let ours = self.joined_live(at);
        let excused = flights.iter().filter(|flight| flight.excuse.is_some()).count() as u64;
        let names = match self.role {
            Role::Front => ("live bridged fronts", "mirrored live inner halves"),
            Role::Inner => ("live inner halves", "mirrored live bridged fronts"),
        };
        let pair = Law {
            name: "live bridged fronts = live inner halves, as sets, apart from those in flight",
            peer: Some(at),
            left: (names.0, ours),
            right: (names.1, counters.port_proxy_connections),
            excused,
            holds: excused == flights.len() as u64,
        };
        let mut mirror = law(
            "mirror = the peer's own table, at each digest",
            ("mirrored live", peer.mirror.live_len()),
            ("by digest", peer.mirror.digest().opened.wrapping_sub(peer.mirror.digest().closed)),
        );
        mirror.peer = Some(at);
        // A peer that is away claims nothing; the snapshot that brings it back is compared.
        let in_step = peer.session.as_ref().is_some_and(|session| session.in_step);
        mirror.holds |= !in_step;
        mirror.holds &= !(in_step && peer.drifted);
        vec![pair, mirror]
    }

    fn flights_of(&self, at: InstanceId, peer: &Peer, now: Now) -> Vec<InFlight> {
        // Until a digest has matched, the peer's halves are presumed to be as ours: no difference is known.
        if !peer.session.as_ref().is_some_and(|session| session.in_step) {
            return Vec::new();
        }
        let stale = peer.is_stale(&self.rhythm, now.active);
        // A peer that falls silent is judged for the time until its next heartbeat was due, not for its silence:
        // what it had to tell then, it may not have told before.
        let overdue = peer.session.as_ref().map_or(Duration::ZERO, |session| {
            session.since_heartbeat(now.active).saturating_sub(self.rhythm.heartbeat)
        });
        let judged = now.active.saturating_sub(overdue);
        let describe = |(&(connection, attempt), &since): (&(ConnectionId, Attempt), &Duration)| {
            let (live, phase) = self.remaining(connection, attempt, at, peer);
            let from = since.max(peer.fresh_since);
            let excuse = if stale {
                Some(Excuse::PeerStale)
            } else if matches!(phase, Some(Phase::Connecting | Phase::HalfClosed | Phase::Closing)) {
                Some(Excuse::Leaving)
            } else if judged.saturating_sub(from) <= self.rhythm.heartbeat * 2 {
                Some(Excuse::Young)
            } else {
                None
            };
            let age = now.active.saturating_sub(since);
            InFlight { connection, attempt, peer: at, age, live, excuse }
        };
        peer.in_flight.iter().map(describe).collect()
    }

    /// Which half of a connection in flight is live, and its phase.
    fn remaining(
        &self,
        connection: ConnectionId,
        attempt: Attempt,
        at: InstanceId,
        peer: &Peer,
    ) -> (Role, Option<Phase>) {
        let own = match self.role {
            Role::Front => crate::HalfKey::front(connection, self.instance),
            Role::Inner => crate::HalfKey::inner(connection, self.instance, attempt),
        };
        let ours = self.own.half(own).filter(|half| {
            half.is_live() && (self.role == Role::Inner || half.bridged() == Some((at, attempt)))
        });
        if let Some(half) = ours {
            return (self.role, Some(half.phase));
        }
        let theirs = match self.role {
            Role::Front => crate::HalfKey::inner(connection, at, attempt),
            Role::Inner => crate::HalfKey::front(connection, at),
        };
        (self.role.peer(), peer.half(theirs).map(|half| half.phase))
    }

    fn mirror_counters(&self, at: InstanceId, peer: &Peer, now: Now) -> MirrorCounters {
        let stale = peer.is_stale(&self.rhythm, now.active);
        let presumed = peer.session.as_ref().is_none_or(|session| !session.in_step);
        let bridged = if presumed { self.joined_live(at) } else { peer.mirror.joined_live() };
        MirrorCounters {
            status: self.status_of(at, peer, now),
            stale,
            connected_clients: if presumed { bridged } else { peer.mirror.live_len() },
            port_proxy_connections: bridged,
            tally: peer.mirror.tally().clone(),
        }
    }

    fn status_of(&self, at: InstanceId, peer: &Peer, now: Now) -> PeerStatus {
        let session = peer.session.as_ref();
        let acked = session.map_or(0, Session::acked);
        PeerStatus {
            instance: at,
            connected: session.is_some(),
            session: peer.last_session,
            heartbeats_fresh: session.is_some_and(|s| s.heartbeats_fresh(&self.rhythm, now.active)),
            since_heartbeat: session.map(|s| s.since_heartbeat(now.active)),
            down_for: session.is_none().then(|| now.active.saturating_sub(peer.down_since)),
            last_end: peer.last_end,
            written: self.own.position(),
            acked,
            lag: self.own.pending(acked, 10_000) as u64,
            applied: peer.mirror.applied(),
            live: peer.mirror.live_len(),
            settling: peer.mirror.settling_len(),
            closed_unseen: peer.closed_unseen,
            batches: peer.batches_applied,
            snapshots: peer.snapshots_applied,
        }
    }
}

fn law(name: &'static str, left: (&'static str, u64), right: (&'static str, u64)) -> Law {
    Law { name, peer: None, left, right, excused: 0, holds: left.1 == right.1 }
}
