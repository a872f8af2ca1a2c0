//! Legs: counts and evidence.

use std::io::ErrorKind;
use std::time::Duration;

use ledger::{Direction, LegName, Reason, Role};
use runtime::{Keepalive, News, SendQueue, set_from_birth};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{Process, pattern, reset, until, within, write_all};

fn reasons(leg: &runtime::Leg) -> Vec<Reason> {
    leg.take_news().iter().map(|news| news.reason(leg.name())).collect()
}

/// the kernel answers 0 to a read after its error was taken; a leg never takes that for an end.
#[tokio::test]
async fn a_reset_is_never_read_as_an_end_of_stream() {
    let process = Process::start(Role::Front);
    let (tracked, leg, mut client) = process.accept().await;
    write_all(&mut client, b"last words").await;
    until("delivery", || SendQueue::of(&client).unwrap().is_empty()).await;
    reset(client);
    let failure = within(leg.failed()).await;
    assert_eq!(failure.error().kind(), ErrorKind::ConnectionReset);
    let mut buffer = [0; 64];
    assert_eq!(leg.try_read(&mut buffer).unwrap(), 10, "what was queued is read first");
    for _ in 0..2 {
        assert_eq!(leg.try_read(&mut buffer).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert!(leg.evidence().fin.is_none());
    assert_eq!(reasons(&leg), [Reason::ClientReset]);
    assert_eq!(reasons(&leg), [], "news are told once");
    drop(tracked);
}

/// A reset that a write found first is still a reset to the reader.
#[tokio::test]
async fn a_reset_found_by_a_write_is_a_reset_to_the_reader_too() {
    let process = Process::start(Role::Front);
    let (tracked, leg, client) = process.accept().await;
    reset(client);
    within(leg.writable()).await.unwrap();
    until("the reset", || leg.try_write(b"x").is_err()).await;
    assert!(leg.try_read(&mut [0; 8]).is_err());
    assert!(leg.evidence().fin.is_none() && leg.evidence().failure.is_some());
    drop(tracked);
}

/// A FIN and then a reset are two pieces of evidence, in order; the end of stream stays one.
#[tokio::test]
async fn a_reset_after_a_fin_is_told_after_it() {
    let process = Process::start(Role::Front);
    let (tracked, leg, mut client) = process.accept().await;
    client.shutdown().await.unwrap();
    within(leg.readable()).await.unwrap();
    assert_eq!(leg.try_read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(reasons(&leg), [Reason::ClientClosed]);
    reset(client);
    within(leg.failed()).await;
    assert_eq!(reasons(&leg), [Reason::ClientReset]);
    assert_eq!(leg.try_read(&mut [0; 8]).unwrap(), 0, "the end of stream was real");
    drop(tracked);
}

/// The same when we had said goodbye before we looked: the reset was there first.
#[tokio::test]
async fn a_reset_after_a_fin_is_noticed_behind_our_own_fin() {
    let process = Process::start(Role::Front);
    let (tracked, leg, mut client) = process.accept().await;
    client.shutdown().await.unwrap();
    within(leg.readable()).await.unwrap();
    assert_eq!(leg.try_read(&mut [0; 8]).unwrap(), 0);
    reset(client);
    until("the reset", || leg.send_queue().unwrap().ended).await;
    leg.shutdown_write();
    within(leg.failed()).await;
    assert_eq!(reasons(&leg), [Reason::ClientClosed, Reason::ClientReset]);
    drop(tracked);
}

/// `failed` is for resets, not for orderly ends, and several may wait for it.
#[tokio::test]
async fn an_orderly_end_is_no_failure() {
    let process = Process::start(Role::Front);
    let (tracked, leg, mut client) = process.accept().await;
    client.shutdown().await.unwrap();
    leg.shutdown_write();
    let both = async { tokio::join!(leg.failed(), leg.failed()) };
    assert!(tokio::time::timeout(Duration::from_millis(100), both).await.is_err());
    assert_eq!(leg.try_write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert!(leg.evidence().failure.is_none(), "writing after our own FIN says nothing about the other end");
    drop((tracked, client));
}

/// every byte counts once, whoever moves it: the leg or a handle of it; a prefix was counted.
#[tokio::test]
async fn bytes_count_once_through_the_handle_and_the_leg() {
    let process = Process::start(Role::Inner);
    let (tracked, leg, mut client) = process_leg(&process).await;
    let mut io = leg.io(b"read before".to_vec());
    let sent = pattern(300_000);
    let writer = async {
        client.write_all(&sent).await.unwrap();
        let mut got = [0; 5];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"reply");
        client.shutdown().await.unwrap();
    };
    let reader = async {
        io.write_all(b"reply").await.unwrap();
        let mut got = Vec::new();
        io.read_to_end(&mut got).await.unwrap();
        assert_eq!(&got[..11], b"read before");
        assert!(got[11..] == sent);
        io.shutdown().await.unwrap();
    };
    within(async { tokio::join!(writer, reader) }).await;
    assert_eq!(client.read(&mut [0; 4]).await.unwrap(), 0, "a shutdown is our FIN");
    assert_eq!(tracked.traffic().bytes(leg.name(), Direction::In), 300_011);
    assert_eq!(tracked.traffic().bytes(leg.name(), Direction::Out), 5);
    assert_eq!((leg.count().received, leg.count().sent, leg.count().read_to_eof), (300_011, 5, true));
    assert_eq!(leg.unacknowledged(), 0);
}

async fn process_leg(process: &Process) -> (runtime::TrackedConnection, runtime::Leg, tokio::net::TcpStream) {
    let front = Process::start(Role::Front);
    let (_tracked, _leg, _client) = front.accept().await;
    let listener = crate::rig::listener();
    let address = listener.local_addr().unwrap();
    let (far, accepted) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    let (socket, remote) = accepted.unwrap();
    let accept = crate::rig::accept(address, remote, process.manager.clock());
    let arrival = process.manager.ledger().arrive();
    let id = (runtime::mint::connection_id(), ledger::Attempt(1));
    let front = runtime::mint::instance_id();
    let (tracked, leg) = process
        .manager
        .adopt_inner(socket, 11, arrival, id, front, std::sync::Arc::new(accept).into())
        .unwrap();
    (tracked, leg, far.unwrap())
}

/// What the other end lacks is known to the byte, on accepted and on dialled sockets.
#[tokio::test]
async fn unacknowledged_bytes_are_counted_exactly() {
    let process = Process::start(Role::Front);
    let (tracked, accepted, mut client) = process.accept().await;
    let (dialled, mut far) = process.target(&tracked).await;
    for (leg, end) in [(&accepted, &mut client), (&dialled, &mut far)] {
        assert_eq!(leg.unacknowledged(), 0);
        let chunk = pattern(65_536);
        let mut written = 0;
        while let Ok(()) = tokio::time::timeout(Duration::from_millis(100), leg.writable())
            .await
            .unwrap_or(Err(ErrorKind::TimedOut.into()))
        {
            written += leg.try_write(&chunk).unwrap_or(0);
        }
        assert!(leg.unacknowledged() > 0, "the window is closed");
        // What the other kernel has acknowledged is what it holds, since nobody reads there.
        let held = || rustix::io::ioctl_fionread(&*end).unwrap();
        until("both counts to agree", || leg.unacknowledged() + held() == written as u64).await;
        let mut got = vec![0; written];
        within(end.read_exact(&mut got)).await.unwrap();
        until("the acknowledgement", || leg.unacknowledged() == 0).await;
    }
    drop(tracked);
}

/// Ledger page, "Sockets tell the truth": linger from birth, on both kinds of socket; vanished clients are
/// noticed by keepalive.
#[tokio::test]
async fn sockets_are_set_up_from_birth() {
    let keepalive = Keepalive::within(Duration::from_mins(1));
    let address = "127.0.0.1:0".parse().unwrap();
    let bound = runtime::Bound::bind(address, runtime::Sharing::Exclusive, Some(keepalive)).unwrap().unwrap();
    let address = bound.address();
    let listener = bound.listen().unwrap();
    let (dialled, accepted) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap().0);
    set_from_birth(&dialled, Some(keepalive)).unwrap();
    for socket in [SockRef::from(&dialled), SockRef::from(&accepted)] {
        assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO));
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        // Six probes may be lost before the time is up.
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(5));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_mins(1)));
    }
}

#[test]
fn a_silent_network_is_told_apart_from_a_reset() {
    let failure = |errno| News::Failed(runtime::Failure { at: Duration::ZERO, errno });
    for (errno, client, target, hop) in [
        (104, Reason::ClientReset, Reason::TargetReset, Reason::HopReset),
        (32, Reason::ClientReset, Reason::TargetReset, Reason::HopReset),
        (110, Reason::ClientVanished, Reason::TargetVanished, Reason::HopReset),
        (113, Reason::ClientVanished, Reason::TargetVanished, Reason::HopReset),
    ] {
        let told = [LegName::Client, LegName::Target, LegName::Hop].map(|leg| failure(errno).reason(leg));
        assert_eq!(told, [client, target, hop]);
    }
}

/// A peer whose kernel acknowledges nothing for `TCP_USER_TIMEOUT` has vanished: noticed without reading, and
/// told apart from a reset. (The kernel takes a closed window for that; hence `tolerate_stall`.)
#[tokio::test]
async fn a_vanished_client_is_noticed_and_not_called_a_reset() {
    let process = Process::start(Role::Front);
    let (tracked, leg, client) = process.accept().await;
    let chunk = pattern(65_536);
    let fill = async {
        loop {
            leg.writable().await.unwrap();
            let written = leg.try_write(&chunk);
            if written.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock) {
                // Broken: writable for ever, and each look at that is without a pause.
                std::future::pending::<()>().await;
            }
        }
    };
    let failure = tokio::select! {
        failure = within(leg.failed()) => failure,
        () = fill => unreachable!(),
    };
    assert!(failure.is_vanished(), "{failure:?}");
    assert_eq!(reasons(&leg), [Reason::ClientVanished]);
    drop((tracked, client));
}
