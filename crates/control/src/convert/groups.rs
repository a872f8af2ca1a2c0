//! The groups of a half in which its facts change: accept, routing, hop, TLS, target.
//!
//! *Owns* these messages in both directions: as a record shows them, and as they travel. *Never* sends more than a
//! bounded part of what a client chose (server name, ALPN). *Invariant*: each group is absolute: it replaces the
//! one before.

use std::sync::Arc;

use ledger::{Accept, AddressSource, Attempt, Hop, Routing, Target, Tls};

use super::known::Known;
use super::scalar::{
    address_of, clip, clipped, duration, duration_of, id_of, push, required, text_of, timestamp,
    timestamp_of, write_duration, write_optional_text, write_timestamp,
};
use super::{Fault, Malformed};
use crate::proto::admin::v1 as wire;
use crate::wire::{Fields, Writer};

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

/// As [`accept`], into a half that travels.
pub(super) fn write_accept(writer: &mut Writer, accept: &Accept) {
    writer.text(1, clipped(&accept.listener, TOKEN));
    writer.address(2, accept.client);
    writer.address(3, accept.remote);
    writer.address(4, accept.local);
    writer.number(5, accept.source as u8);
    write_timestamp(writer, 6, accept.at);
}

pub(super) fn read_accept(mut fields: Fields<'_>, known: &mut Known) -> Result<Arc<Accept>, Malformed> {
    let mut listener = "";
    let (mut client, mut remote, mut local) = (None, None, None);
    let mut source = 0;
    let mut at = None;
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => listener = text_of(value, "accept.listener")?,
            2 => client = Some(address_of(value, "accept.client_address")?),
            3 => remote = Some(address_of(value, "accept.remote_address")?),
            4 => local = Some(address_of(value, "accept.local_address")?),
            5 => source = value.enumeration("accept.address_source")?,
            6 => at = Some(timestamp_of(value, "accept.accepted_at")?),
            _ => {}
        }
    }
    let source = match wire::AddressSource::try_from(source) {
        Ok(wire::AddressSource::Socket) => AddressSource::Socket,
        Ok(wire::AddressSource::ProxyV1) => AddressSource::ProxyV1,
        Ok(wire::AddressSource::ProxyV2) => AddressSource::ProxyV2,
        _ => return Err(Fault::Number(source.into()).of("accept.address_source")),
    };
    Ok(Arc::new(Accept {
        listener: known.texts.text(listener),
        client: client.ok_or(Fault::Address.of("accept.client_address"))?,
        remote: remote.ok_or(Fault::Address.of("accept.remote_address"))?,
        local: local.ok_or(Fault::Address.of("accept.local_address"))?,
        source,
        at: required(at, "accept.accepted_at")?,
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

/// As [`routing`], into a half that travels.
pub(super) fn write_routing(writer: &mut Writer, routing: &Routing) {
    write_optional_text(writer, 1, routing.entry.as_deref(), NAME);
    write_optional_text(writer, 2, routing.route.as_deref(), NAME);
    writer.number(3, routing.generation);
    write_optional_text(writer, 4, routing.server_name.as_deref(), NAME);
    for offered in routing.alpn_offered.iter().take(ALPN.0) {
        writer.present_text(5, clipped(offered, ALPN.1));
    }
    write_optional_text(writer, 6, routing.trace.as_deref(), TRACE);
    write_optional_text(writer, 7, routing.protocol.as_deref(), TOKEN);
}

/// Most connections of an entry are routed alike.
pub(super) fn read_routing(bytes: &[u8], known: &mut Known) -> Result<Arc<Routing>, Malformed> {
    let Known { routings, texts, .. } = known;
    routings.get(bytes, || {
        let mut fields = Fields::of(bytes, "routing");
        let mut routing = Routing::default();
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => routing.entry = Some(texts.text(text_of(value, "routing.entry")?)),
                2 => routing.route = Some(texts.text(text_of(value, "routing.route")?)),
                3 => routing.generation = value.number("routing.generation")?,
                4 => routing.server_name = Some(texts.text(text_of(value, "routing.server_name")?)),
                5 => {
                    let offered = text_of(value, "routing.alpn_offered")?.into();
                    push(&mut routing.alpn_offered, ALPN.0, "routing.alpn_offered", offered)?;
                }
                6 => routing.trace = Some(text_of(value, "routing.trace")?.into()),
                7 => routing.protocol = Some(texts.text(text_of(value, "routing.protocol")?)),
                _ => {}
            }
        }
        Ok(Arc::new(routing))
    })
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

/// As [`hop`], into a half that travels.
pub(super) fn write_hop(writer: &mut Writer, hop: &Hop) {
    if let Some((instance, attempt)) = hop.bridged {
        writer.shown(1, instance);
        writer.present(2, attempt.0);
    }
    if let Some(attempt) = hop.given_up {
        writer.present(3, attempt.0);
    }
    writer.number(4, hop.attempts);
    if let Some(address) = hop.local {
        writer.address(5, address);
    }
    if let Some(address) = hop.remote {
        writer.address(6, address);
    }
}

pub(super) fn read_hop(mut fields: Fields<'_>) -> Result<Hop, Malformed> {
    let mut hop = Hop::default();
    let (mut instance, mut attempt) = (None, None);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => instance = Some(id_of(value, "hop.bridged_instance_id")?),
            2 => attempt = Some(Attempt(value.number("hop.bridged_attempt")?)),
            3 => hop.given_up = Some(Attempt(value.number("hop.given_up_attempt")?)),
            4 => hop.attempts = value.number32("hop.attempts")?,
            5 => hop.local = Some(address_of(value, "hop.local_address")?),
            6 => hop.remote = Some(address_of(value, "hop.remote_address")?),
            _ => {}
        }
    }
    hop.bridged = match (instance, attempt) {
        (Some(instance), Some(attempt)) => Some((instance, attempt)),
        (None, None) => None,
        _ => return Err(Fault::Contradiction.of("hop.bridged_attempt")),
    };
    Ok(hop)
}

pub(crate) fn tls(tls: &Tls) -> wire::Tls {
    wire::Tls {
        version: clip(&tls.version, TOKEN),
        cipher: clip(&tls.cipher, TOKEN),
        alpn: tls.alpn.as_deref().map(|text| clip(text, TOKEN)),
        resumed: tls.resumed,
    }
}

/// As [`tls`], into a half that travels.
pub(super) fn write_tls(writer: &mut Writer, tls: &Tls) {
    writer.text(1, clipped(&tls.version, TOKEN));
    writer.text(2, clipped(&tls.cipher, TOKEN));
    write_optional_text(writer, 3, tls.alpn.as_deref(), TOKEN);
    writer.flag(4, tls.resumed);
}

/// There are few combinations.
pub(super) fn read_tls(bytes: &[u8], known: &mut Known) -> Result<Arc<Tls>, Malformed> {
    known.tls.get(bytes, || {
        let mut fields = Fields::of(bytes, "tls");
        let (mut version, mut cipher, mut alpn, mut resumed) = ("", "", None, false);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => version = text_of(value, "tls.version")?,
                2 => cipher = text_of(value, "tls.cipher")?,
                3 => alpn = Some(text_of(value, "tls.alpn")?.into()),
                4 => resumed = value.flag("tls.resumed")?,
                _ => {}
            }
        }
        Ok(Arc::new(Tls { version: version.into(), cipher: cipher.into(), alpn, resumed }))
    })
}

pub(crate) fn target(target: &Target) -> wire::Target {
    wire::Target {
        name: clip(&target.name, NAME),
        address: target.address.map(|address| address.to_string()),
        reused: target.reused,
        connect_duration: target.connect.map(duration),
    }
}

/// As [`target`], into a half that travels.
pub(super) fn write_target(writer: &mut Writer, target: &Target) {
    writer.text(1, clipped(&target.name, NAME));
    if let Some(address) = target.address {
        writer.address(2, address);
    }
    writer.flag(3, target.reused);
    if let Some(connect) = target.connect {
        write_duration(writer, 4, connect);
    }
}

pub(super) fn read_target(mut fields: Fields<'_>, known: &mut Known) -> Result<Arc<Target>, Malformed> {
    let mut name = "";
    let (mut address, mut reused, mut connect) = (None, false, None);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => name = text_of(value, "target.name")?,
            2 => address = Some(address_of(value, "target.address")?),
            3 => reused = value.flag("target.reused")?,
            4 => connect = Some(duration_of(value, "target.connect_duration")?),
            _ => {}
        }
    }
    Ok(Arc::new(Target { name: known.texts.text(name), address, reused, connect }))
}
