//! Sums: tallies and byte counts.
//!
//! *Owns* these messages in both directions. *Never* accepts sums that contradict themselves. *Invariant*:
//! settled ≤ closed ≤ opened in every tally that is read.

use std::collections::BTreeMap;

use ledger::{Digest, Tally};

use super::ends::{read_initiator, read_reason};
use super::scalar::count;
use super::{Fault, Malformed};
use crate::proto::admin::v1 as wire;
use crate::proto::control::v1 as sync;

/// Bytes per leg (client, hop, target) and direction (in, out).
pub(crate) const fn bytes(bytes: &[[u64; 2]; 3]) -> wire::ByteCounts {
    let [[client_in, client_out], [hop_in, hop_out], [target_in, target_out]] = *bytes;
    wire::ByteCounts { client_in, client_out, hop_in, hop_out, target_in, target_out }
}

fn read_bytes(bytes: wire::ByteCounts) -> Result<[[u64; 2]; 3], Malformed> {
    let read = |value| count(value, "tally.bytes");
    Ok([
        [read(bytes.client_in)?, read(bytes.client_out)?],
        [read(bytes.hop_in)?, read(bytes.hop_out)?],
        [read(bytes.target_in)?, read(bytes.target_out)?],
    ])
}

pub(crate) fn tally(tally: &Tally) -> wire::Tally {
    let settled = tally.settled.iter().map(|((reason, initiator), count)| wire::SettledCount {
        reason: reason.number().into(),
        initiator: *initiator as i32,
        count: *count,
    });
    let [both, alone, only] = tally.settled_from;
    wire::Tally {
        opened: tally.opened,
        closed: tally.closed,
        settled: settled.collect(),
        settled_from_both: both,
        settled_alone: alone,
        settled_only: only,
        bridged: tally.bridged,
        tls_terminated: tally.tls_terminated,
        late_evidence: tally.late_evidence,
        requests: tally.requests,
        bytes: Some(bytes(&tally.bytes)),
    }
}

pub(crate) fn read_tally(tally: wire::Tally) -> Result<Tally, Malformed> {
    let mut settled = BTreeMap::new();
    let mut settled_total = 0_u64;
    for entry in tally.settled {
        let key = (read_reason(entry.reason, "tally.settled.reason")?, read_initiator(entry.initiator));
        let number = count(entry.count, "tally.settled.count")?;
        *settled.entry(key).or_insert(0_u64) += number;
        settled_total += number;
        if settled_total > tally.closed {
            return Err(Fault::Contradiction.of("tally.settled"));
        }
    }
    if tally.closed > tally.opened {
        return Err(Fault::Contradiction.of("tally.closed"));
    }
    Ok(Tally {
        opened: count(tally.opened, "tally.opened")?,
        closed: tally.closed,
        settled,
        settled_from: [
            count(tally.settled_from_both, "tally.settled_from_both")?,
            count(tally.settled_alone, "tally.settled_alone")?,
            count(tally.settled_only, "tally.settled_only")?,
        ],
        bridged: count(tally.bridged, "tally.bridged")?,
        tls_terminated: count(tally.tls_terminated, "tally.tls_terminated")?,
        late_evidence: count(tally.late_evidence, "tally.late_evidence")?,
        requests: count(tally.requests, "tally.requests")?,
        bytes: read_bytes(tally.bytes.unwrap_or_default())?,
    })
}

pub(crate) const fn digest(digest: &Digest) -> sync::Digest {
    sync::Digest { opened: digest.opened, closed: digest.closed, sum: digest.sum, xor: digest.xor }
}

pub(crate) fn read_digest(digest: &sync::Digest) -> Result<Digest, Malformed> {
    if digest.closed > digest.opened {
        return Err(Fault::Contradiction.of("digest.closed"));
    }
    Ok(Digest {
        opened: count(digest.opened, "digest.opened")?,
        closed: digest.closed,
        sum: digest.sum,
        xor: digest.xor,
    })
}
