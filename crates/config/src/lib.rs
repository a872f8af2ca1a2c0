//! Both configuration files: what they may say, what they say, and which route takes a connection.
//!
//! ```text
//!           text                 tree                  values                types
//!  file ──load──▶ name, text ──tree──▶ Node ──schema──▶ Mapping ──serde──▶ SmartproxyConfig ──▶ RouteTable
//!                               │  (line, column)  │  (defaults filled in)      │                  │
//!                               └──── problems ────┴──────── problems ──────────┴──── problems ────┘
//!                                                         sorted into one Report
//!
//!  RouteTable ──decide(port, class, server name, …)──▶ Entry           smartproxy, per connection
//!             ──inner(generation)──▶ InnerTable ──route_for──▶ route   networkproxy, per request
//! ```
//!
//! *Owns* the schema of both files, their defaults, their errors with positions, and both steps of matching.
//! *Never* opens a socket, looks at a clock or starts a task; [`load`] is the only function that reads a file,
//! and what else must be asked of the machine comes in as [`Surroundings`].
//! *Invariant*: a configuration exists only if its file had no error; nothing is half applied.

mod check;
mod networkproxy;
mod problem;
mod reference;
mod routes;
mod schema;
mod smartproxy;
mod sourced;
mod tree;
mod units;
mod unsupported;

pub use check::{
    AnyConfig, FileKind, Report, Surroundings, check_any, check_networkproxy, check_smartproxy,
    default_token_file, detect, load,
};
pub use networkproxy::{
    Admin, CertificateFile, Certificates, DEFAULT_NETWORKPROXY, Hop, InnerLimits, InnerTimeouts,
    NetworkproxyConfig, NetworkproxySettings, PeerControl, Pool, Tls, TlsVersion,
};
pub use problem::{Place, Problem};
pub use reference::reference;
pub use routes::*;
pub use smartproxy::{
    Control, DEFAULT_SMARTPROXY, Limits, Log, LogFormat, LogLevel, Metrics, SmartproxyConfig,
    SmartproxySettings, Timeouts,
};
pub use sourced::{Source, Sourced};
pub use tree::LARGEST_FILE;
pub use units::{
    Auto, LONGEST, Percent, Rate, UnitError, duration, duration_text, percent, rate, size, size_text,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_defaults_are_whole() {
        assert_eq!(check_smartproxy("d", DEFAULT_SMARTPROXY, &Surroundings::ideal()).errors, []);
        assert_eq!(check_networkproxy("d", DEFAULT_NETWORKPROXY, &Surroundings::ideal()).errors, []);
        let table = RouteTable::build(&SmartproxyConfig::default()).unwrap();
        assert_eq!(table.listeners().map(|listener| listener.port).collect::<Vec<_>>(), [8080, 8443]);
        drop(NetworkproxyConfig::default());
    }
}
