//! TLS that smartproxy does not end: routed by its server name, relayed byte for byte.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::client::tls::Tls;
use e2e::client::tools::s_client;
use e2e::client::{Ending, connect, echo, read, read_to_end};
use e2e::target::{Target, refused};
use e2e::wait::{SOON, until, within};
use e2e::{Address, Pair, Route, Setup, Which};
use rustls::AlertDescription;
use tokio::io::AsyncWriteExt as _;

/// A server name picks its route: exact before wildcard before none. The certificate proves which target answered.
#[tokio::test]
async fn the_server_name_picks_the_target() -> Result<()> {
    let address = Address::next();
    let exact = Target::tls_echo(address, "a.pass.test").await?;
    let wildcard = Target::tls_echo(address, "*.pass.test").await?;
    let other = Target::tls_echo(address, "elsewhere.test").await?;
    let routes = [
        Route::passthrough("other", other.address()),
        Route::passthrough("wildcard", wildcard.address()).domain("*.pass.test"),
        Route::passthrough("exact", exact.address()).domain("a.pass.test"),
    ];
    let pair = Pair::start(address, Setup::new(routes)).await?;
    for (name, route, target) in [
        ("a.pass.test", "exact", &exact),
        ("b.pass.test", "wildcard", &wildcard),
        ("elsewhere.test", "other", &other),
    ] {
        let before = target.accepted();
        let mut client = Tls::to(name).connect(pair.tls()).await?;
        echo(&mut client, b"inside").await?;
        assert_eq!(target.accepted(), before + 1, "{name}");
        let from = client.get_ref().0.local_addr()?;
        let record = pair.in_phase(Which::Smartproxy, from, "RELAYING").await?;
        assert_eq!(record["entry"], route);
        assert_eq!(record["route"], route);
        assert_eq!(record["server_name"], name);
        client.shutdown().await?;
        pair.ended_with(from, "client_closed", "client").await?;
    }
    // `*.` covers exactly one label.
    let client = connect(pair.tls()).await?;
    let from = client.local_addr()?;
    drop(within("refused", SOON, Tls::to("x.y.pass.test").over(client)).await?);
    let record = pair.settled(Which::Smartproxy, from).await?;
    assert_eq!(record["entry"], "other");
    pair.teardown().await
}

/// A client without a server name takes the route without domains.
#[tokio::test]
async fn a_client_without_a_server_name_takes_the_route_without_domains() -> Result<()> {
    let address = Address::next();
    let named = Target::echo(address).await?;
    let nameless = Target::manual(address).await?;
    let routes = [
        Route::passthrough("named", named.address()).domain("app.test"),
        Route::passthrough("nameless", nameless.address()),
    ];
    let pair = Pair::start(address, Setup::new(routes)).await?;
    let hello = Tls::nameless().hello()?;
    let mut client = connect(pair.tls()).await?;
    client.write_all(&hello).await?;
    let mut target = nameless.accept().await?;
    assert_eq!(read(&mut target, hello.len()).await?, hello);
    assert_eq!(named.accepted(), 0);
    let record = pair.in_phase(Which::Smartproxy, client.local_addr()?, "RELAYING").await?;
    assert!(record["server_name"].is_null());
    drop((client, target));
    pair.teardown().await
}

/// a hello in pieces, wherever it is cut, arrives as it was sent, and takes the right route.
#[tokio::test]
async fn a_hello_is_replayed_byte_for_byte_wherever_it_was_cut() -> Result<()> {
    let address = Address::next();
    let manual = Target::manual(address).await?;
    let decoy = Target::echo(address).await?;
    let routes = [
        Route::passthrough("right", manual.address()).domain("app.test"),
        Route::passthrough("wrong", decoy.address()),
    ];
    let pair = Pair::start(address, Setup::new(routes)).await?;
    let hello = Tls::to("app.test").alpn(&["h2", "http/1.1"]).hello()?;
    ensure!(hello.len() > 1_200, "a post-quantum hello is large: {}", hello.len());
    // Every place in the two headers; then samples, coprime with any field's length.
    let cuts: Vec<usize> = (1..12).chain((12..hello.len()).step_by(131)).chain([hello.len() - 1]).collect();
    for cut in cuts {
        let mut client = connect(pair.tls()).await?;
        let from = client.local_addr()?;
        client.write_all(&hello[..cut]).await?;
        // Only when the first piece was read alone does the second one test anything.
        pair.recorded(Which::Smartproxy, from, "has the first piece", |record| {
            record["bytes_from_client"] == cut
        })
        .await?;
        client.write_all(&hello[cut..]).await?;
        let mut target = manual.accept().await?;
        assert!(read(&mut target, hello.len()).await? == hello, "cut at {cut}");
        target.write_all(b"ok").await?;
        assert_eq!(read(&mut client, 2).await?, b"ok");
        drop((client, target));
    }
    assert_eq!(decoy.accepted(), 0);
    pair.teardown().await
}

/// a hello that is spread over several TLS records is put together for routing and sent on as it came.
#[tokio::test]
async fn a_hello_over_several_records_is_routed_and_kept() -> Result<()> {
    let address = Address::next();
    let manual = Target::manual(address).await?;
    let route = Route::passthrough("right", manual.address()).domain("app.test");
    let pair = Pair::start(address, Setup::new([route])).await?;
    let whole = Tls::to("app.test").hello()?;
    // RFC 8446, 5.1: a handshake message may be split over records; each has its own header of five bytes.
    let mut spread = Vec::new();
    for piece in whole[5..].chunks(100) {
        spread.extend_from_slice(&whole[..3]);
        spread.extend_from_slice(&u16::try_from(piece.len())?.to_be_bytes());
        spread.extend_from_slice(piece);
    }
    let mut client = connect(pair.tls()).await?;
    client.write_all(&spread).await?;
    let mut target = manual.accept().await?;
    assert_eq!(read(&mut target, spread.len()).await?, spread);
    drop((client, target));
    pair.teardown().await
}

/// The clients of others: openssl, with TLS 1.2 and 1.3, against a target behind passthrough.
#[tokio::test]
async fn openssl_passes_through() -> Result<()> {
    let address = Address::next();
    let target = Target::tls_echo(address, "pass.test").await?;
    let route = Route::passthrough("pass", target.address()).domain("pass.test");
    let pair = Pair::start(address, Setup::new([route])).await?;
    for version in ["-tls1_2", "-tls1_3"] {
        let more = [version, "-servername", "pass.test", "-verify_hostname", "pass.test", "-brief"];
        let line = "hello from openssl";
        let said = s_client(pair.directory(), pair.tls(), &format!("{line}\n"), line, &more).await?;
        ensure!(said.out.contains(line) && said.code == Some(0), "{version}: {said:?}");
    }
    pair.teardown().await
}

/// Ten thousand small steps each way stay in order.
#[tokio::test]
async fn a_chatty_tls_session_stays_in_order() -> Result<()> {
    let address = Address::next();
    let target = Target::tls_echo(address, "pass.test").await?;
    let route = Route::passthrough("pass", target.address()).domain("pass.test");
    let pair = Pair::start(address, Setup::new([route])).await?;
    let mut client = Tls::to("pass.test").connect(pair.tls()).await?;
    for number in 0..2_000_u32 {
        echo(&mut client, &number.to_be_bytes()).await?;
    }
    client.shutdown().await?;
    assert_eq!(read_to_end(&mut client, SOON).await?.1, Ending::Fin);
    pair.teardown().await
}

/// What a refused TLS client sees, and what the books call it.
#[tokio::test]
async fn a_refused_tls_client_gets_the_alert_that_says_why() -> Result<()> {
    let address = Address::next();
    let echo_target = Target::echo(address).await?;
    let nobody = refused(address).await?;
    let routes = [
        Route::passthrough("app", echo_target.address()).domain("app.test"),
        Route::block("blocked", 8443).domain("blocked.test"),
        Route::passthrough("down", nobody).domain("down.test"),
        Route::terminate("held", echo_target.address()).domain("held.test").timeout("hold", "300ms"),
        Route::terminate("unheld", echo_target.address()).domain("unheld.test").timeout("hold", "0s"),
    ];
    let pair = Pair::start(address, Setup::new(routes).without_networkproxy()).await?;
    for (client, alert, reason) in [
        (Tls::to("unknown.test"), AlertDescription::UnrecognisedName, "sni_unknown"),
        (Tls::nameless(), AlertDescription::UnrecognisedName, "sni_missing"),
        (Tls::to("blocked.test"), AlertDescription::AccessDenied, "route_blocked"),
        (Tls::to("held.test"), AlertDescription::InternalError, "hold_expired"),
        (Tls::to("unheld.test"), AlertDescription::InternalError, "network_proxy_unavailable"),
    ] {
        let stream = connect(pair.tls()).await?;
        let from = stream.local_addr()?;
        let (got, ending) = client.refused(stream).await.with_context(|| reason.to_owned())?;
        assert_eq!((got, ending), (alert, Ending::Fin), "{reason}");
        pair.ended_with(from, reason, "smartproxy").await?;
    }
    assert_eq!(echo_target.accepted(), 0);
    pair.teardown().await
}

/// a refused client is in the books: opened, settled, with the trace of the decision.
#[tokio::test]
async fn a_refused_client_is_in_the_books_with_the_trace_of_the_decision() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let route = Route::passthrough("app", target.address()).domain("app.test");
    let pair = Pair::start(address, Setup::new([route])).await?;
    let stream = connect(pair.tls()).await?;
    let from = stream.local_addr()?;
    Tls::to("unknown.test").refused(stream).await?;
    let record = pair.ended_with(from, "sni_unknown", "smartproxy").await?;
    let request = serde_json::json!({ "id": record["id"] });
    let whole = pair.connections(Which::Smartproxy, "GetConnection", &request).await?;
    let trace = whole["connection"]["front"]["routing"]["trace"].as_str().unwrap_or_default();
    assert!(trace.contains("no route names this server"), "the trace says why: {whole:#}");
    let counters = pair.counters(Which::Smartproxy).await?;
    assert_eq!(counters["own"]["opened"], 1);
    assert_eq!(counters["own"]["settled"], 1);
    pair.teardown().await
}

/// an idle passthrough connection is not judged by anything but its own limit.
#[tokio::test]
async fn an_idle_passthrough_connection_stays() -> Result<()> {
    let address = Address::next();
    let target = Target::tls_echo(address, "pass.test").await?;
    let route = Route::passthrough("pass", target.address()).domain("pass.test");
    let setup = Setup::new([route]).timeout("initial_data", "300ms").timeout("connect", "300ms");
    let pair = Pair::start(address, setup).await?;
    let mut client = Tls::to("pass.test").connect(pair.tls()).await?;
    let from = client.get_ref().0.local_addr()?;
    // Older than every deadline of the phases before, by the proxy's own clock.
    pair.recorded(Which::Smartproxy, from, "is a second old", |record| {
        e2e::books::duration(&record["age"]).is_some_and(|age| age > Duration::from_secs(1))
    })
    .await?;
    echo(&mut client, b"still here").await?;
    drop(client);
    until("it ended", SOON, async || (pair.live(Which::Smartproxy).await.ok()? == 0).then_some(())).await?;
    pair.teardown().await
}
