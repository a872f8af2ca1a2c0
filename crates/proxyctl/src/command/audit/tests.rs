//! The audit's exit code and its table.

use super::*;
use crate::fake::{Answers, Fake, is, millis, shown};

fn balanced() -> pb::AuditResponse {
    let law = |name: &str, left: (&str, u64), right: (&str, u64)| pb::Law {
        name: name.into(),
        left_name: left.0.into(),
        left: left.1,
        right_name: right.0.into(),
        right: right.1,
        holds: true,
        ..Default::default()
    };
    pb::AuditResponse {
        instance_id: "01948a00-0000-7000-8000-00000000f001".into(),
        role: pb::Role::Front.into(),
        balanced: true,
        quiet: true,
        laws: vec![
            law("opened = live + settling + settled", ("opened", 12), ("recounted", 12)),
            pb::Law {
                peer_instance_id: "01948a00-0000-7000-8000-00000000e001".into(),
                excused: 1,
                ..law("live bridged fronts = live inner halves", ("fronts", 3), ("inner", 2))
            },
        ],
        alarms: Some(pb::Alarms::default()),
        ..Default::default()
    }
}

fn broken() -> pb::AuditResponse {
    let mut audit = balanced();
    audit.balanced = false;
    audit.quiet = false;
    audit.laws[1].holds = false;
    audit.laws[1].excused = 0;
    audit.in_flight = vec![pb::InFlight {
        connection_id: crate::fake::ID.into(),
        attempt: 9,
        peer_instance_id: "01948a00-0000-7000-8000-00000000e001".into(),
        age: millis(61_000),
        live: pb::Role::Front.into(),
        excuse: 0,
    }];
    audit.alarms = Some(pb::Alarms { drift_detected: 2, ..Default::default() });
    audit
}

/// P2: each law with both sides' numbers.
#[test]
fn each_law_shows_both_numbers() {
    let expected = "\
STATE  LAW                                      LEFT  RIGHT  EXCUSED  PEER
holds  opened = live + settling + settled         12     12        0  -
holds  live bridged fronts = live inner halves     3      2        1  00000000e001

smartproxy 01948a00-0000-7000-8000-00000000f001: balanced; nothing is in flight, every closed half is settled
";
    assert_eq!(shown(|screen| show(&balanced(), Output::Table, screen)), expected);
}

#[test]
fn a_broken_law_says_what_was_counted_and_who_is_not_excused() {
    let expected = "\
STATE   LAW                                      LEFT  RIGHT  EXCUSED  PEER          COUNTED
holds   opened = live + settling + settled         12     12        0  -
BROKEN  live bridged fronts = live inner halves     3      2        0  00000000e001  fronts 3, inner 2

IN FLIGHT     LIVE AT     ATTEMPT  PEER            FOR  EXCUSE
0123456789ab  smartproxy        9  00000000e001  1m01s  none

ALARM           COUNT  MEANING
drift_detected      2  digests of a peer that differed from its mirror

smartproxy 01948a00-0000-7000-8000-00000000f001: NOT balanced
";
    assert_eq!(shown(|screen| show(&broken(), Output::Table, screen)), expected);
}

#[tokio::test]
async fn it_exits_with_1_exactly_if_the_books_do_not_balance() {
    for output in ["table", "json", "wide"] {
        let fake = Fake::start(Answers { audit: balanced(), ..Answers::default() }).await;
        let (code, _) = fake.run(&format!("audit -o {output}")).await;
        assert!(is(code.unwrap(), ExitCode::SUCCESS));
        let fake = Fake::start(Answers { audit: broken(), ..Answers::default() }).await;
        let (code, text) = fake.run(&format!("audit -o {output}")).await;
        assert!(is(code.unwrap(), ExitCode::FAILURE), "{text}");
    }
}

#[tokio::test]
async fn a_wait_is_left_to_the_process() {
    let fake = Fake::start(Answers { audit: balanced(), ..Answers::default() }).await;
    for line in ["audit", "audit --wait", "audit --wait 1500ms"] {
        fake.text(line).await;
    }
    let waits: Vec<_> = fake.seen().audits.into_iter().map(|request| request.wait).collect();
    assert_eq!(waits, [None, millis(30_000), millis(1_500)]);
}
