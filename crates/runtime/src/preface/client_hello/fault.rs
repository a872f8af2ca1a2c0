//! Why bytes are not a ClientHello.
//!
//! Owns the three reasons that a connection can end for, and under `client_hello_invalid` each single fault.
//! Never carries the client's bytes, only the numbers that were wrong.
//! Invariant: one fault, one variant: an operator never has to guess which check refused a client.

use std::fmt;

use super::super::NameFault;

/// Why the first bytes are not a ClientHello; each variant is one termination reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientHelloError {
    /// `not_tls`: no TLS record, no HTTP request either.
    #[error("the first bytes are not a TLS record")]
    NotTls,
    /// `plain_http_on_tls_port`.
    #[error("the first bytes are an HTTP request in clear text")]
    PlainHttp,
    /// `client_hello_invalid`: TLS, but not a hello that can be routed.
    #[error("not a valid ClientHello")]
    Invalid(#[from] HelloFault),
}

/// What is wrong with a ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloFault {
    /// The hello of SSL 2.0, also used once to offer newer versions (RFC 5246 appendix E.2, forbidden by
    /// RFC 6176).
    #[error("a hello in the format of SSL 2.0")]
    Sslv2,
    /// A record of another type, first or between the fragments (RFC 8446 §5.1).
    #[error("a record of type {found} where a handshake record must be")]
    ContentType {
        /// The type.
        found: u8,
    },
    /// A later record has another major version than 3.
    #[error("a record of major version {found}")]
    RecordVersion {
        /// The major version.
        found: u8,
    },
    /// A record longer than 2^14 bytes.
    #[error("a record of {length} bytes, more than 16384")]
    RecordTooLong {
        /// The length in the record's header.
        length: usize,
    },
    /// A handshake record without content, which RFC 8446 §5.1 forbids: it would make endless hellos.
    #[error("an empty handshake record")]
    EmptyRecord,
    /// Another handshake message.
    #[error("a handshake message of type {found} instead of a ClientHello")]
    HandshakeType {
        /// The message type.
        found: u8,
    },
    /// The message cannot hold the fields that every hello has.
    #[error("a message of {length} bytes cannot be a ClientHello")]
    TooShort {
        /// The length in the message's header.
        length: usize,
    },
    /// The hello would take more bytes than the limit.
    #[error("more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The record goes on after the hello, though the client has to wait for the answer here
    /// (RFC 8446 §5.1: messages before a key change end their record).
    #[error("bytes after the hello in the same record")]
    TrailingBytes,
    /// A version below SSL 3.0.
    #[error("version {found:#06x}")]
    Version {
        /// The `legacy_version`.
        found: u16,
    },
    /// A length that is illegal for its field, or reaches over the end of what contains it.
    #[error("{0} of an impossible length")]
    Length(Field),
    /// An extension that decides about the route is there twice (RFC 8446 §4.2).
    #[error("extension {kind} is repeated")]
    RepeatedExtension {
        /// The extension type.
        kind: u16,
    },
    /// The server name list has two host names (RFC 6066 §3).
    #[error("two server names")]
    TwoServerNames,
    /// The server name is not a DNS name.
    #[error("the server name is not a DNS name")]
    ServerName(#[source] NameFault),
}

/// A field of the hello whose length is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the fields of RFC 8446 §4.1.2 and their extensions")]
pub enum Field {
    Random,
    SessionId,
    CipherSuites,
    CompressionMethods,
    Extensions,
    Extension,
    ServerNameList,
    ProtocolNameList,
    SupportedVersions,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "a version or random",
            Self::SessionId => "a session id",
            Self::CipherSuites => "a list of cipher suites",
            Self::CompressionMethods => "a list of compression methods",
            Self::Extensions => "a list of extensions",
            Self::Extension => "an extension",
            Self::ServerNameList => "a server name list",
            Self::ProtocolNameList => "an ALPN protocol list",
            Self::SupportedVersions => "a list of supported versions",
        })
    }
}
