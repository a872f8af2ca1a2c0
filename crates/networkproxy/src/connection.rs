//! The whole life of one inner half, top to bottom: start reading here.
//!
//! ```text
//!   arrival ─▶ header verified ─▶ record opened ─▶ TLS ─┬─▶ HTTP (─▶ tunnel) ─┬─▶ hop and target left
//!                                  clear text ──────────┘   opaque: tunnel ───┘   ─▶ record finished
//! ```
//!
//! *Owns* the record, the hop's socket and the order of the steps. *Never* decides what an end means:
//! [`crate::ending::conclude`] does. *Invariant*: whatever happens in between, the sockets are left first and
//! the record is finished last, once.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use config::{InnerAction, InnerRoute, Protocol};
use ledger::{
    Accept, AddressSource, Arrival, Attempt, Change, ConnectionId, DeadlineName, LegName, Limit, Opening,
    Phase, Reason, Restart, Routing, Target, Tls,
};
use runtime::preface::HopClass;
use runtime::{DialOptions, Goodbye, Leg, Origin, Parting, TrackedConnection, cleanup_connection, dial};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tracing::Instrument as _;

use crate::ending::{Ended, conclude};
use crate::failure::TargetFailure;
use crate::gateway::Gateway;
use crate::hop::{Admitted, Hop};
use crate::hop_io::{Ahead, HopIo};
use crate::http::activity::Activity;
use crate::http::conversation::{Conversation, HttpVersion, TunnelOffer};
use crate::http::head::{Introduction, Scheme};
use crate::http::{Attendance, Over, Served, serve_one, serve_two};
use crate::pool::Pool;
use crate::settings::{RouteTimeouts, spread};
use crate::tls::{TlsFailure, agreed};
use crate::tls_io::TlsIo;
use crate::tunnel::{Side, TunnelLimits, tunnel};
use crate::wind_down::WindDown;

/// What a connection needs of its process.
#[derive(Clone, Debug)]
pub struct Inside {
    /// What all connections share.
    pub gateway: Arc<Gateway>,
    /// Connections to targets.
    pub pool: Pool,
    /// Given when connections should come to an end.
    pub wind_down: WindDown,
    /// The hop listener's name on records.
    pub listener: Arc<str>,
}

/// Carries one connection that was accepted on the hop, from its first byte to its goodbye.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps two places for each argument, to the connection's end"
)]
pub fn inner_connection(
    inside: Inside,
    hop: Arc<Hop>,
    socket: TcpStream,
    remote: SocketAddr,
    arrival: Arrival,
) -> impl Future<Output = ()> + Send {
    async move {
        // Until the header has verified there is no record: only a place among the arrivals.
        let admitted = match hop.admit(&socket).await {
            Ok(admitted) => admitted,
            Err(reason) => {
                inside.gateway.manager.ledger().refuse(arrival, reason);
                hop.log_refusal(remote, reason);
                return;
            }
        };
        let Some(opened) = open(&inside, socket, remote, arrival, admitted) else { return };
        carry(&inside, opened).await;
    }
}

/// A connection that has proven who it is, and its record. Whatever becomes of it, its socket goes before its record:
/// fields are dropped in their order.
pub struct Opened {
    hop: Leg,
    tracked: TrackedConnection,
    /// Read from the hop already, after the header.
    read_past: Vec<u8>,
    client: SocketAddr,
    class: HopClass,
    protocol: Protocol,
    routing: Arc<Routing>,
    table: Arc<config::InnerTable>,
}

/// Opens the record, under the id that smartproxy gave the client's connection.
pub fn open(
    inside: &Inside,
    socket: TcpStream,
    remote: SocketAddr,
    arrival: Arrival,
    admitted: Admitted,
) -> Option<Opened> {
    let gateway = &inside.gateway;
    let Admitted { header: verified, front, table, read_past } = admitted;
    let header = verified.header;
    let local = socket.local_addr().ok();
    let accept = Accept {
        listener: Arc::clone(&inside.listener),
        client: header.client,
        remote,
        local: header.local,
        source: AddressSource::ProxyV2,
        at: gateway.clock().now().wall,
    };
    let routing = Arc::new(Routing {
        entry: Some(header.entry.as_str().into()),
        generation: header.generation,
        server_name: header.server_name.as_deref().map(Into::into),
        ..Routing::default()
    });
    let way = ledger::Hop { local, remote: Some(remote), ..ledger::Hop::default() };
    let opening =
        Opening { accept: Arc::new(accept), routing: Some(Arc::clone(&routing)), hop: Some(Arc::new(way)) };
    let half = (ConnectionId(header.connection_id), Attempt(verified.counter));
    let opened = gateway.manager.adopt_inner(socket, read_past.len(), arrival, half, front, opening);
    let (mut tracked, hop) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::error!(id = %half.0, ?error, "a verified hop connection has no record: refused");
            return None;
        }
    };
    if header.class == HopClass::Tls {
        tracked.arm(DeadlineName::TlsHandshake, &gateway.timeouts.tls_handshake, Restart::Never);
        tracked.phase(Phase::TlsHandshake);
    }
    let protocol = table.entry(&header.entry).map_or(Protocol::Http, config::InnerEntry::protocol);
    let (client, class) = (header.client, header.class);
    Some(Opened { hop, tracked, read_past, client, class, protocol, routing, table })
}

/// Carries a connection from its record's opening to its end.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps two places for each argument, to the connection's end"
)]
pub fn carry(inside: &Inside, mut opened: Opened) -> impl Future<Output = ()> + Send {
    async move {
        let ahead = Arc::<Ahead>::default();
        let life = Life {
            inside,
            hop: &opened.hop,
            ahead: &ahead,
            client: opened.client,
            class: opened.class,
            routing: opened.routing,
            table: opened.table,
        };
        let span = opened.tracked.span(opened.client, &inside.listener);
        let living = life.live(opened.protocol, opened.read_past, &mut opened.tracked);
        // In a box of its own, which goes: beside its span there would be two of it.
        let left = Box::pin(living).instrument(span).await;

        // Sockets first, record last.
        let first = Parting { leg: opened.hop, goodbye: left.hop, rest: Vec::new() };
        let limits = inside.gateway.timeouts.farewell();
        let farewell = Box::pin(cleanup_connection(&mut opened.tracked, first, left.target, &limits)).await;
        opened.tracked.finish(farewell.hop, farewell.undelivered + left.undelivered);
    }
}

/// How the sockets are to be left.
struct Left {
    hop: Goodbye,
    target: Option<Parting>,
    undelivered: u64,
}

impl Left {
    const fn hop(goodbye: Goodbye) -> Self {
        Self { hop: goodbye, target: None, undelivered: 0 }
    }
}

/// A connection between its hop header and its goodbye.
struct Life<'a> {
    inside: &'a Inside,
    hop: &'a Leg,
    ahead: &'a Arc<Ahead>,
    client: SocketAddr,
    class: HopClass,
    routing: Arc<Routing>,
    table: Arc<config::InnerTable>,
}

impl Life<'_> {
    /// What it speaks decides; either way it ends with how to leave the hop, and maybe a target.
    async fn live(&self, protocol: Protocol, read_past: Vec<u8>, tracked: &mut TrackedConnection) -> Left {
        match (self.class, protocol) {
            (HopClass::Tls, protocol) => {
                let shaken = tokio::select! {
                    biased;
                    // In a box, which goes with the handshake: its state has kilobytes.
                    shaken = Box::pin(self.shake(protocol, self.socket(read_past))) => shaken.map_err(Ended::Tls),
                    order = tracked.closing() => Err(Ended::Ordered(order)),
                    armed = tracked.expired() => Err(Ended::Expired(armed)),
                };
                match shaken {
                    Err(ended) => {
                        self.inside.gateway.handshakes.failed();
                        Left::hop(conclude(ended, tracked, self.hop))
                    }
                    Ok((socket, tls)) => self.speak(protocol, socket, tls, tracked).await,
                }
            }
            (HopClass::Clear, Protocol::Http) => {
                let conversation = self.converse(HttpVersion::One, None, tracked);
                Box::pin(self.http(self.socket(read_past), conversation, tracked)).await
            }
            (HopClass::Clear, Protocol::Tcp) => {
                Box::pin(self.opaque(self.socket(read_past), None, tracked)).await
            }
        }
    }

    /// The hop's socket, to read from after its header.
    fn socket(&self, read_past: Vec<u8>) -> HopIo {
        HopIo::new(self.hop, read_past, self.ahead)
    }

    /// Shakes hands. What comes of it is small: the session is behind a pointer.
    async fn shake(&self, protocol: Protocol, socket: HopIo) -> Result<(TlsIo<HopIo>, Tls), TlsFailure> {
        let socket = self.inside.gateway.tls.accept_hop(protocol, socket).await?;
        let tls = agreed(socket.get_ref().1);
        Ok((TlsIo::new(socket), tls))
    }

    /// Inside TLS.
    fn speak<'l>(
        &'l self,
        protocol: Protocol,
        socket: TlsIo<HopIo>,
        tls: Tls,
        tracked: &'l mut TrackedConnection,
    ) -> Pin<Box<dyn Future<Output = Left> + Send + 'l>> {
        self.inside.gateway.handshakes.complete(&tls);
        let version = match tls.alpn.as_deref() {
            Some("h2") => HttpVersion::Two,
            _ => HttpVersion::One,
        };
        let tls = Some(Change::Tls(Arc::new(tls)));
        match protocol {
            Protocol::Http => {
                let conversation = self.converse(version, tls, tracked);
                Box::pin(self.http(socket, conversation, tracked))
            }
            Protocol::Tcp => Box::pin(self.opaque(socket, tls, tracked)),
        }
    }

    /// Requests may come: what they share, and the clock of the first.
    fn converse(
        &self,
        version: HttpVersion,
        tls: Option<Change>,
        tracked: &mut TrackedConnection,
    ) -> Arc<Conversation> {
        let gateway = &self.inside.gateway;
        tracked.deadlines_mut().keep_only(&[]);
        tracked.arm(DeadlineName::RequestHeader, &gateway.timeouts.request_header, Restart::Never);
        tracked.record(tls.into_iter().chain([Change::Phase(Phase::HttpIdle, None)]));
        let durations = Arc::clone(&gateway.request_durations);
        let activity = Activity::new(gateway.clock().clone(), Arc::clone(tracked.traffic()), durations);
        let scheme = if self.class == HopClass::Tls { Scheme::Https } else { Scheme::Http };
        let introduction = Introduction::new(tracked.id(), self.client, scheme);
        Arc::new(Conversation::new(
            Arc::clone(gateway),
            self.inside.pool.clone(),
            tracked.key(),
            introduction,
            Arc::clone(&self.table),
            Arc::clone(&self.routing),
            version,
            Arc::new(activity),
        ))
    }

    /// Serves requests until that ends, or until one of them becomes a tunnel and that ends.
    async fn http<S>(
        &self,
        socket: S,
        conversation: Arc<Conversation>,
        tracked: &mut TrackedConnection,
    ) -> Left
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let attendance = Attendance {
            tracked: &mut *tracked,
            hop: self.hop,
            ahead: self.ahead,
            wind_down: &self.inside.wind_down,
        };
        let served = match conversation.version {
            HttpVersion::One => serve_one(socket, conversation, attendance).await,
            HttpVersion::Two => Served::Over(serve_two(socket, conversation, attendance).await),
        };
        match served {
            Served::Over(Over::Concluded(goodbye)) => Left::hop(goodbye),
            Served::Over(Over::Because(ended)) => Left::hop(conclude(ended, tracked, self.hop)),
            Served::Tunnel { socket, read_ahead, offer } => {
                let TunnelOffer { target, tunnel_idle, half_close } = offer;
                let limits = self.tunnel_limits(&tunnel_idle, half_close, tracked.id());
                let client = Side { socket, leg: self.hop, read_ahead };
                let leg = target.leg;
                let target = Side { socket: target.io, leg: &leg, read_ahead: target.read_ahead };
                enter_tunnel(Phase::Tunnel, &limits, None, tracked);
                let end = Box::pin(tunnel(client, target, tracked, &limits)).await;
                let target = Parting { leg, goodbye: end.target, rest: Vec::new() };
                Left { hop: end.hop, target: Some(target), undelivered: end.undelivered }
            }
        }
    }

    /// Opaque bytes to the entry's one target.
    async fn opaque<S>(&self, socket: S, tls: Option<Change>, tracked: &mut TrackedConnection) -> Left
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let gateway = &self.inside.gateway;
        let entry = self.routing.entry.as_deref().and_then(|name| self.table.entry(name));
        let route = entry.and_then(|entry| entry.routes().first());
        let Some((route, forward)) = route.and_then(forwarding) else {
            tracked.record(tls);
            return Left::hop(conclude(Ended::NoRoute, tracked, self.hop));
        };
        let timeouts = RouteTimeouts::new(&gateway.timeouts, &route.timeouts);
        tracked.deadlines_mut().keep_only(&[]);
        tracked.arm(DeadlineName::Connect, &timeouts.connect(), Restart::Never);
        let routing = Routing { route: Some(Arc::clone(&route.name)), ..Routing::clone(&self.routing) };
        let routed = [Change::Routing(Arc::new(routing)), Change::Phase(Phase::Connecting, None)];
        tracked.record(tls.into_iter().chain(routed));

        let dialled = tokio::select! {
            biased;
            dialled = self.dial(route, forward, &timeouts) => dialled.map_err(Ended::Target),
            order = tracked.closing() => Err(Ended::Ordered(order)),
            _ = self.hop.failed() => Err(Ended::Hop),
        };
        let (leg, target) = match dialled {
            Ok((socket, target)) => (tracked.leg(socket, LegName::Target, Origin::Dialled), target),
            Err(ended) => return Left::hop(conclude(ended, tracked, self.hop)),
        };
        let limits = self.tunnel_limits(&timeouts.tunnel_idle(), timeouts.half_close(), tracked.id());
        enter_tunnel(Phase::Relaying, &limits, Some(Change::Target(Arc::new(target))), tracked);
        let client = Side { socket, leg: self.hop, read_ahead: bytes::Bytes::new() };
        let target = Side { socket: leg.io(Vec::new()), leg: &leg, read_ahead: bytes::Bytes::new() };
        let end = Box::pin(tunnel(client, target, tracked, &limits)).await;
        let target = Parting { leg, goodbye: end.target, rest: Vec::new() };
        Left { hop: end.hop, target: Some(target), undelivered: end.undelivered }
    }

    /// Connects to the target whose turn it is.
    async fn dial(
        &self,
        route: &InnerRoute,
        forward: &config::Forward,
        timeouts: &RouteTimeouts<'_>,
    ) -> Result<(TcpStream, Target), TargetFailure> {
        let gateway = &self.inside.gateway;
        let turn = gateway.turns.of(&route.name).take() as usize;
        let Some(target) = forward.targets.get(turn % forward.targets.len().max(1)) else {
            return Err(TargetFailure::of(Reason::NoHealthyTarget));
        };
        let connect = timeouts.connect();
        let until = gateway.clock().active().saturating_add(connect.value);
        let addresses = gateway.resolve(target).await?;
        let dialled = dial(&addresses, until, DialOptions::default(), gateway.clock()).await;
        let dialled = dialled.map_err(|error| TargetFailure::in_dial(&error, &connect))?;
        let name = target.to_string().into();
        let (address, connect) = (Some(dialled.address), Some(dialled.took));
        Ok((dialled.socket, Target { name, address, reused: false, connect }))
    }

    fn tunnel_limits(&self, tunnel_idle: &Limit, half_close: Limit, id: ConnectionId) -> TunnelLimits {
        let farewell = self.inside.gateway.timeouts.farewell();
        let tunnel_idle = spread(tunnel_idle, id.0 as u64);
        TunnelLimits { tunnel_idle, half_close, write_stall: farewell.write_stall, close: farewell.close }
    }
}

fn enter_tunnel(
    phase: Phase,
    limits: &TunnelLimits,
    target: Option<Change>,
    tracked: &mut TrackedConnection,
) {
    tracked.deadlines_mut().keep_only(&[DeadlineName::HalfClose]);
    tracked.arm(DeadlineName::TunnelIdle, &limits.tunnel_idle, Restart::OnBytes);
    // A client that had sent its FIN with the handshake stays half-closed.
    let entered = (tracked.current_phase() != Phase::HalfClosed).then_some(Change::Phase(phase, None));
    tracked.record(target.into_iter().chain(entered));
}

fn forwarding(route: &InnerRoute) -> Option<(&InnerRoute, &config::Forward)> {
    match &route.action {
        InnerAction::Forward(forward) => Some((route, forward)),
        _ => None,
    }
}
