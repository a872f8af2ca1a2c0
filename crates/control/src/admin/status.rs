//! `ProxyService`.
//!
//! *Owns* what a process says about itself and its peers. *Never* keeps anything: it asks. *Invariant*: what
//! it says of a peer's readiness is what the data path decides by.

use std::sync::Arc;

use ledger::{Now, PeerStatus};
use tonic::{Request, Response, Status};

use crate::access::Access;
use crate::convert::ends::role;
use crate::convert::scalar::{duration, timestamp};
use crate::process::{Process, ProcessPhase};
use crate::proto::admin::v1 as wire;
use crate::proto::admin::v1::proxy_service_server::ProxyService;
use crate::server::Readiness;
use crate::session::end_in_words;

/// The service, for one process.
#[derive(Debug)]
pub(crate) struct Proxy<P> {
    pub(crate) process: Arc<P>,
    pub(crate) access: Access,
}

#[tonic::async_trait]
impl<P: Process> ProxyService for Proxy<P> {
    async fn get_status(
        &self,
        request: Request<wire::GetStatusRequest>,
    ) -> Result<Response<wire::GetStatusResponse>, Status> {
        self.access.may_read(&request)?;
        let process = Arc::clone(&self.process);
        let status = tokio::task::spawn_blocking(move || status(&*process)).await;
        status
            .map(Response::new)
            .map_err(|_| Status::internal("this call failed by a bug of ours; see the log"))
    }
}

fn status<P: Process>(process: &P) -> wire::GetStatusResponse {
    let now = process.now();
    let ledger = process.ledger();
    let status = process.status();
    let mut names = status.names_without_certificate;
    names.extend(process.directory().names_without_certificate());
    wire::GetStatusResponse {
        version: status.version,
        revision: status.revision,
        instance_id: ledger.instance().to_string(),
        role: role(ledger.role()),
        started_at: Some(timestamp(status.started_at)),
        uptime: Some(duration(now.mono)),
        suspended: Some(duration(status.suspended)),
        phase: match process.phase() {
            ProcessPhase::Starting => wire::ProcessPhase::Starting,
            ProcessPhase::Ready => wire::ProcessPhase::Ready,
            ProcessPhase::Draining => wire::ProcessPhase::Draining,
        }
        .into(),
        configuration_generation: status.configuration_generation,
        configuration_file: status.configuration_file,
        listeners: status
            .listeners
            .iter()
            .map(|listener| wire::Listener {
                address: listener.address.to_string(),
                purpose: listener.purpose.to_owned(),
            })
            .collect(),
        peers: ledger.peer_status(now).iter().map(|peer| self::peer(process, peer, now)).collect(),
        connected_clients: ledger.connected_clients(),
        open_fds: status.open_fds,
        max_fds: status.max_fds,
        worker_threads: status.worker_threads,
        alive_tasks: status.alive_tasks,
        pooled_pipes: status.pooled_pipes,
        pooled_target_connections: status.pooled_target_connections,
        names_without_certificate: names,
        warnings: status.warnings,
    }
}

fn peer<P: Process>(process: &P, peer: &PeerStatus, now: Now) -> wire::Peer {
    let facts = process.directory().facts(peer.instance);
    let inner = facts.as_ref().and_then(|facts| facts.inner.as_ref());
    let readiness = process.peers().map(|peers| peers.readiness(peer.instance));
    let why = match readiness {
        None | Some(Readiness::Ready) => String::new(),
        Some(Readiness::Routes) => match inner.and_then(|inner| inner.table_error.as_ref()) {
            Some(error) => format!("it could not take the current routes: {error}"),
            None => Readiness::Routes.to_string(),
        },
        Some(other) => other.to_string(),
    };
    let standing = process.ledger().standing(peer.instance, now);
    wire::Peer {
        instance_id: peer.instance.to_string(),
        version: facts.as_ref().map(|facts| facts.version.clone()).unwrap_or_default(),
        admin_address: facts.as_ref().map(|facts| facts.admin_address.clone()).unwrap_or_default(),
        connected: peer.connected,
        session: peer.session,
        heartbeats_fresh: peer.heartbeats_fresh,
        since_heartbeat: peer.since_heartbeat.map(duration),
        down_for: peer.down_for.map(duration),
        last_end: peer.last_end.map(end_in_words).unwrap_or_default(),
        written: peer.written,
        acked: peer.acked,
        lag: peer.lag,
        applied: peer.applied,
        live: peer.live,
        settling: peer.settling,
        closed_unseen: peer.closed_unseen,
        snapshots: peer.snapshots,
        ready: readiness == Some(Readiness::Ready),
        not_ready_because: why,
        hop_address: inner.map(|inner| inner.terms.hop.to_string()).unwrap_or_default(),
        capacity: inner.map_or(0, |inner| inner.terms.capacity),
        bridged: if inner.is_some() { standing.map_or(0, |standing| standing.joined) } else { 0 },
        route_generation: facts.as_ref().and_then(|facts| facts.generation).unwrap_or(0),
        draining: facts.as_ref().is_some_and(|facts| facts.draining),
    }
}
