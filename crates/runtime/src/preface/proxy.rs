//! An inbound PROXY header of either version.
//!
//! Owns the choice between version 1 and 2 by the first byte (haproxy's `proxy-protocol.txt`, §2.2, end).
//! Never guesses whether there is a header: §2 forbids it; a listener either requires one or has none.
//! Invariant: a connection without a valid header never gets addresses.

use super::{Addresses, PROXY_V2_LIMIT, Progress, ProxyV1, ProxyV1Error, ProxyV2, ProxyV2Error};

/// A PROXY header that came in on a public port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The version it was written in.
    pub version: ProxyVersion,
    /// The client and its destination, canonical; `None` where the connection's own addresses count
    /// (v1 UNKNOWN, v2 LOCAL or UNSPEC).
    pub addresses: Option<Addresses>,
    /// The bytes of the header; what follows is the client's.
    pub wire_len: usize,
}

impl ProxyHeader {
    /// Reads the header from all bytes received so far, at most 107 (v1) or 4,096 (v2) of them.
    pub fn parse(received: &[u8]) -> Result<Progress<Self>, ProxyHeaderError> {
        let progress = match received.first() {
            None => Progress::Incomplete { at_least: 15 },
            Some(b'P') => match ProxyV1::parse(received)? {
                Progress::Incomplete { at_least } => Progress::Incomplete { at_least },
                Progress::Complete((header, wire_len)) => {
                    let addresses = match header {
                        ProxyV1::Tcp(addresses) => Some(addresses),
                        ProxyV1::Unknown => None,
                    };
                    Progress::Complete(Self { version: ProxyVersion::V1, addresses, wire_len })
                }
            },
            Some(b'\r') => match ProxyV2::parse(received, PROXY_V2_LIMIT)? {
                Progress::Incomplete { at_least } => Progress::Incomplete { at_least },
                Progress::Complete(ProxyV2 { addresses, wire_len, .. }) => {
                    Progress::Complete(Self { version: ProxyVersion::V2, addresses, wire_len })
                }
            },
            Some(_) => return Err(ProxyHeaderError::Absent),
        };
        Ok(progress)
    }
}

/// The version of a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// The line of text.
    V1,
    /// The binary header.
    V2,
}

/// `proxy_header_invalid`: why the bytes are not a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The first byte starts neither version.
    #[error("no PROXY header")]
    Absent,
    /// Not a version 1 header.
    #[error("not a PROXY v1 header")]
    V1(#[from] ProxyV1Error),
    /// Not a version 2 header.
    #[error("not a PROXY v2 header")]
    V2(#[from] ProxyV2Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-23: the real address is read from either version, and the bytes behind it are the client's.
    #[test]
    fn either_version_is_told_by_its_first_byte() {
        let addresses = Addresses::new("192.0.2.1:56324".parse().unwrap(), "192.0.2.11:443".parse().unwrap());
        let mut v1 = Vec::new();
        ProxyV1::Tcp(addresses).encode(&mut v1);
        let mut v2 = Vec::new();
        ProxyV2::encode(Some(addresses), &[], &mut v2).unwrap();
        for (version, header) in [(ProxyVersion::V1, v1), (ProxyVersion::V2, v2)] {
            let wire_len = header.len();
            let received = [header.as_slice(), b"hello"].concat();
            for end in 0..wire_len {
                let progress = ProxyHeader::parse(&received[..end]).unwrap();
                let Progress::Incomplete { at_least } = progress else { panic!("{progress:?}") };
                assert!(at_least >= 1 && end + at_least <= wire_len, "{end} + {at_least}");
            }
            let want = ProxyHeader { version, addresses: Some(addresses), wire_len };
            assert_eq!(ProxyHeader::parse(&received), Ok(Progress::Complete(want)));
        }
    }

    /// R-23: a header without addresses leaves the connection its own.
    #[test]
    fn a_header_without_addresses_gives_none() {
        let mut local = Vec::new();
        ProxyV2::encode(None, &[], &mut local).unwrap();
        for (version, received) in
            [(ProxyVersion::V1, b"PROXY UNKNOWN\r\n".to_vec()), (ProxyVersion::V2, local)]
        {
            let want = ProxyHeader { version, addresses: None, wire_len: received.len() };
            assert_eq!(ProxyHeader::parse(&received), Ok(Progress::Complete(want)));
        }
    }

    /// R-23: a client without a header is refused with its first byte, not when a deadline passes.
    #[test]
    fn a_missing_header_is_told_by_the_first_byte() {
        assert_eq!(ProxyHeader::parse(b"\x16"), Err(ProxyHeaderError::Absent));
        assert_eq!(ProxyHeader::parse(b"PU"), Err(ProxyHeaderError::V1(ProxyV1Error::Prefix)));
        assert_eq!(ProxyHeader::parse(b"\r\n\r\n\r"), Err(ProxyHeaderError::V2(ProxyV2Error::Signature)));
    }
}
