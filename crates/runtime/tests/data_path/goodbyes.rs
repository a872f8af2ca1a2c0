//! How sockets are left.

use std::io::ErrorKind;
use std::time::Duration;

use ledger::{LegName, Observation, Reason, Role};
use runtime::{FarewellLimits, Goodbye, Outcome, Parting, cleanup_connection, cleanup_socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{PATIENCE, Process, limit, pattern, read_all, reset, until, within, write_all};

fn limits(write_stall: Duration, close: Duration) -> FarewellLimits {
    FarewellLimits { write_stall: limit(write_stall), close: limit(close) }
}

/// the answer survives a client that is still sending: what it sends is read and dropped, and counts.
#[tokio::test]
async fn the_answer_arrives_whole_although_the_client_still_sends() {
    let process = Process::start(Role::Front);
    let (tracked, leg, client) = process.accept().await;
    let answer = pattern(3 << 20);
    let expected = answer.clone();
    let goodbye = tokio::spawn(async move {
        let parting = Parting { leg, goodbye: Goodbye::Orderly, rest: answer };
        cleanup_socket(parting, &limits(PATIENCE, PATIENCE)).await
    });
    let (mut reading, mut writing) = client.into_split();
    let upload = pattern(3 << 20);
    // First everything is sent, then the answer is read: without discarding, both would wait for ever.
    within(writing.write_all(&upload)).await.unwrap();
    let mut got = Vec::new();
    within(reading.read_to_end(&mut got)).await.unwrap();
    assert!(got == expected, "{} of {}", got.len(), expected.len());
    writing.shutdown().await.unwrap();
    let departure = within(goodbye).await.unwrap();
    assert_eq!((departure.outcome, departure.undelivered, departure.delivered), (Outcome::Closed, 0, true));
    assert_eq!(departure.count.received, upload.len() as u64);
    assert!(departure.count.read_to_eof);
    drop(tracked);
}

/// a goodbye that is not answered ends as a reset, at `close`, and not before.
#[tokio::test]
async fn an_unanswered_goodbye_is_a_reset_at_its_bound() {
    let process = Process::start(Role::Front);
    let (mut tracked, leg, mut client) = process.accept().await;
    tracked.observe(tracked.observation(Reason::TargetClosed, Some(LegName::Target)));
    let began = process.manager.clock().mono();
    let bounds = limits(PATIENCE, Duration::from_millis(300));
    let parting = Parting { leg, goodbye: Goodbye::Orderly, rest: b"bye".to_vec() };
    let farewell = within(cleanup_connection(&mut tracked, parting, None, &bounds)).await;
    assert!(process.manager.clock().mono() - began >= Duration::from_millis(300));
    assert_eq!(farewell.undelivered, 0);
    let mut got = [0; 3];
    client.read_exact(&mut got).await.unwrap();
    // Everything arrived, the FIN too; what follows it is a reset all the same.
    until("the reset", || client.try_write(b"x").is_err()).await;
    let key = tracked.key();
    tracked.finish(farewell.hop, farewell.undelivered);
    let half = process.manager.ledger().half(key).unwrap();
    assert_eq!(crate::rig::observed(&half), [Reason::TargetClosed, Reason::CloseTimeout]);
    assert_eq!(crate::rig::reason(&half), Reason::TargetClosed, "the unanswered goodbye is a consequence");
    assert_eq!(
        half.log.iter().map(|e| e.phase.name()).collect::<Vec<_>>(),
        ["accepted", "closing", "closed"]
    );
}

/// R-39, P4: a peer that takes nothing is given up after `write_stall`, and what it lacks is reported.
#[tokio::test]
async fn a_goodbye_to_a_stalled_peer_reports_what_it_did_not_get() {
    let process = Process::start(Role::Front);
    for goodbye in [Goodbye::Orderly, Goodbye::Reset] {
        let (tracked, leg, mut client) = process.accept().await;
        let rest = pattern(32 << 20);
        let all = rest.len() as u64;
        let parting = Parting { leg, goodbye, rest };
        let departure = within(cleanup_socket(parting, &limits(Duration::from_millis(300), PATIENCE))).await;
        assert_eq!(departure.outcome, Outcome::Stalled);
        assert!(!departure.delivered);
        let (got, end) = read_all(&mut client).await;
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(departure.undelivered + got.len() as u64, all, "every byte is somewhere");
        drop(tracked);
    }
}

/// passing a reset on delivers first, however slowly the other end reads.
#[tokio::test]
async fn a_reset_waits_until_everything_was_delivered() {
    let process = Process::start(Role::Front);
    let (tracked, leg, mut client) = process.accept().await;
    let rest = pattern(6 << 20);
    let expected = rest.clone();
    let parting = Parting { leg, goodbye: Goodbye::Reset, rest };
    let goodbye = tokio::spawn(async move { cleanup_socket(parting, &limits(PATIENCE, PATIENCE)).await });
    let (got, end) = read_all(&mut client).await;
    assert!(got == expected, "{} of {}", got.len(), expected.len());
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(within(goodbye).await.unwrap().outcome, Outcome::Reset);
    drop(tracked);
}

/// P4: dropping a leg, as a dying task does, is a reset and never an end of stream.
#[tokio::test]
async fn a_dropped_leg_is_a_reset() {
    let process = Process::start(Role::Front);
    let (tracked, leg, mut client) = process.accept().await;
    let (target, mut far) = process.target(&tracked).await;
    drop((leg, target));
    for socket in [&mut client, &mut far] {
        let (got, end) = read_all(socket).await;
        assert!(got.is_empty());
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    drop(tracked);
}

/// What a socket does after it got everything is a consequence of the close, not its cause.
#[tokio::test]
async fn a_reset_after_a_delivered_goodbye_is_no_cause() {
    let process = Process::start(Role::Front);
    let (mut tracked, leg, mut client) = process.accept().await;
    let key = tracked.key();
    tracked.observe(tracked.observation(Reason::TargetClosed, Some(LegName::Target)));
    let traffic = tracked.traffic().clone();
    let goodbye = tokio::spawn(async move {
        let parting = Parting { leg, goodbye: Goodbye::Orderly, rest: b"all of it".to_vec() };
        let farewell = cleanup_connection(&mut tracked, parting, None, &limits(PATIENCE, PATIENCE)).await;
        tracked.finish(farewell.hop, farewell.undelivered);
    });
    let (got, end) = read_all(&mut client).await;
    assert!(got == b"all of it" && end.is_ok());
    let closing = || process.manager.ledger().half(key).unwrap();
    until("the wait for the client's end", || closing().armed.iter().any(|a| a.name.name() == "close")).await;
    write_all(&mut client, b"more").await;
    until("discarding", || traffic.bytes(LegName::Client, ledger::Direction::In) == 4).await;
    reset(client);
    within(goodbye).await.unwrap();
    let half = closing();
    assert_eq!(crate::rig::observed(&half), [Reason::TargetClosed, Reason::ClientReset]);
    assert_eq!(crate::rig::reason(&half), Reason::TargetClosed);
    assert_eq!(crate::rig::bytes(&half, LegName::Client, ledger::Direction::In), 4, "discarded bytes count");
}

/// The hop's count in the record's end is the leg's own: header apart, discarded bytes included.
#[tokio::test]
async fn the_hops_count_leaves_the_header_out_and_discarded_bytes_in() {
    let process = Process::start(Role::Front);
    let (mut tracked, client_leg, client) = process.accept().await;
    let (hop, mut far) = process.outgoing(&tracked, LegName::Hop).await;
    hop.exclude_header(10);
    assert_eq!(hop.try_write(b"0123456789chunk").unwrap(), 15);
    write_all(&mut far, b"late bytes").await;
    far.shutdown().await.unwrap();
    drop(client);
    let observation =
        Observation::new(Role::Front, Reason::ClientClosed, Some(LegName::Client), Duration::ZERO);
    tracked.observe(observation);
    let first = Parting { leg: client_leg, goodbye: Goodbye::Orderly, rest: Vec::new() };
    let second = Parting { leg: hop, goodbye: Goodbye::Orderly, rest: Vec::new() };
    let bounds = limits(PATIENCE, PATIENCE);
    let farewell = within(cleanup_connection(&mut tracked, first, Some(second), &bounds)).await;
    assert_eq!((farewell.hop.sent, farewell.hop.received, farewell.hop.read_to_eof), (5, 10, true));
    assert_eq!(tracked.traffic().bytes(LegName::Hop, ledger::Direction::Out), 5);
    tracked.finish(farewell.hop, farewell.undelivered);
}

/// P4: a handle that somebody forgot does not keep a reset from being sent.
#[tokio::test]
async fn a_forgotten_handle_does_not_hold_a_reset_back() {
    let process = Process::start(Role::Front);
    let (tracked, leg, mut client) = process.accept().await;
    let forgotten = leg.io(Vec::new());
    let parting = Parting { leg, goodbye: Goodbye::Abort, rest: Vec::new() };
    assert_eq!(within(cleanup_socket(parting, &limits(PATIENCE, PATIENCE))).await.outcome, Outcome::Reset);
    let (_, end) = read_all(&mut client).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    drop((forgotten, tracked));
}

/// a reader that is slow, but goes on, is not a stalled one, however long it takes in all.
#[tokio::test]
async fn a_slow_reader_is_not_a_stalled_one() {
    let process = Process::start(Role::Front);
    for goodbye in [Goodbye::Orderly, Goodbye::Reset] {
        let (tracked, leg, mut client) = process.accept().await;
        let rest = pattern(24 << 20);
        let expected = rest.clone();
        let bounds = limits(Duration::from_millis(600), PATIENCE);
        let parting = Parting { leg, goodbye, rest };
        let began = process.manager.clock().mono();
        let leaving = tokio::spawn(async move { cleanup_socket(parting, &bounds).await });
        let mut got = Vec::new();
        let mut chunk = vec![0; 256 * 1024];
        while let Ok(count @ 1..) = within(client.read(&mut chunk)).await {
            got.extend_from_slice(&chunk[..count]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(
            process.manager.clock().mono() - began > Duration::from_millis(1_500),
            "slower than the limit"
        );
        assert!(got == expected, "{} of {}", got.len(), expected.len());
        drop(client);
        let outcome = within(leaving).await.unwrap().outcome;
        assert!(matches!(outcome, Outcome::Closed | Outcome::Reset), "{outcome:?}");
        drop(tracked);
    }
}
