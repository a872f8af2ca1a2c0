//! The extensions of a ClientHello that decide about its route.
//!
//! Owns server_name (RFC 6066 §3), application_layer_protocol_negotiation (RFC 7301 §3.1),
//! supported_versions (RFC 8446 §4.2.1) and the presence of encrypted_client_hello (RFC 9849).
//! Never looks into any other extension.
//! Invariant: an extension read here occurs once, so that what is routed is what a server would see.

use std::net::IpAddr;

use super::super::canonical_name;
use super::super::fields::Fields;
use super::{ClientHello, Field, HelloFault, TlsVersion};

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// The name type `host_name` (RFC 6066 §3).
const HOST_NAME: u8 = 0;

/// The protocols that a client offers, kept as they were on the wire.
///
/// One allocation however many there are: a hostile hello of 16 KiB can name 8,000.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alpn {
    /// Protocol names, each behind a byte of length, checked.
    wire: Box<[u8]>,
}

impl Alpn {
    /// The names in the client's order, such as `h2`; GREASE values (RFC 8701) are among them.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Fields(&self.wire);
        std::iter::from_fn(move || rest.vector8())
    }

    /// Whether the client offers `protocol`.
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.names().any(|name| name == protocol)
    }

    /// Whether there was no ALPN extension.
    pub fn is_empty(&self) -> bool {
        self.wire.is_empty()
    }
}

/// Which of the extensions were met.
#[derive(Debug, Default)]
pub(super) struct Found {
    server_name: bool,
    alpn: bool,
    supported_versions: bool,
    encrypted_client_hello: bool,
}

/// Takes the extension `kind` with its `body` into `hello`.
pub(super) fn read(
    hello: &mut ClientHello,
    found: &mut Found,
    kind: u16,
    body: &[u8],
) -> Result<(), HelloFault> {
    let met = match kind {
        SERVER_NAME => &mut found.server_name,
        ALPN => &mut found.alpn,
        SUPPORTED_VERSIONS => &mut found.supported_versions,
        ENCRYPTED_CLIENT_HELLO => &mut found.encrypted_client_hello,
        _ => return Ok(()),
    };
    if std::mem::replace(met, true) {
        return Err(HelloFault::RepeatedExtension { kind });
    }
    match kind {
        SERVER_NAME => read_server_name(hello, body)?,
        ALPN => hello.alpn = read_alpn(body).ok_or(HelloFault::Length(Field::ProtocolNameList))?,
        SUPPORTED_VERSIONS => {
            hello.highest_version = highest_version(body, hello.highest_version)
                .ok_or(HelloFault::Length(Field::SupportedVersions))?;
        }
        _ => hello.has_ech = true,
    }
    Ok(())
}

/// `ServerNameList`: at least one entry, at most one of type `host_name`, others skipped.
fn read_server_name(hello: &mut ClientHello, body: &[u8]) -> Result<(), HelloFault> {
    let malformed = HelloFault::Length(Field::ServerNameList);
    let mut names = None;
    let mut list = list_of_all(body).ok_or(malformed)?;
    while !list.is_empty() {
        let kind = list.u8().ok_or(malformed)?;
        let name = list.vector16().ok_or(malformed)?;
        if kind == HOST_NAME && names.replace(name).is_some() {
            return Err(HelloFault::TwoServerNames);
        }
    }
    let Some(name) = names else { return Ok(()) };
    if std::str::from_utf8(name).is_ok_and(|name| name.parse::<IpAddr>().is_ok()) {
        hello.server_name_is_ip = true;
        return Ok(());
    }
    hello.server_name = Some(canonical_name(name).map_err(HelloFault::ServerName)?);
    Ok(())
}

/// `ProtocolNameList`: at least one name, none of them empty.
fn read_alpn(body: &[u8]) -> Option<Alpn> {
    let list = list_of_all(body)?;
    let mut names = list;
    while !names.is_empty() {
        names.vector8().filter(|name| !name.is_empty())?;
    }
    Some(Alpn { wire: list.0.into() })
}

/// `SupportedVersions`: the highest that TLS has a name space for, else `legacy`; drafts and GREASE lie
/// outside of it.
fn highest_version(body: &[u8], legacy: TlsVersion) -> Option<TlsVersion> {
    let mut body = Fields(body);
    let mut versions = Fields(body.vector8()?);
    if !body.is_empty() || versions.is_empty() {
        return None;
    }
    let mut highest = None;
    while !versions.is_empty() {
        let version = versions.u16()?;
        if version >> 8 == 3 {
            highest = highest.max(Some(TlsVersion(version)));
        }
    }
    highest.or(Some(legacy))
}

/// The content of a list that fills `body` and is not empty.
fn list_of_all(body: &[u8]) -> Option<Fields<'_>> {
    let mut body = Fields(body);
    let list = body.vector16()?;
    (body.is_empty() && !list.is_empty()).then_some(Fields(list))
}
