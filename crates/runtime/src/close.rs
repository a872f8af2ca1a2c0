//! The order to close a connection, given at most once.
//!
//! *Owns* the slot that [`crate::ConnectionManager::initiate_cleanup_once`] fills and the wake-up of the
//! connection's owner. *Never* closes anything: the owner does, at its next await.
//! *Invariant*: the first caller wins, and the owner sees the order however late it looks.

use std::sync::OnceLock;
use std::time::Duration;

use ledger::{DeadlineName, Limit, Observation, Reason, Role};
use tokio::sync::Notify;

/// Why a connection is to be closed, and how.
#[derive(Clone, Debug)]
pub struct CloseOrder {
    /// What goes into the connection's end; its time is set when the order is given.
    pub observation: Observation,
    /// How the other ends are told.
    pub mode: CloseMode,
}

/// How an ordered close looks from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// Deliver what was read, FIN, bounded wait.
    Graceful,
    /// RST at once.
    Abort,
}

/// The order for what is left when the time of a drain, `limit`, is over.
pub fn drain_order(role: Role, limit: &Limit) -> CloseOrder {
    let observation = Observation::new(role, Reason::DrainDeadline, None, Duration::ZERO)
        .by_rule(limit.rule(DeadlineName::Drain), format!("{:?}", limit.value));
    CloseOrder { observation, mode: CloseMode::Abort }
}

/// Where one connection's order is put.
#[derive(Debug)]
pub(crate) struct CloseSlot {
    /// Monotonic time when the half opened.
    opened: Duration,
    /// In a box: most connections never get one.
    order: OnceLock<Box<CloseOrder>>,
    given: Notify,
}

impl CloseSlot {
    pub(crate) fn new(opened: Duration) -> Self {
        Self { opened, order: OnceLock::new(), given: Notify::new() }
    }

    /// Gives the order, unless one was given before.
    pub(crate) fn give(&self, mut order: CloseOrder, now: Duration) -> bool {
        order.observation.after = now.saturating_sub(self.opened);
        let first = self.order.set(Box::new(order)).is_ok();
        if first {
            self.given.notify_waiters();
        }
        first
    }

    /// Was it given? Costs one load.
    pub(crate) fn is_given(&self) -> bool {
        self.order.get().is_some()
    }

    /// Waits for the order. Cancel safe; ready for ever once it was given.
    pub(crate) async fn given(&self) -> CloseOrder {
        let mut given = std::pin::pin!(self.given.notified());
        loop {
            given.as_mut().enable();
            if let Some(order) = self.order.get() {
                return CloseOrder::clone(order);
            }
            given.as_mut().await;
            given.set(self.given.notified());
        }
    }
}
