//! What the requests of one client connection share.
//!
//! *Owns* who the client is and what it may ask for, what the record shows of its latest request, and what a
//! request leaves for the connection's owner: the reason to cut it, or a target to tunnel to. *Never* owns the
//! record or a socket. *Invariant*: what the record shows is written when it changes, not per request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use config::{InnerEntry, InnerTable, TargetAddress};
use ledger::{Change, HalfKey, Limit, Routing, Target};

use super::activity::Activity;
use super::head::Introduction;
use crate::ending::Ended;
use crate::gateway::{EntryCounts, Gateway, Turn};
use crate::pool::{Pool, UpgradedTarget};

/// One client connection, as its requests see it.
#[derive(Debug)]
pub struct Conversation {
    /// The process.
    pub gateway: Arc<Gateway>,
    /// This worker's connections to targets.
    pub pool: Pool,
    /// The half.
    pub key: HalfKey,
    /// What backends are told about the client.
    pub introduction: Introduction,
    /// The routes of the generation that the connection was admitted with.
    pub table: Arc<InnerTable>,
    /// What the hop header said, and smartproxy decided.
    pub routing: Arc<Routing>,
    /// One request at a time, or many.
    pub version: HttpVersion,
    /// What is going on.
    pub activity: Arc<Activity>,
    /// The counts of the entry's requests.
    counts: Option<Arc<EntryCounts>>,
    left: Mutex<Left>,
}

/// The HTTP that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0 or HTTP/1.1: a response that cannot be completed ends the connection.
    One,
    /// HTTP/2: it ends its stream.
    Two,
}

/// What requests leave behind.
#[derive(Debug, Default)]
struct Left {
    cut: Option<Ended>,
    tunnel: Option<TunnelOffer>,
    route: Option<Arc<str>>,
    target: Option<SocketAddr>,
    /// The latest route's.
    turn: Option<(Arc<str>, Arc<Turn>)>,
}

/// The target of a request, as the record shows it.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// As configured.
    pub target: &'a TargetAddress,
    /// Where that is.
    pub address: SocketAddr,
    /// Was a pooled connection used again?
    pub reused: bool,
    /// How long the dial took.
    pub connect: Option<Duration>,
}

/// A target that has switched protocols, and the limits of its route.
#[derive(Debug)]
pub struct TunnelOffer {
    /// The target.
    pub target: UpgradedTarget,
    /// No byte through the tunnel.
    pub tunnel_idle: Limit,
    /// One side closed, no progress on the other.
    pub half_close: Limit,
}

impl Conversation {
    /// Of a connection on which HTTP begins.
    pub fn new(
        gateway: Arc<Gateway>,
        pool: Pool,
        key: HalfKey,
        introduction: Introduction,
        table: Arc<InnerTable>,
        routing: Arc<Routing>,
        version: HttpVersion,
        activity: Arc<Activity>,
    ) -> Self {
        let counts = routing.entry.as_ref().map(|entry| gateway.requests.of(entry));
        let left = Mutex::default();
        Self { gateway, pool, key, introduction, table, routing, version, activity, counts, left }
    }

    /// A response of `status` begins.
    pub fn count(&self, status: u16) {
        if let Some(counts) = &self.counts {
            counts.count(status);
        }
    }

    /// The next turn of `route`'s targets.
    pub fn turn(&self, route: &Arc<str>) -> u64 {
        let mut left = self.left();
        match &left.turn {
            Some((of, turn)) if of == route => turn.take(),
            _ => {
                let turn = self.gateway.turns.of(route);
                let number = turn.take();
                left.turn = Some((Arc::clone(route), turn));
                number
            }
        }
    }

    /// The entry that the connection was admitted to.
    pub fn entry(&self) -> Option<&InnerEntry> {
        self.table.entry(self.routing.entry.as_deref()?)
    }

    /// A response stops in the middle. In HTTP/1 that is the connection's end, and this is why; in HTTP/2 it
    /// is one stream's.
    pub fn cut(&self, ended: Ended) {
        if self.version == HttpVersion::One {
            self.left().cut.get_or_insert(ended);
        }
    }

    /// Why a request has ended the connection, if one has.
    pub fn take_cut(&self) -> Option<Ended> {
        self.left().cut.take()
    }

    /// A target has switched protocols: the connection's owner takes it from here.
    pub fn offer_tunnel(&self, offer: TunnelOffer) {
        self.left().tunnel = Some(offer);
    }

    /// The target to tunnel to, if the last request got one.
    pub fn take_tunnel(&self) -> Option<TunnelOffer> {
        self.left().tunnel.take()
    }

    /// Shows on the record which route and target the latest request has.
    pub fn show(&self, route: &Arc<str>, protocol: &'static str, chosen: Option<Chosen<'_>>) {
        let mut changes = Vec::new();
        {
            let mut left = self.left();
            if left.route.as_ref() != Some(route) || protocol == "websocket" {
                left.route = Some(Arc::clone(route));
                let routing = Routing {
                    route: Some(Arc::clone(route)),
                    protocol: Some(protocol.into()),
                    ..Routing::clone(&self.routing)
                };
                changes.push(Change::Routing(Arc::new(routing)));
            }
            if let Some(chosen) = chosen
                && left.target != Some(chosen.address)
            {
                left.target = Some(chosen.address);
                let Chosen { target, address, reused, connect } = chosen;
                let target =
                    Target { name: target.to_string().into(), address: Some(address), reused, connect };
                changes.push(Change::Target(Arc::new(target)));
            }
        }
        if !changes.is_empty() {
            let now = self.gateway.clock().now();
            // The record may be gone: a request can outlive its connection by a moment.
            let _shown = self.gateway.manager.ledger().record(self.key, changes, now).is_ok();
        }
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
