//! Listening sockets and the loop that accepts from them.
//!
//! *Owns* how a port is bound, which errors of accept(2) mean what, and how a listener ends: it takes what
//! waits in its queue first, because closing one of several `SO_REUSEPORT` sockets resets what waits there.
//! *Never* ends because of an error, and never decides about a client.
//! *Invariant*: what it accepts is set up from birth ([`crate::set_from_birth`]), by inheritance.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ledger::Limit;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::fold::Fold;
use crate::intake::Queue;
use crate::socket::{Keepalive, set_from_birth};
use crate::workers::Workers;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// The first and the longest pause after an accept that failed for want of a resource.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// How many sockets listen on a port. Either way it is bound by one process at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One.
    Exclusive,
    /// One for each of so many workers (`SO_REUSEPORT`, socket(7)): the kernel spreads clients over them.
    PerWorker(usize),
}

/// A bound port. Workers make it their own by [`Bound::listen`].
#[derive(Debug)]
pub struct Bound {
    /// One for each worker.
    sockets: Vec<std::net::TcpListener>,
    address: SocketAddr,
}

/// Why an address could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The kernel refused.
    #[error("cannot listen on {address}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Every address belongs to a family that this host lacks.
    #[error("none of the addresses of port {port} belongs to a family that this host has")]
    NoFamily {
        /// The port.
        port: u16,
    },
}

/// Why an accept failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptFault {
    /// The client left before we came (`ECONNABORTED`, or a pending network error of its socket).
    Aborted,
    /// The process has no descriptor left (`EMFILE`).
    ProcessDescriptors,
    /// The host has no descriptor left (`ENFILE`).
    HostDescriptors,
    /// The kernel has no memory for a socket (`ENOBUFS`, `ENOMEM`).
    Memory,
    /// Anything else.
    Unexpected,
}

/// Failed accepts by kind: `accept_errors_total`.
#[derive(Debug, Default)]
pub struct AcceptErrors {
    counts: [AtomicU64; AcceptFault::ALL.len()],
}

impl Bound {
    /// Binds one address. `Ok(None)` where the host lacks its family. Port 0 gets a free one.
    pub fn bind(
        address: SocketAddr,
        sharing: Sharing,
        keepalive: Option<Keepalive>,
    ) -> Result<Option<Self>, BindError> {
        match bind(address, sharing, keepalive) {
            Ok(bound) => Ok(Some(bound)),
            Err(error) if is_family_missing(&error, address.ip()) => {
                tracing::warn!(%address, "not listening: this host lacks the address family");
                Ok(None)
            }
            Err(source) => Err(BindError::Refused { address, source }),
        }
    }

    /// Binds `port` on every address; a family that the host lacks is skipped with a warning. Port 0 gets a
    /// free one, the same on every address.
    pub fn bind_all(
        addresses: &[IpAddr],
        port: u16,
        sharing: Sharing,
        keepalive: Option<Keepalive>,
    ) -> Result<Vec<Self>, BindError> {
        let mut all: Vec<Self> = Vec::new();
        for address in addresses {
            let port = all.first().map_or(port, |first| first.address.port());
            all.extend(Self::bind(SocketAddr::new(*address, port), sharing, keepalive)?);
        }
        if all.is_empty() { Err(BindError::NoFamily { port }) } else { Ok(all) }
    }

    /// Where it listens, with the real port.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes its only socket a listener of the current runtime.
    pub fn listen(self) -> io::Result<TcpListener> {
        let mut sockets = self.sockets;
        TcpListener::from_std(sockets.pop().expect("a bound port has a socket"))
    }

    /// Gives each of `workers` its listener.
    pub fn listen_on<'w>(self, workers: &'w Workers) -> io::Result<Vec<(&'w Handle, TcpListener)>> {
        let adopt = |(socket, worker): (_, &'w Handle)| {
            let _reactor = worker.enter();
            Ok((worker, TcpListener::from_std(socket)?))
        };
        self.sockets.into_iter().zip(workers.handles()).map(adopt).collect()
    }
}

/// A client that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// Its socket.
    pub socket: TcpStream,
    /// Where it comes from.
    pub client: SocketAddr,
    /// How long it waited for us, where that was too long: to be turned away, at the least cost.
    pub waited_too_long: Option<Duration>,
}

/// Accepts until `drained` is ready; then takes what waits in the queue, and closes the listener. With a `queue`,
/// at the rate at which it can be served.
///
/// `on_accept` is called for each socket and must not wait: it opens the record and spawns the connection.
pub async fn accept_loop(
    listener: TcpListener,
    mut queue: Option<Queue>,
    clock: &Clock,
    errors: &AcceptErrors,
    drained: impl Future<Output = ()>,
    mut on_accept: impl FnMut(Accepted),
) {
    let mut drained = std::pin::pin!(drained);
    let log = Fold::every(Duration::from_secs(5));
    let mut pause = BACK_OFF.0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = drained.as_mut() => break,
            accepted = accept(&listener, queue.as_mut()) => accepted,
        };
        let error = match accepted {
            Ok((socket, client)) => {
                pause = BACK_OFF.0;
                let waited_too_long = queue.as_mut().and_then(|queue| queue.turns_away(&socket));
                on_accept(Accepted { socket, client, waited_too_long });
                continue;
            }
            Err(error) => error,
        };
        let fault = AcceptFault::of(&error);
        errors.count(fault);
        if fault == AcceptFault::Aborted {
            continue;
        }
        if let Some(count) = log.note(clock.active()) {
            tracing::error!(%error, kind = fault.name(), count, "accept failed");
        }
        tokio::select! {
            () = drained.as_mut() => break,
            () = tokio::time::sleep(jittered(pause, clock)) => pause = (pause * 2).min(BACK_OFF.1),
        }
    }
    empty(listener, errors, on_accept);
}

impl AcceptFault {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Aborted, Self::ProcessDescriptors, Self::HostDescriptors, Self::Memory, Self::Unexpected];

    /// The kind of an error of accept(2).
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE) => Self::ProcessDescriptors,
            Some(Errno::NFILE) => Self::HostDescriptors,
            Some(Errno::NOBUFS | Errno::NOMEM) => Self::Memory,
            // accept(2): errors pending on the new socket are passed through accept; to be treated like
            // EAGAIN, by retrying.
            Some(
                Errno::CONNABORTED
                | Errno::INTR
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::PERM,
            ) => Self::Aborted,
            _ => Self::Unexpected,
        }
    }

    /// The label value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::ProcessDescriptors => "process_descriptors",
            Self::HostDescriptors => "host_descriptors",
            Self::Memory => "memory",
            Self::Unexpected => "unexpected",
        }
    }
}

impl AcceptErrors {
    /// How many of each kind.
    pub fn counts(&self) -> [(AcceptFault, u64); AcceptFault::ALL.len()] {
        AcceptFault::ALL.map(|fault| (fault, self.counts[fault as usize].load(Relaxed)))
    }

    fn count(&self, fault: AcceptFault) {
        self.counts[fault as usize].fetch_add(1, Relaxed);
    }
}

async fn accept(listener: &TcpListener, queue: Option<&mut Queue>) -> io::Result<(TcpStream, SocketAddr)> {
    match queue {
        Some(queue) => queue.accept(listener).await,
        None => listener.accept().await,
    }
}

fn bind(address: SocketAddr, sharing: Sharing, keepalive: Option<Keepalive>) -> io::Result<Bound> {
    let others = match sharing {
        Sharing::Exclusive | Sharing::PerWorker(..=1) => {
            let (socket, address) = bind_one(address, false, keepalive)?;
            return Ok(Bound { sockets: vec![socket], address });
        }
        Sharing::PerWorker(workers) => workers - 1,
    };
    if address.port() != 0 {
        // A process that shares its port would be joined without a word: a socket that does not share tells.
        new_socket(address, false)?.bind(&address.into())?;
    }
    let (first, address) = bind_one(address, true, keepalive)?;
    let rest = (0..others).map(|_| bind_one(address, true, keepalive).map(|(socket, _)| socket));
    let sockets = std::iter::once(Ok(first)).chain(rest).collect::<io::Result<_>>()?;
    Ok(Bound { sockets, address })
}

fn bind_one(
    address: SocketAddr,
    shared: bool,
    keepalive: Option<Keepalive>,
) -> io::Result<(std::net::TcpListener, SocketAddr)> {
    let socket = new_socket(address, shared)?;
    set_from_birth(&socket, keepalive)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let socket = std::net::TcpListener::from(socket);
    let address = socket.local_addr()?;
    Ok((socket, address))
}

fn new_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restarted process finds its port in TIME_WAIT otherwise; on Linux this does not share a listener.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    Ok(socket)
}

/// Takes what completed its handshake before we stopped. Straight from the kernel: tokio may not have heard
/// of it yet.
fn empty(listener: TcpListener, errors: &AcceptErrors, mut on_accept: impl FnMut(Accepted)) {
    let Ok(listener) = listener.into_std() else { return };
    loop {
        let error = match listener.accept() {
            Ok((socket, client)) => {
                let adopted = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket));
                if let Ok(socket) = adopted {
                    on_accept(Accepted { socket, client, waited_too_long: None });
                }
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => error,
        };
        let fault = AcceptFault::of(&error);
        errors.count(fault);
        if fault != AcceptFault::Aborted {
            tracing::error!(%error, kind = fault.name(), "accept failed while draining: what waits is reset");
            return;
        }
    }
}

fn is_family_missing(error: &io::Error, address: IpAddr) -> bool {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::AFNOSUPPORT) => true,
        // An IPv6 stack that is there but switched off.
        Some(Errno::ADDRNOTAVAIL) => address.is_ipv6() && address.is_unspecified(),
        _ => false,
    }
}

/// Up to half as long again, so that the listeners of many workers do not wake together.
fn jittered(pause: Duration, clock: &Clock) -> Duration {
    let seed = clock.mono().as_nanos() as u64;
    Limit::default_of(pause).spread(50.0, seed).value
}
