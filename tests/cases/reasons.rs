//! One test for each reason that can be provoked: here those that no other topic provokes, and the proof that none
//! was forgotten.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::client::http::{Http, empty, raw, whole};
use e2e::client::tls::Tls;
use e2e::client::{Ending, connect, connect_refused, echo, read_to_end};
use e2e::target::Target;
use e2e::target::http::HttpTarget;
use e2e::wait::{SOON, within};
use e2e::{Address, Pair, Route, Setup, Which};
use ledger::Reason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Reasons that no test of this directory provokes, and why not.
const ELSEWHERE: [(&str, &str); 31] = [
    ("proxy_header_invalid", "inbound PROXY protocol is not built yet"),
    ("proxy_header_untrusted", "inbound PROXY protocol is not built yet"),
    ("proxy_header_timeout", "inbound PROXY protocol is not built yet"),
    ("denied_ip", "security rules are not built yet"),
    ("limit_route", "limits of a route are not built yet"),
    ("rate_per_ip", "rates are not built yet"),
    ("blocked_by_score", "scores are not built yet"),
    (
        "hop_route_unknown",
        "needs a signed header for an entry that smartproxy does not have: tests of networkproxy",
    ),
    ("tls_client_certificate", "client certificates are not built yet"),
    ("target_tls_failed", "TLS to targets is not built yet"),
    ("no_healthy_target", "health checks are not built yet"),
    ("http_body_too_large", "http.max_body is not built yet"),
    ("close_timeout", "never a cause: it follows one (see the chain in this file's test)"),
    ("route_removed", "reload is not built yet"),
    ("listener_removed", "reload is not built yet"),
    ("target_removed", "reload is not built yet"),
    ("abandoned", "our own bug: unit tests of runtime"),
    ("panicked", "our own bug: unit tests of runtime"),
    ("out_of_memory", "the kernel's memory: unit tests of runtime"),
    ("out_of_ports", "28,000 connections: unit tests of runtime"),
    ("nftables_handled", "nftables are not built yet"),
    ("kernel_flow_ended", "nftables are not built yet"),
    // Asserted where the faults are.
    ("drained", "drain.rs"),
    ("drain_deadline", "drain.rs"),
    ("shutdown", "drain.rs"),
    ("peer_lost", "crash.rs"),
    ("superseded", "crash.rs"),
    ("hop_closed", "crash.rs"),
    ("client_left_before_connect", "plain_tcp.rs, by its beginning"),
    ("client_left_before_route", "bad_input.rs"),
    ("hop_header_timeout", "hop.rs"),
];

/// every reason is provoked by a test of this directory, or is listed with the place or the feature that it waits
/// for.
#[test]
fn no_reason_was_forgotten() {
    let sources: BTreeMap<&str, &str> = BTreeMap::from([
        ("bad_input", include_str!("bad_input.rs")),
        ("books", include_str!("books.rs")),
        ("endings", include_str!("endings.rs")),
        ("hop", include_str!("hop.rs")),
        ("http", include_str!("http.rs")),
        ("kept", include_str!("kept.rs")),
        ("limits", include_str!("limits.rs")),
        ("passthrough", include_str!("passthrough.rs")),
        ("plain_tcp", include_str!("plain_tcp.rs")),
        ("termination", include_str!("termination.rs")),
        ("web_socket", include_str!("web_socket.rs")),
        (
            "reasons",
            include_str!("reasons.rs").split_once("fn no_reason_was_forgotten").map_or("", |(_, rest)| rest),
        ),
    ]);
    let elsewhere: BTreeMap<&str, &str> = ELSEWHERE.into_iter().collect();
    for reason in Reason::ALL {
        let name = reason.name();
        let quoted = format!("\"{name}\"");
        let provoked = sources.values().any(|source| source.contains(&quoted));
        assert!(provoked || elsewhere.contains_key(name), "no test provokes {name}");
    }
    for (name, why) in elsewhere {
        assert!(Reason::from_name(name).is_some(), "{name} ({why}) is no reason");
    }
}

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

/// The last exchange was complete and we closed.
#[tokio::test]
async fn finished_when_the_client_asked_for_the_end() -> Result<()> {
    let (pair, _target) = stage(|setup| setup).await?;
    let mut client = connect(pair.http()).await?;
    let from = client.local_addr()?;
    let text = raw(&mut client, "GET / HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\n\r\n").await?;
    ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
    drop(client);
    pair.ended_joined(from, "finished", "networkproxy").await?;
    pair.teardown().await
}

/// The hop cannot be dialled, and no hold is left.
#[tokio::test]
async fn hop_connect_failed_when_the_last_dial_failed() -> Result<()> {
    let address = Address::next();
    let route = Route::terminate_answer("app", "respond: { status: 204 }").domain("app.test");
    let setup = Setup::new([route]).timeout("hold", "700ms").misdirected();
    let pair = Pair::start(address, setup).await?;
    let stream = connect(pair.tls()).await?;
    let from = stream.local_addr()?;
    let start = Instant::now();
    let (alert, ending) = Tls::to("app.test").refused(stream).await?;
    assert_eq!((alert, ending), (rustls::AlertDescription::InternalError, Ending::Fin));
    assert!(start.elapsed() >= Duration::from_millis(690), "it is held first: {:?}", start.elapsed());
    pair.ended_with(from, "hop_connect_failed", "smartproxy").await?;
    pair.teardown().await
}

/// A name that does not resolve.
#[tokio::test]
async fn target_resolve_failed_when_a_name_has_no_address() -> Result<()> {
    let address = Address::next();
    let route = Route::tcp_to("named", "no-such-host.invalid:9");
    let pair = Pair::start(address, Setup::new([route]).timeout("connect", "15s")).await?;
    let (from, got, ending) = connect_refused(pair.tcp()).await?;
    assert_eq!((got.len(), ending), (0, Ending::Reset));
    pair.ended_with(from, "target_resolve_failed", "target").await?;
    pair.teardown().await
}

/// A whole request takes longer than `request`.
#[tokio::test]
async fn http_request_timeout_when_a_request_takes_too_long() -> Result<()> {
    let (pair, _target) = stage(|setup| setup.inner_timeout("request", "600ms")).await?;
    let mut client = Http::clear(pair.http()).await?;
    let from = client.local();
    let start = Instant::now();
    let request = client.request("GET", "app.test", "/half", empty())?;
    let response = client.start(request).await?;
    ensure!(whole(response).await.is_err(), "half a body looked whole");
    assert!(start.elapsed() >= Duration::from_millis(590));
    let record = pair.ended_joined(from, "http_request_timeout", "networkproxy").await?;
    assert_eq!(record["termination"]["rule"]["limit"], "600ms");
    pair.teardown().await
}

/// HTTP/2 streams that are opened only to be reset.
#[tokio::test]
async fn http2_flood_when_streams_are_reset_in_masses() -> Result<()> {
    let (pair, _target) = stage(|setup| setup).await?;
    let mut client = Tls::to("app.test").alpn(&["h2"]).connect(pair.tls()).await?;
    let from = client.get_ref().0.local_addr()?;
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    client.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
    // RFC 9113, 6.2 and 6.4: HEADERS with END_STREAM and END_HEADERS, then RST_STREAM with CANCEL. The header block is
    // :method GET, :scheme https, :path /, :authority app.test (RFC 7541, appendix A).
    let block = [&[0x82, 0x87, 0x84, 0x41, 0x08], b"app.test".as_slice()].concat();
    let flood = async {
        for number in 0..50_000_u32 {
            let stream = (2 * number + 1).to_be_bytes();
            let mut frames = vec![0, 0, block.len() as u8, 1, 0x5];
            frames.extend_from_slice(&stream);
            frames.extend_from_slice(&block);
            frames.extend_from_slice(&[0, 0, 4, 3, 0]);
            frames.extend_from_slice(&stream);
            frames.extend_from_slice(&8_u32.to_be_bytes());
            if client.write_all(&frames).await.is_err() {
                return;
            }
        }
        drop(client.read_to_end(&mut Vec::new()).await);
    };
    within("the flood is cut off", SOON * 2, flood).await?;
    drop(client);
    pair.ended_joined(from, "http2_flood", "client").await?;
    pair.teardown().await
}

/// the answer to another entry's name carries its reason.
#[tokio::test]
async fn authority_mismatch_is_named_in_its_answer() -> Result<()> {
    let (pair, _target) = stage(|setup| setup).await?;
    let mut client = Http::tls2(pair.tls(), "app.test").await?;
    let reply = client.get("elsewhere.test", "/").await?;
    ensure!(reply.status == 421 && reply.text().contains("authority_mismatch"), "{}", reply.text());
    client.abandon();
    pair.teardown().await
}

/// A target that closes instead of upgrading.
#[tokio::test]
async fn upgrade_failed_is_named_in_its_answer() -> Result<()> {
    let (pair, _target) = stage(|setup| setup).await?;
    for path in ["/garbage", "/close"] {
        let mut client = connect(pair.http()).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: app.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        client.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        while !text.contains("connection: ") || !text.contains("reason: ") {
            let mut bytes = vec![0; 4096];
            let count = within("an answer", SOON, client.read(&mut bytes)).await??;
            ensure!(count > 0, "{path}: {text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        ensure!(text.starts_with("HTTP/1.1 502"), "{path}: {text}");
        let named = ["upgrade_failed", "target_closed", "target_protocol_error"];
        ensure!(named.iter().any(|reason| text.contains(reason)), "{path}: {text}");
    }
    pair.teardown().await
}

/// A goodbye that the client does not answer ends at `close`, as a consequence of what came before.
#[tokio::test]
async fn an_unanswered_goodbye_ends_at_close_and_is_in_the_chain() -> Result<()> {
    let (pair, _target) =
        stage(|setup| setup.inner_timeout("keep_alive", "300ms").timeout("close", "600ms")).await?;
    let mut client = connect(pair.http()).await?;
    let from = client.local_addr()?;
    client.write_all(b"GET / HTTP/1.1\r\nhost: app.test\r\n\r\n").await?;
    let (bytes, ending) = read_to_end(&mut client, SOON).await?;
    ensure!(bytes.starts_with(b"HTTP/1.1 200") && ending == Ending::Fin);
    let closed = Instant::now();
    // The client keeps its side open.
    let record = pair.ended_joined(from, "keep_alive_timeout", "networkproxy").await?;
    assert!(closed.elapsed() >= Duration::from_millis(500), "{:?}", closed.elapsed());
    let chain = record["termination"]["chain"].as_array().context("a chain")?;
    ensure!(
        chain.iter().any(|step| step.as_str().is_some_and(|step| step.contains("close_timeout"))),
        "{chain:?}"
    );
    drop(client);
    pair.teardown().await
}

/// A peer whose packets are lost is noticed without a byte to send, no earlier than the route says, and is not called a
/// reset. The other side of a connection is told by a reset.
#[tokio::test]
async fn client_vanished_and_target_vanished_when_nothing_is_acknowledged() -> Result<()> {
    const SILENCE: &str = "3s";
    let address = Address::next();
    let target = Target::manual(address).await?;
    let route = Route::tcp("far", target.address()).timeout("tcp_keepalive", SILENCE);
    let pair = Pair::start(address, Setup::new([route])).await?;
    for (reason, initiator) in [("client_vanished", "client"), ("target_vanished", "target")] {
        let mut client = connect(pair.tcp()).await?;
        let from = client.local_addr()?;
        client.write_all(b"are you there?").await?;
        let mut accepted = target.accept().await?;
        within("the question", SOON, accepted.read_exact(&mut [0; 14])).await??;
        let (mut gone, mut left) =
            if initiator == "client" { (client, accepted) } else { (accepted, client) };
        e2e::client::lose_packets(&gone)?;
        let start = Instant::now();
        let (_, ending) = read_to_end(&mut left, Duration::from_secs(12)).await?;
        assert_eq!(ending, Ending::Reset, "{reason}");
        assert!(start.elapsed() >= Duration::from_millis(2_500), "{reason}: {:?}", start.elapsed());
        pair.ended_with(from, reason, initiator).await?;
        e2e::client::find_packets(&gone)?;
        gone.shutdown().await.ok();
    }
    pair.teardown().await
}

/// Without a free descriptor for the target, that is the reason, and the kernel began it.
#[tokio::test]
async fn out_of_file_descriptors_when_none_is_left_for_the_target() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let pair = Pair::start(address, Setup::new([Route::tcp("echo", target.address())])).await?;
    let smartproxy = pair.process(Which::Smartproxy);
    // One for the client, none for its target.
    let before = smartproxy.leave_descriptors(1)?;
    let (from, got, ending) = connect_refused(pair.tcp()).await?;
    smartproxy.limit_descriptors(before)?;
    assert_eq!((got.len(), ending), (0, Ending::Reset));
    pair.ended_with(from, "out_of_file_descriptors", "kernel").await?;
    let mut client = connect(pair.tcp()).await?;
    echo(&mut client, b"served again").await?;
    drop(client);
    pair.teardown_expecting(&e2e::Expected::nothing().error("accept")).await
}

/// A route's own deadlines rule its bridged connections too: networkproxy enforces what smartproxy's file says.
#[tokio::test]
async fn a_routes_own_deadlines_rule_in_networkproxy() -> Result<()> {
    let address = Address::next();
    let silent = Target::never_answers(address).await?;
    let routes = [
        Route::terminate_tcp("idle", silent.address()).domain("app.test").timeout("inactivity", "600ms"),
        Route::terminate_tcp("half", silent.address()).domain("other.test").timeout("half_close", "600ms"),
    ];
    let pair = Pair::start(address, Setup::new(routes)).await?;
    for (name, half_close, reason) in
        [("app.test", false, "inactivity_timeout"), ("other.test", true, "half_close_timeout")]
    {
        let mut client = Tls::to(name).connect(pair.tls()).await?;
        let from = client.get_ref().0.local_addr()?;
        client.write_all(b"hello").await?;
        let start = Instant::now();
        if half_close {
            client.shutdown().await?;
        }
        let (_, ending) = read_to_end(&mut client, SOON).await?;
        // P4: half an answer is seen as half of one.
        ensure!(ending == Ending::Reset || !half_close, "{reason}: {ending:?}");
        assert!(start.elapsed() >= Duration::from_millis(590), "{reason}: {:?}", start.elapsed());
        let record = pair.ended_joined(from, reason, "networkproxy").await?;
        let rule = &record["termination"]["rule"];
        assert_eq!(rule["limit"], "600ms", "{reason}");
        ensure!(rule["source"].as_str().is_some_and(|source| source != "default"), "{reason}: {rule:#}");
    }
    pair.teardown().await
}

/// `write_stall` on a bridged connection: a client that does not read is ended by smartproxy, and both books say so.
#[tokio::test]
async fn a_bridged_client_that_does_not_read_ends_at_write_stall() -> Result<()> {
    let address = Address::next();
    let target = Target::source(address, 64 << 20).await?;
    let route = Route::terminate_tcp("source", target.address()).domain("app.test");
    let pair = Pair::start(address, Setup::new([route]).timeout("write_stall", "700ms")).await?;
    let stream = connect(pair.tls()).await?;
    e2e::target::small_buffers(&stream);
    let client = Tls::to("app.test").over(stream).await?;
    let from = client.get_ref().0.local_addr()?;
    pair.ended_joined(from, "write_stall_timeout", "smartproxy").await?;
    drop(client);
    pair.teardown().await
}

/// `max_lifetime` on a bridged connection.
#[tokio::test]
async fn a_bridged_connection_ends_at_its_maximum_age() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let route =
        Route::terminate_tcp("echo", target.address()).domain("app.test").timeout("max_lifetime", "700ms");
    let pair = Pair::start(address, Setup::new([route])).await?;
    let mut client = Tls::to("app.test").connect(pair.tls()).await?;
    let from = client.get_ref().0.local_addr()?;
    let start = Instant::now();
    while echo(&mut client, b"busy").await.is_ok() {
        ensure!(start.elapsed() < SOON, "it never ends");
    }
    pair.ended_joined(from, "max_lifetime", "smartproxy").await?;
    pair.teardown().await
}
