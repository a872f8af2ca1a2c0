//! The header with which smartproxy opens a connection over the hop.
//!
//! Owns its encoding (PROXY v2 with the TLVs below), its tag, and the check of both.
//! Never trusts what it has not verified: nothing of an `UnverifiedHopHeader` can be read. Freshness is
//! `ReplayWindow`'s.
//! Invariant: a header in which any bit differs from what the key's holder wrote does not verify.
//!
//! | TLV | value |
//! |---|---|
//! | 0x02 authority | the server name, where there is one |
//! | 0x05 unique id | the ConnectionId, 16 bytes |
//! | 0xE0 context | class (1), configuration generation (8), entry name (the rest) |
//! | 0xE1 tag, always last | key id (8), counter (8), HMAC-SHA-256 over everything before it, first 16 bytes |

use std::borrow::Borrow;
use std::fmt;
use std::net::SocketAddr;

use aws_lc_rs::{constant_time, hmac};

use super::fields::Fields;
use super::{
    Addresses, NameFault, Progress, ProxyV2, ProxyV2EncodeError, ProxyV2Error, Tlv, Tlvs, canonical_name, tlv,
};

/// The longest hop header; longer ones are refused by their length field.
pub const HOP_HEADER_LIMIT: usize = 1024;

/// The TLV that says what the connection is to be routed by.
const CONTEXT: u8 = 0xe0;
/// The TLV that proves who wrote the header.
const TAG: u8 = 0xe1;
/// Key id, counter, MAC.
const TAG_LEN: usize = 8 + 8 + MAC_LEN;
const MAC_LEN: usize = 16;

/// What smartproxy tells networkproxy about a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HopHeader {
    /// The client's real address.
    pub client: SocketAddr,
    /// The public address that the client connected to.
    pub local: SocketAddr,
    /// The canonical server name of the ClientHello, where there is one.
    pub server_name: Option<String>,
    /// The ConnectionId.
    pub connection_id: u128,
    /// The entry that smartproxy chose.
    pub entry: String,
    /// The generation of the configuration in which it chose.
    pub generation: u64,
    /// What the client's bytes are.
    pub class: HopClass,
}

impl HopHeader {
    /// Appends the header to `out`, tagged with `key` and this attempt's `counter` (never 0, never used
    /// before with this key). Returns its length; on an error `out` is as before.
    pub fn encode(&self, key: &HopKey, counter: u64, out: &mut Vec<u8>) -> Result<usize, HopEncodeError> {
        if counter == 0 {
            return Err(HopEncodeError::ZeroCounter);
        }
        let name = self.server_name.as_deref().map(|name| canonical_name(name.as_bytes())).transpose()?;
        let id = self.connection_id.to_be_bytes();
        let context =
            [&[self.class as u8][..], &self.generation.to_be_bytes(), self.entry.as_bytes()].concat();
        let mut tag = [0; TAG_LEN];
        tag[..8].copy_from_slice(&key.id.to_be_bytes());
        tag[8..16].copy_from_slice(&counter.to_be_bytes());
        let tlvs = [
            Tlv { kind: tlv::AUTHORITY, value: name.as_deref().unwrap_or_default().as_bytes() },
            Tlv { kind: tlv::UNIQUE_ID, value: &id },
            Tlv { kind: CONTEXT, value: &context },
            Tlv { kind: TAG, value: &tag },
        ];
        let tlvs = if name.is_some() { &tlvs[..] } else { &tlvs[1..] };

        let start = out.len();
        ProxyV2::encode(Some(Addresses::new(self.client, self.local)), tlvs, out)?;
        let length = out.len() - start;
        if length > HOP_HEADER_LIMIT {
            out.truncate(start);
            return Err(HopEncodeError::TooLong { length });
        }
        let signed = out.len() - MAC_LEN;
        let mac = key.mac(&out[start..signed]);
        out[signed..].copy_from_slice(&mac);
        Ok(length)
    }

    /// Reads a header from all bytes received so far; the number is its length, what follows is the client's.
    ///
    /// Bytes that cannot become a header are refused with the first that shows it, up to the length field;
    /// what is wrong with the TLVs shows when they are all there.
    pub fn decode(received: &[u8]) -> Result<Progress<(UnverifiedHopHeader<'_>, usize)>, HopRefusal> {
        let parsed = ProxyV2::parse(received, HOP_HEADER_LIMIT).map_err(|error| match error {
            ProxyV2Error::Signature => HopRefusal::Missing,
            other => HopFault::Header(other).into(),
        })?;
        if received.get(12).is_some_and(|byte| *byte != 0x21) {
            return Err(HopFault::Command.into());
        }
        if received.get(13).is_some_and(|byte| !matches!(byte, 0x11 | 0x21)) {
            return Err(HopFault::Family.into());
        }
        let header = match parsed {
            Progress::Incomplete { at_least } => return Ok(Progress::Incomplete { at_least }),
            Progress::Complete(header) => header,
        };
        let wire_len = header.wire_len;
        let unverified = UnverifiedHopHeader::read(&received[..wire_len], header)?;
        Ok(Progress::Complete((unverified, wire_len)))
    }
}

/// What the client's bytes on the hop are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HopClass {
    /// A TLS connection that networkproxy terminates.
    Tls = 1,
    /// HTTP in clear text.
    Clear = 2,
}

/// The key of one pair of instances.
#[derive(Clone)]
pub struct HopKey {
    id: u64,
    secret: hmac::Key,
}

impl HopKey {
    /// A key of the name `id`, from a secret that smartproxy drew at random.
    pub fn new(id: u64, secret: &[u8; 32]) -> Self {
        Self { id, secret: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// The key's name, as the tag carries it.
    pub fn id(&self) -> u64 {
        self.id
    }

    fn mac(&self, signed: &[u8]) -> [u8; MAC_LEN] {
        let tag = hmac::sign(&self.secret, signed);
        *tag.as_ref().first_chunk().expect("HMAC-SHA-256 has 32 bytes")
    }
}

impl fmt::Debug for HopKey {
    /// The name alone, never the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HopKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A header that is well-formed, and nothing more: anybody on the machine could have sent it.
#[derive(Debug)]
#[must_use = "an unverified header says nothing"]
pub struct UnverifiedHopHeader<'a> {
    header: HopHeader,
    key_id: u64,
    counter: u64,
    /// Everything before the MAC.
    signed: &'a [u8],
    mac: [u8; MAC_LEN],
}

impl<'a> UnverifiedHopHeader<'a> {
    /// Checks the tag with the key that `key_by_id` finds.
    pub fn verify<K: Borrow<HopKey>>(
        self,
        key_by_id: impl FnOnce(u64) -> Option<K>,
    ) -> Result<VerifiedHopHeader, HopRefusal> {
        let Some(key) = key_by_id(self.key_id) else {
            return Err(HopRefusal::AuthFailed(AuthFault::UnknownKey { id: self.key_id }));
        };
        let mac = key.borrow().mac(self.signed);
        if constant_time::verify_slices_are_equal(&mac, &self.mac).is_err() {
            return Err(HopRefusal::AuthFailed(AuthFault::WrongTag));
        }
        Ok(VerifiedHopHeader { header: self.header, key_id: self.key_id, counter: self.counter })
    }

    /// Reads the fields of `header`, whose bytes are `wire`.
    fn read(wire: &'a [u8], header: ProxyV2<'a>) -> Result<Self, HopRefusal> {
        if header.tlvs.first(TAG).is_none() {
            return Err(HopRefusal::AuthFailed(AuthFault::Untagged));
        }
        let mut tag =
            header.tlvs.iter().last().filter(|last| last.kind == TAG).map(|last| Fields(last.value));
        let tag = tag.as_mut().ok_or(HopFault::Tag)?;
        let (key_id, counter, mac) = (tag.u64(), tag.u64(), tag.array());
        let (Some(key_id), Some(counter), Some(mac), true) = (key_id, counter, mac, tag.is_empty()) else {
            return Err(HopFault::Tag.into());
        };
        if counter == 0 {
            return Err(HopFault::ZeroCounter.into());
        }
        let Addresses { source, destination } = header.addresses.ok_or(HopFault::Family)?;
        let id = single(header.tlvs, tlv::UNIQUE_ID)?.ok_or(HopFault::ConnectionId)?;
        let context = single(header.tlvs, CONTEXT)?.ok_or(HopFault::Context)?;
        let (class, generation, entry) = read_context(context).ok_or(HopFault::Context)?;
        let server_name = single(header.tlvs, tlv::AUTHORITY)?.map(canonical_name).transpose();
        let header = HopHeader {
            client: source,
            local: destination,
            server_name: server_name.map_err(HopFault::ServerName)?,
            connection_id: id.try_into().map(u128::from_be_bytes).map_err(|_| HopFault::ConnectionId)?,
            entry: entry.to_owned(),
            generation,
            class,
        };
        Ok(Self { header, key_id, counter, signed: &wire[..wire.len() - MAC_LEN], mac })
    }
}

/// A header that the holder of the key wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedHopHeader {
    /// What it says.
    pub header: HopHeader,
    /// The key that verified it: names the smartproxy instance.
    pub key_id: u64,
    /// The attempt; fresh only when the key's `ReplayWindow` accepts it.
    pub counter: u64,
}

/// Why a hop connection is refused for its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HopRefusal {
    /// `hop_header_missing`: the first bytes are not the PROXY v2 signature.
    #[error("no hop header")]
    Missing,
    /// `hop_header_invalid`: a PROXY v2 header, but no hop header.
    #[error("malformed hop header")]
    Invalid(#[from] HopFault),
    /// `hop_auth_failed`: nothing shows that our smartproxy wrote it.
    #[error("unauthenticated hop header")]
    AuthFailed(#[source] AuthFault),
}

/// What is wrong with the form of a hop header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HopFault {
    /// Not even a PROXY v2 header.
    #[error("not a PROXY v2 header")]
    Header(#[source] ProxyV2Error),
    /// Not the PROXY command: a health check by somebody who takes the hop for a web server.
    #[error("not a PROXY command")]
    Command,
    /// Not TCP over IPv4 or IPv6.
    #[error("neither TCP over IPv4 nor TCP over IPv6")]
    Family,
    /// A TLV that decides something is there twice.
    #[error("TLV {kind:#04x} is repeated")]
    Repeated {
        /// The type.
        kind: u8,
    },
    /// No unique id of 16 bytes.
    #[error("no connection id of 16 bytes")]
    ConnectionId,
    /// No context, or one of a wrong form.
    #[error("no class, generation and entry name")]
    Context,
    /// The authority is not a DNS name.
    #[error("the authority is not a DNS name")]
    ServerName(#[source] NameFault),
    /// The tag is not the last TLV, or not of 32 bytes.
    #[error("the tag is not at the end")]
    Tag,
    /// The counter 0, which stands for the front half.
    #[error("the counter is 0")]
    ZeroCounter,
}

/// Why a well-formed header is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthFault {
    /// A PROXY v2 header without a tag: some other proxy, or an impostor.
    #[error("no tag")]
    Untagged,
    /// A key that this process does not hold: of another pair, or of a former life.
    #[error("unknown key {id}")]
    UnknownKey {
        /// The key's name.
        id: u64,
    },
    /// The tag is not the key's for these bytes.
    #[error("wrong tag")]
    WrongTag,
}

/// Why a header cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HopEncodeError {
    /// The counter 0 is the front half's.
    #[error("the counter is 0")]
    ZeroCounter,
    /// The server name is not a DNS name.
    #[error("the server name is not a DNS name")]
    ServerName(#[from] NameFault),
    /// The entry name makes the header too long.
    #[error("a hop header of {length} bytes, more than 1024")]
    TooLong {
        /// The length it would have.
        length: usize,
    },
    /// The entry name does not even fit into a TLV.
    #[error("the entry name does not fit into a TLV")]
    Header(#[from] ProxyV2EncodeError),
}

/// The value of the only TLV of this type.
fn single(tlvs: Tlvs<'_>, kind: u8) -> Result<Option<&[u8]>, HopFault> {
    let mut values = tlvs.iter().filter(|tlv| tlv.kind == kind).map(|tlv| tlv.value);
    let value = values.next();
    if values.next().is_some() { Err(HopFault::Repeated { kind }) } else { Ok(value) }
}

fn read_context(context: &[u8]) -> Option<(HopClass, u64, &str)> {
    let mut fields = Fields(context);
    let class = match fields.u8()? {
        1 => HopClass::Tls,
        2 => HopClass::Clear,
        _ => return None,
    };
    Some((class, fields.u64()?, std::str::from_utf8(fields.0).ok()?))
}

#[cfg(test)]
mod tests;
