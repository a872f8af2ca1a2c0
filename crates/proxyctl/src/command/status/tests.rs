//! The status of a process.

use super::*;
use crate::fake::{Answers, Fake, at, millis, shown};

fn status() -> pb::GetStatusResponse {
    let peer = pb::Peer {
        instance_id: "01948a00-0000-7000-8000-00000000e001".into(),
        version: "0.1.0".into(),
        admin_address: "127.0.0.1:7801".into(),
        connected: true,
        session: 3,
        heartbeats_fresh: true,
        written: 40,
        acked: 39,
        lag: 1,
        applied: 17,
        live: 2,
        ready: true,
        hop_address: "127.0.0.1:7443".into(),
        capacity: 1000,
        bridged: 2,
        route_generation: 1,
        ..Default::default()
    };
    let away = pb::Peer {
        instance_id: "01948a00-0000-7000-8000-00000000e002".into(),
        connected: false,
        down_for: millis(4_200),
        last_end: "reset".into(),
        ready: false,
        not_ready_because: "its session is down".into(),
        ..Default::default()
    };
    pb::GetStatusResponse {
        version: "0.1.0".into(),
        instance_id: "01948a00-0000-7000-8000-00000000f001".into(),
        role: pb::Role::Front.into(),
        started_at: at(0),
        uptime: millis(90_000),
        phase: pb::ProcessPhase::Ready.into(),
        configuration_generation: 1,
        configuration_file: "(default)".into(),
        listeners: vec![pb::Listener { address: "127.0.0.1:8443".into(), purpose: "public".into() }],
        peers: vec![peer, away],
        connected_clients: 2,
        open_fds: 30,
        max_fds: 65_536,
        worker_threads: 2,
        alive_tasks: 9,
        pooled_pipes: 4,
        names_without_certificate: vec!["a.example.com".into()],
        warnings: vec!["all clients have one address".into()],
        ..Default::default()
    }
}

#[test]
fn warnings_come_first_and_peers_last() {
    let expected = "\
smartproxy 0.1.0: ready
warning: all clients have one address
  instance        01948a00-0000-7000-8000-00000000f001
  started         2025-01-31T12:00:00.000Z (1m30s ago)
  configured by   (default), generation 1
  clients         2
  descriptors     30 open of 65536
  threads         2 carry connections
  tasks           9 alive
  pipes           4 kept for copying
  no certificate  a.example.com

LISTENER        FOR
127.0.0.1:8443  public

PEER          VERSION  CHANNEL        TAKES NEW                ADMIN           LIVE  LAG
00000000e001  0.1.0    up             yes                      127.0.0.1:7801     2    1
00000000e002  -        down for 4.2s  no: its session is down  -                  0    0
";
    assert_eq!(shown(|screen| show(&status(), Output::Table, screen)), expected);
}

#[test]
fn wide_shows_positions() {
    let text = shown(|screen| show(&status(), Output::Wide, screen));
    assert!(text.contains("APPLIED") && text.contains("127.0.0.1:7443"), "{text}");
}

#[test]
fn a_process_without_a_peer_says_so() {
    let alone = pb::GetStatusResponse { peers: Vec::new(), ..status() };
    let text = shown(|screen| show(&alone, Output::Table, screen));
    assert!(text.ends_with("\nno peer has connected yet\n"), "{text}");
}

/// connected is not alive.
#[test]
fn a_channel_whose_heartbeats_are_old_is_not_called_up() {
    let mut status = status();
    status.peers[0].heartbeats_fresh = false;
    status.peers[0].since_heartbeat = millis(2_500);
    let text = shown(|screen| show(&status, Output::Table, screen));
    assert!(text.contains("stale, last heartbeat 2.5s ago"), "{text}");
}

#[test]
fn networkproxy_is_not_told_whether_smartproxy_takes_connections() {
    let asked = pb::GetStatusResponse { role: pb::Role::Inner.into(), ..status() };
    let text = shown(|screen| show(&asked, Output::Table, screen));
    assert!(!text.contains("no: ") && text.contains("idle connections kept"), "{text}");
}

#[tokio::test]
async fn json_is_the_answer_of_the_api() {
    let fake = Fake::start(Answers { status: status(), ..Answers::default() }).await;
    let value: serde_json::Value = serde_json::from_str(&fake.text("status -o json").await).unwrap();
    assert_eq!(value["phase"], "PROCESS_PHASE_READY");
    assert_eq!(value["peers"][0]["lag"], "1");
}
