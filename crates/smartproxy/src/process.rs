//! smartproxy as the admin services see it.
//!
//! *Owns* the answers about this process: phase, status, and the order to close one of its halves. *Never*
//! waits: it is asked on the control thread. *Invariant*: readiness falls before draining begins.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use control::server::Peers;
use control::{CloseMode, CloseRequest, Directory, ListenerStatus, Process, ProcessPhase, ProcessStatus};
use ledger::{HalfKey, Now, Role, SharedLedger, Wall};
use runtime::CloseOrder;

use crate::app::App;

/// smartproxy as the admin services see it.
#[derive(Debug)]
pub(crate) struct Front {
    app: Arc<App>,
    phase: AtomicU8,
    facts: Facts,
}

/// What does not change after the start.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) started_at: Wall,
    pub(crate) configuration_file: String,
    pub(crate) listeners: Vec<(SocketAddr, &'static str)>,
    pub(crate) max_fds: u64,
    pub(crate) worker_threads: u32,
}

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

impl Front {
    pub(crate) fn new(app: Arc<App>, facts: Facts) -> Self {
        Self { app, phase: AtomicU8::new(STARTING), facts }
    }

    /// It serves from now on.
    pub(crate) fn ready(&self) {
        self.phase.store(READY, Ordering::Release);
    }

    /// It takes nothing new from now on.
    pub(crate) fn draining(&self) {
        self.phase.store(DRAINING, Ordering::Release);
    }
}

impl Process for Front {
    fn ledger(&self) -> &SharedLedger {
        self.app.manager.ledger()
    }

    fn now(&self) -> Now {
        self.app.manager.clock().now()
    }

    fn phase(&self) -> ProcessPhase {
        match self.phase.load(Ordering::Acquire) {
            STARTING => ProcessPhase::Starting,
            READY => ProcessPhase::Ready,
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
            suspended: self.app.manager.clock().suspended(),
            configuration_generation: self.app.generation,
            configuration_file: facts.configuration_file.clone(),
            listeners: facts.listeners.iter().map(listener).collect(),
            open_fds: runtime::open_descriptors().unwrap_or_default(),
            max_fds: facts.max_fds,
            worker_threads: facts.worker_threads,
            alive_tasks: runtime::tasks::alive() as u64,
            pooled_pipes: self.app.pipes.idle() as u64,
            pooled_target_connections: 0,
            names_without_certificate: self.app.peers.directory().names_without_certificate(),
            warnings: self.app.client_addresses.warning().into_iter().collect(),
        }
    }

    fn close(&self, key: HalfKey, order: CloseRequest) -> bool {
        let mode = match order.mode {
            CloseMode::Graceful => runtime::CloseMode::Graceful,
            CloseMode::Abort => runtime::CloseMode::Abort,
        };
        // Its time is set when the order is given.
        let observation = order.observation(Role::Front, std::time::Duration::ZERO);
        self.app.manager.initiate_cleanup_once(key, CloseOrder { observation, mode })
    }

    fn directory(&self) -> &Directory {
        self.app.peers.directory()
    }

    fn peers(&self) -> Option<&Peers> {
        Some(&self.app.peers)
    }
}
