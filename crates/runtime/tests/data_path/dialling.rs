//! Dialling: every error its reason.

use std::future::Future as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use ledger::{LegName, Reason};
use runtime::{Clock, DialError, DialOptions, SourceSpread, dial};

use crate::rig::{PATIENCE, listener, within};

fn clock() -> Clock {
    Clock::start(Duration::from_secs(1))
}

/// A port on which nobody listens.
fn closed_port() -> SocketAddr {
    listener().local_addr().unwrap()
}

/// refused at once; the next address is tried.
#[tokio::test]
async fn addresses_are_tried_in_turn() {
    let (clock, open) = (clock(), listener());
    let addresses = [closed_port(), open.local_addr().unwrap()];
    let until = clock.active() + PATIENCE;
    let dialled = within(dial(&addresses, until, DialOptions::default(), &clock)).await.unwrap();
    assert_eq!(dialled.address, addresses[1]);
    let refused = within(dial(&addresses[..1], until, DialOptions::default(), &clock)).await.unwrap_err();
    assert_eq!(refused, DialError::Refused(addresses[0]));
    assert_eq!(refused.reason(LegName::Target), Reason::TargetRefused);
    assert_eq!(refused.reason(LegName::Hop), Reason::HopConnectFailed);
}

/// a listener that never accepts, its backlog full: the dial ends by its deadline.
#[tokio::test]
async fn a_silent_target_is_given_up_at_the_deadline() {
    let clock = clock();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    let silent = loop {
        let until = clock.active() + Duration::from_millis(200);
        match within(dial(&[address], until, DialOptions::default(), &clock)).await {
            Ok(dialled) => waiting.push(dialled),
            Err(error) => break error,
        }
        assert!(waiting.len() < 10, "the backlog is full by now");
    };
    assert_eq!(silent, DialError::TimedOut(address));
    assert_eq!(silent.reason(LegName::Target), Reason::TargetConnectTimeout);
    // One silent address does not take the time of the next.
    let open = listener();
    let addresses = [address, open.local_addr().unwrap()];
    let until = clock.active() + Duration::from_millis(500);
    let dialled = within(dial(&addresses, until, DialOptions::default(), &clock)).await.unwrap();
    assert_eq!(dialled.address, addresses[1]);
}

/// Source addresses are taken in turn over the loopback network.
#[tokio::test]
async fn the_hop_is_dialled_from_many_addresses() {
    let (clock, open) = (clock(), listener());
    let sources = SourceSpread::over(3);
    let options = DialOptions { sources: Some(&sources) };
    let mut seen = Vec::new();
    for _ in 0..4 {
        let address = [open.local_addr().unwrap()];
        let until = clock.active() + PATIENCE;
        let dialled = within(dial(&address, until, options, &clock)).await.unwrap();
        seen.push(dialled.socket.local_addr().unwrap().ip());
    }
    let host = |last| std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    assert_eq!(seen, [host(1), host(2), host(3), host(1)]);
}

#[tokio::test]
async fn no_address_is_an_error_of_its_own() {
    let clock = clock();
    let error = dial(&[], clock.active() + PATIENCE, DialOptions::default(), &clock).await.unwrap_err();
    assert_eq!((error, error.reason(LegName::Target)), (DialError::NoAddress, Reason::TargetUnreachable));
}

/// a dial that is dropped, at whichever step, leaves no socket behind.
#[tokio::test]
async fn a_dropped_dial_leaves_no_socket() {
    let clock = clock();
    let open = listener();
    let address = open.local_addr().unwrap();
    for steps in 0..20 {
        let until = clock.active() + PATIENCE;
        let addresses = [address];
        let mut dialling = Box::pin(dial(&addresses, until, DialOptions::default(), &clock));
        for _ in 0..steps {
            let step = std::future::poll_fn(|cx| Poll::Ready(dialling.as_mut().poll(cx).is_ready()));
            if step.await {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(dialling);
    }
    // Ours among the kernel's: those towards the listener that are connecting or connected.
    let towards = format!("0100007F:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ours: Vec<&str> = table
        .lines()
        .filter(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // Columns: slot, local, remote, state; 01 is ESTABLISHED, 02 SYN_SENT.
            words.get(2) == Some(&towards.as_str()) && matches!(words.get(3), Some(&"01" | &"02"))
        })
        .collect();
    assert!(ours.is_empty(), "{ours:#?}");
}
