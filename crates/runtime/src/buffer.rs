//! The buffer that bytes pass through.
//!
//! *Owns* one 64 KiB buffer per thread. *Never* leaves it borrowed across an await: it is lent to a
//! synchronous closure. *Invariant*: an idle connection holds no buffer, so memory follows the number of
//! threads and not of connections.

use std::cell::RefCell;

/// How much is read at once.
pub(crate) const SIZE: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SIZE].into_boxed_slice());
}

/// Lends this thread's buffer.
pub(crate) fn with<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    BUFFER.with_borrow_mut(|buffer| work(buffer))
}
