//! Requests and responses on their way through.

use config::{InnerAction, Protocol};
use ledger::{Direction, LegName, Phase, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::*;

/// P1, R-79: the backend reads one id and one client, and gets the request in one form.
#[tokio::test]
async fn a_request_is_written_anew_and_its_response_comes_back() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    front
        .send("GET http://a.example/x?y=1 HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 6.6.6.6\r\nX-Own: 1\r\n\r\n")
        .await;
    let (mut socket, head) = target.request().await;
    assert!(head.starts_with("GET /x?y=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "host"), Some("a.example"));
    assert_eq!(header(&head, "x-forwarded-for"), Some("192.0.2.7"));
    assert_eq!(header(&head, "x-forwarded-proto"), Some("http"));
    assert_eq!(header(&head, "x-own"), Some("1"));
    assert_eq!(header(&head, "x-connection-id"), Some(front.id.to_string().as_str()));
    socket
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nserver: theirs\r\ndate: then\r\nalt-svc: h3=\":443\"\r\n\r\nhello")
        .await
        .unwrap();
    let response = front.response().await;
    assert_eq!((response.status(), response.text().as_str()), (200, "hello"));
    assert_eq!((response.header("server"), response.header("date")), (Some("theirs"), Some("then")));
    assert_eq!(response.header("alt-svc"), None);
    let half = world.ledger.half(front.key).unwrap();
    assert_eq!(half.routing.as_ref().unwrap().value.route.as_deref(), Some("site"));
    let shown = half.target.as_ref().unwrap();
    assert_eq!(
        (&*shown.value.name, shown.value.address),
        (&*target.address.to_string(), Some(target.address))
    );
    assert_eq!(world.reasons(front.hang_up()).await, [Reason::HopClosed], "the front saw the client's FIN");
}

/// R-28, R-32: every byte of every leg, once.
#[tokio::test]
async fn the_bytes_of_both_legs_are_counted() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    let key = front.key;
    let request = "POST /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: 3\r\n\r\nabc";
    front.send(request).await;
    let (mut socket, head) = target.request().await;
    let mut body = [0; 3];
    socket.read_exact(&mut body).await.unwrap();
    socket.write_all(OK.as_bytes()).await.unwrap();
    let response = front.response().await;
    let end = world.end(front.hang_up()).await;
    let to_client = (response.head.len() + response.body.len()) as u64;
    assert_eq!(
        (end.hop.received, end.hop.sent, end.hop.read_to_eof),
        (request.len() as u64, to_client, true)
    );
    assert_eq!(world.bytes(key, LegName::Hop, Direction::In), request.len() as u64);
    assert_eq!(world.bytes(key, LegName::Target, Direction::Out), (head.len() + 3) as u64);
    assert_eq!(world.bytes(key, LegName::Target, Direction::In), OK.len() as u64);
}

/// R-71: an authority that none of the entry's routes lists is told so; a path is not found.
#[tokio::test]
async fn an_authority_of_another_entry_gets_421_and_the_connection_lives() {
    let target = Target::listen().await;
    let routes = vec![route("a", "a.example", forward(&[target.address]))];
    let world = World::new("", vec![entry("site", Protocol::Http, routes)]);
    let mut front = world.http().await;
    front.send("GET / HTTP/1.1\r\nhost: b.example\r\n\r\n").await;
    let response = front.response().await;
    assert_eq!(response.status(), 421);
    assert_eq!(
        response.text(),
        format!("421 Misdirected Request\nreason: authority_mismatch\nconnection: {}\n", front.id)
    );
    assert!(target.is_untouched());
    front.send("GET / HTTP/1.1\r\nhost: A.example:80\r\n\r\n").await;
    let (mut socket, _) = target.request().await;
    socket.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(front.response().await.status(), 200);
}

#[tokio::test]
async fn fixed_answers_redirects_and_the_status_page_need_no_target() {
    let respond = InnerAction::Respond(config::Respond { status: 410, body: "moved".to_owned() });
    let redirect: config::Redirect =
        serde_json::from_str(r#"{"to": "https://{host}{path_and_query}", "status": 308}"#).unwrap();
    let routes = vec![
        route("gone", "gone.example", respond),
        route("to", "to.example", InnerAction::Redirect(redirect)),
        route("status", "status.example", InnerAction::StatusPage),
        route("no", "no.example", InnerAction::Block),
    ];
    let world = World::new("", vec![entry("site", Protocol::Http, routes)]);
    let mut front = world.http().await;
    for (host, status) in [("gone", 410), ("to", 308), ("status", 200), ("no", 403)] {
        front.send(format!("GET /a?b HTTP/1.1\r\nhost: {host}.example:8080\r\n\r\n")).await;
        let response = front.response().await;
        assert_eq!(response.status(), status);
        match host {
            "gone" => assert_eq!(response.text(), "moved"),
            "to" => assert_eq!(response.header("location"), Some("https://to.example/a?b")),
            "status" => assert!(response.text().contains(&front.id.to_string()), "{}", response.text()),
            _ => assert!(response.text().contains("reason: route_blocked")),
        }
    }
    assert_eq!(world.inside.gateway.requests.all(), [("site".into(), [0, 1, 1, 2, 0])]);
}

/// R-16: a client that has said everything still reads; the record stays live until it has its answer.
#[tokio::test]
async fn a_client_that_half_closes_gets_its_response() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    front.hop.shutdown().await.unwrap();
    // The hop's end is seen although hyper does not read while the target thinks.
    let phase = || world.ledger.half(front.key).unwrap().phase;
    until("half closed", || phase() == Phase::HalfClosed).await;
    assert_eq!(world.ledger.connected_clients(), 1);
    socket.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(front.response().await.text(), "ok");
    let (mut hop, conn) = front.split();
    assert_eq!(rest(&mut hop).await, (vec![], true), "our FIN, in order");
    assert_eq!(world.reasons(conn).await, [Reason::HopClosed]);
}

/// A hop that breaks ends the half at once, also while a request waits for its target; and the target learns
/// of it.
#[tokio::test]
async fn a_reset_of_the_hop_ends_a_waiting_request_and_its_target() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    assert_eq!(world.reasons(front.reset()).await, [Reason::HopReset]);
    let mut byte = [0];
    let read = within(socket.read(&mut byte)).await;
    assert!(!matches!(read, Ok(1..)), "{read:?}");
    until("the pool is empty", || world.inside.pool.counts().open == 0).await;
}

/// R-27, R-51, R-52: a slow reader stops the target instead of filling our memory, and gets every byte.
#[tokio::test]
async fn a_slow_reader_stops_the_target_and_gets_every_byte() {
    const SIZE: usize = 64 * 1024 * 1024;
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let writing = tokio::spawn({
        let written = written.clone();
        async move {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
            socket.write_all(head.as_bytes()).await.unwrap();
            let mut at = 0;
            while at < SIZE {
                let chunk: Vec<u8> = (at..(at + 65_536).min(SIZE)).map(|i| (i % 251) as u8).collect();
                socket.write_all(&chunk).await.unwrap();
                at += chunk.len();
                written.store(at, std::sync::atomic::Ordering::Relaxed);
            }
            socket
        }
    });
    // Whatever the kernel's buffers hold; then nothing moves.
    let mut last = (0, 0);
    until("the target is stopped", || {
        let now = written.load(std::sync::atomic::Ordering::Relaxed);
        last = if now == last.0 && now > 0 { (now, last.1 + 1) } else { (now, 0) };
        last.1 > 100
    })
    .await;
    assert!(last.0 < SIZE / 2, "{} of {SIZE} were taken while nobody read", last.0);
    let head = head(&mut front.hop).await;
    assert_eq!(header(&head, "content-length"), Some(SIZE.to_string().as_str()));
    let mut at = 0;
    let mut chunk = vec![0; 1 << 20];
    while at < SIZE {
        let count = within(front.hop.read(&mut chunk)).await.unwrap();
        assert!(count > 0, "ended at {at}");
        assert!(chunk[..count].iter().enumerate().all(|(i, byte)| *byte == ((at + i) % 251) as u8));
        at += count;
    }
    drop(writing.await.unwrap());
}

/// R-52, the other way: a target that does not read stops the client.
#[tokio::test]
async fn a_target_that_does_not_read_stops_the_client() {
    const SIZE: usize = 32 * 1024 * 1024;
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    let head = format!("POST /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: {SIZE}\r\n\r\n");
    front.send(head).await;
    let (mut socket, _) = target.request().await;
    let (hop, conn) = front.split();
    let (mut reader, mut writer) = hop.into_split();
    let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let writing = tokio::spawn({
        let written = written.clone();
        async move {
            for _ in 0..SIZE / 65_536 {
                writer.write_all(&vec![7; 65_536]).await.unwrap();
                written.fetch_add(65_536, std::sync::atomic::Ordering::Relaxed);
            }
            writer
        }
    });
    let mut last = (0, 0);
    until("the client is stopped", || {
        let now = written.load(std::sync::atomic::Ordering::Relaxed);
        last = if now == last.0 && now > 0 { (now, last.1 + 1) } else { (now, 0) };
        last.1 > 100
    })
    .await;
    assert!(last.0 < SIZE / 2, "{} of {SIZE} were taken while nobody read", last.0);
    let mut body = vec![0; SIZE];
    within(socket.read_exact(&mut body)).await.unwrap();
    assert!(body.iter().all(|byte| *byte == 7));
    socket.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(response(&mut reader).await.status(), 200);
    drop((writing.await.unwrap(), reader));
    world.end(conn).await;
}

/// Bodies stream both ways at once, with trailers, and nothing waits for their end.
#[tokio::test]
async fn chunks_and_trailers_pass_as_they_come() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    front
        .send("POST /x HTTP/1.1\r\nhost: a.example\r\nte: trailers\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3;ext=1\r\nabc\r\n")
        .await;
    let (mut socket, head) = target.request().await;
    assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
    assert_eq!(header(&head, "te"), Some("trailers"));
    let mut first = [0; 8];
    within(socket.read_exact(&mut first)).await.unwrap();
    assert_eq!(&first, b"3\r\nabc\r\n", "before the client sent the rest, and without the extension");
    socket
        .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-out\r\n\r\n2\r\nhi\r\n")
        .await
        .unwrap();
    let head = crate::harness::head(&mut front.hop).await;
    assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
    let mut chunk = [0; 7];
    within(front.hop.read_exact(&mut chunk)).await.unwrap();
    assert_eq!(&chunk, b"2\r\nhi\r\n", "before the request's end");
    front.send("0\r\nx-sum: 5\r\n\r\n").await;
    let mut end = [0; 15];
    within(socket.read_exact(&mut end)).await.unwrap();
    assert_eq!(&end, b"0\r\nx-sum: 5\r\n\r\n");
    socket.write_all(b"0\r\nx-out: 9\r\n\r\n").await.unwrap();
    let mut end = [0; 15];
    within(front.hop.read_exact(&mut end)).await.unwrap();
    assert_eq!(&end, b"0\r\nx-out: 9\r\n\r\n");
}

#[tokio::test]
async fn expect_continue_is_answered_here_and_does_not_go_on() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    front
        .send("POST /x HTTP/1.1\r\nhost: a.example\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .await;
    let (mut socket, sent) = target.request().await;
    assert_eq!(header(&sent, "expect"), None);
    assert!(head(&mut front.hop).await.starts_with("HTTP/1.1 100 "));
    front.send("hi").await;
    let mut body = [0; 2];
    within(socket.read_exact(&mut body)).await.unwrap();
    socket.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(front.response().await.status(), 200);
}

#[tokio::test]
async fn responses_without_a_body_keep_the_connection() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    let mut socket = None;
    for (method, answer, status) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n", 200),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n", 304),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            200,
        ),
    ] {
        front.send(format!("{method} /x HTTP/1.1\r\nhost: a.example\r\n\r\n")).await;
        let mut connection = match socket.take() {
            None => target.accept().await,
            Some(connection) => connection,
        };
        head(&mut connection).await;
        connection.write_all(answer.as_bytes()).await.unwrap();
        let got = head(&mut front.hop).await;
        assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{got}");
        if method == "HEAD" {
            assert_eq!(header(&got, "content-length"), Some("1234"));
        }
        socket = Some(connection);
    }
}

/// HTTP/1.0 and `connection: close`: our orderly end.
#[tokio::test]
async fn a_request_that_wants_to_be_the_last_is() {
    let address = Target::listen().await.answering(OK);
    let world = World::new("", site(&[address]));
    for request in [
        "GET /x HTTP/1.0\r\nhost: a.example\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    ] {
        let mut front = world.http().await;
        front.send(request).await;
        assert_eq!(front.response().await.status(), 200);
        let (mut hop, conn) = front.split();
        assert_eq!(rest(&mut hop).await, (vec![], true));
        drop(hop);
        assert_eq!(world.reasons(conn).await[0], Reason::Finished);
    }
}

/// R-76: whatever the method, a body whose length nobody said goes on whole.
#[tokio::test]
async fn a_body_without_a_length_goes_on_whatever_the_method() {
    for method in ["GET", "HEAD", "DELETE", "POST"] {
        let target = Target::listen().await;
        let world = World::new("", site(&[target.address]));
        let mut front = world.http().await;
        front
            .send(format!("{method} /x HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
            .await;
        let (mut socket, head) = target.request().await;
        assert_eq!(header(&head, "transfer-encoding"), Some("chunked"), "{head}");
        let mut body = [0; 15];
        within(socket.read_exact(&mut body)).await.unwrap();
        assert_eq!(&body, b"5\r\nhello\r\n0\r\n\r\n", "{method}");
    }
}
