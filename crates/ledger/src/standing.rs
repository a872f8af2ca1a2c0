//! How one peer stands at this moment, cheaply enough to be asked for every new connection.
//!
//! *Owns* [`Standing`] and the adoption of a session's rhythm. *Never* scans a table. *Invariant*: what it
//! says is what the session and the tables say; nothing is remembered for it.

use std::time::Duration;

use crate::id::InstanceId;
use crate::ledger::Ledger;
use crate::session::Rhythm;
use crate::time::Now;

/// How one peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The number of the session that is up.
    pub session: Option<u64>,
    /// Heartbeats came within two intervals.
    pub heartbeats_fresh: bool,
    /// Age of the latest heartbeat; `None` without a session.
    pub since_heartbeat: Option<Duration>,
    /// A digest has matched since the session began: what the mirror says is the present. Otherwise a mirrored
    /// half counts as live exactly if the own half joined to it is.
    pub in_step: bool,
    /// Live own halves that are joined to it.
    pub joined: u64,
}

impl Ledger {
    /// How the peer stands; `None` where it is not known (any more).
    pub fn standing(&self, peer: InstanceId, now: Now) -> Option<Standing> {
        let session = self.peers.get(&peer)?.session.as_ref();
        Some(Standing {
            session: session.map(|session| session.number),
            heartbeats_fresh: session.is_some_and(|s| s.heartbeats_fresh(&self.rhythm, now.active)),
            since_heartbeat: session.map(|session| session.since_heartbeat(now.active)),
            in_step: session.is_some_and(|session| session.in_step),
            joined: self.joined_live(peer),
        })
    }

    /// networkproxy takes over the times that smartproxy's Hello announces.
    pub const fn adopt_rhythm(&mut self, rhythm: Rhythm) {
        self.rhythm = rhythm;
    }
}
