//! The two ends of a client's connection, in one spelling.
//!
//! Owns the canonical form of socket addresses and the common family that the PROXY formats need.
//! Never parses text, never reads a socket.
//! Invariant: a v4-mapped IPv6 address never leaves `Addresses::new`, so a client has one identity
//! whatever listener it came through.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Who connected to what, as the first proxy saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
}

impl Addresses {
    /// Both addresses, v4-mapped ones as IPv4, flow label and scope dropped.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { source: canonical(source), destination: canonical(destination) }
    }

    /// Both in one family, as both PROXY formats require: where they differ, IPv4 is written v4-mapped
    /// (RFC 4291 §2.5.5.2).
    pub(super) fn in_one_family(self) -> SameFamily {
        match (self.source.ip().to_canonical(), self.destination.ip().to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => SameFamily::V4([source, destination]),
            (source, destination) => SameFamily::V6([source, destination].map(as_v6)),
        }
    }
}

/// Source and destination address, ports apart.
pub(super) enum SameFamily {
    V4([std::net::Ipv4Addr; 2]),
    V6([Ipv6Addr; 2]),
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `::ffff:1.2.3.4` and `1.2.3.4` are one client.
    #[test]
    fn a_v4_mapped_address_is_its_ipv4_address() {
        let addresses =
            Addresses::new("[::ffff:1.2.3.4]:5".parse().unwrap(), "[2001:db8::1%7]:443".parse().unwrap());
        assert_eq!(addresses.source, "1.2.3.4:5".parse().unwrap());
        assert_eq!(addresses.destination, "[2001:db8::1]:443".parse().unwrap());
    }
}
