//! What every connection of this process shares.
//!
//! *Owns* the configuration in force, the route table with its entries' bounds, the connection manager, the
//! registry of networkproxies and the dialler. *Never* holds per-connection state. *Invariant*: attempt
//! numbers ascend over the process's life and start at 1.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use config::{Entry, Protocol, RouteTable, TargetAddress, TargetHost, Transport};
use control::server::Peers;
use ledger::{AdmissionLimits, LegName, Limit, Reason, Rule};
use runtime::{
    ConnectionManager, DialError, DialOptions, Dialled, Keepalive, Mode, PipePool, Resolver, SourceSpread,
    Splicing,
};
use tokio::sync::Semaphore;

use crate::bounds::{EarlyBounds, EntryBounds};
use crate::client_addresses::ClientAddresses;
use crate::counts::Counts;

/// The configuration in force; until it can be reloaded there is one.
pub(crate) const GENERATION: u64 = 1;
/// Loopback source addresses that hop connections are spread over: some 28,000 ports each.
const HOP_SOURCES: u32 = 16;

/// What every connection of this process shares.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) manager: ConnectionManager,
    pub(crate) table: RouteTable,
    pub(crate) generation: u64,
    pub(crate) heartbeat: Duration,
    pub(crate) early: EarlyBounds,
    pub(crate) initial_data_bytes: usize,
    pub(crate) admission: AdmissionLimits,
    /// The rule behind each refusal for being one too many.
    limits: [(Reason, Rule); 3],
    pub(crate) peers: Peers,
    pub(crate) holding: Semaphore,
    pub(crate) counts: Counts,
    pub(crate) client_addresses: ClientAddresses,
    /// What bulk passes through.
    pub(crate) pipes: PipePool,
    entries: HashMap<Arc<str>, EntryState>,
    resolver: Resolver,
    /// What accepted sockets are born with.
    pub(crate) keepalive: Keepalive,
    sources: SourceSpread,
    attempts: AtomicU64,
}

/// One public port on one address.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) address: SocketAddr,
    pub(crate) name: Arc<str>,
}

/// An entry with what was worked out for it once.
#[derive(Debug)]
pub(crate) struct EntryState {
    pub(crate) entry: Arc<Entry>,
    pub(crate) bounds: EntryBounds,
    next: AtomicUsize,
}

/// What an [`App`] is made of.
pub(crate) struct Parts {
    pub(crate) manager: ConnectionManager,
    pub(crate) table: RouteTable,
    pub(crate) peers: Peers,
    pub(crate) keepalive: Keepalive,
    pub(crate) resolver: Resolver,
    pub(crate) max_connections: u64,
}

impl App {
    pub(crate) fn new(config: &config::SmartproxyConfig, parts: Parts) -> Self {
        let settings = &config.settings;
        let pipes = PipePool::default();
        let jitter = settings.timeouts.jitter.fraction() * 100.0;
        let state = |entry: &Arc<Entry>| EntryState {
            entry: Arc::clone(entry),
            bounds: EntryBounds::new(entry, jitter, Mode::Splice(Splicing::through(pipes.clone()))),
            next: AtomicUsize::new(0),
        };
        let entries = parts.table.entries().iter().map(|entry| (Arc::clone(&entry.name), state(entry)));
        let counted = |name: &str, limit: u64, source: &config::Source| Rule {
            name: name.into(),
            limit: limit.to_string().into(),
            source: source.to_string().into(),
        };
        let (all, per_ip, held) = (
            &settings.limits.max_connections,
            &settings.limits.max_connections_per_ip,
            &settings.limits.max_held,
        );
        let limits = [
            (Reason::LimitGlobal, counted("max_connections", parts.max_connections, &all.source)),
            (
                Reason::LimitPerIp,
                counted("max_connections_per_ip", per_ip.value.unwrap_or_default(), &per_ip.source),
            ),
            (Reason::HoldFull, counted("max_held", held.value, &held.source)),
        ];
        Self {
            limits,
            entries: entries.collect(),
            manager: parts.manager,
            table: parts.table,
            generation: GENERATION,
            heartbeat: settings.control.heartbeat,
            early: EarlyBounds::new(&settings.timeouts),
            initial_data_bytes: settings.limits.initial_data_bytes as usize,
            admission: AdmissionLimits {
                connections: parts.max_connections,
                per_address: settings.limits.max_connections_per_ip.value.unwrap_or(0),
            },
            peers: parts.peers,
            holding: Semaphore::new(
                settings.limits.max_held.value.min(Semaphore::MAX_PERMITS as u64) as usize
            ),
            counts: Counts::default(),
            client_addresses: ClientAddresses::default(),
            pipes,
            resolver: parts.resolver,
            keepalive: parts.keepalive,
            sources: SourceSpread::over(HOP_SOURCES),
            attempts: AtomicU64::new(0),
        }
    }

    /// What was worked out for an entry of the table in force.
    pub(crate) fn entry(&self, entry: &Entry) -> Option<&EntryState> {
        self.entries.get(&entry.name)
    }

    /// The limit that a refusal for `reason` rests on, and how many there were already.
    pub(crate) fn limit_behind(&self, reason: Reason) -> Option<(Rule, String)> {
        let (_, rule) = self.limits.iter().find(|(of, _)| *of == reason)?;
        Some((rule.clone(), rule.limit.to_string()))
    }

    /// How long the connections of each entry may go on when draining.
    pub(crate) fn drains(&self) -> impl Iterator<Item = (&Arc<str>, &Limit)> {
        self.entries.iter().map(|(name, state)| (name, &state.bounds.drain))
    }

    /// The next attempt's number: also the counter of its hop tag.
    pub(crate) fn next_attempt(&self) -> u64 {
        self.attempts.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Resolves and dials a target, by the active time `until`.
    pub(crate) async fn dial_target(
        &self,
        target: &TargetAddress,
        until: Duration,
    ) -> Result<Dialled, DialFault> {
        let addresses = match &target.host {
            TargetHost::Address(ip) => vec![SocketAddr::new(*ip, target.port)],
            TargetHost::Name(name) => self.resolver.resolve(name, target.port).await?,
        };
        let options = DialOptions::default();
        Ok(runtime::dial(&addresses, until, options, self.manager.clock()).await?)
    }

    /// Dials the hop, by the active time `until`, from the next of several loopback addresses.
    pub(crate) async fn dial_hop(&self, hop: SocketAddr, until: Duration) -> Result<Dialled, DialError> {
        let options = DialOptions { sources: Some(&self.sources) };
        runtime::dial(&[hop], until, options, self.manager.clock()).await
    }
}

/// Why a target could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialFault {
    /// Its name has no address.
    #[error(transparent)]
    Resolve(#[from] runtime::ResolveError),
    /// No address could be connected to.
    #[error(transparent)]
    Dial(#[from] DialError),
}

impl DialFault {
    /// What this means for the connection.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Resolve(_) => Reason::TargetResolveFailed,
            Self::Dial(error) => error.reason(LegName::Target),
        }
    }
}

impl EntryState {
    /// The target whose turn it is.
    pub(crate) fn next_target(&self) -> Option<&TargetAddress> {
        let Transport::Relay { targets, .. } = &self.entry.transport else { return None };
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        targets.get(turn % targets.len().max(1))
    }

    /// Does the client of a clear-text connection understand an HTTP answer?
    pub(crate) fn is_http(&self) -> bool {
        matches!(self.entry.transport, Transport::Bridge { protocol: Protocol::Http, .. })
    }
}
