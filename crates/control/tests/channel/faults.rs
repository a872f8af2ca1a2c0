//! Cuts, stops, delays and kills of the channel and of either process.

use std::time::Duration;

use control::Reading;
use ledger::{LedgerLimits, Reason};

use crate::cutter::{Cutter, Link};
use crate::harness::{Front, Inner, Place, RHYTHM, agree, bounded, ready, until};
use crate::traffic::{Bridged, Rng, churn, open_bridged};

/// the stream is cut at random points of a history; the tables converge.
#[tokio::test]
async fn cuts_at_random_points_lose_and_double_nothing() {
    for seed in 1..=4 {
        let place = Place::new();
        let front = Front::start(&place);
        let cutter = Cutter::to(front.address).await;
        let inner = Inner::start(&place, cutter.address);
        ready(&front, &inner).await;
        let mut rng = Rng(seed);
        churn(&front.node, &inner.node, seed, 2_000, |_| {
            if rng.below(60) == 0 {
                cutter.cut();
            }
        })
        .await;
        agree(&[(&front.node, &inner.node)]).await;
        let resets = front.node.ledger.audit(front.node.time.now()).alarms.session_resets;
        assert!(resets > 0, "seed {seed}: no session was ever cut");
    }
}

/// the same with little retention, so that who was away needs snapshots.
#[tokio::test]
async fn who_was_away_too_long_gets_a_snapshot() {
    let place = Place::new();
    let limits = LedgerLimits { closed_records: 50, ..LedgerLimits::default() };
    let front = Front::start_on(&place, ([127, 0, 0, 1], 0).into(), limits, Reading::Open);
    let cutter = Cutter::to(front.address).await;
    let inner = Inner::start_with(&place, cutter.address, crate::harness::terms(1_000), limits);
    ready(&front, &inner).await;
    for seed in 1..=3 {
        cutter.set(Link::Down);
        churn(&front.node, &inner.node, seed, 600, |_| {}).await;
        cutter.set(Link::Open);
        ready(&front, &inner).await;
        agree(&[(&front.node, &inner.node)]).await;
    }
    let snapshots = front.node.ledger.peer_status(front.node.time.now())[0].snapshots;
    assert!(snapshots >= 3, "{snapshots}");
}

/// A stream that broke ends its session then, and not when somebody misses a heartbeat.
#[tokio::test]
async fn a_cut_stream_ends_the_session_at_once() {
    let place = Place::new();
    let rhythm = ledger::Rhythm { heartbeat: Duration::from_secs(2), stall_after: Duration::from_secs(60) };
    let front = Front::start_in_rhythm(&place, rhythm);
    let cutter = Cutter::to(front.address).await;
    let inner = Inner::start(&place, cutter.address);
    ready(&front, &inner).await;
    cutter.set(Link::Down);
    until("the end", || !front.peers.session_is_up(inner.instance()), String::new).await;
    let reset = || inner.node.ledger.audit(inner.node.time.now()).alarms.session_resets;
    until("its end there", || reset() == 1, || reset().to_string()).await;
    assert_eq!(front.node.ledger.audit(front.node.time.now()).alarms.session_resets, 1, "ended once");
}

/// connected is not alive. A link that carries nothing: not ready after two heartbeats, reset after the
/// stall, back when it carries again.
#[tokio::test]
async fn a_link_that_stands_still_is_noticed_and_replaced() {
    let place = Place::new();
    let front = Front::start(&place);
    let cutter = Cutter::to(front.address).await;
    let inner = Inner::start(&place, cutter.address);
    ready(&front, &inner).await;
    let mut changed = front.peers.changed();
    changed.mark_unchanged();
    cutter.set(Link::Stopped);
    until("unreadiness", || !front.peers.is_ready(inner.instance()), String::new).await;
    assert!(front.peers.session_is_up(inner.instance()), "not ready before the session is given up");
    bounded("the news that it fell", changed.changed()).await.unwrap();
    let down = || !front.peers.session_is_up(inner.instance());
    until("the reset", down, String::new).await;
    cutter.set(Link::Open);
    ready(&front, &inner).await;
    churn(&front.node, &inner.node, 5, 300, |_| {}).await;
    agree(&[(&front.node, &inner.node)]).await;
}

/// a slow link is slow, and nothing else.
#[tokio::test]
async fn a_slow_link_converges_without_a_reset() {
    let place = Place::new();
    let front = Front::start(&place);
    let cutter = Cutter::to(front.address).await;
    cutter.set(Link::Slow(Duration::from_millis(20)));
    let inner = Inner::start(&place, cutter.address);
    ready(&front, &inner).await;
    churn(&front.node, &inner.node, 6, 1_500, |_| {}).await;
    agree(&[(&front.node, &inner.node)]).await;
    assert_eq!(front.node.ledger.audit(front.node.time.now()).alarms.session_resets, 0);
}

/// networkproxy is killed with 1,000 connections: the survivor ends them as lost, and a new life of it
/// works at once.
#[tokio::test]
async fn a_killed_networkproxy_is_lost_and_its_successor_takes_over() {
    let place = Place::new();
    let front = Front::start(&place);
    let inner = Inner::start(&place, front.address);
    ready(&front, &inner).await;
    let lost: Vec<Bridged> = (0..1_000).map(|_| open_bridged(&front.node, &inner.node)).collect();
    agree(&[(&front.node, &inner.node)]).await;
    let old = inner.instance();
    inner.kill().await;
    // What the kernel does: every hop socket is reset.
    for bridged in &lost {
        bridged.lose_front(&front.node);
    }
    let successor = Inner::start(&place, front.address);
    ready(&front, &successor).await;
    let counters = || front.node.ledger.counters(front.node.time.now());
    let settled = || counters().tally.settled_by(Reason::PeerLost) == 1_000;
    until("peer_lost", settled, || format!("{:?}", counters().tally)).await;
    assert_eq!((counters().connected_clients, counters().port_proxy_connections), (0, 0));
    assert!(front.node.ledger.audit(front.node.time.now()).balanced);
    let keys = successor.upstream.keys();
    assert_eq!(keys.len(), 1, "the new life has a key of its own");
    assert!(!front.peers.is_ready(old));
    churn(&front.node, &successor.node, 7, 500, |_| {}).await;
    agree_but_for_the_dead(&front, &successor).await;
}

/// the same with smartproxy.
#[tokio::test]
async fn a_killed_smartproxy_is_lost_and_its_successor_takes_over() {
    let place = Place::new();
    let front = Front::start(&place);
    let address = front.address;
    let inner = Inner::start(&place, address);
    ready(&front, &inner).await;
    let lost: Vec<Bridged> = (0..1_000).map(|_| open_bridged(&front.node, &inner.node)).collect();
    agree(&[(&front.node, &inner.node)]).await;
    front.kill().await;
    for bridged in &lost {
        bridged.lose_inner(&inner.node);
    }
    let successor = Front::start_on(&place, address, LedgerLimits::default(), Reading::Open);
    ready(&successor, &inner).await;
    let counters = || inner.node.ledger.counters(inner.node.time.now());
    let settled = || counters().tally.settled_by(Reason::PeerLost) == 1_000;
    until("peer_lost", settled, || format!("{:?}", counters().tally)).await;
    assert_eq!(counters().connected_clients, 0);
    churn(&successor.node, &inner.node, 8, 500, |_| {}).await;
    agree_but_for_the_dead(&successor, &inner).await;
}

/// The survivor's mirror of a dead instance stays until it is folded; the living must agree.
async fn agree_but_for_the_dead(front: &Front, inner: &Inner) {
    agree(&[(&front.node, &inner.node)]).await;
}

/// A session's loss ends nothing: while the channel is down both sides live on, and settle alone.
#[tokio::test]
async fn a_session_s_loss_ends_nothing() {
    let place = Place::new();
    let front = Front::start(&place);
    let cutter = Cutter::to(front.address).await;
    let inner = Inner::start(&place, cutter.address);
    ready(&front, &inner).await;
    let stays = open_bridged(&front.node, &inner.node);
    let ends = open_bridged(&front.node, &inner.node);
    agree(&[(&front.node, &inner.node)]).await;
    cutter.set(Link::Down);
    ends.end(&front.node, &inner.node, 1);
    let settled = || front.node.ledger.half(ends_key(&front)).is_none_or(|half| half.settlement.is_some());
    until("settlement alone", settled, String::new).await;
    assert_eq!(front.node.ledger.connected_clients(), 1);
    tokio::time::timeout(RHYTHM.stall_after * 2, std::future::pending::<()>()).await.ok();
    assert!(front.node.ledger.half(stays.front).unwrap().is_live(), "the channel's loss ended a connection");
    cutter.set(Link::Open);
    ready(&front, &inner).await;
    stays.end(&front.node, &inner.node, 2);
    agree(&[(&front.node, &inner.node)]).await;
}

fn ends_key(front: &Front) -> ledger::HalfKey {
    let view = front.node.ledger.view();
    view.own.iter().find(|half| !half.is_live()).expect("one has ended").key
}
