//! HTTP connections that are kept: the pool of those to targets, clients that rest between requests, and when either is
//! given up.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::client::http::{Http, full};
use e2e::client::{connect, read_to_end};
use e2e::wait::{SOON, until};
use e2e::{Pair, Which};
use tokio::io::AsyncWriteExt as _;

use crate::http::{WAYS, stage};

/// Clients that rest.
const CROWD: u64 = 500;
/// Bytes of networkproxy for one of them.
const RESTING: u64 = 16 * 1024;

/// a pooled connection that the target has closed costs the client nothing: the request goes over a fresh one.
#[tokio::test]
async fn a_stale_pooled_connection_is_not_the_clients_trouble() -> Result<()> {
    let (pair, target) = stage(|setup| setup).await?;
    for way in WAYS {
        let mut client = way.connect(&pair).await?;
        for round in 0..20 {
            let before = target.accepted();
            let reply = client.get("app.test", "/close-idle").await?;
            assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "once"), "{way:?} {round}");
            ensure!(target.accepted() <= before + 2);
        }
        client.abandon();
    }
    pair.teardown().await
}

/// a request whose body cannot be sent again is not sent twice.
#[tokio::test]
async fn a_request_with_a_body_is_never_sent_twice() -> Result<()> {
    let (pair, target) = stage(|setup| setup).await?;
    let mut client = Http::clear(pair.http()).await?;
    assert_eq!(client.get("app.test", "/close-idle").await?.status, 200);
    let request = client.request("POST", "app.test", "/echo", full("once only"))?;
    let reply = client.send(request).await?;
    // The stale connection took (some of) it: an answer by a fresh one would mean that it was sent twice.
    assert_eq!(reply.status, 502, "{}", reply.text());
    let posts = target.heads().iter().filter(|head| head.starts_with("POST")).count();
    assert_eq!(posts, 0, "the target took it from no other connection");
    client.abandon();
    pair.teardown().await
}

/// The pool: connections to a target are used again, counted apart from clients, and given up when idle.
#[tokio::test]
async fn target_connections_are_pooled_and_given_up_when_idle() -> Result<()> {
    let (pair, target) = stage(|setup| setup.inner("pool", "idle_timeout", "700ms").inner_workers(1)).await?;
    for _ in 0..5 {
        let mut client = Http::clear(pair.http()).await?;
        assert_eq!(client.get("app.test", "/").await?.status, 200);
        client.abandon();
    }
    assert_eq!(target.accepted(), 1, "one connection served five clients");
    pair.live_is(Which::Networkproxy, 0).await?;
    let status = pair.status(Which::Networkproxy).await?;
    assert_eq!(status["pooled_target_connections"], 1);
    until("the idle connection is given up", SOON, async || {
        (pair.status(Which::Networkproxy).await.ok()?["pooled_target_connections"] == 0).then_some(())
    })
    .await?;
    pair.teardown().await
}

/// between requests a connection holds none of the 16 KiB of buffers that one in use has.
#[tokio::test]
async fn a_resting_connection_holds_no_buffers() -> Result<()> {
    let (pair, _target) = stage(|setup| setup).await?;
    // What the first ones allocate is not counted.
    let mut clients = crowd(&pair, 50).await?;
    let resident = || pair.process(Which::Networkproxy).resident();
    let before = resident()?;
    clients.extend(crowd(&pair, CROWD).await?);
    until("the crowd's buffers are given back", SOON, async || {
        let each = resident().ok()?.saturating_sub(before) / CROWD;
        (each <= RESTING).then_some(())
    })
    .await?;
    drop(clients);
    pair.teardown().await
}

/// So many clients, each of which has asked once.
async fn crowd(pair: &Pair, count: u64) -> Result<Vec<Http>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Http::clear(pair.http()).await?;
        ensure!(client.get("app.test", "/").await?.status == 200, "it is served");
        clients.push(client);
    }
    Ok(clients)
}

/// A connection that asks for nothing more ends at `keep_alive`, in order, with its rule named.
#[tokio::test]
async fn an_idle_http_connection_ends_at_keep_alive() -> Result<()> {
    let (pair, _target) = stage(|setup| setup.inner_timeout("keep_alive", "600ms")).await?;
    for way in WAYS {
        let mut client = way.connect(&pair).await?;
        assert_eq!(client.get("app.test", "/").await?.status, 200);
        let start = Instant::now();
        let closed = client.closed().await?;
        assert!(start.elapsed() >= Duration::from_millis(590), "{way:?}: {:?}", start.elapsed());
        ensure!(closed.is_ok(), "{way:?}: an idle connection ends in order: {closed:?}");
        let record = pair.ended_joined(client.local(), "keep_alive_timeout", "networkproxy").await?;
        assert_eq!(record["termination"]["rule"]["limit"], "600ms");
    }
    pair.teardown().await
}

/// A request head that does not come, or not to its end, ends at `request_header`; half a head is told 408 or closed.
#[tokio::test]
async fn half_a_request_ends_at_request_header() -> Result<()> {
    let (pair, target) = stage(|setup| setup.inner_timeout("request_header", "600ms")).await?;
    let mut client = connect(pair.http()).await?;
    let from = client.local_addr()?;
    let start = Instant::now();
    client.write_all(b"GET / HTTP/1.1\r\nhost: app.t").await?;
    read_to_end(&mut client, SOON).await?;
    assert!(start.elapsed() >= Duration::from_millis(590));
    let record = pair.ended_joined(from, "http_header_timeout", "networkproxy").await?;
    assert_eq!(record["termination"]["rule"]["limit"], "600ms");
    assert!(target.heads().is_empty());
    pair.teardown().await
}
