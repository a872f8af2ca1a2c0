//! The streams of an HTTP/2 connection, on the connection's own task.
//!
//! *Owns* the futures that hyper would have spawned. *Never* lets one outlive its connection: they are dropped
//! with it, and their targets' connections with them, before the record is closed. *Invariant*: when the
//! connection's future is gone, nothing of it runs any more.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, StreamExt as _};

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where hyper puts a new stream's future.
#[derive(Clone, Default)]
pub(super) struct Streams {
    begun: Arc<Mutex<Vec<Stream>>>,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(stream));
    }
}

impl Streams {
    fn take_begun(&self) -> Vec<Stream> {
        std::mem::take(&mut *self.begun.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A connection with its streams.
pub(super) struct WithStreams<C> {
    /// hyper's connection.
    pub(super) connection: Pin<Box<C>>,
    begun: Streams,
    running: FuturesUnordered<Stream>,
    turn: Turn,
}

/// Whose turn it is when the connection is woken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The other tasks that are ready by now: they may have something for further streams.
    Others,
    /// Ours.
    Own,
}

impl<C> WithStreams<C> {
    /// `connection` was built with `streams` as its executor.
    pub(super) fn new(connection: C, streams: Streams) -> Self {
        Self {
            connection: Box::pin(connection),
            begun: streams,
            running: FuturesUnordered::new(),
            turn: Turn::Others,
        }
    }
}

impl<C: Future> Future for WithStreams<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        // With several streams open, what their targets have answered by now goes out in one write rather than
        // in one each: let the tasks of those targets run first, once.
        if self.running.len() > 1 && self.turn == Turn::Others {
            self.turn = Turn::Own;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.turn = Turn::Others;
        loop {
            if let Poll::Ready(output) = self.connection.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            let begun = self.begun.take_begun();
            let none_begun = begun.is_empty();
            self.running.extend(begun);
            let mut none_ended = true;
            while let Poll::Ready(Some(())) = self.running.poll_next_unpin(cx) {
                none_ended = false;
            }
            // An ended stream may be what the connection waits for; it has been told through its waker too.
            if none_begun || none_ended {
                return Poll::Pending;
            }
        }
    }
}
