//! WebSockets: upgraded by the target, carried as a tunnel, ended like any stream.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::client::http::Http;
use e2e::client::tls::Tls;
use e2e::client::{connect, web_socket};
use e2e::target::http::HttpTarget;
use e2e::wait::{SOON, within};
use e2e::{Address, Pair, Route, Setup, Which};
use futures_util::StreamExt as _;

async fn stage(change: impl FnOnce(Setup) -> Setup) -> Result<(Pair, HttpTarget)> {
    let address = Address::next();
    let target = HttpTarget::start(address).await?;
    let routes = [
        Route::terminate("app", target.address()).domain("app.test"),
        Route::http("clear", target.address()),
    ];
    let pair = Pair::start(address, change(Setup::new(routes))).await?;
    Ok((pair, target))
}

/// A WebSocket over TLS and in clear text: messages both ways, a goodbye each way, one cause.
#[tokio::test]
async fn a_web_socket_echoes_and_says_goodbye() -> Result<()> {
    let (pair, target) = stage(|setup| setup).await?;
    let stream = Tls::to("app.test").alpn(&["http/1.1"]).connect(pair.tls()).await?;
    let from = stream.get_ref().0.local_addr()?;
    let mut socket = web_socket::upgrade("wss://app.test/ws", stream).await?;
    for number in 0..100 {
        web_socket::say(&mut socket, &format!("message {number}")).await?;
    }
    for which in e2e::BOTH {
        let record = pair.in_phase(which, from, "TUNNEL").await?;
        assert_eq!(record["inner"]["routing"]["protocol"], "websocket");
    }
    web_socket::say(&mut socket, &"long ".repeat(50_000)).await?;
    web_socket::close(socket).await?;
    // The target closes the TCP connection first (RFC 6455, 7.1.1), but the client may be quicker here.
    let record = pair.settled(Which::Smartproxy, from).await?;
    let reason = record["termination"]["reason"].as_str().context("a reason")?;
    ensure!(["REASON_TARGET_CLOSED", "REASON_CLIENT_CLOSED"].contains(&reason), "{record:#}");
    let stream = connect(pair.http()).await?;
    let from = stream.local_addr()?;
    let mut socket = web_socket::upgrade("ws://app.test/ws", stream).await?;
    web_socket::say(&mut socket, "in clear text").await?;
    drop(socket);
    pair.ended_joined(from, "client_closed", "client").await?;
    assert_eq!(target.accepted(), 2, "a tunnel's target connection is nobody else's");
    pair.teardown().await
}

/// A silent tunnel ends at `tunnel_idle`, and not at the limits of requests.
#[tokio::test]
async fn a_silent_tunnel_ends_at_tunnel_idle_alone() -> Result<()> {
    let (pair, _target) = stage(|setup| {
        setup
            .inner_timeout("tunnel_idle", "1500ms")
            .inner_timeout("stream_idle", "300ms")
            .inner_timeout("keep_alive", "300ms")
            .inner_timeout("request_header", "300ms")
            .inner_timeout("response", "300ms")
    })
    .await?;
    let stream = connect(pair.http()).await?;
    let from = stream.local_addr()?;
    let mut socket = web_socket::upgrade("ws://app.test/ws", stream).await?;
    web_socket::say(&mut socket, "the last word").await?;
    let start = Instant::now();
    while let Some(message) = within("the tunnel ends", SOON, socket.next()).await? {
        if message.is_err() {
            break;
        }
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1_490), "not before its time: {took:?}");
    let record = pair.ended_joined(from, "inactivity_timeout", "networkproxy").await?;
    let rule = &record["termination"]["rule"];
    assert_eq!((rule["name"].as_str(), rule["limit"].as_str()), (Some("tunnel_idle"), Some("1.5s")));
    pair.teardown().await
}

/// A target that does not upgrade answers as HTTP, and the client hears it.
#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() -> Result<()> {
    let (pair, _target) = stage(|setup| setup).await?;
    let stream = connect(pair.http()).await?;
    let refused = web_socket::upgrade("ws://app.test/head", stream).await;
    let words = format!("{:#}", refused.err().context("/head does not upgrade")?);
    ensure!(words.contains("200"), "{words}");
    let mut client = Http::clear(pair.http()).await?;
    assert_eq!(client.get("app.test", "/").await?.status, 200);
    client.abandon();
    pair.teardown().await
}

/// a client that resets within a tunnel is a reset at the target's side.
#[tokio::test]
async fn a_reset_within_a_tunnel_is_the_clients() -> Result<()> {
    let (pair, _target) = stage(|setup| setup).await?;
    let stream = connect(pair.http()).await?;
    let from = stream.local_addr()?;
    e2e::client::will_reset(&stream)?;
    let mut socket = web_socket::upgrade("ws://app.test/ws", stream).await?;
    web_socket::say(&mut socket, "then silence").await?;
    drop(socket);
    pair.ended_joined(from, "client_reset", "client").await?;
    pair.teardown().await
}
