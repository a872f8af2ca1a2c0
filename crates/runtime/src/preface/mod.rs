//! The bytes that come before the traffic: ClientHello, TLS alert, PROXY v1/v2 and the hop header.
//!
//! Owns the wire formats of everything that is read or written before a connection is relayed.
//! Never touches a socket, a clock or the ledger: bytes in, values out, so that every prefix,
//! split and flipped byte can be tested.
//! Invariant: a verdict depends on the bytes alone, never on how they were cut into reads; a prefix
//! of something valid is always `Incomplete`, never an error.

mod addresses;
mod alert;
mod client_hello;
mod fields;
mod first_bytes;
mod hop;
mod proxy;
mod proxy_v1;
mod proxy_v2;
mod replay;
mod server_name;

pub use addresses::Addresses;
pub use alert::{ALERT_RECORD_LEN, AlertDescription};
pub use client_hello::{
    Alpn, CLIENT_HELLO_LIMIT, ClientHello, ClientHelloError, ClientHelloReader, Field, HelloFault, TlsVersion,
};
pub use first_bytes::{FirstBytes, classify};
pub use hop::{
    AuthFault, HOP_HEADER_LIMIT, HopClass, HopEncodeError, HopFault, HopHeader, HopKey, HopRefusal,
    UnverifiedHopHeader, VerifiedHopHeader,
};
pub use proxy::{ProxyHeader, ProxyHeaderError, ProxyVersion};
pub use proxy_v1::{PROXY_V1_LIMIT, ProxyV1, ProxyV1Error};
pub use proxy_v2::{
    PROXY_V2_LIMIT, ProxyV2, ProxyV2Command, ProxyV2EncodeError, ProxyV2Error, Tlv, Tlvs, tlv,
};
pub use replay::{REPLAY_WINDOW, ReplayWindow, Replayed};
pub use server_name::{NameFault, canonical_name};

/// What a parser could say about the bytes received so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress<T> {
    /// What is there is a prefix of something valid.
    Incomplete {
        /// At least this many further bytes (never 0) must arrive before it can be complete; a fault may
        /// show sooner.
        at_least: usize,
    },
    /// The value, whole.
    Complete(T),
}
