//! From a checked configuration to a process that serves, and from there to one that is empty.
//!
//! *Owns* the order of starting (control port first: it is the lock against a second instance; then the
//! public ports, all or none) and of leaving (readiness, listeners, connections, peers). *Never* serves
//! half a configuration. *Invariant*: the process leaves when it is empty, not when a timer says so.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use config::{RouteTable, SmartproxyConfig};
use control::server::Peers;
use control::{Access, Plaintext, Reading, Time, TokenFile};
use ledger::{Ledger, LedgerLimits, Limit, Rhythm, Role, SharedLedger};
use runtime::{
    AcceptErrors, Bound, Clock, ConnectionManager, DescriptorLimit, Drain, DrainSwitch, Intake, Keepalive,
    Resolver, SettledTotals, Sharing, Workers, accept_loop, bind_exclusive, mint, tasks,
};
use tokio_util::sync::CancellationToken;

use crate::app::{App, Parts, Port};
use crate::connection::{serve, turn_away};
use crate::process::{Facts, Front};
use crate::status::FrontStatus;

/// A process that serves.
pub(crate) struct Running {
    app: Arc<App>,
    front: Arc<Front>,
    listeners: Vec<tokio::task::JoinHandle<()>>,
    control: control::thread::ControlThread,
    leaving: CancellationToken,
    drain: Drain,
    pub(crate) switch: DrainSwitch,
    pub(crate) longest_drain: Limit,
}

/// How long closed connections get to say goodbye once they were ordered to.
const FAREWELL: Duration = Duration::from_secs(2);

/// Binds everything, starts the control thread, and begins to accept.
pub(crate) fn start(
    config: &SmartproxyConfig,
    file: String,
    descriptors: DescriptorLimit,
    workers: &Workers,
) -> Result<Running> {
    if ledger::STUBBED {
        tracing::warn!("built without books, to measure what they cost: nothing is recorded or counted");
    }
    let settings = &config.settings;
    let max_connections = descriptors.check(settings.limits.max_connections.value.configured())?;
    if max_connections == 0 {
        bail!(
            "{} file descriptors leave none for connections; raise the limit (ulimit -Hn, LimitNOFILE=)",
            descriptors.0
        );
    }
    let table = RouteTable::build(config).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!(lines.join("\n"))
    })?;

    let control_listener = bind_exclusive(settings.control.listen, "control")?;
    let metrics_listener = bind_exclusive(settings.metrics.listen, "metrics")?;
    let keepalive = Keepalive::within(settings.timeouts.tcp_keepalive.value);
    let mut bound = Vec::new();
    for port in table.listeners() {
        let sharing = Sharing::PerWorker(workers.count());
        let found = Bound::bind_all(&settings.bind, port.port, sharing, Some(keepalive));
        bound.extend(found.with_context(|| format!("{}: port {}", port.place, port.port))?);
    }

    let token = TokenFile::configured(settings.control.token_file.as_deref());
    token.create_if_missing().context("the control token could not be made or read")?;
    let reading = if settings.control.read_requires_token { Reading::NeedsToken } else { Reading::Open };
    let plaintext = if settings.control.allow_plaintext { Plaintext::Allowed } else { Plaintext::Refused };
    let access = Access::new(settings.control.listen, token, reading, plaintext)?;

    let clock = Clock::start(settings.control.heartbeat);
    let rhythm = Rhythm { heartbeat: settings.control.heartbeat, stall_after: settings.control.stall_after };
    let limits = LedgerLimits {
        closed_records: settings.limits.closed_records as usize,
        max_live: max_connections,
        ..LedgerLimits::default()
    };
    let ledger = SharedLedger::new(Ledger::new(mint::instance_id(), Role::Front, limits, rhythm));
    let time = {
        let clock = clock.clone();
        Time::new(move || clock.now())
    };
    let peers = Peers::new(ledger.clone(), time, rhythm);
    let manager = ConnectionManager::new(ledger, clock.clone());
    let inner = table.inner(crate::app::GENERATION);
    let parts = Parts {
        manager,
        table,
        peers: peers.clone(),
        keepalive,
        resolver: Resolver::from_system(),
        max_connections,
    };
    let app = Arc::new(App::new(config, parts));
    peers.publish(&inner).context("the routes could not be published")?;

    let mut addresses: Vec<_> = bound.iter().map(|bound| (bound.address(), "public")).collect();
    addresses.push((control_listener.local_addr()?, "control"));
    addresses.push((metrics_listener.local_addr()?, "metrics"));
    let facts = Facts {
        started_at: clock.now().wall,
        configuration_file: file,
        listeners: addresses,
        max_fds: descriptors.0,
        worker_threads: workers.count() as u32,
    };
    let front = Arc::new(Front::new(Arc::clone(&app), facts));
    let (switch, drain) = DrainSwitch::new(clock);
    let leaving = CancellationToken::new();
    let settled = Arc::new(SettledTotals::default());
    let accept_errors = Arc::new(AcceptErrors::default());

    let intakes: Arc<[Intake]> = Intake::of_workers(workers.count(), app.manager.clock()).into();
    let listeners = listen(bound, workers, &app, &intakes, &drain, &accept_errors)?;
    let status = FrontStatus {
        app: Arc::clone(&app),
        front: Arc::clone(&front),
        settled: Arc::clone(&settled),
        accept_errors,
        intakes,
    };
    let control = start_control(control_listener, metrics_listener, access, status, peers, leaving.clone())?;
    front.ready();
    let longest_drain = crate::drain::longest(&app, crate::bounds::limit(&settings.timeouts.drain));
    Ok(Running { app, front, listeners, control, leaving, drain, switch, longest_drain })
}

impl Running {
    /// Waits for the word to leave, and leaves: takes nothing new, lets finish, then ends what is left.
    pub(crate) async fn until_empty(self) -> Result<()> {
        let Self { app, front, listeners, control, leaving, drain, longest_drain, .. } = self;
        tokio::select! {
            () = drain.draining() => {}
            () = control.ended() => bail!("the control thread ended: no process serves without it"),
        }
        front.draining();
        app.peers.announce_drain();
        for listener in listeners {
            listener.await.ok();
        }
        tracing::info!(live = app.manager.ledger().connected_clients(), "listeners closed");
        tokio::select! {
            () = app.manager.emptied() => {}
            never = crate::drain::end_by_entry(&app) => match never {},
            () = drain.stopping() => {
                let order = drain.last_order(Role::Front, &longest_drain);
                let ended = app.manager.close_all(&order);
                tracing::info!(ended, reason = %order.observation.reason, "ending what is left");
                if tokio::time::timeout(FAREWELL, app.manager.emptied()).await.is_err() {
                    tracing::warn!(live = app.manager.ledger().connected_clients(), "some did not end in time");
                }
            }
        }
        leaving.cancel();
        control.ended().await;
        tracing::info!("left");
        Ok(())
    }
}

fn listen(
    bound: Vec<Bound>,
    workers: &Workers,
    app: &Arc<App>,
    intakes: &[Intake],
    drain: &Drain,
    errors: &Arc<AcceptErrors>,
) -> Result<Vec<tokio::task::JoinHandle<()>>> {
    let mut listeners = Vec::new();
    for bound in bound {
        let address = bound.address();
        let port = Arc::new(Port { number: address.port(), address, name: address.to_string().into() });
        let shared = bound.listen_on(workers).with_context(|| format!("cannot listen on {address}"))?;
        tracing::info!(%address, "listening");
        let bridges = app.table.bridges(port.number);
        for ((worker, listener), intake) in shared.into_iter().zip(intakes) {
            let (app, drain, errors) = (Arc::clone(app), drain.clone(), Arc::clone(errors));
            let (port, intake) = (Arc::clone(&port), bridges.then(|| intake.clone()));
            listeners.push(tasks::spawn_on(worker, "listener", async move {
                let clock = app.manager.clock().clone();
                let queue = intake.as_ref().map(|intake| {
                    let (app, port) = (Arc::clone(&app), Arc::clone(&port));
                    intake.from_queue(app.early.accept_queue, move |socket, client, waited| {
                        turn_away(&app, socket, client, &port, waited);
                    })
                });
                accept_loop(listener, queue, &clock, &errors, drain.draining(), |socket, client| {
                    let in_hand = intake.as_ref().map(Intake::take);
                    // Detached: it owns its record and ends it by itself.
                    let life = serve(Arc::clone(&app), socket, client, Arc::clone(&port), in_hand);
                    drop(tasks::spawn("connection", life));
                })
                .await;
            }));
        }
    }
    Ok(listeners)
}

fn start_control(
    listener: std::net::TcpListener,
    metrics: std::net::TcpListener,
    access: Access,
    status: FrontStatus,
    peers: Peers,
    leaving: CancellationToken,
) -> Result<control::thread::ControlThread> {
    let manager = status.app.manager.clone();
    let ledger = manager.ledger().clone();
    let clock = status.app.manager.clock().clone();
    let endpoint = control::admin::Endpoint { listener, process: Arc::clone(&status.front), access };
    let settled = Arc::clone(&status.settled);
    let status = Arc::new(status);
    let work = move || async move {
        let served = async {
            let metrics = tokio::net::TcpListener::from_std(metrics)?;
            tokio::select! {
                served = control::server::serve(endpoint, peers, leaving) => served.map_err(anyhow::Error::from),
                () = runtime::serve_status(metrics, status) => Ok(()),
                () = manager.keep_sweeping() => Ok(()),
            }
        };
        let done = CancellationToken::new();
        let (served, ()) = tokio::join!(
            async {
                let served = served.await;
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
