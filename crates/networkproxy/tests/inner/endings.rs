//! Every way in which an inner half of HTTP ends, and the one reason of each.

use std::time::Duration;

use ledger::{DeadlineName, Initiator, LegName, Observation, Phase, Reason};
use runtime::preface::HopClass;
use runtime::{CloseMode, CloseOrder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use crate::harness::*;

fn rule(observation: &Observation) -> (&str, &str, &str) {
    let rule = observation.rule.as_ref().expect("a rule fired");
    (&rule.name, &rule.limit, &rule.source)
}

#[tokio::test]
async fn an_idle_connection_ends_by_keep_alive() {
    let address = Target::listen().await.answering(OK);
    let world = World::new("timeouts: { keep_alive: 100ms }", site(&[address]));
    let mut front = world.http().await;
    front.send(GET).await;
    front.response().await;
    let (mut hop, conn) = front.split();
    assert_eq!(rest(&mut hop).await, (vec![], true));
    drop(hop);
    let cause = world.cause(conn).await;
    assert_eq!((cause.reason, cause.initiator), (Reason::KeepAliveTimeout, Initiator::Networkproxy));
    assert_eq!(rule(&cause), ("keep_alive", "100ms", "test.yaml:2"));
}

/// a connection that is used is not idle, however long it lives.
#[tokio::test]
async fn keep_alive_starts_anew_with_each_response() {
    let address = Target::listen().await.answering(OK);
    let world = World::new("timeouts: { keep_alive: 300ms }", site(&[address]));
    let mut front = world.http().await;
    let end = world.clock.active() + Duration::from_millis(900);
    while world.clock.active() < end {
        front.send(GET).await;
        assert_eq!(front.response().await.status(), 200);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(world.reasons(front.hang_up()).await, [Reason::HopClosed]);
}

#[tokio::test]
async fn a_head_that_does_not_come_whole_gets_408() {
    let world = World::new("timeouts: { request_header: 100ms }", site(&[]));
    let mut front = world.http().await;
    front.send("GET /x HTTP/1.1\r\nhost: a.exam").await;
    let response = front.response().await;
    assert_eq!((response.status(), response.header("connection")), (408, Some("close")));
    let (mut hop, conn) = front.split();
    assert_eq!(rest(&mut hop).await, (vec![], true));
    drop(hop);
    let cause = world.cause(conn).await;
    assert_eq!(cause.reason, Reason::HttpHeaderTimeout);
    assert_eq!(rule(&cause), ("request_header", "100ms", "test.yaml:2"));
}

/// A head that comes a byte at a time does not buy time.
#[tokio::test]
async fn a_trickling_head_ends_by_the_same_rule() {
    let address = Target::listen().await.answering(OK);
    let world = World::new("timeouts: { request_header: 200ms }", site(&[address]));
    let mut front = world.http().await;
    front.send(GET).await;
    front.response().await;
    let (hop, conn) = front.split();
    let (mut reader, mut writer) = hop.into_split();
    let trickling = tokio::spawn(async move {
        for byte in b"GET /slow HTTP/1.1\r\nx: ".iter().cycle() {
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(head(&mut reader).await.starts_with("HTTP/1.1 408"));
    assert_eq!(world.cause(conn).await.reason, Reason::HttpHeaderTimeout);
    drop(reader);
    within(trickling).await.unwrap();
}

#[tokio::test]
async fn a_client_that_never_asks_is_left_without_an_answer() {
    let world = World::new("timeouts: { request_header: 100ms }", site(&[]));
    let (mut hop, conn) = world.http().await.split();
    assert_eq!(rest(&mut hop).await, (vec![], true));
    drop(hop);
    assert_eq!(world.cause(conn).await.reason, Reason::HttpHeaderTimeout);
}

/// A body that stands still: cut, named, and never complete.
#[tokio::test]
async fn a_response_that_stands_still_ends_by_stream_idle() {
    let target = Target::listen().await;
    let world = World::new("timeouts: { stream_idle: 150ms }", site(&[target.address]));
    let mut front = world.http().await;
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n").await.unwrap();
    // Progress starts the clock anew.
    for _ in 0..8 {
        socket.write_all(b"x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    head(&mut front.hop).await;
    let mut eight = [0; 8];
    within(front.hop.read_exact(&mut eight)).await.unwrap();
    let (mut hop, conn) = front.split();
    assert_eq!(rest(&mut hop).await, (vec![], false), "reset");
    let cause = world.cause(conn).await;
    assert_eq!(cause.reason, Reason::InactivityTimeout);
    assert_eq!(rule(&cause), ("stream_idle", "150ms", "test.yaml:2"));
}

/// The idle clock pauses while the hop takes no bytes: smartproxy's `write_stall` rules that.
#[tokio::test]
async fn a_client_that_takes_no_bytes_is_not_idle() {
    const SIZE: usize = 16 * 1024 * 1024;
    let target = Target::listen().await;
    let world = World::new("timeouts: { stream_idle: 150ms }", site(&[target.address]));
    let mut front = world.http().await;
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    let writing = tokio::spawn(async move {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(&vec![1; SIZE]).await.unwrap();
        socket
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(world.ledger.connected_clients(), 1);
    head(&mut front.hop).await;
    let mut body = vec![0; SIZE];
    within(front.hop.read_exact(&mut body)).await.unwrap();
    drop(writing.await.unwrap());
}

/// An upload that stands still.
#[tokio::test]
async fn an_upload_that_stands_still_gets_408_and_ends() {
    let target = Target::listen().await;
    let world = World::new("timeouts: { stream_idle: 100ms }", site(&[target.address]));
    let mut front = world.http().await;
    front.send("POST /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: 100\r\n\r\nabc").await;
    let (_socket, _) = target.request().await;
    assert_eq!(front.response().await.status(), 408);
    let (mut hop, conn) = front.split();
    rest(&mut hop).await;
    drop(hop);
    let cause = world.cause(conn).await;
    assert_eq!((cause.reason, rule(&cause).0), (Reason::InactivityTimeout, "stream_idle"));
}

#[tokio::test]
async fn a_request_that_takes_too_long_gets_504() {
    let target = Target::listen().await;
    let world = World::new("timeouts: { request: 100ms }", site(&[target.address]));
    let mut front = world.http().await;
    front.send(GET).await;
    let (_socket, _) = target.request().await;
    let response = front.response().await;
    assert_eq!(response.status(), 504);
    assert!(response.text().contains("reason: http_request_timeout"));
}

/// bounded from the half-close, by its own rule.
#[tokio::test]
async fn a_half_closed_client_waits_for_half_close_at_most() {
    let target = Target::listen().await;
    let world = World::new("timeouts: { half_close: 200ms }", site(&[target.address]));
    let mut front = world.http().await;
    front.send(GET).await;
    let (_socket, _) = target.request().await;
    front.hop.shutdown().await.unwrap();
    let (mut hop, conn) = front.split();
    assert!(!rest(&mut hop).await.1, "reset: there is no response");
    let cause = world.cause(conn).await;
    assert_eq!(cause.reason, Reason::HalfCloseTimeout);
    assert_eq!(rule(&cause), ("half_close", "200ms", "test.yaml:2"));
}

#[tokio::test]
async fn a_handshake_that_does_not_finish_ends_in_time() {
    let world = World::new("timeouts: { tls_handshake: 100ms }", tls_site(&[]));
    let mut front = world.open("site", HopClass::Tls, Some("a.example")).await;
    front.send([22, 3, 1, 0, 200]).await;
    let (mut hop, conn) = front.split();
    assert_eq!(rest(&mut hop).await, (vec![], true));
    drop(hop);
    let end = world.end(conn).await;
    assert_eq!(end.phase, Phase::TlsHandshake);
    let cause = end.key().unwrap().0;
    assert_eq!((cause.reason, rule(cause).0), (Reason::TlsHandshakeTimeout, "tls_handshake"));
}

/// each failure of TLS has its own reason, and its alert is sent.
#[tokio::test]
async fn failures_of_tls_are_told_apart() {
    let untrusting = {
        let other = World::new("certificates: { self_signed: false }", vec![]);
        std::sync::Arc::new(other.client_config(&[]))
    };
    for (settings, reason, detail) in [
        ("certificates: { self_signed: true }", Reason::TlsAlertReceived, Some("unknown_ca")),
        ("certificates: { self_signed: false }", Reason::TlsNoCertificate, None),
    ] {
        let world = World::new(settings, tls_site(&[]));
        let (hop, conn) = world.open("site", HopClass::Tls, Some("a.example")).await.split();
        let name = "a.example".try_into().unwrap();
        let failed = TlsConnector::from(untrusting.clone()).connect(name, hop).await.unwrap_err();
        drop(failed);
        let cause = world.cause(conn).await;
        assert_eq!((cause.reason, cause.leg), (reason, Some(LegName::Client)));
        assert_eq!(cause.detail.as_deref(), detail);
    }
    let world = World::new("certificates: { self_signed: true }", tls_site(&[]));
    let mut front = world.open("site", HopClass::Tls, None).await;
    front.send("GET / HTTP/1.1\r\n\r\n").await;
    let (mut hop, conn) = front.split();
    let (alert, _) = rest(&mut hop).await;
    assert_eq!(alert.first(), Some(&21), "an alert record: {alert:?}");
    drop(hop);
    assert_eq!(world.cause(conn).await.reason, Reason::TlsProtocolError);
}

/// `close_notify` is the client's orderly end, and no alert.
#[tokio::test]
async fn a_close_notify_is_an_orderly_end() {
    let address = Target::listen().await.answering(OK);
    let world = World::new("certificates: { self_signed: true }", tls_site(&[address]));
    let (mut tls, conn) = world.tls(&["http/1.1"]).await;
    tls.write_all(GET.as_bytes()).await.unwrap();
    assert_eq!(response(&mut tls).await.status(), 200);
    let half = world.ledger.half(conn.key).unwrap();
    assert_eq!(half.tls.as_ref().unwrap().value.alpn.as_deref(), Some("http/1.1"));
    tls.shutdown().await.unwrap();
    assert_eq!(rest(&mut tls).await, (vec![], true), "ours comes back");
    drop(tls);
    let end = world.end(conn).await;
    let first = &end.observations[0];
    assert_eq!((first.reason, first.detail.as_deref()), (Reason::ClientClosed, Some("close_notify")));
    assert!(end.hop.read_to_eof);
    let now = world.clock.now();
    assert_eq!(world.ledger.counters(now).tally.tls_terminated, 1);
}

/// A TLS client that hangs up without it is seen by its FIN.
#[tokio::test]
async fn a_fin_without_close_notify_is_the_hop_s_evidence() {
    let world = World::new("certificates: { self_signed: true }", tls_site(&[]));
    let (tls, conn) = world.tls(&["http/1.1"]).await;
    let (mut socket, _) = tls.into_inner();
    socket.shutdown().await.unwrap();
    assert!(rest(&mut socket).await.1);
    drop(socket);
    assert_eq!(world.reasons(conn).await, [Reason::HopClosed]);
}

fn order(mode: CloseMode) -> CloseOrder {
    let observation = Observation::new(ledger::Role::Inner, Reason::OperatorClosed, None, Duration::ZERO)
        .with_detail("me: why");
    CloseOrder { observation, mode }
}

#[tokio::test]
async fn an_operator_s_close_lets_the_request_finish_or_cuts_it() {
    for mode in [CloseMode::Graceful, CloseMode::Abort] {
        let target = Target::listen().await;
        let world = World::new("", site(&[target.address]));
        let mut front = world.http().await;
        front.send(GET).await;
        let (mut socket, _) = target.request().await;
        assert!(world.inside.gateway.manager.initiate_cleanup_once(front.key, order(mode)));
        if mode == CloseMode::Graceful {
            until("it closes", || {
                let half = world.ledger.half(front.key).unwrap();
                half.armed.iter().any(|armed| armed.name == DeadlineName::Close)
            })
            .await;
            socket.write_all(OK.as_bytes()).await.unwrap();
            let response = front.response().await;
            assert_eq!((response.status(), response.header("connection")), (200, Some("close")));
        }
        let (mut hop, conn) = front.split();
        assert_eq!(rest(&mut hop).await.1, mode == CloseMode::Graceful, "{mode:?}");
        drop(hop);
        let cause = world.cause(conn).await;
        assert_eq!((cause.reason, cause.detail.as_deref()), (Reason::OperatorClosed, Some("me: why")));
    }
}

#[tokio::test]
async fn an_idle_connection_is_drained_at_once_and_a_busy_one_after_its_response() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut idle = world.http().await;
    idle.send(GET).await;
    let (mut socket, _) = target.request().await;
    socket.write_all(OK.as_bytes()).await.unwrap();
    idle.response().await;
    let mut busy = world.http().await;
    busy.send(GET).await;
    head(&mut socket).await;
    let fresh = world.http().await;

    world.inside.wind_down.give();
    let (mut hop, conn) = idle.split();
    assert_eq!(rest(&mut hop).await, (vec![], true));
    drop(hop);
    assert_eq!(world.cause(conn).await.reason, Reason::Drained);

    socket.write_all(OK.as_bytes()).await.unwrap();
    let response = busy.response().await;
    assert_eq!((response.status(), response.header("connection")), (200, Some("close")));
    let (mut hop, conn) = busy.split();
    assert_eq!(rest(&mut hop).await, (vec![], true));
    drop(hop);
    assert_eq!(world.cause(conn).await.reason, Reason::Drained);

    // Let in just before: served once.
    let mut fresh = fresh;
    fresh.send(GET).await;
    head(&mut socket).await;
    socket.write_all(OK.as_bytes()).await.unwrap();
    let response = fresh.response().await;
    assert_eq!((response.status(), response.header("connection")), (200, Some("close")));
    world.end(fresh.hang_up()).await;
}

/// P5: a live record shows its deadlines, of what it is doing now.
#[tokio::test]
async fn a_live_record_shows_the_deadline_of_what_it_does() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    let shown = |name: DeadlineName| {
        let half = world.ledger.half(front.key).unwrap();
        half.armed.iter().any(|armed| armed.name == name)
    };
    until("the first head", || shown(DeadlineName::RequestHeader)).await;
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    let shown = |name: DeadlineName| {
        let half = world.ledger.half(front.key).unwrap();
        half.armed.iter().any(|armed| armed.name == name)
    };
    until("the response", || shown(DeadlineName::Response)).await;
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
    until("the body", || shown(DeadlineName::StreamIdle)).await;
    socket.write_all(b"cd").await.unwrap();
    until("the next head", || shown(DeadlineName::KeepAlive)).await;
    let half = world.ledger.half(front.key).unwrap();
    assert_eq!(half.armed.len(), 1, "{:?}", half.armed);
    assert_eq!(front.response().await.text(), "abcd");
}

/// P1: the entry and the hop's addresses are told with the opening: smartproxy never sees the half without.
#[tokio::test]
async fn a_record_opens_with_what_the_hop_said() {
    let world = World::new("", site(&[]));
    let (_opened, key) = world.opened().await;
    let half = world.ledger.half(key).unwrap();
    let routing = half.routing.as_ref().map(|routing| (routing.seq, routing.value.entry.as_deref()));
    assert_eq!(routing, Some((half.opened_seq, Some("site"))));
    let hop = half.hop.as_ref().map(|hop| (hop.seq, hop.value.local.is_some(), hop.value.remote.is_some()));
    assert_eq!(hop, Some((half.opened_seq, true, true)));
}

/// T7: what an idle connection costs begins with its task.
#[tokio::test]
async fn a_connection_s_task_is_small() {
    let world = World::new("", site(&[]));
    let size = world.size_of_life().await;
    assert!(size <= 640, "{size} bytes");
}

/// Sockets first, record last: also where a task is aborted before it ran, or in the middle of a request.
#[tokio::test]
async fn an_aborted_connection_leaves_its_socket_before_its_record() {
    for in_the_middle in [false, true] {
        let target = Target::listen().await;
        let world = World::new("", site(&[target.address]));
        let mut front = world.http().await;
        let mut request = None;
        if in_the_middle {
            front.send(GET).await;
            request = Some(target.request().await);
        }
        let (hop, conn) = front.split();
        let hop = hop.into_std().unwrap();
        let (ledger, key) = (world.ledger.clone(), conn.key);
        let (told, heard) = std::sync::mpsc::channel();
        world.ledger.on_change(move || {
            if ledger.half(key).is_some_and(|half| half.end.is_some()) {
                // A socket that nobody has left would have nothing to read.
                let left = hop.peek(&mut [0]).map_err(|error| error.kind());
                told.send(left != Err(std::io::ErrorKind::WouldBlock)).ok();
            }
        });
        conn.abort().await;
        assert_eq!(heard.try_iter().next(), Some(true), "in the middle: {in_the_middle}");
        drop(request);
    }
}
