//! Where identifiers are made.
//!
//! *Owns* the randomness and the time inside them: UUID v7 (RFC 9562 §5.7).
//! *Never* reuses one. *Invariant*: two calls never give the same id, and ids of one process ascend with
//! the time of day.

use ledger::{ConnectionId, InstanceId};
use uuid::Uuid;

/// An id for a connection that was just accepted.
pub fn connection_id() -> ConnectionId {
    ConnectionId(Uuid::now_v7().as_u128())
}

/// An id for this life of a process.
pub fn instance_id() -> InstanceId {
    InstanceId(Uuid::now_v7().as_u128())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_version_7_and_ascend() {
        let ids: Vec<u128> = (0..10_000).map(|_| connection_id().0).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        assert!(ids.is_sorted());
        assert_eq!(instance_id().0 >> 76 & 0xf, 7);
    }

    /// R-36's neighbour: people look connections up by the end of an id, so the end must vary.
    #[test]
    fn the_last_six_digits_vary_within_one_millisecond() {
        let ends: BTreeSet<u128> = (0..1_000).map(|_| connection_id().0 & 0xff_ffff).collect();
        assert!(ends.len() > 950, "{}", ends.len());
    }
}
