//! smartproxy's side of the control channel.
//!
//! *Owns* the registry of networkproxies and the sessions with them. *Never* dials: networkproxy does.
//! *Invariant*: one session per networkproxy instance.

mod peers;
mod sync;

pub(crate) use peers::MOST_PEERS;
pub use peers::{NetworkProxy, Peers, Pick, PublishError, Readiness};
pub(crate) use sync::Sync;
