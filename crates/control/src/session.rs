//! One session of the control channel: the ledger's protocol, driven by a stream, a timer and its wake-up.
//!
//! *Owns* the loop that both processes run, and the end of a session in the ledger, exactly once, whatever
//! became of the stream. *Never* decides anything about the books, and queues nothing: it asks the ledger for
//! the next message when the stream has room for it. *Invariant*: what the shell has to say alternates with
//! what the ledger has to say, so neither can hold the other up.

use std::time::Duration;

use ledger::{Next, SessionEnd, SessionKey, SharedLedger};
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::convert::Malformed;
use crate::convert::message::{Acknowledged, Inbound, Notice, Reader, encode};
use crate::outbox::{Announcement, Outbox};
use crate::proto::control::v1::SyncMessage;
use crate::time::Time;

/// The end of a session in the ledger: dropped, it ends it.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) ledger: SharedLedger,
    pub(crate) time: Time,
    pub(crate) at: SessionKey,
    why: SessionEnd,
}

/// What a session needs beside its stream.
pub(crate) struct Surroundings<T, H> {
    /// Changes of the books.
    pub(crate) woken: watch::Receiver<u64>,
    /// What this process wants known.
    pub(crate) announced: watch::Receiver<Announcement>,
    /// A newer session took over, or the process ends at once.
    pub(crate) replaced: CancellationToken,
    /// The process leaves.
    pub(crate) leaving: CancellationToken,
    /// Takes what the peer says beside the books; what it returns is acknowledged.
    pub(crate) take: T,
    /// Hears the peer's active clock.
    pub(crate) heard: H,
    /// What the peer is to be told first.
    pub(crate) owed: Acknowledged,
    /// The rhythm in force.
    pub(crate) heartbeat: Duration,
    /// Without room for a message for so long, the peer does not read.
    pub(crate) stall_after: Duration,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) enum Over {
    /// As the ledger, or the peer, said.
    Ended(SessionEnd),
    /// The peer sent something that cannot be understood.
    Malformed(Malformed),
    /// The stream broke.
    Broken(Status),
    /// A newer session of the same peer took over.
    Replaced,
    /// We said goodbye.
    Left,
}

impl Over {
    /// How it ended, for the log.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Ended(why) => end_in_words(*why),
            Self::Malformed(malformed) => format!("the peer sent what cannot be understood: {malformed}"),
            Self::Broken(status) => format!("the stream broke: {}", status.message()),
            Self::Replaced => "a newer session of the same instance began".to_owned(),
            Self::Left => "we left".to_owned(),
        }
    }

    /// What a caller is told, where it did not end in order.
    pub(crate) fn status(&self) -> Option<Status> {
        match self {
            Self::Left | Self::Broken(_) | Self::Ended(SessionEnd::Bye) => None,
            Self::Malformed(_) => Some(Status::invalid_argument(self.words())),
            Self::Replaced | Self::Ended(_) => Some(Status::aborted(self.words())),
        }
    }
}

/// Why a session ended, in words.
pub(crate) fn end_in_words(why: SessionEnd) -> String {
    match why {
        SessionEnd::Bye => "the peer left".to_owned(),
        SessionEnd::Lost => "the stream ended, or a newer session of the same instance began".to_owned(),
        SessionEnd::Silent => "the peer was silent for stall_after".to_owned(),
        SessionEnd::Stalled => "the peer acknowledged nothing for stall_after".to_owned(),
        SessionEnd::Unappliable(why) => format!("the peer sent what cannot be applied: {why:?}"),
        SessionEnd::TooManyHalves => "the peer announced more live halves than its own limit".to_owned(),
        SessionEnd::BadAck => "the peer acknowledged what was never sent".to_owned(),
    }
}

impl Established {
    pub(crate) const fn new(ledger: SharedLedger, time: Time, at: SessionKey) -> Self {
        Self { ledger, time, at, why: SessionEnd::Lost }
    }

    /// Runs the session to its end.
    pub(crate) async fn run<S, T, H>(
        mut self,
        incoming: &mut S,
        outgoing: &mpsc::Sender<Result<SyncMessage, Status>>,
        surroundings: Surroundings<T, H>,
    ) -> Over
    where
        S: Stream<Item = Result<SyncMessage, Status>> + Unpin,
        T: FnMut(Notice) -> Option<Acknowledged>,
        H: FnMut(Duration),
    {
        let over = self.drive(incoming, outgoing, surroundings).await;
        self.why = match over {
            Over::Ended(why) => why,
            Over::Left => SessionEnd::Bye,
            Over::Malformed(_) | Over::Broken(_) | Over::Replaced => SessionEnd::Lost,
        };
        over
    }

    async fn drive<S, T, H>(
        &self,
        incoming: &mut S,
        outgoing: &mpsc::Sender<Result<SyncMessage, Status>>,
        mut around: Surroundings<T, H>,
    ) -> Over
    where
        S: Stream<Item = Result<SyncMessage, Status>> + Unpin,
        T: FnMut(Notice) -> Option<Acknowledged>,
        H: FnMut(Duration),
    {
        let active = || self.time.now().active;
        let mut turn = Turn::new(active());
        let mut reader = Reader::of(self.at.peer);
        turn.outbox.owe(std::mem::take(&mut around.owed));
        turn.outbox.announce(around.announced.borrow_and_update().clone());
        loop {
            if turn.is_due_to_leave(&self.ledger, self.at, active()) {
                let bye = encode(&self.ledger.bye(), active());
                self.time.within(around.heartbeat, outgoing.send(Ok(bye))).await;
                return Over::Left;
            }
            let wait_until = match turn.wait_until {
                // A stream without room is a peer that does not read; the ledger is not asked meanwhile.
                None => turn.room_since + around.stall_after,
                Some(at) => at,
            };
            let wait_until = turn.leave_by.map_or(wait_until, |leave_by| leave_by.min(wait_until));
            tokio::select! {
                message = incoming.next() => {
                    let message = match message {
                        Some(Ok(message)) => message,
                        Some(Err(status)) => return Over::Broken(status),
                        None => return Over::Ended(SessionEnd::Lost),
                    };
                    let read = reader.read(message).map_err(Over::Malformed);
                    if let Err(over) = read.and_then(|read| self.receive(read, &mut around, &mut turn.outbox)) {
                        return over;
                    }
                    turn.speak(active());
                }
                room = outgoing.reserve(), if turn.wait_until.is_none() => {
                    let Ok(room) = room else { return Over::Ended(SessionEnd::Lost) };
                    turn.room_since = active();
                    match turn.next(&self.ledger, self.at, self.time.now()) {
                        Said::Message(message) => room.send(Ok(message)),
                        Said::Nothing => {}
                        Said::End(why) => return Over::Ended(why),
                    }
                }
                () = self.time.sleep_until(wait_until) => {
                    if turn.wait_until.is_none() && turn.leave_by.is_none() {
                        return Over::Ended(SessionEnd::Stalled);
                    }
                    turn.speak(active());
                }
                woken = around.woken.changed(), if turn.wait_until.is_some() => {
                    if woken.is_err() {
                        return Over::Replaced;
                    }
                    turn.speak(active());
                }
                announced = around.announced.changed() => {
                    if announced.is_err() {
                        return Over::Replaced;
                    }
                    turn.outbox.announce(around.announced.borrow_and_update().clone());
                    turn.speak(active());
                }
                () = around.replaced.cancelled() => return Over::Replaced,
                () = around.leaving.cancelled(), if turn.leave_by.is_none() => {
                    turn.leave_by = Some(active() + around.heartbeat);
                    turn.speak(active());
                }
            }
        }
    }

    fn receive<T, H>(
        &self,
        message: Inbound,
        around: &mut Surroundings<T, H>,
        outbox: &mut Outbox,
    ) -> Result<(), Over>
    where
        T: FnMut(Notice) -> Option<Acknowledged>,
        H: FnMut(Duration),
    {
        match message {
            Inbound::Ledger(message, clock) => {
                self.ledger.receive(self.at, message, self.time.now()).map_err(Over::Ended)?;
                if let Some(clock) = clock {
                    (around.heard)(clock);
                }
            }
            Inbound::Notice(notice) => {
                if let Some(owed) = (around.take)(notice) {
                    outbox.owe(owed);
                }
            }
            Inbound::Hello(_) => return Err(Over::Ended(SessionEnd::Lost)),
            Inbound::Unknown => {
                tracing::debug!(peer = %self.at.peer, "a message of an unknown kind was skipped");
            }
        }
        Ok(())
    }
}

impl Drop for Established {
    fn drop(&mut self) {
        self.ledger.end_session(self.at, self.why, self.time.now());
    }
}

/// Whose turn it is to speak, and until when nobody has anything to say.
struct Turn {
    outbox: Outbox,
    shell_first: bool,
    wait_until: Option<Duration>,
    room_since: Duration,
    leave_by: Option<Duration>,
}

/// What came of asking for something to say.
#[expect(clippy::large_enum_variant, reason = "returned once per message and consumed at once")]
enum Said {
    Message(SyncMessage),
    Nothing,
    End(SessionEnd),
}

impl Turn {
    fn new(active: Duration) -> Self {
        let outbox = Outbox::default();
        Self { outbox, shell_first: true, wait_until: None, room_since: active, leave_by: None }
    }

    /// There may be something to say.
    fn speak(&mut self, active: Duration) {
        if self.wait_until.take().is_some() {
            self.room_since = active;
        }
    }

    /// The next message: the shell's and the ledger's in turn, while both have some.
    fn next(&mut self, ledger: &SharedLedger, at: SessionKey, now: ledger::Now) -> Said {
        self.shell_first = !self.shell_first;
        if !self.shell_first
            && let Some(notice) = self.outbox.next()
        {
            return Said::Message(notice.encode());
        }
        match ledger.next(at, now) {
            Next::Send(message) => Said::Message(encode(&message, now.active)),
            Next::End(why) => Said::End(why),
            Next::Wait(until) => {
                if let Some(notice) = self.outbox.next() {
                    return Said::Message(notice.encode());
                }
                self.wait_until = Some(until);
                Said::Nothing
            }
        }
    }

    fn is_due_to_leave(&self, ledger: &SharedLedger, at: SessionKey, active: Duration) -> bool {
        self.leave_by.is_some_and(|leave_by| active >= leave_by || ledger.is_drained(at))
    }
}
