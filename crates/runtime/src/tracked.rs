//! A live connection's record, in the hands of its one owner.
//!
//! *Owns* the record's life from opening to close, its deadlines, and what was observed of it, in order.
//! *Never* is cloned, and never touches a socket. *Invariant*: the record ends exactly once: by
//! [`TrackedConnection::finish`], or when the owner is dropped (a panic, an aborted task) with what was
//! observed until then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ledger::{
    Armed, Attempt, Change, Class, ConnectionId, DeadlineName, Deadlines, Direction, Ending, HalfKey,
    HopCount, LegName, Limit, Now, Observation, Phase, Reason, RecordError, Restart, Role, Traffic,
};
use tokio::net::TcpStream;

use crate::clock::Clock;
use crate::close::{CloseOrder, CloseSlot};
use crate::leg::{Leg, Origin};
use crate::manager::ConnectionManager;

/// The only owner of a live record. Ends by [`TrackedConnection::finish`].
#[derive(Debug)]
#[must_use = "a record whose owner is dropped ends as abandoned"]
pub struct TrackedConnection {
    manager: ConnectionManager,
    key: HalfKey,
    role: Role,
    traffic: Arc<Traffic>,
    opened: Now,
    phase: Phase,
    deadlines: Deadlines,
    /// Taken by whichever ends the record.
    observations: Option<Vec<Observation>>,
    slot: Arc<CloseSlot>,
}

impl TrackedConnection {
    pub(crate) fn new(
        manager: ConnectionManager,
        key: HalfKey,
        traffic: Arc<Traffic>,
        opened: Now,
        slot: Arc<CloseSlot>,
    ) -> Self {
        let role = manager.ledger().role();
        Self {
            manager,
            key,
            role,
            traffic,
            opened,
            phase: Phase::Accepted,
            deadlines: Deadlines::default(),
            observations: Some(Vec::new()),
            slot,
        }
    }

    /// Which half it is.
    pub const fn key(&self) -> HalfKey {
        self.key
    }

    /// The connection's id.
    pub const fn id(&self) -> ConnectionId {
        self.key.connection
    }

    /// The attempt of an inner half; [`Attempt::FRONT`] for a front.
    pub const fn attempt(&self) -> Attempt {
        self.key.attempt
    }

    /// Where its bytes are counted.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// The clocks.
    pub fn clock(&self) -> &Clock {
        self.manager.clock()
    }

    /// Whose connection it is.
    pub const fn manager(&self) -> &ConnectionManager {
        &self.manager
    }

    /// When it opened.
    pub const fn opened(&self) -> Now {
        self.opened
    }

    /// What its log lines carry, whoever writes them: entered while somebody works for it. At debug level, as
    /// are the lines: at the usual level a connection's one line says it all, and the span costs nothing.
    pub fn span(&self, client: SocketAddr, listener: &str) -> tracing::Span {
        tracing::debug_span!("conn", id = %self.id(), %client, listener, route = tracing::field::Empty)
    }

    /// The phase it is in.
    pub const fn current_phase(&self) -> Phase {
        self.phase
    }

    /// Takes a socket as a leg of this connection.
    pub fn leg(&self, socket: TcpStream, name: LegName, origin: Origin) -> Leg {
        Leg::adopt(socket, name, origin, Arc::clone(&self.traffic), self.clock().clone())
    }

    /// Enters `phase`, with the deadlines that are armed by now, as one step of the journal.
    pub fn phase(&mut self, phase: Phase) {
        self.record([Change::Phase(phase, None)]);
    }

    /// One side sent its FIN: the idle clocks end, the half-close clock begins.
    pub fn half_closed(&mut self, side: LegName, limit: &Limit) {
        let now = self.clock().active();
        self.deadlines.on_half_close(limit, now);
        self.record([Change::Phase(Phase::HalfClosed, Some(side))]);
    }

    /// Applies `changes` as one step of the journal, with the deadlines that are armed by now.
    pub fn record(&mut self, changes: impl IntoIterator<Item = Change>) {
        let (mut entered, mut routed) = (None, None);
        let changes = changes.into_iter().inspect(|change| match change {
            Change::Phase(phase, _) => entered = Some(*phase),
            Change::Routing(routing) => routed.clone_from(&routing.route),
            _ => {}
        });
        let armed = Change::Armed(self.deadlines.armed().into());
        let recorded = self.manager.ledger().record(self.key, changes.chain([armed]), self.clock().now());
        // The books are free again: whoever listens to spans may take its time.
        if let Some(route) = routed {
            tracing::Span::current().record("route", &*route);
        }
        match recorded {
            Ok(()) => self.phase = entered.unwrap_or(self.phase),
            Err(RecordError::Step(step)) => {
                tracing::error!(id = %self.id(), %step, "our bug: an illegal step of a record");
                debug_assert!(false, "{step}");
            }
            Err(error) => {
                tracing::error!(id = %self.id(), ?error, "our bug: a record that its owner has and the books have not");
            }
        }
    }

    /// What is armed. Shown with the next [`TrackedConnection::record`] or phase.
    pub const fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// To arm and disarm; shown with the next [`TrackedConnection::record`] or phase.
    pub const fn deadlines_mut(&mut self) -> &mut Deadlines {
        &mut self.deadlines
    }

    /// Arms a deadline from now on; shown with the next [`TrackedConnection::record`] or phase.
    pub fn arm(&mut self, name: DeadlineName, limit: &Limit, restart: Restart) {
        let now = self.clock().active();
        self.deadlines.arm(name, limit, restart, now);
    }

    /// Waits until an armed deadline has passed, in active time; for ever where none is armed. Cancel safe.
    ///
    /// Bytes that move while it waits cost nothing: it looks at the last activity when it wakes.
    pub async fn expired(&self) -> Armed {
        loop {
            if let Some(armed) = self.overdue() {
                return armed;
            }
            match self.next_expiry() {
                Some(at) => self.clock().sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    }

    /// The armed deadline that has passed first, if one has.
    pub fn overdue(&self) -> Option<Armed> {
        let (last, now) = (self.traffic.last_activity(), self.clock().active());
        let passed = self.deadlines.armed().iter().filter(|armed| armed.expires_at(last) <= now);
        passed.min_by_key(|armed| armed.expires_at(last)).cloned()
    }

    /// When the next armed deadline passes (active time) unless bytes move.
    pub fn next_expiry(&self) -> Option<Duration> {
        let last = self.traffic.last_activity();
        self.deadlines.armed().iter().map(|armed| armed.expires_at(last)).min()
    }

    /// Waits for an order to close. Cancel safe; ready for ever once there is one.
    pub async fn closing(&self) -> CloseOrder {
        self.slot.given().await
    }

    /// Is there an order to close?
    pub fn is_ordered_to_close(&self) -> bool {
        self.slot.is_given()
    }

    /// Where orders to close arrive, for those who must borrow the connection while they wait.
    pub(crate) fn slot(&self) -> Arc<CloseSlot> {
        Arc::clone(&self.slot)
    }

    /// Adds to the evidence.
    pub fn observe(&mut self, observation: Observation) {
        let Observation { reason, leg, detail, .. } = &observation;
        tracing::debug!(%reason, leg = leg.map(LegName::name), detail = detail.as_deref(), "observed");
        self.observations.get_or_insert_default().push(observation);
    }

    /// An observation of now, with the reason's usual class and initiator.
    pub fn observation(&self, reason: Reason, leg: Option<LegName>) -> Observation {
        self.observation_at(reason, leg, self.clock().mono())
    }

    /// As [`TrackedConnection::observation`], of a moment on the monotonic clock.
    pub fn observation_at(&self, reason: Reason, leg: Option<LegName>, at: Duration) -> Observation {
        Observation::new(self.role, reason, leg, at.saturating_sub(self.opened.mono))
    }

    /// A deadline fired: `reason` says what that means here.
    pub fn observe_expiry(&mut self, armed: &Armed, reason: Reason, leg: Option<LegName>) {
        let from = armed.expires_at(self.traffic.last_activity()).saturating_sub(armed.limit);
        let observed = self.clock().active().saturating_sub(from);
        let observed = Duration::from_millis(observed.as_millis() as u64);
        let observation = self.observation(reason, leg).by_rule(armed.rule(), format!("{observed:?}"));
        self.observe(observation);
    }

    /// Adds what a leg has seen since the last time, with its usual meaning (see [`crate::News::reason`]).
    pub fn observe_leg(&mut self, leg: &Leg) {
        for news in leg.take_news() {
            let mut observation = self.observation_of(&news, leg.name());
            if observation.class.is_hard() && leg.left_before_our_goodbye() {
                observation.class = Class::Consequence;
            }
            self.observe(observation);
        }
    }

    /// Adds the FIN of a leg that the kernel has, although it was not read yet.
    pub fn observe_early_fin(&mut self, leg: &Leg) {
        if let Some(news) = leg.take_early_fin() {
            self.observe(self.observation_of(&news, leg.name()));
        }
    }

    /// One piece of a leg's news as an observation.
    pub fn observation_of(&self, news: &crate::evidence::News, leg: LegName) -> Observation {
        let observation = self.observation_at(news.reason(leg), Some(leg), news.at());
        match news {
            crate::evidence::News::Failed(failure) => observation.with_detail(failure.error().to_string()),
            crate::evidence::News::Closed { .. } => observation,
        }
    }

    /// What was observed so far, in order.
    pub fn observations(&self) -> &[Observation] {
        self.observations.as_deref().unwrap_or_default()
    }

    /// Ends the record. The sockets are gone already.
    pub fn finish(mut self, hop: HopCount, undelivered: u64) {
        self.end(hop, undelivered);
    }

    fn end(&mut self, hop: HopCount, undelivered: u64) {
        let Some(observations) = self.observations.take() else { return };
        self.manager.forget(self.key);
        if observations.is_empty() {
            tracing::error!(id = %self.id(), phase = self.phase.name(), "our bug: a connection ended without a reason");
        }
        let ending = Ending { observations, hop, undelivered };
        if let Err(error) = self.manager.ledger().close(self.key, ending, self.clock().now()) {
            tracing::error!(id = %self.id(), ?error, "our bug: a record that could not be closed");
        }
    }
}

impl Drop for TrackedConnection {
    fn drop(&mut self) {
        if self.observations.is_some() && std::thread::panicking() {
            let panicked = self.observation(Reason::Panicked, None);
            self.observe(panicked);
        }
        // The hop's socket was not asked: what was counted passed, what came after it is not known.
        let traffic = self.traffic();
        let (sent, received) =
            (traffic.bytes(LegName::Hop, Direction::Out), traffic.bytes(LegName::Hop, Direction::In));
        self.end(HopCount { sent, received, read_to_eof: false }, 0);
    }
}
