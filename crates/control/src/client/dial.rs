//! One dial after another.
//!
//! *Owns* the way from a token file to a session, and the pause after one. *Never* takes a failure for fatal.
//! *Invariant*: session numbers ascend; a Hello that is not answered for `stall_after` is given up.

use std::time::Duration;

use ledger::Rhythm;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

use super::tables::Assembly;
use super::{Upstream, UpstreamState};
use crate::convert::message::{Acknowledged, Greeting, Inbound, LARGEST_MESSAGE, Reader, Terms, protocol_of};
use crate::proto::control::v1::control_service_client::ControlServiceClient;
use crate::proto::control::v1::{SyncMessage, SyncRequest, SyncResponse};
use crate::session::{Established, Over, Surroundings};
use crate::token::TokenError;
use crate::{PROTOCOL, STREAM_WINDOW, backoff, spoken_by_both};

/// Messages that wait for the stream.
const AHEAD: usize = 2;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the token cannot be sent in a header")]
    TokenCharacters,
    #[error("smartproxy cannot be reached")]
    Connect(#[from] tonic::transport::Error),
    #[error("smartproxy did not answer in time")]
    NoAnswer,
    #[error("smartproxy refused ({code:?}): {message}")]
    Refused { code: Code, message: String },
    #[error("smartproxy's answer cannot be understood: {0}")]
    Answer(String),
    #[error("smartproxy speaks versions {0} to {1} of the control protocol, this networkproxy {2} to {3}")]
    Protocol(u32, u32, u32, u32),
}

impl Upstream {
    pub(super) async fn dial_until(&self, leaving: CancellationToken) {
        let mut number = 0;
        let mut failures = 0_u32;
        // What the latest smartproxy announced, or the defaults.
        let mut rhythm = Rhythm::default();
        while !leaving.is_cancelled() {
            number += 1;
            match self.session(number, &mut rhythm, &leaving).await {
                Ok(Over::Left) => return,
                Ok(over) => {
                    failures = 0;
                    self.set_state(UpstreamState::Waiting(over.words()));
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.set_state(UpstreamState::Waiting(chain(&error)));
                }
            }
            let mut random = [0; 8];
            // Without randomness the pause is only not spread.
            let _ = aws_lc_rs::rand::fill(&mut random);
            let pause = backoff::pause(failures, u64::from_ne_bytes(random));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = leaving.cancelled() => {}
            }
        }
    }

    async fn session(
        &self,
        number: u64,
        rhythm: &mut Rhythm,
        leaving: &CancellationToken,
    ) -> Result<Over, DialError> {
        let shared = &*self.shared;
        let patience = rhythm.stall_after;
        let token = shared.settings.token.read()?;
        let bearer: MetadataValue<Ascii> =
            format!("Bearer {}", token.reveal()).parse().map_err(|_| DialError::TokenCharacters)?;
        let (outgoing, receiver) = mpsc::channel(AHEAD);
        let hello = Greeting {
            hello: shared.ledger.dial(number),
            version: shared.settings.version.clone(),
            protocol: PROTOCOL,
            admin_address: shared.settings.admin_address.to_string(),
            active: shared.time.now().active,
            terms: Terms::Inner(shared.settings.terms),
        };
        outgoing.try_send(Ok(hello.encode())).ok();
        let dial = async {
            let mut client = self.connect(patience).await?;
            let messages = ReceiverStream::new(receiver)
                .filter_map(|message: Result<SyncMessage, Status>| message.ok())
                .map(|message| SyncRequest { message: Some(message) });
            let mut request = Request::new(messages);
            request.metadata_mut().insert("authorization", bearer);
            let answer = client.sync(request).await.map_err(|status| refused(&status))?;
            let mut incoming = answer
                .into_inner()
                .map(|message| message.map(|response: SyncResponse| response.message.unwrap_or_default()));
            let first = match incoming.next().await {
                Some(first) => first.map_err(|status| refused(&status))?,
                None => return Err(DialError::Answer("the stream ended before a Hello".to_owned())),
            };
            Ok((incoming, greeting(first)?))
        };
        let dialled = tokio::select! {
            dialled = shared.time.within(patience, dial) => dialled.ok_or(DialError::NoAnswer)??,
            () = leaving.cancelled() => return Ok(Over::Left),
        };
        let (mut incoming, greeting) = dialled;
        let Terms::Front { rhythm: announced, key } = greeting.terms else {
            return Err(DialError::Answer("it claims to be a networkproxy".to_owned()));
        };
        let now = shared.time.now();
        let at = shared
            .ledger
            .established(number, &greeting.hello, now)
            .map_err(|refused| DialError::Answer(refused.to_string()))?;
        let session = Established::new(shared.ledger.clone(), shared.time.clone(), at);
        *rhythm = announced;
        shared.ledger.adopt_rhythm(announced);
        self.begin(&greeting, key);

        let front = greeting.hello.instance;
        let mut assembly = Assembly::default();
        let surroundings = Surroundings {
            woken: shared.wake.subscribe(),
            announced: shared.announcement.subscribe(),
            replaced: CancellationToken::new(),
            leaving: leaving.clone(),
            take: |notice| self.take(front, notice, &mut assembly),
            heard: |clock| shared.directory.hear(front, clock, shared.time.now()),
            owed: Acknowledged { hop_key: Some(key.id), ..Acknowledged::default() },
            heartbeat: announced.heartbeat,
            stall_after: announced.stall_after,
        };
        let over = session.run(&mut incoming, &outgoing, surroundings).await;
        drop(outgoing);
        if matches!(over, Over::Left) {
            // What was said last is on its way until smartproxy ends its side as well.
            let ended = async { while let Some(Ok(_)) = incoming.next().await {} };
            shared.time.within(announced.heartbeat, ended).await;
        }
        self.end(front);
        Ok(over)
    }

    async fn connect(
        &self,
        patience: Duration,
    ) -> Result<ControlServiceClient<tonic::transport::Channel>, DialError> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.shared.settings.connect))?
            .connect_timeout(patience)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * 2);
        let client = ControlServiceClient::new(endpoint.connect().await?);
        Ok(client.max_decoding_message_size(LARGEST_MESSAGE).max_encoding_message_size(LARGEST_MESSAGE))
    }
}

fn greeting(first: SyncMessage) -> Result<Greeting, DialError> {
    let no_hello = || DialError::Answer("the first message is not a Hello".to_owned());
    let theirs = protocol_of(&first).ok_or_else(no_hello)?;
    if !spoken_by_both(theirs) {
        return Err(DialError::Protocol(theirs.0, theirs.1, PROTOCOL.0, PROTOCOL.1));
    }
    match Reader::of(ledger::InstanceId(0)).read(first) {
        Ok(Inbound::Hello(greeting)) => Ok(*greeting),
        Ok(_) => Err(no_hello()),
        Err(malformed) => Err(DialError::Answer(malformed.to_string())),
    }
}

fn refused(status: &Status) -> DialError {
    DialError::Refused { code: status.code(), message: status.message().to_owned() }
}

/// An error with everything that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
