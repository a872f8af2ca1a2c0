//! PROXY protocol version 1, the line of text (haproxy's `proxy-protocol.txt`, §2.1).
//!
//! Owns parsing and writing of that line.
//! Never looks behind the CRLF, and never decides whether the sender may be believed.
//! Invariant: a line of at most 107 bytes, spelled exactly as the specification says: no leading zeroes,
//! single spaces, one CRLF. What differs is refused with the first byte that differs.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::addresses::SameFamily;
use super::{Addresses, Progress};

/// The longest line, CRLF included (§2.1, worst case).
pub const PROXY_V1_LIMIT: usize = 107;

const PREFIX: &[u8] = b"PROXY ";
const TCP4: &[u8] = b"TCP4 ";
const TCP6: &[u8] = b"TCP6 ";
const UNKNOWN: &[u8] = b"UNKNOWN";

/// A version 1 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyV1 {
    /// `TCP4` or `TCP6`, addresses canonical.
    Tcp(Addresses),
    /// `UNKNOWN`: the connection's own addresses count.
    Unknown,
}

impl ProxyV1 {
    /// Reads the line at the start of `received`; the number is its length.
    pub fn parse(received: &[u8]) -> Result<Progress<(Self, usize)>, ProxyV1Error> {
        let window = &received[..received.len().min(PROXY_V1_LIMIT)];
        let (line, whole) = match window.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
            None if window.len() == PROXY_V1_LIMIT => return Err(ProxyV1Error::TooLong),
            None => (window, false),
            Some(at) => match window[at..] {
                [b'\r', b'\n', ..] => (&window[..at], true),
                [b'\r'] if at + 1 < PROXY_V1_LIMIT => (&window[..at], false),
                [b'\r'] => return Err(ProxyV1Error::TooLong),
                _ => return Err(ProxyV1Error::LineEnd),
            },
        };
        check_opening(line, whole)?;
        if !whole {
            // Either the LF alone is missing, or at least the CRLF.
            let at_least = if line.len() < window.len() { 1 } else { 2 };
            return Ok(Progress::Incomplete { at_least });
        }
        let length = line.len() + 2;
        let line = &line[PREFIX.len()..];
        if line.starts_with(UNKNOWN) {
            return Ok(Progress::Complete((Self::Unknown, length)));
        }
        let addresses = parse_addresses(line)?;
        Ok(Progress::Complete((Self::Tcp(addresses), length)))
    }

    /// Appends the line, CRLF included, to `out`.
    ///
    /// Addresses of two families are written as `TCP6` with the IPv4 one v4-mapped, in hexadecimal: the
    /// grammar of §2.1 has no dotted tail.
    pub fn encode(self, out: &mut Vec<u8>) {
        let mut line = String::with_capacity(PROXY_V1_LIMIT);
        match self {
            Self::Unknown => line.push_str("PROXY UNKNOWN"),
            Self::Tcp(addresses) => {
                match addresses.in_one_family() {
                    SameFamily::V4([source, destination]) => {
                        let _ = write!(line, "PROXY TCP4 {source} {destination}");
                    }
                    SameFamily::V6([source, destination]) => {
                        let (source, destination) = (Hexadecimal(source), Hexadecimal(destination));
                        let _ = write!(line, "PROXY TCP6 {source} {destination}");
                    }
                }
                let _ = write!(line, " {} {}", addresses.source.port(), addresses.destination.port());
            }
        }
        line.push_str("\r\n");
        out.extend_from_slice(line.as_bytes());
    }
}

/// Why bytes are not a version 1 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyV1Error {
    /// The bytes do not start with `PROXY `.
    #[error("the line does not start with PROXY and a space")]
    Prefix,
    /// Another word than `TCP4`, `TCP6` or `UNKNOWN`.
    #[error("the protocol is none of TCP4, TCP6 and UNKNOWN")]
    Protocol,
    /// No CRLF within 107 bytes.
    #[error("no end of the line within 107 bytes")]
    TooLong,
    /// A CR or LF that is not part of a CRLF.
    #[error("a lone CR or LF")]
    LineEnd,
    /// A byte that no address and no port has.
    #[error("the byte {found:#04x} among the addresses")]
    Character {
        /// The byte.
        found: u8,
    },
    /// Not four fields, or not of the family that was announced.
    #[error("not two addresses of the announced family and two ports")]
    Addresses,
}

/// Checks what has arrived of `line`, so that a stranger is refused before its line ends.
fn check_opening(line: &[u8], whole: bool) -> Result<(), ProxyV1Error> {
    let Some(rest) = line.strip_prefix(PREFIX) else {
        return if PREFIX.starts_with(line) && !whole { Ok(()) } else { Err(ProxyV1Error::Prefix) };
    };
    if let Some(after) = rest.strip_prefix(UNKNOWN) {
        return if matches!(after, [] | [b' ', ..]) { Ok(()) } else { Err(ProxyV1Error::Protocol) };
    }
    let Some(addresses) = rest.strip_prefix(TCP4).or_else(|| rest.strip_prefix(TCP6)) else {
        let early = !whole && [TCP4, TCP6, UNKNOWN].iter().any(|word| word.starts_with(rest));
        return if early { Ok(()) } else { Err(ProxyV1Error::Protocol) };
    };
    let strange = |byte: &u8| !(byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.' | b' '));
    match addresses.iter().copied().find(|byte| strange(byte)) {
        Some(found) => Err(ProxyV1Error::Character { found }),
        None => Ok(()),
    }
}

/// Parses `TCP4 1.2.3.4 5.6.7.8 9 10`.
fn parse_addresses(line: &[u8]) -> Result<Addresses, ProxyV1Error> {
    let fields = || {
        let mut words = std::str::from_utf8(line).ok()?.split(' ');
        let family = words.next()?;
        let [source, destination] = [words.next()?, words.next()?];
        let [from, to] = [port(words.next()?)?, port(words.next()?)?];
        if words.next().is_some() {
            return None;
        }
        let ip = |text: &str| match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).ok(),
            _ => text.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
        };
        let [source, destination] = [ip(source)?, ip(destination)?];
        Some(Addresses::new(SocketAddr::new(source, from), SocketAddr::new(destination, to)))
    };
    fields().ok_or(ProxyV1Error::Addresses)
}

/// A port in decimal without sign or leading zeroes.
fn port(text: &str) -> Option<u16> {
    let canonical = text == "0" || text.starts_with(|first: char| matches!(first, '1'..='9'));
    if canonical { text.parse().ok() } else { None }
}

/// An IPv6 address without the dotted tail that `Display` gives to v4-mapped ones.
struct Hexadecimal(Ipv6Addr);

impl std::fmt::Display for Hexadecimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.to_ipv4_mapped() {
            Some(_) => {
                let [.., high, low] = self.0.segments();
                write!(f, "::ffff:{high:x}:{low:x}")
            }
            None => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
