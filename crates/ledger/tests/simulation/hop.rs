//! Clients, targets and the hop, as the two processes see them.
//!
//! *Owns* what each side's sockets tell it and when. *Never* tells a process more than its own sockets
//! would. *Invariant*: on one hop, what one side sent arrives at the other in order; nothing else is
//! ordered, least of all against the control channel.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ledger::{
    Accept, AddressSource, Attempt, Change, ConnectionId, Direction, Ending, HalfKey, HopCount, InstanceId,
    LegName, Observation, Phase, Reason, Role, Routing, Tls, Traffic,
};

use crate::world::{Event, FRONT, INNERS, World};

/// One client connection and every hop it ever had.
#[derive(Debug)]
pub(crate) struct Connection {
    /// smartproxy's life that accepted it.
    pub(crate) life: InstanceId,
    pub(crate) front: Side,
    pub(crate) hops: BTreeMap<u64, Hop>,
    pub(crate) current: Option<u64>,
    pub(crate) held_since: Option<Duration>,
}

/// One attempt's hop.
#[derive(Debug)]
pub(crate) struct Hop {
    pub(crate) inner_at: usize,
    pub(crate) inner_life: InstanceId,
    pub(crate) inner: Side,
    front_open: bool,
    arrives: [Duration; 2],
}

/// What one process's sockets have told it about one half.
#[derive(Debug, Default)]
pub(crate) struct Side {
    pub(crate) open: bool,
    observations: Vec<Observation>,
    count: HopCount,
    fin_sent: bool,
    fin_seen: bool,
    traffic: Arc<Traffic>,
}

/// What happens to a connection next.
#[derive(Debug)]
pub(crate) enum Step {
    Decide,
    Bridge,
    HeaderArrives(u64),
    Answer(u64),
    StillNoAnswer(u64),
    /// Something outside the hop, at one side.
    Outside(Role, u64, Reason),
    /// The hop tells `to` something.
    Signal(Role, u64, Signal),
    /// After the other side's FIN, this side finishes too.
    Follow(Role, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Fin { sent: u64 },
    Reset { sent: u64 },
}

const S: Duration = Duration::from_secs(1);
const CLIENT: [Reason; 5] = [
    Reason::ClientClosed,
    Reason::ClientClosed,
    Reason::ClientReset,
    Reason::OperatorClosed,
    Reason::MaxLifetime,
];
const TARGET: [Reason; 6] = [
    Reason::TargetClosed,
    Reason::Finished,
    Reason::TargetReset,
    Reason::InactivityTimeout,
    Reason::OperatorClosed,
    Reason::HttpProtocolError,
];

impl World {
    /// A client connects.
    pub(crate) fn arrive(&mut self) {
        if self.healed {
            return;
        }
        let pause = Duration::from_millis(self.rng.below(self.scenario.arrival_ms));
        self.after(pause, Event::Arrive);
        if !self.processes[FRONT].runs() {
            return;
        }
        self.next_connection += 1;
        let id = ConnectionId(0x0192_0000_0000_7000_8000_0000_0000_0000 | self.next_connection);
        let now = self.processes[FRONT].now(self.time);
        let life = self.processes[FRONT].instance;
        let turned_away = self.rng.one_in(8);
        let Some(ledger) = &mut self.processes[FRONT].ledger else { return };
        if turned_away {
            let seen = Observation::new(Role::Front, Reason::Overloaded, None, Duration::ZERO);
            if ledger.turn_away(id, accept(now.wall), seen, now).is_err() {
                self.fail("a fresh id is taken");
            }
            return self.pump(FRONT);
        }
        let Ok(traffic) = ledger.open_front(id, accept(now.wall), now) else {
            return self.fail("a fresh id is taken");
        };
        let front = Side { open: true, traffic, ..Side::default() };
        let connection = Connection { life, front, hops: BTreeMap::new(), current: None, held_since: None };
        self.connections.insert(id, connection);
        self.later(id, Duration::from_millis(40), Step::Decide);
        self.pump(FRONT);
    }

    fn later(&mut self, id: ConnectionId, max: Duration, step: Step) {
        let delay = self.rng.delay(max);
        self.after(delay, Event::Connection(id, step));
    }

    /// Which process a step happens at, and in which life.
    fn place(&self, id: ConnectionId, step: &Step) -> Option<(usize, InstanceId)> {
        let connection = self.connections.get(&id)?;
        let inner = |attempt: &u64| connection.hops.get(attempt).map(|hop| (hop.inner_at, hop.inner_life));
        match step {
            Step::Decide
            | Step::Bridge
            | Step::Answer(_)
            | Step::StillNoAnswer(_)
            | Step::Outside(Role::Front, ..)
            | Step::Signal(Role::Front, ..)
            | Step::Follow(Role::Front, _) => Some((FRONT, connection.life)),
            Step::HeaderArrives(attempt)
            | Step::Outside(_, attempt, _)
            | Step::Signal(_, attempt, _)
            | Step::Follow(_, attempt) => inner(attempt),
        }
    }

    pub(crate) fn step(&mut self, id: ConnectionId, step: Step) {
        let Some((at, life)) = self.place(id, &step) else { return };
        if self.processes[at].ledger.is_none() || self.processes[at].instance != life {
            if let Step::HeaderArrives(attempt) = step {
                self.signal(id, Role::Front, attempt, Signal::Reset { sent: 0 });
            }
            return;
        }
        if self.processes[at].stopped {
            self.processes[at].frozen.push_back(Event::Connection(id, step));
            return;
        }
        match step {
            Step::Decide => self.decide(id),
            Step::Bridge => self.bridge(id),
            Step::HeaderArrives(attempt) => self.header_arrives(id, attempt),
            Step::Answer(attempt) => self.answered(id, attempt),
            Step::StillNoAnswer(attempt) => self.still_no_answer(id, attempt),
            Step::Outside(role, attempt, reason) => self.outside(id, role, attempt, reason),
            Step::Signal(role, attempt, signal) => self.hop_signal(id, role, attempt, signal),
            Step::Follow(role, attempt) => self.follow(id, role, attempt),
        }
        self.pump(at);
    }

    fn record(&mut self, at: usize, key: HalfKey, changes: Vec<Change>) {
        let now = self.processes[at].now(self.time);
        let Some(ledger) = &mut self.processes[at].ledger else { return };
        if let Err(why) = ledger.record(key, changes, now) {
            self.fail(format!("process {at}, {key:?}: {why:?}"));
        }
    }

    fn key(&self, id: ConnectionId, role: Role, attempt: u64) -> Option<HalfKey> {
        let connection = self.connections.get(&id)?;
        Some(match role {
            Role::Front => HalfKey::front(id, connection.life),
            Role::Inner => HalfKey::inner(id, connection.hops.get(&attempt)?.inner_life, Attempt(attempt)),
        })
    }

    fn side(&mut self, id: ConnectionId, role: Role, attempt: u64) -> Option<&mut Side> {
        let connection = self.connections.get_mut(&id)?;
        match role {
            Role::Front => Some(&mut connection.front).filter(|side| side.open),
            Role::Inner => {
                connection.hops.get_mut(&attempt).map(|hop| &mut hop.inner).filter(|side| side.open)
            }
        }
    }

    fn decide(&mut self, id: ConnectionId) {
        let Some(key) = self.key(id, Role::Front, 0) else { return };
        let phase = |phase| Change::Phase(phase, None);
        let routing = Routing { entry: Some("sim".into()), generation: 7, ..Routing::default() };
        let routing = Change::Routing(Arc::new(routing));
        self.record(FRONT, key, vec![phase(Phase::InitialData), routing, phase(Phase::Routed)]);
        match self.rng.below(8) {
            0 => self.outside(id, Role::Front, 0, Reason::NoRoute),
            1 => {
                self.record(FRONT, key, vec![phase(Phase::Connecting), phase(Phase::Relaying)]);
                let reason =
                    self.rng.pick(&[Reason::TargetReset, Reason::ClientReset, Reason::InactivityTimeout]);
                self.later(id, S * 6, Step::Outside(Role::Front, 0, reason));
            }
            _ => self.bridge(id),
        }
    }

    fn bridge(&mut self, id: ConnectionId) {
        let Some(key) = self.key(id, Role::Front, 0) else { return };
        if self.side(id, Role::Front, 0).is_none() {
            return;
        }
        let connection = self.connections.get(&id).expect("just used");
        if connection.current.is_some() {
            return;
        }
        let held = connection.held_since;
        let ready: Vec<usize> = INNERS
            .into_iter()
            .filter(|at| {
                let instance = self.processes[*at].instance;
                self.processes[FRONT].sessions.iter().any(|session| session.peer == instance)
            })
            .collect();
        if ready.is_empty() {
            let since = held.unwrap_or(self.time);
            if held.is_none() {
                self.record(FRONT, key, vec![Change::Phase(Phase::Held, None)]);
            }
            self.connections.get_mut(&id).expect("just used").held_since = Some(since);
            if self.time - since > S * 10 {
                return self.outside(id, Role::Front, 0, Reason::HoldExpired);
            }
            self.after(Duration::from_millis(200), Event::Connection(id, Step::Bridge));
            return;
        }
        let at = self.rng.pick(&ready);
        self.next_attempt += 1;
        let (attempt, life) = (self.next_attempt, self.processes[at].instance);
        let bridge = Change::Bridge(life, Attempt(attempt));
        self.record(FRONT, key, vec![Change::Phase(Phase::Connecting, None), bridge]);
        let arrives = self.time + self.rng.delay(Duration::from_millis(60));
        let hop = Hop {
            inner_at: at,
            inner_life: life,
            inner: Side::default(),
            front_open: true,
            arrives: [arrives; 2],
        };
        let connection = self.connections.get_mut(&id).expect("just used");
        connection.current = Some(attempt);
        connection.held_since = None;
        connection.hops.insert(attempt, hop);
        self.after(arrives - self.time, Event::Connection(id, Step::HeaderArrives(attempt)));
        self.after(S * 2, Event::Connection(id, Step::StillNoAnswer(attempt)));
    }

    fn header_arrives(&mut self, id: ConnectionId, attempt: u64) {
        let Some(key) = self.key(id, Role::Inner, attempt) else { return };
        let front_life = self.connections[&id].life;
        let at = self.connections[&id].hops[&attempt].inner_at;
        let now = self.processes[at].now(self.time);
        let Some(ledger) = &mut self.processes[at].ledger else { return };
        let arrival = ledger.arrive();
        let opened = ledger.open_inner(arrival, id, Attempt(attempt), front_life, accept(now.wall), now);
        let Ok(traffic) = opened else {
            return self.fail(format!("{key:?} is taken"));
        };
        self.record(at, key, vec![Change::Phase(Phase::TlsHandshake, None)]);
        if self.rng.one_in(2) {
            let tls = Tls { version: "TLSv1.3".into(), cipher: "sim".into(), alpn: None, resumed: false };
            let idle = Change::Phase(Phase::HttpIdle, None);
            self.record(at, key, vec![Change::Tls(Arc::new(tls)), idle]);
        }
        let connection = self.connections.get_mut(&id).expect("just used");
        let hop = connection.hops.get_mut(&attempt).expect("just used");
        hop.inner = Side { open: true, traffic, ..Side::default() };
        self.later(id, Duration::from_millis(80), Step::Answer(attempt));
        let reason = self.rng.pick(&TARGET);
        self.later(id, S * 8, Step::Outside(Role::Inner, attempt, reason));
    }

    fn answered(&mut self, id: ConnectionId, attempt: u64) {
        let current = self.connections.get(&id).is_some_and(|c| c.current == Some(attempt));
        if !current || self.side(id, Role::Front, 0).is_none() {
            return;
        }
        let Some(key) = self.key(id, Role::Front, 0) else { return };
        if self.phase_of(FRONT, key) == Some(Phase::Connecting) {
            self.record(FRONT, key, vec![Change::Phase(Phase::Relaying, None)]);
            let reason = self.rng.pick(&CLIENT);
            self.later(id, S * 8, Step::Outside(Role::Front, attempt, reason));
        }
    }

    fn still_no_answer(&mut self, id: ConnectionId, attempt: u64) {
        let Some(key) = self.key(id, Role::Front, 0) else { return };
        let current = self.connections[&id].current == Some(attempt);
        if current && self.connections[&id].front.open && self.phase_of(FRONT, key) == Some(Phase::Connecting)
        {
            self.give_up(id, key, attempt);
        }
    }

    /// Back to HELD: the hop's socket is closed with RST, another attempt follows.
    fn give_up(&mut self, id: ConnectionId, key: HalfKey, attempt: u64) {
        self.record(FRONT, key, vec![Change::GiveUp, Change::Phase(Phase::Held, None)]);
        let now = self.time;
        let connection = self.connections.get_mut(&id).expect("asked before");
        connection.current = None;
        connection.held_since = Some(now);
        connection.front.count = HopCount::default();
        connection.front.observations.clear();
        connection.front.fin_seen = false;
        if let Some(hop) = connection.hops.get_mut(&attempt) {
            hop.front_open = false;
        }
        self.signal(id, Role::Inner, attempt, Signal::Reset { sent: 0 });
        self.after(Duration::from_millis(100), Event::Connection(id, Step::Bridge));
    }

    fn phase_of(&self, at: usize, key: HalfKey) -> Option<Phase> {
        let ledger = self.processes[at].ledger.as_ref()?;
        ledger.half(key).map(|half| half.phase)
    }

    fn outside(&mut self, id: ConnectionId, role: Role, attempt: u64, reason: Reason) {
        let time = self.time;
        let Some(side) = self.side(id, role, attempt) else { return };
        let leg = match reason {
            Reason::ClientClosed | Reason::ClientReset => Some(LegName::Client),
            Reason::TargetClosed | Reason::TargetReset => Some(LegName::Target),
            _ => None,
        };
        let observation = Observation::new(role, reason, leg, time);
        let hard = observation.class.is_hard();
        side.observations.push(observation);
        if hard {
            return self.finish(id, role, attempt, true);
        }
        self.send_fin(id, role, attempt);
    }

    /// This side has nothing more to send: FIN on the hop; both FINs end the half.
    fn send_fin(&mut self, id: ConnectionId, role: Role, attempt: u64) {
        let sent = self.rng.below(100_000);
        let time = self.time;
        let Some(side) = self.side(id, role, attempt) else { return };
        if side.fin_sent {
            return;
        }
        side.fin_sent = true;
        side.count.sent = sent;
        side.traffic.moved(LegName::Hop, Direction::Out, sent, time);
        side.traffic.request_started();
        let both = side.fin_seen;
        self.signal(id, role.peer(), attempt, Signal::Fin { sent });
        if both {
            return self.finish(id, role, attempt, false);
        }
        self.half_closed(id, role, attempt);
        self.later(id, S * 5, Step::Outside(role, attempt, Reason::HalfCloseTimeout));
    }

    fn half_closed(&mut self, id: ConnectionId, role: Role, attempt: u64) {
        let Some(key) = self.key(id, role, attempt) else { return };
        let at = self.at(id, role, attempt);
        if let Some(Phase::Relaying | Phase::TlsHandshake | Phase::HttpIdle) = self.phase_of(at, key) {
            self.record(at, key, vec![Change::Phase(Phase::HalfClosed, Some(LegName::Hop))]);
        }
    }

    fn at(&self, id: ConnectionId, role: Role, attempt: u64) -> usize {
        match role {
            Role::Front => FRONT,
            Role::Inner => self.connections[&id].hops[&attempt].inner_at,
        }
    }

    fn hop_signal(&mut self, id: ConnectionId, role: Role, attempt: u64, signal: Signal) {
        if role == Role::Front && self.connections.get(&id).is_none_or(|c| c.current != Some(attempt)) {
            return; // A socket that was given up tells nothing.
        }
        let portion = self.rng.next();
        let time = self.time;
        let Some(key) = self.key(id, role, attempt) else { return };
        let connecting = role == Role::Front && self.phase_of(FRONT, key) == Some(Phase::Connecting);
        let Some(side) = self.side(id, role, attempt) else { return };
        match signal {
            Signal::Fin { .. } | Signal::Reset { .. } if connecting => self.give_up(id, key, attempt),
            Signal::Fin { sent } => {
                side.fin_seen = true;
                side.count.received = sent;
                side.count.read_to_eof = true;
                side.observations.push(Observation::new(role, Reason::HopClosed, Some(LegName::Hop), time));
                if side.fin_sent {
                    return self.finish(id, role, attempt, false);
                }
                self.half_closed(id, role, attempt);
                self.later(id, S, Step::Follow(role, attempt));
            }
            Signal::Reset { sent } => {
                if !side.count.read_to_eof {
                    side.count.received = portion % (sent + 1);
                }
                side.observations.push(Observation::new(role, Reason::HopReset, Some(LegName::Hop), time));
                self.finish(id, role, attempt, true);
            }
        }
    }

    /// The hop said FIN; the outside follows, usually in order.
    fn follow(&mut self, id: ConnectionId, role: Role, attempt: u64) {
        let reason = match (role, self.rng.below(6)) {
            (Role::Front, 0) => Reason::ClientReset,
            (Role::Inner, 0) => Reason::TargetReset,
            (Role::Front, 1..4) => Reason::ClientClosed,
            (Role::Inner, 1..4) => Reason::TargetClosed,
            _ => return self.send_fin(id, role, attempt),
        };
        self.outside(id, role, attempt, reason);
    }

    /// Sockets first: then the half ends.
    fn finish(&mut self, id: ConnectionId, role: Role, attempt: u64, reset: bool) {
        let Some(key) = self.key(id, role, attempt) else { return };
        let (at, attempt) = match role {
            Role::Front => (FRONT, self.connections[&id].current.unwrap_or(0)),
            Role::Inner => (self.at(id, role, attempt), attempt),
        };
        let more = self.rng.below(5_000);
        let time = self.time;
        let Some(side) = self.side(id, role, attempt) else { return };
        side.open = false;
        if reset && !side.fin_sent {
            side.count.sent += more;
        }
        let sent = side.count.sent;
        side.traffic.moved(LegName::Client, Direction::In, more, time);
        side.traffic.request_finished();
        let ending =
            Ending { observations: std::mem::take(&mut side.observations), hop: side.count, undelivered: 0 };
        if reset {
            self.signal(id, role.peer(), attempt, Signal::Reset { sent });
        }
        let now = self.processes[at].now(self.time);
        let Some(ledger) = &mut self.processes[at].ledger else { return };
        if let Err(why) = ledger.close(key, ending, now) {
            self.fail(format!("closing {key:?}: {why:?}"));
        }
    }

    /// Sends a signal along one hop, after what was sent before in that direction.
    fn signal(&mut self, id: ConnectionId, to: Role, attempt: u64, signal: Signal) {
        let longest = if self.rng.one_in(40) { 800 } else { 120 };
        let delay = self.rng.delay(Duration::from_millis(longest));
        let Some(hop) = self.connections.get_mut(&id).and_then(|c| c.hops.get_mut(&attempt)) else { return };
        if to == Role::Front && !hop.front_open {
            return;
        }
        let at = (self.time + delay).max(hop.arrives[to as usize]);
        hop.arrives[to as usize] = at;
        let wait = at - self.time;
        self.after(wait, Event::Connection(id, Step::Signal(to, attempt, signal)));
    }

    /// A process died: the kernel resets every hop socket it had.
    pub(crate) fn hops_after_crash(&mut self, victim: usize, life: InstanceId) {
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            let connection = self.connections.get_mut(&id).expect("listed");
            let mut resets = Vec::new();
            if victim == FRONT && connection.life == life {
                connection.front.open = false;
                let open = connection.hops.iter().filter(|(_, hop)| hop.front_open);
                resets.extend(open.map(|(attempt, _)| (Role::Inner, *attempt)));
            }
            for (attempt, hop) in &mut connection.hops {
                if hop.inner_life == life && hop.inner_at == victim {
                    hop.inner.open = false;
                    resets.push((Role::Front, *attempt));
                }
            }
            for (to, attempt) in resets {
                self.signal(id, to, attempt, Signal::Reset { sent: 0 });
            }
        }
    }
}

fn accept(at: ledger::Wall) -> Arc<Accept> {
    let address = SocketAddr::from(([127, 0, 0, 1], 443));
    let source = AddressSource::Socket;
    Arc::new(Accept { listener: "sim".into(), client: address, remote: address, local: address, source, at })
}
