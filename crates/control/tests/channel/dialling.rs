//! networkproxy before a smartproxy that misbehaves.

use std::pin::Pin;

use control::api::control_channel::control_service_server::{ControlService, ControlServiceServer};
use control::api::control_channel::{
    FrontTerms, Hello, HopKey, SyncMessage, SyncRequest, SyncResponse, sync_message::Message,
};
use control::client::UpstreamState;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::harness::{Inner, Place, instance, until};

/// Answers every call of `Sync` with the same.
#[derive(Clone)]
enum Answer {
    Refusal(Status),
    Hello(Box<Hello>),
    /// Nothing, for ever.
    Silence,
}

struct Fake(Answer);

type Answers = Pin<Box<dyn Stream<Item = Result<SyncResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ControlService for Fake {
    type SyncStream = Answers;

    async fn sync(&self, request: Request<Streaming<SyncRequest>>) -> Result<Response<Answers>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.next().await.unwrap()?.message.unwrap().message.unwrap();
        let Message::Hello(theirs) = first else { panic!("{first:?}") };
        match self.0.clone() {
            Answer::Refusal(status) => Err(status),
            Answer::Silence => std::future::pending().await,
            Answer::Hello(hello) => {
                let session = if hello.session == 0 { theirs.session } else { hello.session };
                let hello = Message::Hello(Hello { session, ..*hello });
                let answer = SyncResponse { message: Some(SyncMessage { message: Some(hello) }) };
                Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)).chain(tokio_stream::pending()))))
            }
        }
    }
}

fn hello() -> Hello {
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    Hello {
        instance_id: instance().to_string(),
        role: 1,
        protocol_min: 1,
        protocol_max: 1,
        max_live: 1,
        active: seconds(1),
        front: Some(FrontTerms {
            heartbeat: seconds(1),
            stall_after: seconds(3),
            hop_key: Some(HopKey { id: 1, secret: vec![7; 32] }),
        }),
        ..Hello::default()
    }
}

/// What networkproxy says about a smartproxy that answers like this.
async fn says(answer: Answer, words: &str) {
    let place = Place::new();
    place.token().create_if_missing().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(ControlServiceServer::new(Fake(answer)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(server);
    let inner = Inner::start(&place, address);
    let state = || inner.upstream.state();
    let said = || matches!(state(), UpstreamState::Waiting(why) if why.contains(words));
    until(words, said, || format!("{:?}", state())).await;
    assert!(inner.upstream.keys().is_empty(), "no key of a smartproxy that is not one");
    inner.kill().await;
    server.abort();
}

#[tokio::test]
async fn a_hello_that_is_not_answered_is_given_up_and_dialled_again() {
    says(Answer::Silence, "did not answer in time").await;
}

#[tokio::test]
async fn a_smartproxy_of_another_protocol_is_named_and_waited_for() {
    let newer = Hello { protocol_min: 2, protocol_max: 3, ..hello() };
    says(Answer::Hello(Box::new(newer)), "speaks versions 2 to 3").await;
}

#[tokio::test]
async fn a_refusal_is_shown_with_its_words() {
    says(Answer::Refusal(Status::failed_precondition("these words")), "these words").await;
}

#[tokio::test]
async fn answers_that_make_no_sense_are_refused() {
    let other_session = Hello { session: 77, ..hello() };
    says(Answer::Hello(Box::new(other_session)), "another session").await;
    let same_role = Hello { role: 2, ..hello() };
    says(Answer::Hello(Box::new(same_role)), "same role").await;
    let no_key = Hello { front: None, ..hello() };
    says(Answer::Hello(Box::new(no_key)), "hello.inner is missing").await;
}
