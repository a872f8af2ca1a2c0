//! The gRPC port of a process: admin services, health, reflection, and on smartproxy the control channel.
//!
//! *Owns* the server and its limits. *Never* starts where the access rules speak against it: [`Access`] cannot
//! be made then. *Invariant*: health follows readiness; what is not plainly readable needs the token.

mod connections;
pub(crate) mod list;
pub(crate) mod record;
mod status;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::STREAM_WINDOW;
use crate::access::Access;
use crate::convert::message::LARGEST_MESSAGE;
use crate::incoming;
use crate::process::{Process, ProcessPhase};
use crate::proto::DESCRIPTORS;
use crate::proto::admin::v1::connection_service_server::ConnectionServiceServer;
use crate::proto::admin::v1::proxy_service_server::ProxyServiceServer;
use crate::proto::control::v1::control_service_server::ControlServiceServer;
use crate::server::Sync;
use connections::Connections;
use status::Proxy;

/// Calls of one connection at once.
const STREAMS: u32 = 128;
/// Between two pings of a connection that may be dead. The control channel has heartbeats of its own.
const PING: Duration = Duration::from_mins(1);
/// How often readiness is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// What calls that are still running get when the process leaves.
const GRACE: Duration = Duration::from_secs(1);
/// The largest request of an operator.
const LARGEST_REQUEST: usize = 64 * 1024;
/// The services whose health follows readiness; the empty name is the process.
const SERVICES: [&str; 4] = [
    "",
    "proxy.admin.v1.ConnectionService",
    "proxy.admin.v1.ProxyService",
    "proxy.control.v1.ControlService",
];

/// A gRPC port, and the process behind it.
#[derive(Debug)]
pub struct Endpoint<P> {
    /// Bound and listening.
    pub listener: TcpListener,
    /// The process.
    pub process: Arc<P>,
    /// Who may call what.
    pub access: Access,
}

/// Why a gRPC port does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener cannot be used.
    #[error("the gRPC listener cannot be used")]
    Listener(#[from] std::io::Error),
    /// The descriptors that were built in cannot be read.
    #[error("reflection cannot be served")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server failed.
    #[error("the gRPC server failed")]
    Server(#[from] tonic::transport::Error),
}

/// Serves networkproxy's gRPC port until `leaving`. Runs on the control thread.
pub async fn serve<P: Process>(endpoint: Endpoint<P>, leaving: CancellationToken) -> Result<(), ServeError> {
    serve_with(endpoint, None, leaving).await
}

/// As [`serve`], with the control channel where this is smartproxy.
pub(crate) async fn serve_with<P: Process>(
    endpoint: Endpoint<P>,
    sync: Option<Sync>,
    leaving: CancellationToken,
) -> Result<(), ServeError> {
    let Endpoint { listener, process, access } = endpoint;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (health, health_service) = tonic_health::server::health_reporter();
    let connections = Connections { process: Arc::clone(&process), access: access.clone() };
    let proxy = Proxy { process: Arc::clone(&process), access: access.clone() };
    let reading = move |request: Request<()>| -> Result<Request<()>, Status> {
        access.check_reading(request.metadata()).map(|()| request)
    };
    // Both versions of reflection list the same services, each other included: a client sees one server.
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .include_reflection_service(false)
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
    };
    let with_control = sync.is_some();
    let sync = sync.map(|sync| {
        ControlServiceServer::new(sync)
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE)
    });
    let server = Server::builder()
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * 2)
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .http2_max_header_list_size(16 * 1024)
        .add_service(health_service)
        .add_service(InterceptedService::new(reflection().build_v1()?, reading.clone()))
        .add_service(InterceptedService::new(reflection().build_v1alpha()?, reading))
        .add_service(ConnectionServiceServer::new(connections).max_decoding_message_size(LARGEST_REQUEST))
        .add_service(ProxyServiceServer::new(proxy).max_decoding_message_size(LARGEST_REQUEST))
        .add_optional_service(sync);

    let (accepted, taken) = mpsc::channel(1);
    let serving =
        server.serve_with_incoming_shutdown(ReceiverStream::new(taken), leaving.clone().cancelled_owned());
    let bounded = async {
        tokio::pin!(serving);
        tokio::select! {
            served = &mut serving => return served,
            () = leaving.cancelled() => {}
        }
        // Calls that never end by themselves (a watch of health) do not keep the process.
        tokio::time::timeout(GRACE, serving).await.unwrap_or(Ok(()))
    };
    tokio::select! {
        served = bounded => served.map_err(ServeError::from),
        () = report_health(&health, &*process, with_control) => Ok(()),
        () = incoming::accept(listener, accepted) => Ok(()),
    }
}

/// Lets health follow readiness, for ever.
async fn report_health<P: Process>(health: &HealthReporter, process: &P, with_control: bool) {
    let mut last = None;
    loop {
        let phase = process.phase();
        if last != Some(phase) {
            last = Some(phase);
            let status = match phase {
                ProcessPhase::Ready => ServingStatus::Serving,
                ProcessPhase::Starting | ProcessPhase::Draining => ServingStatus::NotServing,
            };
            let here = SERVICES.iter().filter(|name| with_control || !name.starts_with("proxy.control."));
            for name in here {
                health.set_service_status(name, status).await;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
