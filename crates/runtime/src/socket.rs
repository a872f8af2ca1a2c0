//! What every data socket is set to.
//!
//! *Owns* the options a data socket has from birth, and what the kernel says about its send queue.
//! *Never* keeps a socket. *Invariant*: linger is `{on, 0}` from birth, so a process or task that dies is
//! seen as a reset, never as an orderly end; only a finished goodbye clears it.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, sockopt_impl};
use socket2::{SockRef, TcpKeepalive};

/// When a silent peer is taken for gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe (`tcp_keepalive`).
    pub idle: Duration,
    /// How long sent bytes may stay unanswered (`TCP_USER_TIMEOUT`, tcp(7)). The kernel counts a closed
    /// window as unanswered, although the peer answers: see [`crate::Leg::tolerate_stall`].
    pub user_timeout: Duration,
}

/// The kernel's account of what was written to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendQueue {
    /// Bytes not sent yet.
    pub unsent: u32,
    /// Segments sent and not acknowledged; a FIN counts.
    pub unacked_segments: u32,
    /// Bytes acknowledged so far; a SYN or FIN of ours counts as one.
    pub acked: u64,
    /// The kernel has ended the connection: nothing will be acknowledged any more.
    pub ended: bool,
    /// The kernel has the peer's FIN, read or not.
    pub closed_by_peer: bool,
}

impl Keepalive {
    /// A peer that answers nothing for `limit` is gone.
    ///
    /// Probing begins at half of it, because with a user timeout set the kernel no longer counts probes: one
    /// lost probe would be fatal if the first one were sent when the time is up (`tcp_keepalive_timer`).
    pub fn within(limit: Duration) -> Self {
        Self { idle: (limit / 2).max(Duration::from_secs(1)), user_timeout: limit }
    }

    /// Sets it on a socket, from now on.
    pub(crate) fn set(self, socket: &SockRef<'_>) -> io::Result<()> {
        let Self { idle, user_timeout } = self;
        let interval = (idle / 6).max(Duration::from_secs(1));
        socket.set_tcp_keepalive(
            &TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(6),
        )?;
        socket.set_tcp_user_timeout(Some(user_timeout))
    }
}

impl SendQueue {
    /// Did the peer's kernel take everything?
    pub const fn is_empty(&self) -> bool {
        self.unsent == 0 && self.unacked_segments == 0
    }

    /// Asks the kernel.
    ///
    /// `TCP_INFO` rather than `SIOCOUTQ`: it has a safe wrapper, and tells apart progress (`acked`) from
    /// quantity, so a reader who takes bytes as fast as we write them is not taken for a stalled one.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let info = getsockopt(socket, TcpInfoHead)?;
        // tcpi_state (include/net/tcp_states.h): TCP_CLOSE; TCP_TIME_WAIT, TCP_CLOSE_WAIT, TCP_LAST_ACK and
        // TCP_CLOSING.
        let state = info[0].to_ne_bytes()[0];
        let (ended, closed_by_peer) = (state == 7, matches!(state, 6 | 8 | 9 | 11));
        let (unsent, unacked_segments) = (u32_at(&info, 144), u32_at(&info, 24));
        Ok(Self { unsent, unacked_segments, acked: info[15], ended, closed_by_peer })
    }
}

/// Clients that a listener has not accepted yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenQueue {
    /// How many wait.
    pub(crate) waiting: u32,
    /// How many may: the listen(2) backlog, as capped by the kernel.
    pub(crate) capacity: u32,
}

impl ListenQueue {
    /// Asks the kernel: in `TCP_INFO` of a listener, `unacked` and `sacked` mean this (`tcp_get_info`).
    pub(crate) fn of(listener: &impl AsFd) -> io::Result<Self> {
        let info = getsockopt(listener, TcpInfoHead)?;
        Ok(Self { waiting: u32_at(&info, 24), capacity: u32_at(&info, 28) })
    }
}

/// How long ago the last bytes came (`tcpi_last_data_recv`, in milliseconds), or the connection was complete: of
/// a socket that was just accepted, how long it has waited for that.
pub(crate) fn quiet_since_last_data(socket: &impl AsFd) -> io::Result<Duration> {
    let info = getsockopt(socket, TcpInfoHead)?;
    Ok(Duration::from_millis(u32_at(&info, 52).into()))
}

/// Sets what a data socket has from birth: linger `{on, 0}`, no delay, keepalive where asked. On a listener
/// the accepted sockets inherit all of it.
pub fn set_from_birth(socket: &impl AsFd, keepalive: Option<Keepalive>) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    match keepalive {
        Some(keepalive) => keepalive.set(&socket),
        None => Ok(()),
    }
}

/// The first 160 bytes of `struct tcp_info` (`linux/tcp.h`), which every kernel since 4.6 fills: an array,
/// because the struct in `libc` grows with the kernel and differs between C libraries.
type TcpInfoWords = [u64; 20];

sockopt_impl!(TcpInfoHead, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, TcpInfoWords);

/// The 32-bit field at a byte offset.
fn u32_at(info: &TcpInfoWords, offset: usize) -> u32 {
    let bytes = info[offset / 8].to_ne_bytes();
    let at = offset % 8;
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
