//! The world: three processes, two control links, clients, targets, hops, and what goes wrong with them.
//!
//! *Owns* simulated time and the queue of events. *Never* lets the hop and the control channel be ordered
//! against each other. *Invariant*: whatever happens, `heal` leads to a state in which every law holds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use ledger::{ConnectionId, InstanceId, Message, Next, Rhythm, Role, SessionEnd, SessionKey, Unappliable};

use crate::hop::Connection;
use crate::process::Process;
use crate::rng::Rng;
use crate::{Channel, Scenario};

pub(crate) const FRONT: usize = 0;
pub(crate) const INNERS: [usize; 2] = [1, 2];
/// Halves looked at in one go, where the work may be parted.
const PART: usize = 16;

/// What may happen at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// A process's own tick.
    Tick(usize),
    /// A control message arrives at `to`; it belongs to `session` as seen by the receiver.
    Control {
        to: usize,
        life: InstanceId,
        session: SessionKey,
        message: Box<Message>,
    },
    /// A process goes on with what a snapshot changed.
    ReceiveOn {
        at: usize,
        life: InstanceId,
        session: SessionKey,
    },
    /// A dial's Hello reaches smartproxy.
    Hello {
        from: usize,
        hello: ledger::Hello,
        link: u64,
    },
    /// The answer reaches networkproxy.
    Answer {
        to: usize,
        number: u64,
        hello: ledger::Hello,
        link: u64,
    },
    /// A stream breaks, as seen by one side.
    Broken {
        at: usize,
        session: SessionKey,
    },
    /// networkproxy dials.
    Dial(usize),
    /// A step of one connection's world.
    Connection(ConnectionId, crate::hop::Step),
    /// A new client.
    Arrive,
    /// Something goes wrong.
    Mischief,
    Restart(usize),
    Continue(usize),
    LinkUp(usize),
}

/// One control link: which stream is up, how slow it is.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// Counts streams; a message of an older one may still arrive.
    pub(crate) generation: u64,
    pub(crate) cut: bool,
    pub(crate) slow: bool,
    /// Until then what was sent while it was slow may be on its way.
    pub(crate) slow_until: Duration,
    /// Streams that a cut has doomed: nothing of them arrives any more, only silence tells.
    pub(crate) doomed: BTreeSet<(InstanceId, u64)>,
}

impl Link {
    fn mend(&mut self, now: Duration) {
        self.cut = false;
        if std::mem::take(&mut self.slow) {
            self.slow_until = now + Duration::from_secs(4);
        }
    }
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) time: Duration,
    pub(crate) processes: Vec<Process>,
    pub(crate) links: BTreeMap<usize, Link>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    pub(crate) rhythm: Rhythm,
    pub(crate) scenario: Scenario,
    pub(crate) healed: bool,
    /// Updates that the channel altered.
    pub(crate) altered: u64,
    delivered: u64,
    pub(crate) next_attempt: u64,
    pub(crate) next_connection: u128,
    /// The first violation.
    pub(crate) violation: Option<String>,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    events: BTreeMap<usize, Event>,
    scheduled: u64,
}

impl World {
    pub(crate) fn new(scenario: Scenario) -> Self {
        let mut world = Self {
            rng: Rng::new(scenario.seed),
            time: Duration::ZERO,
            processes: vec![
                Process::new(Role::Front, 1),
                Process::new(Role::Inner, 2),
                Process::new(Role::Inner, 3),
            ],
            links: INNERS.iter().map(|at| (*at, Link::default())).collect(),
            connections: BTreeMap::new(),
            rhythm: Rhythm::default(),
            scenario,
            healed: false,
            altered: 0,
            delivered: 0,
            next_attempt: 0,
            next_connection: 0,
            violation: None,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            scheduled: 0,
        };
        for at in 0..world.processes.len() {
            world.start(at);
        }
        world.after(Duration::ZERO, Event::Arrive);
        world.after(Duration::from_millis(700), Event::Mischief);
        world
    }

    /// Schedules an event.
    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.scheduled += 1;
        let id = self.scheduled as usize;
        self.queue.push(Reverse((self.time + delay, self.scheduled, id)));
        self.events.insert(id, event);
    }

    /// Schedules an event after `least` to `least + spread` milliseconds.
    pub(crate) fn within(&mut self, least: u64, spread: u64, event: Event) {
        let delay = Duration::from_millis(least + self.rng.below(spread));
        self.after(delay, event);
    }

    pub(crate) fn run_until(&mut self, end: Duration) {
        while self.violation.is_none() {
            let Some(Reverse((at, _, id))) = self.queue.pop() else { return };
            if at > end {
                self.queue.push(Reverse((at, 0, id)));
                self.time = end;
                return;
            }
            self.time = at;
            let event = self.events.remove(&id).expect("scheduled once");
            self.handle(event);
        }
    }

    pub(crate) fn fail(&mut self, why: impl Into<String>) {
        if self.violation.is_none() {
            self.violation = Some(format!("at {:?}: {}", self.time, why.into()));
        }
    }

    pub(crate) fn start(&mut self, at: usize) {
        let limits = self.scenario.limits;
        self.processes[at].start(self.time, limits, self.rhythm);
        #[allow(unused_mut)]
        if let (Some(fault), Some(ledger)) = (self.scenario.fault, &mut self.processes[at].ledger) {
            ledger.plant(fault);
        }
        self.after(Duration::from_millis(250), Event::Tick(at));
        if at != FRONT {
            self.after(Duration::from_millis(10), Event::Dial(at));
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick(at) => self.tick(at),
            Event::Control { to, life, session, message } => self.deliver(to, life, session, *message),
            Event::ReceiveOn { at, life, session } => self.receive_on(at, life, session),
            Event::Hello { from, hello, link } => self.hello(from, &hello, link),
            Event::Answer { to, number, hello, link } => self.answer(to, number, &hello, link),
            Event::Broken { at, session } => self.broken(at, session, SessionEnd::Lost),
            Event::Dial(at) => self.dial(at),
            Event::Connection(id, step) => self.step(id, step),
            Event::Arrive => self.arrive(),
            Event::Mischief => self.mischief(),
            Event::Restart(at) => {
                if self.processes[at].ledger.is_none() {
                    self.start(at);
                }
            }
            Event::Continue(at) => self.go_on(at),
            Event::LinkUp(at) => {
                let time = self.time;
                self.links.get_mut(&at).expect("an inner").mend(time);
            }
        }
    }

    fn tick(&mut self, at: usize) {
        if self.processes[at].ledger.is_none() {
            return;
        }
        if self.processes[at].stopped {
            return;
        }
        let now = self.processes[at].now(self.time);
        if let Some(ledger) = &mut self.processes[at].ledger {
            while ledger.tick_part(now, PART) {}
        }
        self.pump(at);
        self.check_step(at);
        self.after(Duration::from_millis(250), Event::Tick(at));
    }

    pub(crate) fn go_on(&mut self, at: usize) {
        let (time, rhythm) = (self.time, self.rhythm);
        if self.processes[at].stopped {
            self.processes[at].go_on(time, rhythm);
            // What waited in its sockets is read in the order it came.
            for event in std::mem::take(&mut self.processes[at].frozen) {
                self.handle(event);
            }
            self.after(Duration::ZERO, Event::Tick(at));
            if at != FRONT && self.processes[at].sessions.is_empty() {
                self.after(Duration::from_millis(50), Event::Dial(at));
            }
        }
    }

    /// Lets every session of a process send what it wants to send.
    pub(crate) fn pump(&mut self, at: usize) {
        if !self.processes[at].runs() {
            return;
        }
        let now = self.processes[at].now(self.time);
        for session in self.processes[at].sessions.clone() {
            for _ in 0..64 {
                let Some(ledger) = &mut self.processes[at].ledger else { break };
                match ledger.next(session, now) {
                    Next::Send(message) => self.send(at, session, message),
                    Next::Wait(_) => break,
                    Next::End(why) => {
                        self.session_over(at, session, why);
                        break;
                    }
                }
            }
        }
        if let Err(why) = self.processes[at].collect() {
            self.fail(why);
        }
    }

    fn send(&mut self, from: usize, session: SessionKey, mut message: Message) {
        if !self.healed && self.rng.one_in(60) && self.meddle(&mut message) {
            return;
        }
        let Some(to) = self.index_of(session.peer) else { return };
        let inner = if from == FRONT { to } else { from };
        let link = &self.links[&inner];
        let max = if link.slow { Duration::from_millis(900) } else { Duration::from_millis(8) };
        if link.doomed.contains(&(self.processes[inner].instance, session.number)) {
            return;
        }
        let delay = if self.healed { Duration::from_micros(200) } else { self.rng.delay(max) };
        let key = SessionKey { peer: self.processes[from].instance, number: session.number };
        let life = self.processes[to].instance;
        // One stream is ordered: a message never overtakes an earlier one of the same direction.
        let at = self.ordered(from, to, session.number, self.time + delay);
        self.after(at - self.time, Event::Control { to, life, session: key, message: Box::new(message) });
    }

    /// The channel's own fault; `true` where the message vanishes.
    fn meddle(&mut self, message: &mut Message) -> bool {
        let halves = match message {
            Message::Batch(batch) => &mut batch.halves,
            Message::Snapshot(chunk) => &mut chunk.halves,
            _ => return false,
        };
        let victim = halves.iter_mut().find(|update| update.end.is_none() && update.accept.is_some());
        if let Some(update) = victim.filter(|_| self.scenario.channel == Channel::Corrupt) {
            update.phase = ledger::Phase::ProxyHeader;
            self.altered += 1;
        }
        self.scenario.channel == Channel::Lossy
    }

    fn ordered(&mut self, from: usize, to: usize, stream: u64, at: Duration) -> Duration {
        let last = self.scenario.last_delivery.entry((from, to, stream)).or_default();
        *last = (*last).max(at);
        *last
    }

    pub(crate) fn index_of(&self, instance: InstanceId) -> Option<usize> {
        self.processes.iter().position(|process| process.instance == instance)
    }

    fn deliver(&mut self, to: usize, life: InstanceId, session: SessionKey, message: Message) {
        if self.processes[to].ledger.is_none() || self.processes[to].instance != life {
            return;
        }
        if self.processes[to].stopped {
            let event = Event::Control { to, life, session, message: Box::new(message) };
            self.processes[to].frozen.push_back(event);
            return;
        }
        let now = self.processes[to].now(self.time);
        let Some(ledger) = &mut self.processes[to].ledger else { return };
        match ledger.receive_part(session, message, now) {
            Ok(true) => self.after(Duration::from_millis(1), Event::ReceiveOn { at: to, life, session }),
            Ok(false) => {}
            Err(why) => self.session_over(to, session, why),
        }
        self.pump(to);
        self.delivered += 1;
        if self.delivered.is_multiple_of(16) {
            self.check_step(to);
        }
    }

    /// Looks at a few more halves for the sake of a snapshot. Connections go on in between.
    fn receive_on(&mut self, at: usize, life: InstanceId, session: SessionKey) {
        if self.processes[at].instance != life {
            return;
        }
        let now = self.processes[at].now(self.time);
        let stopped = self.processes[at].stopped;
        let Some(ledger) = &mut self.processes[at].ledger else { return };
        if stopped {
            return self.after(Duration::from_millis(50), Event::ReceiveOn { at, life, session });
        }
        match ledger.receive_on(session, PART, now) {
            Ok(true) => self.after(Duration::from_millis(1), Event::ReceiveOn { at, life, session }),
            Ok(false) => self.check_step(at),
            Err(why) => self.session_over(at, session, why),
        }
        self.pump(at);
    }

    /// One side's session ended: the stream goes down for both, sooner or later.
    fn session_over(&mut self, at: usize, session: SessionKey, why: SessionEnd) {
        let expected = match why {
            SessionEnd::Unappliable(Unappliable::Drift) => self.scenario.channel == Channel::Corrupt,
            SessionEnd::Unappliable(_) => self.scenario.channel == Channel::Lossy,
            SessionEnd::TooManyHalves | SessionEnd::BadAck => false,
            _ => true,
        };
        if !expected {
            self.fail(format!("process {at}: session {session:?} ended by {why:?}"));
        }
        if !self.processes[at].sessions.remove(&session) {
            return;
        }
        if let Some(other) = self.index_of(session.peer) {
            let seen_there = SessionKey { peer: self.processes[at].instance, number: session.number };
            let delay = self.rng.delay(Duration::from_millis(50));
            self.after(delay, Event::Broken { at: other, session: seen_there });
        }
        if at != FRONT {
            let back_off = Duration::from_millis(50 + self.rng.below(450));
            self.after(back_off, Event::Dial(at));
        }
    }

    pub(crate) fn broken(&mut self, at: usize, session: SessionKey, why: SessionEnd) {
        if self.processes[at].stopped {
            self.processes[at].frozen.push_back(Event::Broken { at, session });
            return;
        }
        let now = self.processes[at].now(self.time);
        let known = self.processes[at].sessions.remove(&session);
        if let Some(ledger) = &mut self.processes[at].ledger {
            ledger.end_session(session, why, now);
        }
        if known && at != FRONT && self.processes[at].ledger.is_some() {
            let back_off = Duration::from_millis(50 + self.rng.below(450));
            self.after(back_off, Event::Dial(at));
        }
    }

    fn dial(&mut self, at: usize) {
        if !self.processes[at].runs() || !self.processes[at].sessions.is_empty() {
            return;
        }
        let link = self.links.get_mut(&at).expect("an inner");
        if link.cut || self.processes[FRONT].ledger.is_none() {
            self.within(100, 400, Event::Dial(at));
            return;
        }
        link.generation += 1;
        let generation = link.generation;
        let process = &mut self.processes[at];
        process.next_session += 1;
        let number = process.next_session;
        let Some(ledger) = &mut process.ledger else { return };
        let hello = ledger.dial(number);
        let delay = self.rng.delay(Duration::from_millis(20));
        self.after(delay, Event::Hello { from: at, hello, link: generation });
        // A Hello that is not answered is redialled.
        self.after(self.rhythm.stall_after, Event::Dial(at));
    }

    fn hello(&mut self, from: usize, hello: &ledger::Hello, link: u64) {
        if !self.processes[FRONT].runs() {
            return;
        }
        let now = self.processes[FRONT].now(self.time);
        let Some(ledger) = &mut self.processes[FRONT].ledger else { return };
        let Ok((session, answer)) = ledger.answer(hello, now) else { return };
        let older: Vec<_> =
            self.processes[FRONT].sessions.iter().filter(|s| s.peer == session.peer).copied().collect();
        for old in older {
            self.processes[FRONT].sessions.remove(&old);
        }
        self.processes[FRONT].sessions.insert(session);
        let delay = self.rng.delay(Duration::from_millis(20));
        let at = self.ordered(FRONT, from, hello.session, self.time + delay);
        let event = Event::Answer { to: from, number: hello.session, hello: answer, link };
        self.after(at - self.time, event);
        self.pump(FRONT);
    }

    fn answer(&mut self, to: usize, number: u64, hello: &ledger::Hello, link: u64) {
        if self.processes[to].stopped {
            let hello = hello.clone();
            self.processes[to].frozen.push_back(Event::Answer { to, number, hello, link });
            return;
        }
        let fresh = self.links[&to].generation == link && self.processes[to].next_session == number;
        if !self.processes[to].runs() || !fresh || self.links[&to].cut {
            return;
        }
        let now = self.processes[to].now(self.time);
        let Some(ledger) = &mut self.processes[to].ledger else { return };
        let Ok(session) = ledger.established(number, hello, now) else { return };
        self.processes[to].sessions.insert(session);
        self.pump(to);
    }

    fn mischief(&mut self) {
        if self.healed {
            return;
        }
        self.within(200, 2_500, Event::Mischief);
        let victim = self.rng.below(3) as usize;
        let inner = self.rng.pick(&INNERS);
        match self.rng.below(8) {
            0 | 1 => self.crash(victim),
            2 => {
                if self.processes[victim].runs() {
                    let time = self.time;
                    self.processes[victim].stop(time);
                    let longest = self.scenario.longest_absence.as_millis() as u64 * 3 / 4;
                    let pause = Duration::from_millis(self.rng.below(longest));
                    self.after(pause, Event::Continue(victim));
                }
            }
            3 | 4 => self.cut(inner),
            5 => {
                self.links.get_mut(&inner).expect("an inner").slow = true;
                self.within(0, 6_000, Event::LinkUp(inner));
            }
            6 => {
                let (by, back) = (self.rng.below(7_200_000_000), self.rng.one_in(2));
                self.processes[victim].jump(by, back);
            }
            _ => {
                // A stream that breaks without being cut: messages on their way still arrive, later than
                // the next session begins.
                let sessions: Vec<_> = self.processes[inner].sessions.iter().copied().collect();
                for session in sessions {
                    self.broken(inner, session, SessionEnd::Lost);
                }
            }
        }
    }

    fn cut(&mut self, inner: usize) {
        let life = self.processes[inner].instance;
        let numbers: Vec<u64> = (0..=self.processes[inner].next_session).collect();
        let link = self.links.get_mut(&inner).expect("an inner");
        link.cut = true;
        link.doomed.extend(numbers.into_iter().map(|number| (life, number)));
        let longest = self.scenario.longest_absence.as_millis() as u64;
        self.within(0, longest, Event::LinkUp(inner));
        if self.rng.one_in(2) {
            return; // Silent: only the stall tells.
        }
        let sessions: Vec<_> = self.processes[inner].sessions.iter().copied().collect();
        for session in sessions {
            let there = SessionKey { peer: self.processes[inner].instance, number: session.number };
            self.broken(inner, session, SessionEnd::Lost);
            self.within(0, 100, Event::Broken { at: FRONT, session: there });
        }
    }

    fn crash(&mut self, victim: usize) {
        if self.processes[victim].ledger.is_none() {
            return;
        }
        let instance = self.processes[victim].instance;
        let theirs: Vec<(usize, SessionKey)> = (0..3)
            .flat_map(|at| self.processes[at].sessions.iter().map(move |s| (at, *s)))
            .filter(|(_, session)| session.peer == instance)
            .collect();
        self.processes[victim].crash();
        for (at, session) in theirs {
            let delay = self.rng.delay(Duration::from_millis(20));
            self.after(delay, Event::Broken { at, session });
        }
        self.hops_after_crash(victim, instance);
        self.within(0, 6_000, Event::Restart(victim));
    }

    /// Everything works again, nothing new begins.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        for at in INNERS {
            let time = self.time;
            self.links.get_mut(&at).expect("an inner").mend(time);
        }
        for at in 0..3 {
            self.go_on(at);
            if self.processes[at].ledger.is_none() {
                self.start(at);
            }
            if at != FRONT {
                self.after(Duration::from_millis(20), Event::Dial(at));
            }
        }
    }
}
