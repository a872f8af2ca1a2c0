//! What a socket told about its other end.
//!
//! *Owns* [`Evidence`] and the pieces in which it becomes known. *Never* decides what it means beyond the
//! usual: a connection that carries no traffic yet may know better. *Invariant*: times are of the
//! monotonic clock, since the process started; what came first counts.

use std::io;
use std::time::Duration;

use ledger::{LegName, Reason};
use rustix::io::Errno;

/// How the other end behaved so far. Times are monotonic, since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Its end of stream was read.
    pub fin: Option<Duration>,
    /// The socket broke.
    pub failure: Option<Failure>,
}

/// A broken socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When it was noticed, monotonic.
    pub at: Duration,
    /// The errno. `EPIPE` is a reset that came after a FIN.
    pub errno: i32,
}

/// A piece of evidence that the owner has not been told yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The other end sent its FIN and everything before it was read.
    Closed {
        /// When it was read, monotonic.
        at: Duration,
    },
    /// The socket broke.
    Failed(Failure),
}

impl News {
    /// When it was seen, monotonic.
    pub const fn at(&self) -> Duration {
        match self {
            Self::Closed { at } | Self::Failed(Failure { at, .. }) => *at,
        }
    }

    /// What it means on `leg`, once a connection carries traffic.
    pub fn reason(&self, leg: LegName) -> Reason {
        let vanished = matches!(self, Self::Failed(failure) if failure.is_vanished());
        match (leg, self) {
            (LegName::Client, Self::Closed { .. }) => Reason::ClientClosed,
            (LegName::Client, Self::Failed(_)) if vanished => Reason::ClientVanished,
            (LegName::Client, Self::Failed(_)) => Reason::ClientReset,
            (LegName::Hop, Self::Closed { .. }) => Reason::HopClosed,
            (LegName::Hop, Self::Failed(_)) => Reason::HopReset,
            (LegName::Target, Self::Closed { .. }) => Reason::TargetClosed,
            (LegName::Target, Self::Failed(_)) if vanished => Reason::TargetVanished,
            (LegName::Target, Self::Failed(_)) => Reason::TargetReset,
        }
    }
}

impl Failure {
    /// Did the network stop answering, rather than the other end speak?
    pub fn is_vanished(&self) -> bool {
        let silent =
            [Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::HOSTDOWN, Errno::NETDOWN];
        silent.iter().any(|errno| errno.raw_os_error() == self.errno)
    }

    /// As an I/O error, for those who read or write.
    pub fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }
}
