//! PROXY protocol version 2, the binary header (haproxy's `proxy-protocol.txt`, §2.2).
//!
//! Owns parsing and writing of the header and its TLVs, the checksum included.
//! Never interprets a TLV beyond the checksum, and never decides whether the sender may be believed.
//! Invariant: a returned header's TLVs are all whole; iterating over them cannot fail.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::addresses::SameFamily;
use super::fields::Fields;
use super::{Addresses, Progress};

/// The default bound on a header. The specification aims at 536 bytes; clouds add TLVs of their own, and a
/// client certificate's name may be among them.
pub const PROXY_V2_LIMIT: usize = 4096;

/// The twelve bytes that no other protocol begins with (§2.2).
pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
pub(super) const FIXED: usize = 16;

/// The types of TLV that are used here (§2.2.1 to §2.2.8).
pub mod tlv {
    /// The protocol that ALPN chose.
    pub const ALPN: u8 = 0x01;
    /// The server name that the client asked for.
    pub const AUTHORITY: u8 = 0x02;
    /// CRC32c of the header.
    pub const CRC32C: u8 = 0x03;
    /// Padding.
    pub const NOOP: u8 = 0x04;
    /// The connection's id, at most 128 bytes.
    pub const UNIQUE_ID: u8 = 0x05;
}

/// A version 2 header, borrowed from the bytes it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyV2<'a> {
    /// What the connection is for.
    pub command: ProxyV2Command,
    /// The addresses, canonical; `None` where the connection's own count: a LOCAL command, and every family
    /// or transport but TCP over IPv4 and IPv6, which §2.2 lets a receiver take as UNSPEC.
    pub addresses: Option<Addresses>,
    /// The TLVs behind the addresses; none for LOCAL and for UNSPEC, whose block is to be ignored.
    pub tlvs: Tlvs<'a>,
    /// The bytes of the whole header.
    pub wire_len: usize,
}

impl<'a> ProxyV2<'a> {
    /// Reads the header at the start of `received`, of at most `limit` bytes.
    pub fn parse(received: &'a [u8], limit: usize) -> Result<Progress<Self>, ProxyV2Error> {
        let known = received.len().min(SIGNATURE.len());
        if received[..known] != SIGNATURE[..known] {
            return Err(ProxyV2Error::Signature);
        }
        let command = match received.get(12) {
            None => return Ok(Progress::Incomplete { at_least: FIXED - received.len() }),
            Some(0x20) => ProxyV2Command::Local,
            Some(0x21) => ProxyV2Command::Proxy,
            Some(&found) if found >> 4 != 2 => return Err(ProxyV2Error::Version { found: found >> 4 }),
            Some(&found) => return Err(ProxyV2Error::Command { found: found & 0x0f }),
        };
        let block = match received.get(13) {
            None => return Ok(Progress::Incomplete { at_least: FIXED - received.len() }),
            Some(&found) => Block::of(command, found)?,
        };
        let Some(length) = received.get(14..FIXED) else {
            return Ok(Progress::Incomplete { at_least: FIXED - received.len() });
        };
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let wire_len = FIXED + length;
        if wire_len > limit {
            return Err(ProxyV2Error::TooLong { length: wire_len, limit });
        }
        if length < block.len() {
            return Err(ProxyV2Error::AddressesTooShort { length });
        }
        let Some(header) = received.get(..wire_len) else {
            return Ok(Progress::Incomplete { at_least: wire_len - received.len() });
        };
        let (addresses, rest) = block.read(&header[FIXED..]);
        let tlvs = Tlvs::check(rest).ok_or(ProxyV2Error::Tlv)?;
        check_crc32c(header, tlvs)?;
        Ok(Progress::Complete(Self { command, addresses, tlvs, wire_len }))
    }

    /// Appends a header to `out`: a PROXY command for `Some`, LOCAL for `None`.
    ///
    /// Addresses of two families are written as IPv6, the IPv4 one v4-mapped. On an error `out` is as before.
    pub fn encode(
        addresses: Option<Addresses>,
        tlvs: &[Tlv<'_>],
        out: &mut Vec<u8>,
    ) -> Result<(), ProxyV2EncodeError> {
        let start = out.len();
        out.extend_from_slice(&SIGNATURE);
        match addresses {
            None => out.extend_from_slice(&[0x20, 0x00, 0, 0]),
            Some(addresses) => {
                match addresses.in_one_family() {
                    SameFamily::V4(pair) => {
                        out.extend_from_slice(&[0x21, 0x11, 0, 0]);
                        out.extend(pair.iter().flat_map(Ipv4Addr::octets));
                    }
                    SameFamily::V6(pair) => {
                        out.extend_from_slice(&[0x21, 0x21, 0, 0]);
                        out.extend(pair.iter().flat_map(Ipv6Addr::octets));
                    }
                }
                out.extend_from_slice(&addresses.source.port().to_be_bytes());
                out.extend_from_slice(&addresses.destination.port().to_be_bytes());
            }
        }
        let written = tlvs.iter().try_for_each(|tlv| {
            let length = u16::try_from(tlv.value.len()).ok()?;
            out.push(tlv.kind);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(tlv.value);
            Some(())
        });
        let length = u16::try_from(out.len() - start - FIXED).ok();
        let (Some(()), Some(length)) = (written, length) else {
            out.truncate(start);
            return Err(ProxyV2EncodeError);
        };
        out[start + 14..start + FIXED].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyV2Command {
    /// The sender's own connection, a health check for instance.
    Local,
    /// A connection on behalf of a client.
    Proxy,
}

/// One type-length-value of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// The type, see [`tlv`].
    pub kind: u8,
    /// The value, at most 65,535 bytes.
    pub value: &'a [u8],
}

/// The TLVs of a header, in their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tlvs<'a> {
    /// Whole TLVs and nothing else.
    bytes: &'a [u8],
}

impl<'a> Tlvs<'a> {
    /// `bytes` as TLVs, or `None` where the last one is cut off.
    fn check(bytes: &'a [u8]) -> Option<Self> {
        let tlvs = Self { bytes };
        let taken: usize = tlvs.iter().map(|tlv| 3 + tlv.value.len()).sum();
        (taken == bytes.len()).then_some(tlvs)
    }

    /// Each TLV, first to last.
    pub fn iter(self) -> impl Iterator<Item = Tlv<'a>> {
        let mut rest = Fields(self.bytes);
        std::iter::from_fn(move || Some(Tlv { kind: rest.u8()?, value: rest.vector16()? }))
    }

    /// The value of the first TLV of this type.
    pub fn first(self, kind: u8) -> Option<&'a [u8]> {
        self.iter().find(|tlv| tlv.kind == kind).map(|tlv| tlv.value)
    }
}

/// Why bytes are not a version 2 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyV2Error {
    /// The first twelve bytes are others.
    #[error("no PROXY v2 signature")]
    Signature,
    /// Another version than 2.
    #[error("version {found} instead of 2")]
    Version {
        /// The version.
        found: u8,
    },
    /// Neither LOCAL nor PROXY.
    #[error("unassigned command {found}")]
    Command {
        /// The command.
        found: u8,
    },
    /// A family or transport that §2.2 says must be rejected.
    #[error("unassigned family and transport {found:#04x}")]
    Family {
        /// The 14th byte.
        found: u8,
    },
    /// The header is longer than the receiver allows.
    #[error("a header of {length} bytes, more than {limit}")]
    TooLong {
        /// The whole header's length.
        length: usize,
        /// The receiver's limit.
        limit: usize,
    },
    /// Fewer bytes than the addresses of the family take.
    #[error("{length} bytes cannot hold the addresses")]
    AddressesTooShort {
        /// The length field.
        length: usize,
    },
    /// The last TLV reaches over the end of the header.
    #[error("a TLV reaches over the end of the header")]
    Tlv,
    /// The CRC32c TLV is not that of the header (§2.2.3).
    #[error("wrong checksum")]
    Checksum,
}

/// The TLVs do not fit into the 65,535 bytes that a header can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the TLVs do not fit into a PROXY v2 header")]
pub struct ProxyV2EncodeError;

/// What stands behind the fixed part.
#[derive(Clone, Copy)]
enum Block {
    Ignored,
    V4,
    V6,
    /// Addresses of a known size that are no TCP client's, TLVs behind them.
    Skipped(usize),
}

impl Block {
    /// The block that the 14th byte announces.
    fn of(command: ProxyV2Command, byte: u8) -> Result<Self, ProxyV2Error> {
        match (command, byte >> 4, byte & 0x0f) {
            // "discard the protocol block including the family which is ignored"
            (ProxyV2Command::Local, ..) => Ok(Self::Ignored),
            (_, 4.., _) | (_, _, 3..) => Err(ProxyV2Error::Family { found: byte }),
            (_, 0, _) | (_, _, 0) => Ok(Self::Ignored),
            (_, 1, 1) => Ok(Self::V4),
            (_, 2, 1) => Ok(Self::V6),
            (_, 1, _) => Ok(Self::Skipped(12)),
            (_, 2, _) => Ok(Self::Skipped(36)),
            (_, 3, _) => Ok(Self::Skipped(216)),
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Ignored => 0,
            Self::V4 => 12,
            Self::V6 => 36,
            Self::Skipped(length) => length,
        }
    }

    /// The addresses, and what is left for TLVs; `bytes` has at least `len` bytes.
    fn read(self, bytes: &[u8]) -> (Option<Addresses>, &[u8]) {
        if matches!(self, Self::Ignored) {
            return (None, &[]);
        }
        let (block, rest) = bytes.split_at(self.len());
        let mut fields = Fields(block);
        let addresses = match self {
            Self::V4 => addresses::<4, Ipv4Addr>(&mut fields),
            Self::V6 => addresses::<16, Ipv6Addr>(&mut fields),
            Self::Ignored | Self::Skipped(_) => None,
        };
        (addresses, rest)
    }
}

/// Source, destination, source port, destination port.
fn addresses<const N: usize, A: From<[u8; N]> + Into<std::net::IpAddr>>(
    fields: &mut Fields<'_>,
) -> Option<Addresses> {
    let [source, destination] = [A::from(fields.array()?), A::from(fields.array()?)];
    let [from, to] = [fields.u16()?, fields.u16()?];
    Some(Addresses::new(SocketAddr::new(source.into(), from), SocketAddr::new(destination.into(), to)))
}

/// Checks the checksum where there is one: computed over the header with the checksum's bytes zero.
fn check_crc32c(header: &[u8], tlvs: Tlvs<'_>) -> Result<(), ProxyV2Error> {
    let mut end = header.len() - tlvs.bytes.len();
    for tlv in tlvs.iter() {
        end += 3 + tlv.value.len();
        if tlv.kind != tlv::CRC32C {
            continue;
        }
        let stated = tlv.value.try_into().map(u32::from_be_bytes).map_err(|_| ProxyV2Error::Checksum)?;
        let state = crc32c(u32::MAX, &header[..end - 4]);
        let state = crc32c(crc32c(state, &[0; 4]), &header[end..]);
        if !state != stated {
            return Err(ProxyV2Error::Checksum);
        }
    }
    Ok(())
}

/// CRC32c (RFC 4960 appendix B), reflected, bit by bit: a header is short, and few carry one.
fn crc32c(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |state, byte| {
        (0..8).fold(state ^ u32::from(*byte), |state, _| (state >> 1) ^ (0x82f6_3b78 * (state & 1)))
    })
}

#[cfg(test)]
mod tests;
