//! Owns the handing out of loopback addresses: one 127.x.y.z for every test.
//!
//! Never hands the same one to two tests of a run, nor to two runs side by side: the process id picks a block of
//! addresses and a counter the address in it. Fixed ports can then be used, so that a process that is killed and
//! started again finds its port free.
//!
//! Invariant: 127.0.x.y is never handed out; it belongs to the machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

/// Addresses of one block: more than a run has tests.
const BLOCK: u32 = 1_000;
/// Blocks between 127.1.0.0 and 127.255.255.255.
const BLOCKS: u32 = 16_000;

/// A loopback address that belongs to one test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(Ipv4Addr);

impl Address {
    /// An address that nobody else has.
    pub fn next() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let index = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(index < BLOCK, "a run has at most {BLOCK} addresses");
        let offset = (std::process::id() % BLOCKS) * BLOCK + index;
        let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
        Self(Ipv4Addr::from(first + offset))
    }

    /// The address with a port.
    pub fn port(self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.0), port)
    }

    /// The address alone.
    pub fn ip(self) -> IpAddr {
        IpAddr::V4(self.0)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tests never share an address, and none is the machine's own.
    #[test]
    fn addresses_are_loopback_and_distinct() {
        let (one, two) = (Address::next(), Address::next());
        assert_ne!(one, two);
        for address in [one, two] {
            assert!(address.ip().is_loopback());
            assert!(!address.to_string().starts_with("127.0."));
        }
    }
}
