//! what two readers could understand differently is refused or written anew.

use ledger::Reason;
use tokio::io::AsyncWriteExt as _;

use crate::harness::*;

const HOST: &str = "host: a.example\r\n";

/// Sends raw bytes that must be refused: the status, the reason on the record, and that nothing went on.
async fn refused(request: &str, status: u16, reason: Reason) {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    // What follows would be a request of its own, were the head understood otherwise.
    front.send(format!("{request}GET /smuggled HTTP/1.1\r\n{HOST}\r\n")).await;
    let response = front.response().await;
    assert_eq!(response.status(), status, "{request:?}: {response:?}");
    let (mut hop, conn) = front.split();
    let (after, _) = rest(&mut hop).await;
    assert_eq!(String::from_utf8_lossy(&after), "", "{request:?}: one answer, then the end");
    drop(hop);
    assert!(target.is_untouched(), "{request:?}");
    let reasons = world.reasons(conn).await;
    assert!(reasons.contains(&reason), "{request:?}: {reasons:?}");
}

#[tokio::test]
async fn differing_or_malformed_lengths_are_refused() {
    for length in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: +5\r\n",
        "content-length: -5\r\n",
        "content-length: 0x5\r\n",
        "content-length: 5, 5\r\n",
        "content-length: 5 5\r\n",
        "content-length: \r\n",
        "content-length: 99999999999999999999999\r\n",
    ] {
        let request = format!("POST /x HTTP/1.1\r\n{HOST}{length}\r\n");
        refused(&request, 400, Reason::HttpProtocolError).await;
    }
}

#[tokio::test]
async fn transfer_codings_other_than_chunked_are_refused() {
    for codings in [
        "transfer-encoding: identity\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: \"chunked\"\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
    ] {
        let request = format!("POST /x HTTP/1.1\r\n{HOST}{codings}\r\n");
        refused(&request, 400, Reason::HttpProtocolError).await;
    }
    refused(
        &format!("POST /x HTTP/1.0\r\n{HOST}transfer-encoding: chunked\r\n\r\n"),
        400,
        Reason::HttpProtocolError,
    )
    .await;
}

/// hyper takes these as ending in chunked; we do not undo what comes before.
#[tokio::test]
async fn codings_before_chunked_are_refused_and_the_connection_ends() {
    for codings in [
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    ] {
        let request = format!("POST /x HTTP/1.1\r\n{HOST}{codings}\r\n3\r\nabc\r\n0\r\n\r\n");
        let target = Target::listen().await;
        let world = World::new("", site(&[target.address]));
        let mut front = world.http().await;
        front.send(request).await;
        let response = front.response().await;
        assert_eq!((response.status(), response.header("connection")), (400, Some("close")));
        let (mut hop, conn) = front.split();
        rest(&mut hop).await;
        drop(hop);
        world.end(conn).await;
        assert!(target.is_untouched());
    }
}

#[tokio::test]
async fn malformed_lines_are_refused() {
    for lines in [
        "x-folded: a\r\n b\r\n",
        "host : a.example\r\n",
        "x y: 1\r\n",
        "x(y): 1\r\n",
        ": 1\r\n",
        "no-colon\r\n",
        "x: a\0b\r\n",
        "x: a\rb\r\n",
    ] {
        let request = format!("GET /x HTTP/1.1\r\n{HOST}{lines}\r\n");
        refused(&request, 400, Reason::HttpProtocolError).await;
    }
    for line in [
        "GET  /x HTTP/1.1",
        "GET /x y HTTP/1.1",
        "GET /x HTTP/1.2",
        "GET /x",
        "G(T /x HTTP/1.1",
        "PRI * HTTP/2.0",
    ] {
        let request = format!("{line}\r\n{HOST}\r\n");
        let target = Target::listen().await;
        let world = World::new("", site(&[target.address]));
        let mut front = world.http().await;
        front.send(request).await;
        let (mut hop, conn) = front.split();
        let (answer, _) = rest(&mut hop).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{line}: {answer}");
        drop(hop);
        let reasons = world.reasons(conn).await;
        assert!(reasons.contains(&Reason::HttpProtocolError), "{line}: {reasons:?}");
        assert!(target.is_untouched(), "{line}");
    }
}

/// These pass the parser and are refused by our own checks, with `connection: close`.
#[tokio::test]
async fn ambiguous_hosts_are_refused_and_the_connection_ends() {
    for head in [
        "GET /x HTTP/1.1\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: a.example\r\nhost: a.example\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: a.example\r\nhost: b.example\r\n\r\n",
        "GET http://a.example/x HTTP/1.1\r\nhost: b.example\r\n\r\n",
        "GET http://a.example/x HTTP/1.1\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: a.example@b.example\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: a.example, b.example\r\n\r\n",
        "GET a.example HTTP/1.1\r\nhost: a.example\r\n\r\n",
        "GET * HTTP/1.1\r\nhost: a.example\r\n\r\n",
    ] {
        let target = Target::listen().await;
        let world = World::new("", site(&[target.address]));
        let mut front = world.http().await;
        front.send(head).await;
        let response = front.response().await;
        assert_eq!((response.status(), response.header("connection")), (400, Some("close")), "{head}");
        let (mut hop, conn) = front.split();
        assert_eq!(rest(&mut hop).await.0, b"", "{head}");
        drop(hop);
        world.end(conn).await;
        assert!(target.is_untouched(), "{head}");
    }
}

/// RFC 9112 section 6.1: processed by its Transfer-Encoding alone, and the last on its connection.
#[tokio::test]
async fn a_length_beside_chunked_is_dropped_and_the_connection_ends() {
    for both in [
        "content-length: 6\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 6\r\n",
    ] {
        let target = Target::listen().await;
        let world = World::new("", site(&[target.address]));
        let mut front = world.http().await;
        front
            .send(format!(
                "POST /x HTTP/1.1\r\n{HOST}{both}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n{HOST}\r\n"
            ))
            .await;
        let (mut socket, head) = target.request().await;
        assert_eq!(header(&head, "content-length"), None, "{head}");
        assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
        socket.write_all(OK.as_bytes()).await.unwrap();
        let response = front.response().await;
        assert_eq!((response.status(), response.header("connection")), (200, Some("close")));
        let (mut hop, conn) = front.split();
        assert_eq!(rest(&mut hop).await.0, b"", "what follows is not read as a request");
        drop(hop);
        world.end(conn).await;
        assert!(target.is_untouched());
    }
}

/// A bare LF is taken for CRLF by the parser; what goes on has CRLF alone.
#[tokio::test]
async fn bare_line_feeds_do_not_go_on() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    front.send("GET /x HTTP/1.1\nhost: a.example\nx-own: 1\n\n").await;
    let (_socket, head) = target.request().await;
    assert!(!head.replace("\r\n", "").contains(['\r', '\n']), "{head:?}");
    assert_eq!(header(&head, "x-own"), Some("1"));
}

/// A body that is not what it says breaks the request off: the target must not take it for a whole one.
#[tokio::test]
async fn a_broken_body_breaks_the_request_off() {
    for (body, what) in [
        ("5\r\nabc", "fewer bytes than the chunk says, then the end"),
        ("zz\r\nabc\r\n0\r\n\r\n", "no size"),
        ("3\r\nabcX\r\n0\r\n\r\n", "no line end after the chunk"),
        ("3\nabc\n0\n\n", "bare LF in the framing"),
        ("-3\r\nabc\r\n0\r\n\r\n", "a negative size"),
        ("fffffffffffffffff\r\nabc\r\n0\r\n\r\n", "a size that does not fit"),
    ] {
        let target = Target::listen().await;
        let world = World::new("", site(&[target.address]));
        let mut front = world.http().await;
        front.send(format!("POST /x HTTP/1.1\r\n{HOST}transfer-encoding: chunked\r\n\r\n{body}")).await;
        front.hop.shutdown().await.unwrap();
        let got = async {
            let (seen, _) = rest(&mut target.accept().await).await;
            String::from_utf8_lossy(&seen).into_owned()
        };
        // The parser may refuse it before the target is dialled.
        let seen = tokio::select! {
            seen = got => seen,
            () = async {
                until("the record is closed", || world.ledger.connected_clients() == 0).await;
            } => String::new(),
        };
        assert!(!seen.contains("0\r\n\r\n"), "{what}: the target saw an end: {seen:?}");
        let (mut hop, conn) = front.split();
        rest(&mut hop).await;
        drop(hop);
        world.end(conn).await;
    }
}

/// Trailers cannot smuggle what decides framing or identity.
#[tokio::test]
async fn forbidden_trailers_do_not_go_on() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    front
        .send(format!(
            "POST /x HTTP/1.1\r\n{HOST}transfer-encoding: chunked\r\ntrailer: content-length, host, x-ok\r\n\r\n\
             1\r\na\r\n0\r\ncontent-length: 9\r\nhost: b.example\r\nx-ok: 1\r\nx-undeclared: 1\r\n\r\n"
        ))
        .await;
    let (mut socket, _) = target.request().await;
    socket.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(front.response().await.status(), 200);
    let mut seen = Vec::new();
    let reading = async {
        while !seen.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            tokio::io::AsyncReadExt::read_exact(&mut socket, &mut byte).await.unwrap();
            seen.extend(byte);
        }
    };
    within(reading).await;
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.contains("x-ok: 1"), "{seen:?}");
    for gone in ["content-length", "host", "x-undeclared"] {
        assert!(!seen.contains(gone), "{gone}: {seen:?}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_told_so() {
    let fields = "x: 1\r\n".repeat(101);
    refused(&format!("GET /x HTTP/1.1\r\n{HOST}{fields}\r\n"), 431, Reason::HttpHeaderTooLarge).await;
    let long = "a".repeat(70 * 1024);
    refused(&format!("GET /x HTTP/1.1\r\n{HOST}x-long: {long}\r\n\r\n"), 431, Reason::HttpHeaderTooLarge)
        .await;
}
