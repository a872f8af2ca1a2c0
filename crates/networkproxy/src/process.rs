//! networkproxy as the admin services see it.
//!
//! *Owns* the answers about this process: phase, status, and the order to close one of its halves. *Never*
//! waits: it is asked on the control thread. *Invariant*: readiness falls before draining begins.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use control::client::{Upstream, UpstreamState};
use control::{CloseMode, CloseRequest, Directory, ListenerStatus, Process, ProcessPhase, ProcessStatus};
use ledger::{HalfKey, Now, Role, SharedLedger, Wall};
use runtime::CloseOrder;

use crate::gateway::Gateway;
use crate::pool::{Pool, PoolCounts};

/// networkproxy as the admin services see it.
#[derive(Debug)]
pub struct Inner {
    /// What all connections share.
    pub gateway: Arc<Gateway>,
    /// Connections to targets, worker by worker.
    pub pools: Vec<Pool>,
    /// The control channel.
    pub upstream: Upstream,
    phase: AtomicU8,
    facts: Facts,
}

/// What does not change after the start.
#[derive(Clone, Debug)]
pub struct Facts {
    /// When the process started.
    pub started_at: Wall,
    /// The file, or what stands for it.
    pub configuration_file: String,
    /// What it listens on, and for what.
    pub listeners: Vec<(SocketAddr, &'static str)>,
    /// The most descriptors that it may open.
    pub max_fds: u64,
    /// Threads that carry connections.
    pub worker_threads: u32,
}

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

impl Inner {
    /// A process that does not serve yet.
    pub fn new(gateway: Arc<Gateway>, pools: Vec<Pool>, upstream: Upstream, facts: Facts) -> Self {
        Self { gateway, pools, upstream, phase: AtomicU8::new(STARTING), facts }
    }

    /// How many connections to targets there are, over all workers.
    pub fn pooled(&self) -> PoolCounts {
        self.pools.iter().map(Pool::counts).fold(PoolCounts::default(), |sum, of| PoolCounts {
            open: sum.open + of.open,
            idle: sum.idle + of.idle,
        })
    }

    /// It serves from now on.
    pub fn ready(&self) {
        self.phase.store(READY, Ordering::Release);
    }

    /// It takes nothing new from now on.
    pub fn draining(&self) {
        self.phase.store(DRAINING, Ordering::Release);
    }

    /// Terminated names of the routes in force that no certificate covers.
    pub fn names_without_certificate(&self) -> Vec<String> {
        let Some(table) = self.upstream.latest_table() else { return Vec::new() };
        let wanted = table.terminated_domains();
        self.gateway.certificates.uncovered(&wanted).into_iter().map(ToString::to_string).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.gateway.certificates.faults();
        if let UpstreamState::Waiting(why) = self.upstream.state() {
            warnings.push(format!("no control session with smartproxy: {why}"));
        }
        warnings
    }
}

impl Process for Inner {
    fn ledger(&self) -> &SharedLedger {
        self.gateway.manager.ledger()
    }

    fn now(&self) -> Now {
        self.gateway.clock().now()
    }

    fn phase(&self) -> ProcessPhase {
        match self.phase.load(Ordering::Acquire) {
            // Without routes there is nothing to serve: smartproxy has not been heard yet.
            READY if self.upstream.latest_table().is_some() => ProcessPhase::Ready,
            STARTING | READY => ProcessPhase::Starting,
            _ => ProcessPhase::Draining,
        }
    }

    fn status(&self) -> ProcessStatus {
        let facts = &self.facts;
        let listener =
            |(address, purpose): &(SocketAddr, &'static str)| ListenerStatus { address: *address, purpose };
        ProcessStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: crate::status::BUILD.revision.to_owned(),
            started_at: facts.started_at,
            suspended: self.gateway.clock().suspended(),
            configuration_generation: self.upstream.latest_table().map_or(0, |table| table.generation),
            configuration_file: facts.configuration_file.clone(),
            listeners: facts.listeners.iter().map(listener).collect(),
            open_fds: runtime::open_descriptors().unwrap_or_default(),
            max_fds: facts.max_fds,
            worker_threads: facts.worker_threads,
            alive_tasks: runtime::tasks::alive() as u64,
            pooled_pipes: 0,
            pooled_target_connections: self.pooled().idle as u64,
            names_without_certificate: self.names_without_certificate(),
            warnings: self.warnings(),
        }
    }

    fn close(&self, key: HalfKey, order: CloseRequest) -> bool {
        let mode = match order.mode {
            CloseMode::Graceful => runtime::CloseMode::Graceful,
            CloseMode::Abort => runtime::CloseMode::Abort,
        };
        // Its time is set when the order is given.
        let observation = order.observation(Role::Inner, Duration::ZERO);
        self.gateway.manager.initiate_cleanup_once(key, CloseOrder { observation, mode })
    }

    fn directory(&self) -> &Directory {
        self.upstream.directory()
    }
}
