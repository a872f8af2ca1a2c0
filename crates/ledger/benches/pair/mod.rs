//! A smartproxy's and a networkproxy's books, joined by a session, with as many live connections as asked.

use std::sync::Arc;
use std::time::Duration;

use ledger::{
    Accept, AddressSource, Armed, Attempt, Change, ConnectionId, DeadlineName, Ending, HalfKey, Hop,
    HopCount, InstanceId, Ledger, LedgerLimits, LegName, Message, Next, Now, Observation, Opening, Phase,
    Reason, Restart, Rhythm, Role, Routing, SessionKey, SharedLedger, Target, Tls, Wall,
};

pub const FRONT: InstanceId = InstanceId(0x0192_f7a1_b2c3_7d4e_8f90_0123_4567_89ab);
pub const INNER: InstanceId = InstanceId(0x0192_f7a1_b2c3_7d4e_8f90_0123_4567_89ac);

/// Both books.
pub struct Pair {
    pub front: SharedLedger,
    pub inner: SharedLedger,
    pub at_front: SessionKey,
    pub at_inner: SessionKey,
    pub now: Now,
    next: u64,
    facts: Facts,
}

/// What every connection says of itself; shared, as the data path shares it.
#[derive(Clone)]
pub struct Facts {
    accept: Arc<Accept>,
    routing: Arc<Routing>,
    tls: Arc<Tls>,
    target: Arc<Target>,
    armed: Arc<[Armed]>,
}

impl Facts {
    pub fn new() -> Self {
        let address = |port| ([127, 0, 0, 1], port).into();
        let source = AddressSource::Socket;
        let armed = |name| Armed {
            name,
            limit: Duration::from_secs(60),
            source: "default".into(),
            since: Duration::from_secs(1),
            restart: Restart::OnBytes,
        };
        Self {
            accept: Arc::new(Accept {
                listener: "0.0.0.0:8443".into(),
                client: address(40_000),
                remote: address(40_000),
                local: address(8_443),
                source,
                at: Wall(1_700_000_000_000_000),
            }),
            routing: Arc::new(Routing {
                entry: Some("app".into()),
                route: Some("app".into()),
                generation: 1,
                server_name: Some("app.example.com".into()),
                alpn_offered: vec!["h2".into(), "http/1.1".into()],
                trace: Some("app: chosen".into()),
                protocol: None,
            }),
            tls: Arc::new(Tls {
                version: "TLSv1.3".into(),
                cipher: "TLS13_AES_128_GCM_SHA256".into(),
                alpn: Some("http/1.1".into()),
                resumed: false,
            }),
            target: Arc::new(Target {
                name: "127.0.0.1:9000".into(),
                address: Some(address(9_000)),
                reused: true,
                connect: Some(Duration::from_micros(80)),
            }),
            armed: [armed(DeadlineName::Inactivity), armed(DeadlineName::MaxLifetime)].into(),
        }
    }

    pub fn accept(&self) -> Arc<Accept> {
        Arc::clone(&self.accept)
    }

    pub fn armed(&self) -> Change {
        Change::Armed(Arc::clone(&self.armed))
    }
}

impl Pair {
    /// Connected, with `live` bridged connections that both sides know.
    pub fn with(live: u64) -> Self {
        let mut pair = Self::strangers(live);
        pair.connect();
        pair.sync();
        pair.sync();
        pair
    }

    /// `live` bridged connections, and no session yet.
    pub fn strangers(live: u64) -> Self {
        let limits = LedgerLimits::default();
        let ledger = |at, role| SharedLedger::new(Ledger::new(at, role, limits, Rhythm::default()));
        let mut pair = Self {
            front: ledger(FRONT, Role::Front),
            inner: ledger(INNER, Role::Inner),
            at_front: SessionKey { peer: INNER, number: 0 },
            at_inner: SessionKey { peer: FRONT, number: 0 },
            now: now(Duration::from_secs(10)),
            next: 0,
            facts: Facts::new(),
        };
        for _ in 0..live {
            pair.open();
        }
        pair
    }

    /// A new session; what it has to say is not said yet.
    pub fn connect(&mut self) {
        let session = self.at_front.number + 1;
        let (at_front, answer) = self.front.answer(&self.inner.dial(session), self.now).expect("a session");
        self.at_front = at_front;
        self.at_inner = self.inner.established(session, &answer, self.now).expect("a session");
    }

    pub fn pass(&mut self, time: Duration) {
        self.now = now(self.now.mono + time);
    }

    /// Both sides tell everything; how many messages that took.
    pub fn sync(&mut self) -> usize {
        self.pass(Duration::from_millis(25));
        let mut messages = 0;
        loop {
            let before = messages;
            while let Some(message) = self.next_of_front() {
                self.inner.receive(self.at_inner, message, self.now).expect("applied");
                messages += 1;
            }
            while let Some(message) = self.next_of_inner() {
                self.front.receive(self.at_front, message, self.now).expect("applied");
                messages += 1;
            }
            if messages == before {
                return messages;
            }
        }
    }

    pub fn next_of_front(&self) -> Option<Message> {
        said(self.front.next(self.at_front, self.now))
    }

    pub fn next_of_inner(&self) -> Option<Message> {
        said(self.inner.next(self.at_inner, self.now))
    }

    /// A TLS client that is bridged and has its handshake behind it: as many steps as the data paths take.
    pub fn open(&mut self) -> (HalfKey, HalfKey) {
        self.next += 1;
        let id = ConnectionId(0x0192_f7a1_b2c3_7d4e_8f91_0000_0000_0000 + u128::from(self.next));
        let (front, inner) = (HalfKey::front(id, FRONT), HalfKey::inner(id, INNER, Attempt(self.next)));
        open_front(&self.front, front, inner.attempt, &self.facts, self.now);
        open_inner(&self.inner, inner, &self.facts, self.now);
        (front, inner)
    }

    /// The client's FIN ends both halves.
    pub fn close(&self, front: HalfKey, inner: HalfKey) {
        close(&self.front, front, Role::Front, self.now);
        close(&self.inner, inner, Role::Inner, self.now);
    }
}

pub fn open_front(ledger: &SharedLedger, key: HalfKey, attempt: Attempt, facts: &Facts, now: Now) {
    open_front_to(ledger, key, (INNER, attempt), facts, now);
}

pub fn open_front_to(
    ledger: &SharedLedger,
    key: HalfKey,
    (inner, attempt): (InstanceId, Attempt),
    facts: &Facts,
    now: Now,
) {
    let address = Some(([127, 0, 0, 1], 7_700).into());
    ledger.open_front(key.connection, Arc::clone(&facts.accept), now).expect("a new id");
    let steps: [&[Change]; 5] = [
        &[Change::Phase(Phase::InitialData, None), facts.armed()],
        &[Change::Routing(Arc::clone(&facts.routing)), Change::Phase(Phase::Routed, None), facts.armed()],
        &[Change::Phase(Phase::Connecting, None), facts.armed()],
        &[Change::Bridge(inner, attempt), Change::HopAddresses(address, address), facts.armed()],
        &[Change::Phase(Phase::Relaying, None), facts.armed()],
    ];
    for step in steps {
        ledger.record(key, step.iter().cloned(), now).expect("a legal step");
    }
}

pub fn open_inner(ledger: &SharedLedger, key: HalfKey, facts: &Facts, now: Now) {
    open_inner_of(ledger, key, FRONT, facts, now);
}

pub fn open_inner_of(ledger: &SharedLedger, key: HalfKey, front: InstanceId, facts: &Facts, now: Now) {
    let arrival = ledger.arrive();
    let opening = Opening {
        accept: Arc::clone(&facts.accept),
        routing: Some(Arc::clone(&facts.routing)),
        hop: Some(Arc::new(Hop { remote: Some(facts.accept.remote), ..Hop::default() })),
    };
    ledger.open_inner(arrival, key.connection, key.attempt, front, opening, now).expect("a new half");
    let steps: [&[Change]; 3] = [
        &[Change::Phase(Phase::TlsHandshake, None), facts.armed()],
        &[Change::Tls(Arc::clone(&facts.tls)), Change::Phase(Phase::HttpIdle, None), facts.armed()],
        &[Change::Routing(Arc::clone(&facts.routing)), Change::Target(Arc::clone(&facts.target))],
    ];
    for step in steps {
        ledger.record(key, step.iter().cloned(), now).expect("a legal step");
    }
}

pub fn close(ledger: &SharedLedger, key: HalfKey, role: Role, now: Now) {
    let (reason, leg) = match role {
        Role::Front => (Reason::ClientClosed, LegName::Client),
        Role::Inner => (Reason::ClientClosed, LegName::Hop),
    };
    ledger.record(key, [Change::Phase(Phase::Closing, None)], now).expect("a legal step");
    let seen = Observation::new(role, reason, Some(leg), Duration::from_millis(2));
    let hop = HopCount { sent: 100, received: 100, read_to_eof: true };
    let ending = Ending { observations: vec![seen], hop, undelivered: 0 };
    ledger.close(key, ending, now).expect("live");
}

fn said(next: Next) -> Option<Message> {
    match next {
        Next::Send(message) => Some(message),
        Next::Wait(_) => None,
        Next::End(why) => panic!("the session ended: {why:?}"),
    }
}

pub const fn now(time: Duration) -> Now {
    Now { mono: time, active: time, wall: Wall(1_700_000_000_000_000) }
}
