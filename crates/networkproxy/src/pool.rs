//! Connections to targets, kept for the next request.
//!
//! *Owns* every connection over which HTTP is spoken with a target: which are idle, how long, and who may
//! have one. *Never* cuts a connection that a request is using, however old it is, and never counts
//! one as a client. *Invariant*: an entry is removed by its generation, so that a late end of one
//! connection cannot take away a newer one with the same key.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use ledger::{LegName, Traffic};
use runtime::{Clock, Dialled, Leg, Origin, tasks};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::http::body::RequestBody;
use crate::settings::PoolSettings;

mod driver;
mod surplus;
mod target_io;

pub use target_io::{TargetIo, TargetWire};

/// What is read from a target at most while its client takes nothing; also the longest response head.
const READ_BUFFER: usize = 64 * 1024;

/// One worker's connections to targets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: PoolSettings,
    clock: Clock,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    generations: u64,
    /// Every connection whose socket is not gone, by generation.
    open: BTreeMap<u64, Arc<TargetConnection>>,
    /// The last one given back is the first one taken.
    idle: BTreeMap<PoolKey, VecDeque<Idle>>,
    closed: bool,
    /// Is a task letting surplus connections go?
    is_trimmed: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Arc<TargetConnection>,
    sender: SendRequest<RequestBody>,
    /// Active time.
    since: Duration,
}

/// What two requests must share to share a connection: TLS towards the target will add its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolKey {
    /// The target.
    pub address: SocketAddr,
}

/// How many connections there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Sockets to targets.
    pub open: usize,
    /// Those without a request.
    pub idle: usize,
}

impl Pool {
    /// An empty pool.
    pub fn new(settings: PoolSettings, clock: Clock) -> Self {
        Self { shared: Arc::new(Shared { settings, clock, table: Mutex::default() }) }
    }

    /// An idle connection for `key`, its next request counted for `payer`.
    pub fn take(&self, key: PoolKey, payer: &Arc<Traffic>) -> Option<Lease> {
        let mut table = self.table();
        let idle = table.idle.get_mut(&key)?;
        let now = self.shared.clock.stamp();
        let mut found = None;
        while let Some(entry) = idle.pop_back() {
            // Dropped where not: its driver sees that nobody can send any more, and says goodbye.
            if entry.sender.is_ready()
                && !entry.connection.wire.saw_fin()
                && !self.is_aged(&entry.connection, now)
            {
                found = Some(entry);
                break;
            }
        }
        if idle.is_empty() {
            table.idle.remove(&key);
        }
        drop(table);
        let Idle { connection, sender, .. } = found?;
        connection.begin(payer);
        Some(Lease { pool: self.clone(), connection, sender: Some(sender), reused: true, connect: None })
    }

    /// Takes a fresh connection in, its first request counted for `payer`.
    pub fn adopt(&self, dialled: Dialled, payer: &Arc<Traffic>) -> Result<Lease, hyper::Error> {
        let Dialled { socket, address, took, .. } = dialled;
        let clock = self.shared.clock.clone();
        let wire = Arc::new(TargetWire::new(clock.clone()));
        // The leg's own count is nobody's: the wire counts for the half whose request it is.
        let leg = Leg::adopt(socket, LegName::Target, Origin::Dialled, Arc::default(), clock.clone());
        let released = CancellationToken::new();
        let guard = released.clone().drop_guard();
        let io = TokioIo::new(TargetIo::new(leg.io(Vec::new()), Arc::clone(&wire), guard));
        let (sender, connection) = {
            // Nothing is exchanged: HTTP/1 has no handshake, and the future is ready at once.
            let mut builder = http1::Builder::new();
            builder.max_buf_size(READ_BUFFER);
            let mut handshake = std::pin::pin!(builder.handshake(io));
            let mut now = std::task::Context::from_waker(std::task::Waker::noop());
            match handshake.as_mut().poll(&mut now) {
                std::task::Poll::Ready(made) => made?,
                std::task::Poll::Pending => unreachable!("an HTTP/1 handshake exchanges nothing"),
            }
        };
        let mut table = self.table();
        table.generations += 1;
        let target = Arc::new(TargetConnection {
            key: PoolKey { address },
            generation: table.generations,
            opened: clock.active(),
            wire,
            leg: Mutex::new(Some(leg)),
            in_use: AtomicBool::new(false),
            may_switch: AtomicBool::new(false),
            released,
            returned: Mutex::default(),
            is_returned: Notify::new(),
        });
        table.open.insert(target.generation, Arc::clone(&target));
        drop(table);
        target.begin(payer);
        tasks::spawn("target connection", driver::drive(connection, Arc::clone(&target), self.clone()));
        Ok(Lease {
            pool: self.clone(),
            connection: target,
            sender: Some(sender),
            reused: false,
            connect: Some(took),
        })
    }

    /// How many there are.
    pub fn counts(&self) -> PoolCounts {
        let table = self.table();
        PoolCounts { open: table.open.len(), idle: table.idle.values().map(VecDeque::len).sum() }
    }

    /// Lets every idle connection go, and every other one after its request: the process is leaving.
    pub fn close(&self) {
        let mut table = self.table();
        table.closed = true;
        let idle = std::mem::take(&mut table.idle);
        drop(table);
        drop(idle);
    }

    /// Whether a failed reuse is tried again.
    pub fn retries_stale(&self) -> bool {
        self.shared.settings.retry_stale
    }

    /// A connection whose request and response are complete goes back.
    fn put(&self, connection: &Arc<TargetConnection>, sender: SendRequest<RequestBody>) {
        connection.wire.end();
        connection.in_use.store(false, Relaxed);
        connection.may_switch.store(false, Relaxed);
        let now = self.shared.clock.stamp();
        let mut table = self.table();
        let keeps = self.shared.settings.max_idle_per_target > 0 && !table.closed;
        if !keeps || self.is_aged(connection, now) || connection.wire.saw_fin() {
            return;
        }
        let idle = table.idle.entry(connection.key).or_default();
        idle.push_back(Idle { connection: Arc::clone(connection), sender, since: now });
        let is_surplus = idle.len() > self.shared.settings.max_idle_per_target;
        let begins = is_surplus && !std::mem::replace(&mut table.is_trimmed, true);
        drop(table);
        if begins {
            tasks::spawn("pool trim", surplus::trim(self.clone()));
        }
    }

    /// Lets `connection` go if it has been idle, or alive, for too long; else says when to look again.
    fn look(&self, connection: &TargetConnection) -> Duration {
        let now = self.shared.clock.active();
        let settings = &self.shared.settings;
        let mut table = self.table();
        let Some(since) = table.idle_entry(connection).map(|entry| entry.since) else {
            return now.saturating_add(settings.idle_timeout);
        };
        let mut due = since.saturating_add(settings.idle_timeout);
        if let Some(max_age) = settings.max_age {
            due = due.min(connection.opened.saturating_add(max_age));
        }
        if due > now {
            return due;
        }
        let gone = table.remove_idle(connection);
        drop(table);
        drop(gone);
        now.saturating_add(settings.idle_timeout)
    }

    /// The connection is over: nobody may take it any more.
    fn retire(&self, connection: &TargetConnection) {
        let gone = self.table().remove_idle(connection);
        drop(gone);
    }

    /// Its socket is gone.
    fn forget(&self, connection: &TargetConnection) {
        let gone = self.table().open.remove(&connection.generation);
        drop(gone);
    }

    fn is_aged(&self, connection: &TargetConnection, now: Duration) -> bool {
        let age = now.saturating_sub(connection.opened);
        self.shared.settings.max_age.is_some_and(|max_age| age >= max_age)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn idle_entry(&self, connection: &TargetConnection) -> Option<&Idle> {
        self.idle
            .get(&connection.key)?
            .iter()
            .find(|entry| entry.connection.generation == connection.generation)
    }

    fn remove_idle(&mut self, connection: &TargetConnection) -> Option<Idle> {
        let idle = self.idle.get_mut(&connection.key)?;
        let at = idle.iter().position(|entry| entry.connection.generation == connection.generation)?;
        let gone = idle.remove(at);
        if idle.is_empty() {
            self.idle.remove(&connection.key);
        }
        gone
    }
}

/// One connection to a target, from its dial to its goodbye.
#[derive(Debug)]
pub struct TargetConnection {
    key: PoolKey,
    generation: u64,
    /// Active time.
    opened: Duration,
    wire: Arc<TargetWire>,
    /// Until the driver says goodbye, or an upgrade takes it.
    leg: Mutex<Option<Leg>>,
    in_use: AtomicBool,
    /// The request in progress asks for another protocol: if hyper is done with the socket, whoever has the
    /// lease may not be.
    may_switch: AtomicBool,
    /// Told when hyper has let go of the socket.
    released: CancellationToken,
    /// Given back while hyper was not done with the request; the driver waits for that.
    returned: Mutex<Option<SendRequest<RequestBody>>>,
    is_returned: Notify,
}

impl TargetConnection {
    fn begin(&self, payer: &Arc<Traffic>) {
        self.in_use.store(true, Relaxed);
        self.wire.begin(Arc::clone(payer));
    }

    fn take_leg(&self) -> Option<Leg> {
        self.leg.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits for a sender that was given back too early. Cancel safe.
    async fn returned(&self) -> SendRequest<RequestBody> {
        loop {
            if let Some(sender) = self.returned.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return sender;
            }
            self.is_returned.notified().await;
        }
    }
}

/// The right to send one request over a connection. Dropped before the response was read to its end, it
/// takes the connection with it.
#[derive(Debug)]
#[must_use = "dropping a lease closes the connection"]
pub struct Lease {
    pool: Pool,
    connection: Arc<TargetConnection>,
    sender: Option<SendRequest<RequestBody>>,
    /// Was it idle in the pool before?
    pub reused: bool,
    /// How long the dial took, for a fresh one.
    pub connect: Option<Duration>,
}

impl Lease {
    /// The next request asks the target to switch protocols.
    pub fn expect_switch(&self) {
        self.connection.may_switch.store(true, Relaxed);
    }

    /// Sends the request. An error gives it back if none of it was written.
    pub fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<> {
        let sender = self.sender.as_mut().expect("taken only when the lease ends");
        sender.try_send_request(request)
    }

    /// The target.
    pub fn address(&self) -> SocketAddr {
        self.connection.key.address
    }

    /// What its socket saw.
    pub fn wire(&self) -> &TargetWire {
        &self.connection.wire
    }

    /// The response was read to its end: the connection is free for the next request.
    pub fn give_back(mut self) {
        let Some(sender) = self.sender.take() else { return };
        if sender.is_ready() {
            self.pool.put(&self.connection, sender);
        } else if !sender.is_closed() {
            *self.connection.returned.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
            self.connection.is_returned.notify_one();
        }
    }

    /// The target switched protocols, as was expected: its socket leaves the pool, with what was read past the response.
    pub async fn into_upgraded(self, response: Response<Incoming>) -> Result<UpgradedTarget, hyper::Error> {
        let upgraded = hyper::upgrade::on(response).await?;
        let parts =
            upgraded.downcast::<TokioIo<TargetIo>>().expect("every connection of the pool is made of one");
        let leg = self
            .connection
            .take_leg()
            .expect("only the driver takes it otherwise, and hyper told it nothing");
        Ok(UpgradedTarget { leg, io: parts.io.into_inner(), read_ahead: parts.read_buf })
    }
}

/// A target's socket after an upgrade.
#[derive(Debug)]
pub struct UpgradedTarget {
    /// To say goodbye to.
    pub leg: Leg,
    /// To read and write.
    pub io: TargetIo,
    /// Read already, after the response head.
    pub read_ahead: Bytes,
}
