//! `bench load`: the generators. One thread, one kind of work, one line of JSON.
//!
//! ```text
//!   tasks warm up ─▶ "open" of the window ─▶ SECONDS ─▶ "close" ─▶ tasks finish what they began ─▶ the line
//! ```
//!
//! *Owns* the window, and reads the clocks of the proxies at its two edges, so that figures and work belong to the same
//! moments. *Never* retries silently: whatever goes wrong is a loss. *Invariant*: every connection is opened, used and
//! checked by one task.

mod bulk;
mod connections;
mod dial;
mod handshakes;
mod http1;
mod idle;
mod requests;
mod shared;
mod steady;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::LocalSet;

pub(crate) use self::bulk::Direction;
pub(crate) use self::connections::hello as client_hello;
pub(crate) use self::dial::dial;
use self::shared::Shared;
use crate::accounting::Watch;
use crate::certificate::Exchange;
use crate::layout::Service;
use crate::outcome::Outcome;
use crate::output;

/// What a generator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// New passthrough connections: hello, one byte back, both ends close.
    Connections,
    /// Many bytes one way through passthrough connections.
    Bulk,
    /// Requests over TLS connections that stay.
    Requests,
    /// A TLS connection for each request.
    Handshakes,
    /// Requests at a fixed rate over TLS connections that stay.
    Steady,
    /// TLS connections at a fixed rate, one request each.
    Arrivals,
    /// Connections that do nothing, until stdin ends.
    Idle,
}

/// `bench load`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LoadArguments {
    /// What to do.
    #[arg(value_enum)]
    pub kind: Kind,
    /// Where to.
    #[arg(long)]
    pub to: SocketAddr,
    /// The server name.
    #[arg(long)]
    pub name: String,
    /// The certificate that is expected.
    #[arg(long)]
    pub cert: PathBuf,
    /// Connections at once.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// The length of the window.
    #[arg(long, default_value_t = 1.0, overrides_with = "seconds")]
    pub seconds: f64,
    /// How long tasks run before it.
    #[arg(long, default_value_t = 0.2)]
    pub warm_up: f64,
    /// The path of a request.
    #[arg(long, default_value = "/")]
    pub path: String,
    /// Bytes of a request's body, or of one bulk transfer.
    #[arg(long, default_value_t = 0)]
    pub bytes: u64,
    /// Which way bulk goes; for requests, `up` sends `bytes` and `down` expects as many.
    #[arg(long, value_enum, default_value = "down")]
    pub direction: Direction,
    /// Units are megabytes of bodies instead of requests.
    #[arg(long)]
    pub megabytes: bool,
    /// Resume TLS sessions where the server allows it.
    #[arg(long)]
    pub resume: bool,
    /// The key exchange.
    #[arg(long, value_enum, default_value = "x25519")]
    pub exchange: Exchange,
    /// Units per second, in an open loop.
    #[arg(long, default_value_t = 1000.0)]
    pub rate: f64,
    /// How long a client of an open loop has patience.
    #[arg(long, default_value_t = 10.0)]
    pub patience: f64,
    /// Take the latency of every unit.
    #[arg(long)]
    pub latency: bool,
    /// An idle connection is passthrough, not TLS.
    #[arg(long)]
    pub passthrough: bool,
    /// Whose CPU time is read.
    #[command(flatten)]
    pub watch: Watch,
}

impl LoadArguments {
    /// For a single unit.
    pub(crate) fn new(to: SocketAddr, name: &str, cert: &std::path::Path) -> Self {
        Self {
            kind: Kind::Connections,
            to,
            name: name.to_owned(),
            cert: cert.to_owned(),
            connections: 1,
            seconds: 0.0,
            warm_up: 0.0,
            path: "/".to_owned(),
            bytes: 0,
            direction: Direction::Down,
            megabytes: false,
            resume: false,
            exchange: Exchange::X25519,
            rate: 1.0,
            patience: 0.0,
            latency: false,
            passthrough: false,
            watch: Watch::default(),
        }
    }
}

/// One unit of a service, with its answer checked.
pub(crate) async fn once(arguments: &LoadArguments, service: Service) -> Result<()> {
    if matches!(service, Service::Http | Service::HttpTls) {
        let (mut connection, _) = tls::Opener::new(arguments)?.open().await?;
        connection.get(&tls::request(arguments), |_| ()).await?;
        return connection.close().await;
    }
    let mut stream = dial(arguments.to).await?;
    stream.write_all(&client_hello(arguments)?).await?;
    match service {
        Service::Source => stream.write_u64(1).await?,
        Service::Sink => stream.shutdown().await?,
        _ => {}
    }
    stream.read_u8().await?;
    Ok(())
}

/// Runs and prints the outcome.
pub(crate) fn run(arguments: LoadArguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let arguments = Rc::new(arguments);
    let outcome = LocalSet::new().block_on(&runtime, generate(&arguments))?;
    output::line(serde_json::to_string(&outcome)?);
    Ok(())
}

async fn generate(arguments: &Rc<LoadArguments>) -> Result<Outcome> {
    let shared = Rc::new(Shared::default());
    match arguments.kind {
        Kind::Connections => connections::start(arguments, &shared)?,
        Kind::Bulk => bulk::start(arguments, &shared)?,
        Kind::Requests => requests::start(arguments, &shared)?,
        Kind::Handshakes => handshakes::start(arguments, &shared)?,
        Kind::Steady => return steady::requests(arguments, &shared).await,
        Kind::Arrivals => return steady::arrivals(arguments, &shared).await,
        Kind::Idle => return idle::hold(arguments, &shared).await,
    }
    let warm_up = Duration::from_secs_f64(arguments.warm_up);
    shared.measure(&arguments.watch, warm_up, Duration::from_secs_f64(arguments.seconds)).await
}
