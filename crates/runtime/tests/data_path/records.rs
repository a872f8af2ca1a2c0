//! Records and their owners.

use std::collections::BTreeSet;
use std::time::Duration;

use ledger::{DeadlineName, Direction, HopCount, LegName, Observation, Phase, Reason, Restart, Role};
use runtime::{CloseMode, CloseOrder};

use crate::rig::{PATIENCE, Process, limit, observed, reason, until, within};

/// a panic in a connection's task ends that record, as panicked, and no other.
#[tokio::test]
async fn a_panicking_owner_ends_its_own_record_only() {
    let process = Process::start(Role::Front);
    let (bystander, _leg, _client) = process.accept().await;
    let (tracked, leg, _other) = process.accept().await;
    let key = tracked.key();
    let task = tokio::spawn(async move {
        let (tracked, _leg) = (tracked, leg);
        tokio::task::yield_now().await;
        assert!(tracked.observations().len() > 1, "on purpose");
    });
    assert!(within(task).await.unwrap_err().is_panic());
    let half = process.manager.ledger().half(key).unwrap();
    assert_eq!(reason(&half), Reason::Panicked);
    assert!(process.manager.ledger().half(bystander.key()).unwrap().is_live());
    assert_eq!(process.manager.ledger().connected_clients(), 1);
}

/// an owner that is dropped ends its record once: with what was observed, else as abandoned.
#[tokio::test]
async fn a_dropped_owner_ends_its_record_with_what_it_saw() {
    let process = Process::start(Role::Front);
    let (tracked, ..) = process.accept().await;
    let key = tracked.key();
    tracked.traffic().moved(LegName::Hop, Direction::Out, 7, Duration::ZERO);
    tracked.traffic().moved(LegName::Hop, Direction::In, 5, Duration::ZERO);
    drop(tracked);
    let half = process.manager.ledger().half(key).unwrap();
    assert_eq!(reason(&half), Reason::Abandoned);
    // What passed the hop is not forgotten: the other half's count would contradict it.
    let hop = half.end.as_ref().unwrap().value.hop;
    assert_eq!(hop, HopCount { sent: 7, received: 5, read_to_eof: false });
    let (mut tracked, ..) = process.accept().await;
    let key = tracked.key();
    tracked.observe(tracked.observation(Reason::NoRoute, None));
    let task = tokio::spawn(async move {
        let _owned = tracked;
        std::future::pending::<()>().await;
    });
    task.abort();
    assert!(within(task).await.unwrap_err().is_cancelled());
    assert_eq!(reason(&process.manager.ledger().half(key).unwrap()), Reason::NoRoute);
    assert_eq!(process.manager.ledger().connected_clients(), 0);
}

/// a record without an owner is found by the second sweep, ended, counted and in the log; owned ones and
/// those that are just being opened or ended are left alone.
#[tokio::test]
async fn a_sweep_ends_what_nobody_owns_and_counts_it() {
    let process = Process::start(Role::Front);
    let ledger = process.manager.ledger();
    let (owned, ..) = process.accept().await;
    let orphan = process.open_without_owner();
    let mut suspects = BTreeSet::new();
    assert_eq!(process.manager.sweep(&mut suspects), 0);
    let late = process.open_without_owner();
    assert_eq!(process.manager.sweep(&mut suspects), 1);
    assert_eq!(reason(&ledger.half(orphan).unwrap()), Reason::Abandoned);
    assert!(ledger.half(late).unwrap().is_live());
    assert_eq!(process.manager.sweep(&mut suspects), 1);
    assert_eq!(process.manager.sweep(&mut suspects), 0);
    let now = process.manager.clock().now();
    assert_eq!(ledger.counters(now).alarms.repairs, 2);
    assert!(ledger.half(owned.key()).unwrap().is_live());
    assert!(ledger.audit(now).balanced);
}

/// ten thousand orders at once; each connection ends once, for the first reason.
#[tokio::test]
async fn everyone_may_order_a_close_and_the_first_counts() {
    let process = Process::start(Role::Front);
    let (tracked, ..) = process.accept().await;
    let order = |reason| CloseOrder {
        observation: Observation::new(Role::Front, reason, None, Duration::ZERO),
        mode: CloseMode::Abort,
    };
    let key = tracked.key();
    let waiting = async { tokio::join!(tracked.closing(), tracked.closing()) };
    let ordering = async {
        assert_eq!(process.manager.close_all(&order(Reason::Shutdown)), 1);
        assert_eq!(process.manager.close_all(&order(Reason::Drained)), 0);
        assert!(!process.manager.initiate_cleanup_once(key, order(Reason::Drained)));
    };
    let ((one, two), ()) = within(async { tokio::join!(waiting, ordering) }).await;
    assert_eq!((one.observation.reason, two.observation.reason), (Reason::Shutdown, Reason::Shutdown));
    assert_eq!(
        within(tracked.closing()).await.observation.reason,
        Reason::Shutdown,
        "also for who looks late"
    );
    drop(tracked);
    assert!(!process.manager.initiate_cleanup_once(key, order(Reason::Drained)));
}

/// P5, R-46: the record shows what is armed as of its phase; what fires names its rule and value.
#[tokio::test]
async fn a_deadline_is_shown_with_its_phase_and_names_its_rule() {
    let process = Process::start(Role::Front);
    let (mut tracked, ..) = process.accept().await;
    let key = tracked.key();
    tracked.arm(DeadlineName::InitialData, &limit(Duration::from_millis(50)), Restart::Never);
    tracked.phase(Phase::InitialData);
    let armed = process.manager.ledger().half(key).unwrap().armed.to_vec();
    assert_eq!(
        armed.iter().map(|a| (a.name, &*a.source)).collect::<Vec<_>>(),
        [(DeadlineName::InitialData, "test:1")]
    );
    let fired = within(tracked.expired()).await;
    assert_eq!(fired, armed[0]);
    tracked.observe_expiry(&fired, Reason::InitialDataTimeout, None);
    tracked.finish(HopCount::default(), 0);
    let half = process.manager.ledger().half(key).unwrap();
    assert_eq!(observed(&half), [Reason::InitialDataTimeout]);
    let cause = &half.settlement.as_ref().unwrap().value.cause;
    assert_eq!(&*cause.rule.as_ref().unwrap().limit, "50ms");
    assert!(cause.observed.as_ref().unwrap().ends_with("ms"));
    assert!(half.end.as_ref().unwrap().value.age >= Duration::from_millis(50));
}

/// activity is looked at when the timer fires, so a busy connection outlives its idle limit.
#[tokio::test]
async fn activity_moves_an_idle_deadline_without_touching_a_timer() {
    let process = Process::start(Role::Front);
    let (mut tracked, leg, mut client) = process.accept().await;
    tracked.arm(DeadlineName::Inactivity, &limit(Duration::from_millis(200)), Restart::OnBytes);
    let began = process.manager.clock().active();
    let busy = async {
        while process.manager.clock().active() - began < Duration::from_millis(500) {
            crate::rig::write_all(&mut client, b"x").await;
            leg.readable().await.unwrap();
            until("the byte", || leg.try_read(&mut [0; 8]).is_ok()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::future::pending::<()>().await;
    };
    let fired = tokio::select! {
        fired = tokio::time::timeout(PATIENCE, tracked.expired()) => fired.unwrap(),
        () = busy => unreachable!(),
    };
    assert_eq!(fired.name, DeadlineName::Inactivity);
    assert!(process.manager.clock().active() - began >= Duration::from_millis(500), "it outlived its limit");
}
