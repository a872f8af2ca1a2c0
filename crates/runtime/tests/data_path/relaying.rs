//! The relay: who closes first, how, with what on the way. Whichever way bytes are moved, it is the same.

use std::io::ErrorKind;
use std::time::Duration;

use ledger::{Direction, LegName, Observation, Phase, Reason, Role};
use runtime::{CloseMode, CloseOrder, Mode, PipePool, SendQueue, Splicing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{
    self, Bounds, Process, USER_TIMEOUT, bytes, observed, pattern, read_all, reason, reset, until, within,
    write_all,
};

/// Runs each test in every way of moving bytes.
macro_rules! matrix {
    ($($name:ident),+ $(,)?) => {
        mod copied {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Process::moving(super::Mode::Copy, super::Role::Front)).await;
            })+
        }
        mod spliced {
            $(#[tokio::test]
            async fn $name() {
                super::through_pipes(super::$name, 0).await;
            })+
        }
        mod spliced_in_bulk {
            $(#[tokio::test]
            async fn $name() {
                super::through_pipes(super::$name, super::Splicing::AFTER).await;
            })+
        }
    };
}

matrix! {
    a_clients_fin_is_passed_on_and_the_answer_still_comes,
    a_slow_client_gets_everything_after_the_target_closed,
    a_reset_is_passed_on_as_a_reset_after_what_came_before_it,
    a_reset_behind_a_blocked_write_is_noticed_and_its_bytes_are_delivered,
    a_reset_after_a_half_close_ends_the_connection,
    a_stalled_reader_is_reset_at_write_stall_and_no_more_is_read_for_it,
    a_blocked_write_shows_its_deadline_until_it_goes_on,
    a_half_close_without_progress_ends_at_its_bound,
    inactivity_is_judged_over_both_directions,
    the_first_order_to_close_is_the_cause,
    a_stalled_reader_outlives_the_tcp_user_timeout,
    urgent_data_does_not_stop_a_direction,
}

/// Runs a test with pipes, and none is in use when it is over.
async fn through_pipes(test: impl AsyncFnOnce(Process), after: usize) {
    let pool = PipePool::default();
    test(Process::moving(rig::spliced(&pool, after), Role::Front)).await;
    assert_eq!(pool.lent(), 0, "a pipe outlives its relay");
}

const SIZES: [usize; 5] = [0, 1, 1_460, 65_537, 1 << 20];

/// a client's FIN is passed on after its bytes; the answer comes back whole; counts are
/// exact.
async fn a_clients_fin_is_passed_on_and_the_answer_still_comes(process: Process) {
    for size in SIZES {
        let mut rig = process.relay(Bounds::default()).await;
        let (request, answer) = (pattern(size), pattern(100_000));
        let (mut client, mut target) = (rig.client.split(), rig.target.split());
        let ask = async {
            client.1.write_all(&request).await.unwrap();
            client.1.shutdown().await.unwrap();
            let mut got = Vec::new();
            client.0.read_to_end(&mut got).await.unwrap();
            got
        };
        let serve = async {
            let mut got = Vec::new();
            target.0.read_to_end(&mut got).await.unwrap();
            target.1.write_all(&answer).await.unwrap();
            target.1.shutdown().await.unwrap();
            got
        };
        let (got_answer, got_request) = within(async { tokio::join!(ask, serve) }).await;
        assert!(got_request == request && got_answer == answer, "{size}: bytes changed on the way");
        let half = rig.settled().await;
        assert_eq!(reason(&half), Reason::ClientClosed);
        assert_eq!(observed(&half), [Reason::ClientClosed, Reason::TargetClosed]);
        assert_eq!(half.half_closed, Some(LegName::Client));
        for (leg, direction, count) in [
            (LegName::Client, Direction::In, size),
            (LegName::Target, Direction::Out, size),
            (LegName::Target, Direction::In, answer.len()),
            (LegName::Client, Direction::Out, answer.len()),
        ] {
            assert_eq!(bytes(&half, leg, direction), count as u64, "{leg:?} {direction:?}");
        }
        assert_eq!(half.end.as_ref().unwrap().value.undelivered, 0);
    }
}

/// the target sends 8 MiB and closes; a client that begins to read only then gets every byte.
async fn a_slow_client_gets_everything_after_the_target_closed(process: Process) {
    let rig = process.relay(Bounds::default()).await;
    let sent = pattern(8 << 20);
    let (mut client, mut target) = (rig.client, rig.target);
    let expected = sent.clone();
    let server = tokio::spawn(async move {
        target.write_all(&sent).await.unwrap();
        target.shutdown().await.unwrap();
        target
    });
    let mut got = Vec::new();
    // One byte at first: the stream is open, the rest waits in the kernels and at the target.
    got.push(within(client.read_u8()).await.unwrap());
    let mut chunk = vec![0; 10_000];
    loop {
        tokio::task::yield_now().await;
        match within(client.read(&mut chunk)).await.unwrap() {
            0 => break,
            count => got.extend_from_slice(&chunk[..count]),
        }
    }
    assert!(got == expected, "bytes lost or changed: {} of {}", got.len(), expected.len());
    client.shutdown().await.unwrap();
    drop(within(server).await.unwrap());
    within(rig.connection).await.unwrap();
    let half = process.manager.ledger().half(rig.key).unwrap();
    assert_eq!(reason(&half), Reason::TargetClosed);
    assert_eq!(bytes(&half, LegName::Client, Direction::Out), 8 << 20);
}

/// a reset is passed on as a reset, after every byte that came before it, from either side, with
/// little or much on the way.
async fn a_reset_is_passed_on_as_a_reset_after_what_came_before_it(process: Process) {
    for size in SIZES {
        for from_client in [true, false] {
            let rig = process.relay(Bounds::default()).await;
            let sent = pattern(size);
            let (mut sender, mut reader, expected) = if from_client {
                (rig.client, rig.target, Reason::ClientReset)
            } else {
                (rig.target, rig.client, Reason::TargetReset)
            };
            let reading = tokio::spawn(async move { read_all(&mut reader).await });
            write_all(&mut sender, &sent).await;
            until("delivery", || SendQueue::of(&sender).unwrap().is_empty()).await;
            reset(sender);
            let (got, end) = within(reading).await.unwrap();
            assert!(got == sent, "{size} from_client={from_client}: {} of {size} bytes", got.len());
            assert_eq!(
                end.unwrap_err().kind(),
                ErrorKind::ConnectionReset,
                "{size} from_client={from_client}"
            );
            within(rig.connection).await.unwrap();
            let half = process.manager.ledger().half(rig.key).unwrap();
            assert_eq!(reason(&half), expected, "{:?}", observed(&half));
        }
    }
}

/// a reset is noticed while its sender's bytes cannot be passed on, and the bytes are passed on
/// nevertheless.
async fn a_reset_behind_a_blocked_write_is_noticed_and_its_bytes_are_delivered(process: Process) {
    let rig = process.relay(Bounds::default()).await;
    let (mut client, mut target) = (rig.client, rig.target);
    let mut sent = 0;
    let chunk = pattern(65_536);
    // Until nothing moves any more: every buffer on the way is full.
    while let Ok(count) = tokio::time::timeout(Duration::from_millis(200), client.write(&chunk)).await {
        sent += count.unwrap();
    }
    let key = rig.key;
    let queued = SendQueue::of(&client).unwrap();
    assert!(queued.unsent > 0, "the client's window is closed");
    // Less one: its SYN counts.
    let arrived = queued.acked - 1;
    reset(client);
    until("the end", || {
        process.manager.ledger().view().live.iter().all(|(live, _)| *live != key)
            || rig.traffic.bytes(LegName::Target, Direction::Out) > 0
    })
    .await;
    let (got, end) = read_all(&mut target).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    within(rig.connection).await.unwrap();
    let half = process.manager.ledger().half(key).unwrap();
    assert_eq!(reason(&half), Reason::ClientReset);
    let (read, written) =
        (bytes(&half, LegName::Client, Direction::In), bytes(&half, LegName::Target, Direction::Out));
    assert!(sent as u64 >= read && read >= arrived, "what had arrived was read, after the reset too");
    assert_eq!((read, written), (got.len() as u64, got.len() as u64), "what was read was delivered");
    assert_eq!(half.end.as_ref().unwrap().value.undelivered, 0);
}

/// a reset after a half-close is seen although nobody reads any more, and ends the other direction.
async fn a_reset_after_a_half_close_ends_the_connection(process: Process) {
    let mut rig = process.relay(Bounds::default()).await;
    rig.client.shutdown().await.unwrap();
    rig.wait_for_phase(Phase::HalfClosed).await;
    let (client, mut target) = (rig.client, rig.target);
    reset(client);
    let (_, end) = read_all(&mut target).await;
    // The client's end of stream came first and was passed on; then the reset.
    assert!(end.is_ok() || end.unwrap_err().kind() == ErrorKind::ConnectionReset);
    within(rig.connection).await.unwrap();
    let half = process.manager.ledger().half(rig.key).unwrap();
    assert_eq!(observed(&half)[..2], [Reason::ClientClosed, Reason::ClientReset]);
    assert_eq!(reason(&half), Reason::ClientReset);
}

/// a reader that stops closes the sender's window; one buffer at most is kept meanwhile.
async fn a_stalled_reader_is_reset_at_write_stall_and_no_more_is_read_for_it(process: Process) {
    let bounds = Bounds { write_stall: Duration::from_millis(600), ..Bounds::default() };
    let rig = process.relay(bounds).await;
    let (client, mut target) = (rig.client, rig.target);
    let chunk = pattern(65_536);
    let end = loop {
        match within(target.write(&chunk)).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    within(rig.connection).await.unwrap();
    let half = process.manager.ledger().half(rig.key).unwrap();
    assert_eq!(reason(&half), Reason::WriteStallTimeout);
    let cause = &half.settlement.as_ref().unwrap().value.cause;
    assert_eq!(cause.side, Some(LegName::Client));
    let rule = cause.rule.as_ref().unwrap();
    assert_eq!((&*rule.name, &*rule.limit, &*rule.source), ("write_stall", "600ms", "test:1"));
    let (read, written) =
        (bytes(&half, LegName::Target, Direction::In), bytes(&half, LegName::Client, Direction::Out));
    assert!(read - written <= 64 * 1024, "{read} read, {written} written");
    let undelivered = half.end.as_ref().unwrap().value.undelivered;
    assert!(undelivered >= read - written && undelivered <= read, "{undelivered}");
    drop(client);
}

/// P5: a write that is blocked for long shows its deadline, and loses it when it goes on.
async fn a_blocked_write_shows_its_deadline_until_it_goes_on(process: Process) {
    let bounds = Bounds { write_stall: Duration::from_mins(1), ..Bounds::default() };
    let mut rig = process.relay(bounds).await;
    let chunk = pattern(65_536);
    while tokio::time::timeout(Duration::from_millis(200), rig.target.write(&chunk)).await.is_ok() {}
    let armed = |rig: &crate::rig::Rig| rig.half().armed.iter().map(|a| a.name.name()).collect::<Vec<_>>();
    until("the stall on the record", || armed(&rig) == ["inactivity", "write_stall"]).await;
    let mut got = vec![0; 1 << 20];
    until("the stall to go", || {
        while rig.client.try_read(&mut got).is_ok() {}
        armed(&rig) == ["inactivity"]
    })
    .await;
    reset(rig.client);
    within(rig.connection).await.unwrap();
}

/// a half-closed connection without progress is closed at the bound, with its reason, as a reset.
async fn a_half_close_without_progress_ends_at_its_bound(process: Process) {
    let bounds = Bounds { half_close: Duration::from_millis(300), ..Bounds::default() };
    let mut rig = process.relay(bounds).await;
    rig.client.shutdown().await.unwrap();
    let half = rig.wait_for_phase(Phase::HalfClosed).await;
    assert_eq!(half.armed.iter().map(|a| a.name.name()).collect::<Vec<_>>(), ["half_close"]);
    let (_, end) = read_all(&mut rig.client).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let half = rig.settled().await;
    assert_eq!(reason(&half), Reason::HalfCloseTimeout);
    assert!(half.end.as_ref().unwrap().value.age >= Duration::from_millis(300));
}

/// bytes in one direction keep a connection; none in either end it, in order, with the rule.
async fn inactivity_is_judged_over_both_directions(process: Process) {
    let bounds = Bounds { inactivity: Duration::from_millis(400), ..Bounds::default() };
    let mut rig = process.relay(bounds).await;
    let began = process.manager.clock().mono();
    let mut last = began;
    for _ in 0..12 {
        write_all(&mut rig.target, b"x").await;
        within(rig.client.read_u8()).await.unwrap();
        last = process.manager.clock().mono();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(last - began > Duration::from_millis(800), "longer than the limit, in one direction only");
    let (rest, end) = read_all(&mut rig.client).await;
    assert!(rest.is_empty() && end.is_ok(), "an idle connection is closed in order");
    rig.client.shutdown().await.unwrap();
    rig.target.shutdown().await.unwrap();
    let half = rig.settled().await;
    assert_eq!(reason(&half), Reason::InactivityTimeout);
    let cause = &half.settlement.as_ref().unwrap().value.cause;
    assert_eq!(&*cause.rule.as_ref().unwrap().name, "inactivity");
}

/// R-06, P3: an order from outside is the cause, gracefully or at once; a second one does nothing.
async fn the_first_order_to_close_is_the_cause(process: Process) {
    for mode in [CloseMode::Graceful, CloseMode::Abort] {
        let mut rig = process.relay(Bounds::default()).await;
        let order = |reason| CloseOrder {
            observation: Observation::new(Role::Front, reason, None, Duration::ZERO)
                .with_detail("anna: test"),
            mode,
        };
        write_all(&mut rig.target, b"before").await;
        rig.wait_for_bytes(LegName::Client, Direction::Out, 6).await;
        assert!(process.manager.initiate_cleanup_once(rig.key, order(Reason::OperatorClosed)));
        assert!(!process.manager.initiate_cleanup_once(rig.key, order(Reason::RouteRemoved)));
        let (got, end) = read_all(&mut rig.client).await;
        assert_eq!(got, b"before");
        assert_eq!(end.is_ok(), mode == CloseMode::Graceful);
        if mode == CloseMode::Graceful {
            rig.client.shutdown().await.unwrap();
            rig.target.shutdown().await.unwrap();
        }
        let key = rig.key;
        let half = rig.settled().await;
        assert_eq!(reason(&half), Reason::OperatorClosed);
        assert!(half.settlement.as_ref().unwrap().value.cause.sentence.contains("anna: test"));
        assert!(!process.manager.initiate_cleanup_once(key, order(Reason::RouteRemoved)), "it is gone");
    }
}

/// `write_stall` bounds a reader that answers and takes nothing, not `TCP_USER_TIMEOUT`: the kernel takes a
/// closed window for silence, and would name the wrong cause.
async fn a_stalled_reader_outlives_the_tcp_user_timeout(process: Process) {
    let rig = process.relay(Bounds::default()).await;
    let (mut client, mut target) = (rig.client, rig.target);
    let sent = pattern(16 << 20);
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        target.write_all(&sent).await.unwrap();
        target.shutdown().await.unwrap();
        target
    });
    // Longer than the accepted socket's timeout: the relay raises it when it sees the stall.
    tokio::time::sleep(USER_TIMEOUT * 2).await;
    let (got, end) = read_all(&mut client).await;
    assert!(end.is_ok() && got == expected, "{} of {}", got.len(), expected.len());
    client.shutdown().await.unwrap();
    drop(within(writer).await.unwrap());
    within(rig.connection).await.unwrap();
}

/// a byte that is sent as urgent is no part of the stream (tcp(7)); what is sent after it passes.
async fn urgent_data_does_not_stop_a_direction(process: Process) {
    let mut rig = process.relay(Bounds::default()).await;
    for _ in 0..3 {
        write_all(&mut rig.client, b"a").await;
        rustix::net::send(&rig.client, b"!", rustix::net::SendFlags::OOB).unwrap();
        assert_eq!(within(rig.target.read_u8()).await.unwrap(), b'a');
        write_all(&mut rig.client, b"b").await;
        assert_eq!(within(rig.target.read_u8()).await.unwrap(), b'b');
    }
    reset(rig.client);
    within(rig.connection).await.unwrap();
}
