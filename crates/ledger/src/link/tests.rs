//! A peer that says anything, and what progress and liveness promise.
//!
//! *Owns* the hostile peer: positions at the edges, halves that shrink, snapshots that never end. *Never*
//! sends what the type system forbids. *Invariant*: whatever comes, nothing panics, nothing grows without
//! bound, and the victim's own laws hold.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::digest::{Digest, splitmix64};
use crate::evidence::{End, HopCount, LegName, Observation};
use crate::half::{HalfUpdate, Hop, LogEntry, Settlement, Tls};
use crate::id::{Attempt, ConnectionId};
use crate::ledger::{Change, LedgerLimits};
use crate::phase::Phase;
use crate::reason::{Initiator, Reason};
use crate::rig::{FRONT, H, INNER, Pair, accept, ending, front_key, inner_key, now};
use crate::session::Rhythm;
use crate::tally::Tally;
use crate::termination::{SettledFrom, only};
use crate::time::Wall;
use crate::traffic::{Direction, TrafficTotals};

/// A process that lies, and its victim.
struct Liar {
    chance: u64,
    victim: Ledger,
    peer: InstanceId,
    role: Role,
    at: Option<SessionKey>,
    session: u64,
    attempts: u64,
    time: Duration,
}

impl Liar {
    fn new(seed: u64) -> Self {
        let (role, victim, peer) = match seed % 2 {
            0 => (Role::Inner, FRONT, INNER),
            _ => (Role::Front, INNER, FRONT),
        };
        let limits = LedgerLimits { closed_records: 4, ..LedgerLimits::default() };
        let victim = Ledger::new(victim, role.peer(), limits, Rhythm::default());
        let time = Duration::from_secs(1);
        Self { chance: seed, victim, peer, role, at: None, session: 0, attempts: 0, time }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.chance = self.chance.wrapping_add(1);
        splitmix64(self.chance) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn applied(&self) -> u64 {
        self.victim.peers.get(&self.peer).map_or(0, |peer| peer.mirror.applied())
    }

    /// A number from where arithmetic goes wrong.
    fn edge(&mut self) -> u64 {
        let applied = self.applied();
        match self.below(9) {
            0 => 0,
            1 => u64::MAX,
            2 => u64::MAX - 1,
            3 => applied,
            4 => applied.saturating_add(1),
            5 => 1 << 63,
            _ => self.below(6),
        }
    }

    fn step(&mut self) {
        let now = now(self.time);
        let Some(at) = self.at else { return self.hello() };
        let message = match self.below(12) {
            0..4 => self.batch(),
            4 => self.true_digest(),
            5 | 6 => self.chunk(),
            7 => Message::Ack(Ack { applied: self.edge(), chunks: self.edge() }),
            8 => Message::Heartbeat { position: self.edge() },
            9 => Message::Progress(vec![(self.key(), self.totals())]),
            10 => return self.own(),
            _ if self.one_in(6) => Message::Bye { through: self.edge() },
            _ => {
                let pause = self.below(1_500);
                self.time += Duration::from_millis(pause);
                return self.victim.tick(now);
            }
        };
        if self.victim.receive(at, message, now).is_err() {
            self.at = None;
        }
        for _ in 0..20 {
            match self.victim.next(at, now) {
                Next::Send(_) => {}
                Next::Wait(_) => break,
                Next::End(_) => {
                    self.at = None;
                    break;
                }
            }
        }
    }

    fn hello(&mut self) {
        self.session += 1;
        let resume = (!self.one_in(3)).then(|| Resume { peer: self.victim.instance(), applied: self.edge() });
        let session = if self.one_in(40) { u64::MAX } else { self.session };
        let max_live = self.edge();
        let hello = Hello { instance: self.peer, role: self.role, session, max_live, resume };
        let now = now(self.time);
        let begun = match self.role {
            Role::Inner => self.victim.answer(&hello, now).map(|(at, _)| at),
            Role::Front => {
                self.victim.dial(session);
                self.victim.established(session, &hello, now)
            }
        };
        self.at = begun.ok();
        self.victim.tick(now);
        if self.at.is_none() {
            self.time += H * 61;
        }
    }

    fn key(&mut self) -> HalfKey {
        let honest = self.role == Role::Front && !self.one_in(20);
        let attempt = if honest { 0 } else { self.below(4) };
        let instance = if self.one_in(50) { InstanceId(9) } else { self.peer };
        HalfKey { connection: ConnectionId(self.below(4).into()), instance, attempt: Attempt(attempt) }
    }

    fn totals(&mut self) -> TrafficTotals {
        let mut totals = TrafficTotals {
            requests_finished: self.edge(),
            requests_started: self.edge(),
            ..Default::default()
        };
        totals.meters[0][0].bytes = self.edge();
        totals
    }

    fn update(&mut self, seq: u64) -> HalfUpdate {
        let reason = Reason::ALL[self.below(Reason::ALL.len() as u64) as usize];
        let seen = Observation::new(self.role, reason, Some(LegName::Hop), Duration::MAX);
        let hop = HopCount { sent: self.edge(), received: self.edge(), read_to_eof: self.one_in(2) };
        let end = End {
            phase: Phase::Unknown(77),
            observations: vec![seen],
            suspended: Duration::MAX,
            hop,
            undelivered: self.edge(),
            at: Wall(self.edge()),
            age: Duration::MAX,
        };
        let settlement = Settlement {
            cause: only(&end, self.role),
            from: [SettledFrom::Both, SettledFrom::Alone][self.below(2) as usize],
            late: vec!["late".into(); self.below(3) as usize],
        };
        let key = self.key();
        let ended = self.one_in(3);
        let honest = !self.one_in(12);
        let phase = if ended && honest { 14 } else { self.below(14) as u8 };
        let bridged = (!self.one_in(4)).then(|| (self.victim.instance(), Attempt(self.below(4))));
        let tls = Tls { version: "x".into(), cipher: "x".into(), alpn: None, resumed: false };
        HalfUpdate {
            seq,
            key,
            role: if self.one_in(40) { self.role.peer() } else { self.role },
            front_instance: if self.role == Role::Front { self.peer } else { self.victim.instance() },
            opened_seq: self.edge(),
            accept: (!self.one_in(6)).then(accept),
            routing: None,
            hop: self
                .one_in(2)
                .then(|| Arc::new(Hop { bridged, attempts: self.below(2) as u32, ..Hop::default() })),
            tls: self.one_in(4).then(|| Arc::new(tls)),
            target: None,
            phase: Phase::from_number(phase),
            half_closed: None,
            log: (0..self.below(40))
                .map(|_| LogEntry { seq: self.edge(), phase: Phase::Held, after: Duration::MAX.into() })
                .collect(),
            log_dropped: if self.one_in(4) { u32::MAX } else { 0 },
            armed: Arc::from([]),
            traffic: self.totals(),
            end: (ended || !honest && self.one_in(2)).then(|| Arc::new(end)),
            settlement: (ended && self.one_in(2) || !honest).then(|| Arc::new(settlement)),
        }
    }

    fn batch(&mut self) -> Message {
        let honest = !self.one_in(8);
        let after = if honest { self.applied() } else { self.edge() };
        let mut through = after;
        let mut halves = Vec::new();
        for _ in 0..self.below(4) {
            through = through.saturating_add(1 + self.below(3));
            let seq = if self.one_in(20) { self.edge() } else { through };
            halves.push(self.update(seq));
        }
        let through = if self.one_in(20) { self.edge() } else { through };
        let digest = self.one_in(20).then(Digest::default);
        Message::Batch(Batch { after, through, horizon: self.edge(), halves, digest })
    }

    /// An empty batch that says of the mirror what the mirror says itself: the lies so far are believed.
    fn true_digest(&mut self) -> Message {
        let digest = self.victim.peers.get(&self.peer).map(|peer| *peer.mirror.digest());
        let applied = self.applied();
        Message::Batch(Batch {
            after: applied,
            through: applied,
            horizon: self.edge(),
            halves: Vec::new(),
            digest,
        })
    }

    fn chunk(&mut self) -> Message {
        let index = if self.one_in(6) { self.edge() } else { 0 };
        let through = if self.one_in(3) { self.edge() } else { self.below(40) };
        let number = self.below(5);
        let halves: Vec<HalfUpdate> = (0..number)
            .map(|n| {
                let seq = if self.one_in(9) { self.edge() } else { n.min(through) };
                self.update(seq)
            })
            .collect();
        let base = Tally {
            opened: self.edge(),
            closed: self.edge(),
            settled: [
                ((Reason::Finished, Initiator::Client), self.edge()),
                ((Reason::NoRoute, Initiator::Client), self.edge()),
            ]
            .into(),
            requests: self.edge(),
            bytes: [[self.edge(); 2]; 3],
            ..Tally::default()
        };
        let base = self.one_in(2).then_some(base);
        let mut digest = Digest::default();
        if let Some(base) = &base {
            (digest.opened, digest.closed) = (base.opened, base.closed);
        }
        for update in &halves {
            digest.opened = digest.opened.wrapping_add(1);
            match update.end {
                None => digest.add(update.key, update.phase),
                Some(_) => digest.closed = digest.closed.wrapping_add(1),
            }
        }
        let digest = (!self.one_in(3)).then_some(digest);
        Message::Snapshot(SnapshotChunk { index, through, base, halves, digest })
    }

    /// The victim has a life of its own.
    fn own(&mut self) {
        let now = now(self.time);
        let connection = ConnectionId(self.below(4).into());
        let which = self.below(3) as usize;
        let own = self.victim.live.keys().nth(which).copied();
        self.attempts += 1;
        let attempt = Attempt(self.attempts);
        let open = self.one_in(2);
        match (own, self.role) {
            (Some(key), _) if self.one_in(2) => {
                let reason = Reason::ALL[self.below(Reason::ALL.len() as u64) as usize];
                self.victim.close(key, ending(self.role.peer(), reason), now).unwrap();
            }
            (Some(key), Role::Inner) if !open => {
                let change = if self.one_in(3) { Change::GiveUp } else { Change::Bridge(self.peer, attempt) };
                self.victim.record(key, [change], now).unwrap();
            }
            (_, Role::Inner) => drop(self.victim.open_front(connection, accept(), now)),
            (_, Role::Front) => {
                let arrival = self.victim.arrive();
                drop(self.victim.open_inner(arrival, connection, attempt, self.peer, accept(), now));
            }
        }
    }

    fn judge(&self) {
        let now = now(self.time);
        let audit = self.victim.audit(now);
        let lied = "hop bytes sent = received, or the gap is reported";
        for law in audit.laws.iter().filter(|law| law.peer.is_none() && law.name != lied) {
            assert!(law.holds, "{law:?}");
        }
        self.victim.counters(now);
        self.victim.peer_status(now);
        self.victim.walk(None, crate::Heading::Older, 3, now);
        if let Some(peer) = self.victim.peers.get(&self.peer) {
            peer.mirror.check();
        }
    }
}

/// R-29, P10: whatever a peer sends, the ledger neither panics (arithmetic included: this build checks it)
/// nor loses a law of its own, and the mirror's sums stay those of its halves.
#[test]
fn a_peer_that_says_anything_harms_nobody() {
    for seed in 0..600 {
        let mut liar = Liar::new(seed << 32 | seed);
        for _ in 0..150 {
            liar.step();
            liar.judge();
        }
    }
}

fn described(key: HalfKey, seq: u64) -> HalfUpdate {
    let mut other = Ledger::new(key.instance, Role::Inner, LedgerLimits::default(), Rhythm::default());
    let arrival = other.arrive();
    other.open_inner(arrival, key.connection, key.attempt, FRONT, accept(), now(H)).unwrap();
    other.half(key).unwrap().update_since(0, seq)
}

/// P10: a snapshot whose last chunk never comes does not fill the memory.
#[test]
fn an_endless_snapshot_ends_the_session() {
    let mut pair = Pair::new();
    let (at, now) = (pair.at_front(), pair.now());
    let template = described(inner_key(1, 1), 1);
    pair.front.peers.get_mut(&INNER).unwrap().mirror.most = 10_000;
    let mut sent = 0;
    for index in 0..1_000 {
        let halves: Vec<HalfUpdate> = (0..crate::message::MAX_HALVES as u64)
            .map(|n| {
                let mut update = template.clone();
                update.key.connection = ConnectionId((sent as u64 + n).into());
                update
            })
            .collect();
        sent += halves.len();
        let chunk = SnapshotChunk { index, through: 1, base: None, halves, digest: None };
        match pair.front.receive(at, Message::Snapshot(chunk), now) {
            Ok(()) => assert!(sent <= 10_000, "{sent} halves are staged"),
            Err(why) => {
                assert_eq!(why, SessionEnd::TooManyHalves);
                break;
            }
        }
    }
    assert_eq!(pair.front.peers[&INNER].mirror.staged_len(), 0, "what was staged is let go");
}

/// Architecture page, limits: refused clients have records too while they are sent away, so a smartproxy at
/// its limit has more live records than its limit says. That is no reason to lose the control channel.
#[test]
fn a_flood_of_refused_clients_does_not_cost_the_session() {
    let limits = LedgerLimits { max_live: 100, ..LedgerLimits::default() };
    let mut pair = Pair::with(limits, LedgerLimits::default());
    for id in 0..5_000 {
        pair.front.open_front(ConnectionId(id), accept(), pair.now()).unwrap();
    }
    pair.sync();
    assert_eq!(pair.inner.peers[&FRONT].mirror.live_len(), 5_000);
}

/// P6: where a peer stands beyond our journal, it speaks of another life: it gets a snapshot, and its word
/// acknowledges nothing.
#[test]
fn a_resume_beyond_the_journal_is_answered_by_a_snapshot() {
    for applied in [1_000_000, u64::MAX] {
        let mut pair = Pair::new();
        pair.front_opens(1, 1);
        pair.close_front(1, Reason::ClientReset);
        pair.cut();
        let mut hello = pair.inner.dial(pair.session + 1);
        hello.resume = Some(Resume { peer: FRONT, applied });
        let (at, _) = pair.front.answer(&hello, pair.now()).unwrap();
        assert_eq!(pair.front.peer_status(pair.now())[0].acked, 0);
        assert!(!pair.front.is_drained(at));
        let snapshot = std::iter::from_fn(|| match pair.front.next(at, pair.now()) {
            Next::Send(message) => Some(message),
            _ => None,
        })
        .any(|message| matches!(message, Message::Snapshot(_)));
        assert!(snapshot);
    }
}

/// Synchronisation 3: acknowledging a chunk that was never sent is as wrong as a position never reached.
#[test]
fn a_chunk_that_was_never_sent_cannot_be_acknowledged() {
    let mut pair = Pair::new();
    let ack = Message::Ack(Ack { applied: 0, chunks: 1_000 });
    assert_eq!(pair.front.receive(pair.at_front(), ack, pair.now()), Err(SessionEnd::BadAck));
}

/// Synchronisation 5: a half that moved bytes after its turn in a long round is reported in the next one,
/// also if it has been idle since.
#[test]
fn activity_in_a_long_round_of_progress_is_not_forgotten() {
    let mut pair = Pair::new();
    let traffics: Vec<_> = (1..=3_000_u64).map(|id| pair.inner_opens(id, id).1).collect();
    pair.sync();
    let reported = |pair: &Pair| {
        let mirrored = pair.front.peers[&INNER].mirror.half(inner_key(1, 1)).unwrap();
        mirrored.traffic.meter(LegName::Client, Direction::In).bytes
    };
    let bytes_move = |traffics: &[Arc<crate::Traffic>], pair: &Pair| {
        for traffic in traffics {
            traffic.moved(LegName::Client, Direction::In, 1, pair.now().active);
        }
    };
    while reported(&pair) == 0 {
        bytes_move(&traffics, &pair);
        pair.talk(H / 20);
    }
    // The round has just passed the first half, and goes on for longer than a heartbeat.
    traffics[0].moved(LegName::Client, Direction::In, 1_000, pair.now().active);
    for _ in 0..60 {
        bytes_move(&traffics[1..], &pair);
        pair.talk(H / 20);
    }
    assert!(reported(&pair) > 1_000, "{} bytes are known", reported(&pair));
}

/// Laws: an inner half whose smartproxy was not known when it opened is in flight once it is.
#[test]
fn a_half_that_was_there_before_its_peer_is_in_flight() {
    let mut pair = Pair::new();
    pair.cut();
    pair.inner = Ledger::new(INNER, Role::Inner, LedgerLimits::default(), Rhythm::default());
    pair.inner_opens(5, 5);
    pair.connect();
    pair.talk(H * 3);
    let audit = pair.inner.audit(pair.now());
    assert_eq!(audit.in_flight.len(), 1, "{audit:?}");
    assert!(!audit.balanced);
}

/// Synchronisation 3 and 7: the peer's time to acknowledge begins when something is sent, not when it was
/// pulled: the stream may have had no room in between.
#[test]
fn what_waited_for_room_is_not_owed_meanwhile() {
    let mut pair = Pair::new();
    pair.talk(H * 2);
    for id in 1..=2_000 {
        pair.front_opens(id, id);
    }
    let at = pair.at_front();
    // One batch goes out and is acknowledged; then the stream has no room for almost the whole patience.
    while !matches!(pair.front.next(at, pair.now()), Next::Send(Message::Batch(_))) {}
    let position = pair.front.peers[&INNER].session.as_ref().unwrap().first_unacked().unwrap();
    let ack = |applied| Message::Ack(Ack { applied, chunks: 1 });
    pair.front.receive(at, ack(position), pair.now()).unwrap();
    pair.wait(H * 29 / 10);
    pair.front.receive(at, Message::Heartbeat { position: 0 }, pair.now()).unwrap();
    while !matches!(pair.front.next(at, pair.now()), Next::Send(Message::Batch(_))) {}
    pair.wait(H / 5);
    assert!(!matches!(pair.front.next(at, pair.now()), Next::End(_)), "it had a fifth of a heartbeat");
}

/// Laws, "in flight": two heartbeats from its entry or from the end of a stale spell, whichever is later.
#[test]
fn a_difference_is_excused_while_the_peer_is_stale_and_two_heartbeats_more() {
    let mut pair = Pair::new();
    pair.front_opens(1, 1);
    pair.inner_opens(1, 1);
    let relaying = [Change::Phase(Phase::Relaying, None)];
    pair.front.record(front_key(1), relaying, pair.now()).unwrap();
    pair.sync();
    let excuse = |pair: &Pair| pair.inner.audit(pair.now()).in_flight.first().map(|flight| flight.excuse);
    pair.close_inner(1, 1, Reason::TargetReset);
    pair.wait(H * 15 / 10);
    assert_eq!(excuse(&pair), Some(Some(crate::Excuse::Young)));
    pair.wait(H);
    assert_eq!(excuse(&pair), Some(Some(crate::Excuse::PeerStale)), "no heartbeat came for 2.5");
    let heartbeat = |pair: &mut Pair| {
        let (at, now) = (pair.at_inner(), pair.now());
        pair.inner.receive(at, Message::Heartbeat { position: 9 }, now).unwrap();
    };
    heartbeat(&mut pair);
    assert_eq!(excuse(&pair), Some(Some(crate::Excuse::Young)), "the peer may be telling it just now");
    pair.wait(H * 15 / 10);
    heartbeat(&mut pair);
    pair.wait(H);
    assert_eq!(excuse(&pair), Some(None));
    assert!(!pair.inner.audit(pair.now()).balanced);
}

/// Laws, "in flight": a peer that fell silent right after a heartbeat had no time to tell what it was about to.
#[test]
fn a_peer_that_falls_silent_is_judged_for_the_time_it_spoke() {
    let mut pair = Pair::new();
    pair.front_opens(1, 1);
    pair.inner_opens(1, 1);
    pair.front.record(front_key(1), [Change::Phase(Phase::Relaying, None)], pair.now()).unwrap();
    pair.sync();
    pair.close_inner(1, 1, Reason::TargetReset);
    pair.wait(H / 2);
    let (at, now) = (pair.at_inner(), pair.now());
    pair.inner.receive(at, Message::Heartbeat { position: 9 }, now).unwrap();
    for _ in 0..24 {
        pair.wait(H / 10);
        assert!(pair.inner.audit(pair.now()).balanced, "{:?}", pair.inner.audit(pair.now()).in_flight);
    }
}

/// As it is for a front: the keys of the rig are what they say.
#[test]
fn the_bench_joins_what_it_opens() {
    let mut pair = Pair::new();
    pair.front_opens(1, 1);
    pair.inner_opens(1, 1);
    pair.sync();
    assert_eq!(pair.front.half(front_key(1)).unwrap().joined_key(), Some(inner_key(1, 1)));
    assert_eq!((pair.front.joined_live(INNER), pair.inner.joined_live(FRONT)), (1, 1));
    assert!(pair.front.audit(pair.now()).in_flight.is_empty());
}
