//! Connections to targets, kept, reused and let go.

use ledger::{Direction, LegName};
use tokio::io::AsyncWriteExt as _;

use crate::harness::*;

async fn ask(world: &World) -> u16 {
    let mut front = world.http().await;
    front.send(GET).await;
    let status = front.response().await.status();
    world.end(front.hang_up()).await;
    status
}

/// one target connection serves two clients, is no client itself, and each pays for its own bytes.
#[tokio::test]
async fn a_target_connection_is_used_again_by_another_client() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut first = world.http().await;
    first.send(GET).await;
    let (mut socket, head) = target.request().await;
    socket.write_all(OK.as_bytes()).await.unwrap();
    first.response().await;
    let key = first.key;
    world.end(first.hang_up()).await;
    until("it is idle", || world.inside.pool.counts().idle == 1).await;
    assert_eq!(world.ledger.connected_clients(), 0);

    let mut second = world.http().await;
    second.send("GET /longer/path HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    let longer = crate::harness::head(&mut socket).await;
    socket.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(second.response().await.status(), 200);
    let shown = world.ledger.half(second.key).unwrap().target.clone().unwrap();
    assert!(shown.value.reused);
    assert_eq!(world.bytes(key, LegName::Target, Direction::Out), head.len() as u64);
    assert_eq!(world.bytes(second.key, LegName::Target, Direction::Out), longer.len() as u64);
    assert!(target.is_untouched());
}

/// a pooled connection that the target has closed meanwhile costs nobody a 502.
#[tokio::test]
async fn a_connection_that_went_stale_while_idle_costs_nothing() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    for round in 0..50 {
        let asking = tokio::join!(ask(&world), async {
            let (mut socket, _) = target.request().await;
            socket.write_all(OK.as_bytes()).await.unwrap();
            // Closed at once: sometimes before the next request takes it, sometimes after.
            drop(socket);
        });
        assert_eq!(asking.0, 200, "round {round}");
    }
}

/// of two connections with the same key the older one dies late: the newer one stays in the pool.
#[tokio::test]
async fn an_older_connection_s_end_does_not_take_a_newer_one_away() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let (mut one, mut two) = (world.http().await, world.http().await);
    one.send(GET).await;
    let (mut older, _) = target.request().await;
    two.send(GET).await;
    let (mut newer, _) = target.request().await;
    for (front, socket) in [(&mut one, &mut older), (&mut two, &mut newer)] {
        socket.write_all(OK.as_bytes()).await.unwrap();
        assert_eq!(front.response().await.status(), 200);
    }
    until("both are idle", || world.inside.pool.counts().idle == 2).await;
    drop(older);
    until("the older one is gone", || world.inside.pool.counts().open == 1).await;
    assert_eq!(world.inside.pool.counts().idle, 1);
    two.send(GET).await;
    head(&mut newer).await;
    newer.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(two.response().await.status(), 200);
    assert!(target.is_untouched());
}

/// the target closes a reused connection without a byte: a request that changes nothing is sent again
/// on a fresh one, once; a body is never sent twice.
#[tokio::test]
async fn only_what_can_be_repeated_is_sent_again() {
    for (request, repeated) in [
        ("GET /x HTTP/1.1\r\nhost: a.example\r\n\r\n", true),
        ("DELETE /x HTTP/1.1\r\nhost: a.example\r\n\r\n", true),
        ("POST /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: 0\r\n\r\n", false),
        ("POST /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: 2\r\n\r\nhi", false),
        ("PUT /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: 2\r\n\r\nhi", false),
    ] {
        let target = Target::listen().await;
        let world = World::new("", site(&[target.address]));
        let mut front = world.http().await;
        front.send(GET).await;
        let (mut socket, _) = target.request().await;
        socket.write_all(OK.as_bytes()).await.unwrap();
        front.response().await;
        front.send(request).await;
        head(&mut socket).await;
        drop(socket);
        if repeated {
            let (mut fresh, again) = target.request().await;
            assert_eq!(again.split(' ').next(), request.split(' ').next());
            fresh.write_all(OK.as_bytes()).await.unwrap();
            assert_eq!(front.response().await.status(), 200, "{request}");
        } else {
            assert_eq!(front.response().await.status(), 502, "{request}");
            assert!(target.is_untouched(), "{request}");
        }
    }
}

/// Once, and not for ever.
#[tokio::test]
async fn a_request_is_tried_again_once() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    socket.write_all(OK.as_bytes()).await.unwrap();
    front.response().await;
    front.send(GET).await;
    head(&mut socket).await;
    drop(socket);
    drop(target.request().await);
    assert_eq!(front.response().await.status(), 502);
    assert!(target.is_untouched());
}

#[tokio::test]
async fn nothing_is_tried_again_where_the_file_says_so() {
    let target = Target::listen().await;
    let world = World::new("pool: { retry_stale: false }", site(&[target.address]));
    let mut front = world.http().await;
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    socket.write_all(OK.as_bytes()).await.unwrap();
    front.response().await;
    front.send(GET).await;
    head(&mut socket).await;
    drop(socket);
    assert_eq!(front.response().await.status(), 502);
}

/// the gauge is separate and drops to 0 after the idle limit, not before.
#[tokio::test]
async fn an_idle_connection_is_let_go_after_its_limit() {
    let target = Target::listen().await;
    let world = World::new("pool: { idle_timeout: 150ms }", site(&[target.address]));
    let mut front = world.http().await;
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    socket.write_all(OK.as_bytes()).await.unwrap();
    front.response().await;
    let idle_since = world.clock.active();
    until("it is idle", || world.inside.pool.counts().idle == 1).await;
    let (seen, orderly) = rest(&mut socket).await;
    assert!(seen.is_empty() && orderly, "we say goodbye in order");
    let waited = world.clock.active().saturating_sub(idle_since);
    assert!(waited.as_millis() >= 130, "let go after {waited:?}");
    drop(socket);
    until("the pool is empty", || world.inside.pool.counts().open == 0).await;
    assert_eq!(world.ledger.connected_clients(), 1, "the client stays");
}

#[tokio::test]
async fn no_more_than_the_limit_are_kept_idle() {
    let target = Target::listen().await;
    let world = World::new("pool: { max_idle_per_target: 2 }", site(&[target.address]));
    let mut fronts = Vec::new();
    let mut sockets = Vec::new();
    for _ in 0..4 {
        let mut front = world.http().await;
        front.send(GET).await;
        sockets.push(target.request().await.0);
        fronts.push(front);
    }
    assert_eq!(world.inside.pool.counts().open, 4);
    for (front, socket) in fronts.iter_mut().zip(&mut sockets) {
        socket.write_all(OK.as_bytes()).await.unwrap();
        front.response().await;
    }
    until("two are idle", || world.inside.pool.counts().idle == 2).await;
    drop(sockets);
    until("the pool is empty", || world.inside.pool.counts().open == 0).await;
}

/// an aged connection takes no new request, and is not cut while it has one.
#[tokio::test]
async fn an_aged_connection_finishes_its_request_and_takes_no_other() {
    let target = Target::listen().await;
    let world = World::new("pool: { max_age: 100ms }", site(&[target.address]));
    let mut front = world.http().await;
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello").await.unwrap();
    let aged = world.clock.active() + std::time::Duration::from_millis(250);
    until("it is aged", || world.clock.active() > aged).await;
    socket.write_all(b"world").await.unwrap();
    assert_eq!(front.response().await.text(), "helloworld");
    front.send(GET).await;
    let (mut fresh, _) = target.request().await;
    fresh.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(front.response().await.status(), 200);
    assert!(rest(&mut socket).await.0.is_empty());
}

/// A target that says more than was asked for is not trusted with another request.
#[tokio::test]
async fn a_connection_with_unasked_bytes_is_not_used_again() {
    let target = Target::listen().await;
    let world = World::new("", site(&[target.address]));
    let mut front = world.http().await;
    front.send(GET).await;
    let (mut socket, _) = target.request().await;
    socket
        .write_all(format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").as_bytes())
        .await
        .unwrap();
    assert_eq!(front.response().await.text(), "ok");
    until("it is gone", || world.inside.pool.counts().open == 0).await;
    front.send(GET).await;
    let (mut fresh, _) = target.request().await;
    fresh.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(front.response().await.text(), "ok");
}
