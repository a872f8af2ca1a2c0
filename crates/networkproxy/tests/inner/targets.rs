//! Targets that fail, and what the client and the record are told.

use std::net::SocketAddr;

use ledger::{LegName, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::*;

/// A port of this machine that nobody listens on.
async fn nobody() -> SocketAddr {
    Target::listen().await.address
}

/// Ledger page: 502 with the id and the reason, and the connection goes on.
#[tokio::test]
async fn a_refusing_target_is_a_502_and_the_connection_goes_on() {
    let world = World::new("", site(&[nobody().await]));
    let mut front = world.http().await;
    for _ in 0..2 {
        front.send(GET).await;
        let response = front.response().await;
        assert_eq!(response.status(), 502);
        let text = format!("502 Bad Gateway\nreason: target_refused\nconnection: {}\n", front.id);
        assert_eq!(response.text(), text);
    }
    assert_eq!(world.reasons(front.hang_up()).await, [Reason::HopClosed], "it annotates the request only");
}

/// Nothing was sent yet: the next target gets the request.
#[tokio::test]
async fn a_refusing_target_s_turn_goes_to_the_next() {
    let answering = Target::listen().await.answering(OK);
    let world = World::new("", site(&[nobody().await, answering]));
    let mut front = world.http().await;
    for _ in 0..4 {
        front.send(GET).await;
        assert_eq!(front.response().await.status(), 200);
    }
}

/// R-59 through the whole path: in turn, exactly.
#[tokio::test]
async fn targets_are_taken_in_turn() {
    let mut addresses = Vec::new();
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nc",
    ] {
        addresses.push(Target::listen().await.answering(answer));
    }
    let world = World::new("", site(&addresses));
    let mut counts = [0; 3];
    for _ in 0..5 {
        let mut front = world.http().await;
        for _ in 0..6 {
            front.send(GET).await;
            counts[usize::from(front.response().await.body[0] - b'a')] += 1;
        }
    }
    assert_eq!(counts, [10, 10, 10]);
}

#[tokio::test]
async fn a_silent_target_is_a_504_by_the_rule_and_the_connection_goes_on() {
    let target = Target::listen().await;
    let world = World::new("timeouts: { response: 100ms }", site(&[target.address]));
    let mut front = world.http().await;
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    let response = front.response().await;
    assert_eq!(response.status(), 504);
    assert!(response.text().contains("reason: target_response_timeout"), "{}", response.text());
    let mut byte = [0];
    assert!(!matches!(within(socket.read(&mut byte)).await, Ok(1..)), "its connection is given up");
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    socket.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(front.response().await.status(), 200);
}

/// Each way of not answering has its reason.
#[tokio::test]
async fn a_target_that_does_not_answer_is_told_apart_by_how() {
    for (how, reason) in [
        ("close", "target_closed"),
        ("reset", "target_reset"),
        ("garbage", "target_protocol_error"),
        ("half a head", "target_protocol_error"),
        ("two lengths", "target_protocol_error"),
        ("folded", "target_protocol_error"),
    ] {
        let target = Target::listen().await;
        let world = World::new("", site(&[target.address]));
        let mut front = world.http().await;
        front.send(GET).await;
        let (mut socket, _) = target.request().await;
        match how {
            "close" => drop(socket),
            "reset" => reset(socket),
            "garbage" => {
                socket.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").await.unwrap();
            }
            "half a head" => {
                socket.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.unwrap();
                drop(socket);
            }
            "two lengths" => {
                let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab";
                socket.write_all(head).await.unwrap();
            }
            _ => {
                let head = b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n";
                socket.write_all(head).await.unwrap();
            }
        }
        let response = front.response().await;
        assert_eq!(response.status(), 502, "{how}");
        assert!(response.text().contains(&format!("reason: {reason}\n")), "{how}: {}", response.text());
    }
}

/// P4: a response that the target did not finish is not finished by us: the client sees a reset.
#[tokio::test]
async fn a_truncated_response_never_looks_complete() {
    for (head, how, reason) in [
        ("content-length: 100", "close", Reason::TargetProtocolError),
        ("content-length: 100", "reset", Reason::TargetReset),
        ("transfer-encoding: chunked", "close", Reason::TargetProtocolError),
        ("transfer-encoding: chunked", "reset", Reason::TargetReset),
        ("x: until the end", "reset", Reason::TargetReset),
    ] {
        let target = Target::listen().await;
        let world = World::new("", site(&[target.address]));
        let mut front = world.http().await;
        front.send(GET).await;
        let (mut socket, _) = target.request().await;
        socket.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes()).await.unwrap();
        socket.write_all(b"5\r\nabcde\r\n").await.unwrap();
        assert!(crate::harness::head(&mut front.hop).await.starts_with("HTTP/1.1 200"));
        let mut some = [0; 5];
        within(front.hop.read_exact(&mut some)).await.unwrap();
        if how == "reset" {
            reset(socket);
        } else {
            drop(socket);
        }
        let (mut hop, conn) = front.split();
        let (seen, orderly) = rest(&mut hop).await;
        assert!(!orderly, "{head}, {how}: {seen:?} and an orderly end");
        assert!(!seen.ends_with(b"0\r\n\r\n"), "{head}, {how}");
        let cause = world.cause(conn).await;
        assert_eq!((cause.reason, cause.leg), (reason, Some(LegName::Target)), "{head}, {how}");
    }
}

/// A response that lasts until the target closes is complete when it does.
#[tokio::test]
async fn a_response_until_the_end_is_complete_when_the_target_closes() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    socket.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").await.unwrap();
    drop(socket);
    let head = head(&mut front.hop).await;
    assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
    let mut body = [0; 15];
    within(front.hop.read_exact(&mut body)).await.unwrap();
    assert_eq!(&body, b"5\r\nhello\r\n0\r\n\r\n");
}

/// a target that answers and closes while the client still sends: the client reads the whole answer.
#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let target = Target::listen().await;
    let world = World::new("timeouts: { close: 200ms }", site(&[target.address]));
    let mut front = world.http().await;
    front.send("POST /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: 100000000\r\n\r\n").await;
    let (mut socket, _) = target.request().await;
    let (hop, conn) = front.split();
    let (mut reader, mut writer) = hop.into_split();
    let sending = tokio::spawn(async move { while writer.write_all(&vec![1; 65_536]).await.is_ok() {} });
    let body = "x".repeat(500_000);
    let answer =
        format!("HTTP/1.1 413 Too Large\r\ncontent-length: 500000\r\nconnection: close\r\n\r\n{body}");
    socket.write_all(answer.as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    let got = response(&mut reader).await;
    assert_eq!((got.status(), got.body.len()), (413, 500_000));
    within(sending).await.unwrap();
    drop((reader, socket));
    world.end(conn).await;
}

/// A name that has no address.
#[tokio::test]
async fn an_unresolvable_target_is_a_502() {
    let routes = vec![route(
        "site",
        "",
        config::InnerAction::Forward(config::Forward {
            targets: vec!["does-not-exist.invalid:80".parse().unwrap()],
            balance: config::Balance::RoundRobin,
        }),
    )];
    let world = World::new("", vec![entry("site", config::Protocol::Http, routes)]);
    let mut front = world.http().await;
    front.send(GET).await;
    let response = front.response().await;
    assert_eq!(response.status(), 502);
    assert!(response.text().contains("reason: target_resolve_failed"), "{}", response.text());
}
