//! What is known of one other process instance.
//!
//! *Owns* its mirror, its session (if one is up), since when it is down or stale, and the connections that
//! are live on one side only. *Never* outlives its use: a peer that is down for long and joined to nothing
//! live folds into one row. *Invariant*: `in_flight` is the symmetric difference of the live bridged fronts
//! and the live inner halves of this pair of instances, each with the time it entered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::half::Half;
use crate::id::{Attempt, ConnectionId, HalfKey, InstanceId, Role};
use crate::mirror::Mirror;
use crate::session::{Rhythm, Session, SessionEnd};

/// One other process instance.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) mirror: Mirror,
    pub(crate) session: Option<Session>,
    pub(crate) last_session: u64,
    pub(crate) down_since: Duration,
    /// What waits for it was looked at since the session has been down for two heartbeats.
    pub(crate) down_noticed: bool,
    /// While that is being done: those up to here were looked at.
    pub(crate) noticed: Option<HalfKey>,
    pub(crate) last_end: Option<SessionEnd>,
    /// When the latest stale spell ended.
    pub(crate) fresh_since: Duration,
    pub(crate) in_flight: BTreeMap<(ConnectionId, Attempt), Duration>,
    /// The most live halves that are believed of it.
    pub(crate) max_live: u64,
    pub(crate) closed_unseen: u64,
    pub(crate) drifted: bool,
    pub(crate) snapshots_applied: u64,
    pub(crate) batches_applied: u64,
    pub(crate) last_digest_at: Option<u64>,
}

/// A peer's state, for people and for readiness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub instance: InstanceId,
    /// Is a session up?
    pub connected: bool,
    /// The latest session's number.
    pub session: u64,
    /// Heartbeats came within two intervals.
    pub heartbeats_fresh: bool,
    /// Age of the latest heartbeat.
    pub since_heartbeat: Option<Duration>,
    /// How long the session has been down.
    pub down_for: Option<Duration>,
    /// Why the previous session ended.
    pub last_end: Option<SessionEnd>,
    /// Our journal's position.
    pub written: u64,
    /// What the peer has applied of it.
    pub acked: u64,
    /// Changed halves that the peer has not applied, at most 10,000.
    pub lag: u64,
    /// What we have applied of the peer's journal.
    pub applied: u64,
    /// Live halves of the peer as we believe.
    pub live: u64,
    /// Closed, not settled halves of the peer.
    pub settling: u64,
    /// Halves of the peer whose end we never saw.
    pub closed_unseen: u64,
    /// Batches applied.
    pub batches: u64,
    /// Snapshots applied.
    pub snapshots: u64,
}

impl Peer {
    pub(crate) fn new(instance: InstanceId, role: Role, viewer: InstanceId, now: Duration) -> Self {
        Self {
            mirror: Mirror::new(instance, role, viewer),
            session: None,
            last_session: 0,
            down_since: now,
            down_noticed: false,
            noticed: None,
            last_end: None,
            fresh_since: now,
            in_flight: BTreeMap::new(),
            max_live: u64::MAX,
            closed_unseen: 0,
            drifted: false,
            snapshots_applied: 0,
            batches_applied: 0,
            last_digest_at: None,
        }
    }

    /// Can what the mirror says be taken for the present?
    pub(crate) fn is_stale(&self, rhythm: &Rhythm, now: Duration) -> bool {
        self.session.as_ref().is_none_or(|session| session.is_stale(rhythm, now))
    }

    /// Has the session been down for two heartbeats?
    pub(crate) fn is_down(&self, rhythm: &Rhythm, now: Duration) -> bool {
        self.session.is_none() && now.saturating_sub(self.down_since) >= rhythm.heartbeat * 2
    }

    /// Enters or leaves the in-flight set as the two sides say.
    pub(crate) fn fly(&mut self, id: (ConnectionId, Attempt), front: bool, inner: bool, now: Duration) {
        if front == inner {
            self.in_flight.remove(&id);
        } else {
            self.in_flight.entry(id).or_insert(now);
        }
    }

    pub(crate) fn half(&self, key: HalfKey) -> Option<&Arc<Half>> {
        self.mirror.half(key)
    }
}
