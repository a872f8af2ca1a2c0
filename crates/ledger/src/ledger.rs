//! The books of one process: every record and counter, and the only calls that move them.
//!
//! *Owns* the process's own halves (journal), what each peer told (mirrors), admission, arrivals. *Never*
//! reads a clock, waits or performs I/O: time is a parameter, what others should know is pulled from it.
//! *Invariant*: opened = live + settling + Σ settled by reason, after every call; a half ends once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::admission::{Admission, AdmissionLimits};
use crate::arrivals::{Arrival, Arrivals};
use crate::causes::Causes;
use crate::census::Censuses;
use crate::deadline::Armed;
use crate::evidence::{End, HopCount, LegName, Observation};
use crate::half::{Accept, Half, Hop, LogEntry, Routing, Stamped, Target, Tls};
use crate::id::{Attempt, HalfKey, InstanceId, Role};
use crate::journal::Journal;
use crate::peer::Peer;
use crate::phase::{IllegalStep, Phase};
use crate::reason::Reason;
use crate::session::{Rhythm, Session};
use crate::tally::Tally;
use crate::time::Now;
use crate::traffic::{Traffic, TrafficTotals};
use crate::waiting::WaitingList;

/// What bounds a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerLimits {
    /// Closed halves kept, by count.
    pub closed_records: usize,
    /// Closed halves kept, by estimated bytes.
    pub closed_bytes: usize,
    /// The most live halves this process will ever hold; announced in its Hello.
    pub max_live: u64,
    /// networkproxy's limit for a hop header: how long an inner half may take to appear.
    pub hop_header: Duration,
    /// Settled halves not yet taken for logging; beyond that they are folded into a count.
    pub unlogged: usize,
}

impl Default for LedgerLimits {
    fn default() -> Self {
        Self {
            closed_records: 10_000,
            closed_bytes: 64 * 1024 * 1024,
            max_live: 1_000_000,
            hop_header: Duration::from_secs(2),
            unlogged: 50_000,
        }
    }
}

/// The books of one process.
#[derive(Debug)]
pub struct Ledger {
    pub(crate) instance: InstanceId,
    pub(crate) role: Role,
    pub(crate) limits: LedgerLimits,
    pub(crate) rhythm: Rhythm,
    pub(crate) own: Journal,
    pub(crate) live: BTreeMap<HalfKey, LiveSlot>,
    pub(crate) peers: BTreeMap<InstanceId, Peer>,
    /// Live own halves joined to each other instance; zero is absent.
    pub(crate) joined: BTreeMap<InstanceId, u64>,
    pub(crate) departed: Departed,
    pub(crate) waiting: WaitingList,
    /// Own halves whose joined half was missing from a snapshot.
    pub(crate) unseen: BTreeSet<HalfKey>,
    /// Ended halves that a mirror folded while the own half joined to them is not settled.
    pub(crate) keepsakes: BTreeMap<HalfKey, Arc<Half>>,
    pub(crate) arrivals: Arrivals,
    pub(crate) admission: Admission,
    pub(crate) alarms: Alarms,
    pub(crate) causes: Causes,
    pub(crate) settled_out: VecDeque<Arc<Half>>,
    pub(crate) censuses: Censuses,
    /// Audits that are recounting.
    pub(crate) audits: usize,
    /// When [`Ledger::tick`] was last called.
    pub(crate) ticked: Duration,
    #[cfg(feature = "planted-faults")]
    pub(crate) fault: Option<crate::fault::Fault>,
    /// How often a half was looked at to see whether it settles.
    #[cfg(test)]
    pub(crate) looks: std::cell::Cell<usize>,
}

/// What the ledger keeps of a live half beside its record.
#[derive(Debug)]
pub(crate) struct LiveSlot {
    pub(crate) traffic: Arc<Traffic>,
    opened: Now,
    opened_seq: u64,
    /// As in its record; here, so that counting does not have to look every record up.
    phase: Phase,
    closing_from: Option<Phase>,
    admitted_as: Option<IpAddr>,
}

impl LiveSlot {
    /// When the half opened.
    pub(crate) const fn opened(&self) -> Now {
        self.opened
    }

    /// The journal's position at which it opened.
    pub(crate) const fn opened_seq(&self) -> u64 {
        self.opened_seq
    }

    /// The phase of its record.
    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }
}

/// Peers that were down for long and joined to nothing live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Departed {
    /// How many.
    pub instances: u64,
    /// What their mirrors added up to; what was live then never ended for us.
    pub tally: Tally,
}

/// Counts that should be zero, or explain why they are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    /// Digests that differed.
    pub drift_detected: u64,
    /// Snapshots that repaired one.
    pub drift_repaired: u64,
    /// Records that a sweep had to end.
    pub repairs: u64,
    /// Halves of peers whose own half was gone when they appeared.
    pub unjoined: u64,
    /// Pairs whose hop byte counts contradict each other.
    pub hop_contradictions: u64,
    /// Pairs that lost bytes on the hop, and how many.
    pub hop_gaps: u64,
    /// Bytes sent and not received, over those pairs.
    pub hop_gap_bytes: u64,
    /// Settled halves whose log line was folded.
    pub unlogged: u64,
    /// Own sessions that ended without a Bye.
    pub session_resets: u64,
}

/// Why a call on a record had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// No live record has this key.
    NotLive,
    /// A record has this key already.
    Taken,
    /// The phase cannot follow.
    Step(IllegalStep),
}

/// One change of a live half.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new phase, and (in `HALF_CLOSED`) which side closed.
    Phase(Phase, Option<LegName>),
    /// The armed deadlines.
    Armed(Arc<[Armed]>),
    /// The real client became known, from a PROXY header.
    Accept(Arc<Accept>),
    /// What was read and decided.
    Routing(Arc<Routing>),
    /// The hop's addresses.
    HopAddresses(Option<std::net::SocketAddr>, Option<std::net::SocketAddr>),
    /// A front takes an attempt: from here on an inner half may exist.
    Bridge(InstanceId, Attempt),
    /// A front gives its current attempt up: inner halves up to it are superseded.
    GiveUp,
    /// The handshake is complete.
    Tls(Arc<Tls>),
    /// The target in use.
    Target(Arc<Target>),
}

/// How a half ended, as its owner saw it.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// In order; empty means that the owner ended without saying why.
    pub observations: Vec<Observation>,
    /// The hop's bytes, header apart.
    pub hop: HopCount,
    /// Bytes read and not delivered.
    pub undelivered: u64,
}

impl Ledger {
    /// Empty books for one life of a process.
    pub fn new(instance: InstanceId, role: Role, limits: LedgerLimits, rhythm: Rhythm) -> Self {
        Self {
            instance,
            role,
            limits,
            rhythm,
            own: Journal::default(),
            live: BTreeMap::new(),
            peers: BTreeMap::new(),
            joined: BTreeMap::new(),
            departed: Departed::default(),
            waiting: WaitingList::default(),
            unseen: BTreeSet::new(),
            keepsakes: BTreeMap::new(),
            arrivals: Arrivals::default(),
            admission: Admission::default(),
            alarms: Alarms::default(),
            causes: Causes::of(role),
            settled_out: VecDeque::new(),
            censuses: Censuses::default(),
            audits: 0,
            ticked: Duration::ZERO,
            #[cfg(feature = "planted-faults")]
            fault: None,
            #[cfg(test)]
            looks: std::cell::Cell::new(0),
        }
    }

    /// This life of the process.
    pub const fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Which process.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Lets an open front in under `address`, or says which limit speaks against it.
    pub fn admit(&mut self, key: HalfKey, address: IpAddr, limits: &AdmissionLimits) -> Result<(), Reason> {
        let Some(slot) = self.live.get_mut(&key) else { return Err(Reason::Abandoned) };
        if slot.admitted_as.is_none() {
            self.admission.admit(address, limits)?;
            slot.admitted_as = Some(address);
        }
        Ok(())
    }

    /// A socket arrived on the hop.
    pub fn arrive(&mut self) -> Arrival {
        self.arrivals.arrive()
    }

    /// A hop socket was refused.
    #[expect(clippy::needless_pass_by_value, reason = "an arrival is consumed: it is refused once")]
    pub fn refuse(&mut self, arrival: Arrival, reason: Reason) {
        self.arrivals.refused(&arrival, reason);
    }

    /// Applies `changes` to a live half, as one step of the journal: all of them, or none.
    pub fn record(
        &mut self,
        key: HalfKey,
        changes: impl IntoIterator<Item = Change>,
        now: Now,
    ) -> Result<(), RecordError> {
        // Collected first: what the caller's iterator does, it does not do in the middle of a step.
        let changes: Vec<Change> = changes.into_iter().collect();
        let slot = self.live.get_mut(&key).ok_or(RecordError::NotLive)?;
        check_steps(self.role, slot.phase, &changes).map_err(RecordError::Step)?;
        let after = now.mono.saturating_sub(slot.opened.mono);
        let bridged = self.own.amend(key, |half, seq| {
            debug_assert_eq!(slot.phase, half.phase, "the slot's phase is the record's");
            let before = half.bridged();
            for change in changes {
                apply(half, slot, change, seq, after);
            }
            debug_assert_eq!(slot.phase, half.phase, "the slot's phase is the record's");
            (before, half.bridged())
        });
        let (before, current) = bridged.ok_or(RecordError::NotLive)?;
        if before != current {
            if let Some(before) = before {
                self.forget_attempt(key, before);
            }
            self.rejoin(before.map(|(instance, _)| instance), current.map(|(instance, _)| instance));
            for (instance, attempt) in [before, current].into_iter().flatten() {
                self.refresh_flight(key.connection, instance, attempt, now);
            }
        }
        self.debug_check();
        Ok(())
    }

    /// Ends a half. The sockets are gone already; from here on only the cause is open.
    pub fn close(&mut self, key: HalfKey, mut ending: Ending, now: Now) -> Result<(), RecordError> {
        let slot = self.live.remove(&key).ok_or(RecordError::NotLive)?;
        self.censuses.ended(key, &slot);
        if let Some(address) = slot.admitted_as {
            self.admission.release(address);
        }
        let age = now.mono.saturating_sub(slot.opened.mono);
        let suspended = age.saturating_sub(now.active.saturating_sub(slot.opened.active));
        if ending.observations.is_empty() {
            ending.observations.push(Observation::new(self.role, Reason::Abandoned, None, age));
        }
        ending.observations.truncate(End::MAX_OBSERVATIONS);
        ending.observations.iter_mut().for_each(Observation::clip);
        let totals = slot.traffic.totals();
        let end_seq = self.own.amend(key, |half, seq| {
            let end = End {
                phase: slot.closing_from.unwrap_or(half.phase),
                observations: ending.observations,
                suspended,
                hop: ending.hop,
                undelivered: ending.undelivered,
                at: now.wall,
                age,
            };
            half.phase = Phase::Closed;
            half.log(LogEntry { seq, phase: Phase::Closed, after: age.into() });
            half.armed = Arc::default();
            half.traffic.merge(&totals);
            half.end = Some(Stamped { seq, value: Arc::new(end) });
            seq
        });
        let end_seq = end_seq.ok_or(RecordError::NotLive)?;
        let joined = self.own.half(key).and_then(|half| half.joined_key());
        if let Some(joined) = joined {
            self.rejoin(Some(joined.instance), None);
            self.waiting.add(key, joined.instance, end_seq, now.active);
        }
        self.refresh_flights_of(key, now);
        self.reconsider(key, now);
        self.look_again(key, now);
        self.retain(now);
        self.debug_check();
        Ok(())
    }

    /// Live own halves beyond `from`, in order, at most `limit`.
    pub fn live(&self, from: Option<HalfKey>, limit: usize) -> Vec<HalfKey> {
        let beyond = from.map_or(Bound::Unbounded, Bound::Excluded);
        self.live.range((beyond, Bound::Unbounded)).take(limit).map(|(key, _)| *key).collect()
    }

    /// Ends a live record that nobody owns any more: a bug of ours, and counted as one. `false` where it
    /// is not live.
    pub fn repair(&mut self, key: HalfKey, now: Now) -> bool {
        let ending = Ending { observations: Vec::new(), hop: HopCount::default(), undelivered: 0 };
        let repaired = self.close(key, ending, now).is_ok();
        self.alarms.repairs += u64::from(repaired);
        repaired
    }

    /// What the data path of a live half has counted so far.
    pub fn totals(&self, key: HalfKey) -> Option<TrafficTotals> {
        self.live.get(&key).map(|slot| slot.traffic.totals())
    }

    /// Takes the halves settled since the last call, oldest first, at most `limit`: one log line each.
    pub fn take_settled(&mut self, limit: usize) -> Vec<Arc<Half>> {
        let count = limit.min(self.settled_out.len());
        self.settled_out.drain(..count).collect()
    }

    /// How long ago [`Ledger::tick`] was last called: liveness must not rest on it, but people watch it.
    pub fn since_tick(&self, now: Now) -> Duration {
        now.active.saturating_sub(self.ticked)
    }

    /// Time passes: settles what waited long enough, lets dead peers go, keeps memory bounded.
    pub fn tick(&mut self, now: Now) {
        while self.tick_part(now, usize::MAX) {}
    }

    /// As [`Ledger::tick`], looking at no more than about `limit` halves. Is there more to look at?
    pub fn tick_part(&mut self, now: Now, limit: usize) -> bool {
        self.ticked = now.active;
        if self.settle_what_is_due(limit, now) {
            return true;
        }
        self.fold_dead_peers(now);
        self.retain(now);
        false
    }

    /// A live half is joined to another instance than before.
    fn rejoin(&mut self, before: Option<InstanceId>, after: Option<InstanceId>) {
        if before == after {
            return;
        }
        if let Some(count) = before.and_then(|instance| self.joined.get_mut(&instance)) {
            *count -= 1;
        }
        if let Some(instance) = after {
            *self.joined.entry(instance).or_default() += 1;
        }
        self.joined.retain(|_, count| *count > 0);
    }

    /// Live own halves that are joined to `instance`.
    pub fn joined_live(&self, instance: InstanceId) -> u64 {
        self.joined.get(&instance).copied().unwrap_or(0)
    }

    /// How often a half was looked at to see whether it settles.
    #[cfg(test)]
    pub(crate) fn looked_at(&self) -> usize {
        self.looks.get()
    }

    /// The cheap laws, after every mutation of a debug build.
    pub(crate) fn debug_check(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        debug_assert_eq!(self.own.live_len(), self.live.len(), "live halves = live slots");
        debug_assert_eq!(
            self.own.tally().opened,
            self.own.live_len() as u64 + self.own.settling_len() as u64 + self.own.tally().settled_total(),
            "opened = live + settling + settled"
        );
        let sending = |peer: &Peer| peer.session.as_ref().is_some_and(Session::is_sending);
        debug_assert_eq!(
            self.own.readings(),
            self.peers.values().filter(|peer| sending(peer)).count() + self.audits,
            "nothing is kept for a reader that is gone"
        );
    }
}

/// May the phases among `changes` follow each other from `phase` on? CLOSED may not: a record ends by
/// [`Ledger::close`], with an account of its end.
fn check_steps(role: Role, mut phase: Phase, changes: &[Change]) -> Result<(), IllegalStep> {
    for change in changes {
        if let Change::Phase(to, _) = *change {
            phase.step(role, to)?;
            if to.is_closed() {
                return Err(IllegalStep { role, from: phase, to });
            }
            phase = to;
        }
    }
    Ok(())
}

fn apply(half: &mut Half, slot: &mut LiveSlot, change: Change, seq: u64, after: Duration) {
    match change {
        Change::Phase(phase, side) => {
            if phase == Phase::Closing {
                slot.closing_from = Some(half.phase);
            }
            half.phase = phase;
            slot.phase = phase;
            half.half_closed = side.or(half.half_closed);
            half.log(LogEntry { seq, phase, after: after.into() });
        }
        Change::Armed(armed) => half.armed = armed,
        Change::Accept(accept) => half.accept = Stamped { seq, value: accept },
        Change::Routing(routing) => half.routing = Some(Stamped { seq, value: routing }),
        Change::Tls(tls) => half.tls = Some(Stamped { seq, value: tls }),
        Change::Target(target) => half.target = Some(Stamped { seq, value: target }),
        Change::HopAddresses(local, remote) => amend_hop(half, seq, |hop| {
            hop.local = local;
            hop.remote = remote;
        }),
        Change::Bridge(instance, attempt) => amend_hop(half, seq, |hop| {
            hop.bridged = Some((instance, attempt));
            hop.attempts += 1;
        }),
        Change::GiveUp => amend_hop(half, seq, |hop| {
            hop.given_up = hop.bridged.take().map(|(_, attempt)| attempt).or(hop.given_up);
        }),
    }
}

fn amend_hop(half: &mut Half, seq: u64, change: impl FnOnce(&mut Hop)) {
    let hop = half.hop.get_or_insert_with(|| Stamped { seq, value: Arc::default() });
    hop.seq = seq;
    change(Arc::make_mut(&mut hop.value));
}

mod opening;
#[cfg(test)]
mod tests;
