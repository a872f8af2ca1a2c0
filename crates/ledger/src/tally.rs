//! Counters as folds over halves.
//!
//! *Owns* [`Tally`], what a set of halves adds up to. *Never* offers a way to add one to a number: the only
//! inputs are a half's states before and after a step. *Invariant*: folding every half of a
//! table, plus the base of those it evicted, gives the table's running tally.

use std::collections::BTreeMap;

use crate::half::Half;
use crate::reason::{Initiator, Reason};
use crate::termination::SettledFrom;

/// What a set of halves adds up to. Sums only; what is live is a table's length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Halves opened.
    pub opened: u64,
    /// Halves closed, settled or not.
    pub closed: u64,
    /// Settled halves by reason and initiator.
    pub settled: BTreeMap<(Reason, Initiator), u64>,
    /// Settled halves by what they were settled from: both, alone, only.
    pub settled_from: [u64; 3],
    /// Halves that were ever joined to the other process.
    pub bridged: u64,
    /// Halves that ever completed a TLS handshake.
    pub tls_terminated: u64,
    /// Evidence that came after settlement.
    pub late_evidence: u64,
    /// HTTP requests finished, over the closed halves.
    pub requests: u64,
    /// Bytes of the closed halves: per leg (client, hop, target) and direction (in, out).
    pub bytes: [[u64; 2]; 3],
}

/// What one half contributes to a [`Tally`] right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    counted: bool,
    closed: bool,
    settled: Option<(Reason, Initiator, SettledFrom)>,
    bridged: bool,
    tls: bool,
    late: u64,
    requests: u64,
    bytes: [[u64; 2]; 3],
}

impl Tally {
    /// Closed and settled, over all reasons.
    pub fn settled_total(&self) -> u64 {
        self.settled.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Settled with `reason`, by whoever began it.
    pub fn settled_by(&self, reason: Reason) -> u64 {
        let counts = self.settled.iter().filter(|((r, _), _)| *r == reason);
        counts.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// A half's contribution moved from `before` to `after`. Contributions only grow: see
    /// [`Share::grows_to`]. Sums of what a peer claims stop at the largest number instead of starting over.
    pub(crate) fn moved(&mut self, before: &Share, after: &Share) {
        grow(&mut self.opened, before.counted, after.counted);
        grow(&mut self.closed, before.closed, after.closed);
        grow(&mut self.bridged, before.bridged, after.bridged);
        grow(&mut self.tls_terminated, before.tls, after.tls);
        grow(&mut self.late_evidence, before.late, after.late);
        grow(&mut self.requests, before.requests, after.requests);
        let steps = before.bytes.iter().flatten().zip(after.bytes.iter().flatten());
        for (sum, (before, after)) in flat(&mut self.bytes).zip(steps) {
            grow(sum, *before, *after);
        }
        if let (None, Some((reason, initiator, from))) = (before.settled, after.settled) {
            grow(self.settled.entry((reason, initiator)).or_default(), false, true);
            grow(&mut self.settled_from[from as usize], false, true);
        }
    }

    /// Adds everything `half` contributes.
    pub fn fold(&mut self, half: &Half) {
        self.moved(&Share::default(), &Share::of(half));
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        grow(&mut self.opened, 0, other.opened);
        grow(&mut self.closed, 0, other.closed);
        for (key, count) in &other.settled {
            grow(self.settled.entry(*key).or_default(), 0, *count);
        }
        for (mine, theirs) in self.settled_from.iter_mut().zip(other.settled_from) {
            grow(mine, 0, theirs);
        }
        grow(&mut self.bridged, 0, other.bridged);
        grow(&mut self.tls_terminated, 0, other.tls_terminated);
        grow(&mut self.late_evidence, 0, other.late_evidence);
        grow(&mut self.requests, 0, other.requests);
        for (mine, theirs) in flat(&mut self.bytes).zip(other.bytes.iter().flatten()) {
            grow(mine, 0, *theirs);
        }
    }
}

impl Share {
    /// Does nothing that was counted shrink or change on the way to `after`?
    pub(crate) fn grows_to(&self, after: &Self) -> bool {
        let bytes = self.bytes.iter().flatten().zip(after.bytes.iter().flatten());
        self.counted <= after.counted
            && self.closed <= after.closed
            && self.bridged <= after.bridged
            && self.tls <= after.tls
            && self.late <= after.late
            && self.requests <= after.requests
            && (self.settled.is_none() || self.settled == after.settled)
            && bytes.into_iter().all(|(before, after)| before <= after)
    }

    pub(crate) fn of(half: &Half) -> Self {
        let closed = half.end.is_some();
        let bytes = std::array::from_fn(|leg| std::array::from_fn(|d| half.traffic.meters[leg][d].bytes));
        let settlement = half.settlement.as_ref().map(|s| &s.value);
        Self {
            counted: true,
            closed,
            settled: settlement.map(|s| (s.cause.reason, s.cause.initiator, s.from)),
            bridged: match half.role {
                crate::Role::Front => half.hop.as_ref().is_some_and(|hop| hop.value.attempts > 0),
                crate::Role::Inner => true,
            },
            tls: half.tls.is_some(),
            late: settlement.map_or(0, |s| s.late.len() as u64),
            requests: if closed { half.traffic.requests_finished } else { 0 },
            bytes: if closed { bytes } else { [[0; 2]; 3] },
        }
    }
}

/// `sum` follows a contribution from `before` up to `after`.
fn grow<T: Into<u64>>(sum: &mut u64, before: T, after: T) {
    *sum = sum.saturating_add(after.into().saturating_sub(before.into()));
}

fn flat(bytes: &mut [[u64; 2]; 3]) -> impl Iterator<Item = &mut u64> {
    bytes.iter_mut().flatten()
}
