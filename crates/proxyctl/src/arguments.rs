//! The command line: what may be said, and how it is read.
//!
//! *Owns* names, defaults and help of every command and flag. *Never* asks a process. *Invariant*: what is read
//! here is meaningful: a filter that the process would refuse for its form is a usage error (exit 2).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use control::TokenFile;
use ipnet::IpNet;
use ledger::{Phase, Reason};
use prost_types::Timestamp;

/// Finds, explains and closes connections of smartproxy and networkproxy.
///
/// Both processes answer the same questions: smartproxy on port 7800, networkproxy on port 7801.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Arguments {
    /// The gRPC port to ask: smartproxy's is 127.0.0.1:7800, networkproxy's 127.0.0.1:7801.
    #[arg(long, global = true, value_name = "HOST:PORT", default_value = "127.0.0.1:7800")]
    pub(crate) address: Address,
    /// The token file [default: where smartproxy makes it when its configuration names none].
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How to print.
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables for people.
    Table,
    /// The answer in protobuf's JSON, field names as in the protos.
    Json,
    /// Tables with every column.
    Wide,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List connections.
    List(List),
    /// Everything about one connection: both halves, what will end it or what did, its timeline.
    Get {
        /// The whole id, or at least its last 6 hex digits.
        id: String,
    },
    /// End a connection. Needs the token; ask the process that owns a live half of it.
    Close {
        /// The whole id, or at least its last 6 hex digits.
        id: String,
        /// Reset both sides at once instead of delivering what was read and saying goodbye.
        #[arg(long)]
        abort: bool,
        /// Why; kept in the record (at most 120 bytes).
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        note: String,
    },
    /// The counters, and what the process believes of its peers.
    Counters,
    /// The laws of the books with both sides' numbers. Exit 1 where one does not hold.
    Audit {
        /// Wait until nothing is in flight and every closed half is settled, at most this long (60s at most).
        #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "30s", value_parser = wait)]
        wait: Option<Duration>,
    },
    /// What the process is, what it listens on, how it stands with its peers.
    Status,
    /// Check configuration files of either process. Exit 2 where one has errors; warnings do not fail.
    Check {
        /// smartproxy.yaml or networkproxy.yaml, under any name: the keys tell which.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Do not open the files that they name: they are for another machine or user.
        #[arg(long)]
        elsewhere: bool,
    },
    /// Exit 0 if the process serves, else 1: for container health checks. Answers within 2 seconds.
    Health,
    /// Print the token.
    Token,
    /// Do nothing until SIGTERM or SIGINT: owns a container's network namespace.
    Pause,
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Which connections to list, and how many.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct List {
    /// In one of these phases, such as `relaying,half_closed`.
    #[arg(long = "phase", value_name = "PHASE", value_delimiter = ',', value_parser = phases())]
    pub(crate) phases: Vec<String>,
    /// Of this entry (what smartproxy decided).
    #[arg(long, value_name = "NAME")]
    pub(crate) entry: Option<String>,
    /// Of this route; of this entry where no route is decided.
    #[arg(long, value_name = "NAME")]
    pub(crate) route: Option<String>,
    /// Of clients in this network, such as 10.0.0.0/8 or 2001:db8::1.
    #[arg(long, value_name = "CIDR", value_parser = network)]
    pub(crate) client: Option<IpNet>,
    /// That asked for this server name.
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// Whose bytes are carried to the target by this process.
    #[arg(long, value_enum, value_name = "PROCESS")]
    pub(crate) handled_by: Option<HandledBy>,
    /// Closed for one of these reasons, such as `client_reset,target_reset`.
    #[arg(long = "reason", value_name = "REASON", value_delimiter = ',', value_parser = reasons())]
    pub(crate) reasons: Vec<String>,
    /// Accepted at least so long ago, such as 10m.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) older_than: Option<Duration>,
    /// Closed since then: so long ago (10m), or a time of day (2025-01-31T12:00:00Z).
    #[arg(long, value_name = "TIME")]
    pub(crate) closed_since: Option<Since>,
    /// Retained closed connections as well.
    #[arg(long, visible_alias = "include-closed")]
    pub(crate) all: bool,
    /// The oldest first.
    #[arg(long)]
    pub(crate) oldest_first: bool,
    /// At most so many connections [default: all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// So many connections per call.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) page_size: u32,
}

/// A process, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HandledBy {
    /// smartproxy relays the bytes itself.
    Smartproxy,
    /// smartproxy bridges them to networkproxy.
    Networkproxy,
}

/// A moment in the past.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Since {
    /// So long ago.
    Ago(Duration),
    /// Then.
    At(Timestamp),
}

/// `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    text: String,
    port: u16,
}

/// Why an argument cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// No address.
    #[error("expected HOST:PORT, such as 127.0.0.1:7800 or [::1]:7800")]
    Address,
    /// No network.
    #[error("expected an address or a network, such as 10.0.0.0/8 or 2001:db8::1")]
    Network,
    /// No duration.
    #[error("{0}; expected a duration such as 500ms, 10s, 1h")]
    Duration(config::UnitError),
    /// Longer than a process waits.
    #[error("a process waits 60s at most")]
    Wait,
    /// No moment.
    #[error("expected how long ago (10m) or a time of day (2025-01-31T12:00:00Z)")]
    Moment,
}

impl Arguments {
    /// The token file: as named, else where smartproxy makes it by default.
    pub(crate) fn token_file(&self) -> TokenFile {
        let by_default = || {
            let uid = rustix::process::geteuid().as_raw();
            config::default_token_file(&|name| std::env::var(name).ok(), uid)
        };
        TokenFile::new(self.token_file.clone().unwrap_or_else(by_default))
    }
}

impl Address {
    /// As it was given.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Who listens there by default.
    pub(crate) fn likely_process(&self) -> &'static str {
        match self.port {
            7800 => "smartproxy",
            7801 => "networkproxy",
            _ => "smartproxy or networkproxy",
        }
    }
}

impl FromStr for Address {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let (host, port) = text.rsplit_once(':').ok_or(Unreadable::Address)?;
        let port: u16 = port.parse().map_err(|_| Unreadable::Address)?;
        let whole = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(v6) => v6.is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
            None => {
                !host.is_empty()
                    && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
            }
        };
        if whole && port != 0 { Ok(Self { text: text.to_owned(), port }) } else { Err(Unreadable::Address) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Since {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        match (config::duration(text), text.parse::<Timestamp>()) {
            (Ok(ago), _) => Ok(Self::Ago(ago)),
            (Err(_), Ok(at)) => Ok(Self::At(at)),
            (Err(_), Err(_)) => Err(Unreadable::Moment),
        }
    }
}

/// An address is the network of itself; the part of an address beyond the prefix is dropped.
fn network(text: &str) -> Result<IpNet, Unreadable> {
    let alone = text.parse::<std::net::IpAddr>().map(IpNet::from);
    alone.or_else(|_| text.parse::<IpNet>()).map(|network| network.trunc()).map_err(|_| Unreadable::Network)
}

fn duration(text: &str) -> Result<Duration, Unreadable> {
    config::duration(text).map_err(Unreadable::Duration)
}

fn wait(text: &str) -> Result<Duration, Unreadable> {
    let wait = duration(text)?;
    if wait > Duration::from_mins(1) { Err(Unreadable::Wait) } else { Ok(wait) }
}

fn phases() -> clap::builder::PossibleValuesParser {
    Phase::ALL.iter().map(|phase| phase.name()).collect::<Vec<_>>().into()
}

fn reasons() -> clap::builder::PossibleValuesParser {
    Reason::ALL.iter().map(|reason| reason.name()).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests;
