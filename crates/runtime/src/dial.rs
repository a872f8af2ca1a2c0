//! Connecting to a target or to the hop.
//!
//! *Owns* an outgoing socket until it is connected: a dial that is dropped closes what it had opened.
//! *Never* resolves names. *Invariant*: the socket is set up from birth, before it connects, and the dial
//! ends by its deadline whatever the addresses do.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use ledger::{LegName, Reason};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use tokio::net::{TcpSocket, TcpStream};

use crate::clock::Clock;
use crate::socket::set_from_birth;

/// How to dial.
#[derive(Clone, Copy, Debug, Default)]
pub struct DialOptions<'a> {
    /// Source addresses to take in turn, for destinations on the loopback network.
    pub sources: Option<&'a SourceSpread>,
}

/// Takes source addresses in turn: one source address and one destination give only as many connections as
/// there are ephemeral ports, about 28,000.
#[derive(Debug)]
pub struct SourceSpread {
    addresses: u32,
    next: AtomicU32,
}

/// A connected socket.
#[derive(Debug)]
pub struct Dialled {
    /// The socket.
    pub socket: TcpStream,
    /// The address that answered.
    pub address: SocketAddr,
    /// Our end of it.
    pub local: SocketAddr,
    /// How long it took, over all addresses.
    pub took: Duration,
}

/// Why no address could be connected to: what the last one said, or what stopped the dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// There was no address to try.
    #[error("no address to connect to")]
    NoAddress,
    /// Nobody listens there.
    #[error("{0} refused the connection")]
    Refused(SocketAddr),
    /// No way there.
    #[error("{address} cannot be reached (errno {errno})")]
    Unreachable {
        /// Where to.
        address: SocketAddr,
        /// What the kernel said.
        errno: i32,
    },
    /// It did not answer in time.
    #[error("{0} did not answer in time")]
    TimedOut(SocketAddr),
    /// No source port is left.
    #[error("no source port is left to reach {0}")]
    OutOfPorts(SocketAddr),
    /// No descriptor is left.
    #[error("no file descriptor is left")]
    OutOfDescriptors,
    /// The kernel has no memory for a socket.
    #[error("the kernel has no memory for a socket")]
    OutOfMemory,
}

/// Connects to the first of `addresses` that answers, in turn, by the active time `until`. Each gets its
/// share of the time that is left, so that one that is silent does not take it all.
pub async fn dial(
    addresses: &[SocketAddr],
    until: Duration,
    options: DialOptions<'_>,
    clock: &Clock,
) -> Result<Dialled, DialError> {
    let began = clock.mono();
    let mut last = DialError::NoAddress;
    for (tried, address) in addresses.iter().enumerate() {
        let now = clock.active();
        let share = until.saturating_sub(now) / (addresses.len() - tried) as u32;
        let attempt = tokio::select! {
            attempt = connect(*address, options) => attempt,
            () = clock.sleep_until(now + share) => Err(DialError::TimedOut(*address)),
        };
        match attempt {
            Ok((socket, local)) => {
                let took = clock.mono().saturating_sub(began);
                return Ok(Dialled { socket, address: *address, local, took });
            }
            // Another address would not help.
            Err(error @ (DialError::OutOfDescriptors | DialError::OutOfMemory)) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl SourceSpread {
    /// Spreads over the first `addresses` of 127.0.0.0/8 from 127.0.0.1 on; 1 is no spreading.
    pub fn over(addresses: u32) -> Self {
        Self { addresses: addresses.clamp(1, 0x00ff_fffe), next: AtomicU32::new(0) }
    }

    fn next(&self) -> Ipv4Addr {
        let turn = self.next.fetch_add(1, Relaxed) % self.addresses;
        Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + turn)
    }
}

impl DialError {
    /// What ended the connection, where `leg` could not be connected.
    pub fn reason(&self, leg: LegName) -> Reason {
        match self {
            Self::OutOfPorts(_) => Reason::OutOfPorts,
            Self::OutOfDescriptors => Reason::OutOfFileDescriptors,
            Self::OutOfMemory => Reason::OutOfMemory,
            _ if leg == LegName::Hop => Reason::HopConnectFailed,
            Self::Refused(_) => Reason::TargetRefused,
            Self::NoAddress | Self::Unreachable { .. } => Reason::TargetUnreachable,
            Self::TimedOut(_) => Reason::TargetConnectTimeout,
        }
    }

    fn of(error: &io::Error, address: SocketAddr) -> Self {
        let errno = error.raw_os_error().unwrap_or_default();
        match Errno::from_raw_os_error(errno) {
            Errno::CONNREFUSED | Errno::CONNRESET => Self::Refused(address),
            Errno::TIMEDOUT => Self::TimedOut(address),
            // EAGAIN: tcp(7), no entry left in the table of ports; IP_BIND_ADDRESS_NO_PORT moves it here.
            Errno::ADDRNOTAVAIL | Errno::ADDRINUSE | Errno::AGAIN => Self::OutOfPorts(address),
            Errno::MFILE | Errno::NFILE => Self::OutOfDescriptors,
            Errno::NOBUFS | Errno::NOMEM => Self::OutOfMemory,
            _ => Self::Unreachable { address, errno },
        }
    }
}

/// The socket and our end's address.
async fn connect(
    address: SocketAddr,
    options: DialOptions<'_>,
) -> Result<(TcpStream, SocketAddr), DialError> {
    let refused = |error: io::Error| DialError::of(&error, address);
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(refused)?;
    set_from_birth(&socket, None).map_err(refused)?;
    if let (Some(sources), IpAddr::V4(to)) = (options.sources, address.ip())
        && to.is_loopback()
    {
        // Without it, bind(2) would take a port that is free for every destination.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).map_err(|e| refused(e.into()))?;
        socket.bind(SocketAddr::from((sources.next(), 0))).map_err(refused)?;
    }
    let socket = socket.connect(address).await.map_err(refused)?;
    let local = socket.local_addr().map_err(refused)?;
    // TCP lets a socket connect to itself, where the destination is a free ephemeral port of ours.
    if (local.ip(), local.port()) == (address.ip(), address.port()) {
        return Err(DialError::Refused(address));
    }
    Ok((socket, local))
}
