//! What is held back, and what is given back: session tickets until there is something to say, buffers while
//! there is nothing.

use ledger::DeadlineName;
use runtime::preface::HopClass;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::*;

/// Waits until the connection has been quiet for so long that it was put to rest: its record shows the
/// deadline of the quiet then.
async fn rested(world: &World, front: &Front) {
    let shows = |half: std::sync::Arc<ledger::Half>| {
        half.armed.iter().any(|armed| armed.name == DeadlineName::KeepAlive)
    };
    until("it is at rest", || world.ledger.half(front.key).is_some_and(shows)).await;
}

/// an idle connection gives hyper's buffers back, and goes on as if nothing had happened.
#[tokio::test]
async fn a_connection_at_rest_wakes_for_the_next_request() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.answering(OK)]));
    let mut front = world.http().await;
    for _ in 0..2 {
        front.send(GET).await;
        assert_eq!(front.response().await.text(), "ok");
        rested(&world, &front).await;
    }
    // In pieces, and two at once.
    let (begin, end) = GET.split_at(9);
    front.send(begin).await;
    front.send(format!("{end}{GET}")).await;
    assert_eq!(front.response().await.text(), "ok");
    assert_eq!(front.response().await.text(), "ok");
    assert_eq!(world.reasons(front.hang_up()).await, [ledger::Reason::HopClosed]);
}

/// a head that began in the same packet as the request before it is not lost when nothing follows.
#[tokio::test]
async fn the_beginning_of_a_head_outlives_the_quiet() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.answering(OK)]));
    let mut front = world.http().await;
    let (begin, end) = GET.split_at(9);
    front.send(format!("{GET}{begin}")).await;
    assert_eq!(front.response().await.text(), "ok");
    rested(&world, &front).await;
    front.send(end).await;
    assert_eq!(front.response().await.text(), "ok");
    drop(world.end(front.hang_up()).await);
}

/// what ends a connection at rest is said as to any other: TLS's `close_notify`, then the FIN.
#[tokio::test]
async fn a_connection_at_rest_is_ended_in_order() {
    let target = Target::listen().await;
    let world = World::new(
        "certificates: { self_signed: true }\ntimeouts: { keep_alive: 1500ms }",
        tls_site(&[target.answering(OK)]),
    );
    let (mut client, conn) = world.tls(&["http/1.1"]).await;
    client.write_all(GET.as_bytes()).await.unwrap();
    assert_eq!(response(&mut client).await.text(), "ok");
    let (read, in_order) = rest(&mut client).await;
    assert!(read.is_empty() && in_order, "without close_notify rustls reports an unexpected end");
    drop(client);
    assert_eq!(world.cause(conn).await.reason, ledger::Reason::KeepAliveTimeout);
}

#[tokio::test]
async fn a_drain_ends_a_connection_at_rest() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.answering(OK)]));
    let mut front = world.http().await;
    front.send(GET).await;
    front.response().await;
    rested(&world, &front).await;
    world.inside.wind_down.give();
    let (mut hop, conn) = front.split();
    assert_eq!(rest(&mut hop).await, (Vec::new(), true));
    drop(hop);
    assert_eq!(world.cause(conn).await.reason, ledger::Reason::Drained);
}

/// TLS over the hop by hand: which bytes come when.
struct Client {
    hop: TcpStream,
    tls: ClientConnection,
}

impl Client {
    fn send(&mut self, text: &str) {
        std::io::Write::write_all(&mut self.tls.writer(), text.as_bytes()).unwrap();
    }

    async fn flush(&mut self) {
        let mut wire = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut wire).unwrap();
        }
        self.hop.write_all(&wire).await.unwrap();
    }

    async fn receive(&mut self) {
        let mut wire = vec![0; 16 * 1024];
        let count = within(self.hop.read(&mut wire)).await.unwrap();
        assert!(count > 0, "the hop ended");
        let mut wire = &wire[..count];
        while !wire.is_empty() {
            self.tls.read_tls(&mut wire).unwrap();
            self.tls.process_new_packets().unwrap();
        }
    }
}

/// TLS 1.3's session tickets, for which nobody waits, go with the first response; everything else of a
/// handshake goes at once.
#[tokio::test]
async fn session_tickets_go_with_the_first_response() {
    let target = Target::listen().await;
    let world = World::new("certificates: { self_signed: true }", tls_site(&[target.address]));
    let front = world.open("site", HopClass::Tls, Some("a.example")).await;
    let (hop, conn) = front.split();
    let name = ServerName::try_from("a.example").unwrap();
    let config = std::sync::Arc::new(world.client_config(&["http/1.1"]));
    let mut client = Client { hop, tls: ClientConnection::new(config, name).unwrap() };
    while client.tls.is_handshaking() {
        client.flush().await;
        client.receive().await;
    }
    client.send(GET);
    client.flush().await;
    let (mut socket, _) = target.request().await;
    // networkproxy has read past the handshake by now: if the tickets were sent, they are here.
    let mut byte = [0];
    assert!(
        matches!(client.hop.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
        "nothing is sent before there is something to say",
    );
    socket.write_all(OK.as_bytes()).await.unwrap();
    client.receive().await;
    let mut plain = [0; 1024];
    let count = std::io::Read::read(&mut client.tls.reader(), &mut plain).unwrap();
    assert!(String::from_utf8_lossy(&plain[..count]).ends_with("ok"));
    assert!(client.tls.tls13_tickets_received() > 0, "they came in the same packet");
    drop(client);
    drop(world.end(conn).await);
}
