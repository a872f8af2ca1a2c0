//! The one timer of an HTTP connection, and what it waits for.
//!
//! *Owns* when to look at the connection again: at the deadline of what it is doing, soon after a request has
//! begun (to watch the hop while nobody reads it), and when what the record shows is out of date. *Never*
//! touches a timer for a request that is answered at once while an earlier look is due anyway. *Invariant*: a
//! deadline fires no earlier than configured, in active time, and is computed from what happened, not from
//! when somebody looked.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ledger::{Armed, DeadlineName, Limit, Restart};
use runtime::TrackedConnection;
use tokio::time::{Instant, Sleep};

use super::activity::Activity;
use super::conversation::{Conversation, HttpVersion};
use crate::settings::{Timeouts, spread};

/// A request that takes this long has the hop watched while nobody reads it.
pub(super) const WATCHED_AFTER: Duration = Duration::from_millis(100);
/// What lasts this long is shown on the record, with its deadline.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
/// Longer waits are cut into such.
const FAR: Duration = Duration::from_hours(24);

/// Deadlines that the record's owner arms, rather than what HTTP is doing.
const OWNERS: [DeadlineName; 3] = [DeadlineName::HalfClose, DeadlineName::Close, DeadlineName::Drain];

/// The timer of one connection.
pub(super) struct Vigil<'a> {
    activity: &'a Activity,
    timeouts: &'a Timeouts,
    version: HttpVersion,
    /// How much longer than configured this connection may idle.
    extra: Duration,
    sleep: Pin<&'a mut Sleep>,
    /// Active time at which `sleep` ends.
    due: Duration,
    /// The shortest of what may become due.
    least: Duration,
    /// The deadline that the record shows, and since when it runs.
    shown: Option<(DeadlineName, Duration)>,
    /// Is the hop to be watched?
    pub(super) watching: bool,
    was_watching: bool,
}

/// What a look brought.
#[derive(Debug)]
pub(super) enum Look {
    /// A deadline has passed.
    Expired(Armed),
    /// The record should show another deadline: see [`Vigil::show`].
    Outdated,
    /// The client abuses HTTP/2 in this way.
    Flood(&'static str),
}

impl<'a> Vigil<'a> {
    /// The timer of a connection on which HTTP begins. `sleep` is any.
    pub(super) fn of(conversation: &'a Conversation, sleep: Pin<&'a mut Sleep>) -> Self {
        let timeouts = &conversation.gateway.timeouts;
        // Idle connections are spread by their ids.
        let seed = conversation.key.connection.0 as u64;
        let extra = spread(&timeouts.keep_alive, seed).value.saturating_sub(timeouts.keep_alive.value);
        let limits = [&timeouts.keep_alive, &timeouts.request_header, &timeouts.stream_idle];
        let limits = limits.into_iter().map(|limit| limit.value).filter(|limit| !limit.is_zero());
        let least = limits.fold(WATCHED_AFTER, Duration::min);
        Self {
            activity: &conversation.activity,
            timeouts,
            version: conversation.version,
            extra,
            sleep,
            due: Duration::ZERO,
            least,
            shown: None,
            watching: false,
            was_watching: false,
        }
    }

    /// Polled after everything else that the connection waits for.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, tracked: &TrackedConnection) -> Poll<Look> {
        if self.activity.has_turned() {
            self.watching &= self.activity.open() > 0;
            self.was_watching &= self.watching;
            if self.version == HttpVersion::Two && self.activity.fruitless() >= Activity::MOST_FRUITLESS {
                self.activity.progressed();
                return Poll::Ready(Look::Flood("control_frames"));
            }
            // What has just begun is due no sooner than the least that anything takes.
            if self.due.is_zero() || self.due > self.activity.clock().stamp().saturating_add(self.least) {
                let next = self.next(tracked);
                if next < self.due || self.due.is_zero() {
                    self.set(next);
                }
            }
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            let now = self.activity.clock().active();
            if let Some(armed) = self.overdue(tracked, now) {
                return Poll::Ready(Look::Expired(armed));
            }
            if self.is_stuck(now) {
                let next = self.next(tracked).max(now.saturating_add(SHOWN_AFTER));
                self.set(next);
                return Poll::Ready(Look::Flood("zero_window"));
            }
            let quiet_for = |since: Duration| now.saturating_sub(since);
            self.watching = self.activity.open_since().is_some_and(|since| quiet_for(since) >= WATCHED_AFTER);
            let outdated = self.current().is_some_and(|armed| {
                quiet_for(self.state_since()) >= SHOWN_AFTER && self.shown != Some((armed.name, armed.since))
            });
            let next = self.next(tracked);
            self.set(next);
            if outdated {
                return Poll::Ready(Look::Outdated);
            }
        }
        Poll::Pending
    }

    /// Was the hop watched already when this was asked last?
    pub(super) const fn was_watching(&mut self) -> bool {
        std::mem::replace(&mut self.was_watching, self.watching)
    }

    /// Puts the deadline of what the connection is doing on the record.
    pub(super) fn show(&mut self, tracked: &mut TrackedConnection) {
        let Some(armed) = self.current() else { return };
        self.shown = Some((armed.name, armed.since));
        let deadlines = tracked.deadlines_mut();
        deadlines.keep_only(&OWNERS);
        let limit = Limit { value: armed.limit, source: armed.source };
        deadlines.arm(armed.name, &limit, armed.restart, armed.since);
        tracked.record([]);
        let next = self.next(tracked);
        self.set(next);
    }

    /// The owner has armed a deadline: it may come earlier.
    pub(super) fn rearm(&mut self, tracked: &TrackedConnection) {
        let next = self.next(tracked);
        self.set(next);
    }

    /// The deadline of what the connection is doing.
    fn current(&self) -> Option<Armed> {
        let activity = self.activity;
        if let Some(since) = activity.open_since() {
            let waiting = activity.awaited();
            return waiting.or_else(|| {
                Some(armed(DeadlineName::StreamIdle, &self.timeouts.stream_idle, since, Restart::OnBytes))
            });
        }
        let header =
            |since| armed(DeadlineName::RequestHeader, &self.timeouts.request_header, since, Restart::Never);
        let first = !activity.has_served();
        Some(match (self.version, activity.head_since()) {
            (HttpVersion::One, Some(since)) => header(since),
            (_, None) if first => header(activity.idle_since()),
            _ => {
                let since = activity.idle_since().saturating_add(self.extra);
                armed(DeadlineName::KeepAlive, &self.timeouts.keep_alive, since, Restart::Never)
            }
        })
    }

    /// The deadline that has passed, if one has. Those of requests in progress are the requests' own.
    fn overdue(&self, tracked: &TrackedConnection, now: Duration) -> Option<Armed> {
        let last = self.activity.traffic().last_activity();
        let of_owner =
            tracked.deadlines().armed().iter().filter(|armed| OWNERS.contains(&armed.name)).cloned();
        let idle = self.current().filter(|armed| self.activity.open() == 0 && !armed.limit.is_zero());
        of_owner.chain(idle).find(|armed| armed.expires_at(last) <= now)
    }

    /// Does the client keep a response's stream without window, while the hop takes bytes? Its bodies are not
    /// asked for then, and their own clocks stand still.
    fn is_stuck(&self, now: Duration) -> bool {
        let limit = self.timeouts.stream_idle.value;
        let unasked =
            self.activity.unasked_since().filter(|_| !limit.is_zero() && !self.activity.is_blocked());
        unasked.is_some_and(|since| now.saturating_sub(since) >= limit)
    }

    /// When to look again.
    fn next(&self, tracked: &TrackedConnection) -> Duration {
        let last = self.activity.traffic().last_activity();
        let owners = tracked.deadlines().armed().iter().filter(|armed| OWNERS.contains(&armed.name));
        let of_owner = owners.map(|armed| armed.expires_at(last)).min();
        let idle = self.current().filter(|armed| self.activity.open() == 0 && !armed.limit.is_zero());
        let of_idle = idle.map(|armed| armed.expires_at(last));
        let watch = self.activity.open_since().filter(|_| !self.watching).map(|since| since + WATCHED_AFTER);
        let is_shown = self.current().is_none_or(|armed| self.shown == Some((armed.name, armed.since)));
        let show = (!is_shown).then(|| self.state_since() + SHOWN_AFTER);
        let now = self.activity.clock().active();
        let limit = self.timeouts.stream_idle.value;
        let bodies = !limit.is_zero() && self.version == HttpVersion::Two && self.activity.has_bodies();
        let stuck =
            bodies.then(|| self.activity.unasked_since().unwrap_or(now).saturating_add(limit).max(now));
        [of_owner, of_idle, watch, show, stuck]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| now.saturating_add(FAR))
    }

    /// Since when the connection has been doing what it does.
    fn state_since(&self) -> Duration {
        let activity = self.activity;
        activity.open_since().or_else(|| activity.head_since()).unwrap_or_else(|| activity.idle_since())
    }

    fn set(&mut self, due: Duration) {
        self.due = due.max(Duration::from_nanos(1));
        let wait = due.saturating_sub(self.activity.clock().active()).min(FAR);
        self.sleep.as_mut().reset(Instant::now() + wait);
    }
}

fn armed(name: DeadlineName, limit: &Limit, since: Duration, restart: Restart) -> Armed {
    Armed { name, limit: limit.value, source: limit.source.clone(), since, restart }
}
