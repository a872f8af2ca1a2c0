//! Owns the address of a target: an IP address or a host name, and a port.
//!
//! Never resolves a name. Invariant: a name is lower case, without a trailing dot, and made of labels that
//! DNS can carry (RFC 1035 section 2.3.4; underscores are let through because real zones have them).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::pattern::{DomainError, host_name};

/// Where a connection to a backend goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TargetAddress {
    /// The machine.
    pub host: TargetHost,
    /// The TCP port, never 0.
    pub port: u16,
}

/// A target's machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TargetHost {
    /// An address, used as it is.
    Address(IpAddr),
    /// A name, resolved when it is dialled.
    Name(Arc<str>),
}

/// `10.0.0.1:80`, `[2001:db8::1]:80`, `backend.internal:80`
impl fmt::Display for TargetAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            TargetHost::Address(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            TargetHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl FromStr for TargetAddress {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(TargetError::PortRange),
                port => Ok(Self { host: TargetHost::Address(address.ip()), port }),
            };
        }
        if text.contains("://") {
            return Err(TargetError::Url);
        }
        if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
            return Err(TargetError::Brackets);
        }
        let Some((host, port)) = text.rsplit_once(':') else { return Err(TargetError::NoPort) };
        if host.contains(':') {
            return Err(TargetError::Brackets);
        }
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(TargetError::PortNumber);
        }
        let port = match port.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => return Err(TargetError::PortRange),
        };
        let name = host_name(host)?;
        if name.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(TargetError::BadAddress);
        }
        Ok(Self { host: TargetHost::Name(name.into()), port })
    }
}

/// Why a text is no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TargetError {
    /// No `:port`.
    #[error("there is no port")]
    NoPort,
    /// Something that is not a number after the last colon.
    #[error("the port is not a number")]
    PortNumber,
    /// 0, or above 65535.
    #[error("the port is not between 1 and 65535")]
    PortRange,
    /// IPv6 without brackets.
    #[error("an IPv6 address needs brackets before its port")]
    Brackets,
    /// Digits and dots that are no IPv4 address.
    #[error("the address is no IPv4 address")]
    BadAddress,
    /// `http://…`
    #[error("a target is an address, not a URL")]
    Url,
    /// A name that DNS cannot carry.
    #[error(transparent)]
    Name(#[from] DomainError),
}

impl TryFrom<String> for TargetAddress {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, TargetError> {
        text.parse()
    }
}

impl From<TargetAddress> for String {
    fn from(target: TargetAddress) -> Self {
        target.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_written_alike() {
        for text in
            ["10.0.0.1:80", "[2001:db8::1]:443", "backend.internal:8080", "a_b.c:1", "localhost:65535"]
        {
            assert_eq!(text.parse::<TargetAddress>().unwrap().to_string(), text);
        }
        assert_eq!(
            "Backend.Internal.:80".parse::<TargetAddress>().unwrap().to_string(),
            "backend.internal:80"
        );
    }

    #[test]
    fn each_mistake_in_a_target_is_named() {
        for (text, error) in [
            ("10.0.0.1", TargetError::NoPort),
            ("host", TargetError::NoPort),
            ("host:", TargetError::PortNumber),
            ("host:http", TargetError::PortNumber),
            ("host:0", TargetError::PortRange),
            ("10.0.0.1:0", TargetError::PortRange),
            ("host:65536", TargetError::PortRange),
            ("host:99999999999999999999", TargetError::PortRange),
            ("2001:db8::1:443", TargetError::Brackets),
            ("2001:db8::1", TargetError::Brackets),
            ("10.0.0.256:80", TargetError::BadAddress),
            ("http://10.0.0.1:80", TargetError::Url),
            (":80", TargetError::Name(DomainError::Empty)),
            ("a..b:80", TargetError::Name(DomainError::EmptyLabel)),
        ] {
            assert_eq!(text.parse::<TargetAddress>(), Err(error), "{text}");
        }
    }
}
