//! The deadlines of one connection, as a pure value.
//!
//! *Owns* which deadlines are armed, since when, with what limit from where, and which fires next.
//! *Never* sets a timer: the shell asks [`Deadlines::next_expiry`], sleeps, asks again; activity is folded
//! in lazily, so a byte costs no timer. *Invariant*: times are active time (see [`crate::Now`]), so a
//! suspended process moves every deadline by as long as it was away.

use std::sync::Arc;
use std::time::Duration;

use crate::evidence::Rule;
use crate::phase::DeadlineName;

/// One armed deadline, as shown on the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Armed {
    /// Its configuration name.
    pub name: DeadlineName,
    /// The limit in force (the configured value, spread by jitter where that applies).
    pub limit: Duration,
    /// Where the value was written: `default`, `file:line`, or a route with its line.
    pub source: Arc<str>,
    /// Active time when it was armed.
    pub since: Duration,
    /// What restarts it.
    pub restart: Restart,
}

/// What restarts a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Nothing: it ends at `since + limit`.
    Never,
    /// Any byte in any direction.
    OnBytes,
}

/// A configured limit and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Zero means no limit: arming it does nothing.
    pub value: Duration,
    /// `default`, `file:line`, or a route with its line.
    pub source: Arc<str>,
}

/// The armed deadlines of one connection.
#[derive(Clone, Debug, Default)]
pub struct Deadlines {
    armed: Vec<Armed>,
    last_activity: Duration,
}

impl Deadlines {
    /// Arms `name`, replacing an earlier one of that name. A zero limit disarms it.
    pub fn arm(&mut self, name: DeadlineName, limit: &Limit, restart: Restart, now: Duration) {
        self.disarm(name);
        if !limit.value.is_zero() {
            let source = Arc::clone(&limit.source);
            self.armed.push(Armed { name, limit: limit.value, source, since: now, restart });
        }
    }

    /// Arms `name` so that it expires when the earlier arming of `limit` at `since` would have: what is left
    /// of a wait that began before.
    pub fn resume(&mut self, name: DeadlineName, limit: &Limit, since: Duration) {
        self.arm(name, limit, Restart::Never, since);
    }

    /// Disarms `name`; nothing happens where it is not armed.
    pub fn disarm(&mut self, name: DeadlineName) {
        self.armed.retain(|armed| armed.name != name);
    }

    /// Disarms everything but `kept`: a new phase begins.
    pub fn keep_only(&mut self, kept: &[DeadlineName]) {
        self.armed.retain(|armed| kept.contains(&armed.name));
    }

    /// Bytes moved at `at`, in any direction.
    pub fn on_bytes(&mut self, at: Duration) {
        self.last_activity = self.last_activity.max(at);
    }

    /// One side sent its FIN: idle clocks end, the half-close clock begins and restarts with progress.
    pub fn on_half_close(&mut self, limit: &Limit, now: Duration) {
        self.disarm(DeadlineName::Inactivity);
        self.disarm(DeadlineName::TunnelIdle);
        self.arm(DeadlineName::HalfClose, limit, Restart::OnBytes, now);
    }

    /// Which deadline fires first, and when. Ties go to the one armed first.
    pub fn next_expiry(&self) -> Option<(DeadlineName, Duration)> {
        self.armed.iter().map(|a| (a.name, self.expiry(a))).min_by_key(|(_, at)| *at)
    }

    /// The first deadline that has passed at `now`.
    pub fn expired(&self, now: Duration) -> Option<&Armed> {
        self.armed.iter().filter(|a| self.expiry(a) <= now).min_by_key(|a| self.expiry(a))
    }

    /// What is armed, in the order of arming.
    pub fn armed(&self) -> &[Armed] {
        &self.armed
    }

    fn expiry(&self, armed: &Armed) -> Duration {
        armed.expires_at(self.last_activity)
    }
}

impl Armed {
    /// When it fires, given the last activity: active time.
    pub fn expires_at(&self, last_activity: Duration) -> Duration {
        let from = match self.restart {
            Restart::Never => self.since,
            Restart::OnBytes => self.since.max(last_activity),
        };
        from.saturating_add(self.limit)
    }

    /// The rule for a termination.
    pub fn rule(&self) -> Rule {
        rule(self.name, self.limit, &self.source)
    }
}

impl Limit {
    /// A limit that the configuration left at its default.
    pub fn default_of(value: Duration) -> Self {
        Self { value, source: "default".into() }
    }

    /// The rule for a termination, where this is the limit of `name`.
    pub fn rule(&self, name: DeadlineName) -> Rule {
        rule(name, self.value, &self.source)
    }

    /// This limit, later by up to `percent` of its value, chosen by `seed`: connections of one moment do not
    /// expire at one moment. Never earlier than configured.
    #[must_use]
    pub fn spread(&self, percent: f64, seed: u64) -> Self {
        let fraction = (crate::digest::splitmix64(seed) >> 11) as f64 / (1_u64 << 53) as f64;
        let extra = self.value.mul_f64((percent / 100.0).clamp(0.0, 1.0) * fraction);
        Self { value: self.value.saturating_add(extra), source: Arc::clone(&self.source) }
    }
}

fn rule(name: DeadlineName, limit: Duration, source: &str) -> Rule {
    Rule { name: name.name().into(), limit: format!("{limit:?}").into(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn limit(seconds: u32) -> Limit {
        Limit { value: S * seconds, source: "test:1".into() }
    }

    /// a flow that makes progress in one direction is not idle.
    #[test]
    fn bytes_in_any_direction_restart_the_idle_clock() {
        let mut deadlines = Deadlines::default();
        deadlines.arm(DeadlineName::Inactivity, &limit(10), Restart::OnBytes, S);
        assert_eq!(deadlines.next_expiry(), Some((DeadlineName::Inactivity, S * 11)));
        deadlines.on_bytes(S * 9);
        assert!(deadlines.expired(S * 11).is_none());
        assert_eq!(deadlines.expired(S * 19).map(|a| a.name), Some(DeadlineName::Inactivity));
    }

    /// the half-close clock runs from the half-close, not from the age, and progress restarts it.
    #[test]
    fn a_half_close_is_judged_from_its_own_time() {
        let mut deadlines = Deadlines::default();
        deadlines.arm(DeadlineName::Inactivity, &limit(3600), Restart::OnBytes, S);
        deadlines.on_half_close(&limit(60), S * 600);
        assert_eq!(deadlines.next_expiry(), Some((DeadlineName::HalfClose, S * 660)));
        deadlines.on_bytes(S * 700);
        assert_eq!(deadlines.next_expiry(), Some((DeadlineName::HalfClose, S * 760)));
    }

    #[test]
    fn what_is_left_of_a_hold_goes_on_and_zero_means_no_limit() {
        let mut deadlines = Deadlines::default();
        deadlines.resume(DeadlineName::Hold, &limit(10), S * 5);
        deadlines.on_bytes(S * 12);
        assert_eq!(deadlines.next_expiry(), Some((DeadlineName::Hold, S * 15)));
        deadlines.arm(DeadlineName::MaxLifetime, &limit(0), Restart::Never, S);
        assert_eq!(deadlines.armed().len(), 1);
        deadlines.keep_only(&[]);
        assert_eq!(deadlines.next_expiry(), None);
    }

    proptest! {
        /// spread deadlines are never early, never later than the percentage, and not all alike.
        #[test]
        fn spreading_stays_within_its_bounds(seed in any::<u64>()) {
            let spread = limit(100).spread(5.0, seed).value;
            prop_assert!(spread >= S * 100 && spread <= S * 105);
            prop_assert_ne!(spread, limit(100).spread(5.0, seed ^ 1).value);
        }
    }
}
