//! The deadlines of the front, in ledger terms, with where each value was written.
//!
//! *Owns* the translation of configured durations into [`Limit`]s, once per entry and not per connection.
//! *Never* invents a value: what networkproxy announced makes the derived ones. *Invariant*: a limit shown
//! on a record says the same source as the configuration's.

use std::time::Duration;

use config::{Entry, RouteTimeouts, Sourced, Timeouts};
use ledger::{Limit, Rule};
use runtime::{FarewellLimits, Keepalive, Mode, RelayOptions};

/// The deadlines before an entry is known.
#[derive(Debug)]
pub(crate) struct EarlyBounds {
    /// How long a client may wait to be accepted while more come than can be served, and the rule that says so.
    pub(crate) accept_queue: Option<Duration>,
    pub(crate) accept_queue_rule: Rule,
    pub(crate) initial_data: Limit,
    pub(crate) farewell: FarewellLimits,
}

/// The deadlines of one entry.
#[derive(Debug)]
pub(crate) struct EntryBounds {
    pub(crate) connect: Limit,
    pub(crate) hold: Limit,
    pub(crate) inactivity: Limit,
    pub(crate) max_lifetime: Limit,
    pub(crate) jitter: f64,
    pub(crate) keepalive: Keepalive,
    pub(crate) relay: RelayOptions,
    pub(crate) farewell: FarewellLimits,
    /// The longest that any of its routes lets networkproxy wait without a byte, and after a half-close.
    pub(crate) routes_idle: Duration,
    pub(crate) routes_half_close: Duration,
    pub(crate) drain: Limit,
}

/// Added to what networkproxy announces: its clock always fires first (one owner per deadline).
const MARGIN: Duration = Duration::from_secs(10);

impl EarlyBounds {
    pub(crate) fn new(timeouts: &Timeouts) -> Self {
        let accept_queue = timeouts.accept_queue.value;
        let accept_queue_rule = Rule {
            name: "accept_queue".into(),
            limit: format!("{:?}", accept_queue.unwrap_or_default()).into(),
            source: (*source(&timeouts.accept_queue)).into(),
        };
        Self {
            accept_queue,
            accept_queue_rule,
            initial_data: limit(&timeouts.initial_data),
            farewell: FarewellLimits {
                write_stall: limit(&timeouts.write_stall),
                close: limit(&timeouts.close),
            },
        }
    }
}

impl EntryBounds {
    pub(crate) fn new(entry: &Entry, jitter: f64, mode: Mode) -> Self {
        let timeouts = &entry.timeouts;
        let longest = |of: fn(&RouteTimeouts) -> Option<&Sourced<Duration>>| {
            let own = entry.routes.iter().filter_map(|route| of(&route.timeouts));
            own.map(|own| own.value).max().unwrap_or_default()
        };
        let write_stall = limit(&timeouts.write_stall);
        let keepalive = Keepalive::within(timeouts.tcp_keepalive.value);
        let max_lifetime = timeouts.max_lifetime.value.unwrap_or_default();
        Self {
            connect: limit(&timeouts.connect),
            hold: limit(&timeouts.hold),
            inactivity: limit(&timeouts.inactivity),
            max_lifetime: Limit { value: max_lifetime, source: source(&timeouts.max_lifetime) },
            jitter,
            keepalive,
            relay: RelayOptions {
                mode,
                half_close: limit(&timeouts.half_close),
                write_stall: write_stall.clone(),
                keepalive: Some(keepalive),
            },
            farewell: FarewellLimits { write_stall, close: limit(&timeouts.close) },
            routes_idle: longest(|own| own.inactivity.as_ref()),
            routes_half_close: longest(|own| own.half_close.as_ref()),
            drain: limit(&timeouts.drain),
        }
    }

    /// A bridged relay: networkproxy owns the half-close clock, ours only backs it up.
    pub(crate) fn bridged(&self, networkproxy_half_close: Duration) -> RelayOptions {
        let longest = networkproxy_half_close.max(self.routes_half_close);
        let half_close = backstop("half_close", longest);
        // Our machine's other process is either there or seen to be gone.
        RelayOptions { half_close, keepalive: None, ..self.relay.clone() }
    }

    /// Its idle clocks likewise; a route's own may be longer than any that networkproxy announced.
    pub(crate) fn bridged_idle(&self, networkproxy_idle: Duration) -> Limit {
        backstop("largest idle limit", networkproxy_idle.max(self.routes_idle))
    }
}

/// networkproxy's limit × 1.1 + 10 s.
pub(crate) fn backstop(what: &str, announced: Duration) -> Limit {
    let value = announced.saturating_add(announced / 10).saturating_add(MARGIN);
    Limit { value, source: format!("derived from networkproxy's {what}").into() }
}

/// How long the hop may leave a TLS client unanswered.
pub(crate) fn hop_answer(tls_handshake: Duration) -> Limit {
    let source = "derived from networkproxy's tls_handshake".into();
    Limit { value: tls_handshake.saturating_add(MARGIN), source }
}

pub(crate) fn limit(configured: &Sourced<Duration>) -> Limit {
    Limit { value: configured.value, source: source(configured) }
}

fn source<T>(configured: &Sourced<T>) -> std::sync::Arc<str> {
    configured.source.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// whatever networkproxy's limits are, the front's fire later.
    #[test]
    fn a_backstop_is_always_later_than_what_it_backs_up() {
        for seconds in [0, 1, 60, 3_600, 86_400] {
            let announced = Duration::from_secs(seconds);
            assert!(backstop("idle limit", announced).value >= announced + MARGIN);
            assert!(hop_answer(announced).value >= announced + MARGIN);
        }
        assert_eq!(backstop("idle limit", Duration::MAX).value, Duration::MAX);
    }

    /// a route's own limit may be longer than any that networkproxy knew of when it announced its own.
    #[test]
    fn a_backstop_is_later_than_a_routes_own_limit() {
        let text = "
routes:
  - name: slow
    match: { ports: [8443], domains: [a.example] }
    tls: terminate
    timeouts: { inactivity: 3h, half_close: 2h }
    respond: { status: 200 }
";
        let config = config::check_smartproxy("a.yaml", text, &config::Surroundings::ideal());
        let config = config.config.unwrap_or_else(|| panic!("{:?}", config.errors));
        let table = config::RouteTable::build(&config).unwrap();
        let bounds = EntryBounds::new(&table.entries()[0], 0.0, Mode::Copy);
        let hour = Duration::from_hours(1);
        assert!(bounds.bridged_idle(hour).value > 3 * hour);
        assert!(bounds.bridged_idle(5 * hour).value > 5 * hour);
        assert!(bounds.bridged(hour).half_close.value > 2 * hour);
    }
}
