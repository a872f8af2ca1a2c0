//! The groups of a half in which its facts change: accept, routing, hop, TLS, target.
//!
//! *Owns* these messages in both directions. *Never* sends more than a bounded part of what a client chose
//! (server name, ALPN). *Invariant*: each group is absolute: it replaces the one before.

use std::sync::Arc;

use ledger::{Accept, AddressSource, Attempt, Hop, Routing, Target, Tls};

use super::scalar::{
    clip, duration, id, list, optional_address, optional_duration, optional_text, read_address, read_text,
    read_timestamp, timestamp,
};
use super::{Fault, Malformed};
use crate::proto::admin::v1 as wire;

/// Bytes of a configured name.
const NAME: usize = 255;
/// Bytes of a protocol, version or cipher.
const TOKEN: usize = 64;
/// Protocols that a client offered, and bytes of each: clients choose them.
const ALPN: (usize, usize) = (8, 32);
/// Bytes of a route trace.
const TRACE: usize = 2_000;

pub(crate) fn accept(accept: &Accept) -> wire::Accept {
    let source = match accept.source {
        AddressSource::Socket => wire::AddressSource::Socket,
        AddressSource::ProxyV1 => wire::AddressSource::ProxyV1,
        AddressSource::ProxyV2 => wire::AddressSource::ProxyV2,
    };
    wire::Accept {
        listener: clip(&accept.listener, TOKEN),
        client_address: accept.client.to_string(),
        remote_address: accept.remote.to_string(),
        local_address: accept.local.to_string(),
        address_source: source.into(),
        accepted_at: Some(timestamp(accept.at)),
    }
}

pub(crate) fn read_accept(accept: wire::Accept) -> Result<Arc<Accept>, Malformed> {
    let source = match wire::AddressSource::try_from(accept.address_source) {
        Ok(wire::AddressSource::Socket) => AddressSource::Socket,
        Ok(wire::AddressSource::ProxyV1) => AddressSource::ProxyV1,
        Ok(wire::AddressSource::ProxyV2) => AddressSource::ProxyV2,
        _ => return Err(Fault::Number(accept.address_source.into()).of("accept.address_source")),
    };
    Ok(Arc::new(Accept {
        listener: read_text(accept.listener, "accept.listener")?,
        client: read_address(&accept.client_address, "accept.client_address")?,
        remote: read_address(&accept.remote_address, "accept.remote_address")?,
        local: read_address(&accept.local_address, "accept.local_address")?,
        source,
        at: read_timestamp(accept.accepted_at, "accept.accepted_at")?,
    }))
}

pub(crate) fn routing(routing: &Routing) -> wire::Routing {
    let name = |text: &Arc<str>| clip(text, NAME);
    wire::Routing {
        entry: routing.entry.as_ref().map(name),
        route: routing.route.as_ref().map(name),
        generation: routing.generation,
        server_name: routing.server_name.as_ref().map(name),
        alpn_offered: routing.alpn_offered.iter().take(ALPN.0).map(|text| clip(text, ALPN.1)).collect(),
        trace: routing.trace.as_ref().map(|text| clip(text, TRACE)),
        protocol: routing.protocol.as_ref().map(|text| clip(text, TOKEN)),
    }
}

pub(crate) fn read_routing(routing: wire::Routing) -> Result<Arc<Routing>, Malformed> {
    Ok(Arc::new(Routing {
        entry: optional_text(routing.entry, "routing.entry")?,
        route: optional_text(routing.route, "routing.route")?,
        generation: routing.generation,
        server_name: optional_text(routing.server_name, "routing.server_name")?,
        alpn_offered: list(routing.alpn_offered, ALPN.0, "routing.alpn_offered", |text| {
            read_text(text, "routing.alpn_offered")
        })?,
        trace: optional_text(routing.trace, "routing.trace")?,
        protocol: optional_text(routing.protocol, "routing.protocol")?,
    }))
}

pub(crate) fn hop(hop: &Hop) -> wire::Hop {
    wire::Hop {
        bridged_instance_id: hop.bridged.map(|(instance, _)| instance.to_string()),
        bridged_attempt: hop.bridged.map(|(_, attempt)| attempt.0),
        given_up_attempt: hop.given_up.map(|attempt| attempt.0),
        attempts: hop.attempts,
        local_address: hop.local.map(|address| address.to_string()),
        remote_address: hop.remote.map(|address| address.to_string()),
    }
}

pub(crate) fn read_hop(hop: wire::Hop) -> Result<Hop, Malformed> {
    let bridged = match (hop.bridged_instance_id, hop.bridged_attempt) {
        (Some(instance), Some(attempt)) => {
            Some((id(&instance, "hop.bridged_instance_id")?, Attempt(attempt)))
        }
        (None, None) => None,
        _ => return Err(Fault::Contradiction.of("hop.bridged_attempt")),
    };
    Ok(Hop {
        bridged,
        given_up: hop.given_up_attempt.map(Attempt),
        attempts: hop.attempts,
        local: optional_address(hop.local_address.as_deref(), "hop.local_address")?,
        remote: optional_address(hop.remote_address.as_deref(), "hop.remote_address")?,
    })
}

pub(crate) fn tls(tls: &Tls) -> wire::Tls {
    wire::Tls {
        version: clip(&tls.version, TOKEN),
        cipher: clip(&tls.cipher, TOKEN),
        alpn: tls.alpn.as_deref().map(|text| clip(text, TOKEN)),
        resumed: tls.resumed,
    }
}

pub(crate) fn read_tls(tls: wire::Tls) -> Result<Arc<Tls>, Malformed> {
    Ok(Arc::new(Tls {
        version: read_text(tls.version, "tls.version")?,
        cipher: read_text(tls.cipher, "tls.cipher")?,
        alpn: optional_text(tls.alpn, "tls.alpn")?,
        resumed: tls.resumed,
    }))
}

pub(crate) fn target(target: &Target) -> wire::Target {
    wire::Target {
        name: clip(&target.name, NAME),
        address: target.address.map(|address| address.to_string()),
        reused: target.reused,
        connect_duration: target.connect.map(duration),
    }
}

pub(crate) fn read_target(target: wire::Target) -> Result<Arc<Target>, Malformed> {
    Ok(Arc::new(Target {
        name: read_text(target.name, "target.name")?,
        address: optional_address(target.address.as_deref(), "target.address")?,
        reused: target.reused,
        connect: optional_duration(target.connect_duration, "target.connect_duration")?,
    }))
}
