//! The whole life of one front half, top to bottom.
//!
//! *Owns* the order of things: record, admission, first bytes, route, relay or bridge, goodbye, settlement.
//! *Never* touches another connection; ends by returning how each socket is to be left. *Invariant*: the
//! record exists before any decision (but for who is turned away unheard), and ends after the last socket is gone.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use config::{Class, Entry, NoEntry, Question, Transport};
use ledger::{
    Accept, AddressSource, Change, DeadlineName, LegName, Observation, Phase, Reason, Restart, Role, Routing,
    Target,
};
use runtime::preface::AlertDescription;
use runtime::{
    CloseMode, CloseOrder, FarewellLimits, Goodbye, InHand, Leg, Origin, Parting, RelayOptions,
    TrackedConnection,
};
use tokio::net::TcpStream;
use tracing::Instrument as _;

use crate::app::{App, EntryState, Port};
use crate::first_bytes::{CLIENT, InitialData, Kind, NoInitialData, read_initial_data};
use crate::network_proxy_bridge::forward_to_network_proxy;

/// How a connection's sockets are left.
pub(crate) struct Partings {
    pub(crate) client: Parting,
    pub(crate) other: Option<Parting>,
    /// Bytes that were read and can no longer be delivered.
    pub(crate) undelivered: u64,
    pub(crate) limits: FarewellLimits,
}

/// The two ends of a client's connection.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// Refuses a client that waited too long to be accepted, while more come than can be served.
pub(crate) fn turn_away(
    app: &App,
    socket: std::net::TcpStream,
    remote: SocketAddr,
    port: &Port,
    waited: Duration,
) {
    let accept = accept(app, || socket.local_addr(), remote, port);
    app.manager.turn_away(socket, accept, || {
        let seen = Observation::new(Role::Front, Reason::Overloaded, None, Duration::ZERO);
        seen.by_rule(app.early.accept_queue_rule.clone(), format!("{waited:?}"))
    });
}

/// Two sockets, and how they are relayed between.
pub(crate) struct Pair {
    pub(crate) client: Leg,
    pub(crate) other: Leg,
    /// Read from the client, and not passed on yet.
    pub(crate) chunk: Vec<u8>,
    pub(crate) options: RelayOptions,
    pub(crate) limits: FarewellLimits,
}

/// Serves one accepted socket, from its first moment to the end of its record.
pub(crate) async fn serve(
    app: Arc<App>,
    socket: TcpStream,
    remote: SocketAddr,
    port: Arc<Port>,
    in_hand: Option<InHand>,
) {
    let accept = accept(&app, || socket.local_addr(), remote, &port);
    let (client, local) = (accept.client, accept.local);
    let (mut tracked, leg) = app.manager.create_connection(socket, accept);
    let span = tracked.span(client, &port.name);

    // Each in a box of its own, which goes when it is over: what a connection is not doing takes no memory.
    let ends = Ends { client, local };
    let begun = Box::pin(begin(&app, &mut tracked, leg, ends, &port, in_hand)).instrument(span.clone()).await;
    let partings = match begun {
        Ok(pair) => Box::pin(relay(&mut tracked, pair)).instrument(span).await,
        Err(over) => *over,
    };

    let Partings { client, other, undelivered, limits } = partings;
    let farewell = Box::pin(runtime::cleanup_connection(&mut tracked, client, other, &limits)).await;
    tracked.finish(farewell.hop, farewell.undelivered + undelivered);
}

/// What is known of a client that was just accepted.
fn accept(
    app: &App,
    local_addr: impl FnOnce() -> io::Result<SocketAddr>,
    remote: SocketAddr,
    port: &Port,
) -> Accept {
    let local =
        if port.address.ip().is_unspecified() { local_addr().unwrap_or(port.address) } else { port.address };
    let client = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    app.client_addresses.see(client.ip());
    let listener = Arc::clone(&port.name);
    let at = app.manager.clock().now().wall;
    Accept { listener, client, remote: client, local, source: AddressSource::Socket, at }
}

/// Admission, first bytes, route, and the target or the hop: until bytes can be relayed, or it is over.
async fn begin(
    app: &App,
    tracked: &mut TrackedConnection,
    client: Leg,
    ends: Ends,
    port: &Port,
    mut in_hand: Option<InHand>,
) -> Result<Box<Pair>, Box<Partings>> {
    let address = ends.client;
    let limits = &app.early.farewell;
    if let Err(reason) = app.manager.ledger().admit(tracked.key(), address.ip(), &app.admission) {
        let mut seen = tracked.observation(reason, None);
        if let Some((rule, observed)) = app.limit_behind(reason) {
            seen = seen.by_rule(rule, observed);
        }
        return Err(end(tracked, client, seen, Goodbye::Abort, Vec::new(), limits).into());
    }

    let initial = if app.table.server_speaks_first(port.number) {
        InitialData { chunk: Vec::new(), kind: Kind::Opaque }
    } else {
        tracked.arm(DeadlineName::InitialData, &app.early.initial_data, Restart::Never);
        tracked.phase(Phase::InitialData);
        match read_initial_data(&client, tracked, app.initial_data_bytes, in_hand.as_mut()).await {
            Ok(initial) => initial,
            Err(none) => return Err(without_initial_data(tracked, client, none, limits).into()),
        }
    };

    let state = match route(app, tracked, address, port, &initial) {
        Ok(state) => state,
        Err(reason) => {
            return Err(refuse(tracked, client, reason, alert_for(reason, &initial), limits).into());
        }
    };
    if state.bounds.keepalive != app.keepalive {
        client.keep_alive(state.bounds.keepalive);
    }
    match &state.entry.transport {
        Transport::Block => {
            let alert = alert_for(Reason::RouteBlocked, &initial);
            Err(refuse(tracked, client, Reason::RouteBlocked, alert, limits).into())
        }
        Transport::Relay { .. } => {
            drop(in_hand);
            Ok(Box::new(connect_to_target(app, tracked, client, state, initial).await?))
        }
        Transport::Bridge { .. } => {
            let bridged =
                forward_to_network_proxy(app, tracked, client, ends, state, initial, in_hand).await?;
            Ok(Box::new(bridged))
        }
    }
}

/// Chooses the entry and notes on the record what was read and why this entry won.
fn route<'a>(
    app: &'a App,
    tracked: &mut TrackedConnection,
    address: SocketAddr,
    port: &Port,
    initial: &InitialData,
) -> Result<&'a EntryState, Reason> {
    let offered: Vec<&[u8]> = match &initial.kind {
        Kind::Tls(hello) => hello.alpn.names().collect(),
        Kind::PlainHttp | Kind::Opaque => Vec::new(),
    };
    let question = Question {
        port: port.number,
        class: if initial.kind.is_tls() { Class::Tls } else { Class::Clear },
        server_name: initial.kind.server_name(),
        alpn: &offered,
        client_ip: address.ip(),
    };
    let decision = app.table.decide(&question);
    let trace = match &decision.entry {
        Ok(_) => decision.trace.to_string(),
        Err(none) if decision.trace.steps.is_empty() => none.to_string(),
        Err(none) => format!("{}; {none}", decision.trace),
    };
    let entry: Result<&Arc<Entry>, Reason> = decision.entry.map_err(|none| match (none, &initial.kind) {
        (NoEntry::NotTls, Kind::PlainHttp) => Reason::PlainHttpOnTlsPort,
        (NoEntry::NotTls, _) => Reason::NotTls,
        (NoEntry::ServerNameMissing, Kind::Tls(_)) => Reason::SniMissing,
        (NoEntry::ServerNameUnknown, Kind::Tls(_)) => Reason::SniUnknown,
        _ => Reason::NoRoute,
    });
    let only_route = entry.ok().and_then(|entry| entry.only_route()).map(|route| Arc::clone(&route.name));
    let routing = Routing {
        entry: entry.ok().map(|entry| Arc::clone(&entry.name)),
        route: only_route,
        generation: app.generation,
        server_name: question.server_name.map(Arc::from),
        alpn_offered: offered.iter().map(|name| String::from_utf8_lossy(name).into()).collect(),
        trace: Some(trace.into()),
        protocol: None,
    };
    let routing = Change::Routing(Arc::new(routing));
    match entry {
        Ok(entry) => {
            tracked.record([routing, Change::Phase(Phase::Routed, None)]);
            app.entry(entry).ok_or(Reason::NoRoute)
        }
        Err(reason) => {
            tracked.record([routing]);
            Err(reason)
        }
    }
}

/// Passthrough and plain TCP: dials the target.
async fn connect_to_target(
    app: &App,
    tracked: &mut TrackedConnection,
    client: Leg,
    state: &EntryState,
    initial: InitialData,
) -> Result<Pair, Partings> {
    let bounds = &state.bounds;
    let Some(address) = state.next_target() else {
        return Err(refuse(tracked, client, Reason::NoHealthyTarget, None, &bounds.farewell));
    };
    tracked.deadlines_mut().keep_only(&[]);
    arm_max_lifetime(tracked, state);
    tracked.arm(DeadlineName::Connect, &bounds.connect, Restart::Never);
    let name: Arc<str> = address.to_string().into();
    let target = Target { name: Arc::clone(&name), address: None, reused: false, connect: None };
    tracked.record([Change::Target(Arc::new(target)), Change::Phase(Phase::Connecting, None)]);

    let until = tracked.next_expiry().unwrap_or(Duration::MAX);
    let dialled = tokio::select! {
        dialled = Box::pin(app.dial_target(address, until)) => dialled,
        () = left(&client, &initial) => {
            return Err(left_before_connect(tracked, client, None, &bounds.farewell));
        }
        armed = tracked.expired() => {
            let reason = Reason::TargetConnectTimeout;
            return Err(expired(tracked, client, None, &armed, reason, &bounds.farewell));
        }
        order = tracked.closing() => return Err(ordered(tracked, client, None, order, &bounds.farewell)),
    };
    let dialled = match dialled {
        Ok(dialled) => dialled,
        Err(error) if error.reason() == Reason::TargetConnectTimeout => {
            let armed = armed(tracked, DeadlineName::Connect);
            let reason = Reason::TargetConnectTimeout;
            return Err(expired(tracked, client, None, &armed, reason, &bounds.farewell));
        }
        Err(error) => {
            let seen =
                tracked.observation(error.reason(), Some(LegName::Target)).with_detail(error.to_string());
            return Err(end(tracked, client, seen, Goodbye::Abort, Vec::new(), &bounds.farewell));
        }
    };
    let (address, connect) = (Some(dialled.address), Some(dialled.took));
    let target = tracked.leg(dialled.socket, LegName::Target, Origin::Dialled);

    tracked.deadlines_mut().disarm(DeadlineName::Connect);
    let idle = bounds.inactivity.spread(bounds.jitter, tracked.id().0 as u64);
    tracked.arm(DeadlineName::Inactivity, &idle, Restart::OnBytes);
    let connected = Change::Target(Arc::new(Target { name, address, reused: false, connect }));
    tracked.record([connected, Change::Phase(Phase::Relaying, None)]);

    let (options, limits) = (bounds.relay.clone(), bounds.farewell.clone());
    Ok(Pair { client, other: target, chunk: initial.chunk, options, limits })
}

/// Relays until it is over.
fn relay(tracked: &mut TrackedConnection, pair: Box<Pair>) -> impl Future<Output = Partings> + Send {
    // Out of its box, which goes now and not with the connection.
    let Pair { client, other, chunk, options, limits } = *pair;
    async move {
        let over = runtime::relay(&client, &other, chunk, tracked, &options).await;
        Partings {
            client: Parting { leg: client, goodbye: over.first.0, rest: over.first.1 },
            other: Some(Parting { leg: other, goodbye: over.second.0, rest: over.second.1 }),
            undelivered: over.undelivered,
            limits,
        }
    }
}

/// An armed deadline of the record.
fn armed(tracked: &TrackedConnection, name: DeadlineName) -> ledger::Armed {
    let armed = tracked.deadlines().armed().iter().find(|armed| armed.name == name);
    armed.expect("armed before the step it bounds").clone()
}

/// Waits until the client is gone. A TLS client's FIN before an answer means that; for anything else it is a
/// half-close, which is passed on once there is somebody to pass it to.
pub(crate) async fn left(client: &Leg, initial: &InitialData) {
    if initial.kind.is_tls() {
        tokio::select! {
            _ = client.failed() => {}
            () = client.ended() => {}
        }
    } else {
        client.failed().await;
    }
}

pub(crate) fn left_before_connect(
    tracked: &mut TrackedConnection,
    client: Leg,
    other: Option<Leg>,
    limits: &FarewellLimits,
) -> Partings {
    let detail = match client.evidence().failure {
        Some(_) => "it sent a reset",
        None => "it sent its FIN",
    };
    let seen = tracked.observation(Reason::ClientLeftBeforeConnect, CLIENT).with_detail(detail);
    tracked.observe(seen);
    partings(client, Goodbye::Abort, Vec::new(), other, limits)
}

/// From the accept on, however long the first bytes took.
pub(crate) fn arm_max_lifetime(tracked: &mut TrackedConnection, state: &EntryState) {
    let accepted = tracked.opened().active;
    tracked.deadlines_mut().resume(DeadlineName::MaxLifetime, &state.bounds.max_lifetime, accepted);
}

/// A deadline fired before anything was relayed.
pub(crate) fn expired(
    tracked: &mut TrackedConnection,
    client: Leg,
    other: Option<Leg>,
    armed: &ledger::Armed,
    reason: Reason,
    limits: &FarewellLimits,
) -> Partings {
    let (reason, leg) = match armed.name {
        DeadlineName::MaxLifetime => (Reason::MaxLifetime, None),
        _ => (reason, Some(LegName::Target)),
    };
    tracked.observe_expiry(armed, reason, leg);
    partings(client, Goodbye::Abort, Vec::new(), other, limits)
}

/// Somebody ordered the connection to close before anything was relayed.
pub(crate) fn ordered(
    tracked: &mut TrackedConnection,
    client: Leg,
    other: Option<Leg>,
    order: CloseOrder,
    limits: &FarewellLimits,
) -> Partings {
    tracked.observe(order.observation);
    let goodbye = match order.mode {
        CloseMode::Graceful => Goodbye::Orderly,
        CloseMode::Abort => Goodbye::Abort,
    };
    partings(client, goodbye, Vec::new(), other, limits)
}

/// Ends a connection that has only its client's socket.
pub(crate) fn end(
    tracked: &mut TrackedConnection,
    client: Leg,
    seen: Observation,
    goodbye: Goodbye,
    rest: Vec<u8>,
    limits: &FarewellLimits,
) -> Partings {
    tracked.observe(seen);
    partings(client, goodbye, rest, None, limits)
}

/// Refuses: before a complete hello with RST, after it with an alert, the read side drained, then FIN.
pub(crate) fn refuse(
    tracked: &mut TrackedConnection,
    client: Leg,
    reason: Reason,
    alert: Option<AlertDescription>,
    limits: &FarewellLimits,
) -> Partings {
    let seen = tracked.observation(reason, None);
    match alert {
        Some(alert) => end(tracked, client, seen, Goodbye::Orderly, alert.record().to_vec(), limits),
        None => end(tracked, client, seen, Goodbye::Abort, Vec::new(), limits),
    }
}

fn without_initial_data(
    tracked: &mut TrackedConnection,
    client: Leg,
    none: NoInitialData,
    limits: &FarewellLimits,
) -> Partings {
    match none {
        NoInitialData::Refused(reason, detail) => {
            let mut seen = tracked.observation(reason, CLIENT);
            if let Some(detail) = detail {
                seen = seen.with_detail(detail);
            }
            end(tracked, client, seen, Goodbye::Abort, Vec::new(), limits)
        }
        NoInitialData::Expired(armed) => {
            tracked.observe_expiry(&armed, Reason::InitialDataTimeout, CLIENT);
            partings(client, Goodbye::Abort, Vec::new(), None, limits)
        }
        NoInitialData::Ordered(order) => ordered(tracked, client, None, *order, limits),
    }
}

/// What a TLS client is told.
pub(crate) fn alert_for(reason: Reason, initial: &InitialData) -> Option<AlertDescription> {
    initial.kind.is_tls().then_some(match reason {
        Reason::SniMissing | Reason::SniUnknown | Reason::NoRoute => AlertDescription::UnrecognizedName,
        Reason::RouteBlocked | Reason::DeniedIp | Reason::LimitRoute | Reason::LimitPerIp => {
            AlertDescription::AccessDenied
        }
        _ => AlertDescription::InternalError,
    })
}

fn partings(
    client: Leg,
    goodbye: Goodbye,
    rest: Vec<u8>,
    other: Option<Leg>,
    limits: &FarewellLimits,
) -> Partings {
    Partings {
        client: Parting { leg: client, goodbye, rest },
        other: other.map(|leg| Parting { leg, goodbye: Goodbye::Abort, rest: Vec::new() }),
        undelivered: 0,
        limits: limits.clone(),
    }
}
