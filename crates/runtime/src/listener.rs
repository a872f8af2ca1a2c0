//! Listening sockets: how a port is bound, and by how many.
//!
//! *Owns* the options of a listener. *Never* accepts ([`crate::accept_loop`] does). *Invariant*: what is accepted
//! from it is set up from birth ([`crate::set_from_birth`]), by inheritance.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::socket::{Keepalive, set_from_birth};
use crate::workers::Workers;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

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
    /// The kernel refused a port of our own.
    #[error("cannot listen on {address} ({what}); is another instance running?")]
    Own {
        /// The address.
        address: SocketAddr,
        /// What it is for.
        what: &'static str,
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

/// Binds a port for ourselves and our operator (control, admin, metrics).
pub fn bind_exclusive(address: SocketAddr, what: &'static str) -> Result<std::net::TcpListener, BindError> {
    let bound = std::net::TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    bound.map_err(|source| BindError::Own { address, what, source })
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

fn is_family_missing(error: &io::Error, address: IpAddr) -> bool {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::AFNOSUPPORT) => true,
        // An IPv6 stack that is there but switched off.
        Some(Errno::ADDRNOTAVAIL) => address.is_ipv6() && address.is_unspecified(),
        _ => false,
    }
}
