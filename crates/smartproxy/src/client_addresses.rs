//! Whether clients are seen by their own addresses.
//!
//! *Owns* the first address that was seen and whether it was the only one. *Never* keeps the others.
//! *Invariant*: one address is remarkable only after many connections, and never if it is this machine's.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// So many connections of one address look like a gateway in between.
const REMARKABLE: u64 = 1_000;

/// The addresses that clients come from.
#[derive(Debug, Default)]
pub(crate) struct ClientAddresses {
    first: OnceLock<IpAddr>,
    connections: AtomicU64,
    several: AtomicBool,
}

impl ClientAddresses {
    /// One more connection, of `client`.
    pub(crate) fn see(&self, client: IpAddr) {
        if self.several.load(Relaxed) {
            return;
        }
        if *self.first.get_or_init(|| client) == client {
            self.connections.fetch_add(1, Relaxed);
        } else {
            self.several.store(true, Relaxed);
        }
    }

    /// What the operator should know.
    pub(crate) fn warning(&self) -> Option<String> {
        let address = self.first.get().filter(|address| !address.is_loopback())?;
        let connections = self.connections.load(Relaxed);
        (connections >= REMARKABLE && !self.several.load(Relaxed)).then(|| {
            format!(
                "all {connections} connections came from {address}: if that is a gateway (Docker's \
                 userland proxy, a load balancer), the clients' own addresses are hidden behind it and \
                 limits per address count them as one"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(addresses: impl IntoIterator<Item = IpAddr>) -> Option<String> {
        let clients = ClientAddresses::default();
        addresses.into_iter().for_each(|address| clients.see(address));
        clients.warning()
    }

    /// when all traffic comes from one source, it is said; a second source or this machine takes it back.
    #[test]
    fn one_source_of_everything_is_remarked() {
        let gateway = IpAddr::from([172, 17, 0, 1]);
        let other = IpAddr::from([172, 17, 0, 2]);
        let many = std::iter::repeat_n(gateway, 1_000);
        let warning = seen(many.clone()).unwrap();
        assert!(warning.contains("all 1000 connections came from 172.17.0.1"), "{warning}");
        assert_eq!(seen(many.clone().take(999)), None);
        assert_eq!(seen(many.chain([other])), None);
        assert_eq!(seen(std::iter::repeat_n(IpAddr::from([127, 0, 0, 1]), 2_000)), None);
        assert_eq!(seen([]), None);
    }
}
