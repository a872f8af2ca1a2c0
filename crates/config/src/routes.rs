//! Owns routing: what a route is, which entry a connection falls into, and what networkproxy is sent.
//!
//! Matching has two steps. smartproxy sees a port, the class of the first bytes, a server name, ALPN and an
//! address, and picks an *entry*; networkproxy picks the *route* for each request among that entry's routes
//! only. Both steps live here, so that the two processes cannot disagree.
//!
//! ```text
//!  Route (file)  ──RouteTable::build──▶ Entry ──decide──▶ smartproxy relays, bridges or blocks
//!                                         └──inner──▶ InnerEntry ──route_for──▶ networkproxy, per request
//! ```
//!
//! Invariant: a decision's work depends on the candidates for one name (and, of a request, on the length of its
//! path), never on the number of routes.

mod by_path;
mod decide;
mod entry;
mod explain;
mod inner;
mod pattern;
mod route;
mod table;
mod target;

pub use decide::{Class, Clause, Decision, NoEntry, Question, Trace, TraceStep, Verdict};
pub use entry::{Entry, EntryClass, EntryTimeouts, Transport};
pub use explain::Explanation;
pub use inner::{InnerAction, InnerEntry, InnerRoute, InnerTable, InnerTimeoutOverrides, NoRoute, Request};
pub use pattern::{DomainError, DomainPattern, PathPattern, PortRange, normal_name};
pub use route::{
    Action, Balance, Forward, Match, Protocol, Redirect, RedirectTarget, Respond, Route, RouteTimeouts,
    TlsMode,
};
pub use table::{Listener, RouteTable};
pub use target::{TargetAddress, TargetError, TargetHost};
