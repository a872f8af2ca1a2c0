//! The deadlines of the front, in ledger terms, with where each value was written.
//!
//! *Owns* the translation of configured durations into [`Limit`]s, once per entry and not per connection.
//! *Never* invents a value: what networkproxy announced makes the derived ones. *Invariant*: a limit shown
//! on a record says the same source as the configuration's.

use std::time::Duration;

use config::{EntryTimeouts, Sourced, Timeouts};
use ledger::Limit;
use runtime::{FarewellLimits, Keepalive, Mode, RelayOptions};

/// The deadlines before an entry is known.
#[derive(Debug)]
pub(crate) struct EarlyBounds {
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
}

/// Added to what networkproxy announces: its clock always fires first (one owner per deadline).
const MARGIN: Duration = Duration::from_secs(10);

impl EarlyBounds {
    pub(crate) fn new(timeouts: &Timeouts) -> Self {
        Self {
            initial_data: limit(&timeouts.initial_data),
            farewell: FarewellLimits {
                write_stall: limit(&timeouts.write_stall),
                close: limit(&timeouts.close),
            },
        }
    }
}

impl EntryBounds {
    pub(crate) fn new(timeouts: &EntryTimeouts, jitter: f64) -> Self {
        let write_stall = limit(&timeouts.write_stall);
        let max_lifetime = timeouts.max_lifetime.value.unwrap_or_default();
        Self {
            connect: limit(&timeouts.connect),
            hold: limit(&timeouts.hold),
            inactivity: limit(&timeouts.inactivity),
            max_lifetime: Limit { value: max_lifetime, source: source(&timeouts.max_lifetime) },
            jitter,
            keepalive: Keepalive::within(timeouts.tcp_keepalive.value),
            relay: RelayOptions {
                mode: Mode::default(),
                half_close: limit(&timeouts.half_close),
                write_stall: write_stall.clone(),
            },
            farewell: FarewellLimits { write_stall, close: limit(&timeouts.close) },
        }
    }

    /// A bridged relay: networkproxy owns the half-close clock, ours only backs it up.
    pub(crate) fn bridged(&self, networkproxy_half_close: Duration) -> RelayOptions {
        RelayOptions { half_close: backstop("half_close", networkproxy_half_close), ..self.relay.clone() }
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

fn limit(configured: &Sourced<Duration>) -> Limit {
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
}
