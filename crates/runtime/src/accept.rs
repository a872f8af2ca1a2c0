//! Accepting: the loop that takes clients from a listener, and what its errors mean.
//!
//! *Owns* which errors of accept(2) mean what, and how a listener ends: it takes what waits in its queue first,
//! because closing one of several `SO_REUSEPORT` sockets resets what waits there. *Never* ends because of an error
//! and never decides about a client: [`Queue`] does. *Invariant*: what waits when a listener ends is taken.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ledger::Limit;
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::net::{TcpListener, TcpStream};

use crate::clock::Clock;
use crate::fold::Fold;
use crate::intake::Queue;

/// The first and the longest pause after an accept that failed for want of a resource.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

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
    mut on_accept: impl FnMut(TcpStream, SocketAddr),
) {
    let mut drained = std::pin::pin!(drained);
    let log = Fold::every(Duration::from_secs(5));
    let mut pause = BACK_OFF.0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = drained.as_mut() => break,
            accepted = next(&listener, queue.as_mut()) => accepted,
        };
        let error = match accepted {
            Ok((socket, client)) => {
                pause = BACK_OFF.0;
                on_accept(socket, client);
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

/// The next client to be served.
async fn next(listener: &TcpListener, queue: Option<&mut Queue>) -> io::Result<(TcpStream, SocketAddr)> {
    match queue {
        Some(queue) => queue.accept(listener).await,
        None => listener.accept().await,
    }
}

/// accept4(2), whether or not the reactor has heard that somebody waits: the socket is known to no reactor.
pub(crate) fn accept_now(listener: impl AsFd) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    let (socket, client) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let client = client.ok_or(Errno::CONNABORTED)?;
    Ok((socket.into(), SocketAddr::try_from(client)?))
}

/// Takes what completed its handshake before we stopped. Straight from the kernel: tokio may not have heard
/// of it yet.
fn empty(listener: TcpListener, errors: &AcceptErrors, mut on_accept: impl FnMut(TcpStream, SocketAddr)) {
    let Ok(listener) = listener.into_std() else { return };
    loop {
        let error = match accept_now(&listener) {
            Ok((socket, client)) => {
                if let Ok(socket) = TcpStream::from_std(socket) {
                    on_accept(socket, client);
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

/// Up to half as long again, so that the listeners of many workers do not wake together.
fn jittered(pause: Duration, clock: &Clock) -> Duration {
    let seed = clock.mono().as_nanos() as u64;
    Limit::default_of(pause).spread(50.0, seed).value
}
