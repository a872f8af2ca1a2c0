//! The books of smartproxy and networkproxy: pure, deterministic, replayable.
//!
//! ```text
//!   accept ─▶ open ─▶ record* ─▶ close ─▶ settle ─▶ retained ─▶ folded into the base
//!                      │           │         ▲
//!                      ▼           ▼         │ root_cause(front end, inner end)
//!                    journal (every half once, at its latest change)
//!                      │ pull                ▲ apply
//!                      ▼                     │
//!                    batches, snapshots ═▶ mirror of the peer
//! ```
//!
//! *Owns* every record and counter of a process and the protocol that keeps two processes' books equal.
//! *Never* reads a clock, draws randomness, waits or performs I/O: time is a parameter, ids come from
//! outside, maps are ordered, so a seed replays a run exactly. It has no dependencies.
//!
//! | term | meaning |
//! |---|---|
//! | record | one connection's facts; what the two halves add up to |
//! | half | one process's part of a record: *front* (smartproxy's) or *inner* (networkproxy's) |
//! | entry | what smartproxy decides from port, class, server name and client |
//! | route | what is decided in the end: within an entry, by networkproxy, per request |
//! | attempt | one bridging of a connection; an inner half of a given-up attempt is *superseded* |
//! | end | a half's own account of how it ended, as it travels to the peer |
//! | settlement | the one cause, decided once, from both ends or from one alone |
//! | journal | a process's own halves as a feed of changes |
//! | mirror | what the peer's journal said |
//! | in flight | live on one side only; excused for a bounded time |
//! | `connected_clients` | live records of a process |
//! | `port_proxy_connections` | live inner halves; on smartproxy, live bridged fronts |
//! | `tls_terminated_connections` | inner halves that ever completed a TLS handshake |

mod admission;
mod arrivals;
mod audit;
mod causes;
mod census;
mod deadline;
mod digest;
mod evidence;
#[cfg(feature = "planted-faults")]
pub mod fault;
#[cfg(not(feature = "planted-faults"))]
mod fault;
mod half;
mod id;
mod journal;
mod ledger;
mod link;
mod message;
mod mirror;
mod peer;
mod phase;
mod reason;
#[cfg(test)]
mod rig;
mod session;
mod settle;
mod shared;
mod standing;
mod tally;
mod termination;
mod time;
mod traffic;
mod waiting;
mod walk;

pub use admission::AdmissionLimits;
pub use arrivals::{Arrival, ArrivalCounts};
pub use audit::{Audit, Counters, Excuse, InFlight, Law, MirrorCounters};
pub use deadline::{Armed, Deadlines, Limit, Restart};
pub use digest::Digest;
pub use evidence::{End, HopCount, HopState, LegName, Observation, Rule};
pub use half::{
    Accept, AddressSource, Half, HalfUpdate, Hop, LogEntry, Opening, Routing, Settlement, Stamped, Target,
    Tls,
};
pub use id::{Attempt, ConnectionId, HalfKey, IdSuffix, InstanceId, ParseIdError, Role};
pub use ledger::{Alarms, Change, Departed, Ending, Ledger, LedgerLimits, RecordError};
pub use link::{DIALS, HelloRefused, SessionKey};
pub use message::{Ack, Batch, Hello, MAX_HALVES, MAX_WEIGHT, Message, Resume, SnapshotChunk, WINDOW};
pub use mirror::Unappliable;
pub use peer::PeerStatus;
pub use phase::{DeadlineName, IllegalStep, Phase};
pub use reason::{Class, Initiator, Reason};
pub use session::{Next, Rhythm, SessionEnd};
pub use settle::HopBalance;
pub use shared::{STUBBED, SharedLedger, View};
pub use standing::Standing;
pub use tally::Tally;
pub use termination::{AloneBecause, SettledFrom, Termination, alone, only, root_cause};
pub use time::{Nanos, Now, Wall};
pub use traffic::{Direction, MeterTotal, Traffic, TrafficTotals};
pub use walk::{Heading, Known, Stretch};
