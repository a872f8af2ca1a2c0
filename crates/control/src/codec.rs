//! A session's messages as bytes, for benchmarks.
//!
//! *Owns* nothing. *Never* part of a binary. *Invariant*: it does what a session does with a message, without
//! the stream.

use std::time::Duration;

use ledger::{InstanceId, Message};
use prost::Message as _;

use crate::convert::message::{Inbound, decode as read, encode as write};
use crate::proto::control::v1::SyncMessage;

/// The bytes of `message`.
pub fn encode(message: &Message) -> Vec<u8> {
    write(message, Duration::ZERO).encode_to_vec()
}

/// The message of `sender` that these are the bytes of; `None` where they are of none.
pub fn decode(bytes: &[u8], sender: InstanceId) -> Option<Message> {
    match read(SyncMessage::decode(bytes).ok()?, sender).ok()? {
        Inbound::Ledger(message, _) => Some(message),
        Inbound::Hello(_) | Inbound::Notice(_) | Inbound::Unknown => None,
    }
}
