//! Owns the shape of `smartproxy.yaml` as plain Rust types, after every check has passed.
//!
//! Never reads text: the schema (`schema/smartproxy.rs`) holds keys, defaults and their words, and the
//! checker turns a file into these types only when it has no problem. Limits and addresses are values a
//! process can use as they are.
//!
//! Invariant: [`SmartproxyConfig::default`] is what the embedded default file says, read by the same
//! checker as any other file.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::routes::Route;
use crate::sourced::Sourced;
use crate::units::{Auto, Percent};

/// Everything `smartproxy.yaml` says.
#[derive(Debug, Clone, PartialEq)]
pub struct SmartproxyConfig {
    /// The file's name as it was given; the embedded default is `(default)`.
    pub file: Arc<str>,
    /// The settings of the process.
    pub settings: SmartproxySettings,
    /// The routes in the order of the file.
    pub routes: Vec<Route>,
}

/// The embedded default: TLS on 127.0.0.1:8443 and clear HTTP on 127.0.0.1:8080, both answered by
/// networkproxy's status page.
impl Default for SmartproxyConfig {
    fn default() -> Self {
        crate::check_smartproxy("(default)", DEFAULT_SMARTPROXY, &crate::Surroundings::ideal())
            .config
            .expect("a test checks the embedded default")
    }
}

impl std::ops::Deref for SmartproxyConfig {
    type Target = SmartproxySettings;

    fn deref(&self) -> &SmartproxySettings {
        &self.settings
    }
}

/// The text of the embedded default.
pub const DEFAULT_SMARTPROXY: &str = include_str!("default/smartproxy.yaml");

/// The file apart from its routes. [`SmartproxyConfig`] derefs to it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmartproxySettings {
    /// The version of the file format; always 1.
    pub version: u32,
    /// Threads that carry connections; auto = cores.
    pub workers: Auto<u32>,
    /// Addresses that every public port is bound on.
    pub bind: Vec<IpAddr>,
    /// The gRPC port: control channel and admin services.
    pub control: Control,
    /// The metrics and health port.
    pub metrics: Metrics,
    /// The log.
    pub log: Log,
    /// Deadlines; routes may write their own.
    pub timeouts: Timeouts,
    /// Admission and memory.
    pub limits: Limits,
}

/// smartproxy's gRPC port.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The bearer token's file; `None` = [`crate::default_token_file`].
    pub token_file: Option<PathBuf>,
    /// Time between two heartbeats on the control channel.
    pub heartbeat: Duration,
    /// Silence after which a session is reset.
    pub stall_after: Duration,
    /// Off loopback without TLS; makes the token mandatory for reading.
    pub allow_plaintext: bool,
    /// Reading needs the token, on loopback as well.
    pub read_requires_token: bool,
}

/// The metrics and health port of either process.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// The log of either process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// How lines look.
    pub format: LogFormat,
}

/// The least severe level that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Only errors.
    Error,
    /// And warnings.
    Warn,
    /// And one line per connection.
    Info,
    /// And clients' mistakes.
    Debug,
    /// And everything else.
    Trace,
}

impl LogLevel {
    /// The level's name as the file writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// smartproxy's deadlines.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// To wait to be accepted while more come than can be served; `None` = no limit.
    pub accept_queue: Sourced<Option<Duration>>,
    /// To read an inbound PROXY protocol header.
    pub proxy_header: Sourced<Duration>,
    /// From accept (or the end of the PROXY header) to the routing decision.
    pub initial_data: Sourced<Duration>,
    /// To connect to a target or to the hop.
    pub connect: Sourced<Duration>,
    /// To wait for a networkproxy; zero = do not wait.
    pub hold: Sourced<Duration>,
    /// No byte in either direction.
    pub inactivity: Sourced<Duration>,
    /// One side closed, no progress on the other.
    pub half_close: Sourced<Duration>,
    /// A side does not take our bytes.
    pub write_stall: Sourced<Duration>,
    /// From accept to the end, whatever happens; `None` = no limit.
    pub max_lifetime: Sourced<Option<Duration>>,
    /// To deliver what is left and say goodbye.
    pub close: Sourced<Duration>,
    /// To let connections finish when draining.
    pub drain: Sourced<Duration>,
    /// Keep-alive probes, and `TCP_USER_TIMEOUT`.
    pub tcp_keepalive: Sourced<Duration>,
    /// Spread of sweeps, reconnects and deadlines, so that they do not fall together.
    pub jitter: Percent,
}

/// Admission and memory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Live connections; auto = what the process may open.
    pub max_connections: Sourced<Auto<u64>>,
    /// Live connections of one client address; `None` = no limit of its own.
    pub max_connections_per_ip: Sourced<Option<u64>>,
    /// Connections that wait for a networkproxy.
    pub max_held: Sourced<u64>,
    /// Bytes read before the routing decision.
    pub initial_data_bytes: u64,
    /// Closed records that are retained.
    pub closed_records: u64,
}
