//! Taking nothing new, letting finish, then a deadline.
//!
//! *Owns* the one state that every listener and connection of a process looks at. *Never* goes back, and
//! never ends a connection: its owner does. *Invariant*: running → draining until a moment → stopping; each
//! step happens once, whoever asks for it first.

use std::time::Duration;

use ledger::{Limit, Observation, Reason, Role};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::close::{CloseMode, CloseOrder, drain_order};

/// How far the process is in leaving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leaving {
    /// Not at all.
    #[default]
    No,
    /// Takes nothing new; what is there may finish until this active time.
    Draining {
        /// The drain's end.
        until: Duration,
    },
    /// Cuts what is left.
    Stopping,
}

/// Asks the process to leave. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DrainSwitch {
    state: watch::Sender<Leaving>,
    clock: Clock,
}

/// Tells how far the process is in leaving. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain {
    state: watch::Receiver<Leaving>,
    clock: Clock,
}

impl DrainSwitch {
    /// A process that runs.
    pub fn new(clock: Clock) -> (Self, Drain) {
        let (sender, receiver) = watch::channel(Leaving::No);
        let drain = Drain { state: receiver, clock: clock.clone() };
        (Self { state: sender, clock }, drain)
    }

    /// Begins to drain, for at most `limit`. `false` where it had begun before.
    pub fn drain(&self, limit: Duration) -> bool {
        let until = self.clock.active().saturating_add(limit);
        self.state.send_if_modified(|state| {
            let first = *state == Leaving::No;
            if first {
                *state = Leaving::Draining { until };
            }
            first
        })
    }

    /// Stops now. `false` where it was told to before.
    pub fn stop(&self) -> bool {
        self.state.send_if_modified(|state| std::mem::replace(state, Leaving::Stopping) != Leaving::Stopping)
    }
}

impl Drain {
    /// How far it is; a drain whose time is over is stopping.
    pub fn state(&self) -> Leaving {
        match *self.state.borrow() {
            Leaving::Draining { until } if until <= self.clock.active() => Leaving::Stopping,
            state => state,
        }
    }

    /// Waits until nothing new is to be taken. Cancel safe.
    pub async fn draining(&self) {
        self.wait_for(|state| state != Leaving::No).await;
    }

    /// Waits until what is left is to be cut: told so, or the drain's time is over. Cancel safe.
    pub async fn stopping(&self) {
        let until = match self.wait_for(|state| state != Leaving::No).await {
            Leaving::Draining { until } => until,
            Leaving::No | Leaving::Stopping => return,
        };
        tokio::select! {
            _ = self.wait_for(|state| state == Leaving::Stopping) => {}
            () = self.clock.sleep_until(until) => {}
        }
    }

    /// Was the process told to stop at once, before the drain's end?
    pub fn was_cut_short(&self) -> bool {
        *self.state.borrow() == Leaving::Stopping
    }

    /// The order for what is left once it is [stopping](Self::stopping): cut short, or at its `limit`.
    pub fn last_order(&self, role: Role, limit: &Limit) -> CloseOrder {
        if self.was_cut_short() {
            let observation = Observation::new(role, Reason::Shutdown, None, Duration::ZERO);
            return CloseOrder { observation, mode: CloseMode::Abort };
        }
        drain_order(role, limit)
    }

    async fn wait_for(&self, wanted: impl Fn(Leaving) -> bool) -> Leaving {
        let mut state = self.state.clone();
        let reached = state.wait_for(|state| wanted(*state)).await.map(|state| *state);
        match reached {
            Ok(state) => state,
            // The switch is gone: nobody will ever ask.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_by_its_time_and_begins_once() {
        let clock = Clock::of_tokio();
        let (switch, drain) = DrainSwitch::new(clock.clone());
        assert_eq!(drain.state(), Leaving::No);
        assert!(switch.drain(S * 30) && !switch.drain(S * 300));
        drain.draining().await;
        assert_eq!(drain.state(), Leaving::Draining { until: S * 30 });
        drain.stopping().await;
        assert!(clock.active() >= S * 30 && clock.active() < S * 31);
        assert_eq!(drain.state(), Leaving::Stopping);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_word_stops_at_once() {
        let clock = Clock::of_tokio();
        let (switch, drain) = DrainSwitch::new(clock.clone());
        assert!(switch.drain(S * 30));
        let other = drain.clone();
        let waiting = tokio::spawn(async move { other.stopping().await });
        tokio::task::yield_now().await;
        assert!(switch.stop() && !switch.stop() && !switch.drain(S));
        waiting.await.unwrap();
        assert!(clock.active() < S);
        assert_eq!(drain.state(), Leaving::Stopping);
    }
}
