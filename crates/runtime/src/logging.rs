//! Logs: how lines look, and the one line per connection.
//!
//! *Owns* the subscriber, [`settled_line`], and the folding of floods of refusals. Lines go to stderr, as
//! with nginx, Envoy and Caddy: stdout belongs to what a command prints. *Never* logs a connection twice.
//! *Invariant*: every settled half is in one line, its own or a folded one that counts it.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use config::{Log, LogFormat, LogLevel};
use ledger::{Class, Direction, Half, LegName, Reason, SettledFrom, SharedLedger};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock::Clock;
use crate::settled::SettledTotals;

/// Our own crates and the audit lines of `control`; others are heard from `warn` on, unless everything is asked for.
const OURS: [&str; 7] = ["smartproxy", "networkproxy", "runtime", "control", "ledger", "config", "audit"];
/// Between two looks for settled halves.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Refusals of one reason that get a line of their own per window; further ones are folded.
const LINES_PER_WINDOW: u64 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Starts logging. Called once, first; a second call does nothing.
pub fn init(log: &Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let others = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::WARN) };
    // It warns of what clients send, a line each: such lines are the records'.
    let tls = if level >= LevelFilter::DEBUG { level } else { LevelFilter::ERROR };
    let targets = Targets::new().with_default(others).with_target("rustls", tls);
    let targets = OURS.iter().fold(targets, |all, ours| all.with_target(*ours, level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => {
            let lines = lines.with_ansi(std::io::stderr().is_terminal());
            tracing_subscriber::registry().with(targets).with(lines).try_init()
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(true).with_span_list(false);
            tracing_subscriber::registry().with(targets).with(lines).try_init()
        }
    };
    drop(started);
}

/// The one line of a connection, at settlement.
pub fn settled_line(half: &Half) {
    let (Some(settlement), Some(end)) = (&half.settlement, &half.end) else { return };
    let (cause, end) = (&settlement.value.cause, &end.value);
    let routing = half.routing.as_ref().map(|routing| &routing.value);
    let bytes = |leg, direction| half.traffic.meter(leg, direction).bytes;
    tracing::info!(
        id = %half.key.connection,
        client = %half.accept.value.client,
        listener = &*half.accept.value.listener,
        entry = routing.and_then(|routing| routing.entry.as_deref()),
        route = routing.and_then(|routing| routing.route.as_deref()),
        server_name = routing.and_then(|routing| routing.server_name.as_deref()),
        reason = %cause.reason,
        initiator = cause.initiator.name(),
        phase = cause.phase.name(),
        client_in = bytes(LegName::Client, Direction::In),
        client_out = bytes(LegName::Client, Direction::Out),
        hop_in = bytes(LegName::Hop, Direction::In),
        hop_out = bytes(LegName::Hop, Direction::Out),
        target_in = bytes(LegName::Target, Direction::In),
        target_out = bytes(LegName::Target, Direction::Out),
        undelivered = end.undelivered,
        duration = end.age.as_secs_f64(),
        settled_from = settled_from(settlement.value.from),
        sentence = &*cause.sentence,
        "connection closed"
    );
}

/// Logs and counts what settles until `leave` is ready, and then what has settled by then. To be spawned on
/// the control thread.
pub async fn log_settled(
    ledger: SharedLedger,
    totals: Arc<SettledTotals>,
    clock: Clock,
    leave: impl Future<Output = ()>,
) {
    let mut folds = Folds::default();
    let mut leave = std::pin::pin!(leave);
    let mut leaving = false;
    loop {
        let settled = ledger.take_settled(256);
        for half in &settled {
            totals.count(half);
            if folds.has_its_own_line(half, clock.active()) {
                settled_line(half);
            }
        }
        folds.write_due(clock.active());
        if !settled.is_empty() {
            tokio::task::yield_now().await;
        } else if leaving {
            break;
        } else {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = leave.as_mut() => leaving = true,
            }
        }
    }
    folds.write_all();
}

/// Refusals by reason, in the window they fell into.
#[derive(Debug, Default)]
struct Folds {
    windows: BTreeMap<Reason, Window>,
}

#[derive(Debug)]
struct Window {
    began: Duration,
    seen: u64,
}

impl Folds {
    /// Everything has, apart from floods of what never got as far as a route or a target.
    fn has_its_own_line(&mut self, half: &Half, now: Duration) -> bool {
        let Some(settlement) = &half.settlement else { return false };
        let cause = &settlement.value.cause;
        let early = settlement.value.from == SettledFrom::Only
            && (cause.class == Class::Refusal || cause.reason == Reason::ClientLeftBeforeRoute);
        if !early {
            return true;
        }
        let window = self.windows.entry(cause.reason).or_insert(Window { began: now, seen: 0 });
        window.seen += 1;
        window.seen <= LINES_PER_WINDOW
    }

    fn write_due(&mut self, now: Duration) {
        self.windows.retain(|reason, window| {
            let due = now.saturating_sub(window.began) >= WINDOW;
            if due {
                window.write(*reason);
            }
            !due
        });
    }

    fn write_all(&mut self) {
        for (reason, window) in std::mem::take(&mut self.windows) {
            window.write(reason);
        }
    }
}

impl Window {
    fn write(&self, reason: Reason) {
        let folded = self.seen.saturating_sub(LINES_PER_WINDOW);
        if folded > 0 {
            tracing::info!(%reason, folded, window = ?WINDOW, "further connections closed for this reason");
        }
    }
}

const fn settled_from(from: SettledFrom) -> &'static str {
    match from {
        SettledFrom::Both => "both",
        SettledFrom::Alone => "alone",
        SettledFrom::Only => "only",
    }
}
