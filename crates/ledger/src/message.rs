//! What two processes tell each other, as values.
//!
//! *Owns* the messages of one control session, in ledger types. *Never* knows protobuf: `control` maps
//! these to the wire, field by field. *Invariant*: every position in a message is a position of the
//! sender's journal, except in [`Ack`] and [`Hello::resume`], which speak of the receiver's.

use crate::digest::Digest;
use crate::half::HalfUpdate;
use crate::id::{HalfKey, InstanceId, Role};
use crate::tally::Tally;
use crate::traffic::TrafficTotals;

/// A message of an established session.
#[derive(Clone, Debug)]
pub enum Message {
    /// Changes in order of position.
    Batch(Batch),
    /// Part of a snapshot.
    Snapshot(SnapshotChunk),
    /// What was applied.
    Ack(Ack),
    /// Alive, and how far.
    Heartbeat {
        /// The sender's journal position.
        position: u64,
    },
    /// Bytes and activity of live halves; unnumbered.
    Progress(Vec<(HalfKey, TrafficTotals)>),
    /// The sender leaves; everything through this position was sent.
    Bye {
        /// The sender's journal position.
        through: u64,
    },
}

/// The first message in each direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who speaks.
    pub instance: InstanceId,
    /// Which process that is.
    pub role: Role,
    /// Ascending per instance, chosen by the dialling side and echoed by the other.
    pub session: u64,
    /// The most live halves the speaker will ever announce.
    pub max_live: u64,
    /// How far the speaker has applied the other's journal, if it knows the other.
    pub resume: Option<Resume>,
}

/// Where a session may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Whose journal.
    pub peer: InstanceId,
    /// The last complete position applied.
    pub applied: u64,
}

/// Changes in order of position.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The position before the first change: the receiver must stand exactly there.
    pub after: u64,
    /// The position after the last change.
    pub through: u64,
    /// The sender has folded its settled halves up to here.
    pub horizon: u64,
    /// At most [`MAX_HALVES`].
    pub halves: Vec<HalfUpdate>,
    /// Present in the last batch of a pull.
    pub digest: Option<Digest>,
}

/// Part of a snapshot, which is applied as a whole at its last chunk.
#[derive(Clone, Debug)]
pub struct SnapshotChunk {
    /// 0, 1, 2, …
    pub index: u64,
    /// The position of the snapshot.
    pub through: u64,
    /// Counters of the halves that were folded; present in the first chunk.
    pub base: Option<Tally>,
    /// At most [`MAX_HALVES`].
    pub halves: Vec<HalfUpdate>,
    /// Present in the last chunk.
    pub digest: Option<Digest>,
}

/// How far the speaker has applied the other's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The position applied.
    pub applied: u64,
    /// Snapshot chunks taken so far in this session, over all its snapshots.
    pub chunks: u64,
}

/// Halves per batch or chunk.
pub const MAX_HALVES: usize = 256;
/// Estimated bytes per batch or chunk: so few that its buffers are of sizes that an allocator has at hand.
pub const MAX_WEIGHT: usize = 24 * 1024;
/// Batches or chunks sent and not acknowledged: enough for what is gathered under load to leave without a wait, during
/// which a half that changes has to be kept as it was.
pub const WINDOW: usize = 8;
