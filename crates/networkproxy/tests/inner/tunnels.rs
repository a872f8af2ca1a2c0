//! WebSockets and opaque protocols: bytes both ways, each direction for itself.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use config::{InnerEntry, Protocol};
use ledger::{Direction, LegName, Phase, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::*;

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nhost: a.example\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A WebSocket that is open on both sides.
async fn websocket(world: &World, target: &Target) -> (Front, TcpStream) {
    let mut front = world.http().await;
    front.send(HANDSHAKE).await;
    let (mut socket, request) = target.request().await;
    assert_eq!(
        (header(&request, "connection"), header(&request, "upgrade")),
        (Some("upgrade"), Some("websocket"))
    );
    assert_eq!(header(&request, "sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    socket.write_all(SWITCHING.as_bytes()).await.unwrap();
    let switched = head(&mut front.hop).await;
    assert!(switched.starts_with("HTTP/1.1 101 "), "{switched}");
    assert_eq!(header(&switched, "sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(
        (header(&switched, "connection"), header(&switched, "upgrade")),
        (Some("upgrade"), Some("websocket"))
    );
    until("it is a tunnel", || world.ledger.half(front.key).unwrap().phase == Phase::Tunnel).await;
    (front, socket)
}

#[tokio::test]
async fn a_websocket_carries_bytes_both_ways_and_ends_with_either_side() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let (mut front, mut socket) = websocket(&world, &target).await;
    let half = world.ledger.half(front.key).unwrap();
    assert_eq!(half.routing.as_ref().unwrap().value.protocol.as_deref(), Some("websocket"));
    assert_eq!(world.inside.pool.counts().open, 0, "it left the pool");
    front.send("ping").await;
    let mut four = [0; 4];
    within(socket.read_exact(&mut four)).await.unwrap();
    socket.write_all(b"pong").await.unwrap();
    within(front.hop.read_exact(&mut four)).await.unwrap();
    assert_eq!(&four, b"pong");
    assert!(world.bytes(front.key, LegName::Target, Direction::In) >= SWITCHING.len() as u64 + 4);

    // one side's end is not the other's.
    front.hop.shutdown().await.unwrap();
    assert_eq!(rest(&mut socket).await, (vec![], true));
    until("half closed", || world.ledger.half(front.key).unwrap().phase == Phase::HalfClosed).await;
    socket.write_all(b"last words").await.unwrap();
    drop(socket);
    let (mut hop, conn) = front.split();
    assert_eq!(rest(&mut hop).await, (b"last words".to_vec(), true));
    assert_eq!(world.reasons(conn).await, [Reason::HopClosed, Reason::TargetClosed]);
}

/// Bytes that came with the handshake, on either side, are not lost.
#[tokio::test]
async fn bytes_beside_the_handshake_are_part_of_the_tunnel() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    front.send(format!("{HANDSHAKE}early")).await;
    let (mut socket, _) = target.request().await;
    socket.write_all(format!("{SWITCHING}first").as_bytes()).await.unwrap();
    let mut five = [0; 5];
    within(socket.read_exact(&mut five)).await.unwrap();
    assert_eq!(&five, b"early");
    head(&mut front.hop).await;
    within(front.hop.read_exact(&mut five)).await.unwrap();
    assert_eq!(&five, b"first");
}

/// a reset is passed on as one, after what came before it.
#[tokio::test]
async fn a_target_s_reset_reaches_the_client_as_a_reset() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let (front, mut socket) = websocket(&world, &target).await;
    socket.write_all(b"before").await.unwrap();
    let (mut hop, conn) = front.split();
    let mut six = [0; 6];
    within(hop.read_exact(&mut six)).await.unwrap();
    reset(socket);
    assert!(!rest(&mut hop).await.1);
    let cause = world.cause(conn).await;
    assert_eq!((cause.reason, cause.leg), (Reason::TargetReset, Some(LegName::Target)));
}

#[tokio::test]
async fn a_client_s_reset_reaches_the_target_as_a_reset() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let (front, mut socket) = websocket(&world, &target).await;
    let conn = front.reset();
    assert!(!rest(&mut socket).await.1);
    assert_eq!(world.reasons(conn).await, [Reason::HopReset]);
}

#[tokio::test]
async fn an_idle_tunnel_ends_by_tunnel_idle() {
    let target = Target::listen().await;
    let world = World::new("timeouts: { tunnel_idle: 150ms }", site(&[target.address]));
    let (front, mut socket) = websocket(&world, &target).await;
    let (mut hop, conn) = front.split();
    let (at_client, at_target) = tokio::join!(rest(&mut hop), rest(&mut socket));
    assert!(at_client.1 && at_target.1, "in order, both");
    drop((hop, socket));
    let cause = world.cause(conn).await;
    assert_eq!((cause.reason, &*cause.rule.unwrap().name), (Reason::InactivityTimeout, "tunnel_idle"));
}

/// R-42 in a tunnel.
#[tokio::test]
async fn a_half_closed_tunnel_ends_by_half_close() {
    let target = Target::listen().await;
    let world = World::new("timeouts: { half_close: 150ms }", site(&[target.address]));
    let (mut front, socket) = websocket(&world, &target).await;
    front.hop.shutdown().await.unwrap();
    let (mut hop, conn) = front.split();
    assert!(!rest(&mut hop).await.1);
    assert_eq!(world.cause(conn).await.reason, Reason::HalfCloseTimeout);
    drop(socket);
}

/// A target that does not switch, or to something else, is passed on or told so.
#[tokio::test]
async fn a_handshake_that_the_target_refuses_is_an_ordinary_response() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    for (answer, status) in [
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", 403),
        ("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", 502),
    ] {
        front.send(HANDSHAKE).await;
        let mut socket = target.accept().await;
        head(&mut socket).await;
        socket.write_all(answer.as_bytes()).await.unwrap();
        let response = front.response().await;
        assert_eq!(response.status(), status);
        if status == 502 {
            assert!(response.text().contains("reason: upgrade_failed"));
        }
        drop(socket);
    }
    // Unasked.
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    socket.write_all(SWITCHING.as_bytes()).await.unwrap();
    let response = front.response().await;
    assert_eq!(response.status(), 502);
}

const SIZE: usize = 32 * 1024 * 1024;

/// Sends and receives `SIZE` bytes, pausing `pace` milliseconds per MiB.
async fn exchange(socket: TcpStream, salt: u8, pace: u64) {
    let (mut reader, mut writer) = socket.into_split();
    let writing = async {
        let bytes: Vec<u8> = (0..SIZE).map(|i| (i % 253) as u8 ^ salt).collect();
        writer.write_all(&bytes).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let reading = async {
        let mut at = 0;
        let mut chunk = vec![0; 256 * 1024];
        loop {
            let count = reader.read(&mut chunk).await.unwrap();
            if count == 0 {
                break;
            }
            let right = |(i, byte): (usize, &u8)| *byte == ((at + i) % 253) as u8 ^ salt ^ 1;
            assert!(chunk[..count].iter().enumerate().all(right), "at {at}");
            at += count;
            if pace > 0 && at % (1 << 20) < count {
                tokio::time::sleep(std::time::Duration::from_millis(pace)).await;
            }
        }
        assert_eq!(at, SIZE);
    };
    tokio::join!(writing, reading);
}

/// 32 MiB each way at once, through slow and fast ends.
#[tokio::test]
async fn a_tunnel_delivers_every_byte_both_ways() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let (front, socket) = websocket(&world, &target).await;
    let (hop, conn) = front.split();
    let both = async { tokio::join!(exchange(hop, 0, 5), exchange(socket, 1, 0)) };
    tokio::time::timeout(PATIENCE * 6, both).await.unwrap();
    let end = world.end(conn).await;
    assert_eq!(end.undelivered, 0);
    assert!(end.hop.read_to_eof);
}

fn opaque(targets: &[SocketAddr]) -> Vec<InnerEntry> {
    let routes = vec![route("mail", "", forward(targets))];
    vec![InnerEntry::new("mail".into(), Protocol::Tcp, true, routes, BTreeSet::new())]
}

const SELF_SIGNED: &str = "certificates: { self_signed: true }";

/// `protocol: tcp`: opaque bytes after TLS, the target speaking first.
#[tokio::test]
async fn opaque_bytes_pass_after_tls_and_the_target_may_speak_first() {
    let target = Target::listen().await;
    let world = World::new(SELF_SIGNED, opaque(&[target.address]));
    let (mut tls, conn) = world.tls_of("mail", &["imap"]).await;
    let mut socket = target.accept().await;
    socket.write_all(b"* OK ready\r\n").await.unwrap();
    let mut greeting = [0; 12];
    within(tls.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"* OK ready\r\n");
    tls.write_all(b"a1 LOGOUT\r\n").await.unwrap();
    let mut command = [0; 11];
    within(socket.read_exact(&mut command)).await.unwrap();
    let half = world.ledger.half(conn.key).unwrap();
    assert_eq!((half.phase, half.tls.as_ref().unwrap().value.alpn.clone()), (Phase::Relaying, None));
    assert_eq!(half.target.as_ref().unwrap().value.address, Some(target.address));
    // The target ends; the client still may speak, then ends too.
    socket.shutdown().await.unwrap();
    assert_eq!(rest(&mut tls).await, (vec![], true), "our close_notify");
    tls.write_all(b"bye").await.unwrap();
    tls.shutdown().await.unwrap();
    assert_eq!(rest(&mut socket).await, (b"bye".to_vec(), true));
    drop((tls, socket));
    let end = world.end(conn).await;
    assert_eq!(end.key().unwrap().0.reason, Reason::TargetClosed, "its end came first");
    assert_eq!((end.undelivered, end.hop.read_to_eof), (0, true));
}

#[tokio::test]
async fn an_opaque_target_that_refuses_ends_the_connection_with_its_reason() {
    let nobody = Target::listen().await.address;
    let world = World::new(SELF_SIGNED, opaque(&[nobody]));
    let (mut tls, conn) = world.tls_of("mail", &[]).await;
    assert!(!rest(&mut tls).await.1, "no orderly end of a stream that never was");
    let cause = world.cause(conn).await;
    assert_eq!((cause.reason, cause.leg), (Reason::TargetRefused, Some(LegName::Target)));
}

/// R-64 under TLS: the client sees no `close_notify` and a reset.
#[tokio::test]
async fn an_opaque_target_s_reset_is_no_end_of_stream() {
    let target = Target::listen().await;
    let world = World::new(SELF_SIGNED, opaque(&[target.address]));
    let (mut tls, conn) = world.tls_of("mail", &[]).await;
    let mut socket = target.accept().await;
    socket.write_all(b"partial").await.unwrap();
    let mut partial = [0; 7];
    within(tls.read_exact(&mut partial)).await.unwrap();
    reset(socket);
    assert!(!rest(&mut tls).await.1);
    assert_eq!(world.cause(conn).await.reason, Reason::TargetReset);
}

#[tokio::test]
async fn a_client_that_closes_tls_first_ends_the_target_in_order() {
    let target = Target::listen().await;
    let world = World::new(SELF_SIGNED, opaque(&[target.address]));
    let (mut tls, conn) = world.tls_of("mail", &[]).await;
    let mut socket = target.accept().await;
    tls.write_all(b"all").await.unwrap();
    tls.shutdown().await.unwrap();
    assert_eq!(rest(&mut socket).await, (b"all".to_vec(), true));
    socket.write_all(b"answer").await.unwrap();
    drop(socket);
    assert_eq!(rest(&mut tls).await, (b"answer".to_vec(), true));
    drop(tls);
    let end = world.end(conn).await;
    assert_eq!(end.key().unwrap().0.reason, Reason::ClientClosed);
}
