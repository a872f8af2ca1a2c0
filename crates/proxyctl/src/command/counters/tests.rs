//! The counters of a process beside its peers'.

use super::*;
use crate::fake::{Answers, Fake, shown};

fn counters() -> pb::GetCountersResponse {
    let settled = |reason: pb::Reason, initiator: pb::Initiator, count| pb::SettledCount {
        reason: reason.into(),
        initiator: initiator.into(),
        count,
    };
    let tally = pb::Tally {
        opened: 14,
        settled: vec![
            settled(pb::Reason::ClientClosed, pb::Initiator::Client, 3),
            settled(pb::Reason::InactivityTimeout, pb::Initiator::Smartproxy, 8),
        ],
        settled_from_both: 10,
        settled_only: 1,
        ..Default::default()
    };
    let theirs = pb::Tally {
        opened: 9,
        settled: vec![settled(pb::Reason::ClientClosed, pb::Initiator::Client, 4)],
        settled_from_both: 4,
        ..Default::default()
    };
    pb::GetCountersResponse {
        own: Some(pb::OwnCounters {
            instance_id: "01948a00-0000-7000-8000-00000000f001".into(),
            role: pb::Role::Front.into(),
            connected_clients: 2,
            port_proxy_connections: 2,
            opened: 14,
            settling: 1,
            settled: 11,
            tally: Some(tally),
            phases: vec![pb::PhaseCount { phase: pb::Phase::Relaying.into(), count: 2 }],
            bytes: Some(pb::ByteCounts { client_in: 5_000, client_out: 7, ..Default::default() }),
            requests: 3,
            hop_arrivals: Some(pb::HopArrivals::default()),
            admitted: 2,
            client_addresses: 1,
            alarms: Some(pb::Alarms { session_resets: 1, ..Default::default() }),
            ..Default::default()
        }),
        peers: vec![pb::PeerCounters {
            instance_id: "01948a00-0000-7000-8000-00000000e001".into(),
            stale: true,
            connected_clients: 2,
            port_proxy_connections: 2,
            tls_terminated_connections: 2,
            settling: 1,
            tally: Some(theirs),
        }],
        departed: Some(pb::DepartedPeers {
            instances: 1,
            tally: Some(pb::Tally { opened: 5, ..Default::default() }),
        }),
    }
}

/// P2: own numbers beside what is believed of the peer.
#[test]
fn each_counter_has_a_line_and_each_process_a_column() {
    let expected = "\
smartproxy 01948a00-0000-7000-8000-00000000f001

COUNTER                              OWN          PEER
instance                    00000000f001  00000000e001
as of                                now   last digest
connected_clients                      2             2
port_proxy_connections                 2             2
tls_terminated_connections             0             2
opened                                14             9
settling                               1             1
settled                               11             4
admitted                               2             -
client_addresses                       1             -
requests                               3             -
bytes from clients                4.8KiB             -
bytes to clients                      7B             -
bytes from the hop                    0B             -
bytes to the hop                      0B             -
bytes from targets                    0B             -
bytes to targets                      0B             -

peers gone for good: 1, which had opened 5 halves

PHASE     LIVE
relaying     2

REASON              INITIATOR   OWN  PEER
inactivity_timeout  smartproxy    8     0
client_closed       client        3     4

ALARM           COUNT  MEANING
session_resets      1  control sessions that ended without a goodbye
";
    assert_eq!(shown(|screen| show(&counters(), Output::Table, screen)), expected);
}

#[test]
fn networkproxy_shows_what_became_of_hop_sockets() {
    let mut counters = counters();
    let own = counters.own.as_mut().unwrap();
    own.role = pb::Role::Inner.into();
    own.hop_arrivals = Some(pb::HopArrivals {
        arrived: 12,
        pending: 1,
        verified: 9,
        refused: vec![pb::RefusedCount { reason: pb::Reason::HopAuthFailed.into(), count: 2 }],
    });
    let text = shown(|screen| show(&counters, Output::Table, screen));
    assert!(text.contains("refused: hop_auth_failed      2\n"), "{text}");
    assert!(!text.contains("client_addresses"), "only smartproxy admits: {text}");
}

#[test]
fn wide_adds_how_causes_were_settled_and_exact_bytes() {
    let text = shown(|screen| show(&counters(), Output::Wide, screen));
    assert!(text.contains("settled from both"), "{text}");
    assert!(text.contains("5000"), "{text}");
}

#[tokio::test]
async fn json_is_the_answer_of_the_api() {
    let fake = Fake::start(Answers { counters: counters(), ..Answers::default() }).await;
    let value: serde_json::Value = serde_json::from_str(&fake.text("counters -o json").await).unwrap();
    assert_eq!(value["own"]["connected_clients"], "2");
    assert_eq!(value["peers"][0]["stale"], true);
}
