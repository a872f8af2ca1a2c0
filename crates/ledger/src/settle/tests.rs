//! When a half settles, and what is left behind once it has.

use super::*;
use crate::ledger::LedgerLimits;
use crate::reason::Reason;
use crate::rig::{H, INNER, Pair, ending, front_key, inner_key};

fn retaining(closed_records: usize) -> LedgerLimits {
    LedgerLimits { closed_records, ..LedgerLimits::default() }
}

/// that the inner half of a given-up attempt was missing from a snapshot says nothing about the next.
#[test]
fn a_lost_attempt_does_not_settle_the_next_one() {
    let mut pair = Pair::with(retaining(100), retaining(1));
    pair.front_opens(1, 1);
    pair.inner_opens(1, 1);
    pair.inner_opens(9, 9);
    pair.sync();
    pair.cut();
    pair.close_inner(1, 1, Reason::TlsProtocolError);
    pair.close_inner(9, 9, Reason::TlsProtocolError);
    pair.connect();
    assert_eq!(pair.front.peers[&INNER].closed_unseen, 1);
    pair.inner.limits = retaining(100);
    pair.give_up(1);
    pair.bridge(1, 2);
    pair.inner_opens(1, 2);
    pair.sync();
    pair.close_front(1, Reason::ClientReset);
    assert!(pair.front_half(1).is_settling(), "its inner half lives: {:?}", pair.front_half(1).settlement);
    pair.sync();
    pair.close_inner(1, 2, Reason::OperatorClosed);
    pair.sync();
    let settlement = &pair.front_half(1).settlement.as_ref().unwrap().value;
    assert_eq!((settlement.from, settlement.cause.reason), (SettledFrom::Both, Reason::OperatorClosed));
}

/// P10: what was kept of a given-up attempt's inner half goes with the attempt.
#[test]
fn a_given_up_attempt_leaves_no_keepsake() {
    let mut pair = Pair::with(retaining(100), retaining(1));
    for id in 1..=50 {
        pair.front_opens(id, id);
        pair.inner_opens(id, id);
        pair.sync();
        pair.close_inner(id, id, Reason::TlsProtocolError);
        pair.sync();
    }
    assert!(!pair.front.keepsakes.is_empty(), "the inner halves were folded while their fronts live");
    for id in 1..=50 {
        pair.give_up(id);
    }
    assert_eq!(pair.front.keepsakes.len(), 0);
    for id in 1..=50 {
        pair.close_front(id, Reason::HoldExpired);
    }
    assert_eq!(pair.front.residue(), 0);
}

/// "Settles at the latest ...": the three waits of the ledger page's table, to the tenth of a heartbeat.
#[test]
fn a_half_waits_exactly_as_long_as_the_table_says() {
    // No inner half was seen 2 h + hop_header after the peer acknowledged the front's end.
    let mut pair = Pair::new();
    pair.front_opens(1, 1);
    pair.close_front(1, Reason::ClientReset);
    pair.sync();
    pair.talk(H * 38 / 10);
    assert!(pair.front_half(1).is_settling());
    pair.talk(H * 4 / 10);
    assert_eq!(pair.front_half(1).settlement.as_ref().map(|s| s.value.from), Some(SettledFrom::Alone));

    // The session to that instance has been down for 2 h; also for what ends later.
    let mut pair = Pair::new();
    for id in [1, 2] {
        pair.front_opens(id, id);
        pair.inner_opens(id, id);
    }
    pair.sync();
    pair.close_front(1, Reason::ClientReset);
    pair.cut();
    pair.wait(H * 19 / 10);
    assert!(pair.front_half(1).is_settling());
    pair.wait(H * 2 / 10);
    assert!(!pair.front_half(1).is_settling());
    pair.close_front(2, Reason::ClientReset);
    assert!(!pair.front_half(2).is_settling(), "the session is down already");

    // With its inner half live in the mirror, it waits for that half's end.
    let mut pair = Pair::new();
    pair.front_opens(1, 1);
    pair.inner_opens(1, 1);
    pair.sync();
    pair.close_front(1, Reason::ClientReset);
    pair.talk(H * 20);
    assert!(pair.front_half(1).is_settling());
    pair.close_inner(1, 1, Reason::OperatorClosed);
    pair.sync();
    assert_eq!(pair.front_half(1).settlement.as_ref().map(|s| s.value.from), Some(SettledFrom::Both));
    assert_eq!(pair.inner_half(1, 1).settlement.as_ref().map(|s| s.value.from), Some(SettledFrom::Both));
    assert_eq!((pair.front.residue(), pair.inner.residue()), (0, 0));
}

/// P10: a half that opened for a smartproxy that was never heard of, or was forgotten, settles all the same.
#[test]
fn a_half_without_a_peer_settles_after_two_heartbeats() {
    let mut pair = Pair::new();
    pair.cut();
    pair.wait(H * 70);
    assert!(pair.inner.peers.is_empty(), "forgotten");
    pair.inner_opens(1, 1);
    pair.close_inner(1, 1, Reason::TargetReset);
    pair.wait(H * 19 / 10);
    assert!(pair.inner_half(1, 1).is_settling());
    pair.wait(H * 2 / 10);
    assert!(!pair.inner_half(1, 1).is_settling());
}

/// Performance page: an acknowledgement and a tick cost what they settle, not what is waiting.
#[test]
fn thousands_that_wait_cost_nothing_until_something_comes_of_it() {
    let mut pair = Pair::with(retaining(100_000), retaining(100_000));
    for id in 1..=20_000 {
        pair.front_opens(id, id);
        pair.inner_opens(id, id);
    }
    pair.talk(H * 3);
    for id in 1..=20_000 {
        pair.close_front(id, Reason::ClientReset);
    }
    let before = pair.front.looked_at();
    for _ in 0..200 {
        pair.front.tick(pair.now());
    }
    pair.talk(H);
    // Each end is acknowledged once.
    assert!(pair.front.looked_at() - before <= 25_000, "{} looks", pair.front.looked_at() - before);
    assert!(pair.front_half(1).is_settling());
}

/// P6: an operator's order beats what came of the loss, also where the end came from a keepsake.
#[test]
fn a_keepsake_settles_from_both() {
    let mut pair = Pair::with(retaining(100), retaining(1));
    for id in [1, 2] {
        pair.front_opens(id, id);
        pair.inner_opens(id, id);
    }
    pair.sync();
    pair.close_inner(1, 1, Reason::OperatorClosed);
    pair.sync();
    pair.close_inner(2, 2, Reason::OperatorClosed);
    pair.sync();
    assert!(pair.front.peers[&INNER].half(inner_key(1, 1)).is_none(), "folded by its owner");
    let now = pair.now();
    pair.front.close(front_key(1), ending(Role::Front, Reason::HopReset), now).unwrap();
    let settlement = &pair.front_half(1).settlement.as_ref().unwrap().value;
    assert_eq!((settlement.from, settlement.cause.reason), (SettledFrom::Both, Reason::OperatorClosed));
    assert!(!pair.front.keepsakes.contains_key(&inner_key(1, 1)));
}
