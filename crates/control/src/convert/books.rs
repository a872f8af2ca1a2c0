//! Counters, laws and peers as people see them.
//!
//! *Owns* the mapping of the ledger's answers. *Never* computes: what is shown was counted by the ledger.
//! *Invariant*: a number has the same name here as in the metrics.

use ledger::{Alarms, Audit, Counters, Departed, Excuse, InFlight, Law, MirrorCounters, Role};

use super::ends::role;
use super::scalar::duration;
use super::tally::{bytes, tally};
use crate::proto::admin::v1 as wire;

pub(crate) fn counters(counters: &Counters) -> wire::GetCountersResponse {
    wire::GetCountersResponse {
        own: Some(own(counters)),
        peers: counters.mirrors.iter().map(|mirror| peer(mirror, counters.role.peer())).collect(),
        departed: Some(departed(&counters.departed)),
    }
}

fn own(counters: &Counters) -> wire::OwnCounters {
    let mut all_bytes = counters.tally.bytes;
    for (sum, live) in all_bytes.iter_mut().flatten().zip(counters.live_bytes.iter().flatten()) {
        *sum = sum.saturating_add(*live);
    }
    let phases = counters.phases.iter();
    wire::OwnCounters {
        instance_id: counters.instance.to_string(),
        role: role(counters.role),
        connected_clients: counters.connected_clients,
        port_proxy_connections: counters.port_proxy_connections,
        tls_terminated_connections: counters.tally.tls_terminated,
        opened: counters.tally.opened,
        settling: counters.settling,
        settled: counters.tally.settled_total(),
        tally: Some(tally(&counters.tally)),
        phases: phases
            .map(|(phase, count)| wire::PhaseCount { phase: phase.number().into(), count: *count })
            .collect(),
        bytes: Some(bytes(&all_bytes)),
        requests: counters.tally.requests + counters.live_requests,
        hop_arrivals: (counters.role == Role::Inner).then(|| arrivals(&counters.arrivals)),
        admitted: counters.admitted,
        client_addresses: counters.addresses,
        alarms: Some(alarms(&counters.alarms)),
    }
}

fn arrivals(arrivals: &ledger::ArrivalCounts) -> wire::HopArrivals {
    let refused = arrivals.refused.iter();
    wire::HopArrivals {
        arrived: arrivals.arrived,
        pending: arrivals.pending,
        verified: arrivals.verified,
        refused: refused
            .map(|(reason, count)| wire::RefusedCount { reason: reason.number().into(), count: *count })
            .collect(),
    }
}

fn peer(mirror: &MirrorCounters, role: Role) -> wire::PeerCounters {
    wire::PeerCounters {
        instance_id: mirror.status.instance.to_string(),
        stale: mirror.stale,
        connected_clients: mirror.connected_clients,
        port_proxy_connections: mirror.port_proxy_connections,
        tls_terminated_connections: if role == Role::Inner { mirror.tally.tls_terminated } else { 0 },
        settling: mirror.status.settling,
        tally: Some(tally(&mirror.tally)),
    }
}

fn departed(departed: &Departed) -> wire::DepartedPeers {
    wire::DepartedPeers { instances: departed.instances, tally: Some(tally(&departed.tally)) }
}

pub(crate) fn audit(audit: &Audit, quiet: bool) -> wire::AuditResponse {
    wire::AuditResponse {
        instance_id: audit.instance.to_string(),
        role: role(audit.role),
        balanced: audit.balanced,
        quiet,
        laws: audit.laws.iter().map(law).collect(),
        in_flight: audit.in_flight.iter().map(in_flight).collect(),
        alarms: Some(alarms(&audit.alarms)),
    }
}

fn law(law: &Law) -> wire::Law {
    wire::Law {
        name: law.name.to_owned(),
        peer_instance_id: law.peer.map(|peer| peer.to_string()).unwrap_or_default(),
        left_name: law.left.0.to_owned(),
        left: law.left.1,
        right_name: law.right.0.to_owned(),
        right: law.right.1,
        excused: law.excused,
        holds: law.holds,
    }
}

fn in_flight(flight: &InFlight) -> wire::InFlight {
    wire::InFlight {
        connection_id: flight.connection.to_string(),
        attempt: flight.attempt.0,
        peer_instance_id: flight.peer.to_string(),
        age: Some(duration(flight.age)),
        live: role(flight.live),
        excuse: match flight.excuse {
            None => wire::Excuse::Unspecified,
            Some(Excuse::Young) => wire::Excuse::Young,
            Some(Excuse::PeerStale) => wire::Excuse::PeerStale,
            Some(Excuse::Leaving) => wire::Excuse::Leaving,
        }
        .into(),
    }
}

fn alarms(alarms: &Alarms) -> wire::Alarms {
    wire::Alarms {
        drift_detected: alarms.drift_detected,
        drift_repaired: alarms.drift_repaired,
        repairs: alarms.repairs,
        unjoined: alarms.unjoined,
        hop_contradictions: alarms.hop_contradictions,
        hop_gaps: alarms.hop_gaps,
        hop_gap_bytes: alarms.hop_gap_bytes,
        unlogged: alarms.unlogged,
        session_resets: alarms.session_resets,
    }
}
