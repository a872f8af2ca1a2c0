//! Who may call what.
//!
//! *Owns* the rules of one gRPC port: where it may listen, which calls need the token, and the audit line of
//! every call that changes something. *Never* tells a caller how close a guess was. *Invariant*: what is not
//! plainly allowed is refused: an address off loopback without `allow_plaintext` is an error at start.

use std::net::SocketAddr;

use thiserror::Error;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::token::TokenFile;

/// The rules of one gRPC port.
#[derive(Clone, Debug)]
pub struct Access {
    token: TokenFile,
    reading: Reading,
}

/// Who may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Everybody who reaches the port.
    Open,
    /// Whoever has the token.
    NeedsToken,
}

/// Why a port may not be opened.
#[derive(Debug, PartialEq, Eq, Error)]
#[error(
    "{listen} is not a loopback address: what is sent there can be read on the network. Listen on 127.0.0.1 or [::1], \
     or set allow_plaintext: true (which makes the token mandatory for reading as well)"
)]
pub struct OffLoopback {
    /// Where it was to listen.
    pub listen: SocketAddr,
}

/// What the configuration says about a port off loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plaintext {
    /// `allow_plaintext: true`.
    Allowed,
    /// The default.
    Refused,
}

impl Access {
    /// The rules of a port on `listen`. `reading` is what the configuration asks for
    /// (`read_requires_token`); off loopback the token is needed in any case.
    pub fn new(
        listen: SocketAddr,
        token: TokenFile,
        reading: Reading,
        plaintext: Plaintext,
    ) -> Result<Self, OffLoopback> {
        match (listen.ip().to_canonical().is_loopback(), plaintext) {
            (true, _) => Ok(Self { token, reading }),
            (false, Plaintext::Allowed) => Ok(Self { token, reading: Reading::NeedsToken }),
            (false, Plaintext::Refused) => Err(OffLoopback { listen }),
        }
    }

    /// Who may read.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// Lets a call that only reads pass.
    pub(crate) fn may_read<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.check_reading(request.metadata())
    }

    /// As [`Access::may_read`], by the call's metadata alone.
    pub(crate) fn check_reading(&self, metadata: &MetadataMap) -> Result<(), Status> {
        match self.reading {
            Reading::Open => Ok(()),
            Reading::NeedsToken => self.check(metadata),
        }
    }

    /// Lets a call pass that changes something, or is the control channel.
    pub(crate) fn authorize<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.check(request.metadata())
    }

    fn check(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let presented = metadata.get("authorization").map(tonic::metadata::MetadataValue::as_bytes);
        let presented = presented.and_then(|value| {
            let scheme = value.get(..7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then(|| value[7..].trim_ascii())
        });
        let Some(presented) = presented else {
            return Err(Status::unauthenticated(format!(
                "this call needs the header `authorization: Bearer TOKEN`; the token is in {}",
                self.token.path().display()
            )));
        };
        let token = self.token.read().map_err(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a call needs the token, which cannot be read"
            );
            Status::unauthenticated("this process cannot read its own token file; see its log")
        })?;
        if token.matches(presented) { Ok(()) } else { Err(Status::unauthenticated("wrong token")) }
    }
}

/// Who calls, for the audit line.
pub(crate) fn caller<T>(request: &Request<T>) -> String {
    match request.remote_addr() {
        Some(address) => format!("{address} (token)"),
        None => "unknown address (token)".to_owned(),
    }
}

/// The line that every changing call leaves.
pub(crate) fn audit<T>(who: &str, what: &str, subject: &str, result: &Result<T, Status>) {
    match result {
        Ok(_) => tracing::info!(target: "audit", who, what, subject, result = "ok"),
        Err(status) => {
            let (code, why) = (status.code(), status.message());
            tracing::info!(target: "audit", who, what, subject, result = ?code, why);
        }
    }
}
