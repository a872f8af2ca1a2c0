//! HTTP/2 from clients, HTTP/1.1 to targets.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ledger::Reason;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::harness::*;

const SELF_SIGNED: &str = "certificates: { self_signed: true }";

async fn h2(world: &World) -> (SendRequest<Full<Bytes>>, Conn) {
    let (tls, conn) = world.tls(&["h2", "http/1.1"]).await;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    (sender, conn)
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://a.example{path}")).body(Full::default()).unwrap()
}

#[tokio::test]
async fn many_streams_share_a_connection_and_a_pool() {
    let address = Target::listen().await.answering(OK);
    let world = World::new(SELF_SIGNED, tls_site(&[address]));
    let (sender, conn) = h2(&world).await;
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..200 {
        let mut sender = sender.clone();
        asking.spawn(async move {
            sender.ready().await.unwrap();
            let response = sender.send_request(get(&format!("/{n}"))).await.unwrap();
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.unwrap().to_bytes()
        });
    }
    while let Some(body) = within(asking.join_next()).await {
        assert_eq!(&body.unwrap()[..], b"ok");
    }
    let half = world.ledger.half(conn.key).unwrap();
    assert_eq!(half.routing.as_ref().unwrap().value.protocol.as_deref(), Some("h2"));
    assert_eq!(world.ledger.totals(conn.key).unwrap().requests_finished, 200);
    drop(sender);
    let reasons = world.reasons(conn).await;
    assert!(!reasons.is_empty() && !reasons.contains(&Reason::HttpProtocolError), "{reasons:?}");
}

#[tokio::test]
async fn a_body_and_its_trailers_pass_from_the_target() {
    let target = Target::listen().await;
    let world = World::new(SELF_SIGNED, tls_site(&[target.address]));
    let (mut sender, _conn) = h2(&world).await;
    let request =
        Request::post("https://a.example/up").body(Full::new(Bytes::from("x".repeat(100_000)))).unwrap();
    let (response, ()) = tokio::join!(sender.send_request(request), async {
        let (mut socket, head) = target.request().await;
        assert!(head.starts_with("POST /up HTTP/1.1\r\n"));
        assert_eq!(header(&head, "host"), Some("a.example"));
        assert_eq!(header(&head, "x-forwarded-proto"), Some("https"));
        let length: usize = header(&head, "content-length").unwrap().parse().unwrap();
        let mut body = vec![0; length];
        tokio::io::AsyncReadExt::read_exact(&mut socket, &mut body).await.unwrap();
        socket
            .write_all(b"HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(length, 100_000);
    });
    let response = response.unwrap();
    assert!(!response.headers().contains_key("x-hop"));
    let collected = within(response.into_body().collect()).await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-sum"], "7");
    assert_eq!(&collected.to_bytes()[..], b"hi");
}

/// a coalesced request comes back with 421 and harms nobody else.
#[tokio::test]
async fn a_coalesced_authority_gets_421_on_its_stream() {
    let address = Target::listen().await.answering(OK);
    let routes = vec![route("a", "a.example", forward(&[address]))];
    let entry = config::InnerEntry::new("site".into(), config::Protocol::Http, true, routes, [].into());
    let world = World::new(SELF_SIGNED, vec![entry]);
    let (mut sender, _conn) = h2(&world).await;
    let other = Request::get("https://b.example/").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(other).await.unwrap().status(), StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(sender.send_request(get("/")).await.unwrap().status(), 200);
}

/// P4: a truncated response resets its stream; the others go on.
#[tokio::test]
async fn a_truncated_response_resets_its_stream_only() {
    let target = Target::listen().await;
    let world = World::new(SELF_SIGNED, tls_site(&[target.address]));
    let (mut sender, conn) = h2(&world).await;
    let (response, socket) = tokio::join!(sender.send_request(get("/")), async {
        let (mut socket, _) = target.request().await;
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc").await.unwrap();
        socket
    });
    reset(socket);
    let body = within(response.unwrap().into_body().collect()).await;
    assert!(body.is_err(), "{body:?}");
    let (response, ()) = tokio::join!(sender.send_request(get("/")), async {
        let (mut socket, _) = target.request().await;
        socket.write_all(OK.as_bytes()).await.unwrap();
    });
    assert_eq!(response.unwrap().status(), 200);
    drop(sender);
    let reasons = world.reasons(conn).await;
    assert!(!reasons.contains(&Reason::TargetReset), "it annotates the request only: {reasons:?}");
}

/// A drain says GOAWAY and lets what is in progress finish.
#[tokio::test]
async fn a_drain_finishes_what_is_in_progress() {
    let target = Target::listen().await;
    let world = World::new(SELF_SIGNED, tls_site(&[target.address]));
    let (mut sender, conn) = h2(&world).await;
    let (response, ()) = tokio::join!(sender.send_request(get("/")), async {
        let (mut socket, _) = target.request().await;
        world.inside.wind_down.give();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        socket.write_all(OK.as_bytes()).await.unwrap();
    });
    assert_eq!(&within(response.unwrap().into_body().collect()).await.unwrap().to_bytes()[..], b"ok");
    assert_eq!(world.cause(conn).await.reason, Reason::Drained);
}

#[tokio::test]
async fn an_idle_connection_ends_by_keep_alive_with_goaway() {
    let address = Target::listen().await.answering(OK);
    let world = World::new(
        "certificates: { self_signed: true }\ntimeouts: { keep_alive: 150ms }",
        tls_site(&[address]),
    );
    let (mut sender, conn) = h2(&world).await;
    assert_eq!(sender.send_request(get("/")).await.unwrap().status(), 200);
    assert_eq!(world.cause(conn).await.reason, Reason::KeepAliveTimeout);
    assert!(sender.ready().await.is_err());
}

/// The raw client of the `h2` crate, for what hyper would not do.
async fn raw(
    world: &World,
) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Option<h2::Error>>, Conn) {
    let (tls, conn): (TlsStream<TcpStream>, Conn) = world.tls(&["h2"]).await;
    let (sender, connection) = h2::client::handshake(tls).await.unwrap();
    let driving = tokio::spawn(async move { connection.await.err() });
    (sender, driving, conn)
}

/// rapid reset has a bounded budget, a GOAWAY, and a reason that names it.
#[tokio::test]
async fn rapid_reset_is_a_flood() {
    let target = Target::listen().await;
    let world = World::new(SELF_SIGNED, tls_site(&[target.address]));
    let (mut sender, driving, conn) = raw(&world).await;
    let mut sent = 0;
    while sent < 100_000 {
        let Ok(ready) = sender.ready().await else { break };
        sender = ready;
        let request = Request::get("https://a.example/").body(()).unwrap();
        let Ok((response, mut stream)) = sender.send_request(request, true) else { break };
        stream.send_reset(h2::Reason::CANCEL);
        drop((response, stream));
        sent += 1;
        tokio::task::yield_now().await;
    }
    let error = within(driving).await.unwrap().expect("a GOAWAY");
    assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM), "after {sent}: {error}");
    let cause = world.cause(conn).await;
    assert_eq!(cause.reason, Reason::Http2Flood, "{cause:?}");
    assert!(cause.detail.is_some());
}

/// a stream without window holds a target's connection; not for ever, and with a reason that names it.
#[tokio::test]
async fn a_stream_without_window_is_not_kept_for_ever() {
    let target = Target::listen().await;
    let settings = "certificates: { self_signed: true }\ntimeouts: { stream_idle: 200ms, close: 100ms }";
    let world = World::new(settings, tls_site(&[target.address]));
    let (tls, conn) = world.tls(&["h2"]).await;
    let mut builder = h2::client::Builder::new();
    let (mut sender, connection) = builder.initial_window_size(0).handshake::<_, Bytes>(tls).await.unwrap();
    let driving = tokio::spawn(async move { connection.await.err() });
    let request = Request::get("https://a.example/").body(()).unwrap();
    let (response, _stream) = sender.send_request(request, true).unwrap();
    let (mut socket, _) = target.request().await;
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
    let response = within(response).await.unwrap();
    let cause = world.cause(conn).await;
    assert_eq!((cause.reason, cause.detail.as_deref()), (Reason::Http2Flood, Some("zero_window")));
    drop((response, within(driving).await.unwrap()));
}

/// A client that reads slowly, but reads, is no flood.
#[tokio::test]
async fn a_stream_whose_window_opens_now_and_then_is_served() {
    let target = Target::listen().await;
    let settings = "certificates: { self_signed: true }\ntimeouts: { stream_idle: 300ms }";
    let world = World::new(settings, tls_site(&[target.address]));
    let (tls, conn) = world.tls(&["h2"]).await;
    let mut builder = h2::client::Builder::new();
    let (mut sender, connection) = builder.initial_window_size(10).handshake::<_, Bytes>(tls).await.unwrap();
    let driving = tokio::spawn(async move { connection.await.err() });
    let request = Request::get("https://a.example/").body(()).unwrap();
    let (response, stream) = sender.send_request(request, true).unwrap();
    let (mut socket, _) = target.request().await;
    socket
        .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}", "x".repeat(100)).as_bytes())
        .await
        .unwrap();
    let mut body = within(response).await.unwrap().into_body();
    let mut got = 0;
    while let Some(chunk) = within(body.data()).await {
        let count = chunk.unwrap().len();
        got += count;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        body.flow_control().release_capacity(count).unwrap();
    }
    assert_eq!(got, 100);
    drop((sender, stream, body));
    let reasons = world.reasons(conn).await;
    assert!(!reasons.contains(&Reason::Http2Flood), "{reasons:?}");
    driving.abort();
}

/// PINGs without end.
#[tokio::test]
async fn a_flood_of_pings_is_a_flood() {
    let settings = "certificates: { self_signed: true }\ntimeouts: { close: 100ms }";
    let world = World::new(settings, tls_site(&[]));
    let (tls, conn) = world.tls(&["h2"]).await;
    let (mut reader, mut writer) = tokio::io::split(tls);
    let reading = tokio::spawn(async move { drop(rest(&mut reader).await) });
    writer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let ping = b"\0\0\x08\x06\0\0\0\0\0pingping";
    let flood = ping.repeat(100);
    for _ in 0..10_000 {
        if writer.write_all(&flood).await.is_err() {
            break;
        }
    }
    let cause = world.cause(conn).await;
    assert_eq!((cause.reason, cause.detail.as_deref()), (Reason::Http2Flood, Some("control_frames")));
    drop(writer);
    within(reading).await.unwrap();
}

/// A frame that breaks the protocol ends the connection with a reason of the client's.
#[tokio::test]
async fn a_protocol_error_is_the_client_s() {
    let world = World::new(SELF_SIGNED, tls_site(&[]));
    let (mut tls, conn) = world.tls(&["h2"]).await;
    // Preface, empty SETTINGS, then a DATA frame on stream 0.
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\0\0\0\0\0\0x")
        .await
        .unwrap();
    rest(&mut tls).await;
    drop(tls);
    let cause = world.cause(conn).await;
    assert_eq!(cause.reason, Reason::HttpProtocolError, "{cause:?}");
}

#[tokio::test]
async fn a_head_with_too_many_fields_is_told_so() {
    let world = World::new(SELF_SIGNED, tls_site(&[]));
    let (mut sender, _conn) = h2(&world).await;
    let mut request = get("/");
    for n in 0..110 {
        let name: http::HeaderName = format!("x-{n}").parse().unwrap();
        request.headers_mut().insert(name, http::HeaderValue::from_static("1"));
    }
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

/// RFC 9113, 8.2.3: cookies that came in lines of their own are one line for HTTP/1.1.
#[tokio::test]
async fn cookies_are_joined_for_the_target() {
    let target = Target::listen().await;
    let world = World::new(SELF_SIGNED, tls_site(&[target.address]));
    let (mut sender, _conn) = h2(&world).await;
    let mut request = get("/");
    for crumb in ["a=1", "b=2", "c=3"] {
        request.headers_mut().append("cookie", crumb.parse().unwrap());
    }
    let (response, ()) = tokio::join!(sender.send_request(request), async {
        let (mut socket, head) = target.request().await;
        assert_eq!(head.matches("cookie").count(), 1, "{head}");
        assert_eq!(header(&head, "cookie"), Some("a=1; b=2; c=3"));
        socket.write_all(OK.as_bytes()).await.unwrap();
    });
    assert_eq!(response.unwrap().status(), 200);
}
