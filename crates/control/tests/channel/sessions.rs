//! Sessions in fair weather: both ways, both orders, leaving, coming back.

use std::time::{Duration, Instant};

use ledger::{Reason, Rhythm, SettledFrom};

use crate::cutter::Cutter;
use crate::harness::{Front, Inner, Place, agree, bounded, ready, until};
use crate::traffic::{churn, open_bridged, open_front};

/// ends arrive in any order, and the hop overtakes the control channel; the books agree.
#[tokio::test]
async fn both_processes_end_up_with_the_same_books() {
    let place = Place::new();
    let front = Front::start(&place);
    let inner = Inner::start(&place, front.address);
    ready(&front, &inner).await;
    churn(&front.node, &inner.node, 1, 3_000, |_| {}).await;
    agree(&[(&front.node, &inner.node)]).await;
    for node in [&front.node, &inner.node] {
        let tally = node.ledger.counters(node.time.now()).tally;
        assert_eq!(
            tally.settled_from[SettledFrom::Alone as usize],
            0,
            "every pair was settled from both halves"
        );
        assert!(tally.settled_by(Reason::ClientReset) > 0 && tally.settled_by(Reason::ClientClosed) > 0);
        assert_eq!(node.ledger.audit(node.time.now()).alarms.session_resets, 0);
    }
}

/// A connection that is there before the session is in the first snapshot; one with traffic shows it.
#[tokio::test]
async fn what_was_there_before_the_session_is_told() {
    let place = Place::new();
    let front = Front::start(&place);
    for _ in 0..700 {
        open_front(&front.node);
    }
    let inner = Inner::start(&place, front.address);
    ready(&front, &inner).await;
    let bridged = open_bridged(&front.node, &inner.node);
    bridged.exchange(&front.node, &inner.node);
    agree(&[(&front.node, &inner.node)]).await;
    let mirrored = || {
        let view = inner.node.ledger.view().mirrored;
        let half = view.iter().find(|half| half.key == bridged.front).unwrap();
        half.traffic.meter(ledger::LegName::Client, ledger::Direction::In).bytes
    };
    until("progress", || mirrored() == 100, || format!("{} bytes", mirrored())).await;
}

/// Leaving in order: everything is told and acknowledged, then goodbye; nothing counts as a reset.
#[tokio::test]
async fn who_leaves_says_everything_and_goodbye() {
    let place = Place::new();
    let front = Front::start(&place);
    let inner = Inner::start(&place, front.address);
    ready(&front, &inner).await;
    let instance = inner.instance();
    for step in 0..500 {
        open_bridged(&front.node, &inner.node).end(&front.node, &inner.node, step);
    }
    let inner = inner.leave().await;
    crate::harness::mirrors(&inner, &front.node).unwrap();
    let status = front.node.ledger.peer_status(front.node.time.now());
    assert_eq!(status[0].last_end, Some(ledger::SessionEnd::Bye));
    assert!(!front.peers.is_ready(instance));
    let alarms = front.node.ledger.audit(front.node.time.now()).alarms;
    assert_eq!(alarms.session_resets, 0, "a goodbye is no reset");
}

/// smartproxy leaves: networkproxy hears it, and goes on dialling.
#[tokio::test]
async fn a_leaving_smartproxy_says_goodbye_and_its_successor_is_found() {
    let place = Place::new();
    let front = Front::start(&place);
    let address = front.address;
    let inner = Inner::start(&place, address);
    ready(&front, &inner).await;
    let older = front.instance();
    let key = inner.upstream.keys().fronts().collect::<Vec<_>>();
    assert_eq!(key, [older]);
    front.leave().await;
    let last_end = || inner.node.ledger.peer_status(inner.node.time.now())[0].last_end;
    let heard = || last_end() == Some(ledger::SessionEnd::Bye);
    until("the goodbye", heard, || format!("{:?}", last_end())).await;
    let front = Front::start_on(&place, address, ledger::LedgerLimits::default(), control::Reading::Open);
    ready(&front, &inner).await;
    let mut fronts: Vec<_> = inner.upstream.keys().fronts().collect();
    fronts.sort();
    assert_eq!(fronts, [older, front.instance()], "the older key is kept for a while");
    agree(&[(&front.node, &inner.node)]).await;
}

/// The pair's hop key survives the channel: one per pair of instances.
#[tokio::test]
async fn the_same_instances_keep_their_hop_key() {
    let place = Place::new();
    let front = Front::start(&place);
    let cutter = Cutter::to(front.address).await;
    let inner = Inner::start(&place, cutter.address);
    ready(&front, &inner).await;
    let control::server::Pick::Ready(first) = front.peers.pick() else { panic!("nobody is ready") };
    for _ in 0..3 {
        let session = front.node.ledger.peer_status(front.node.time.now())[0].session;
        cutter.cut();
        let newer = || front.node.ledger.peer_status(front.node.time.now())[0].session > session;
        until("a newer session", newer, String::new).await;
        ready(&front, &inner).await;
    }
    let control::server::Pick::Ready(again) = front.peers.pick() else { panic!("nobody is ready") };
    assert_eq!(first.key, again.key);
    assert_eq!(inner.upstream.keys().find(first.key.id), Some((first.key, front.instance())));
    assert_eq!(inner.upstream.keys().len(), 1);
}

/// A missing token and an absent smartproxy are waited for.
#[tokio::test]
async fn whoever_starts_first_waits_for_the_other() {
    let place = Place::new();
    let reserved = crate::harness::listen(([127, 0, 0, 1], 0).into());
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let inner = Inner::start(&place, address);
    let waits = |words: &'static str| {
        let upstream = inner.upstream.clone();
        move || matches!(upstream.state(), control::client::UpstreamState::Waiting(why) if why.contains(words))
    };
    until("the token to be missed", waits("no token file"), || format!("{:?}", inner.upstream.state())).await;
    place.token().create_if_missing().unwrap();
    until("smartproxy to be missed", waits("cannot be reached"), || format!("{:?}", inner.upstream.state()))
        .await;
    let front = Front::start_on(&place, address, ledger::LedgerLimits::default(), control::Reading::Open);
    ready(&front, &inner).await;
    bounded("the end", front.kill()).await;
}

/// another token is refused, with words, and tried again when the file changes.
#[tokio::test]
async fn a_wrong_token_is_refused_until_it_is_replaced() {
    let place = Place::new();
    let front = Front::start(&place);
    let other = Place::new();
    std::fs::write(other.token_path(), "not-the-token-of-that-one\n").unwrap();
    let inner = Inner::start(&other, front.address);
    let refused = || matches!(inner.upstream.state(), control::client::UpstreamState::Waiting(why) if why.contains("wrong token"));
    until("the refusal", refused, || format!("{:?}", inner.upstream.state())).await;
    assert_eq!(front.peers.connected(), 0);
    assert!(
        front.node.ledger.peer_status(front.node.time.now()).is_empty(),
        "nothing is known of a stranger"
    );
    std::fs::copy(place.token_path(), other.token_path()).unwrap();
    ready(&front, &inner).await;
}

/// Idle, a change leaves at once: it does not wait for a heartbeat. (With a lost wake-up it would wait for one,
/// two seconds here.)
#[tokio::test]
async fn on_an_idle_channel_a_change_is_told_at_once() {
    let place = Place::new();
    let rhythm = Rhythm { heartbeat: Duration::from_secs(2), stall_after: Duration::from_secs(10) };
    let front = Front::start_in_rhythm(&place, rhythm);
    let inner = Inner::start(&place, front.address);
    ready(&front, &inner).await;
    let mut delays = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        let (key, ..) = open_front(&front.node);
        let told = || inner.node.ledger.view().mirrored.iter().any(|half| half.key == key);
        until("the change", told, String::new).await;
        delays.push(started.elapsed());
    }
    delays.sort();
    assert!(delays[10] < Duration::from_millis(500), "{delays:?}");
}

/// The rhythm is smartproxy's to say.
#[tokio::test]
async fn networkproxy_adopts_the_rhythm_that_smartproxy_announces() {
    let place = Place::new();
    let rhythm = Rhythm { heartbeat: Duration::from_millis(50), stall_after: Duration::from_secs(5) };
    let front = Front::start_in_rhythm(&place, rhythm);
    let inner = Inner::start(&place, front.address);
    ready(&front, &inner).await;
    let mut ages = Vec::new();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        ages.push(front.peers.heartbeat_age(inner.instance()).expect("a session"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ages.sort();
    assert!(ages[ages.len() / 2] < Duration::from_millis(150), "its own would be 200 ms: {ages:?}");
}
