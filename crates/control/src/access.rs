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

#[cfg(test)]
mod tests {
    use super::*;

    fn access(
        place: &tempfile::TempDir,
        listen: &str,
        reading: Reading,
        plaintext: Plaintext,
    ) -> Result<Access, OffLoopback> {
        let file = TokenFile::new(place.path().join("control.token"));
        std::fs::write(file.path(), "sixteen-letters-or-more\n").unwrap();
        Access::new(listen.parse().unwrap(), file, reading, plaintext)
    }

    fn call(authorization: Option<&str>) -> Request<()> {
        let mut request = Request::new(());
        if let Some(value) = authorization {
            request.metadata_mut().insert("authorization", value.parse().unwrap());
        }
        request
    }

    #[test]
    fn reading_is_open_on_loopback_unless_it_is_closed() {
        let place = tempfile::tempdir().unwrap();
        let open = access(&place, "127.0.0.1:0", Reading::Open, Plaintext::Refused).unwrap();
        assert!(open.may_read(&call(None)).is_ok());
        assert!(access(&place, "[::1]:0", Reading::Open, Plaintext::Refused).is_ok());
        assert!(access(&place, "[::ffff:127.0.0.1]:0", Reading::Open, Plaintext::Refused).is_ok());
        let closed = access(&place, "127.0.0.1:0", Reading::NeedsToken, Plaintext::Refused).unwrap();
        assert!(closed.may_read(&call(None)).is_err());
        assert!(closed.may_read(&call(Some("Bearer sixteen-letters-or-more"))).is_ok());
    }

    /// P10: no port off loopback without somebody's decision, and then never open.
    #[test]
    fn off_loopback_is_refused_or_needs_the_token_for_everything() {
        let place = tempfile::tempdir().unwrap();
        for listen in ["0.0.0.0:7800", "[::]:7800", "10.0.0.1:7800", "192.0.2.1:0"] {
            let refused = access(&place, listen, Reading::Open, Plaintext::Refused).unwrap_err();
            assert!(refused.to_string().contains("allow_plaintext"), "{refused}");
            let allowed = access(&place, listen, Reading::Open, Plaintext::Allowed).unwrap();
            assert_eq!(allowed.reading(), Reading::NeedsToken);
        }
    }

    #[test]
    fn changing_needs_the_token_and_says_where_it_is() {
        let place = tempfile::tempdir().unwrap();
        let access = access(&place, "127.0.0.1:0", Reading::Open, Plaintext::Refused).unwrap();
        let missing = access.authorize(&call(None)).unwrap_err();
        assert_eq!(missing.code(), tonic::Code::Unauthenticated);
        assert!(missing.message().contains("control.token"), "{missing}");
        for wrong in
            ["", "Bearer", "Bearer ", "Basic sixteen-letters-or-more", "Bearer sixteen-letters-or-mora"]
        {
            assert!(access.authorize(&call(Some(wrong))).is_err(), "{wrong}");
        }
        assert!(access.authorize(&call(Some("bearer sixteen-letters-or-more"))).is_ok());
        std::fs::write(access.token.path(), "another-token-of-some-length\n").unwrap();
        assert!(access.authorize(&call(Some("Bearer sixteen-letters-or-more"))).is_err(), "it was replaced");
    }
}
