//! What data paths would do to the books: connections that open, are bridged, and end on both sides.
//!
//! *Owns* a seeded history over two or more ledgers, with the hop as a plain call. *Never* orders the hop
//! against the control channel. *Invariant*: every connection it opened, it ends, on both sides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ledger::{
    Accept, AddressSource, Arrival, Attempt, Change, ConnectionId, Direction, Ending, HalfKey, HopCount,
    LegName, Observation, Phase, Reason, Role, Routing, Traffic,
};

use crate::harness::Node;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// splitmix64: histories are replayed by their seed.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// One bridged connection, both halves live.
pub(crate) struct Bridged {
    pub(crate) id: ConnectionId,
    pub(crate) front: HalfKey,
    pub(crate) inner: HalfKey,
    front_traffic: Arc<Traffic>,
    inner_traffic: Arc<Traffic>,
}

pub(crate) fn accept(node: &Node, port: u16) -> Arc<Accept> {
    Arc::new(Accept {
        listener: "127.0.0.1:8443".into(),
        client: ([198, 51, 100, (port % 250) as u8], port).into(),
        remote: ([198, 51, 100, (port % 250) as u8], port).into(),
        local: ([127, 0, 0, 1], 8443).into(),
        source: AddressSource::Socket,
        at: control::Process::now(node).wall,
    })
}

fn routing(id: u64) -> Arc<Routing> {
    Arc::new(Routing {
        entry: Some("app".into()),
        route: None,
        generation: 1,
        server_name: Some(format!("s{}.example.com", id % 7).into()),
        alpn_offered: vec!["h2".into(), "http/1.1".into()],
        trace: Some("app: chosen by its name".into()),
        protocol: None,
    })
}

fn now(node: &Node) -> ledger::Now {
    control::Process::now(node)
}

/// A front that is accepted and routed, and nothing more.
pub(crate) fn open_front(front: &Node) -> (HalfKey, u64, Arc<Traffic>) {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // As a UUID v7: the clock first, so that ids ascend.
    let id = ConnectionId((0x0192_f7a1_b2c3_7d4e_u128 << 64) + (u128::from(number) << 32) + 0x00ab_cdef);
    let key = HalfKey::front(id, front.ledger.instance());
    let traffic = front.ledger.open_front(id, accept(front, number as u16), now(front)).unwrap();
    let changes = [
        Change::Phase(Phase::InitialData, None),
        Change::Routing(routing(number)),
        Change::Phase(Phase::Routed, None),
    ];
    front.ledger.record(key, changes, now(front)).unwrap();
    (key, number, traffic)
}

/// A connection that smartproxy relays itself.
pub(crate) fn open_relayed(front: &Node) -> HalfKey {
    let (key, _, _) = open_front(front);
    let target =
        Arc::new(ledger::Target { name: "10.0.0.7:443".into(), address: None, reused: false, connect: None });
    let changes = [
        Change::Phase(Phase::Connecting, None),
        Change::Target(target),
        Change::Phase(Phase::Relaying, None),
    ];
    front.ledger.record(key, changes, now(front)).unwrap();
    key
}

/// A connection that is bridged to `inner` and has its handshake behind it.
pub(crate) fn open_bridged(front: &Node, inner: &Node) -> Bridged {
    let (front_key, number, front_traffic) = open_front(front);
    let attempt = Attempt(number);
    let changes = [Change::Phase(Phase::Connecting, None), Change::Bridge(inner.ledger.instance(), attempt)];
    front.ledger.record(front_key, changes, now(front)).unwrap();
    let arrival: Arrival = inner.ledger.arrive();
    let id = front_key.connection;
    let from = accept(front, number as u16);
    let inner_traffic = inner
        .ledger
        .open_inner(arrival, id, attempt, front.ledger.instance(), from.into(), now(inner))
        .unwrap();
    let inner_key = HalfKey::inner(id, inner.ledger.instance(), attempt);
    inner.ledger.record(inner_key, [Change::Phase(Phase::TlsHandshake, None)], now(inner)).unwrap();
    front.ledger.record(front_key, [Change::Phase(Phase::Relaying, None)], now(front)).unwrap();
    let tls = ledger::Tls {
        version: "TLSv1.3".into(),
        cipher: "TLS_AES_128_GCM_SHA256".into(),
        alpn: Some("h2".into()),
        resumed: false,
    };
    let changes = [Change::Tls(Arc::new(tls)), Change::Phase(Phase::HttpIdle, None)];
    inner.ledger.record(inner_key, changes, now(inner)).unwrap();
    Bridged { id, front: front_key, inner: inner_key, front_traffic, inner_traffic }
}

impl Bridged {
    /// A request and its answer.
    pub(crate) fn exchange(&self, front: &Node, inner: &Node) {
        let (at_front, at_inner) = (now(front).active, now(inner).active);
        self.front_traffic.moved(LegName::Client, Direction::In, 100, at_front);
        self.front_traffic.moved(LegName::Hop, Direction::Out, 100, at_front);
        self.inner_traffic.moved(LegName::Hop, Direction::In, 100, at_inner);
        self.inner_traffic.request_started();
        self.inner_traffic.moved(LegName::Hop, Direction::Out, 900, at_inner);
        self.inner_traffic.request_finished();
        self.front_traffic.moved(LegName::Hop, Direction::In, 900, at_front);
        self.front_traffic.moved(LegName::Client, Direction::Out, 900, at_front);
    }

    /// The client leaves; which half ends first is up to `order`.
    pub(crate) fn end(self, front: &Node, inner: &Node, order: u64) {
        if order.is_multiple_of(2) {
            self.end_front(front, order);
            self.end_inner(inner, Reason::HopClosed);
        } else {
            self.end_inner(inner, Reason::HopClosed);
            self.end_front(front, order);
        }
    }

    /// smartproxy's half: the client reset, or closed.
    pub(crate) fn end_front(&self, front: &Node, order: u64) {
        let reason = if order.is_multiple_of(3) { Reason::ClientReset } else { Reason::ClientClosed };
        let seen = Observation::new(Role::Front, reason, Some(LegName::Client), Duration::from_millis(9));
        let hop = HopCount { sent: 100, received: 900, read_to_eof: true };
        let ending = Ending { observations: vec![seen], hop, undelivered: 0 };
        front.ledger.close(self.front, ending, now(front)).unwrap();
    }

    /// networkproxy's half, which saw the hop end.
    pub(crate) fn end_inner(&self, inner: &Node, reason: Reason) {
        let seen = Observation::new(Role::Inner, reason, Some(LegName::Hop), Duration::from_millis(9));
        let hop = HopCount { sent: 900, received: 100, read_to_eof: true };
        let ending = Ending { observations: vec![seen], hop, undelivered: 0 };
        inner.ledger.close(self.inner, ending, now(inner)).unwrap();
    }

    /// smartproxy's half, after the hop was reset.
    pub(crate) fn lose_front(&self, front: &Node) {
        lose(front, self.front);
    }

    /// networkproxy's half, after the hop was reset.
    pub(crate) fn lose_inner(&self, inner: &Node) {
        lose(inner, self.inner);
    }
}

/// A half that saw the hop reset and counted nothing on it.
fn lose(node: &Node, key: HalfKey) {
    let role = node.ledger.role();
    let seen = Observation::new(role, Reason::HopReset, Some(LegName::Hop), Duration::from_millis(9));
    node.ledger.close(key, Ending { observations: vec![seen], ..Ending::default() }, now(node)).unwrap();
}

/// `steps` random openings, exchanges and ends, with `between` after each.
pub(crate) async fn churn(front: &Node, inner: &Node, seed: u64, steps: u64, mut between: impl FnMut(u64)) {
    let mut rng = Rng(seed);
    let mut live = Vec::new();
    for step in 0..steps {
        match rng.below(5) {
            0 | 1 => live.push(open_bridged(front, inner)),
            2 if !live.is_empty() => {
                let at = rng.below(live.len() as u64) as usize;
                Bridged::exchange(&live[at], front, inner);
            }
            3 if !live.is_empty() => {
                let at = rng.below(live.len() as u64) as usize;
                live.swap_remove(at).end(front, inner, rng.next());
            }
            _ => {
                let key = open_relayed(front);
                let seen = Observation::new(
                    Role::Front,
                    Reason::TargetClosed,
                    Some(LegName::Target),
                    Duration::ZERO,
                );
                let ending = Ending { observations: vec![seen], ..Ending::default() };
                front.ledger.close(key, ending, now(front)).unwrap();
            }
        }
        between(step);
        if rng.below(8) == 0 {
            // Lets the channel work between steps; how long is part of no assertion.
            tokio::time::sleep(Duration::from_micros(rng.below(3_000))).await;
        }
    }
    for bridged in live {
        bridged.end(front, inner, rng.next());
    }
}
