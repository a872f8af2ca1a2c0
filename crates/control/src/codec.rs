//! A session's messages as bytes, for benchmarks.
//!
//! *Owns* nothing. *Never* part of a binary. *Invariant*: it does what a session does with a message, without
//! the stream.

use std::time::Duration;

use ledger::{InstanceId, Message};
use prost::Message as _;
use prost::bytes::Bytes;

use crate::convert::message::{Inbound, Reader, encode as write};
use crate::proto::control::v1::SyncMessage;

/// The bytes of `message`.
pub fn encode(message: &Message) -> Bytes {
    write(message, Duration::ZERO).encode_to_vec().into()
}

/// Reads the messages of one sender.
#[derive(Debug)]
pub struct Decoder(Reader);

impl Decoder {
    /// Reads what `sender` sends.
    pub fn of(sender: InstanceId) -> Self {
        Self(Reader::of(sender))
    }

    /// The message that these are the bytes of; `None` where they are of none.
    pub fn decode(&mut self, bytes: Bytes) -> Option<Message> {
        match self.0.read(SyncMessage::decode(bytes).ok()?).ok()? {
            Inbound::Ledger(message, _) => Some(message),
            Inbound::Hello(_) | Inbound::Notice(_) | Inbound::Unknown => None,
        }
    }
}
