//! Hop sockets that have not proven who they are.
//!
//! *Owns* the place of each unverified hop socket and the counts of what became of them. *Never* gives one
//! an id or a record: a refusal must not touch the connection that a forged header claims (P7).
//! *Invariant*: arrived = pending + verified + Σ refused by reason.

use std::collections::{BTreeMap, BTreeSet};

use crate::reason::Reason;

/// The bounded table of unverified hop sockets.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    next: u64,
    pending: BTreeSet<u64>,
    verified: u64,
    refused: BTreeMap<Reason, u64>,
}

/// The place of one unverified hop socket. Consumed by verification or refusal.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an arrival is pending until it is verified or refused"]
pub struct Arrival(u64);

/// What became of hop sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArrivalCounts {
    /// Hop sockets accepted.
    pub arrived: u64,
    /// Header not complete yet.
    pub pending: u64,
    /// Opened an inner half.
    pub verified: u64,
    /// Refused, by reason.
    pub refused: BTreeMap<Reason, u64>,
}

impl Arrivals {
    pub(crate) fn arrive(&mut self) -> Arrival {
        self.next += 1;
        self.pending.insert(self.next);
        Arrival(self.next)
    }

    pub(crate) fn verified(&mut self, arrival: &Arrival) {
        if self.pending.remove(&arrival.0) {
            self.verified += 1;
        }
    }

    pub(crate) fn refused(&mut self, arrival: &Arrival, reason: Reason) {
        if self.pending.remove(&arrival.0) {
            *self.refused.entry(reason).or_default() += 1;
        }
    }

    pub(crate) fn counts(&self) -> ArrivalCounts {
        ArrivalCounts {
            arrived: self.next,
            pending: self.pending.len() as u64,
            verified: self.verified,
            refused: self.refused.clone(),
        }
    }
}
