//! smartproxy's side of `Sync`: one call, one session.
//!
//! *Owns* the answer to a Hello and the task of the session. *Never* lets one session's fault touch another.
//! *Invariant*: a session that began in the ledger ends there, whatever becomes of the call.

use ledger::{HelloRefused, InstanceId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::peers::Peers;
use crate::access::Access;
use crate::convert::message::{Acknowledged, Greeting, Inbound, Reader, Terms, protocol_of};
use crate::proto::control::v1::control_service_server::ControlService;
use crate::proto::control::v1::{SyncMessage, SyncRequest, SyncResponse};
use crate::session::{Established, Over, Surroundings};
use crate::{PROTOCOL, spoken_by_both};

/// Messages that wait for the stream: enough to keep it busy, few enough to be overtaken.
const AHEAD: usize = 2;

/// The service.
#[derive(Debug)]
pub(crate) struct Sync {
    pub(crate) peers: Peers,
    pub(crate) access: Access,
    pub(crate) version: String,
    pub(crate) admin_address: String,
    pub(crate) sessions: TaskTracker,
    pub(crate) leaving: CancellationToken,
}

#[tonic::async_trait]
impl ControlService for Sync {
    type SyncStream = std::pin::Pin<Box<dyn Stream<Item = Result<SyncResponse, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        self.access.authorize(&request)?;
        let from = request.remote_addr();
        let mut incoming = Box::pin(
            request
                .into_inner()
                .map(|message| message.map(|request: SyncRequest| request.message.unwrap_or_default())),
        );
        let patience = self.peers.rhythm().stall_after;
        let first = self.peers.time().within(patience, incoming.next()).await;
        let first = first.ok_or_else(|| Status::deadline_exceeded("no Hello came in time"))?;
        let first = first.ok_or_else(|| Status::cancelled("the stream ended before a Hello"))??;
        let greeting = self.greeting(first)?;
        let Terms::Inner(terms) = greeting.terms else {
            return Err(Status::failed_precondition("both sides claim to be smartproxy"));
        };
        let instance = greeting.hello.instance;
        if !self.peers.has_room_for(instance) {
            return Err(Status::resource_exhausted("64 networkproxies are connected, no more are taken"));
        }
        if self.leaving.is_cancelled() {
            return Err(Status::unavailable("this smartproxy is leaving"));
        }
        let now = self.peers.time().now();
        let (at, answer) = self.peers.ledger().answer(&greeting.hello, now).map_err(refused)?;
        let session = Established::new(self.peers.ledger().clone(), self.peers.time().clone(), at);
        let (key, replaced) = self.peers.begin(&greeting, terms);
        tracing::info!(peer = %instance, session = at.number, version = greeting.version, ?from,
            "control session established");

        let (outgoing, receiver) = mpsc::channel(AHEAD);
        let reply = Greeting {
            hello: answer,
            version: self.version.clone(),
            protocol: PROTOCOL,
            admin_address: self.admin_address.clone(),
            active: now.active,
            terms: Terms::Front { rhythm: self.peers.rhythm(), key },
        };
        let peers = self.peers.clone();
        let directory = peers.directory().clone();
        let surroundings = Surroundings {
            woken: peers.wake().subscribe(),
            announced: peers.announced(),
            replaced,
            leaving: self.leaving.clone(),
            take: {
                let peers = peers.clone();
                move |notice| peers.take(instance, notice)
            },
            heard: {
                let time = peers.time().clone();
                move |clock| directory.hear(instance, clock, time.now())
            },
            owed: Acknowledged::default(),
            heartbeat: peers.rhythm().heartbeat,
            stall_after: peers.rhythm().stall_after,
        };
        let registered = Registered { peers: peers.clone(), instance, number: at.number };
        self.sessions.spawn(async move {
            let over = match outgoing.try_send(Ok(reply.encode())) {
                Ok(()) => session.run(&mut incoming, &outgoing, surroundings).await,
                Err(_) => Over::Replaced,
            };
            drop(registered);
            tracing::info!(peer = %instance, session = at.number, why = over.words(), "control session over");
            if let Some(status) = over.status() {
                peers.time().within(peers.rhythm().heartbeat, outgoing.send(Err(status))).await;
            }
        });
        let messages = ReceiverStream::new(receiver).map(|message: Result<SyncMessage, Status>| {
            message.map(|message| SyncResponse { message: Some(message) })
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

impl Sync {
    fn greeting(&self, first: SyncMessage) -> Result<Greeting, Status> {
        let theirs = protocol_of(&first)
            .ok_or_else(|| Status::invalid_argument("the first message must be a Hello"))?;
        if !spoken_by_both(theirs) {
            return Err(Status::failed_precondition(format!(
                "this smartproxy ({}) speaks versions {} to {} of the control protocol, the networkproxy speaks {} to {}: \
                 upgrade the older one",
                self.version, PROTOCOL.0, PROTOCOL.1, theirs.0, theirs.1
            )));
        }
        // Whose it is, is what it says: nothing of it belongs to a half.
        match Reader::of(InstanceId(0)).read(first) {
            Ok(Inbound::Hello(greeting)) => Ok(*greeting),
            Ok(_) => Err(Status::invalid_argument("the first message must be a Hello")),
            Err(malformed) => Err(Status::invalid_argument(malformed.to_string())),
        }
    }
}

/// A session's place in the registry, given back however its task ends.
struct Registered {
    peers: Peers,
    instance: InstanceId,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.peers.end(self.instance, self.number);
    }
}

fn refused(refused: HelloRefused) -> Status {
    match refused {
        HelloRefused::OldSession { .. } => Status::aborted(refused.to_string()),
        _ => Status::failed_precondition(refused.to_string()),
    }
}
