//! An HTTP/1 connection between two requests, for longer than a moment.
//!
//! *Owns* the client's socket while nothing is read from it or written to it. *Never* holds a buffer: an idle
//! connection costs its TLS session and its record. *Invariant*: it wakes for whatever comes, also an end
//! or an error, and leaves reading it to whoever serves.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use runtime::Leg;
use tokio::io::AsyncWrite;

use super::Http;

/// A client's socket, at rest.
pub(super) struct Resting<'a, S> {
    socket: S,
    hop: &'a Leg,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Resting,
    /// Something came.
    Awake,
    /// To be ended in order.
    Leaving,
}

impl<'a, S> Resting<'a, S> {
    /// Puts `socket`, which runs over `hop`, to rest.
    pub(super) const fn new(socket: S, hop: &'a Leg) -> Self {
        Self { socket, hop, state: State::Resting }
    }

    /// Is there something to be read?
    pub(super) fn is_awake(&self) -> bool {
        self.state == State::Awake
    }

    /// The socket again.
    pub(super) fn into_inner(self) -> S {
        self.socket
    }
}

impl<S: AsyncWrite + Unpin> Future for Resting<'_, S> {
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        match self.state {
            State::Awake => Poll::Ready(Ok(())),
            State::Resting => {
                let hop = self.hop;
                hop.poll_readable(cx).map(|_| {
                    // An error shows in the next read.
                    self.state = State::Awake;
                    Ok(())
                })
            }
            // TLS says so too. Who does not hear it has left.
            State::Leaving => Pin::new(&mut self.socket).poll_shutdown(cx).map(|_| Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> Http for Resting<'_, S> {
    fn wind_down(&mut self) {
        self.state = State::Leaving;
    }
}
