//! `ConnectionService`.
//!
//! *Owns* the five calls. *Never* does the work of a call on the control thread where it may take long: lists
//! and audits run beside it. *Invariant*: every call checks access first, and a changing one leaves an audit
//! line whatever its result.

use std::sync::Arc;
use std::time::Duration;

use ledger::{ConnectionId, IdSuffix, Now, SharedLedger};
use tonic::{Request, Response, Status};

use super::list::{Filter, NotFound, Page, find};
use super::record::Record;
use crate::access::{Access, audit, caller};
use crate::convert::books;
use crate::convert::record::{Detail, Viewer};
use crate::convert::scalar::{clip, optional_duration};
use crate::process::{CloseMode, CloseRequest, Process};
use crate::proto::admin::v1 as wire;
use crate::proto::admin::v1::connection_service_server::ConnectionService;

/// The longest that `Audit` waits.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Between two looks at the laws: the first pause, and the longest.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// The service, for one process.
#[derive(Debug)]
pub(crate) struct Connections<P> {
    pub(crate) process: Arc<P>,
    pub(crate) access: Access,
}

#[tonic::async_trait]
impl<P: Process> ConnectionService for Connections<P> {
    async fn list_connections(
        &self,
        request: Request<wire::ListConnectionsRequest>,
    ) -> Result<Response<wire::ListConnectionsResponse>, Status> {
        self.access.may_read(&request)?;
        let request = request.into_inner();
        let page = Page::read(&request)?;
        let filter = Filter::read(request.filter.unwrap_or_default())?;
        self.beside(move |process| {
            let show = |record: &Record, now| viewer(process, now, Detail::Listed).connection(record);
            let listed = page.list(&filter, process.ledger(), || process.now(), show);
            Ok(wire::ListConnectionsResponse {
                connections: listed.connections,
                next_page_token: listed.next_page_token,
                total_size: listed.total,
            })
        })
        .await
    }

    async fn get_connection(
        &self,
        request: Request<wire::GetConnectionRequest>,
    ) -> Result<Response<wire::GetConnectionResponse>, Status> {
        self.access.may_read(&request)?;
        let wanted = Wanted::read(&request.into_inner().id)?;
        self.beside(move |process| {
            let now = process.now();
            let record = wanted.find(process.ledger(), now)?;
            let connection = viewer(process, now, Detail::Whole).connection(&record);
            Ok(wire::GetConnectionResponse { connection: Some(connection) })
        })
        .await
    }

    async fn close_connection(
        &self,
        request: Request<wire::CloseConnectionRequest>,
    ) -> Result<Response<wire::CloseConnectionResponse>, Status> {
        let who = caller(&request);
        let subject = clip(&request.get_ref().id, 64);
        let result = self.close(request, &who).await;
        audit(&who, "CloseConnection", &subject, &result);
        result
    }

    async fn get_counters(
        &self,
        request: Request<wire::GetCountersRequest>,
    ) -> Result<Response<wire::GetCountersResponse>, Status> {
        self.access.may_read(&request)?;
        self.beside(|process| Ok(books::counters(&process.ledger().counters(process.now())))).await
    }

    async fn audit(
        &self,
        request: Request<wire::AuditRequest>,
    ) -> Result<Response<wire::AuditResponse>, Status> {
        self.access.may_read(&request)?;
        let wait = optional_duration(request.into_inner().wait, "wait")
            .map_err(|malformed| Status::invalid_argument(malformed.to_string()))?;
        let until = tokio::time::Instant::now() + wait.unwrap_or_default().min(LONGEST_WAIT);
        let mut pause = LOOKS.0;
        loop {
            let late = tokio::time::Instant::now() >= until;
            if late || self.beside(|process| Ok(is_calm(process))).await?.into_inner() {
                let answer = self.beside(|process| Ok(look(process))).await?;
                if late || (answer.get_ref().balanced && answer.get_ref().quiet) {
                    return Ok(answer);
                }
            }
            tokio::time::sleep_until(until.min(tokio::time::Instant::now() + pause)).await;
            pause = (pause * 2).min(LOOKS.1);
        }
    }
}

impl<P: Process> Connections<P> {
    async fn close(
        &self,
        request: Request<wire::CloseConnectionRequest>,
        who: &str,
    ) -> Result<Response<wire::CloseConnectionResponse>, Status> {
        self.access.authorize(&request)?;
        let request = request.into_inner();
        let wanted = Wanted::read(&request.id)?;
        let mode = match wire::CloseMode::try_from(request.mode) {
            Ok(wire::CloseMode::Unspecified | wire::CloseMode::Graceful) => CloseMode::Graceful,
            Ok(wire::CloseMode::Abort) => CloseMode::Abort,
            Err(_) => return Err(Status::invalid_argument("mode is not a mode")),
        };
        let order = CloseRequest { mode, actor: who.to_owned(), note: request.note };
        self.beside(move |process| {
            let record = wanted.find(process.ledger(), process.now())?;
            let own = process.ledger().instance();
            let live = record.halves().filter(|seen| seen.live);
            let (ours, theirs): (Vec<_>, Vec<_>) = live.partition(|seen| seen.half.key.instance == own);
            if ours.is_empty() {
                return Err(not_ours(process, &record, theirs.first().map(|seen| seen.half.key.instance)));
            }
            let mut initiated = false;
            for seen in ours {
                initiated |= process.close(seen.half.key, order.clone());
            }
            Ok(wire::CloseConnectionResponse { id: record.id.to_string(), initiated })
        })
        .await
    }

    /// Does `work` beside the control thread, which has sessions to keep.
    async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&P) -> Result<T, Status> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let process = Arc::clone(&self.process);
        let done = tokio::task::spawn_blocking(move || work(&process)).await;
        done.map_err(|_| Status::internal("this call failed by a bug of ours; see the log"))?
            .map(Response::new)
    }
}

/// An id or suffix, read.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    suffix: IdSuffix,
    whole: Option<ConnectionId>,
}

impl Wanted {
    fn read(text: &str) -> Result<Self, Status> {
        let suffix =
            IdSuffix::parse(text).map_err(|error| Status::invalid_argument(format!("id is {error}")))?;
        Ok(Self { suffix, whole: text.parse().ok() })
    }

    fn find(&self, ledger: &SharedLedger, now: Now) -> Result<Record, Status> {
        find(ledger, self.suffix, self.whole, now).map_err(|not_found| match not_found {
            NotFound::None => Status::not_found(not_found.to_string()),
            NotFound::Several(_) => Status::failed_precondition(not_found.to_string()),
        })
    }
}

fn viewer<P: Process>(process: &P, now: Now, detail: Detail) -> Viewer<'_> {
    Viewer { own: process.ledger().instance(), directory: process.directory(), now, detail }
}

/// Is every closed half settled, and everything told, as far as is known here? Cheap: no table is counted.
fn is_calm<P: Process>(process: &P) -> bool {
    let ledger = process.ledger();
    let peers = ledger.peer_status(process.now());
    let connected = peers.iter().filter(|peer| peer.connected);
    ledger.settling() == 0 && connected.into_iter().all(|peer| peer.settling == 0 && peer.lag == 0)
}

/// The laws, recounted: while they are, the books are held.
fn look<P: Process>(process: &P) -> wire::AuditResponse {
    let audit = process.ledger().audit(process.now());
    let quiet = audit.in_flight.is_empty() && is_calm(process);
    books::audit(&audit, quiet)
}

/// Why a connection cannot be closed here.
fn not_ours<P: Process>(process: &P, record: &Record, owner: Option<ledger::InstanceId>) -> Status {
    let Some(owner) = owner else {
        let why = record
            .termination()
            .map_or_else(|| "cause not settled yet".to_owned(), |cause| cause.reason.to_string());
        return Status::failed_precondition(format!("connection {} is over already: {why}", record.id));
    };
    let address = process.directory().admin_address(owner);
    let address = address.unwrap_or_else(|| "an address that is not known".to_owned());
    let other = ledger_role_name(process);
    Status::failed_precondition(format!(
        "connection {} has no live half in this process; {other} owns the one that is left: ask it at {address}",
        record.id
    ))
}

fn ledger_role_name<P: Process>(process: &P) -> &'static str {
    process.ledger().role().peer().process()
}
