//! Listeners: what is bound, what is accepted, how a listener ends.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use runtime::{AcceptErrors, AcceptFault, BindError, Bound, Clock, Sharing, Workers, accept_loop};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::rig::{read_all, within};

/// A bound port is a lock against a second instance, also one that workers share: nobody joins it by mistake.
#[tokio::test]
async fn a_bound_port_is_a_lock() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let every = [Sharing::Exclusive, Sharing::PerWorker(1), Sharing::PerWorker(2)];
    for sharing in every {
        let first = Bound::bind(any, sharing, None).unwrap().unwrap();
        for sharing in every {
            let second = Bound::bind(first.address(), sharing, None);
            assert!(matches!(second, Err(BindError::Refused { address, .. }) if address == first.address()));
        }
    }
}

/// Clients are spread over the workers that share a port, and each stays where it was accepted.
#[test]
fn workers_share_the_clients_of_a_port() {
    let workers = Workers::start(2).unwrap();
    let bound = Bound::bind("127.0.0.1:0".parse().unwrap(), Sharing::PerWorker(2), None).unwrap().unwrap();
    let address = bound.address();
    let (told, accepted) = std::sync::mpsc::channel();
    for (worker, listener) in bound.listen_on(&workers).unwrap() {
        let told = told.clone();
        runtime::tasks::spawn_on(worker, "listener", async move {
            let (clock, errors) = (Clock::start(Duration::from_secs(1)), AcceptErrors::default());
            accept_loop(listener, None, &clock, &errors, std::future::pending(), |socket, _| {
                drop(socket);
                told.send(std::thread::current().name().map(ToOwned::to_owned)).unwrap();
            })
            .await;
        });
    }
    // By a hash of the addresses: that one gets none of 64 has a chance of one in 2^63.
    let clients: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let names: std::collections::BTreeSet<_> = accepted.iter().take(clients.len()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
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
    let bound = Bound::bind("127.0.0.1:0".parse().unwrap(), Sharing::PerWorker(1), None).unwrap().unwrap();
    let address = bound.address();
    let listener = bound.listen().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(TcpStream::connect(address).await.unwrap());
    }
    let (clock, errors) = (Clock::start(Duration::from_secs(1)), AcceptErrors::default());
    let mut accepted = Vec::new();
    let drained = std::future::ready(());
    accept_loop(listener, None, &clock, &errors, drained, |socket, _| accepted.push(socket)).await;
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
        accept_loop(listener, None, &clock, &errors, drained, |socket, client| {
            clients.push((socket, client));
        })
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
