//! Fixed records to show.
//!
//! *Owns* one bridged connection, live and closed. *Never* random: tables are compared with texts. *Invariant*:
//! every group of a half is filled in one of the two halves.

use control::api::messages as pb;
use prost_types::{Duration, Timestamp};

/// The id of [`connection`].
pub(crate) const ID: &str = "01948a1e-7c00-7abc-8def-0123456789ab";
const FRONT: &str = "01948a00-0000-7000-8000-00000000f001";
const INNER: &str = "01948a00-0000-7000-8000-00000000e001";

/// A time of day so many milliseconds after 2025-01-31T12:00:00Z.
#[expect(clippy::unnecessary_wraps, reason = "as the fields of messages have it")]
pub(crate) fn at(millis: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_738_324_800 + millis / 1000, nanos: (millis % 1000) as i32 * 1_000_000 })
}

/// So many milliseconds.
#[expect(clippy::unnecessary_wraps, reason = "as the fields of messages have it")]
pub(crate) fn millis(millis: i64) -> Option<Duration> {
    Some(Duration { seconds: millis / 1000, nanos: (millis % 1000) as i32 * 1_000_000 })
}

/// A live bridged connection with both halves.
pub(crate) fn connection() -> pb::Connection {
    pb::Connection {
        id: ID.into(),
        phase: pb::Phase::HttpActive.into(),
        handled_by: pb::HandledBy::Networkproxy.into(),
        accepted_at: at(0),
        age: millis(724_000),
        client_address: "192.0.2.7:51234".into(),
        listener: "0.0.0.0:443".into(),
        server_name: Some("app.example.com".into()),
        entry: Some("app".into()),
        route: Some("app-api".into()),
        bytes_from_client: 1_280,
        bytes_to_client: 3_565_158,
        front: Some(front()),
        inner: Some(inner()),
        timeline: vec![
            event(0, pb::Role::Front, "smartproxy: accepted"),
            event(12, pb::Role::Front, "relaying"),
            event(14, pb::Role::Inner, "networkproxy saw hop_closed"),
            event(61_250, pb::Role::Inner, "http active"),
        ],
        ..Default::default()
    }
}

/// The same connection after the client reset it.
pub(crate) fn closed() -> pb::Connection {
    let cause = pb::Termination {
        reason: pb::Reason::ClientReset.into(),
        initiator: pb::Initiator::Client.into(),
        phase: pb::Phase::HttpActive.into(),
        side: pb::Leg::Client.into(),
        evidence: Some("ECONNRESET".into()),
        sentence: "The client reset the connection.".into(),
        chain: vec!["smartproxy: client_reset (ECONNRESET)".into(), "networkproxy: hop_reset".into()],
        ..Default::default()
    };
    let mut connection = connection();
    let settlement = pb::Settlement {
        cause: Some(cause.clone()),
        settled_from: pb::SettledFrom::Both.into(),
        late_evidence: Vec::new(),
    };
    let end = pb::End {
        phase: pb::Phase::Relaying.into(),
        observations: vec![pb::Observation {
            reason: pb::Reason::ClientReset.into(),
            leg: pb::Leg::Client.into(),
            after: millis(724_000),
            detail: Some("ECONNRESET".into()),
            ..Default::default()
        }],
        hop: Some(pb::HopCount { sent_bytes: 1_280, received_bytes: 3_565_158, read_to_eof: false }),
        undelivered_bytes: 17,
        ended_at: at(724_000),
        age: millis(724_000),
        ..Default::default()
    };
    connection.phase = pb::Phase::Closed.into();
    connection.ended_at = at(724_000);
    connection.termination = Some(cause);
    connection.inner = None;
    if let Some(front) = &mut connection.front {
        front.phase = pb::Phase::Closed.into();
        front.in_phase = None;
        front.idle = None;
        front.deadlines = Vec::new();
        front.settlement = Some(settlement);
        front.end = Some(end);
    }
    connection
}

fn front() -> pb::Half {
    pb::Half {
        instance_id: FRONT.into(),
        role: pb::Role::Front.into(),
        own: true,
        phase: pb::Phase::Relaying.into(),
        in_phase: millis(723_988),
        accept: Some(pb::Accept {
            listener: "0.0.0.0:443".into(),
            client_address: "192.0.2.7:51234".into(),
            remote_address: "10.0.0.1:4000".into(),
            local_address: "198.51.100.1:443".into(),
            address_source: pb::AddressSource::ProxyV2.into(),
            accepted_at: at(0),
        }),
        routing: Some(pb::Routing {
            entry: Some("app".into()),
            generation: 3,
            alpn_offered: vec!["h2".into(), "http/1.1".into()],
            trace: Some("legacy: server name differs\napp: taken".into()),
            ..Default::default()
        }),
        hop: Some(pb::Hop {
            bridged_instance_id: Some(INNER.into()),
            bridged_attempt: Some(9),
            attempts: 1,
            local_address: Some("127.0.0.2:40000".into()),
            remote_address: Some("127.0.0.1:7443".into()),
            ..Default::default()
        }),
        bytes: Some(pb::ByteCounts {
            client_in: 1_280,
            client_out: 3_565_158,
            hop_in: 3_565_158,
            hop_out: 1_280,
            ..Default::default()
        }),
        idle: millis(2_500),
        deadlines: vec![pb::Deadline {
            name: "backstop".into(),
            limit: millis(3_970_000),
            source: "derived from networkproxy's limits".into(),
            time_left: millis(3_967_500),
            restarts_on_bytes: true,
        }],
        ..Default::default()
    }
}

fn inner() -> pb::Half {
    pb::Half {
        instance_id: INNER.into(),
        role: pb::Role::Inner.into(),
        attempt: 9,
        front_instance_id: FRONT.into(),
        phase: pb::Phase::HttpActive.into(),
        in_phase: millis(662_750),
        routing: Some(pb::Routing {
            entry: Some("app".into()),
            route: Some("app-api".into()),
            generation: 3,
            protocol: Some("h2".into()),
            ..Default::default()
        }),
        tls: Some(pb::Tls {
            version: "TLSv1.3".into(),
            cipher: "TLS13_AES_128_GCM_SHA256".into(),
            alpn: Some("h2".into()),
            resumed: true,
        }),
        target: Some(pb::Target {
            name: "api.internal:8080".into(),
            address: Some("10.0.0.5:8080".into()),
            reused: false,
            connect_duration: millis(3),
        }),
        requests_started: 5,
        requests_finished: 4,
        deadlines: vec![
            pb::Deadline {
                name: "stream_idle".into(),
                limit: millis(300_000),
                source: "networkproxy.yaml:14".into(),
                time_left: millis(297_500),
                restarts_on_bytes: true,
            },
            pb::Deadline {
                name: "response".into(),
                limit: millis(60_000),
                source: "default".into(),
                time_left: Some(Duration { seconds: 0, nanos: -5_000_000 }),
                restarts_on_bytes: false,
            },
        ],
        ..Default::default()
    }
}

fn event(millis: i64, role: pb::Role, text: &str) -> pb::TimelineEvent {
    let attempt = if role == pb::Role::Inner { 9 } else { 0 };
    pb::TimelineEvent { at: at(millis), role: role.into(), attempt, text: text.into(), ..Default::default() }
}
