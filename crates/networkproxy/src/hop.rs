//! The hop: who may come in, and as what.
//!
//! *Owns* the arrivals that have not proven who they are, the hop keys as verifiers, and the windows against
//! replays. *Never* opens a record, or touches the one that a header claims, before the tag has verified and
//! is fresh (P7, R-21). *Invariant*: arrived = pending + verified + refused by reason; a socket that is
//! refused is reset.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use config::InnerTable;
use control::client::Upstream;
use ledger::{InstanceId, Reason};
use runtime::preface::{
    HOP_HEADER_LIMIT, HopClass, HopHeader, HopKey, HopRefusal, Progress, ReplayWindow, VerifiedHopHeader,
};
use runtime::{Clock, Fold};
use tokio::net::TcpStream;

/// What is read at once: a header, and with it most ClientHellos.
const FIRST_READ: usize = HOP_HEADER_LIMIT + 3 * 1024;
/// Arrivals that may wait for their header; further ones must have it with them.
const MOST_PENDING: usize = 1024;

/// Who may come in.
#[derive(Debug)]
pub struct Hop<K = Upstream> {
    known: K,
    clock: Clock,
    header_limit: Duration,
    doors: Mutex<HashMap<u64, Door>>,
    pending: AtomicUsize,
    refused: Fold,
}

/// What smartproxy has told about who may come in.
pub trait Known {
    /// The hop key of this name, and the smartproxy instance that it stands for.
    fn key(&self, id: u64) -> Option<(control::HopKey, InstanceId)>;

    /// The routes of this generation of this smartproxy.
    fn table(&self, front: InstanceId, generation: u64) -> Option<Arc<InnerTable>>;
}

impl Known for Upstream {
    fn key(&self, id: u64) -> Option<(control::HopKey, InstanceId)> {
        self.keys().find(id)
    }

    fn table(&self, front: InstanceId, generation: u64) -> Option<Arc<InnerTable>> {
        self.table(front, generation)
    }
}

/// One hop key, as what it verifies.
#[derive(Debug)]
struct Door {
    key: HopKey,
    front: InstanceId,
    used: ReplayWindow,
}

/// An arrival that has proven who it is.
#[derive(Debug)]
pub struct Admitted {
    /// What smartproxy says about the connection.
    pub header: VerifiedHopHeader,
    /// The smartproxy instance that wrote it.
    pub front: InstanceId,
    /// The routes of the generation that it decided with.
    pub table: Arc<InnerTable>,
    /// Read from the socket already, after the header.
    pub read_past: Vec<u8>,
}

impl<K: Known> Hop<K> {
    /// The hop of a process that has been told what is `known`; headers must come within `header_limit`.
    pub fn new(known: K, clock: Clock, header_limit: Duration) -> Self {
        Self {
            known,
            clock,
            header_limit,
            doors: Mutex::default(),
            pending: AtomicUsize::new(0),
            refused: Fold::every(Duration::from_secs(5)),
        }
    }

    /// Reads and verifies the header of a socket that was just accepted. An error is why it is refused.
    pub async fn admit(&self, socket: &TcpStream) -> Result<Admitted, Reason> {
        let _place = Pending::take(&self.pending);
        let until = self.clock.active().saturating_add(self.header_limit);
        let mut received = Vec::with_capacity(FIRST_READ);
        let (header, length) = loop {
            match HopHeader::decode(&received) {
                Ok(Progress::Complete((header, length))) => break (self.verify(header)?, length),
                Ok(Progress::Incomplete { .. }) => {}
                Err(refusal) => return Err(reason_of(refusal)),
            }
            tokio::select! {
                biased;
                read = read_more(socket, &mut received) => match read {
                    Ok(0) | Err(_) => return Err(Reason::HopHeaderMissing),
                    Ok(_) => {}
                },
                () = self.patience(until) => return Err(Reason::HopHeaderTimeout),
            }
        };
        let (verified, front) = header;
        let table = self.known.table(front, verified.header.generation);
        let table =
            table.filter(|table| is_served(table, &verified.header)).ok_or(Reason::HopRouteUnknown)?;
        Ok(Admitted { header: verified, front, table, read_past: received.split_off(length) })
    }

    /// Says in the log that an arrival was refused, unless that was said a moment ago.
    pub fn log_refusal(&self, from: SocketAddr, reason: Reason) {
        if let Some(count) = self.refused.note(self.clock.active()) {
            tracing::warn!(%from, %reason, count, "hop connections refused");
        }
    }

    /// Until the header's deadline; at once where too many wait already.
    async fn patience(&self, until: Duration) {
        if self.pending.load(Relaxed) <= MOST_PENDING {
            self.clock.sleep_until(until).await;
        }
    }

    /// Checks the tag, and that it is used for the first time.
    fn verify(
        &self,
        header: runtime::preface::UnverifiedHopHeader<'_>,
    ) -> Result<(VerifiedHopHeader, InstanceId), Reason> {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        let verified = header
            .verify(|id| open_door(&mut doors, &self.known, id).map(|door| door.key.clone()))
            .map_err(reason_of)?;
        let door = doors.get_mut(&verified.key_id).ok_or(Reason::HopAuthFailed)?;
        door.used.accept(verified.counter).map_err(|_| Reason::HopReplayed)?;
        Ok((verified, door.front))
    }
}

/// The door of a key, as long as the key is in force. Its window lives as long: a key that returns after it
/// was dropped would be another one.
fn open_door<'d>(doors: &'d mut HashMap<u64, Door>, known: &impl Known, id: u64) -> Option<&'d Door> {
    let Some((key, front)) = known.key(id) else {
        doors.remove(&id);
        return None;
    };
    if !doors.contains_key(&id) {
        doors.retain(|id, _| known.key(*id).is_some());
        let door = Door { key: HopKey::new(key.id, &key.secret), front, used: ReplayWindow::new() };
        doors.insert(id, door);
    }
    doors.get(&id)
}

/// Does the table have the header's entry, for its kind of bytes?
fn is_served(table: &InnerTable, header: &HopHeader) -> bool {
    let terminated = header.class == HopClass::Tls;
    table.entry(&header.entry).is_some_and(|entry| entry.terminated() == terminated)
}

const fn reason_of(refusal: HopRefusal) -> Reason {
    match refusal {
        HopRefusal::Missing => Reason::HopHeaderMissing,
        HopRefusal::Invalid(_) => Reason::HopHeaderInvalid,
        HopRefusal::AuthFailed(_) => Reason::HopAuthFailed,
    }
}

/// Reads once, after what was received. Cancel safe.
async fn read_more(socket: &TcpStream, received: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        socket.readable().await?;
        let room = FIRST_READ.saturating_sub(received.len()).max(512);
        received.reserve(room);
        match socket.try_read_buf(received) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

/// A place among those who wait.
struct Pending<'a>(&'a AtomicUsize);

impl<'a> Pending<'a> {
    fn take(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
