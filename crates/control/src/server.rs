//! smartproxy's side of the control channel.
//!
//! *Owns* the registry of networkproxies and the sessions with them. *Never* dials: networkproxy does.
//! *Invariant*: one session per networkproxy instance.

mod peers;
mod serve;
mod sync;

pub use peers::{NetworkProxy, Peers, Pick, PublishError, Readiness};
pub use serve::serve;
pub(crate) use sync::Sync;
