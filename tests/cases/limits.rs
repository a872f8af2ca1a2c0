//! Admission: smartproxy alone decides, at the door, and a refused connection costs nobody anything.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::client::http::Http;
use e2e::client::tls::Tls;
use e2e::client::{
    Ending, connect, connect_from, connect_refused, connect_refused_from, connect_refused_with, echo,
    read_to_end,
};
use e2e::setup::port;
use e2e::target::Target;
use e2e::wait::{SOON, until};
use e2e::{Address, Pair, Route, Setup, Which};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// one more than `max_connections` is refused with its reason; one less is served again.
#[tokio::test]
async fn the_global_limit_admits_exactly_so_many() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let setup = Setup::new([Route::tcp("echo", target.address())]).limit("max_connections", "3");
    let pair = Pair::start(address, setup).await?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = connect(pair.tcp()).await?;
        echo(&mut client, b"in").await?;
        clients.push(client);
    }
    let (from, got, ending) = connect_refused(pair.tcp()).await?;
    assert_eq!((got.len(), ending), (0, Ending::Reset));
    let record = pair.ended_with(from, "limit_global", "smartproxy").await?;
    assert_eq!(record["termination"]["phase"], "PHASE_ACCEPTED");
    assert_eq!(target.accepted(), 3);
    for client in &mut clients {
        echo(client, b"undisturbed").await?;
    }
    clients.pop();
    pair.live_is(Which::Smartproxy, 2).await?;
    let mut next = connect(pair.tcp()).await?;
    echo(&mut next, b"in again").await?;
    drop((clients, next));
    pair.teardown().await
}

/// through the TLS path, exactly N of N+1 from one address are admitted, and the refused one never reaches
/// networkproxy; another address is not concerned.
#[tokio::test]
async fn the_limit_per_address_holds_through_the_tls_path() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let route = Route::terminate_tcp("app", target.address()).domain("app.test");
    let setup = Setup::new([route]).limit("max_connections_per_ip", "2");
    let pair = Pair::start(address, setup).await?;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Tls::to("app.test").over(connect_from(address.ip(), pair.tls()).await?).await?;
        echo(&mut client, b"in").await?;
        clients.push(client);
    }
    // At the door: before its hello was read, so there is nothing to answer with an alert.
    let (from, got, ending) = connect_refused_from(address.ip(), pair.tls()).await?;
    assert_eq!((got.len(), ending), (0, Ending::Reset));
    let record = pair.ended_with(from, "limit_per_ip", "smartproxy").await?;
    let rule = &record["termination"]["rule"];
    assert_eq!((&rule["name"], &rule["limit"]), (&"max_connections_per_ip".into(), &"2".into()), "{rule:#}");
    assert!(rule["source"].as_str().is_some_and(|source| source.contains("smartproxy.yaml:")), "{rule:#}");
    let counters = pair.counters(Which::Networkproxy).await?;
    assert_eq!(counters["own"]["hop_arrivals"]["arrived"], 2, "the refused one never reached networkproxy");
    assert_eq!(target.accepted(), 2);
    let mut other = Tls::to("app.test").over(connect(pair.tls()).await?).await?;
    echo(&mut other, b"another address").await?;
    // the budget comes back with the connection that held it.
    clients.pop();
    let mut again = until("the budget is back", SOON, async || {
        let stream = connect_from(address.ip(), pair.tls()).await.ok()?;
        Tls::to("app.test").over(stream).await.ok()
    })
    .await?;
    echo(&mut again, b"in again").await?;
    drop((clients, other, again));
    pair.live_is(Which::Smartproxy, 0).await?;
    let counters = pair.counters(Which::Smartproxy).await?;
    assert_eq!(counters["own"]["admitted"], 0);
    assert_eq!(counters["own"]["client_addresses"], 0, "R-12: no state is kept for an address that is away");
    pair.teardown().await
}

/// a limit per address counts clients, never the hop: clients of 150 addresses all pass over the one hop.
#[tokio::test]
async fn clients_of_many_addresses_share_the_hop() -> Result<()> {
    let address = Address::next();
    let route = Route::http_answer("hello", "respond: { status: 200, body: hello }");
    let setup = Setup::new([route]).limit("max_connections_per_ip", "1");
    let pair = Pair::start(address, setup).await?;
    let mut clients = Vec::new();
    for number in 1..=150 {
        let from = IpAddr::V4(Ipv4Addr::new(127, 0, 77, number));
        let stream = connect_from(from, pair.http()).await?;
        let local = stream.local_addr()?;
        let mut client = Http::one(stream, local, "http").await?;
        assert_eq!(client.get("any.test", "/").await?.status, 200, "client {from}");
        clients.push(client);
    }
    pair.live_is(Which::Networkproxy, 150).await?;
    drop(clients);
    pair.teardown().await
}

/// P10: no more than `max_held` connections wait for a networkproxy.
#[tokio::test]
async fn no_more_than_max_held_wait() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let route = Route::terminate_tcp("app", target.address()).domain("app.test");
    let setup = Setup::new([route]).limit("max_held", "2").without_networkproxy();
    let mut pair = Pair::start(address, setup).await?;
    let hello = Tls::to("app.test");
    let mut held = Vec::new();
    for _ in 0..2 {
        let stream = connect(pair.tls()).await?;
        let from = stream.local_addr()?;
        held.push(tokio::spawn({
            let hello = hello.clone();
            async move { hello.over_within(stream, SOON * 2).await }
        }));
        pair.in_phase(Which::Smartproxy, from, "HELD").await?;
    }
    let stream = connect(pair.tls()).await?;
    let from = stream.local_addr()?;
    let (alert, _) = hello.refused(stream).await?;
    assert_eq!(alert, rustls::AlertDescription::InternalError);
    pair.ended_with(from, "hold_full", "smartproxy").await?;
    let metrics = pair.metrics(Which::Smartproxy).await?;
    assert_eq!(metrics.count("proxy_held_connections"), Some(2));
    // Those that were let wait are served when one comes.
    pair.restart(Which::Networkproxy).await?;
    for waiting in held {
        let mut client = waiting.await?.context("a held client is served")?;
        echo(&mut client, b"served").await?;
    }
    pair.teardown().await
}

/// A networkproxy that is full is not sent more than it takes, and the cause says so.
#[tokio::test]
async fn a_full_networkproxy_is_sent_no_more_than_it_takes() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let route = Route::terminate_tcp("app", target.address()).domain("app.test").timeout("hold", "500ms");
    let setup = Setup::new([route]).inner("limits", "max_connections", "2");
    let pair = Pair::start(address, setup).await?;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Tls::to("app.test").connect(pair.tls()).await?;
        echo(&mut client, b"in").await?;
        clients.push(client);
    }
    let stream = connect(pair.tls()).await?;
    let from = stream.local_addr()?;
    let (alert, _) = Tls::to("app.test").refused(stream).await?;
    assert_eq!(alert, rustls::AlertDescription::InternalError);
    pair.ended_with(from, "network_proxy_full", "smartproxy").await?;
    let counters = pair.counters(Which::Networkproxy).await?;
    assert_eq!(counters["own"]["hop_arrivals"]["arrived"], 2);
    drop(clients);
    pair.teardown().await
}

/// Issue 4, point 7: while for two seconds more clients have come than can be served, those who waited longer than
/// `accept_queue` are refused at the door, with a record and the rule; others are served meanwhile, the operator gets
/// answers, and whoever comes afterwards is served.
#[tokio::test]
async fn overload_refuses_who_waited_too_long() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let route = Route::terminate_tcp("app", target.address()).domain("app.test");
    let setup = Setup::new([route]).timeout("accept_queue", "50ms").inner_timeout("hop_header", "500ms");
    let pair = Pair::start(address, setup.misdirected()).await?;
    let slow = slow_hop(pair.address().port(port::TAP)).await?;
    let hello = Tls::to("app.test").hello()?;
    let mut clients = JoinSet::new();
    let start = Instant::now();
    // Three times what the slow hop answers.
    let mut rhythm = tokio::time::interval(Duration::from_millis(10));
    while start.elapsed() < Duration::from_secs(4) {
        rhythm.tick().await;
        for _ in 0..6 {
            let (to, hello) = (pair.tls(), hello.clone());
            clients.spawn(async move { connect_refused_with(to, &hello).await });
        }
    }
    let (mut served, mut refused) = (0_u64, Vec::new());
    for (from, got, ending) in clients.join_all().await.into_iter().collect::<Result<Vec<_>>>()? {
        match (got.len(), ending) {
            (0, Ending::Reset) => refused.push(from),
            _ => served += 1,
        }
    }
    let from = *refused.last().context("somebody was refused")?;
    assert!(served > 300, "{served} were served");
    let record = pair.ended_with(from, "overloaded", "smartproxy").await?;
    assert_eq!(record["termination"]["phase"], "PHASE_ACCEPTED");
    let rule = &record["termination"]["rule"];
    assert_eq!((&rule["name"], &rule["limit"]), (&"accept_queue".into(), &"50ms".into()), "{rule:#}");
    assert!(rule["source"].as_str().is_some_and(|source| source.contains("smartproxy.yaml:")), "{rule:#}");
    let counters = pair.counters(Which::Smartproxy).await?;
    let settled = counters["own"]["tally"]["settled"].as_array().context("tallies")?.clone();
    let count = settled.iter().find(|one| one["reason"] == "REASON_OVERLOADED").context("its tally")?;
    assert_eq!(count["count"], refused.len(), "each that was refused, and nobody else");
    // Nobody is refused for it any more.
    let mut next = connect(pair.tls()).await?;
    next.write_all(&hello).await?;
    assert_eq!(next.read_u8().await?, 21);
    drop((next, slow));
    pair.teardown().await
}

/// A hop that answers 200 connections a second, one after the other.
async fn slow_hop(at: SocketAddr) -> Result<tokio::task::JoinHandle<()>> {
    let listener = TcpListener::bind(at).await?;
    Ok(tokio::spawn(async move {
        let mut rhythm = tokio::time::interval(Duration::from_millis(5));
        while let Ok((mut socket, _)) = listener.accept().await {
            rhythm.tick().await;
            tokio::spawn(async move {
                socket.write_u8(21).await?;
                socket.shutdown().await?;
                read_to_end(&mut socket, SOON).await
            });
        }
    }))
}
