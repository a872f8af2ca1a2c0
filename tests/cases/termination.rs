//! TLS that networkproxy ends: versions, names, protocols, and how handshakes fail.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::client::http::Http;
use e2e::client::tls::{Tls, alert};
use e2e::client::tools::{curl, s_client};
use e2e::client::{Ending, connect, read_to_end};
use e2e::target::http::HttpTarget;
use e2e::wait::SOON;
use e2e::{Address, Pair, Route, Setup, Which};
use rustls::AlertDescription;
use tokio::io::AsyncWriteExt as _;

/// TLS 1.2 and 1.3, with and without ALPN: what was negotiated is on the record, in both processes.
#[tokio::test]
async fn both_tls_versions_are_ended_and_recorded() -> Result<()> {
    let address = Address::next();
    let target = HttpTarget::start(address).await?;
    let route = Route::terminate("app", target.address()).domain("app.test");
    let pair = Pair::start(address, Setup::new([route])).await?;
    for (version, name) in [(&rustls::version::TLS12, "TLSv1.2"), (&rustls::version::TLS13, "TLSv1.3")] {
        for offered in [vec![], vec!["http/1.1"], vec!["h2", "http/1.1"]] {
            let tls = Tls::to("app.test").only(version).alpn(&offered);
            let stream = tls.connect(pair.tls()).await?;
            let from = stream.get_ref().0.local_addr()?;
            let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            assert_eq!(chosen.as_deref(), offered.first().map(|name| name.as_bytes()), "{name} {offered:?}");
            let mut client = match chosen.as_deref() {
                Some(b"h2") => Http::two(stream, from).await?,
                _ => Http::one(stream, from, "https").await?,
            };
            assert_eq!(client.get("app.test", "/x").await?.status, 200);
            for which in e2e::BOTH {
                let record = pair
                    .recorded(which, from, "shows TLS", |record| {
                        !record["inner"]["tls"].is_null() && record["inner"]["requests_finished"] == 1
                    })
                    .await?;
                let tls = &record["inner"]["tls"];
                assert_eq!(tls["version"], name);
                assert!(tls["cipher"].as_str().is_some_and(|cipher| cipher.starts_with("TLS")), "{tls}");
                assert_eq!(tls["alpn"].as_str().map(str::as_bytes), chosen.as_deref());
                assert_eq!(record["handled_by"], "HANDLED_BY_NETWORKPROXY");
                assert_eq!(record["entry"], "app");
                assert_eq!(record["route"], "app");
            }
            client.abandon();
            pair.ended_joined(from, "client_closed", "client").await?;
        }
    }
    for which in [Which::Networkproxy, Which::Smartproxy] {
        let counters = pair.counters(which).await?;
        let owner = if which == Which::Networkproxy { &counters["own"] } else { &counters["peers"][0] };
        assert_eq!(owner["tls_terminated_connections"], 6, "{which:?}");
    }
    pair.teardown().await
}

/// The certificate follows the server name: its own, the wildcard's, the first for a name that has none.
#[tokio::test]
async fn the_certificate_follows_the_server_name() -> Result<()> {
    let address = Address::next();
    let pair = Pair::start(address, Setup::new([Route::terminate_answer("all", "respond: { status: 204 }")]))
        .await?;
    for name in ["app.test", "other.test", "any.wild.test"] {
        let mut client = Http::tls1(pair.tls(), name).await.with_context(|| name.to_owned())?;
        assert_eq!(client.get(name, "/").await?.status, 204);
    }
    // The first certificate stands in, and does not cover the name: the client refuses it, and says so.
    let stream = connect(pair.tls()).await?;
    let from = stream.local_addr()?;
    let refused = Tls::to("uncovered.test").over(stream).await.err().context("the name is not covered")?;
    ensure!(alert(&refused).is_none(), "the client refuses, not the server: {refused:#}");
    let record = pair.ended_joined(from, "tls_alert_received", "client").await?;
    let evidence = record["termination"]["evidence"].as_str().unwrap_or_default();
    assert!(evidence.contains("certificate"), "the alert is named: {evidence}");
    pair.teardown().await
}

/// A self-signed certificate is made for each name (the embedded default).
#[tokio::test]
async fn a_certificate_is_made_for_a_name_that_has_none() -> Result<()> {
    let address = Address::next();
    let setup = Setup::new([Route::terminate_answer("all", "respond: { status_page: true }")]).self_signed();
    let pair = Pair::start(address, setup).await?;
    let more = ["-servername", "made-up.test", "-verify_quiet"];
    let request = "GET / HTTP/1.1\r\nhost: made-up.test\r\nconnection: close\r\n\r\n";
    let said = e2e::client::tools::s_client_unverified(pair.tls(), request, "HTTP/1.1 200", &more).await?;
    ensure!(said.out.contains("HTTP/1.1 200"), "{said:?}");
    pair.teardown().await
}

/// Without a certificate for the name, the client is told so, and so are the books.
#[tokio::test]
async fn a_name_without_a_certificate_is_refused_and_named() -> Result<()> {
    let address = Address::next();
    let setup = Setup::new([Route::terminate_answer("all", "respond: { status: 204 }").domain("app.test")]);
    let pair = Pair::start(address, setup.certificates(&[])).await?;
    let stream = connect(pair.tls()).await?;
    let from = stream.local_addr()?;
    let refused = Tls::to("app.test").over(stream).await.err().context("there is no certificate")?;
    ensure!(alert(&refused).is_some(), "the refusal is an alert: {refused:#}");
    pair.ended_joined(from, "tls_no_certificate", "networkproxy").await?;
    for which in e2e::BOTH {
        let status = pair.status(which).await?;
        let names = status["names_without_certificate"].as_array().context("names")?;
        assert!(names.iter().any(|name| name == "app.test"), "{which:?}: {names:?}");
    }
    pair.teardown().await
}

/// A handshake that stands still ends at its deadline, not before, in both processes.
#[tokio::test]
async fn a_handshake_that_stands_still_ends_at_its_deadline() -> Result<()> {
    let address = Address::next();
    let route = Route::terminate_answer("app", "respond: { status: 204 }").domain("app.test");
    let setup = Setup::new([route]).inner_timeout("tls_handshake", "700ms");
    let pair = Pair::start(address, setup).await?;
    let mut client = connect(pair.tls()).await?;
    let from = client.local_addr()?;
    let start = Instant::now();
    client.write_all(&Tls::to("app.test").hello()?).await?;
    let (flight, _) = read_to_end(&mut client, SOON).await?;
    assert!(start.elapsed() >= Duration::from_millis(690));
    assert!(flight.len() > 1_000, "the server's flight came: {} bytes", flight.len());
    drop(client);
    let record = pair.ended_joined(from, "tls_handshake_timeout", "networkproxy").await?;
    assert_eq!(record["termination"]["rule"]["limit"], "700ms");
    assert_eq!(record["termination"]["phase"], "PHASE_TLS_HANDSHAKE");
    pair.teardown().await
}

/// A client that shares no version is told so.
#[tokio::test]
async fn a_client_that_is_too_old_is_told_so() -> Result<()> {
    let address = Address::next();
    let route = Route::terminate_answer("app", "respond: { status: 204 }").domain("app.test");
    let setup = Setup::new([route]).inner("tls", "min_version", "\"1.3\"");
    let pair = Pair::start(address, setup).await?;
    let stream = connect(pair.tls()).await?;
    let from = stream.local_addr()?;
    let refused = Tls::to("app.test").only(&rustls::version::TLS12).over(stream).await;
    let got = alert(&refused.err().context("TLS 1.2 is too old")?);
    assert_eq!(got, Some(AlertDescription::ProtocolVersion));
    pair.ended_joined(from, "tls_protocol_error", "client").await?;
    pair.teardown().await
}

/// a hello in pieces reaches the handshake whole.
#[tokio::test]
async fn a_hello_in_pieces_is_ended_like_any_other() -> Result<()> {
    let address = Address::next();
    let route = Route::terminate_answer("app", "respond: { status: 204 }").domain("app.test");
    let pair = Pair::start(address, Setup::new([route])).await?;
    for cuts in [vec![1], vec![5, 6], vec![100, 300, 301], vec![11, 1_000]] {
        let mut stream = connect(pair.tls()).await?;
        let from = stream.local_addr()?;
        let arrived = async |sent: usize| {
            let read = |record: &serde_json::Value| record["bytes_from_client"] == sent;
            pair.recorded(Which::Smartproxy, from, "has a piece", read).await.map(drop)
        };
        let mut tls = Tls::to("app.test").in_pieces(&mut stream, &cuts, arrived).await?;
        std::io::Write::write_all(
            &mut tls.writer(),
            b"GET / HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\n\r\n",
        )?;
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out)?;
        }
        stream.write_all(&out).await?;
        let (bytes, ending) = read_to_end(&mut stream, SOON).await?;
        let mut bytes = bytes.as_slice();
        let mut text = Vec::new();
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes)?;
            tls.process_new_packets()?;
            drop(std::io::Read::read_to_end(&mut tls.reader(), &mut text));
        }
        ensure!(text.starts_with(b"HTTP/1.1 204"), "{}", String::from_utf8_lossy(&text));
        assert_eq!(ending, Ending::Fin, "cuts {cuts:?}");
    }
    pair.teardown().await
}

/// The clients of others: curl over HTTP/1.1 and HTTP/2, openssl with TLS 1.2 and 1.3.
#[tokio::test]
async fn curl_and_openssl_are_served() -> Result<()> {
    let address = Address::next();
    let target = HttpTarget::start(address).await?;
    let route = Route::terminate("app", target.address()).domain("app.test");
    let pair = Pair::start(address, Setup::new([route])).await?;
    for (protocol, line) in [("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200")] {
        let more = [protocol, "--data-binary", "what curl says"];
        let said = curl(pair.directory(), pair.tls(), "app.test", "/echo", &more).await?;
        ensure!(said.code == Some(0) && said.out.contains(line), "{protocol}: {said:?}");
        ensure!(said.out.ends_with("what curl says"), "{protocol}: {said:?}");
        ensure!(said.out.to_lowercase().contains("x-connection-id") || !target.heads().is_empty());
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let more = [version, "-servername", "app.test", "-verify_hostname", "app.test", "-brief"];
        let request = "GET /head HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\n\r\n";
        let said = s_client(pair.directory(), pair.tls(), request, "HTTP/1.1 200", &more).await?;
        ensure!(said.out.contains("HTTP/1.1 200"), "{version}: {said:?}");
    }
    pair.teardown().await
}

/// A session is resumed by its ticket, and the record says so.
#[tokio::test]
async fn a_session_is_resumed_by_its_ticket() -> Result<()> {
    let address = Address::next();
    let route = Route::terminate_answer("app", "respond: { status: 204 }").domain("app.test");
    let pair = Pair::start(address, Setup::new([route])).await?;
    let tls = Tls::to("app.test").alpn(&["http/1.1"]);
    let connector = tls.connector()?;
    for resumed in [false, true] {
        let stream = connect(pair.tls()).await?;
        let from = stream.local_addr()?;
        let stream = connector.connect("app.test".try_into()?, stream).await?;
        let mut client = Http::one(stream, from, "https").await?;
        assert_eq!(client.get("app.test", "/").await?.status, 204);
        let record = pair
            .recorded(Which::Networkproxy, from, "shows TLS", |record| !record["inner"]["tls"].is_null())
            .await?;
        assert_eq!(record["inner"]["tls"]["resumed"], resumed);
        client.abandon();
    }
    pair.teardown().await
}
