//! networkproxy: owns the private keys, ends TLS, speaks HTTP with clients and targets.
//!
//! ```text
//!   smartproxy ══ hop ══▶ header verified ─▶ record ─▶ TLS ─┬─▶ HTTP ─▶ route ─▶ pool ─▶ target
//!                                                           └─▶ opaque ─▶ tunnel ─────▶ target
//!   smartproxy ◀─ control channel ─▶ keys, routes; every change of every record
//! ```
//!
//! *Owns* private keys, HTTP, connections to targets, and the inner half of every bridged connection. *Never*
//! has a public port and never believes a hop connection before its tag has verified. *Invariant*: sockets
//! first, record last. The life of one connection is [`connection`]: start there.

pub mod arguments;
pub mod certificates;
pub mod connection;
pub mod ending;
pub mod failure;
pub mod gateway;
pub mod hop;
pub mod hop_io;
pub mod http;
pub mod pool;
pub mod process;
pub mod settings;
pub mod start;
pub mod status;
pub mod tls;
pub mod tls_io;
pub mod tunnel;
pub mod wind_down;
