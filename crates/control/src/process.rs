//! What the admin services ask of the process that they are part of.
//!
//! *Owns* the trait and its plain answers, in ledger types. *Never* names a proto type. *Invariant*: every
//! call returns at once: it is answered on the control thread.

use std::net::SocketAddr;
use std::time::Duration;

use ledger::{HalfKey, Now, Observation, Reason, Role, SharedLedger, Wall};

use crate::convert::scalar::clip;
use crate::directory::Directory;
use crate::server::Peers;

/// The process behind the admin services.
pub trait Process: Send + Sync + 'static {
    /// Its books.
    fn ledger(&self) -> &SharedLedger;

    /// Every clock, read at one moment.
    fn now(&self) -> Now;

    /// Where it is in its life; health follows it. Asked often.
    fn phase(&self) -> ProcessPhase;

    /// Everything else about it. May look at `/proc`.
    fn status(&self) -> ProcessStatus;

    /// Ends one of its live halves. `false` where something else was ending it already, or it is gone.
    fn close(&self, key: HalfKey, order: CloseRequest) -> bool;

    /// What is known of its peers: [`Peers::directory`], [`crate::client::Upstream::directory`].
    fn directory(&self) -> &Directory;

    /// smartproxy's registry of networkproxies; networkproxy has none.
    fn peers(&self) -> Option<&Peers> {
        None
    }
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessPhase {
    /// It cannot serve yet.
    Starting,
    /// It serves.
    Ready,
    /// It takes nothing new and leaves when it is empty.
    Draining,
}

/// A process, for people.
#[derive(Clone, Debug)]
pub struct ProcessStatus {
    /// The software's version.
    pub version: String,
    /// The revision that it was built from; empty where that is not known.
    pub revision: String,
    /// When it started.
    pub started_at: Wall,
    /// How long it was suspended since.
    pub suspended: Duration,
    /// The generation of the configuration in force; 0 where none has come yet.
    pub configuration_generation: u64,
    /// The configuration file; `(default)` where none was named.
    pub configuration_file: String,
    /// What it listens on.
    pub listeners: Vec<ListenerStatus>,
    /// Open file descriptors.
    pub open_fds: u64,
    /// The most that it may open.
    pub max_fds: u64,
    /// Threads that carry connections.
    pub worker_threads: u32,
    /// Tasks of connections and listeners that are alive.
    pub alive_tasks: u64,
    /// Idle pipes that are kept for copying.
    pub pooled_pipes: u64,
    /// Idle connections to targets that are kept.
    pub pooled_target_connections: u64,
    /// networkproxy: terminated names without a certificate. (smartproxy's come from its peers.)
    pub names_without_certificate: Vec<String>,
    /// What an operator should know, one sentence each.
    pub warnings: Vec<String>,
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStatus {
    /// As bound.
    pub address: SocketAddr,
    /// `public`, `hop`, `control`, `admin`, `metrics`.
    pub purpose: &'static str,
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// Deliver what was read, say goodbye, wait for a bounded time.
    Graceful,
    /// Reset both sides at once.
    Abort,
}

/// An operator's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseRequest {
    /// How.
    pub mode: CloseMode,
    /// Who ordered it.
    pub actor: String,
    /// Why, in the operator's words; may be empty.
    pub note: String,
}

impl CloseRequest {
    /// What the record will say: operator, actor and note, `after` the half opened.
    pub fn observation(&self, observer: Role, after: Duration) -> Observation {
        let detail = if self.note.is_empty() {
            self.actor.clone()
        } else {
            format!("{}: {}", self.actor, clip(&self.note, 120))
        };
        Observation::new(observer, Reason::OperatorClosed, None, after).with_detail(detail)
    }
}
