//! One control session, sans I/O: what to send next, and whether the peer still lives.
//!
//! *Owns* the sender's cursor, the pull in progress, the window of unacknowledged batches, and the liveness
//! clocks. *Never* queues a change: what is not yet pulled stays in the journal, coalesced. *Invariant*: at
//! most [`WINDOW`] batches or chunks are unacknowledged; acknowledgements and
//! heartbeats overtake them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::digest::Digest;
use crate::id::HalfKey;
use crate::journal::{Journal, Pull, ReadingId};
use crate::message::{Ack, Batch, MAX_HALVES, MAX_WEIGHT, Message, SnapshotChunk, WINDOW};
use crate::mirror::Unappliable;
use crate::tally::Tally;
use crate::traffic::TrafficTotals;

/// The times that rule a session: smartproxy's Hello announces them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// Between heartbeats, and between digests when idle.
    pub heartbeat: Duration,
    /// Without a message, or without progress while something is owed: the session is reset.
    pub stall_after: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(1), stall_after: Duration::from_secs(3) }
    }
}

/// Why a session was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// The peer said Bye.
    Bye,
    /// The stream broke, or a newer session of the same instance began.
    Lost,
    /// No message for `stall_after`.
    Silent,
    /// Messages came, but what was sent was not acknowledged for `stall_after`.
    Stalled,
    /// The peer sent something that cannot be applied.
    Unappliable(Unappliable),
    /// The peer announced more halves than it can have: live ones beyond its own limit, or retained ones.
    TooManyHalves,
    /// An acknowledgement of something never sent.
    BadAck,
}

/// Halves of a batch that has [`MAX_WEIGHT`].
const USUAL: usize = 48;
/// Changes that come soon after others wait this long to be sent together.
const GATHER: Duration = Duration::from_millis(20);
/// Under load they wait longer, so that a short connection's opening and end travel as one entry.
const GATHER_MORE: Duration = Duration::from_millis(100);
/// Load: so many halves came together in [`GATHER`].
const MANY: usize = 8;

/// The sender's side of a session, and its clocks.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) number: u64,
    /// Everything up to here is pulled; `None`: the peer needs a snapshot.
    cursor: Option<u64>,
    acked: u64,
    sending: Option<Sending>,
    unacked: VecDeque<Sent>,
    chunks_sent: u64,
    chunks_acked: u64,
    chunks_received: u64,
    ack_due: Option<Ack>,
    last_pull: Duration,
    /// How long changes are gathered since then.
    gather: Duration,
    last_heartbeat_sent: Duration,
    last_received: Duration,
    last_heartbeat_received: Duration,
    last_progress_acked: Duration,
    progress_cursor: Option<HalfKey>,
    /// Halves that were active since then are reported in this round.
    progress_since: Duration,
    round_began: Duration,
    next_progress: Duration,
    /// A digest that matched has come since the session began: the mirror can be believed.
    pub(crate) in_step: bool,
}

#[derive(Debug)]
struct Sending {
    from: u64,
    after: u64,
    through: u64,
    horizon: u64,
    reading: ReadingId,
    digest: Digest,
    snapshot: Option<SnapshotState>,
}

#[derive(Debug)]
struct SnapshotState {
    index: u64,
    base: Option<Tally>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Through(u64),
    /// Ordinal over all chunks of the session.
    Chunk(u64),
}

/// What the shell should do next.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "returned once per message and consumed at once")]
pub enum Next {
    /// Send this and ask again.
    Send(Message),
    /// Nothing until this active time, or until the ledger wakes the session.
    Wait(Duration),
    /// The session is over; dial again (or wait to be dialled).
    End(SessionEnd),
}

impl Session {
    pub(crate) fn new(number: u64, cursor: Option<u64>, now: Duration) -> Self {
        Self {
            number,
            cursor,
            acked: cursor.unwrap_or(0),
            sending: None,
            unacked: VecDeque::new(),
            chunks_sent: 0,
            chunks_acked: 0,
            chunks_received: 0,
            ack_due: None,
            last_pull: now.saturating_sub(GATHER),
            gather: GATHER,
            last_heartbeat_sent: now,
            last_received: now,
            last_heartbeat_received: now,
            last_progress_acked: now,
            progress_cursor: None,
            progress_since: Duration::ZERO,
            round_began: now,
            next_progress: now,
            in_step: false,
        }
    }

    /// Has the peer been silent, or stood still, for too long?
    pub(crate) fn liveness(&self, rhythm: &Rhythm, now: Duration) -> Result<(), SessionEnd> {
        if now.saturating_sub(self.last_received) >= rhythm.stall_after {
            return Err(SessionEnd::Silent);
        }
        let owed = !self.unacked.is_empty();
        if owed && now.saturating_sub(self.last_progress_acked) >= rhythm.stall_after {
            return Err(SessionEnd::Stalled);
        }
        Ok(())
    }

    /// Are its heartbeats older than two intervals, or has no digest matched yet?
    pub(crate) fn is_stale(&self, rhythm: &Rhythm, now: Duration) -> bool {
        !self.in_step || !self.heartbeats_fresh(rhythm, now)
    }

    /// Did a heartbeat come within two intervals?
    pub(crate) fn heartbeats_fresh(&self, rhythm: &Rhythm, now: Duration) -> bool {
        now.saturating_sub(self.last_heartbeat_received) <= rhythm.heartbeat * 2
    }

    pub(crate) fn since_heartbeat(&self, now: Duration) -> Duration {
        now.saturating_sub(self.last_heartbeat_received)
    }

    pub(crate) const fn received(&mut self, now: Duration) {
        self.last_received = now;
    }

    pub(crate) const fn heartbeat_received(&mut self, now: Duration) {
        self.last_heartbeat_received = now;
    }

    pub(crate) const fn owe_ack(&mut self, applied: u64) {
        self.ack_due = Some(Ack { applied, chunks: self.chunks_received });
    }

    pub(crate) const fn chunk_received(&mut self) {
        self.chunks_received += 1;
    }

    pub(crate) const fn acked(&self) -> u64 {
        self.acked
    }

    /// The position after the oldest batch that is not acknowledged.
    #[cfg(test)]
    pub(crate) fn first_unacked(&self) -> Option<u64> {
        self.unacked.front().and_then(|sent| match sent {
            Sent::Through(position) => Some(*position),
            Sent::Chunk(_) => None,
        })
    }

    pub(crate) const fn cursor(&self) -> Option<u64> {
        self.cursor
    }

    /// Everything pulled was sent and acknowledged through `position`.
    pub(crate) fn is_drained(&self, position: u64) -> bool {
        self.sending.is_none() && self.unacked.is_empty() && self.acked >= position
    }

    /// The peer acknowledged.
    pub(crate) fn on_ack(&mut self, ack: Ack, now: Duration) -> Result<(), SessionEnd> {
        let mut moved = false;
        while let Some(first) = self.unacked.front() {
            let covered = match *first {
                Sent::Through(position) => position <= ack.applied,
                Sent::Chunk(index) => index < ack.chunks,
            };
            if !covered {
                break;
            }
            self.unacked.pop_front();
            moved = true;
        }
        if ack.applied > self.cursor.unwrap_or(0) || ack.chunks > self.chunks_sent {
            return Err(SessionEnd::BadAck);
        }
        if moved || ack.applied > self.acked || ack.chunks > self.chunks_acked {
            self.last_progress_acked = now;
        }
        self.acked = self.acked.max(ack.applied);
        self.chunks_acked = self.chunks_acked.max(ack.chunks);
        Ok(())
    }

    /// What overtakes batches: acknowledgements and heartbeats.
    pub(crate) fn urgent(&mut self, rhythm: &Rhythm, position: u64, now: Duration) -> Option<Message> {
        if let Some(ack) = self.ack_due.take() {
            return Some(Message::Ack(ack));
        }
        if now.saturating_sub(self.last_heartbeat_sent) >= rhythm.heartbeat {
            self.last_heartbeat_sent = now;
            return Some(Message::Heartbeat { position });
        }
        None
    }

    /// May a new pull begin? Idle, a change leaves at once; under load after `GATHER`, or when there is
    /// enough for a full batch; with nothing to say, every heartbeat for the digest.
    pub(crate) fn wants_pull(&self, pending: usize, rhythm: &Rhythm, now: Duration) -> bool {
        if self.sending.is_some() || self.unacked.len() >= WINDOW {
            return false;
        }
        let since = now.saturating_sub(self.last_pull);
        match pending {
            0 => since >= rhythm.heartbeat,
            MAX_HALVES.. => true,
            _ => since >= self.gather,
        }
    }

    /// Takes a pull to send, of about so many halves.
    pub(crate) fn begin(&mut self, pull: Pull, pending: usize, rhythm: &Rhythm, now: Duration) {
        let since = now.saturating_sub(self.last_pull);
        let load = pending as u128 * GATHER.as_nanos() >= MANY as u128 * since.as_nanos();
        self.gather = if load { GATHER_MORE.min(rhythm.heartbeat / 10).max(GATHER) } else { GATHER };
        self.last_pull = now;
        let snapshot = pull.snapshot.map(|base| SnapshotState { index: 0, base: Some(base) });
        self.cursor = Some(pull.through);
        self.sending = Some(Sending {
            from: pull.from,
            after: pull.from,
            through: pull.through,
            horizon: pull.horizon,
            reading: pull.reading,
            digest: pull.digest,
            snapshot,
        });
    }

    /// The next batch or chunk of the pull in progress, if the window has room. `live` adds what the data
    /// path has counted by now.
    pub(crate) fn next_chunk(
        &mut self,
        journal: &mut Journal,
        now: Duration,
        live: impl Fn(HalfKey) -> Option<TrafficTotals>,
    ) -> Option<Message> {
        if self.unacked.len() >= WINDOW {
            return None;
        }
        let sending = self.sending.as_mut()?;
        if self.unacked.is_empty() {
            // From here on something is owed. Not from the pull on: the stream may have had no room since.
            self.last_progress_acked = now;
        }
        let mut halves = Vec::with_capacity(USUAL);
        let mut weight = 0;
        let mut last_seq = sending.after;
        let more = journal.read_on(sending.reading, |seq, half| {
            let mut update = half.update_since(sending.from, seq);
            if let Some(totals) = half.is_live().then(|| live(half.key)).flatten() {
                update.traffic.merge(&totals);
            }
            weight += update.weight();
            last_seq = seq;
            halves.push(update);
            halves.len() < MAX_HALVES && weight < MAX_WEIGHT
        });
        let last = !more;
        let through = if last { sending.through } else { last_seq };
        let digest = last.then_some(sending.digest);
        let message = if let Some(snapshot) = &mut sending.snapshot {
            let index = snapshot.index;
            snapshot.index += 1;
            self.unacked.push_back(Sent::Chunk(self.chunks_sent));
            self.chunks_sent += 1;
            let base = snapshot.base.take();
            Message::Snapshot(SnapshotChunk { index, through: sending.through, base, halves, digest })
        } else {
            let after = sending.after;
            sending.after = through;
            self.unacked.push_back(Sent::Through(through));
            Message::Batch(Batch { after, through, horizon: sending.horizon, halves, digest })
        };
        if last {
            self.stop_sending(journal);
        }
        Some(message)
    }

    /// The pull in progress is over, or will never be: the journal need not keep anything for it.
    pub(crate) fn stop_sending(&mut self, journal: &mut Journal) {
        if let Some(sending) = self.sending.take() {
            journal.end_reading(sending.reading);
        }
    }

    /// Is a pull being sent?
    pub(crate) const fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Which live halves to report: at most `limit` keys after the cursor, those active since the last round.
    pub(crate) fn next_progress<'a>(
        &mut self,
        live: impl Fn(
            Option<HalfKey>,
        ) -> Box<dyn Iterator<Item = (HalfKey, &'a std::sync::Arc<crate::Traffic>)> + 'a>,
        limit: usize,
        rhythm: &Rhythm,
        now: Duration,
    ) -> Option<Message> {
        if now < self.next_progress {
            return None;
        }
        if self.progress_cursor.is_none() {
            self.round_began = now;
        }
        let mut halves = Vec::new();
        let mut scanned = 0;
        let mut last = None;
        for (key, traffic) in live(self.progress_cursor) {
            scanned += 1;
            last = Some(key);
            if traffic.last_activity() >= self.progress_since {
                halves.push((key, traffic.totals()));
            }
            if halves.len() >= limit || scanned >= limit * 8 {
                break;
            }
        }
        let finished = halves.len() < limit && scanned < limit * 8;
        self.progress_cursor = if finished { None } else { last };
        let pause = if finished { rhythm.heartbeat } else { rhythm.heartbeat / 8 };
        if finished {
            // Not from the round's end: what a half did after its turn, the next round tells.
            self.progress_since = self.round_began.saturating_sub(rhythm.heartbeat);
        }
        self.next_progress = now + pause;
        (!halves.is_empty()).then_some(Message::Progress(halves))
    }

    /// When to ask again, if nothing happens before.
    pub(crate) fn next_time(&self, pending: usize, rhythm: &Rhythm, now: Duration) -> Duration {
        let heartbeat = self.last_heartbeat_sent + rhythm.heartbeat;
        let silent = self.last_received + rhythm.stall_after;
        let mut next = heartbeat.min(silent).min(self.next_progress.max(now));
        if !self.unacked.is_empty() {
            next = next.min(self.last_progress_acked + rhythm.stall_after);
        }
        if self.sending.is_none() && self.unacked.len() < WINDOW {
            let pause = if pending == 0 { rhythm.heartbeat } else { self.gather };
            next = next.min(self.last_pull + pause);
        }
        next.max(now + Duration::from_millis(1))
    }
}
