//! The wire between smartproxy and networkproxy, and the admin services of both.
//!
//! ```text
//!   smartproxy                                                  networkproxy
//!   ┌──────────────┐   Sync: one session per pair of instances  ┌──────────────┐
//!   │ server       │◀═══════════════════════════════════════════│ client       │
//!   │  Peers       │  hello · batches · acks · heartbeats · bye │  Upstream    │
//!   │  pick()      │  hop key, routes ▶   ◀ capacity, draining  │  keys, table │
//!   └──────┬───────┘                                            └──────┬───────┘
//!          └── admin: ConnectionService, ProxyService, health, reflection ──┘
//!              over the trait Process                (each on its control thread)
//! ```
//!
//! *Owns* the protos, their conversion to ledger types, the sessions, and who may call what. *Never* touches a
//! client's bytes, and decides nothing about the books: [`ledger`] does, this crate carries. *Invariant*: what
//! one process acknowledged, the other never has to send again.

mod access;
pub mod admin;
pub mod api;
mod backoff;
pub mod client;
#[cfg(feature = "codec")]
#[doc(hidden)]
pub mod codec;
mod convert;
mod directory;
mod incoming;
mod key;
mod outbox;
mod process;
mod proto;
pub mod server;
mod session;
pub mod thread;
mod time;
mod token;
mod wake;
mod wire;

pub use access::{Access, OffLoopback, Plaintext, Reading};
pub use convert::message::InnerTerms;
pub use directory::Directory;
pub use key::HopKey;
pub use process::{CloseMode, CloseRequest, ListenerStatus, Process, ProcessPhase, ProcessStatus};
pub use time::Time;
pub use token::{Token, TokenError, TokenFile};

/// The versions of the control protocol that this build speaks, oldest and newest.
pub(crate) const PROTOCOL: (u32, u32) = (1, 1);
/// What a session may have on its way: four batches and what overtakes them, several times over.
pub(crate) const STREAM_WINDOW: u32 = 1024 * 1024;

/// Do two builds have a version in common?
pub(crate) const fn spoken_by_both(theirs: (u32, u32)) -> bool {
    theirs.0 <= PROTOCOL.1 && theirs.1 >= PROTOCOL.0 && theirs.0 <= theirs.1
}

/// Tells the ledger that time passes, a quarter of the usual heartbeat later.
async fn tick(ledger: &ledger::SharedLedger, time: &Time) {
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    ledger.tick(time.now());
}
