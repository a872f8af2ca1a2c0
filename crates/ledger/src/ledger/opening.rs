//! How a half comes into the books.
//!
//! *Owns* the first state of a half. *Never* admits: a record exists before anything is decided about its client
//! but for one who was turned away unheard: what that one was, opened, ended and settled, comes in the same
//! step. *Invariant*: a key opens once.

use std::sync::Arc;
use std::time::Duration;

use super::{Ledger, LiveSlot, RecordError};
use crate::arrivals::Arrival;
use crate::causes::Grounds;
use crate::evidence::{End, HopCount, Observation};
use crate::half::{Accept, Half, LogEntry, Opening, Stamped};
use crate::id::{Attempt, ConnectionId, HalfKey, InstanceId, Role};
use crate::phase::Phase;
use crate::reason::Reason;
use crate::time::{Nanos, Now};
use crate::traffic::Traffic;

impl Ledger {
    /// Opens a front half: the first thing that happens to an accepted socket.
    pub fn open_front(
        &mut self,
        connection: ConnectionId,
        accept: Arc<Accept>,
        now: Now,
    ) -> Result<Arc<Traffic>, RecordError> {
        self.open(HalfKey::front(connection, self.instance), self.instance, accept.into(), now)
    }

    /// Opens and ends a front half in one step: of a client for whom nothing was done, because of what was `seen`.
    /// Its socket is gone already.
    pub fn turn_away(
        &mut self,
        connection: ConnectionId,
        accept: Arc<Accept>,
        mut seen: Observation,
        now: Now,
    ) -> Result<(), RecordError> {
        let key = HalfKey::front(connection, self.instance);
        let mut half = self.newborn(key, self.instance, accept.into(), 2);
        seen.clip();
        let end = End {
            phase: half.phase,
            observations: vec![seen],
            suspended: Duration::ZERO,
            hop: HopCount::default(),
            undelivered: 0,
            at: now.wall,
            age: Duration::ZERO,
        };
        let end = Arc::new(end);
        let settlement = self.causes.settle(Grounds::Only(Arc::clone(&end)));
        half.phase = Phase::Closed;
        half.log(LogEntry { seq: 0, phase: Phase::Closed, after: Nanos::default() });
        half.end = Some(Stamped { seq: 0, value: end });
        half.settlement = Some(Stamped { seq: 0, value: settlement });
        if !self.own.open(half) {
            return Err(RecordError::Taken);
        }
        self.hand_out(key);
        self.retain(now);
        self.debug_check();
        Ok(())
    }

    /// A hop header verified: the arrival becomes an inner half under the same connection id. What its header and
    /// its socket say is told with the opening: nobody sees the half without.
    #[expect(clippy::needless_pass_by_value, reason = "an arrival is consumed: it becomes one half")]
    pub fn open_inner(
        &mut self,
        arrival: Arrival,
        connection: ConnectionId,
        attempt: Attempt,
        front_instance: InstanceId,
        opening: impl Into<Opening>,
        now: Now,
    ) -> Result<Arc<Traffic>, RecordError> {
        let key = HalfKey::inner(connection, self.instance, attempt);
        let opened = self.open(key, front_instance, opening.into(), now);
        match opened {
            Ok(_) => self.arrivals.verified(&arrival),
            // Of this attempt there is a half already.
            Err(_) => self.arrivals.refused(&arrival, Reason::HopReplayed),
        }
        opened
    }

    fn open(
        &mut self,
        key: HalfKey,
        front_instance: InstanceId,
        opening: Opening,
        now: Now,
    ) -> Result<Arc<Traffic>, RecordError> {
        let half = self.newborn(key, front_instance, opening, usual_life(self.role));
        if !self.own.open(half) {
            return Err(RecordError::Taken);
        }
        let traffic = Arc::new(Traffic::default());
        let slot = LiveSlot {
            traffic: Arc::clone(&traffic),
            opened: now,
            opened_seq: self.own.position(),
            phase: Phase::Accepted,
            closing_from: None,
            admitted_as: None,
        };
        self.live.insert(key, slot);
        self.rejoin(None, (self.role == Role::Inner).then_some(front_instance));
        self.refresh_flights_of(key, now);
        self.debug_check();
        Ok(traffic)
    }

    /// A half as it is when it opens, with room for a log of `phases`.
    fn newborn(&self, key: HalfKey, front_instance: InstanceId, opening: Opening, phases: usize) -> Half {
        let mut log = Vec::with_capacity(phases);
        log.push(LogEntry { seq: 0, phase: Phase::Accepted, after: Nanos::default() });
        Half::new(key, self.role, front_instance, opening, log)
    }
}

/// How many phases a half usually passes through.
const fn usual_life(role: Role) -> usize {
    match role {
        Role::Front => 8,
        Role::Inner => 6,
    }
}
