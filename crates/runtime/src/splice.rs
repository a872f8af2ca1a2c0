//! One step of a direction through a pipe, and when that pays.
//!
//! *Owns* the two system calls per step and what their outcomes mean. *Never* splices into a pipe that is
//! not empty: `EAGAIN` could then be the pipe's, and the source would be taken for empty.
//! *Invariant*: bytes count as read from the source when they enter the pipe and as written to the sink when
//! they leave it, each exactly once; what is in the pipe is the difference.

use std::io;

use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;

use crate::leg::Wire;
use crate::pipe::{CAPACITY, Pipe, PipePool};

/// A chunk below this is cheaper to copy than to pass through a pipe.
const LARGE: usize = 16 * 1024;
/// What [`Bulk`] remembers at most.
const MEMORY: usize = 256 * 1024;

/// When and through what to splice.
#[derive(Clone, Debug)]
pub struct Splicing {
    /// Where pipes come from.
    pub pool: PipePool,
    /// Bytes that came in large chunks, before a direction gets a pipe.
    pub after: usize,
}

/// How much of late came in large chunks. Short exchanges never get to a pipe, and one small chunk among
/// large ones does not take it away.
#[derive(Debug, Default)]
pub(crate) struct Bulk(usize);

/// Why nothing went into a pipe.
#[derive(Debug)]
pub(crate) enum NotSpliced {
    /// Nothing is there, or nothing that can be spliced: a read knows. (Bytes before an urgent one look so.)
    Ask,
    /// The source broke.
    Broke,
}

impl Splicing {
    /// Before this much came, copying costs less: measured as new connections and bulk together.
    pub const AFTER: usize = 64 * 1024;

    /// From `pool`, once a direction is in bulk.
    pub const fn through(pool: PipePool) -> Self {
        Self { pool, after: Self::AFTER }
    }
}

impl Bulk {
    /// A chunk of `count` bytes came.
    pub(crate) fn note(&mut self, count: usize) {
        self.0 = if count < LARGE { self.0 - self.0 / 4 } else { (self.0 + count).min(MEMORY) };
    }

    /// Did `after` bytes come?
    pub(crate) const fn reached(&self, after: usize) -> bool {
        self.0 >= after
    }
}

impl Wire {
    /// From the socket into an empty pipe. 0 is the end of the stream.
    ///
    /// Says nothing about readiness: a short count means that the pipe's places are taken, each with less than
    /// a page perhaps, and `EAGAIN` that nothing more can be spliced. Only a read knows what is there.
    pub(crate) fn splice_into(&self, pipe: &mut Pipe) -> Result<usize, NotSpliced> {
        debug_assert_eq!(pipe.held(), 0, "what is in it goes out first");
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        match retry_on_intr(|| splice(self.fd(), None, pipe.inlet(), None, CAPACITY, flags)) {
            Ok(0) => self.ended().map_err(|_| NotSpliced::Broke),
            Ok(count) => {
                pipe.took(count);
                self.count_read(count);
                Ok(count)
            }
            Err(Errno::AGAIN | Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::NOMEM) => {
                Err(NotSpliced::Ask)
            }
            Err(errno) => {
                self.broke(errno.into());
                Err(NotSpliced::Broke)
            }
        }
    }

    /// From a pipe that holds bytes into the socket, as many as it takes.
    pub(crate) fn splice_from(&self, pipe: &mut Pipe) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let held = pipe.held();
        let moved = self
            .attempt(Interest::WRITABLE, held, || splice(pipe.outlet(), None, self.fd(), None, held, flags));
        let count = self.wrote(moved)?;
        pipe.gave(count);
        Ok(count)
    }
}
