//! The ledger's side of the control channel, sans I/O.
//!
//! *Owns* the handshake of a session, what to send next, and what a received message does. *Never* applies
//! anything of a session that is not the peer's current one, and ends nothing when a session is lost: own
//! halves end only by their own sockets, deadlines or operator. *Invariant*: one session per peer instance;
//! a batch applies once, at its position.

use std::fmt;
use std::ops::Bound;

use crate::fault::Fault;
use crate::id::{HalfKey, InstanceId, Role};
use crate::ledger::Ledger;
use crate::message::{Ack, Batch, Hello, Message, Resume, SnapshotChunk};
use crate::mirror::{Changes, Staging, Unappliable};
use crate::peer::Peer;
use crate::session::{Next, Session, SessionEnd};
use crate::time::Now;

/// One session: whom with, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    /// The peer's instance.
    pub peer: InstanceId,
    /// The session's number, ascending per dialling instance.
    pub number: u64,
}

/// Why a Hello was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloRefused {
    /// A session of this instance with this or a higher number began already.
    OldSession {
        /// The highest number seen.
        latest: u64,
    },
    /// Both sides claim the same role.
    SameRole,
    /// It claims to be ourselves.
    Ourselves,
    /// The answer is to another session than the one dialled.
    WrongSession,
}

/// Live halves that a peer may announce beyond its own limit before its session is reset: at least so many,
/// and as many again as the limit. Clients that are being refused, because the limit is reached, have
/// records too until they are gone.
const SLACK: u64 = 10_000;
/// No peer has more live halves than this, whatever it announces as its limit.
const MOST_LIVE: u64 = 4_000_000;
/// Closed halves of a peer, at most: retention by memory (64 MiB) leaves it far fewer.
const MOST_CLOSED: u64 = 250_000;
/// Halves whose progress is reported per message.
const PROGRESS_HALVES: usize = 250;

impl Ledger {
    /// networkproxy dials: the Hello to send. Give its `session` to [`Ledger::established`] later.
    pub fn dial(&mut self, session: u64) -> Hello {
        let known = self.peers.iter_mut().max_by_key(|(_, peer)| peer.last_session);
        let resume = known.and_then(|(instance, peer)| {
            let applied = peer.mirror.rewind()?;
            Some(Resume { peer: *instance, applied })
        });
        self.hello(session, resume)
    }

    /// smartproxy answers a Hello: the older session of that instance ends, the new one begins.
    pub fn answer(&mut self, hello: &Hello, now: Now) -> Result<(SessionKey, Hello), HelloRefused> {
        self.check(hello)?;
        let latest = self.peers.get(&hello.instance).map_or(0, |peer| peer.last_session);
        if hello.session <= latest {
            return Err(HelloRefused::OldSession { latest });
        }
        let key = self.begin(hello, now);
        let applied = self.peers.get_mut(&hello.instance).and_then(|peer| peer.mirror.rewind());
        let resume = applied.map(|applied| Resume { peer: hello.instance, applied });
        Ok((key, self.hello(hello.session, resume)))
    }

    /// networkproxy got the answer to its Hello.
    pub fn established(
        &mut self,
        dialled: u64,
        answer: &Hello,
        now: Now,
    ) -> Result<SessionKey, HelloRefused> {
        self.check(answer)?;
        if answer.session != dialled {
            return Err(HelloRefused::WrongSession);
        }
        Ok(self.begin(answer, now))
    }

    /// The session's stream ended.
    pub fn end_session(&mut self, at: SessionKey, why: SessionEnd, now: Now) {
        let Some(peer) = self.peers.get_mut(&at.peer) else { return };
        if let Some(mut session) = peer.session.take_if(|session| session.number == at.number) {
            session.stop_sending(&mut self.own);
            peer.down_since = now.active;
            peer.last_end = Some(why);
            self.alarms.session_resets += u64::from(why != SessionEnd::Bye);
        }
    }

    /// What to do next in this session.
    pub fn next(&mut self, at: SessionKey, now: Now) -> Next {
        let position = self.own.position();
        let drop_end = self.planted(Fault::DropEnd);
        let Self { peers, live, own, rhythm, .. } = self;
        let Some(session) = current(peers, at) else { return Next::End(SessionEnd::Lost) };
        if let Err(why) = session.liveness(rhythm, now.active) {
            self.end_session(at, why, now);
            return Next::End(why);
        }
        if let Some(message) = session.urgent(rhythm, position, now.active) {
            return Next::Send(message);
        }
        let pending = match session.cursor() {
            Some(cursor) => own.pending(cursor, crate::message::MAX_HALVES),
            None => crate::message::MAX_HALVES,
        };
        if session.wants_pull(pending, rhythm, now.active) {
            session.begin(own.pull(session.cursor()), pending, rhythm, now.active);
        }
        if let Some(mut chunk) =
            session.next_chunk(own, now.active, |key| live.get(&key).map(|slot| slot.traffic.totals()))
        {
            if drop_end {
                forget_ends(&mut chunk);
            }
            return Next::Send(chunk);
        }
        let after = |cursor: Option<HalfKey>| {
            let from = cursor.map_or(Bound::Unbounded, Bound::Excluded);
            let rest = live.range((from, Bound::Unbounded));
            Box::new(rest.map(|(key, slot)| (*key, &slot.traffic))) as Box<dyn Iterator<Item = _>>
        };
        if let Some(progress) = session.next_progress(after, PROGRESS_HALVES, rhythm, now.active) {
            return Next::Send(progress);
        }
        Next::Wait(session.next_time(pending, rhythm, now.active))
    }

    /// Everything that happened up to now was sent and acknowledged in this session.
    pub fn is_drained(&self, at: SessionKey) -> bool {
        let peer = self.peers.get(&at.peer).and_then(|peer| peer.session.as_ref());
        peer.filter(|session| session.number == at.number).is_none_or(|s| s.is_drained(self.own.position()))
    }

    /// The Bye of a leaving process.
    pub const fn bye(&self) -> Message {
        Message::Bye { through: self.own.position() }
    }

    /// Takes a message. An error ends the session: redial.
    pub fn receive(&mut self, at: SessionKey, message: Message, now: Now) -> Result<(), SessionEnd> {
        let mut more = self.receive_part(at, message, now)?;
        while more {
            more = self.receive_on(at, usize::MAX, now)?;
        }
        Ok(())
    }

    /// As [`Ledger::receive`], but what a whole snapshot changes for our own halves may be left to
    /// [`Ledger::receive_on`]: is it? Until then the session owes no acknowledgement and is not in step.
    pub fn receive_part(&mut self, at: SessionKey, message: Message, now: Now) -> Result<bool, SessionEnd> {
        while self.receive_on(at, usize::MAX, now)? {}
        let accept_old = self.planted(Fault::AcceptOldSession);
        let Some(peer) = self.peers.get_mut(&at.peer) else { return Err(SessionEnd::Lost) };
        match &mut peer.session {
            Some(session) if session.number == at.number || accept_old => session.received(now.active),
            _ => return Err(SessionEnd::Lost),
        }
        let outcome = match message {
            Message::Batch(batch) => self.on_batch(at.peer, batch, now),
            Message::Snapshot(chunk) => self.on_chunk(at.peer, chunk, now),
            Message::Ack(ack) => self.on_ack(at.peer, ack, now),
            Message::Heartbeat { .. } => {
                self.on_heartbeat(at.peer, now);
                Ok(())
            }
            Message::Progress(halves) => {
                if let Some(peer) = self.peers.get_mut(&at.peer) {
                    for (key, totals) in &halves {
                        peer.mirror.progress(*key, totals);
                    }
                }
                Ok(())
            }
            Message::Bye { .. } => Err(SessionEnd::Bye),
        };
        if let Err(why) = outcome {
            self.end_session(at, why, now);
        }
        outcome.map(|()| self.peers.get(&at.peer).is_some_and(|peer| peer.mirror.has_to_tell()))
    }

    /// Looks at our own halves for the sake of about `limit` halves of a snapshot. Is there more to look at?
    pub fn receive_on(&mut self, at: SessionKey, limit: usize, now: Now) -> Result<bool, SessionEnd> {
        let Some(more) = self.tell_some(at.peer, limit, now) else { return Ok(false) };
        if !more && let Err(why) = self.applied(at.peer, Ok(true), Changes::new(), now) {
            self.end_session(at, why, now);
            return Err(why);
        }
        Ok(more)
    }

    /// Looks at our own halves for the sake of some of a snapshot; `None` where there is nothing to look at.
    fn tell_some(&mut self, peer: InstanceId, limit: usize, now: Now) -> Option<bool> {
        let mirror = self.peers.get_mut(&peer).map(|peer| &mut peer.mirror)?;
        if !mirror.has_to_tell() {
            return None;
        }
        let mut changes = Changes::new();
        let more = mirror.tell_replaced(limit, &mut changes);
        self.consider(peer, changes, now);
        Some(more)
    }

    /// A snapshot whose session has ended since: what it changed is looked at all the same.
    fn tell_rest(&mut self, peer: InstanceId, now: Now) {
        while self.tell_some(peer, usize::MAX, now).is_some() {}
    }

    fn hello(&self, session: u64, resume: Option<Resume>) -> Hello {
        let max_live = self.limits.max_live;
        Hello { instance: self.instance, role: self.role, session, max_live, resume }
    }

    fn check(&self, hello: &Hello) -> Result<(), HelloRefused> {
        match hello {
            hello if hello.instance == self.instance => Err(HelloRefused::Ourselves),
            hello if hello.role == self.role => Err(HelloRefused::SameRole),
            _ => Ok(()),
        }
    }

    /// Begins a session with the sender of `hello`, from where it says it stands.
    fn begin(&mut self, hello: &Hello, now: Now) -> SessionKey {
        let at = SessionKey { peer: hello.instance, number: hello.session };
        if self.planted(Fault::MatchOldInstance) {
            self.rename_peer(hello.instance);
        }
        self.tell_rest(hello.instance, now);
        if let Some(older) = self.peers.get(&hello.instance).and_then(|peer| peer.session.as_ref()) {
            let older = SessionKey { peer: hello.instance, number: older.number };
            self.end_session(older, SessionEnd::Lost, now);
        }
        // A position that our journal has not reached is of another life, or a lie: a snapshot answers it.
        let mine = hello.resume.filter(|resume| resume.peer == self.instance);
        let cursor = mine.map(|resume| resume.applied).filter(|at| *at <= self.own.position());
        let role = hello.role;
        let ourselves = self.instance;
        let appears = !self.peers.contains_key(&hello.instance);
        let peer = self
            .peers
            .entry(hello.instance)
            .or_insert_with(|| Peer::new(hello.instance, role, ourselves, now.active));
        peer.mirror.rewind();
        peer.last_session = hello.session;
        peer.max_live = allowance(hello.max_live);
        peer.mirror.most = usize::try_from(peer.max_live + MOST_CLOSED).unwrap_or(usize::MAX);
        peer.session = Some(Session::new(hello.session, cursor, now.active));
        peer.down_noticed = false;
        if appears {
            self.refresh_flights_with(hello.instance, now);
        }
        at
    }

    /// The planted fault: a restarted process is taken for the one that was there before.
    fn rename_peer(&mut self, to: InstanceId) {
        let older =
            self.peers.iter().find(|(at, peer)| **at != to && peer.session.is_none()).map(|(at, _)| *at);
        if let Some(peer) =
            older.filter(|_| !self.peers.contains_key(&to)).and_then(|at| self.peers.remove(&at))
        {
            self.peers.insert(to, peer);
        }
    }

    fn on_batch(&mut self, from: InstanceId, batch: Batch, now: Now) -> Result<(), SessionEnd> {
        let across = self.planted(Fault::ApplyAcrossGap);
        let Some(peer) = self.peers.get_mut(&from) else { return Err(SessionEnd::Lost) };
        let Batch { after, through, horizon, halves, digest } = batch;
        let mut changes = Changes::new();
        let applied = if across {
            peer.mirror.apply_unchecked(through, horizon, halves, digest.as_ref(), &mut changes)
        } else {
            peer.mirror.apply(after, through, horizon, halves, digest.as_ref(), &mut changes)
        };
        peer.batches_applied += 1;
        self.applied(from, applied.map(|()| digest.is_some()), changes, now)
    }

    fn on_chunk(&mut self, from: InstanceId, chunk: SnapshotChunk, now: Now) -> Result<(), SessionEnd> {
        let Some(peer) = self.peers.get_mut(&from) else { return Err(SessionEnd::Lost) };
        let SnapshotChunk { index, through, base, halves, digest } = chunk;
        let staged = peer.mirror.stage(index, through, base, halves, digest.as_ref());
        if let Some(session) = &mut peer.session {
            session.chunk_received();
        }
        if staged == Ok(Staging::Replaced) {
            peer.snapshots_applied += 1;
            self.alarms.drift_repaired += u64::from(std::mem::take(&mut peer.drifted));
            // The rest is for `receive_on` to do.
            return Ok(());
        }
        self.applied(from, staged.map(|_| false), Changes::new(), now)
    }

    /// Common end of a batch and a chunk: `Ok(true)` where a digest was compared and matched.
    fn applied(
        &mut self,
        from: InstanceId,
        outcome: Result<bool, Unappliable>,
        changes: Changes,
        now: Now,
    ) -> Result<(), SessionEnd> {
        let ignore_drift = self.planted(Fault::IgnoreDrift);
        let Some(peer) = self.peers.get_mut(&from) else { return Err(SessionEnd::Lost) };
        let outcome = match outcome {
            Err(Unappliable::Drift) if ignore_drift => Ok(true),
            other => other,
        };
        if let Err(why) = outcome {
            if why == Unappliable::Drift {
                peer.drifted = true;
                self.alarms.drift_detected += 1;
            }
            peer.mirror.distrust();
        }
        if outcome == Ok(true) {
            peer.last_digest_at = Some(peer.mirror.applied());
            if let Some(session) = peer.session.as_mut().filter(|session| !session.in_step) {
                session.in_step = true;
                peer.fresh_since = now.active;
            }
        }
        let applied = peer.mirror.applied();
        if let Some(session) = &mut peer.session {
            session.owe_ack(applied);
        }
        let too_many = peer.mirror.live_len() > peer.max_live;
        self.consider(from, changes, now);
        match outcome {
            Err(Unappliable::TooMany) => Err(SessionEnd::TooManyHalves),
            Err(why) => Err(SessionEnd::Unappliable(why)),
            Ok(_) if too_many => Err(SessionEnd::TooManyHalves),
            Ok(_) => Ok(()),
        }
    }

    fn on_ack(&mut self, from: InstanceId, ack: Ack, now: Now) -> Result<(), SessionEnd> {
        let Some(peer) = self.peers.get_mut(&from) else { return Err(SessionEnd::Lost) };
        let Some(session) = &mut peer.session else { return Err(SessionEnd::Lost) };
        session.on_ack(ack, now.active)?;
        let acked = session.acked();
        for key in self.waiting.acknowledge(from, acked, now.active) {
            self.look_again(key, now);
        }
        Ok(())
    }

    fn on_heartbeat(&mut self, from: InstanceId, now: Now) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Some(session) = &mut peer.session else { return };
        if !session.heartbeats_fresh(&self.rhythm, now.active) {
            peer.fresh_since = now.active;
        }
        session.heartbeat_received(now.active);
    }
}

/// How many live halves are believed of a peer that announces `limit`.
fn allowance(limit: u64) -> u64 {
    limit.saturating_add(limit.max(SLACK)).min(MOST_LIVE)
}

fn current(peers: &mut std::collections::BTreeMap<InstanceId, Peer>, at: SessionKey) -> Option<&mut Session> {
    peers.get_mut(&at.peer)?.session.as_mut().filter(|session| session.number == at.number)
}

/// The planted fault: ends are not told.
fn forget_ends(message: &mut Message) {
    let halves = match message {
        Message::Batch(batch) => &mut batch.halves,
        Message::Snapshot(chunk) => &mut chunk.halves,
        _ => return,
    };
    for update in halves {
        update.end = None;
        update.settlement = None;
    }
}

impl fmt::Display for HelloRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OldSession { latest } => {
                write!(f, "session number is not above {latest}, the latest of this instance")
            }
            Self::SameRole => f.write_str("both sides claim the same role"),
            Self::Ourselves => f.write_str("the peer claims our own instance id"),
            Self::WrongSession => f.write_str("the answer is to another session than the one dialled"),
        }
    }
}

impl std::error::Error for HelloRefused {}

/// The role that dials.
pub const DIALS: Role = Role::Inner;

#[cfg(test)]
mod tests;
