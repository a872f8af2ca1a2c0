//! A simulated process: a ledger, a clock of its own, and what it settled.
//!
//! *Owns* one life after another of one process. *Never* shares a clock with another: each has its own
//! start, wall clock and suspensions. *Invariant*: a stopped process does nothing; when it goes on, the
//! time it was away is accounted for before anything else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ledger::{
    HalfKey, InstanceId, Ledger, LedgerLimits, Now, Rhythm, Role, SessionKey, SettledFrom, Termination, Wall,
};

use crate::world::Event;

/// One process slot: smartproxy, or one of the networkproxies.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) role: Role,
    /// `None` while crashed.
    pub(crate) ledger: Option<Ledger>,
    pub(crate) instance: InstanceId,
    pub(crate) stopped: bool,
    pub(crate) sessions: BTreeSet<SessionKey>,
    pub(crate) settled: BTreeMap<HalfKey, (SettledFrom, Termination)>,
    pub(crate) next_session: u64,
    /// Drift counted over all lives.
    pub(crate) drifts: u64,
    drifts_of_life: u64,
    /// What came while it was stopped.
    pub(crate) frozen: VecDeque<Event>,
    started: Duration,
    suspended: Duration,
    stopped_at: Duration,
    /// It stood still for too short to be called suspended, and what it missed may not be told yet.
    pub(crate) hiccup_until: Duration,
    wall_offset: u64,
    lives: u128,
    slot: u128,
}

impl Process {
    pub(crate) fn new(role: Role, slot: u128) -> Self {
        Self {
            role,
            ledger: None,
            instance: InstanceId(0),
            stopped: false,
            sessions: BTreeSet::new(),
            settled: BTreeMap::new(),
            next_session: 0,
            drifts: 0,
            drifts_of_life: 0,
            frozen: VecDeque::new(),
            started: Duration::ZERO,
            suspended: Duration::ZERO,
            stopped_at: Duration::ZERO,
            hiccup_until: Duration::ZERO,
            wall_offset: 1_700_000_000_000_000,
            lives: 0,
            slot,
        }
    }

    /// A new life begins at `at`.
    pub(crate) fn start(&mut self, at: Duration, limits: LedgerLimits, rhythm: Rhythm) {
        self.lives += 1;
        self.instance = InstanceId(self.slot << 64 | self.lives);
        self.ledger = Some(Ledger::new(self.instance, self.role, limits, rhythm));
        self.stopped = false;
        self.sessions.clear();
        self.next_session = 0;
        self.drifts_of_life = 0;
        self.started = at;
        self.suspended = Duration::ZERO;
    }

    /// kill -9.
    pub(crate) fn crash(&mut self) {
        self.ledger = None;
        self.stopped = false;
        self.frozen.clear();
        self.sessions.clear();
    }

    pub(crate) fn stop(&mut self, at: Duration) {
        self.stopped = true;
        self.stopped_at = at;
    }

    pub(crate) fn go_on(&mut self, at: Duration, rhythm: Rhythm) {
        self.stopped = false;
        let away = at - self.stopped_at;
        if away >= rhythm.heartbeat {
            self.suspended += away;
        } else {
            self.hiccup_until = at + rhythm.heartbeat * 4;
        }
    }

    /// The wall clock jumps.
    pub(crate) fn jump(&mut self, by: u64, back: bool) {
        self.wall_offset = if back { self.wall_offset.saturating_sub(by) } else { self.wall_offset + by };
    }

    pub(crate) fn now(&self, at: Duration) -> Now {
        let mono = at.saturating_sub(self.started);
        Now {
            mono,
            active: mono.saturating_sub(self.suspended),
            wall: Wall(self.wall_offset + at.as_micros() as u64),
        }
    }

    /// Running: neither crashed nor stopped.
    pub(crate) fn runs(&self) -> bool {
        self.ledger.is_some() && !self.stopped
    }

    /// Collects what was settled; fails where a half settles twice.
    pub(crate) fn collect(&mut self) -> Result<(), String> {
        let Some(ledger) = &mut self.ledger else { return Ok(()) };
        let drifts = ledger.alarms().drift_detected;
        self.drifts += drifts - self.drifts_of_life;
        self.drifts_of_life = drifts;
        for half in ledger.take_settled(usize::MAX) {
            let settlement = half.settlement.as_ref().ok_or("taken as settled without a cause")?;
            let found = (settlement.value.from, settlement.value.cause.clone());
            if self.settled.insert(half.key, found).is_some() {
                return Err(format!("{:?} settled twice", half.key));
            }
        }
        Ok(())
    }
}
