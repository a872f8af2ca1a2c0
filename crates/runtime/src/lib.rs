//! The asynchronous shell of a data path, shared by smartproxy and networkproxy.
//!
//! ```text
//!   listener ─▶ create_connection ─▶ TrackedConnection (record, deadlines, the reason to close)
//!                     │                    │
//!                     ▼                    ▼
//!   Leg (client) ◀═ relay ═▶ Leg (target or hop) ─▶ cleanup_connection ─▶ cleanup_socket ×2 ─▶ finish
//! ```
//!
//! *Owns* sockets, timers and tasks. *Never* decides what the books say: it reports what it saw, in order, to
//! [`ledger`], which settles the cause. *Invariant*: sockets first, record last: a closed record never has a
//! live socket behind it.

mod buffer;
mod cleanup;
mod clock;
mod close;
mod dial;
mod flow;
mod fold;
mod leg;
mod leg_io;
mod listener;
mod manager;
pub mod mint;
pub mod preface;
mod relay;
mod socket;
pub mod tasks;
mod tracked;

pub use cleanup::{
    Departure, Farewell, FarewellLimits, Goodbye, Outcome, Parting, cleanup_connection, cleanup_socket,
};
pub use clock::{Clock, Hand};
pub use close::{CloseMode, CloseOrder};
pub use dial::{DialError, DialOptions, Dialled, SourceSpread, dial};
pub use fold::Fold;
pub use leg::{Evidence, Failure, Leg, News, Origin};
pub use leg_io::LegIo;
pub use listener::{AcceptErrors, AcceptFault, BindError, Bound, Sharing, accept_loop};
pub use manager::ConnectionManager;
pub use relay::{Mode, RelayEnd, RelayOptions, relay};
pub use socket::{Keepalive, SendQueue, set_from_birth};
pub use tracked::TrackedConnection;
