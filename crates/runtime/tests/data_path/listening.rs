//! Listeners: what is bound, what is accepted, how a listener ends.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use runtime::{AcceptErrors, AcceptFault, BindError, Bound, Clock, Sharing, accept_loop};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::rig::{read_all, within};

/// The control port is the lock against a second instance; a public port may be shared by workers.
#[tokio::test]
async fn an_exclusive_port_is_a_lock() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let first = Bound::bind(any, Sharing::Exclusive, None).unwrap().unwrap();
    for sharing in [Sharing::Exclusive, Sharing::PerWorker] {
        let second = Bound::bind(first.address(), sharing, None);
        assert!(matches!(second, Err(BindError::Refused { address, .. }) if address == first.address()));
    }
    let worker = Bound::bind(any, Sharing::PerWorker, None).unwrap().unwrap();
    assert!(Bound::bind(worker.address(), Sharing::PerWorker, None).is_ok());
    assert!(Bound::bind(worker.address(), Sharing::Exclusive, None).is_err());
}

/// Configuration page: one port on the addresses of both families; a family that is missing is skipped.
#[test]
fn both_families_get_the_same_port() {
    let addresses = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    match Bound::bind_all(&addresses, 0, Sharing::Exclusive, None) {
        Ok(all) => {
            assert!(!all.is_empty());
            assert!(all.iter().all(|bound| bound.address().port() == all[0].address().port()));
        }
        // A host that has IPv6 without its loopback address.
        Err(BindError::Refused { address, .. }) => assert!(address.is_ipv6()),
        Err(other) => panic!("{other}"),
    }
}

/// R-74's neighbour: what had completed its handshake before the drain is served, not reset.
#[tokio::test]
async fn a_draining_listener_takes_what_waits_in_its_queue() {
    let bound = Bound::bind("127.0.0.1:0".parse().unwrap(), Sharing::PerWorker, None).unwrap().unwrap();
    let address = bound.address();
    let listener = bound.listen().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(TcpStream::connect(address).await.unwrap());
    }
    let (clock, errors) = (Clock::start(Duration::from_secs(1)), AcceptErrors::default());
    let mut accepted = Vec::new();
    let drained = std::future::ready(());
    accept_loop(listener, &clock, &errors, drained, |socket, _| accepted.push(socket)).await;
    assert_eq!(accepted.len(), 20);
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
    for socket in accepted {
        socket.try_write(b"served").unwrap();
        socket2::SockRef::from(&socket).set_linger(None).unwrap();
    }
    for mut client in waiting {
        let mut got = [0; 6];
        within(client.read_exact(&mut got)).await.unwrap();
        let (rest, end) = read_all(&mut client).await;
        assert!(rest.is_empty() && end.is_ok());
    }
}

#[tokio::test]
async fn a_listener_accepts_until_it_is_drained() {
    let bound = Bound::bind("127.0.0.1:0".parse().unwrap(), Sharing::Exclusive, None).unwrap().unwrap();
    let address = bound.address();
    let listener = bound.listen().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let looping = tokio::spawn(async move {
        let (clock, errors) = (Clock::start(Duration::from_secs(1)), AcceptErrors::default());
        let mut clients = Vec::new();
        let drained = async { drop(stopped.await) };
        accept_loop(listener, &clock, &errors, drained, |socket, client| clients.push((socket, client)))
            .await;
        clients.into_iter().map(|(_, client)| client).collect::<Vec<_>>()
    });
    let (mut clients, mut expected) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let client = TcpStream::connect(address).await.unwrap();
        expected.push(client.local_addr().unwrap());
        clients.push(client);
    }
    drop(stop);
    assert_eq!(within(looping).await.unwrap(), expected);
}

/// errors of accept(2) are told apart.
#[test]
fn accept_errors_are_classified() {
    for (errno, fault) in [
        (103, AcceptFault::Aborted),
        (113, AcceptFault::Aborted),
        (24, AcceptFault::ProcessDescriptors),
        (23, AcceptFault::HostDescriptors),
        (105, AcceptFault::Memory),
        (12, AcceptFault::Memory),
        (9, AcceptFault::Unexpected),
    ] {
        assert_eq!(AcceptFault::of(&io::Error::from_raw_os_error(errno)), fault, "{errno}");
    }
}
