//! smartproxy's gRPC port: the admin services, the control channel, and the upkeep of both.
//!
//! *Owns* the order of leaving: sessions say goodbye first, then the port closes. *Never* leaves a session
//! without its goodbye while there is time. *Invariant*: while it runs, the ledger is told that time passes.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::peers::Peers;
use super::sync::Sync;
use crate::admin::{Endpoint, ServeError, serve_with};
use crate::process::Process;

/// Serves smartproxy's gRPC port until `leaving`: then every session tells what is left to tell and says
/// goodbye, and the port closes. Runs on the control thread.
pub async fn serve<P: Process>(
    endpoint: Endpoint<P>,
    peers: Peers,
    leaving: CancellationToken,
) -> Result<(), ServeError> {
    let sessions = TaskTracker::new();
    let said_goodbye = CancellationToken::new();
    let sync = Sync {
        peers: peers.clone(),
        access: endpoint.access.clone(),
        version: endpoint.process.status().version,
        admin_address: endpoint.listener.local_addr()?.to_string(),
        sessions: sessions.clone(),
        leaving: leaving.clone(),
    };
    let goodbye = async {
        leaving.cancelled().await;
        sessions.close();
        let patience = peers.rhythm().heartbeat * 3;
        tokio::time::timeout(patience, sessions.wait()).await.ok();
        said_goodbye.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = serve_with(endpoint, Some(sync), said_goodbye.clone()) => served,
        () = goodbye => Ok(()),
        () = peers.wake().run() => Ok(()),
        () = keep_house(&peers) => Ok(()),
    }
}

/// Tells the ledger that time passes, and notices whose readiness time has changed.
async fn keep_house(peers: &Peers) {
    let pause = (peers.rhythm().heartbeat / 4).min(Duration::from_millis(100));
    loop {
        tokio::time::sleep(pause).await;
        peers.ledger().tick(peers.time().now());
        peers.review();
        peers.forget_the_gone();
    }
}
