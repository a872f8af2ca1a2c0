//! The life of one target connection, from its handshake to its goodbye.
//!
//! *Owns* the polling of hyper's side of it, its idle and age limits, and its socket's end. *Never* ends it
//! while a request is using it, except where a target has answered early and the request's body would keep
//! it for ever. *Invariant*: it is in the pool's table until its socket is gone.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hyper::client::conn::http1::Connection;
use hyper_util::rt::TokioIo;
use runtime::{Goodbye, Parting, cleanup_socket};

use super::{Pool, TargetConnection, TargetIo};
use crate::http::body::RequestBody;

/// Drives `http` until it ends, then says goodbye to the target.
pub(super) async fn drive(
    http: Connection<TokioIo<TargetIo>, RequestBody>,
    connection: Arc<TargetConnection>,
    pool: Pool,
) {
    let clock = &pool.shared.clock;
    let farewell = &pool.shared.settings.farewell;
    let mut http = Box::pin(http.with_upgrades());
    let mut look = clock.active().saturating_add(pool.shared.settings.idle_timeout);
    let ended_well = loop {
        let mut sender = tokio::select! {
            biased;
            ended = &mut http => break ended.is_ok(),
            sender = connection.returned() => sender,
            () = clock.sleep_until(look) => {
                look = pool.look(&connection);
                continue;
            }
        };
        // The response is complete, the request is not: its body is still coming from the client.
        let mut ready = pin!(poll_fn(|cx| sender.poll_ready(cx)));
        let waited = clock.active().saturating_add(farewell.close.value);
        let is_ready = tokio::select! {
            biased;
            ended = &mut http => break ended.is_ok(),
            ready = ready.as_mut() => ready.is_ok(),
            () = clock.sleep_until(waited) => break false,
        };
        if is_ready {
            pool.put(&connection, sender);
        }
    };
    pool.retire(&connection);
    drop(http);
    // Who expected a switch says goodbye: the lease is dropped, or has become a tunnel.
    let is_ours = !connection.may_switch.load(Relaxed);
    if is_ours {
        // A switch that nobody asked for leaves the socket in a response that is about to be refused.
        let _in_time = tokio::time::timeout(farewell.close.value, connection.released.cancelled()).await;
    }
    if let Some(leg) = is_ours.then(|| connection.take_leg()).flatten() {
        // A target that is in the middle of something must not take our end for a complete one.
        let orderly = ended_well && !connection.in_use.load(Relaxed);
        let goodbye = if orderly { Goodbye::Orderly } else { Goodbye::Abort };
        drop(cleanup_socket(Parting { leg, goodbye, rest: Vec::new() }, farewell).await);
    }
    pool.forget(&connection);
}
