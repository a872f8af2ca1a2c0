//! What every connection of the process shares.
//!
//! *Owns* the limits, the certificates' TLS offer, whose turn each route's targets are at, and the counts of
//! requests. *Never* owns a socket. *Invariant*: a route's targets are taken exactly in turn, over all workers
//!

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use config::{InnerTable, TargetAddress, TargetHost};
use ledger::InstanceId;
use runtime::{Clock, ConnectionManager, Histogram, Resolver};

use crate::certificates::CertificateStore;
use crate::failure::TargetFailure;
use crate::settings::{HttpLimits, Timeouts};
use crate::tls::TlsOffer;

/// What every connection of the process shares.
pub struct Gateway {
    /// The live connections and the books.
    pub manager: ConnectionManager,
    /// The file's deadlines.
    pub timeouts: Timeouts,
    /// What requests are held to.
    pub limits: HttpLimits,
    /// Targets' names.
    pub resolver: Resolver,
    /// Certificates by name.
    pub certificates: Arc<CertificateStore>,
    /// What TLS is offered.
    pub tls: TlsOffer,
    /// Whose turn it is.
    pub turns: Turns,
    /// Requests by entry and class of status.
    pub requests: RequestCounts,
    /// How long requests took, from their head to the end of both bodies.
    pub request_durations: Arc<Histogram>,
    /// TLS handshakes by result.
    pub handshakes: HandshakeCounts,
}

impl Gateway {
    /// The clocks.
    pub fn clock(&self) -> &Clock {
        self.manager.clock()
    }

    /// This life of the process.
    pub fn instance(&self) -> InstanceId {
        self.manager.ledger().instance()
    }

    /// The addresses of a target; not empty.
    pub async fn resolve(&self, target: &TargetAddress) -> Result<Vec<SocketAddr>, TargetFailure> {
        match &target.host {
            TargetHost::Address(ip) => Ok(vec![SocketAddr::new(*ip, target.port)]),
            TargetHost::Name(name) => {
                let found = self.resolver.resolve(name, target.port).await;
                found.map_err(|error| TargetFailure::in_resolving(&error))
            }
        }
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("instance", &self.instance()).finish_non_exhaustive()
    }
}

/// Whose turn the targets of each route are at.
#[derive(Debug, Default)]
pub struct Turns {
    next: Mutex<HashMap<Arc<str>, Arc<Turn>>>,
}

/// The turns of one route, shared by the connections that use it.
#[derive(Debug, Default)]
pub struct Turn(AtomicU64);

impl Turn {
    /// The number of this turn, from 0.
    pub fn take(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }
}

impl Turns {
    /// The turns of `route`: looked up once, and kept by whoever takes many.
    pub fn of(&self, route: &Arc<str>) -> Arc<Turn> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(next.entry(Arc::clone(route)).or_default())
    }

    /// Forgets the routes that are gone.
    pub fn retain(&self, table: &InnerTable) {
        let named =
            |name: &str| table.entries.values().any(|entry| entry.routes().iter().any(|r| *r.name == *name));
        self.next.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| named(name));
    }
}

/// `http_requests_total`: requests by entry and class of status.
#[derive(Debug, Default)]
pub struct RequestCounts {
    counts: Mutex<HashMap<Arc<str>, Arc<EntryCounts>>>,
}

/// The requests of one entry by class of status, shared by its connections.
#[derive(Debug, Default)]
pub struct EntryCounts([AtomicU64; 5]);

impl EntryCounts {
    /// A response of `status` (100 to 599) begins.
    pub fn count(&self, status: u16) {
        self.0[usize::from((status / 100).clamp(1, 5) - 1)].fetch_add(1, Relaxed);
    }
}

impl RequestCounts {
    /// Entries counted by name; further ones are counted together.
    pub const CAP: usize = 1000;

    /// The counts of `entry`: looked up once, and kept by whoever counts many.
    pub fn of(&self, entry: &Arc<str>) -> Arc<EntryCounts> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_entry) = counts.get(entry) {
            return Arc::clone(of_entry);
        }
        let name = if counts.len() < Self::CAP { Arc::clone(entry) } else { "other".into() };
        Arc::clone(counts.entry(name).or_default())
    }

    /// Every entry with its counts of 1xx to 5xx.
    pub fn all(&self) -> Vec<(Arc<str>, [u64; 5])> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let classes = |of_entry: &EntryCounts| std::array::from_fn(|class| of_entry.0[class].load(Relaxed));
        counts.iter().map(|(entry, of_entry)| (Arc::clone(entry), classes(of_entry))).collect()
    }
}

/// `tls_handshakes_total`: how handshakes went.
#[derive(Debug, Default)]
pub struct HandshakeCounts {
    /// Full TLS 1.2, resumed TLS 1.2, full TLS 1.3, resumed TLS 1.3.
    complete: [AtomicU64; 4],
    failed: AtomicU64,
}

impl HandshakeCounts {
    /// One was completed.
    pub fn complete(&self, tls: &ledger::Tls) {
        let version = usize::from(&*tls.version == "TLSv1.3") * 2;
        self.complete[version + usize::from(tls.resumed)].fetch_add(1, Relaxed);
    }

    /// One failed, for whatever reason.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// (result, version, resumed, count) of each kind.
    pub fn all(&self) -> [(&'static str, &'static str, bool, u64); 5] {
        let count = |at: usize| self.complete[at].load(Relaxed);
        [
            ("complete", "TLSv1.2", false, count(0)),
            ("complete", "TLSv1.2", true, count(1)),
            ("complete", "TLSv1.3", false, count(2)),
            ("complete", "TLSv1.3", true, count(3)),
            ("failed", "", false, self.failed.load(Relaxed)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// three targets, in turn, exactly.
    #[test]
    fn turns_are_exact_and_each_route_has_its_own() {
        let turns = Turns::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut counts = [0; 3];
        for _ in 0..301 {
            counts[(turns.of(&a).take() % 3) as usize] += 1;
        }
        assert_eq!(counts, [101, 100, 100]);
        assert_eq!(turns.of(&b).take(), 0);
        turns.retain(&InnerTable::default());
        assert_eq!(turns.of(&a).take(), 0);
    }

    /// labels are bounded, and the sum stays right.
    #[test]
    fn request_counts_are_bounded_and_add_up() {
        let counts = RequestCounts::default();
        for n in 0..RequestCounts::CAP + 500 {
            counts.of(&format!("entry{n}").into()).count(204);
        }
        let all = counts.all();
        assert_eq!(all.len(), RequestCounts::CAP + 1);
        assert_eq!(all.iter().map(|(_, classes)| classes[1]).sum::<u64>(), 1500);
    }
}
