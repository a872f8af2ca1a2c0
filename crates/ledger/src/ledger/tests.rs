//! Calls on records: all or nothing, and nothing left behind.

use super::*;
use crate::evidence::Rule;
use crate::half::{Opening, Routing};
use crate::id::ConnectionId;
use crate::rig::{FRONT, INNER, Pair, accept, front_key, inner_key, now};
use crate::termination::SettledFrom;

/// "An illegal step is an error value": and nothing of the step it was part of happens.
#[test]
fn a_step_with_an_illegal_part_changes_nothing() {
    let mut pair = Pair::new();
    pair.front_opens(1, 1);
    let position = pair.front.own.position();
    let changes = [Change::GiveUp, Change::Phase(Phase::Held, None), Change::Phase(Phase::Relaying, None)];
    let refused = pair.front.record(front_key(1), changes, pair.now());
    assert!(matches!(refused, Err(RecordError::Step(step)) if step.to == Phase::Relaying), "{refused:?}");
    assert_eq!(pair.front_half(1).bridged(), Some((INNER, Attempt(1))));
    assert_eq!(pair.front_half(1).phase, Phase::Connecting);
    assert_eq!(pair.front.own.position(), position);
}

/// A record ends by `close`, with an account of its end, and in no other way.
#[test]
fn a_step_cannot_end_a_record() {
    let mut pair = Pair::new();
    pair.front_opens(1, 1);
    let refused = pair.front.record(front_key(1), [Change::Phase(Phase::Closed, None)], pair.now());
    assert!(matches!(refused, Err(RecordError::Step(_))), "{refused:?}");
    assert_eq!(pair.front_half(1).phase, Phase::Connecting);
}

/// a caller's panic while it says what changed leaves the books as they were.
#[test]
fn a_panic_in_the_middle_of_a_step_loses_no_record() {
    let mut ledger = Ledger::new(FRONT, Role::Front, LedgerLimits::default(), Rhythm::default());
    let at = now(Duration::ZERO);
    ledger.open_front(ConnectionId(1), accept(), at).unwrap();
    let shared = crate::SharedLedger::new(ledger);
    let other = shared.clone();
    let panicked = std::thread::spawn(move || {
        let changes = std::iter::once_with(|| panic!("on purpose"));
        other.record(front_key(1), changes, at)
    })
    .join();
    assert!(panicked.is_err());
    assert!(shared.record(front_key(1), [Change::Phase(Phase::InitialData, None)], at).is_ok());
    assert!(shared.audit(at).balanced);
}

/// Laws: arrived = pending + verified + Σ refused; a second half of the same attempt is a replay.
#[test]
fn an_attempt_that_is_taken_is_refused_and_counted() {
    let mut pair = Pair::new();
    pair.inner_opens(1, 1);
    let arrival = pair.inner.arrive();
    let key = inner_key(1, 1);
    let now = pair.now();
    let taken = pair.inner.open_inner(arrival, key.connection, key.attempt, FRONT, accept(), now);
    assert_eq!(taken.err(), Some(RecordError::Taken));
    let counts = pair.inner.counters(now).arrivals;
    assert_eq!((counts.pending, counts.verified), (0, 1));
    assert_eq!(counts.refused.get(&Reason::HopReplayed), Some(&1));
}

/// P1: what an inner half's header and socket say is told with its opening. A pull between the two once showed the
/// peer an inner half without the hop's addresses.
#[test]
fn an_inner_half_is_never_told_without_what_its_header_said() {
    let mut pair = Pair::new();
    let (key, now) = (inner_key(1, 1), pair.now());
    let hop = Hop { remote: Some(([127, 0, 0, 1], 7).into()), ..Hop::default() };
    let routing = Routing { entry: Some("app".into()), ..Routing::default() };
    let opening = Opening { accept: accept(), routing: Some(Arc::new(routing)), hop: Some(Arc::new(hop)) };
    let arrival = pair.inner.arrive();
    pair.inner.open_inner(arrival, key.connection, key.attempt, FRONT, opening, now).unwrap();
    let opened = pair.inner.half(key).unwrap();
    let first = Half::from_update(opened.update_since(0, opened.opened_seq)).unwrap();
    assert_eq!(first.hop, opened.hop);
    assert_eq!(first.routing, opened.routing);
    // Told once: a later pull does not carry it again.
    let later = opened.update_since(opened.opened_seq, opened.opened_seq);
    assert!(later.hop.is_none() && later.routing.is_none());
}

/// "Reads only the two ends as they are encoded on the wire": what is too long for it is clipped before
/// either side reads it, so both write the same sentence.
#[test]
fn an_end_holds_no_text_that_the_wire_would_clip() {
    let mut pair = Pair::new();
    pair.front_opens(1, 1);
    let long = "é".repeat(500);
    let rule = Rule { name: long.as_str().into(), limit: long.as_str().into(), source: long.as_str().into() };
    let seen = Observation::new(Role::Front, Reason::OperatorClosed, None, Duration::ZERO)
        .by_rule(rule, long.as_str())
        .with_detail(long.as_str());
    let now = pair.now();
    let ending = Ending { observations: vec![seen], ..Ending::default() };
    pair.front.close(front_key(1), ending, now).unwrap();
    let end = &pair.front_half(1).end.as_ref().unwrap().value;
    let seen = &end.observations[0];
    let rule = seen.rule.as_ref().unwrap();
    assert_eq!(seen.detail.as_ref().unwrap().len(), Observation::LONGEST_DETAIL);
    assert_eq!(seen.observed.as_ref().unwrap().len(), Observation::LONGEST_OBSERVED);
    assert_eq!(rule.name.len(), Rule::LONGEST_NAME);
    assert_eq!(rule.limit.len(), Rule::LONGEST_NAME);
    assert_eq!(rule.source.len(), Rule::LONGEST_SOURCE);
}

/// the gauge is the number of live records. R-55: no batch bounds the rate of closes: fifty thousand that end at once are gone when the last close returns.
#[test]
fn fifty_thousand_closes_leave_at_once() {
    let mut ledger = Ledger::new(FRONT, Role::Front, LedgerLimits::default(), Rhythm::default());
    let at = now(Duration::ZERO);
    for id in 1..=50_000 {
        ledger.open_front(ConnectionId(id), accept(), at).unwrap();
    }
    assert_eq!(ledger.counters(at).connected_clients, 50_000);
    let start = std::time::Instant::now();
    for id in 1..=50_000 {
        let seen = Observation::new(Role::Front, Reason::ClientClosed, Some(LegName::Client), Duration::ZERO);
        let ending = Ending { observations: vec![seen], ..Ending::default() };
        ledger.close(front_key(id), ending, at).unwrap();
    }
    let counters = ledger.counters(at);
    assert_eq!((counters.connected_clients, counters.settling), (0, 0));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// a client that is turned away has a record, in both processes, which has ended and settled from the first
/// moment; it was never among the live ones, and its id is taken as any other's.
#[test]
fn who_is_turned_away_is_in_the_books_of_both() {
    let mut pair = Pair::new();
    for id in 1..=3 {
        let seen = Observation::new(Role::Front, Reason::Overloaded, None, Duration::ZERO);
        let seen = seen.with_detail("x".repeat(100_000));
        let now = pair.now();
        pair.front.turn_away(front_key(id).connection, accept(), seen.clone(), now).unwrap();
        let taken = pair.front.turn_away(front_key(id).connection, accept(), seen, now);
        assert_eq!(taken, Err(RecordError::Taken));
        assert_eq!(pair.front.own.position(), id, "one step of the journal for each");
        // Told one by one, and together.
        if id != 2 {
            pair.sync();
        }
    }
    let half = pair.front_half(1).clone();
    let settlement = &half.settlement.as_ref().unwrap().value;
    assert_eq!((settlement.cause.reason, settlement.from), (Reason::Overloaded, SettledFrom::Only));
    assert_eq!(half.end.as_ref().unwrap().value.phase, Phase::Accepted);
    let detail = half.end.as_ref().unwrap().value.observations[0].detail.clone().unwrap();
    assert_eq!(detail.len(), Observation::LONGEST_DETAIL);
    let logged: Vec<Phase> = half.log.iter().map(|entry| entry.phase).collect();
    assert_eq!(logged, [Phase::Accepted, Phase::Closed]);
    let mirrored = pair.inner.peers[&FRONT].half(front_key(1)).unwrap();
    assert_eq!((&mirrored.end, &mirrored.settlement), (&half.end, &half.settlement));
    assert_eq!(pair.front.take_settled(10).len(), 3);
    for (ledger, peers) in [(&pair.front, 0), (&pair.inner, 3)] {
        let audit = ledger.audit(pair.now());
        assert!(audit.balanced, "{audit:#?}");
        assert_eq!(ledger.peers.values().map(|peer| peer.mirror.tally().settled_total()).sum::<u64>(), peers);
    }
    let counters = pair.front.counters(pair.now());
    assert_eq!((counters.tally.opened, counters.tally.closed, counters.connected_clients), (3, 3, 0));
}

/// Retention bounds them as any others.
#[test]
fn who_is_turned_away_is_kept_as_long_as_any_other() {
    let limits = LedgerLimits { closed_records: 10, ..LedgerLimits::default() };
    let mut pair = Pair::with(limits, LedgerLimits::default());
    for id in 1..=25 {
        let seen = Observation::new(Role::Front, Reason::Overloaded, None, Duration::ZERO);
        let now = pair.now();
        pair.front.turn_away(front_key(id).connection, accept(), seen, now).unwrap();
    }
    assert_eq!(pair.front.own.closed_len(), 10);
    pair.sync();
    assert_eq!(pair.inner.peers[&FRONT].mirror.tally().settled_total(), 25);
    assert!(pair.front.audit(pair.now()).balanced && pair.inner.audit(pair.now()).balanced);
}

/// a wall clock that is set back an hour in the middle of a connection does not show in its age.
#[test]
fn an_age_is_not_the_difference_of_two_times_of_day() {
    let mut ledger = Ledger::new(FRONT, Role::Front, LedgerLimits::default(), Rhythm::default());
    ledger.open_front(ConnectionId(1), accept(), now(Duration::from_secs(10))).unwrap();
    let mut later = now(Duration::from_secs(15));
    later.wall = crate::time::Wall(later.wall.0 - 3_600_000_000);
    ledger.close(front_key(1), Ending::default(), later).unwrap();
    let half = ledger.half(front_key(1)).unwrap();
    let end = &half.end.as_ref().unwrap().value;
    assert_eq!((end.age, end.suspended, end.at), (Duration::from_secs(5), Duration::ZERO, later.wall));
}

/// what is shown of the books is of one instant, although nobody holds them for as long as that takes.
#[test]
fn audits_and_counters_hold_while_thousands_come_and_go() {
    let ledger = Ledger::new(FRONT, Role::Front, LedgerLimits::default(), Rhythm::default());
    let shared = crate::SharedLedger::new(ledger);
    let at = now(Duration::ZERO);
    for id in 0..5_000 {
        shared.open_front(ConnectionId(id), accept(), at).unwrap();
    }
    let others: Vec<_> = (0..2_u64)
        .map(|thread| {
            let shared = shared.clone();
            std::thread::spawn(move || {
                for id in 0..3_000 {
                    let (old, new) = (id * 2 % 5_000 + thread, 10_000 + id * 2 + thread);
                    shared.open_front(ConnectionId(new.into()), accept(), at).unwrap();
                    let step = [Change::Phase(Phase::InitialData, None)];
                    shared.record(front_key(new), step, at).unwrap();
                    shared
                        .close(front_key(old), crate::rig::ending(Role::Front, Reason::ClientReset), at)
                        .ok();
                }
            })
        })
        .collect();
    while others.iter().any(|other| !other.is_finished()) {
        let audit = shared.audit(at);
        assert!(audit.balanced, "{audit:#?}");
        let counters = shared.counters(at);
        assert_eq!(counters.phases.values().sum::<u64>(), counters.connected_clients);
        assert_eq!(counters.tally.opened - counters.tally.closed, counters.connected_clients);
        let running = shared.running_counters(at);
        assert_eq!(running.tally.opened - running.tally.closed, running.connected_clients);
    }
    for other in others {
        other.join().unwrap();
    }
    assert!(shared.audit(at).balanced);
}

/// Whoever finds the books held is counted; whoever does not, is not.
#[test]
fn waits_for_the_books_are_counted() {
    let ledger = Ledger::new(FRONT, Role::Front, LedgerLimits::default(), Rhythm::default());
    let shared = crate::SharedLedger::new(ledger);
    shared.settling();
    assert_eq!(shared.waits(), 0);
    let held = shared.hold();
    let other = shared.clone();
    let waiter = std::thread::spawn(move || other.settling());
    while shared.waits() == 0 {
        std::thread::yield_now();
    }
    drop(held);
    waiter.join().unwrap();
    assert_eq!(shared.waits(), 1);
}
