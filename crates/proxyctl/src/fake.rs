//! A process that answers as it is told: for tests.
//!
//! *Owns* a gRPC server on a port of its own. *Never* keeps books. *Invariant*: it does what the protos say
//! (pages follow tokens, suffixes select), so that a command is tested against the contract.

mod records;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use control::api::messages as pb;
use control::api::messages::connection_service_server::{ConnectionService, ConnectionServiceServer};
use control::api::messages::proxy_service_server::{ProxyService, ProxyServiceServer};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;

use crate::arguments::Arguments;
use crate::failure::Failure;
use crate::show::screen::{Looks, Screen};

pub(crate) use records::{ID, at, closed, connection, millis};

/// What a fake process answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    pub(crate) connections: Vec<pb::Connection>,
    pub(crate) counters: pb::GetCountersResponse,
    pub(crate) audit: pb::AuditResponse,
    pub(crate) status: pb::GetStatusResponse,
    /// Whoever has not this is refused.
    pub(crate) token: Option<&'static str>,
    pub(crate) unhealthy: bool,
}

/// A running fake process.
pub(crate) struct Fake {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

/// What a fake process was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) lists: Vec<pb::ListConnectionsRequest>,
    pub(crate) closes: Vec<pb::CloseConnectionRequest>,
    pub(crate) audits: Vec<pb::AuditRequest>,
}

#[derive(Clone)]
struct Service {
    answers: Arc<Answers>,
    seen: Arc<Mutex<Seen>>,
}

impl Fake {
    /// Starts one on the test's runtime.
    pub(crate) async fn start(answers: Answers) -> Self {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let (reporter, health) = tonic_health::server::health_reporter();
        let status = if answers.unhealthy { ServingStatus::NotServing } else { ServingStatus::Serving };
        reporter.set_service_status("", status).await;
        let seen = Arc::default();
        let service = Service { answers: Arc::new(answers), seen: Arc::clone(&seen) };
        let checked = service.clone();
        let server = tonic::transport::Server::builder()
            .add_service(tonic::service::interceptor::InterceptedService::new(
                health,
                move |request: Request<()>| {
                    checked.check(request.metadata())?;
                    Ok(request)
                },
            ))
            .add_service(ConnectionServiceServer::new(service.clone()))
            .add_service(ProxyServiceServer::new(service))
            .serve_with_incoming(incoming);
        drop(tokio::spawn(server));
        Self { address, seen }
    }

    /// What it was asked so far.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Runs a command line against it, without a token file.
    pub(crate) async fn run(&self, line: &str) -> (Result<ExitCode, Failure>, String) {
        self.run_with("/nonexistent/control.token", line).await
    }

    /// Runs a command line against it.
    pub(crate) async fn run_with(&self, token_file: &str, line: &str) -> (Result<ExitCode, Failure>, String) {
        run(&format!("--address {} --token-file {token_file} {line}", self.address)).await
    }

    /// What a command prints that succeeds.
    pub(crate) async fn text(&self, line: &str) -> String {
        let (code, text) = self.run(line).await;
        assert!(is(code.unwrap(), ExitCode::SUCCESS), "{text}");
        text
    }
}

impl Service {
    fn check(&self, metadata: &tonic::metadata::MetadataMap) -> Result<(), Status> {
        let Some(token) = self.answers.token else { return Ok(()) };
        match metadata
            .get("authorization")
            .map(|value| value.as_bytes() == format!("Bearer {token}").as_bytes())
        {
            Some(true) => Ok(()),
            Some(false) => Err(Status::unauthenticated("wrong token")),
            None => Err(Status::unauthenticated("this call needs the token")),
        }
    }

    fn find(&self, id: &str) -> Result<&pb::Connection, Status> {
        let found = self.answers.connections.iter().find(|connection| connection.id.ends_with(id));
        found.ok_or_else(|| Status::not_found(format!("no record ends in {id}")))
    }
}

#[tonic::async_trait]
impl ConnectionService for Service {
    async fn list_connections(
        &self,
        request: Request<pb::ListConnectionsRequest>,
    ) -> Result<Response<pb::ListConnectionsResponse>, Status> {
        self.check(request.metadata())?;
        let request = request.into_inner();
        self.seen.lock().unwrap().lists.push(request.clone());
        let all = &self.answers.connections;
        let start: usize = request.page_token.parse().unwrap_or(0);
        let end = all.len().min(start + request.page_size as usize);
        let next = if end < all.len() { end.to_string() } else { String::new() };
        Ok(Response::new(pb::ListConnectionsResponse {
            connections: all[start..end].to_vec(),
            next_page_token: next,
            total_size: all.len() as u64,
        }))
    }

    async fn get_connection(
        &self,
        request: Request<pb::GetConnectionRequest>,
    ) -> Result<Response<pb::GetConnectionResponse>, Status> {
        self.check(request.metadata())?;
        let connection = Some(self.find(&request.into_inner().id)?.clone());
        Ok(Response::new(pb::GetConnectionResponse { connection }))
    }

    async fn close_connection(
        &self,
        request: Request<pb::CloseConnectionRequest>,
    ) -> Result<Response<pb::CloseConnectionResponse>, Status> {
        self.check(request.metadata())?;
        let request = request.into_inner();
        self.seen.lock().unwrap().closes.push(request.clone());
        let connection = self.find(&request.id)?;
        if connection.ended_at.is_some() {
            return Err(Status::failed_precondition("it is over already: ask 127.0.0.1:7801"));
        }
        Ok(Response::new(pb::CloseConnectionResponse { id: connection.id.clone(), initiated: true }))
    }

    async fn get_counters(
        &self,
        request: Request<pb::GetCountersRequest>,
    ) -> Result<Response<pb::GetCountersResponse>, Status> {
        self.check(request.metadata())?;
        Ok(Response::new(self.answers.counters.clone()))
    }

    async fn audit(&self, request: Request<pb::AuditRequest>) -> Result<Response<pb::AuditResponse>, Status> {
        self.check(request.metadata())?;
        self.seen.lock().unwrap().audits.push(request.into_inner());
        Ok(Response::new(self.answers.audit.clone()))
    }
}

#[tonic::async_trait]
impl ProxyService for Service {
    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        self.check(request.metadata())?;
        Ok(Response::new(self.answers.status.clone()))
    }
}

/// Runs a command line; returns how it exits and what it prints.
pub(crate) async fn run(line: &str) -> (Result<ExitCode, Failure>, String) {
    let words = std::iter::once("proxyctl").chain(line.split_whitespace());
    let arguments = Arguments::try_parse_from(words).unwrap();
    let mut out = Vec::new();
    let code = crate::command::run(&arguments, Looks::PLAIN, &mut out).await;
    (code, String::from_utf8(out).unwrap())
}

/// What `show` writes to a plain output.
pub(crate) fn shown(show: impl FnOnce(&mut Screen<'_>) -> Result<(), Failure>) -> String {
    let mut out = Vec::new();
    show(&mut Screen::new(&mut out, Looks::PLAIN)).unwrap();
    String::from_utf8(out).unwrap()
}

/// Exit codes have no equality of their own.
pub(crate) fn is(code: ExitCode, expected: ExitCode) -> bool {
    format!("{code:?}") == format!("{expected:?}")
}
