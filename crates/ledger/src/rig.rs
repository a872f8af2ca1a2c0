//! One smartproxy ledger and one networkproxy ledger on a bench, for unit tests.
//!
//! *Owns* simulated time and the session between the two. *Never* loses or delays a message: what happens in
//! between is the test's to say. *Invariant*: after [`Pair::sync`] neither side has anything left to tell.

use std::sync::Arc;
use std::time::Duration;

use crate::evidence::Observation;
use crate::half::{Accept, AddressSource, Half};
use crate::id::{Attempt, ConnectionId, HalfKey, InstanceId, Role};
use crate::ledger::{Change, Ending, Ledger, LedgerLimits};
use crate::link::SessionKey;
use crate::phase::Phase;
use crate::reason::Reason;
use crate::session::{Next, Rhythm, SessionEnd};
use crate::time::{Now, Wall};
use crate::traffic::Traffic;

pub(crate) const FRONT: InstanceId = InstanceId(1);
pub(crate) const INNER: InstanceId = InstanceId(2);
pub(crate) const H: Duration = Duration::from_secs(1);

pub(crate) struct Pair {
    pub(crate) front: Ledger,
    pub(crate) inner: Ledger,
    pub(crate) session: u64,
    time: Duration,
}

impl Pair {
    /// Connected, with the usual limits.
    pub(crate) fn new() -> Self {
        Self::with(LedgerLimits::default(), LedgerLimits::default())
    }

    pub(crate) fn with(front: LedgerLimits, inner: LedgerLimits) -> Self {
        let mut pair = Self {
            front: Ledger::new(FRONT, Role::Front, front, Rhythm::default()),
            inner: Ledger::new(INNER, Role::Inner, inner, Rhythm::default()),
            session: 0,
            time: Duration::from_secs(10),
        };
        pair.connect();
        pair
    }

    pub(crate) fn now(&self) -> Now {
        now(self.time)
    }

    /// Time passes; both sides notice in steps of a tenth of a heartbeat, without talking.
    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.time + time;
        while self.time < end {
            self.time = end.min(self.time + H / 10);
            self.front.tick(self.now());
            self.inner.tick(self.now());
        }
    }

    pub(crate) fn connect(&mut self) {
        self.session += 1;
        let now = self.now();
        let (_, answer) = self.front.answer(&self.inner.dial(self.session), now).unwrap();
        self.inner.established(self.session, &answer, now).unwrap();
        self.sync();
    }

    pub(crate) fn cut(&mut self) {
        let now = self.now();
        self.front.end_session(self.at_front(), SessionEnd::Lost, now);
        self.inner.end_session(self.at_inner(), SessionEnd::Lost, now);
    }

    pub(crate) fn at_front(&self) -> SessionKey {
        SessionKey { peer: INNER, number: self.session }
    }

    pub(crate) fn at_inner(&self) -> SessionKey {
        SessionKey { peer: FRONT, number: self.session }
    }

    /// Both sides tell everything. Takes less than a tenth of a heartbeat.
    pub(crate) fn sync(&mut self) {
        for _ in 0..3 {
            self.exchange();
            self.time += Duration::from_millis(25);
        }
    }

    /// Time passes, and both sides talk meanwhile.
    pub(crate) fn talk(&mut self, time: Duration) {
        let end = self.time + time;
        while self.time < end {
            self.wait(H / 20);
            self.exchange();
        }
    }

    fn exchange(&mut self) {
        let now = self.now();
        let (at_front, at_inner) = (self.at_front(), self.at_inner());
        loop {
            let mut quiet = true;
            while let Next::Send(message) = self.front.next(at_front, now) {
                self.inner.receive(at_inner, message, now).unwrap();
                quiet = false;
            }
            while let Next::Send(message) = self.inner.next(at_inner, now) {
                self.front.receive(at_front, message, now).unwrap();
                quiet = false;
            }
            if quiet {
                return;
            }
        }
    }

    /// A client that is being bridged.
    pub(crate) fn front_opens(&mut self, id: u64, attempt: u64) -> HalfKey {
        let key = front_key(id);
        self.front.open_front(key.connection, accept(), self.now()).unwrap();
        let phases = [Phase::InitialData, Phase::Routed].map(|phase| Change::Phase(phase, None));
        self.front.record(key, phases, self.now()).unwrap();
        self.bridge(id, attempt);
        key
    }

    pub(crate) fn bridge(&mut self, id: u64, attempt: u64) {
        let changes = [Change::Phase(Phase::Connecting, None), Change::Bridge(INNER, Attempt(attempt))];
        self.front.record(front_key(id), changes, self.now()).unwrap();
    }

    pub(crate) fn give_up(&mut self, id: u64) {
        let changes = [Change::GiveUp, Change::Phase(Phase::Held, None)];
        self.front.record(front_key(id), changes, self.now()).unwrap();
    }

    pub(crate) fn inner_opens(&mut self, id: u64, attempt: u64) -> (HalfKey, Arc<Traffic>) {
        let key = inner_key(id, attempt);
        let arrival = self.inner.arrive();
        let now = self.now();
        let traffic =
            self.inner.open_inner(arrival, key.connection, key.attempt, FRONT, accept(), now).unwrap();
        self.inner.record(key, [Change::Phase(Phase::TlsHandshake, None)], now).unwrap();
        (key, traffic)
    }

    pub(crate) fn close_front(&mut self, id: u64, reason: Reason) {
        let now = self.now();
        self.front.close(front_key(id), ending(Role::Front, reason), now).unwrap();
    }

    pub(crate) fn close_inner(&mut self, id: u64, attempt: u64, reason: Reason) {
        let now = self.now();
        self.inner.close(inner_key(id, attempt), ending(Role::Inner, reason), now).unwrap();
    }

    pub(crate) fn front_half(&self, id: u64) -> &Half {
        self.front.half(front_key(id)).unwrap()
    }

    pub(crate) fn inner_half(&self, id: u64, attempt: u64) -> &Half {
        self.inner.half(inner_key(id, attempt)).unwrap()
    }
}

pub(crate) const fn now(time: Duration) -> Now {
    Now { mono: time, active: time, wall: Wall(1_700_000_000_000_000) }
}

pub(crate) fn front_key(id: u64) -> HalfKey {
    HalfKey::front(ConnectionId(id.into()), FRONT)
}

pub(crate) fn inner_key(id: u64, attempt: u64) -> HalfKey {
    HalfKey::inner(ConnectionId(id.into()), INNER, Attempt(attempt))
}

pub(crate) fn accept() -> Arc<Accept> {
    let address = ([127, 0, 0, 1], 1).into();
    let source = AddressSource::Socket;
    Arc::new(Accept {
        listener: "127.0.0.1:1".into(),
        client: address,
        remote: address,
        local: address,
        source,
        at: Wall(1),
    })
}

pub(crate) fn ending(role: Role, reason: Reason) -> Ending {
    let seen = Observation::new(role, reason, None, Duration::ZERO);
    Ending { observations: vec![seen], ..Ending::default() }
}
