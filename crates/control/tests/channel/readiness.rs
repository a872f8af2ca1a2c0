//! Who takes the next connection.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use config::InnerTable;
use control::server::{Pick, Readiness};
use ledger::LedgerLimits;

use crate::cutter::Cutter;
use crate::harness::{Front, Inner, Place, agree, bounded, ready, terms, until};
use crate::traffic::{churn, open_bridged};

fn generation(number: u64) -> InnerTable {
    InnerTable { generation: number, ..InnerTable::default() }
}

/// Two networkproxies share the load, and each agrees with smartproxy on its own part.
#[tokio::test]
async fn connections_are_spread_over_those_that_are_ready() {
    let place = Place::new();
    let front = Front::start(&place);
    assert_eq!(front.peers.pick(), Pick::None);
    let (one, two) = (Inner::start(&place, front.address), Inner::start(&place, front.address));
    ready(&front, &one).await;
    ready(&front, &two).await;
    let mut picked: BTreeMap<_, u64> = BTreeMap::new();
    for _ in 0..100 {
        let Pick::Ready(proxy) = front.peers.pick() else { panic!("nobody is ready") };
        let node = if proxy.instance == one.instance() { &one.node } else { &two.node };
        open_bridged(&front.node, node);
        *picked.entry(proxy.instance).or_default() += 1;
    }
    assert_eq!(picked.into_values().collect::<Vec<_>>(), [50, 50]);
    churn(&front.node, &one.node, 9, 400, |_| {}).await;
    churn(&front.node, &two.node, 10, 400, |_| {}).await;
    let pairs = [(&*front.node, &*one.node), (&*front.node, &*two.node)];
    for (a, b) in pairs {
        crate::harness::until(
            "the mirror",
            || crate::harness::mirrors(b, a).is_ok() && crate::harness::mirrors(a, b).is_ok(),
            || format!("{:?}", crate::harness::mirrors(b, a)),
        )
        .await;
        assert!(a.ledger.audit(a.time.now()).balanced && b.ledger.audit(b.time.now()).balanced);
    }
}

/// P6: whoever failed just now is not tried next while another is ready, however few connections it has.
#[tokio::test]
async fn another_is_picked_after_one_failed() {
    let place = Place::new();
    let front = Front::start(&place);
    let one = Inner::start(&place, front.address);
    ready(&front, &one).await;
    let Pick::Ready(alone) = front.peers.pick_other_than(Some(one.instance())) else { panic!("nobody") };
    assert_eq!(alone.instance, one.instance(), "better than nobody");
    let two = Inner::start(&place, front.address);
    ready(&front, &two).await;
    let _busy = open_bridged(&front.node, &two.node);
    for _ in 0..10 {
        assert!(front.peers.has_ready());
        let Pick::Ready(other) = front.peers.pick_other_than(Some(one.instance())) else { panic!("nobody") };
        assert_eq!(other.instance, two.instance());
    }
}

/// a full networkproxy is not sent any more, and `pick` says that it is full and not that it is away.
#[tokio::test]
async fn a_full_networkproxy_is_passed_over_until_there_is_room() {
    let place = Place::new();
    let front = Front::start(&place);
    let inner = Inner::start_with(&place, front.address, terms(3), LedgerLimits::default());
    ready(&front, &inner).await;
    let mut open: Vec<_> = (0..3).map(|_| open_bridged(&front.node, &inner.node)).collect();
    assert_eq!(front.peers.pick(), Pick::Full);
    let mut changed = front.peers.changed();
    assert_eq!(front.peers.pick(), Pick::Full);
    open.remove(0).end(&front.node, &inner.node, 0);
    bounded("the news of room", changed.changed()).await.unwrap();
    assert!(matches!(front.peers.pick(), Pick::Ready(_)));
    inner.upstream.announce_capacity(2);
    until("the new capacity", || front.peers.pick() == Pick::Full, String::new).await;
}

/// A draining networkproxy is not picked once smartproxy has acknowledged, and is told so.
#[tokio::test]
async fn a_draining_networkproxy_is_acknowledged_and_passed_over() {
    let place = Place::new();
    let front = Front::start(&place);
    let inner = Inner::start(&place, front.address);
    ready(&front, &inner).await;
    inner.upstream.announce_draining();
    bounded("the acknowledgement", inner.upstream.drain_acknowledged()).await;
    assert_eq!(front.peers.readiness(inner.instance()), Readiness::Draining);
    assert_eq!(front.peers.pick(), Pick::None);
}

/// A drain is for the rest of a life: a networkproxy that comes back after a cut is not taken for ready.
#[tokio::test]
async fn a_drain_survives_the_channel() {
    let place = Place::new();
    let front = Front::start(&place);
    let cutter = Cutter::to(front.address).await;
    let inner = Inner::start(&place, cutter.address);
    ready(&front, &inner).await;
    inner.upstream.announce_draining();
    bounded("the acknowledgement", inner.upstream.drain_acknowledged()).await;
    let session = || front.node.ledger.peer_status(front.node.time.now())[0].session;
    for round in 2..=4 {
        cutter.cut();
        let back = || {
            assert!(!front.peers.is_ready(inner.instance()), "it takes no new connections");
            session() >= round && front.peers.readiness(inner.instance()) == Readiness::Draining
        };
        until("the next session", back, || format!("session {}", session())).await;
    }
}

/// New routes make everybody unready until they have acknowledged them; both tables are known meanwhile.
#[tokio::test]
async fn routes_must_be_acknowledged() {
    let place = Place::new();
    let front = Front::start(&place);
    let inner = Inner::start(&place, front.address);
    ready(&front, &inner).await;
    let first = inner.upstream.table(front.instance(), 1).expect("generation 1");
    assert_eq!(first.generation, 1);
    front.peers.publish(&generation(2)).unwrap();
    assert_eq!(front.peers.readiness(inner.instance()), Readiness::Routes);
    ready(&front, &inner).await;
    assert_eq!(inner.upstream.latest_table().unwrap().generation, 2);
    assert!(inner.upstream.table(front.instance(), 1).is_some(), "the one before is still known");
    front.peers.publish(&generation(3)).unwrap();
    ready(&front, &inner).await;
    assert!(inner.upstream.table(front.instance(), 1).is_none());
}

/// A table that needs many messages arrives whole.
#[tokio::test]
async fn a_large_route_table_arrives_whole() {
    let place = Place::new();
    let front = Front::start(&place);
    let inner = Inner::start(&place, front.address);
    ready(&front, &inner).await;
    let mut table = generation(2);
    for number in 0..20_000 {
        let name: std::sync::Arc<str> = format!("entry-{number}").into();
        let entry = config::InnerEntry::new(
            name.clone(),
            config::Protocol::Http,
            true,
            Vec::new(),
            std::collections::BTreeSet::new(),
        );
        table.entries.insert(name, entry);
    }
    front.peers.publish(&table).unwrap();
    ready(&front, &inner).await;
    assert_eq!(*inner.upstream.latest_table().unwrap(), table);
}

/// Names without a certificate are known where operators look.
#[tokio::test]
async fn names_without_a_certificate_are_told() {
    let place = Place::new();
    let front = Front::start(&place);
    let inner = Inner::start(&place, front.address);
    ready(&front, &inner).await;
    inner.upstream.announce_names_without_certificate(["app.example.com".to_owned()]);
    let told = || front.peers.directory().names_without_certificate();
    until("the names", || told() == ["app.example.com"], || format!("{:?}", told())).await;
    inner.upstream.announce_names_without_certificate([]);
    until("their end", || told().is_empty(), || format!("{:?}", told())).await;
}

/// what must not wait does not wait for the books: a round trip of the channel while thousands of
/// changes per second are told.
#[tokio::test]
async fn urgent_messages_overtake_a_flood_of_changes() {
    let place = Place::new();
    let front = Front::start(&place);
    let inner = Inner::start(&place, front.address);
    ready(&front, &inner).await;
    let (node, other) = (front.node.clone(), inner.node.clone());
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let flood = std::thread::spawn(move || {
        let mut opened = 0_u64;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            for _ in 0..20 {
                open_bridged(&node, &other).end(&node, &other, opened);
                opened += 1;
            }
            std::thread::sleep(Duration::from_millis(4));
        }
        opened
    });
    let mut trips = Vec::new();
    for number in 2..=60 {
        let started = Instant::now();
        front.peers.publish(&generation(number)).unwrap();
        // There and back: the table, and its acknowledgement.
        ready(&front, &inner).await;
        trips.push(started.elapsed());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let opened = flood.join().unwrap();
    trips.sort();
    let (median, worst) = (trips[trips.len() / 2], trips[trips.len() - 1]);
    assert!(opened > 500, "no flood: {opened} connections");
    assert!(worst < Duration::from_millis(500), "median {median:?}, worst {worst:?}, {opened} connections");
    agree(&[(&front.node, &inner.node)]).await;
}
