//! Owns the questions that a run asks the two processes while it measures them.
//!
//! Never needs the token: reading on loopback is open. One connection to each gRPC port, made when this is.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use control::api;
use control::api::messages::{
    AuditRequest, AuditResponse, GetCountersRequest, GetCountersResponse, GetStatusRequest,
    GetStatusResponse, ListConnectionsRequest, ListConnectionsResponse,
};
use tokio::runtime::Runtime;

use crate::layout::{ADMIN, CONTROL, INNER_METRICS, METRICS};

const PATIENCE: Duration = Duration::from_secs(10);

/// A client of both processes.
pub(crate) struct Admin {
    runtime: Runtime,
    processes: [api::Admin; 2],
}

impl Admin {
    /// Connects to both.
    pub(crate) fn connect() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connect =
            |address: SocketAddr| runtime.block_on(api::connect(&address.to_string(), None, PATIENCE));
        let processes = [connect(CONTROL)?, connect(ADMIN)?];
        Ok(Self { runtime, processes })
    }

    /// smartproxy's status.
    pub(crate) fn status(&self) -> Result<GetStatusResponse> {
        let mut client = self.processes[0].proxy();
        Ok(self.runtime.block_on(client.get_status(GetStatusRequest {}))?.into_inner())
    }

    /// smartproxy's counters.
    pub(crate) fn counters(&self) -> Result<GetCountersResponse> {
        let mut client = self.processes[0].connections();
        Ok(self.runtime.block_on(client.get_counters(GetCountersRequest {}))?.into_inner())
    }

    /// One page of live records of smartproxy (0) or networkproxy (1).
    pub(crate) fn page(&self, process: usize, token: String, size: u32) -> Result<ListConnectionsResponse> {
        let mut client = self.processes[process].connections();
        let request = ListConnectionsRequest { page_size: size, page_token: token, ..Default::default() };
        Ok(self.runtime.block_on(client.list_connections(request))?.into_inner())
    }

    /// Every page of live records; how many there were.
    pub(crate) fn list(&self, process: usize) -> Result<usize> {
        let (mut records, mut token) = (0, String::new());
        loop {
            let page = self.page(process, token, 1000)?;
            records += page.connections.len();
            token = page.next_page_token;
            if token.is_empty() {
                return Ok(records);
            }
        }
    }

    /// The laws of the books, as they are after at most `wait`.
    pub(crate) fn audit(&self, process: usize, wait: Option<Duration>) -> Result<AuditResponse> {
        let mut client = self.processes[process].connections();
        let wait = wait.map(|wait| prost_types::Duration { seconds: wait.as_secs().cast_signed(), nanos: 0 });
        Ok(self.runtime.block_on(client.audit(AuditRequest { wait }))?.into_inner())
    }

    /// Waits until no record is live, at most `bound`.
    pub(crate) fn emptied(&self, bound: Duration) -> Result<()> {
        let end = Instant::now() + bound;
        loop {
            let own = self.counters()?.own.context("counters without their own")?;
            if own.connected_clients == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{} connections are still live", own.connected_clients);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Fetches `/metrics` of both processes; its length.
pub(crate) fn scrape() -> Result<usize> {
    let mut length = 0;
    for address in [METRICS, INNER_METRICS] {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ensure!(text.starts_with("HTTP/1.1 200"), "/metrics answered {:?}", text.lines().next());
        length += text.len();
    }
    Ok(length)
}
