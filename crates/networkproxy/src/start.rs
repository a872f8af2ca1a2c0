//! From a checked configuration to a process that serves, and from there to one that is empty.
//!
//! *Owns* the order of starting (admin port first: it is the lock against a second instance) and of leaving:
//! readiness falls, smartproxy is told and goes on being served until it has acknowledged, then the hop
//! closes, requests finish, and the books are sent to their end. *Never* serves half a configuration.
//! *Invariant*: the process leaves when it is empty, not when a timer says so.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use config::NetworkproxyConfig;
use control::client::{Upstream, UpstreamSettings, UpstreamState};
use control::{Access, InnerTerms, Plaintext, Reading, Time, TokenFile};
use ledger::{Ledger, LedgerLimits, Rhythm, Role, SharedLedger};
use runtime::{
    AcceptErrors, Bound, Clock, ConnectionManager, DescriptorLimit, Drain, DrainSwitch, Resolver, Sharing,
    Workers, accept_loop, bind_exclusive, mint, tasks,
};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::certificates::{CertificateStore, Notice};
use crate::connection::{Inside, inner_connection};
use crate::gateway::{Gateway, HandshakeCounts, RequestCounts, Turns};
use crate::hop::Hop;
use crate::pool::Pool;
use crate::process::{Facts, Inner};
use crate::settings::{HttpLimits, PoolSettings, Timeouts};
use crate::status::InnerStatus;
use crate::tls::TlsOffer;
use crate::wind_down::WindDown;

/// A process that serves.
pub struct Running {
    inner: Arc<Inner>,
    listeners: Vec<tokio::task::JoinHandle<()>>,
    /// Given when the hop is to be closed.
    hop_closes: CancellationToken,
    wind_down: WindDown,
    control: control::thread::ControlThread,
    leaving: CancellationToken,
    drain: Drain,
    /// To drain and stop it.
    pub switch: DrainSwitch,
    /// The configured limit of a drain.
    pub drain_limit: Duration,
}

/// How long connections get to say goodbye once they were ordered to.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a smartproxy that has acknowledged the drain may still be dialling on an earlier decision.
const LAST_DIALS: Duration = Duration::from_millis(250);
/// Between two looks at the certificates' files.
const LOOK_AT_FILES: Duration = Duration::from_secs(5);

/// Binds everything, starts the control thread, and begins to accept.
pub fn start(
    config: &NetworkproxyConfig,
    certificates: CertificateStore,
    file: String,
    descriptors: DescriptorLimit,
    workers: &Workers,
) -> Result<Running> {
    let capacity = descriptors.check(config.limits.max_connections.value.configured())?;
    if capacity == 0 {
        bail!(
            "{} file descriptors leave none for connections; raise the limit (ulimit -Hn, LimitNOFILE=)",
            descriptors.0
        );
    }
    let admin = bind_exclusive(config.admin.listen, "admin")?;
    let metrics = bind_exclusive(config.metrics.listen, "metrics")?;
    let hop = Bound::bind(config.hop.listen, Sharing::PerWorker(workers.count()), None).context("hop")?;
    let hop =
        hop.with_context(|| format!("hop: this host lacks the address family of {}", config.hop.listen))?;
    let hop_address = hop.address();

    let token = TokenFile::configured(config.control.token_file.as_deref());
    let reading = if config.admin.read_requires_token { Reading::NeedsToken } else { Reading::Open };
    let plaintext = if config.admin.allow_plaintext { Plaintext::Allowed } else { Plaintext::Refused };
    let access = Access::new(config.admin.listen, token.clone(), reading, plaintext)?;

    let rhythm = Rhythm::default();
    let clock = Clock::start(rhythm.heartbeat);
    let timeouts = Timeouts::new(config);
    let limits =
        LedgerLimits { max_live: capacity, hop_header: timeouts.hop_header.value, ..LedgerLimits::default() };
    let ledger = SharedLedger::new(Ledger::new(mint::instance_id(), Role::Inner, limits, rhythm));
    let time = {
        let clock = clock.clone();
        Time::new(move || clock.now())
    };
    let settings = UpstreamSettings {
        connect: config.control.connect,
        token,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        admin_address: admin.local_addr()?,
        terms: InnerTerms {
            hop: hop_address,
            capacity,
            tls_handshake: timeouts.tls_handshake.value,
            largest_idle: timeouts.largest_idle(),
            half_close: timeouts.half_close.value,
        },
    };
    let upstream = Upstream::new(ledger.clone(), time, settings);

    let pool = |_| Pool::new(PoolSettings::new(config, &timeouts, workers.count()), clock.clone());
    let pools: Vec<Pool> = workers.handles().iter().map(pool).collect();
    let certificates = Arc::new(certificates);
    let gateway = Arc::new(Gateway {
        manager: ConnectionManager::new(ledger, clock.clone()),
        limits: HttpLimits::new(config),
        tls: TlsOffer::new(&config.tls, &certificates).context("TLS cannot be offered")?,
        certificates,
        resolver: Resolver::from_system(),
        turns: Turns::default(),
        requests: RequestCounts::default(),
        request_durations: Arc::default(),
        handshakes: HandshakeCounts::default(),
        timeouts,
    });
    let facts = Facts {
        started_at: clock.now().wall,
        configuration_file: file,
        listeners: vec![
            (hop_address, "hop"),
            (admin.local_addr()?, "admin"),
            (metrics.local_addr()?, "metrics"),
        ],
        max_fds: descriptors.0,
        worker_threads: workers.count() as u32,
    };
    let inner = Arc::new(Inner::new(Arc::clone(&gateway), pools, upstream.clone(), facts));
    let (switch, drain) = DrainSwitch::new(clock.clone());
    let accept_errors = Arc::new(AcceptErrors::default());
    let wind_down = WindDown::default();
    let hop_closes = CancellationToken::new();
    let door = Arc::new(Hop::new(upstream, clock, gateway.timeouts.hop_header.value));
    let name: Arc<str> = hop_address.to_string().into();
    let inside = |pool: &Pool| Inside {
        gateway: Arc::clone(&gateway),
        pool: pool.clone(),
        wind_down: wind_down.clone(),
        listener: Arc::clone(&name),
    };
    let insides: Vec<Inside> = inner.pools.iter().map(inside).collect();
    let listeners = listen(hop, workers, &door, insides, &hop_closes, &accept_errors)?;
    let leaving = CancellationToken::new();
    let status = InnerStatus { inner: Arc::clone(&inner), settled: Arc::default(), accept_errors };
    let control = start_control(admin, metrics, access, status, leaving.clone())?;
    inner.ready();
    let drain_limit = inner.gateway.timeouts.drain.value;
    Ok(Running { inner, listeners, hop_closes, wind_down, control, leaving, drain, switch, drain_limit })
}

impl Running {
    /// Waits for the word to leave, and leaves: takes nothing new, lets finish, then ends what is left.
    pub async fn until_empty(self) -> Result<()> {
        let Self { inner, listeners, hop_closes, wind_down, control, leaving, drain, .. } = self;
        tokio::select! {
            () = drain.draining() => {}
            () = control.ended() => bail!("the control thread ended: no process serves without it"),
        }
        inner.draining();
        inner.upstream.announce_draining();
        tokio::select! {
            () = inner.upstream.drain_acknowledged() => tokio::time::sleep(LAST_DIALS).await,
            () = no_session(&inner.upstream) => {}
            () = drain.stopping() => {}
        }
        hop_closes.cancel();
        for listener in listeners {
            listener.await.ok();
        }
        let ledger = inner.gateway.manager.ledger();
        tracing::info!(live = ledger.connected_clients(), "the hop is closed");
        wind_down.give();
        tokio::select! {
            () = inner.gateway.manager.emptied() => {}
            () = drain.stopping() => {
                let order = drain.last_order(Role::Inner, &inner.gateway.timeouts.drain);
                let ended = inner.gateway.manager.close_all(&order);
                tracing::info!(ended, reason = %order.observation.reason, "ending what is left");
                if tokio::time::timeout(FAREWELL, inner.gateway.manager.emptied()).await.is_err() {
                    tracing::warn!(live = ledger.connected_clients(), "some did not end in time");
                }
            }
        }
        inner.pools.iter().for_each(Pool::close);
        leaving.cancel();
        control.ended().await;
        tracing::info!("left");
        Ok(())
    }
}

/// Waits until there is nobody who could send anything.
async fn no_session(upstream: &Upstream) {
    while matches!(upstream.state(), UpstreamState::Connected(_)) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One listener for each of `workers`, each with the pool of its own that is in its part of `insides`.
fn listen(
    bound: Bound,
    workers: &Workers,
    door: &Arc<Hop>,
    insides: Vec<Inside>,
    closes: &CancellationToken,
    errors: &Arc<AcceptErrors>,
) -> Result<Vec<tokio::task::JoinHandle<()>>> {
    let address = bound.address();
    let shared = bound.listen_on(workers).with_context(|| format!("cannot listen on {address}"))?;
    tracing::info!(%address, "listening on the hop");
    let accepting = |((worker, listener), inside): ((&Handle, TcpListener), Inside)| {
        let (door, closes, errors) = (Arc::clone(door), closes.clone(), Arc::clone(errors));
        tasks::spawn_on(worker, "hop listener", async move {
            let clock = inside.gateway.clock().clone();
            accept_loop(listener, None, &clock, &errors, closes.cancelled(), |socket, front| {
                let arrival = inside.gateway.manager.ledger().arrive();
                // Detached: it owns its record and ends it by itself.
                let (inside, door) = (inside.clone(), Arc::clone(&door));
                let life = inner_connection(inside, door, socket, front, arrival);
                drop(tasks::spawn("connection", life));
            })
            .await;
        })
    };
    Ok(shared.into_iter().zip(insides).map(accepting).collect())
}

fn start_control(
    admin: std::net::TcpListener,
    metrics: std::net::TcpListener,
    access: Access,
    status: InnerStatus,
    leaving: CancellationToken,
) -> Result<control::thread::ControlThread> {
    let inner = Arc::clone(&status.inner);
    let manager = inner.gateway.manager.clone();
    let ledger = manager.ledger().clone();
    let clock = inner.gateway.clock().clone();
    let endpoint = control::admin::Endpoint { listener: admin, process: Arc::clone(&inner), access };
    let settled = Arc::clone(&status.settled);
    let status = Arc::new(status);
    let work = move || async move {
        let channel_done = CancellationToken::new();
        let served = async {
            let metrics = tokio::net::TcpListener::from_std(metrics)?;
            // The admin services answer until the last message to smartproxy is sent.
            let channel = async {
                inner.upstream.run(leaving).await;
                channel_done.cancel();
            };
            let admin = control::admin::serve(endpoint, channel_done.clone());
            tokio::select! {
                ((), served) = async { tokio::join!(channel, admin) } => served.map_err(anyhow::Error::from),
                () = runtime::serve_status(metrics, status) => Ok(()),
                () = manager.keep_sweeping() => Ok(()),
                () = keep_certificates(&inner) => Ok(()),
                () = follow_routes(&inner) => Ok(()),
            }
        };
        let done = CancellationToken::new();
        let (served, ()) = tokio::join!(
            async {
                let served = Box::pin(served).await;
                done.cancel();
                served
            },
            runtime::logging::log_settled(ledger, settled, clock, done.cancelled()),
        );
        if let Err(error) = served {
            tracing::error!(error = format!("{error:#}"), "the control thread failed");
        }
    };
    control::thread::start("control", work).context("the control thread could not be started")
}

/// Looks at the certificates' files every few seconds, on a thread that may block.
async fn keep_certificates(inner: &Arc<Inner>) {
    loop {
        tokio::time::sleep(LOOK_AT_FILES).await;
        let store = Arc::clone(&inner.gateway.certificates);
        let looked = tokio::task::spawn_blocking(move || store.reload(SystemTime::now())).await;
        let notices = looked.unwrap_or_default();
        log_certificates(&notices);
        if !notices.is_empty() {
            inner.upstream.announce_names_without_certificate(inner.names_without_certificate());
        }
    }
}

/// Follows the routes that smartproxy sends: which names lack a certificate, whose turns are over.
async fn follow_routes(inner: &Arc<Inner>) {
    let mut changed = inner.upstream.table_changed();
    loop {
        if let Some(table) = inner.upstream.latest_table() {
            inner.gateway.turns.retain(&table);
            let names = inner.names_without_certificate();
            if !names.is_empty() {
                tracing::warn!(names = names.join(", "), "terminated names without a certificate");
            }
            inner.upstream.announce_names_without_certificate(names);
        }
        if changed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Says what became of certificates.
pub fn log_certificates(notices: &[Notice]) {
    for notice in notices {
        if notice.event.is_fault() {
            tracing::error!("certificates: {notice}");
        } else {
            tracing::info!("certificates: {notice}");
        }
    }
}
