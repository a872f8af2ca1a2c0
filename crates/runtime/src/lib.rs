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

mod accept;
mod buffer;
mod cleanup;
mod clock;
mod close;
mod dial;
mod drain;
mod evidence;
mod exposition;
mod flow;
mod fold;
mod histogram;
mod http_status;
mod intake;
mod leg;
mod leg_io;
mod limits;
mod listener;
pub mod logging;
mod manager;
mod metrics;
pub mod mint;
mod pipe;
pub mod preface;
mod process;
mod relay;
mod resolver;
mod settled;
mod signals;
mod socket;
mod splice;
pub mod tasks;
mod tracked;
mod workers;

pub use accept::{AcceptErrors, AcceptFault, accept_loop};
pub use cleanup::{
    Departure, Farewell, FarewellLimits, Goodbye, Outcome, Parting, cleanup_connection, cleanup_socket,
};
pub use clock::{Clock, Hand};
pub use close::{CloseMode, CloseOrder, drain_order};
pub use dial::{DialError, DialOptions, Dialled, SourceSpread, dial};
pub use drain::{Drain, DrainSwitch, Leaving};
pub use evidence::{Evidence, Failure, News};
pub use exposition::{CONTENT_TYPE, Exposition, Family};
pub use fold::Fold;
pub use histogram::Histogram;
pub use http_status::{Status, serve_status};
pub use intake::{InHand, Intake, Queue};
pub use leg::{Leg, Origin};
pub use leg_io::LegIo;
pub use limits::{DescriptorLimit, RESERVED, TooManyConnections, open_descriptors};
pub use listener::{BindError, Bound, Sharing, bind_exclusive};
pub use manager::ConnectionManager;
pub use metrics::{BuildInfo, common_metrics};
pub use pipe::PipePool;
pub use relay::{Mode, RelayEnd, RelayOptions, relay};
pub use resolver::{ResolveError, Resolver};
pub use settled::{MAX_ENTRIES, OTHER, SettledTotals};
pub use signals::serve_signals;
pub use socket::{Keepalive, SendQueue, set_from_birth};
pub use splice::Splicing;
pub use tracked::TrackedConnection;
pub use workers::{Workers, cores};
