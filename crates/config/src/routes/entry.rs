//! Owns an entry: the routes that smartproxy cannot tell apart, and what it does with their connections.
//!
//! Never changes once built; connections hold it by `Arc`, so a reload takes nothing away from them.
//!
//! Invariant: an entry's routes share transport, protocol and every deadline that smartproxy arms.

use std::sync::Arc;
use std::time::Duration;

use super::pattern::DomainPattern;
use super::route::{Balance, Protocol, Route};
use super::target::TargetAddress;
use crate::smartproxy::Timeouts;
use crate::sourced::Sourced;

/// What smartproxy decides for a connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Unique in the table: the name of the first route, followed by `/` and a name (and port) where that
    /// route is the first of several entries.
    pub name: Arc<str>,
    /// Which first bytes lead here.
    pub class: EntryClass,
    /// The server names that lead here; empty where any does, or none is looked at.
    pub domains: Vec<DomainPattern>,
    /// What smartproxy does.
    pub transport: Transport,
    /// Its routes in the order of the file; never empty. More than one only where bridged.
    pub routes: Vec<Arc<Route>>,
    /// The deadlines that smartproxy arms.
    pub timeouts: EntryTimeouts,
}

impl Entry {
    /// The route, where no request is needed to know it.
    pub fn only_route(&self) -> Option<&Arc<Route>> {
        match self.routes.as_slice() {
            [route] => Some(route),
            _ => None,
        }
    }

    /// Whether networkproxy is needed.
    pub fn is_bridged(&self) -> bool {
        matches!(self.transport, Transport::Bridge { .. })
    }
}

/// Which first bytes lead to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryClass {
    /// A ClientHello.
    Tls,
    /// Anything else.
    Clear,
    /// Both: only `block`.
    Either,
}

/// What smartproxy does with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// Dials a target and copies bytes.
    Relay {
        /// At least one.
        targets: Arc<[TargetAddress]>,
        /// How one is picked.
        balance: Balance,
    },
    /// Dials networkproxy over the hop and copies bytes.
    Bridge {
        /// What networkproxy speaks inside.
        protocol: Protocol,
        /// Whether networkproxy ends TLS.
        terminated: bool,
    },
    /// Refuses.
    Block,
}

/// The deadlines that smartproxy arms for an entry's connections, each with the line that set it.
///
/// On a bridged entry `connect` bounds the dial of the hop; `inactivity` and `half_close` are networkproxy's
/// there, and what a route writes for these three travels in the [`super::InnerTable`] instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryTimeouts {
    /// To connect to the target or the hop.
    pub connect: Sourced<Duration>,
    /// To wait for a networkproxy; zero = do not wait.
    pub hold: Sourced<Duration>,
    /// No byte in either direction.
    pub inactivity: Sourced<Duration>,
    /// One side closed, no progress on the other.
    pub half_close: Sourced<Duration>,
    /// A side does not take our bytes.
    pub write_stall: Sourced<Duration>,
    /// From accept to the end; `None` = no limit.
    pub max_lifetime: Sourced<Option<Duration>>,
    /// To deliver what is left and say goodbye.
    pub close: Sourced<Duration>,
    /// To let connections finish when draining.
    pub drain: Sourced<Duration>,
    /// Keep-alive probes, and `TCP_USER_TIMEOUT`.
    pub tcp_keepalive: Sourced<Duration>,
}

impl EntryTimeouts {
    /// The process's deadlines with a route's own in their place.
    pub(crate) fn new(process: &Timeouts, route: &Route, bridged: bool) -> Self {
        let own = &route.timeouts;
        let relayed = |own: &Option<Sourced<Duration>>, process: &Sourced<Duration>| {
            own.as_ref().filter(|_| !bridged).unwrap_or(process).clone()
        };
        let either = |own: &Option<Sourced<Duration>>, process: &Sourced<Duration>| {
            own.as_ref().unwrap_or(process).clone()
        };
        Self {
            connect: relayed(&own.connect, &process.connect),
            hold: either(&own.hold, &process.hold),
            inactivity: relayed(&own.inactivity, &process.inactivity),
            half_close: relayed(&own.half_close, &process.half_close),
            write_stall: either(&own.write_stall, &process.write_stall),
            max_lifetime: own.max_lifetime.as_ref().unwrap_or(&process.max_lifetime).clone(),
            close: either(&own.close, &process.close),
            drain: either(&own.drain, &process.drain),
            tcp_keepalive: either(&own.tcp_keepalive, &process.tcp_keepalive),
        }
    }

    /// The first deadline whose length differs, if any.
    pub(crate) fn first_difference(&self, other: &Self) -> Option<&'static str> {
        let pairs = [
            ("hold", self.hold.value, other.hold.value),
            ("write_stall", self.write_stall.value, other.write_stall.value),
            (
                "max_lifetime",
                self.max_lifetime.value.unwrap_or_default(),
                other.max_lifetime.value.unwrap_or_default(),
            ),
            ("close", self.close.value, other.close.value),
            ("drain", self.drain.value, other.drain.value),
            ("tcp_keepalive", self.tcp_keepalive.value, other.tcp_keepalive.value),
        ];
        pairs.into_iter().find(|(_, mine, theirs)| mine != theirs).map(|(name, ..)| name)
    }
}
