//! One conversation with the process at `--address`.
//!
//! *Owns* connecting, the token, and patience. *Never* waits longer than it says. *Invariant*: every way in
//! which a call can fail becomes a [`Failure`] that says what to do.

use std::future::Future;
use std::time::Duration;

use control::TokenFile;
use control::api::{self, Connections, Proxy};
use tonic::{Code, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::arguments::{Address, Arguments};
use crate::failure::{Failure, Reported};

/// How long to wait for a connection, and for an answer that needs no time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// A page of long records, with room.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// A connection to one process.
pub(crate) struct Admin {
    address: Address,
    channel: api::Admin,
    token: Presented,
    patience: Duration,
}

/// Whether a call can do without the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The process decides: reading on loopback is open by default.
    Maybe,
    /// It changes something.
    Token,
}

/// What was presented with every call.
enum Presented {
    Token(TokenFile),
    Nothing(Reported),
}

impl Admin {
    /// Connects to the process that `arguments` name.
    pub(crate) async fn connect(
        arguments: &Arguments,
        need: Need,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let address = arguments.address.clone();
        let file = arguments.token_file();
        let (token, presented) = match file.read() {
            Ok(token) => (Some(token), Presented::Token(file)),
            Err(error) if need == Need::Token => {
                return Err(Failure::NoToken { address, cause: Reported::whole(&error) });
            }
            Err(error) => (None, Presented::Nothing(Reported::whole(&error))),
        };
        let connecting = api::connect(address.as_str(), token.as_ref(), patience);
        match tokio::time::timeout(patience, connecting).await {
            Ok(Ok(channel)) => Ok(Self { address, channel, token: presented, patience }),
            Ok(Err(error)) => Err(Failure::Unreachable { cause: Reported::root_of(&error), address }),
            Err(_) => Err(Failure::NoAnswer { address, within: patience }),
        }
    }

    /// `ConnectionService`.
    pub(crate) fn connections(&self) -> Connections {
        self.channel.connections().max_decoding_message_size(LARGEST_ANSWER)
    }

    /// `ProxyService`.
    pub(crate) fn proxy(&self) -> Proxy {
        self.channel.proxy()
    }

    /// The health of the process as a whole.
    pub(crate) async fn health(&self) -> Result<ServingStatus, Failure> {
        let mut client = HealthClient::new(self.channel.channel());
        let answer = self.answer(client.check(HealthCheckRequest::default())).await?;
        Ok(answer.status())
    }

    /// The answer to a call that needs no time.
    pub(crate) async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        self.answer_within(self.patience, call).await
    }

    /// The answer to a call that may take `within`.
    pub(crate) async fn answer_within<T>(
        &self,
        within: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(within, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failure(status)),
            Err(_) => Err(Failure::NoAnswer { address: self.address.clone(), within }),
        }
    }

    fn failure(&self, status: Status) -> Failure {
        let address = self.address.clone();
        match (status.code(), &self.token) {
            (Code::Unauthenticated, Presented::Token(file)) => Failure::WrongToken {
                address,
                file: file.path().to_owned(),
                words: Reported::words(status.message()),
            },
            (Code::Unauthenticated, Presented::Nothing(cause)) => {
                Failure::NoToken { address, cause: cause.clone() }
            }
            _ => Failure::of_status(status, &self.address),
        }
    }
}
