//! Owns the list of workloads: what each does, what its rows are, and who takes part.
//!
//! Never runs anything. The numbers W1 to W8 are those of the design; a workload may have several rows.

use crate::certificate::Exchange;
use crate::layout::Service;
use crate::load::{Direction, Kind};
use crate::subject::Subject;

/// What a row is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Connection,
    Request,
    Megabyte,
    Kibibytes,
    Latency,
}

impl Unit {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Connection => "µs/conn",
            Self::Request => "µs/req",
            Self::Megabyte => "µs/MB",
            Self::Kibibytes => "KiB/conn",
            Self::Latency => "µs",
        }
    }
}

/// How the work is made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Work {
    /// By our own generator, CPU per unit.
    Closed { kind: Kind, connections: usize, more: Vec<String>, handshakes: Handshakes },
    /// By h2load.
    Http2 { connections: usize, streams: usize },
    /// By our own generator in an open loop; two rows.
    Latency { rate: u32, connections: usize },
    /// By opening connections and looking at memory.
    Idle { connections: usize, passthrough: bool },
}

/// What every handshake in a window must have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshakes {
    Any,
    Full,
    Resumed,
}

/// One workload.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// `W1` to `W8`.
    pub id: &'static str,
    /// The names of its rows; two where there are two figures.
    pub rows: Vec<String>,
    /// What they are counted in.
    pub unit: Unit,
    /// What the traffic goes to.
    pub service: Service,
    /// Session tickets are given.
    pub tickets: bool,
    /// Ours alone.
    pub alone: bool,
    /// How.
    pub work: Work,
}

impl Workload {
    /// Is it measured again with more threads? Memory and latency have little to do with them, and the rest of its kind
    /// would say the same again.
    pub(crate) fn with_more_threads(&self) -> bool {
        match (&self.work, self.id) {
            (Work::Closed { connections, .. }, "W2") => *connections > 1,
            (Work::Closed { handshakes, .. }, "W4") => *handshakes == Handshakes::Full && !self.alone,
            (Work::Closed { .. }, "W5") => self.rows[0].contains("1 MiB down"),
            (Work::Closed { .. } | Work::Http2 { .. }, _) => true,
            _ => false,
        }
    }

    /// Does this subject take part?
    pub(crate) fn concerns(&self, subject: Subject) -> bool {
        let passthrough = !matches!(self.service, Service::Http | Service::HttpTls);
        let has_direct = !matches!(self.work, Work::Http2 { .. } | Work::Idle { .. });
        match subject {
            Subject::Ours => true,
            Subject::Direct => has_direct && !self.alone,
            _ if subject.is_two_hops_of_a_peer() => !passthrough && !self.alone,
            _ => !self.alone,
        }
    }
}

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Full,
    Quick,
}

/// Every workload, in order.
pub(crate) fn all(extent: Extent) -> Vec<Workload> {
    let mut list = vec![connections()];
    for (direction, streams) in
        [(Direction::Down, 1), (Direction::Up, 1), (Direction::Down, 8), (Direction::Up, 8)]
    {
        list.push(bulk(direction, streams, extent));
    }
    list.push(closed(
        "W3",
        "W3 small GET, 64 keep-alive TLS connections",
        Unit::Request,
        Kind::Requests,
        64,
        &[],
    ));
    list.push(handshakes("W4 full TLS 1.3 handshake + GET", Exchange::X25519, Handshakes::Full));
    list.push(handshakes("W4r resumed handshake + GET", Exchange::X25519, Handshakes::Resumed));
    list.push(handshakes("W4pq full, X25519MLKEM768", Exchange::PostQuantum, Handshakes::Full));
    list.push(bodies("W5 1 MiB down, 8 TLS connections", 1 << 20, Direction::Down));
    if extent == Extent::Full {
        list.push(bodies("W5 64 MiB down, 8 TLS connections", 64 << 20, Direction::Down));
    }
    list.push(bodies("W5 1 MiB up, 8 TLS connections", 1 << 20, Direction::Up));
    list.push(Workload {
        work: Work::Http2 { connections: 32, streams: 10 },
        ..closed("W6", "W6 HTTP/2 small GET, 32 × 10 streams", Unit::Request, Kind::Requests, 32, &[])
    });
    let idle: &[usize] = if extent == Extent::Full { &[2000, 5000] } else { &[300] };
    for connections in idle {
        list.push(idle_passthrough(*connections));
        list.push(Workload {
            id: "W7",
            rows: vec![format!("W7 idle TLS keep-alive, {connections}")],
            unit: Unit::Kibibytes,
            service: Service::Http,
            tickets: true,
            alone: false,
            work: Work::Idle { connections: *connections, passthrough: false },
        });
    }
    list.push(Workload {
        id: "W8",
        rows: vec!["W8 p50 at 1,000 req/s".to_owned(), "W8 p99 at 1,000 req/s".to_owned()],
        unit: Unit::Latency,
        work: Work::Latency { rate: 1000, connections: 64 },
        ..closed("W8", "", Unit::Latency, Kind::Steady, 64, &[])
    });
    list
}

fn connections() -> Workload {
    Workload {
        service: Service::One,
        ..closed("W1", "W1 new passthrough connection", Unit::Connection, Kind::Connections, 32, &[])
    }
}

fn bulk(direction: Direction, streams: usize, extent: Extent) -> Workload {
    // One transfer: long enough that its connection does not matter, short enough to be finished after the window.
    let bytes = if extent == Extent::Full { "268435456" } else { "16777216" };
    let (word, service) = match direction {
        Direction::Down => ("down", Service::Source),
        Direction::Up => ("up", Service::Sink),
    };
    let plural = if streams == 1 { "" } else { "s" };
    let row = format!("W2 passthrough {word}, {streams} stream{plural}");
    let more = ["--direction", word, "--bytes", bytes];
    Workload { service, ..closed("W2", &row, Unit::Megabyte, Kind::Bulk, streams, &more) }
}

fn handshakes(row: &str, exchange: Exchange, handshakes: Handshakes) -> Workload {
    let resumed = handshakes == Handshakes::Resumed;
    let mut more = vec!["--exchange"];
    more.push(if exchange == Exchange::X25519 { "x25519" } else { "post-quantum" });
    if resumed {
        more.push("--resume");
    }
    let mut workload = closed("W4", row, Unit::Connection, Kind::Handshakes, 16, &more);
    if let Work::Closed { handshakes: expected, .. } = &mut workload.work {
        *expected = handshakes;
    }
    // The distribution's OpenSSL does not know X25519MLKEM768.
    Workload { tickets: resumed, alone: exchange == Exchange::PostQuantum, ..workload }
}

fn bodies(row: &str, bytes: u64, direction: Direction) -> Workload {
    let (word, path) = match direction {
        Direction::Down => ("down", format!("/bytes/{bytes}")),
        Direction::Up => ("up", "/count".to_owned()),
    };
    let bytes = bytes.to_string();
    let more = ["--direction", word, "--bytes", &bytes, "--path", &path, "--megabytes"];
    closed("W5", row, Unit::Megabyte, Kind::Requests, 8, &more)
}

fn idle_passthrough(connections: usize) -> Workload {
    Workload {
        id: "W7",
        rows: vec![format!("W7 idle passthrough, {connections}")],
        unit: Unit::Kibibytes,
        service: Service::Hold,
        tickets: true,
        alone: false,
        work: Work::Idle { connections, passthrough: true },
    }
}

fn closed(
    id: &'static str,
    row: &str,
    unit: Unit,
    kind: Kind,
    connections: usize,
    more: &[&str],
) -> Workload {
    let more = more.iter().map(|word| (*word).to_owned()).collect();
    Workload {
        id,
        rows: vec![row.to_owned()],
        unit,
        service: Service::Http,
        tickets: true,
        alone: false,
        work: Work::Closed { kind, connections, more, handshakes: Handshakes::Any },
    }
}
