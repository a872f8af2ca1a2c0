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
use std::sync::Arc;

use config::{InnerAction, InnerRoute, Protocol};
use ledger::{
    Accept, AddressSource, Arrival, Attempt, Change, ConnectionId, DeadlineName, LegName, Limit, Phase,
    Reason, Restart, Routing, Target, Tls,
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
pub async fn inner_connection(
    inside: Inside,
    hop: Arc<Hop>,
    socket: TcpStream,
    remote: SocketAddr,
    arrival: Arrival,
) {
    // Until the header has verified there is no record: only a place among the arrivals.
    let admitted = match hop.admit(&socket).await {
        Ok(admitted) => admitted,
        Err(reason) => {
            inside.gateway.manager.ledger().refuse(arrival, reason);
            hop.log_refusal(remote, reason);
            return;
        }
    };
    carry(&inside, socket, remote, arrival, admitted).await;
}

/// Carries a connection that has proven who it is.
pub async fn carry(
    inside: &Inside,
    socket: TcpStream,
    remote: SocketAddr,
    arrival: Arrival,
    admitted: Admitted,
) {
    let gateway = &inside.gateway;
    let Admitted { header: verified, front, table, read_past } = admitted;
    let header = verified.header;
    let local = socket.local_addr().ok();

    // The record opens under the id that smartproxy gave the client's connection.
    let accept = Accept {
        listener: Arc::clone(&inside.listener),
        client: header.client,
        remote,
        local: header.local,
        source: AddressSource::ProxyV2,
        at: gateway.clock().now().wall,
    };
    let half = (ConnectionId(header.connection_id), Attempt(verified.counter));
    let opened = gateway.manager.adopt_inner(socket, read_past.len(), arrival, half, front, accept);
    let (mut tracked, hop) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::error!(id = %half.0, ?error, "a verified hop connection has no record: refused");
            return;
        }
    };
    let routing = Arc::new(Routing {
        entry: Some(header.entry.as_str().into()),
        generation: header.generation,
        server_name: header.server_name.as_deref().map(Into::into),
        ..Routing::default()
    });
    let known =
        [Change::Routing(Arc::clone(&routing)), Change::HopAddresses(local, Some(remote))].into_iter();
    let protocol = table.entry(&header.entry).map_or(Protocol::Http, config::InnerEntry::protocol);
    let socket = HopIo::new(&hop, read_past);
    let ahead = socket.ahead();
    let scheme = if header.class == HopClass::Tls { Scheme::Https } else { Scheme::Http };
    let introduction = Introduction::new(tracked.id(), header.client, scheme);
    let life = Life { inside, hop: &hop, ahead: &ahead, routing, table };

    // What it speaks decides the rest; either way it ends with how to leave the hop, and maybe a target.
    let span = tracked.span(header.client, &inside.listener);
    let living = async {
        match (header.class, protocol) {
            (HopClass::Tls, protocol) => {
                tracked.arm(DeadlineName::TlsHandshake, &gateway.timeouts.tls_handshake, Restart::Never);
                tracked.record(known.chain([Change::Phase(Phase::TlsHandshake, None)]));
                let shaken = tokio::select! {
                    biased;
                    // In a box, which goes with the handshake: its state has kilobytes.
                    shaken = Box::pin(life.shake(protocol, socket)) => shaken.map_err(Ended::Tls),
                    order = tracked.closing() => Err(Ended::Ordered(order)),
                    armed = tracked.expired() => Err(Ended::Expired(armed)),
                };
                match shaken {
                    Err(ended) => {
                        gateway.handshakes.failed();
                        Left::hop(conclude(ended, &mut tracked, &hop))
                    }
                    Ok((socket, tls)) => {
                        gateway.handshakes.complete(&tls);
                        let version = match tls.alpn.as_deref() {
                            Some("h2") => HttpVersion::Two,
                            _ => HttpVersion::One,
                        };
                        let tls = Some(Change::Tls(Arc::new(tls)));
                        match protocol {
                            Protocol::Http => {
                                Box::pin(life.http(socket, version, introduction, tls, &mut tracked)).await
                            }
                            Protocol::Tcp => Box::pin(life.opaque(socket, tls, &mut tracked)).await,
                        }
                    }
                }
            }
            (HopClass::Clear, Protocol::Http) => {
                tracked.record(known);
                Box::pin(life.http(socket, HttpVersion::One, introduction, None, &mut tracked)).await
            }
            (HopClass::Clear, Protocol::Tcp) => {
                tracked.record(known);
                Box::pin(life.opaque(socket, None, &mut tracked)).await
            }
        }
    };
    // In a box of its own, which goes: beside its span there would be two of it.
    let left = Box::pin(living).instrument(span).await;

    // Sockets first, record last.
    let first = Parting { leg: hop, goodbye: left.hop, rest: Vec::new() };
    let limits = gateway.timeouts.farewell();
    let farewell = Box::pin(cleanup_connection(&mut tracked, first, left.target, &limits)).await;
    tracked.finish(farewell.hop, farewell.undelivered + left.undelivered);
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
    ahead: &'a Ahead,
    routing: Arc<Routing>,
    table: Arc<config::InnerTable>,
}

impl Life<'_> {
    /// Shakes hands. What comes of it is small: the session is behind a pointer.
    async fn shake(&self, protocol: Protocol, socket: HopIo) -> Result<(TlsIo<HopIo>, Tls), TlsFailure> {
        let socket = self.inside.gateway.tls.accept_hop(protocol, socket).await?;
        let tls = agreed(socket.get_ref().1);
        Ok((TlsIo::new(socket), tls))
    }

    /// Serves requests until that ends, or until one of them becomes a tunnel and that ends.
    async fn http<S>(
        &self,
        socket: S,
        version: HttpVersion,
        introduction: Introduction,
        tls: Option<Change>,
        tracked: &mut TrackedConnection,
    ) -> Left
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let gateway = &self.inside.gateway;
        tracked.deadlines_mut().keep_only(&[]);
        tracked.arm(DeadlineName::RequestHeader, &gateway.timeouts.request_header, Restart::Never);
        tracked.record(tls.into_iter().chain([Change::Phase(Phase::HttpIdle, None)]));
        let durations = Arc::clone(&gateway.request_durations);
        let activity = Activity::new(gateway.clock().clone(), Arc::clone(tracked.traffic()), durations);
        let conversation = Arc::new(Conversation::new(
            Arc::clone(gateway),
            self.inside.pool.clone(),
            tracked.key(),
            introduction,
            Arc::clone(&self.table),
            Arc::clone(&self.routing),
            version,
            Arc::new(activity),
        ));
        let attendance = Attendance {
            tracked: &mut *tracked,
            hop: self.hop,
            ahead: self.ahead,
            wind_down: &self.inside.wind_down,
        };
        let served = match version {
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
