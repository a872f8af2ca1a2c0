//! Whole messages of a session.
//!
//! *Owns* the mapping of [`ledger::Message`], of the Hello with both sides' terms, and of the messages that
//! only the control channel knows. *Never* guesses: a kind of message that this build does not know is
//! [`Inbound::Unknown`] and skipped. *Invariant*: nothing that is sent is larger than [`LARGEST_MESSAGE`].

use std::net::SocketAddr;
use std::time::Duration;

use ledger::{Ack, Batch, HalfUpdate, Hello, InstanceId, MAX_HALVES, Message, Resume, Rhythm, SnapshotChunk};
use prost::bytes::Bytes;

use super::ends::{read_role, role};
use super::known::Known;
use super::scalar::{
    clip, duration, id, list, optional_text, read_address, read_duration, read_text, required,
};
use super::tally::{digest, read_digest, read_tally, tally};
use super::update::{read_progress, read_update, write_progress, write_update, written};
use super::{Fault, Malformed};
use crate::key::HopKey;
use crate::proto::control::v1 as wire;
use wire::sync_message::Message as Kind;

/// The largest message that is sent or read.
pub(crate) const LARGEST_MESSAGE: usize = 256 * 1024;
/// About the bytes of one half's changes.
const UPDATE: usize = 512;
/// About the bytes of one half's progress.
const PROGRESS: usize = 128;
/// Names without a certificate that are told.
const NAMES: usize = 1_000;
/// The largest route table.
pub(crate) const LARGEST_TABLE: u64 = 64 * 1024 * 1024;
/// Bytes of a route table per chunk.
pub(crate) const TABLE_CHUNK: usize = 64 * 1024;
/// A rhythm outside of these bounds is not meant.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(10);
const LONGEST_STALL: Duration = Duration::from_hours(1);

/// What a peer sent.
#[derive(Debug)]
pub(crate) enum Inbound {
    /// For the ledger; a heartbeat also says what the sender's active clock shows.
    Ledger(Message, Option<Duration>),
    /// The first message.
    Hello(Box<Greeting>),
    /// For the shell.
    Notice(Notice),
    /// A kind that this build does not know.
    Unknown,
}

/// A Hello with everything that travels beside the ledger's part of it.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    pub(crate) hello: Hello,
    pub(crate) version: String,
    /// Oldest and newest version of the protocol.
    pub(crate) protocol: (u32, u32),
    pub(crate) admin_address: String,
    pub(crate) active: Duration,
    pub(crate) terms: Terms,
}

/// What only one side sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Terms {
    /// smartproxy.
    Front { rhythm: Rhythm, key: HopKey },
    /// networkproxy.
    Inner(InnerTerms),
}

/// What networkproxy says about itself when it registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerTerms {
    /// Where it listens for the hop; never port 0.
    pub hop: SocketAddr,
    /// How many connections it takes at once.
    pub capacity: u64,
    /// Its limit for a TLS handshake.
    pub tls_handshake: Duration,
    /// The largest of its idle limits.
    pub largest_idle: Duration,
    /// The largest of its limits for half-closed connections.
    pub half_close: Duration,
}

/// What only the control channel knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// From smartproxy.
    RouteTable { generation: u64, offset: u64, total: u64, json: Bytes },
    /// From smartproxy: it takes no new clients.
    Drain,
    /// From networkproxy.
    Capacity(u64),
    /// From networkproxy: it takes (or does not take) new connections.
    Draining(bool),
    /// Both ways.
    Acknowledged(Acknowledged),
    /// From networkproxy.
    NamesWithoutCertificate(Vec<String>),
}

/// What is in force at the sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) hop_key: Option<u64>,
    pub(crate) generation: Option<u64>,
    pub(crate) table_error: Option<String>,
    pub(crate) drain: bool,
}

impl Greeting {
    pub(crate) fn encode(&self) -> wire::SyncMessage {
        let Self { hello, version, protocol, admin_address, active, terms } = self;
        let (front, inner) = match terms {
            Terms::Front { rhythm, key } => (
                Some(wire::FrontTerms {
                    heartbeat: Some(duration(rhythm.heartbeat)),
                    stall_after: Some(duration(rhythm.stall_after)),
                    hop_key: Some(wire::HopKey { id: key.id, secret: key.secret.to_vec() }),
                }),
                None,
            ),
            Terms::Inner(terms) => (
                None,
                Some(wire::InnerTerms {
                    hop_address: terms.hop.to_string(),
                    capacity: terms.capacity,
                    tls_handshake: Some(duration(terms.tls_handshake)),
                    largest_idle: Some(duration(terms.largest_idle)),
                    half_close: Some(duration(terms.half_close)),
                }),
            ),
        };
        message(Kind::Hello(wire::Hello {
            instance_id: hello.instance.to_string(),
            role: role(hello.role),
            session: hello.session,
            version: clip(version, 64),
            protocol_min: protocol.0,
            protocol_max: protocol.1,
            max_live: hello.max_live,
            resume: hello.resume.map(|resume| wire::Resume {
                peer_instance_id: resume.peer.to_string(),
                applied: resume.applied,
            }),
            admin_address: clip(admin_address, 64),
            active: Some(duration(*active)),
            front,
            inner,
        }))
    }

    fn read(hello: wire::Hello) -> Result<Self, Malformed> {
        let terms = match (hello.front, hello.inner) {
            (Some(front), None) => read_front(front)?,
            (None, Some(inner)) => read_inner(&inner)?,
            (None, None) => return Err(Fault::Missing.of("hello.inner")),
            (Some(_), Some(_)) => return Err(Fault::Contradiction.of("hello.front")),
        };
        let resume = hello.resume.map(|resume| {
            Ok(Resume {
                peer: id(&resume.peer_instance_id, "resume.peer_instance_id")?,
                applied: resume.applied,
            })
        });
        Ok(Self {
            hello: Hello {
                instance: id(&hello.instance_id, "hello.instance_id")?,
                role: read_role(hello.role, "hello.role")?,
                session: hello.session,
                max_live: hello.max_live,
                resume: resume.transpose()?,
            },
            version: read_text(hello.version, "hello.version")?,
            protocol: (hello.protocol_min, hello.protocol_max),
            admin_address: read_text(hello.admin_address, "hello.admin_address")?,
            active: read_duration(hello.active, "hello.active")?,
            terms,
        })
    }
}

/// What the protocol range of a Hello says before the rest of it is understood: another version of the
/// protocol may have another Hello.
pub(crate) fn protocol_of(message: &wire::SyncMessage) -> Option<(u32, u32)> {
    match &message.message {
        Some(Kind::Hello(hello)) => Some((hello.protocol_min, hello.protocol_max)),
        _ => None,
    }
}

fn read_front(front: wire::FrontTerms) -> Result<Terms, Malformed> {
    let heartbeat = read_duration(front.heartbeat, "hello.front.heartbeat")?;
    let stall_after = read_duration(front.stall_after, "hello.front.stall_after")?;
    if heartbeat < SHORTEST_HEARTBEAT || stall_after < heartbeat || stall_after > LONGEST_STALL {
        return Err(Fault::Contradiction.of("hello.front.heartbeat"));
    }
    let key = required(front.hop_key, "hello.front.hop_key")?;
    let secret = key.secret.try_into().map_err(|_| Fault::Contradiction.of("hello.front.hop_key.secret"))?;
    Ok(Terms::Front { rhythm: Rhythm { heartbeat, stall_after }, key: HopKey { id: key.id, secret } })
}

fn read_inner(inner: &wire::InnerTerms) -> Result<Terms, Malformed> {
    let hop = read_address(&inner.hop_address, "hello.inner.hop_address")?;
    if hop.port() == 0 {
        return Err(Fault::Address.of("hello.inner.hop_address"));
    }
    Ok(Terms::Inner(InnerTerms {
        hop,
        capacity: inner.capacity,
        tls_handshake: read_duration(inner.tls_handshake, "hello.inner.tls_handshake")?,
        largest_idle: read_duration(inner.largest_idle, "hello.inner.largest_idle")?,
        half_close: read_duration(inner.half_close, "hello.inner.half_close")?,
    }))
}

/// The ledger's message; `active` is our active clock, which a heartbeat carries.
pub(crate) fn encode(message_of_ledger: &Message, active: Duration) -> wire::SyncMessage {
    message(match message_of_ledger {
        Message::Batch(batch) => Kind::Batch(wire::Batch {
            after: batch.after,
            through: batch.through,
            horizon: batch.horizon,
            halves: updates(&batch.halves),
            digest: batch.digest.as_ref().map(digest),
        }),
        Message::Snapshot(chunk) => Kind::SnapshotChunk(wire::SnapshotChunk {
            index: chunk.index,
            through: chunk.through,
            base: chunk.base.as_ref().map(tally),
            halves: updates(&chunk.halves),
            digest: chunk.digest.as_ref().map(digest),
        }),
        Message::Ack(ack) => Kind::Ack(wire::Ack { applied: ack.applied, chunks: ack.chunks }),
        Message::Heartbeat { position } => {
            Kind::Heartbeat(wire::Heartbeat { position: *position, active: Some(duration(active)) })
        }
        Message::Progress(halves) => {
            let halves = written(halves, PROGRESS, write_progress);
            Kind::Progress(wire::Progress { halves })
        }
        Message::Bye { through } => Kind::Bye(wire::Bye { through: *through }),
    })
}

impl Notice {
    pub(crate) fn encode(self) -> wire::SyncMessage {
        message(match self {
            Self::RouteTable { generation, offset, total, json } => {
                Kind::RouteTableChunk(wire::RouteTableChunk { generation, offset, total_size: total, json })
            }
            Self::Drain => Kind::Drain(wire::Drain { deadline: None }),
            Self::Capacity(max_connections) => Kind::Capacity(wire::Capacity { max_connections }),
            Self::Draining(draining) => {
                use wire::readiness::State;
                let state = if draining { State::Draining } else { State::Ready };
                Kind::Readiness(wire::Readiness { state: state.into() })
            }
            Self::Acknowledged(acknowledged) => Kind::Acknowledged(wire::Acknowledged {
                hop_key_id: acknowledged.hop_key,
                route_generation: acknowledged.generation,
                route_table_error: acknowledged.table_error.map(|text| clip(&text, 500)),
                drain: acknowledged.drain,
            }),
            Self::NamesWithoutCertificate(names) => {
                let names = names.iter().take(NAMES).map(|name| clip(name, 255)).collect();
                Kind::NamesWithoutCertificate(wire::NamesWithoutCertificate { names })
            }
        })
    }
}

fn updates(halves: &[HalfUpdate]) -> Vec<Bytes> {
    written(halves, UPDATE, write_update)
}

/// Reads what one peer sends.
#[derive(Debug)]
pub(crate) struct Reader {
    sender: InstanceId,
    known: Known,
}

impl Reader {
    pub(crate) fn of(sender: InstanceId) -> Self {
        Self { sender, known: Known::default() }
    }

    /// Reads one message.
    pub(crate) fn read(&mut self, message: wire::SyncMessage) -> Result<Inbound, Malformed> {
        let Some(kind) = message.message else { return Ok(Inbound::Unknown) };
        let ledger = |message| Ok(Inbound::Ledger(message, None));
        match kind {
            Kind::Hello(hello) => Ok(Inbound::Hello(Box::new(Greeting::read(hello)?))),
            Kind::Batch(batch) => ledger(Message::Batch(Batch {
                after: batch.after,
                through: batch.through,
                horizon: batch.horizon,
                halves: self.updates(batch.halves, "batch.halves")?,
                digest: batch.digest.as_ref().map(read_digest).transpose()?,
            })),
            Kind::SnapshotChunk(chunk) => ledger(Message::Snapshot(SnapshotChunk {
                index: chunk.index,
                through: chunk.through,
                base: chunk.base.map(read_tally).transpose()?,
                halves: self.updates(chunk.halves, "snapshot_chunk.halves")?,
                digest: chunk.digest.as_ref().map(read_digest).transpose()?,
            })),
            Kind::Ack(ack) => ledger(Message::Ack(Ack { applied: ack.applied, chunks: ack.chunks })),
            Kind::Heartbeat(heartbeat) => {
                let active = read_duration(heartbeat.active, "heartbeat.active")?;
                Ok(Inbound::Ledger(Message::Heartbeat { position: heartbeat.position }, Some(active)))
            }
            Kind::Progress(progress) => {
                let read = |half: Bytes| read_progress(&half, self.sender);
                ledger(Message::Progress(list(progress.halves, MAX_HALVES, "progress.halves", read)?))
            }
            Kind::Bye(bye) => ledger(Message::Bye { through: bye.through }),
            other => read_notice(other).map(|notice| notice.map_or(Inbound::Unknown, Inbound::Notice)),
        }
    }

    fn updates(&mut self, halves: Vec<Bytes>, field: &'static str) -> Result<Vec<HalfUpdate>, Malformed> {
        let Self { sender, known } = self;
        list(halves, MAX_HALVES, field, |half| read_update(&half, *sender, known))
    }
}

fn read_notice(kind: Kind) -> Result<Option<Notice>, Malformed> {
    Ok(Some(match kind {
        Kind::RouteTableChunk(chunk) => {
            let end = chunk.offset.saturating_add(chunk.json.len() as u64);
            if chunk.total_size > LARGEST_TABLE || end > chunk.total_size || chunk.json.len() > TABLE_CHUNK {
                return Err(Fault::Contradiction.of("route_table_chunk.total_size"));
            }
            Notice::RouteTable {
                generation: chunk.generation,
                offset: chunk.offset,
                total: chunk.total_size,
                json: chunk.json,
            }
        }
        Kind::Drain(_) => Notice::Drain,
        Kind::Capacity(capacity) => Notice::Capacity(capacity.max_connections),
        Kind::Readiness(readiness) => match wire::readiness::State::try_from(readiness.state) {
            Ok(wire::readiness::State::Ready) => Notice::Draining(false),
            Ok(wire::readiness::State::Draining) => Notice::Draining(true),
            _ => return Ok(None),
        },
        Kind::Acknowledged(acknowledged) => Notice::Acknowledged(Acknowledged {
            hop_key: acknowledged.hop_key_id,
            generation: acknowledged.route_generation,
            table_error: optional_text(acknowledged.route_table_error, "acknowledged.route_table_error")?,
            drain: acknowledged.drain,
        }),
        Kind::NamesWithoutCertificate(names) => {
            let field = "names_without_certificate.names";
            Notice::NamesWithoutCertificate(list(names.names, NAMES, field, |name| read_text(name, field))?)
        }
        _ => return Ok(None),
    }))
}

const fn message(kind: Kind) -> wire::SyncMessage {
    wire::SyncMessage { message: Some(kind) }
}
