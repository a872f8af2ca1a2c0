//! Pipes for bytes that pass through the kernel, lent while they do.
//!
//! *Owns* the process's pipes: how many there are, and the empty ones that wait for the next borrower.
//! *Never* lends one that holds a byte (it would be another connection's), never waits for one: whoever gets
//! none copies. *Invariant*: a pipe is in the pool or in one [`Lease`], and there are at most
//! [`PipePool::LIMIT`].

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, pipe_with};

use crate::limits::RESERVED;

/// What a pipe holds: pipe(7), 16 pages. Once a user's pipes exceed `pipe-user-pages-soft` the kernel makes
/// smaller ones, through which copying is cheaper.
pub(crate) const CAPACITY: usize = 64 * 1024;

/// The pipes of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PipePool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    pipes: Mutex<Pipes>,
}

#[derive(Debug, Default)]
struct Pipes {
    /// Empty, each.
    idle: Vec<Pipe>,
    /// Those lent included.
    exist: usize,
}

/// One pipe.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

/// A borrowed pipe: goes back when it is dropped, unless bytes are left in it. Then it is closed.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Until it is dropped.
    pipe: Option<Pipe>,
    pool: PipePool,
}

impl PipePool {
    /// Pipes of one process at most; their descriptors are among those reserved.
    pub const LIMIT: usize = 256;

    /// A pool that makes up to `limit` pipes, when they are needed.
    pub fn new(limit: usize) -> Self {
        Self { shared: Arc::new(Shared { limit, pipes: Mutex::default() }) }
    }

    /// Empty pipes that wait for the next borrower.
    pub fn idle(&self) -> usize {
        self.pipes().idle.len()
    }

    /// Pipes that bytes pass through at the moment.
    pub fn lent(&self) -> usize {
        let pipes = self.pipes();
        pipes.exist - pipes.idle.len()
    }

    /// An empty pipe; `None` where there are as many as there may be, or the kernel gives no (full-sized) one.
    pub(crate) fn borrow(&self) -> Option<Lease> {
        let mut pipes = self.pipes();
        let pipe = match pipes.idle.pop() {
            Some(pipe) => pipe,
            None if pipes.exist >= self.shared.limit => return None,
            None => {
                let pipe = Pipe::make().ok()?;
                pipes.exist += 1;
                pipe
            }
        };
        drop(pipes);
        Some(Lease { pipe: Some(pipe), pool: self.clone() })
    }

    fn pipes(&self) -> MutexGuard<'_, Pipes> {
        self.shared.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for PipePool {
    fn default() -> Self {
        const { assert!(2 * Self::LIMIT as u64 <= RESERVED * 2 / 3, "others need some, too") };
        Self::new(Self::LIMIT)
    }
}

impl Pipe {
    fn make() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        if fcntl_getpipe_size(&write)? < CAPACITY {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(Self { read, write, held: 0 })
    }

    /// Where bytes come out.
    pub(crate) fn outlet(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// Where they go in.
    pub(crate) fn inlet(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }

    /// How many bytes are in it.
    pub(crate) const fn held(&self) -> usize {
        self.held
    }

    /// `count` bytes went in.
    pub(crate) fn took(&mut self, count: usize) {
        self.held += count;
    }

    /// `count` bytes came out.
    pub(crate) fn gave(&mut self, count: usize) {
        self.held = self.held.checked_sub(count).expect("the kernel gives what it took");
    }

    /// Takes everything out.
    pub(crate) fn empty(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.held];
        let mut taken = 0;
        while taken < bytes.len() {
            // Without this, a stream would lose bytes and look complete: better no connection at all.
            let count = rustix::io::retry_on_intr(|| rustix::io::read(&self.read, &mut bytes[taken..]));
            taken += count.ok().filter(|count| *count > 0).expect("what a pipe holds can be read");
        }
        self.held = 0;
        bytes
    }
}

impl Deref for Lease {
    type Target = Pipe;

    fn deref(&self) -> &Pipe {
        self.pipe.as_ref().expect("a lease has its pipe until it ends")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Pipe {
        self.pipe.as_mut().expect("a lease has its pipe until it ends")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        let mut pipes = self.pool.pipes();
        if pipe.held == 0 {
            pipes.idle.push(pipe);
        } else {
            pipes.exist -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(pipe: &mut Pipe, bytes: &[u8]) {
        let count = rustix::io::write(pipe.inlet(), bytes).unwrap();
        pipe.took(count);
    }

    /// Only empty pipes are lent again, and the one that is lent is the one that was given back.
    #[test]
    fn a_pipe_that_holds_bytes_is_closed_and_not_lent_again() {
        let pool = PipePool::new(1);
        let mut pipe = pool.borrow().unwrap();
        put(&mut pipe, b"secret");
        assert!(pool.borrow().is_none(), "there is one");
        assert_eq!((pool.lent(), pool.idle()), (1, 0));
        drop(pipe);
        assert_eq!((pool.lent(), pool.idle()), (0, 0), "it is closed");
        let mut pipe = pool.borrow().unwrap();
        assert_eq!(rustix::io::read(pipe.outlet(), &mut [0; 8]), Err(rustix::io::Errno::AGAIN));
        put(&mut pipe, b"passes");
        assert_eq!((pipe.empty(), pipe.held()), (b"passes".to_vec(), 0));
        drop(pipe);
        assert_eq!((pool.lent(), pool.idle()), (0, 1), "it is kept");
        drop(pool.borrow());
        assert_eq!((pool.lent(), pool.idle()), (0, 1), "the same one again");
    }
}
