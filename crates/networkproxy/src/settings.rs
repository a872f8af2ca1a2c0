//! The file's numbers in the form that connections use.
//!
//! *Owns* the translation of `networkproxy.yaml` into limits with their sources, and which of them a route
//! replaces. *Never* changes after the start. *Invariant*: zero means no limit, as for every
//! [`ledger::Limit`].

use std::sync::Arc;
use std::time::Duration;

use config::{InnerTimeoutOverrides, NetworkproxyConfig, Sourced};
use ledger::Limit;

/// networkproxy's deadlines, each with where it was written.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// To read the header of a hop connection.
    pub hop_header: Limit,
    /// From the hop header to the end of the TLS handshake.
    pub tls_handshake: Limit,
    /// To read a request's head.
    pub request_header: Limit,
    /// Between two requests.
    pub keep_alive: Limit,
    /// For a whole request and its response.
    pub request: Limit,
    /// From the end of the request to the response's head.
    pub response: Limit,
    /// No byte of a body in either direction.
    pub stream_idle: Limit,
    /// No byte through an upgraded or opaque connection.
    pub tunnel_idle: Limit,
    /// To connect to a target.
    pub connect: Limit,
    /// One side closed, no progress on the other.
    pub half_close: Limit,
    /// To say goodbye.
    pub close: Limit,
    /// To let connections finish when draining.
    pub drain: Limit,
}

impl Timeouts {
    /// Those of the file.
    pub fn new(config: &NetworkproxyConfig) -> Self {
        let t = &config.timeouts;
        Self {
            hop_header: limit(&t.hop_header),
            tls_handshake: limit(&t.tls_handshake),
            request_header: limit(&t.request_header),
            keep_alive: limit(&t.keep_alive),
            request: optional(&t.request),
            response: limit(&t.response),
            stream_idle: limit(&t.stream_idle),
            tunnel_idle: limit(&t.tunnel_idle),
            connect: limit(&t.connect),
            half_close: limit(&t.half_close),
            close: limit(&t.close),
            drain: limit(&t.drain),
        }
    }

    /// The longest time that a live connection may be without a byte: smartproxy's backstops follow from it.
    pub fn largest_idle(&self) -> Duration {
        let idle =
            [&self.keep_alive, &self.stream_idle, &self.tunnel_idle, &self.response, &self.request_header];
        idle.into_iter().map(|limit| limit.value).max().unwrap_or_default()
    }

    /// The bounds of a goodbye. smartproxy rules how long a client may take none of our bytes and ends the
    /// hop then; what bounds us, should it not, is the limit of an idle stream.
    pub fn farewell(&self) -> runtime::FarewellLimits {
        runtime::FarewellLimits { write_stall: self.stream_idle.clone(), close: self.close.clone() }
    }
}

/// An idle limit, later by up to 5 % for one connection: those of one moment do not end at one moment.
/// Limits below a minute are meant exactly.
pub fn spread(limit: &Limit, seed: u64) -> Limit {
    if limit.value < Duration::from_mins(1) { limit.clone() } else { limit.spread(5.0, seed) }
}

/// The deadlines of one route: its own where it writes them, else the process's.
#[derive(Debug, Clone, Copy)]
pub struct RouteTimeouts<'a> {
    process: &'a Timeouts,
    route: &'a InnerTimeoutOverrides,
}

impl<'a> RouteTimeouts<'a> {
    /// Those in force for a route.
    pub const fn new(process: &'a Timeouts, route: &'a InnerTimeoutOverrides) -> Self {
        Self { process, route }
    }

    /// To connect to the target.
    pub fn connect(&self) -> Limit {
        own(self.route.connect.as_ref(), &self.process.connect)
    }

    /// No byte of a body in either direction.
    pub fn stream_idle(&self) -> Limit {
        own(self.route.inactivity.as_ref(), &self.process.stream_idle)
    }

    /// No byte through the tunnel.
    pub fn tunnel_idle(&self) -> Limit {
        own(self.route.inactivity.as_ref(), &self.process.tunnel_idle)
    }

    /// One side closed, no progress on the other.
    pub fn half_close(&self) -> Limit {
        own(self.route.half_close.as_ref(), &self.process.half_close)
    }
}

/// What requests are held to, and pooled connections.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Bytes of a request head in all.
    pub max_header_bytes: usize,
    /// Fields of a request head.
    pub max_headers: usize,
    /// HTTP/2 streams of one connection.
    pub max_concurrent_streams: u32,
}

impl HttpLimits {
    /// Those of the file.
    pub fn new(config: &NetworkproxyConfig) -> Self {
        let limits = &config.limits;
        Self {
            max_header_bytes: usize::try_from(limits.max_header_bytes).unwrap_or(usize::MAX),
            max_headers: limits.max_headers as usize,
            max_concurrent_streams: limits.max_concurrent_streams,
        }
    }
}

/// How connections to targets are kept.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Idle connections kept for each target (by one worker).
    pub max_idle_per_target: usize,
    /// How long an idle one is kept.
    pub idle_timeout: Duration,
    /// Age after which one takes no new request; `None` = no limit.
    pub max_age: Option<Duration>,
    /// Send once more where a reused connection failed before any byte of a response.
    pub retry_stale: bool,
    /// The bounds of a goodbye to a target.
    pub farewell: runtime::FarewellLimits,
}

impl PoolSettings {
    /// Those of the file, for each of `workers` pools.
    pub fn new(config: &NetworkproxyConfig, timeouts: &Timeouts, workers: usize) -> Self {
        let pool = &config.pool;
        Self {
            // Rounded up: with more workers than idle connections allowed, each may still keep one.
            max_idle_per_target: (pool.max_idle_per_target as usize).div_ceil(workers.max(1)),
            idle_timeout: pool.idle_timeout.value,
            max_age: pool.max_age.value,
            retry_stale: pool.retry_stale,
            farewell: timeouts.farewell(),
        }
    }
}

fn limit(sourced: &Sourced<Duration>) -> Limit {
    Limit { value: sourced.value, source: source_text(&sourced.source) }
}

fn optional(sourced: &Sourced<Option<Duration>>) -> Limit {
    Limit { value: sourced.value.unwrap_or_default(), source: source_text(&sourced.source) }
}

fn own(route: Option<&Sourced<Duration>>, process: &Limit) -> Limit {
    route.map_or_else(|| process.clone(), limit)
}

fn source_text(source: &config::Source) -> Arc<str> {
    match source {
        config::Source::Default => "default".into(),
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// idle connections of one moment end at different moments, none early.
    #[test]
    fn idle_limits_are_spread_and_short_ones_exact() {
        let limit = Limit::default_of(Duration::from_secs(75));
        let ends: std::collections::BTreeSet<Duration> =
            (0..100).map(|seed| spread(&limit, seed).value).collect();
        assert!(ends.len() > 90);
        let last = Duration::from_secs(79);
        assert!(ends.iter().all(|end| *end >= limit.value && *end <= last));
        let short = Limit::default_of(Duration::from_secs(1));
        assert_eq!(spread(&short, 7), short);
    }

    #[test]
    fn a_route_replaces_what_it_writes_and_nothing_else() {
        let process = Timeouts::new(&NetworkproxyConfig::default());
        let line = config::Source::Route { name: "app".into(), file: "smartproxy.yaml".into(), line: 7 };
        let route = InnerTimeoutOverrides {
            inactivity: Some(Sourced { value: Duration::from_secs(9), source: line }),
            ..InnerTimeoutOverrides::default()
        };
        let timeouts = RouteTimeouts::new(&process, &route);
        let nine = Limit { value: Duration::from_secs(9), source: "route app (smartproxy.yaml:7)".into() };
        assert_eq!((timeouts.stream_idle(), timeouts.tunnel_idle()), (nine.clone(), nine));
        assert_eq!(timeouts.connect(), Limit::default_of(Duration::from_secs(5)));
        assert_eq!(timeouts.half_close(), Limit::default_of(Duration::from_mins(1)));
        assert_eq!(process.largest_idle(), Duration::from_hours(1));
        assert!(process.request.value.is_zero());
    }
}
