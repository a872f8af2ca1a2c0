//! Owns every address, port and server name of a run.
//!
//! Everything is inside 127.77.0.0/16, so that a run meets neither `make run` nor the tests. Never asks the machine for
//! a free port: a port that is taken is a run that is still going, and must be seen.

use std::net::{Ipv4Addr, SocketAddr};

/// Where clients come from, in turn: several, so that no source port runs out.
pub(crate) const CLIENTS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(127, 77, 1, 1),
    Ipv4Addr::new(127, 77, 1, 2),
    Ipv4Addr::new(127, 77, 1, 3),
    Ipv4Addr::new(127, 77, 1, 4),
];

/// Where whatever is measured listens.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 77, 2, 1);
/// Where the second of two processes listens.
const INNER: Ipv4Addr = Ipv4Addr::new(127, 77, 2, 2);
/// Where the targets are.
const BACKEND: Ipv4Addr = Ipv4Addr::new(127, 77, 3, 1);

/// TLS that is passed through, by server name.
pub(crate) const PASSTHROUGH: SocketAddr = address(PROXY, 8443);
/// TLS that is ended here.
pub(crate) const TERMINATED: SocketAddr = address(PROXY, 8444);
/// The hop between two processes.
pub(crate) const HOP: SocketAddr = address(INNER, 7443);
/// smartproxy's gRPC port.
pub(crate) const CONTROL: SocketAddr = address(PROXY, 7800);
/// smartproxy's metrics.
pub(crate) const METRICS: SocketAddr = address(PROXY, 7810);
/// networkproxy's gRPC port.
pub(crate) const ADMIN: SocketAddr = address(INNER, 7801);
/// networkproxy's metrics.
pub(crate) const INNER_METRICS: SocketAddr = address(INNER, 7811);

/// The name of terminated traffic.
pub(crate) const APP: &str = "app.bench.test";

const fn address(host: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(host), port)
}

/// What a backend does on one of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// HTTP/1.1 in clear text.
    Http,
    /// The same over TLS: what the `direct` row talks to.
    HttpTls,
    /// Reads a ClientHello, sends one byte, closes.
    One,
    /// Reads a ClientHello and a length, sends as many bytes, closes.
    Source,
    /// Reads a ClientHello and counts until the end of the stream, sends the count, closes.
    Sink,
    /// Reads a ClientHello, sends one byte, keeps the connection.
    Hold,
}

impl Service {
    /// Those that are reached by passthrough.
    pub(crate) const PASSED: [Self; 4] = [Self::One, Self::Source, Self::Sink, Self::Hold];
    /// All.
    pub(crate) const ALL: [Self; 6] =
        [Self::Http, Self::HttpTls, Self::One, Self::Source, Self::Sink, Self::Hold];

    /// Where the backend listens for it.
    pub(crate) const fn address(self) -> SocketAddr {
        let port = match self {
            Self::Http => 9001,
            Self::HttpTls => 9002,
            Self::One => 9003,
            Self::Source => 9004,
            Self::Sink => 9005,
            Self::Hold => 9006,
        };
        address(BACKEND, port)
    }

    /// The server name that leads to it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http | Self::HttpTls => APP,
            Self::One => "one.bench.test",
            Self::Source => "source.bench.test",
            Self::Sink => "sink.bench.test",
            Self::Hold => "hold.bench.test",
        }
    }
}
