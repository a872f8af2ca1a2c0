//! Owns the shape of `networkproxy.yaml` as plain Rust types, after every check has passed.
//!
//! Never reads text (see `schema/networkproxy.rs`), and never opens a certificate: only their paths are
//! here. Routes are not in this file; they arrive over the control channel (`routes/inner.rs`).
//!
//! Invariant: [`NetworkproxyConfig::default`] is what the embedded default file says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::smartproxy::{Log, Metrics};
use crate::sourced::Sourced;
use crate::units::Auto;

/// Everything `networkproxy.yaml` says.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkproxyConfig {
    /// The file's name as it was given; the embedded default is `(default)`.
    pub file: Arc<str>,
    /// The settings of the process.
    pub settings: NetworkproxySettings,
}

/// The embedded default: everything at its default, with a self-signed certificate for names that have none.
impl Default for NetworkproxyConfig {
    fn default() -> Self {
        crate::check_networkproxy("(default)", DEFAULT_NETWORKPROXY, &crate::Surroundings::ideal())
            .config
            .expect("a test checks the embedded default")
    }
}

impl std::ops::Deref for NetworkproxyConfig {
    type Target = NetworkproxySettings;

    fn deref(&self) -> &NetworkproxySettings {
        &self.settings
    }
}

/// The text of the embedded default.
pub const DEFAULT_NETWORKPROXY: &str = include_str!("default/networkproxy.yaml");

/// The whole file. [`NetworkproxyConfig`] derefs to it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkproxySettings {
    /// The version of the file format; always 1.
    pub version: u32,
    /// Threads that carry connections; auto = cores.
    pub workers: Auto<u32>,
    /// The control channel to smartproxy.
    pub control: PeerControl,
    /// The data hop from smartproxy.
    pub hop: Hop,
    /// The gRPC port: admin services.
    pub admin: Admin,
    /// The metrics and health port.
    pub metrics: Metrics,
    /// The log.
    pub log: Log,
    /// Certificates and private keys.
    pub certificates: Certificates,
    /// What TLS is offered to clients.
    pub tls: Tls,
    /// Deadlines; routes may write their own.
    pub timeouts: InnerTimeouts,
    /// Admission and memory.
    pub limits: InnerLimits,
    /// Connections to targets.
    pub pool: Pool,
}

/// The control channel to smartproxy.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerControl {
    /// smartproxy's control address.
    pub connect: SocketAddr,
    /// The bearer token's file; `None` = [`crate::default_token_file`].
    pub token_file: Option<PathBuf>,
}

/// The data hop from smartproxy.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hop {
    /// Where it listens; port 0 = any, announced to smartproxy.
    pub listen: SocketAddr,
}

/// networkproxy's gRPC port.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Off loopback without TLS; makes the token mandatory for reading.
    pub allow_plaintext: bool,
    /// Reading needs the token, on loopback as well.
    pub read_requires_token: bool,
}

/// Certificates and private keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificates {
    /// Pairs named one by one; the first is the default for absent or unmatched names.
    pub files: Vec<CertificateFile>,
    /// A directory of pairs; watched.
    pub directory: Option<PathBuf>,
    /// Make one for names that have none.
    pub self_signed: bool,
}

/// A certificate chain and its private key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFile {
    /// The chain, leaf first.
    pub cert_file: PathBuf,
    /// The leaf's key.
    pub key_file: PathBuf,
}

/// What TLS is offered to clients.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The oldest version that is accepted.
    pub min_version: TlsVersion,
    /// Resumption by tickets.
    pub session_tickets: bool,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    V1_3,
}

/// networkproxy's deadlines.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InnerTimeouts {
    /// To read the header of a hop connection.
    pub hop_header: Sourced<Duration>,
    /// From the hop header to the end of the TLS handshake.
    pub tls_handshake: Sourced<Duration>,
    /// To read a request's header.
    pub request_header: Sourced<Duration>,
    /// Between two requests.
    pub keep_alive: Sourced<Duration>,
    /// For a whole request and its response; `None` = no limit.
    pub request: Sourced<Option<Duration>>,
    /// From the end of the request to the response's header.
    pub response: Sourced<Duration>,
    /// No byte of a body in either direction.
    pub stream_idle: Sourced<Duration>,
    /// No byte through an upgraded or opaque connection.
    pub tunnel_idle: Sourced<Duration>,
    /// To connect to a target.
    pub connect: Sourced<Duration>,
    /// One side closed, no progress on the other.
    pub half_close: Sourced<Duration>,
    /// To deliver what is left and say goodbye.
    pub close: Sourced<Duration>,
    /// To let connections finish when draining.
    pub drain: Sourced<Duration>,
}

/// Admission and memory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InnerLimits {
    /// Live connections; auto = what the process may open.
    pub max_connections: Sourced<Auto<u64>>,
    /// A request's header in all.
    pub max_header_bytes: u64,
    /// Header fields of one request.
    pub max_headers: u32,
    /// HTTP/2 streams of one connection.
    pub max_concurrent_streams: u32,
}

/// Connections to targets.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Idle connections kept for each target.
    pub max_idle_per_target: u32,
    /// How long an idle one is kept.
    pub idle_timeout: Sourced<Duration>,
    /// Age after which one takes no new request; `None` = no limit.
    pub max_age: Sourced<Option<Duration>>,
    /// Send once more on a fresh connection when a reused one failed before any response byte.
    pub retry_stale: bool,
}
