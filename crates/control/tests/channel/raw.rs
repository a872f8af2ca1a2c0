//! A networkproxy that misbehaves: the protocol spoken by hand.

use std::collections::BTreeSet;
use std::time::Duration;

use control::api::control_channel::{
    self as wire, Batch, ControlServiceClient, HalfUpdate, Hello, InnerTerms, SyncMessage, SyncRequest,
    SyncResponse, sync_message::Message,
};
use control::server::Readiness;
use ledger::ConnectionId;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::harness::{Front, Inner, Place, RHYTHM, agree, bounded, instance, ready, until};
use crate::traffic::{churn, open_front};

/// One call of `Sync`.
struct Raw {
    outgoing: mpsc::Sender<SyncRequest>,
    incoming: Streaming<SyncResponse>,
}

const fn duration(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn hello(instance: ledger::InstanceId, session: u64) -> Hello {
    Hello {
        instance_id: instance.to_string(),
        role: 2,
        session,
        version: "by hand".to_owned(),
        protocol_min: 1,
        protocol_max: 1,
        max_live: 1_000,
        resume: None,
        admin_address: "127.0.0.1:7801".to_owned(),
        active: Some(duration(1)),
        front: None,
        inner: Some(InnerTerms {
            hop_address: "127.0.0.1:7443".to_owned(),
            capacity: 10,
            tls_handshake: Some(duration(10)),
            largest_idle: Some(duration(10)),
            half_close: Some(duration(10)),
        }),
    }
}

fn say(message: Message) -> SyncRequest {
    SyncRequest { message: Some(SyncMessage { message: Some(message) }) }
}

impl Raw {
    async fn call(front: &Front, token: Option<&str>, first: SyncRequest) -> Result<Self, Status> {
        let (outgoing, receiver) = mpsc::channel(8);
        outgoing.send(first).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let mut client = connect(front).await;
        let answer = bounded("an answer", client.sync(request)).await?;
        Ok(Self { outgoing, incoming: answer.into_inner() })
    }

    async fn register(front: &Front, place: &Place, hello: Hello) -> Result<Self, Status> {
        let token = place.token().read().unwrap();
        let mut raw = Self::call(front, Some(token.reveal()), say(Message::Hello(hello))).await?;
        let first = raw.next().await.expect("an answer")?;
        assert!(matches!(first, Message::Hello(_)), "{first:?}");
        Ok(raw)
    }

    async fn next(&mut self) -> Option<Result<Message, Status>> {
        let message = bounded("a message", self.incoming.next()).await?;
        Some(message.map(|response| response.message.unwrap().message.unwrap()))
    }

    /// Reads to the end; the status that the stream ended with.
    async fn end(&mut self) -> Result<(), Status> {
        while let Some(message) = self.next().await {
            message?;
        }
        Ok(())
    }

    async fn send(&self, message: Message) {
        self.outgoing.send(say(message)).await.ok();
    }
}

async fn connect(front: &Front) -> ControlServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", front.address)).unwrap();
    ControlServiceClient::new(endpoint.connect().await.unwrap())
}

fn live_half(id: u128) -> HalfUpdate {
    let mut half = HalfUpdate {
        seq: 1,
        connection_id: ConnectionId(id).to_string(),
        attempt: 1,
        front_instance_id: Some(ledger::InstanceId(1).to_string()),
        opened_seq: 1,
        phase: 1,
        traffic: Some(wire::Traffic::default()),
        ..HalfUpdate::default()
    };
    half.accept = Some(control::api::messages::Accept {
        listener: "127.0.0.1:1".to_owned(),
        client_address: "127.0.0.1:1".to_owned(),
        remote_address: "127.0.0.1:1".to_owned(),
        local_address: "127.0.0.1:1".to_owned(),
        address_source: 1,
        accepted_at: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
    });
    half
}

#[tokio::test]
async fn sync_needs_the_token() {
    let place = Place::new();
    let front = Front::start(&place);
    let hello = say(Message::Hello(hello(instance(), 1)));
    for token in [None, Some("wrong"), Some("")] {
        let refused = Raw::call(&front, token, hello.clone()).await.err().expect("a refusal");
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
}

/// A protocol that we do not speak is refused with words, and nothing else is.
#[tokio::test]
async fn another_protocol_version_is_refused_with_words() {
    let place = Place::new();
    let front = Front::start(&place);
    for (protocol_min, protocol_max) in [(2, 3), (0, 0), (3, 2)] {
        let other = Hello { protocol_min, protocol_max, ..hello(instance(), 1) };
        let refused = Raw::register(&front, &place, other).await.err().expect("a refusal");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("versions 1 to 1 of the control protocol"), "{refused}");
    }
    let newer = Hello { protocol_max: 9, ..hello(instance(), 1) };
    assert!(Raw::register(&front, &place, newer).await.is_ok(), "a range that includes ours");
    let nonsense = Hello {
        protocol_min: 7,
        protocol_max: 9,
        inner: None,
        instance_id: String::new(),
        ..hello(instance(), 1)
    };
    let refused = Raw::register(&front, &place, nonsense).await.err().expect("a refusal");
    assert_eq!(
        refused.code(),
        Code::FailedPrecondition,
        "the version comes first: the rest may be another's"
    );
}

#[tokio::test]
async fn what_is_no_hello_is_refused() {
    let place = Place::new();
    let front = Front::start(&place);
    let token = place.token().read().unwrap();
    let cases = [
        (say(Message::Bye(wire::Bye { through: 0 })), Code::InvalidArgument),
        (SyncRequest::default(), Code::InvalidArgument),
        (say(Message::Hello(Hello { inner: None, ..hello(instance(), 1) })), Code::InvalidArgument),
        (say(Message::Hello(Hello { role: 1, ..hello(instance(), 1) })), Code::FailedPrecondition),
        (say(Message::Hello(hello(front.instance(), 1))), Code::FailedPrecondition),
    ];
    for (first, code) in cases {
        let refused = Raw::call(&front, Some(token.reveal()), first).await.err().expect("a refusal");
        assert_eq!(refused.code(), code, "{refused}");
    }
    assert_eq!(front.peers.connected(), 0);
}

/// A newer session ends the older one before it is answered; a lower number is refused.
#[tokio::test]
async fn a_newer_session_replaces_the_older_and_a_lower_number_is_refused() {
    let place = Place::new();
    let front = Front::start(&place);
    let who = instance();
    let mut older = Raw::register(&front, &place, hello(who, 5)).await.unwrap();
    let _newer = Raw::register(&front, &place, hello(who, 6)).await.unwrap();
    let ended = older.end().await.unwrap_err();
    assert_eq!(ended.code(), Code::Aborted, "{ended}");
    for session in [6, 5, 0] {
        let refused = Raw::register(&front, &place, hello(who, session)).await.err().expect("a refusal");
        assert_eq!(refused.code(), Code::Aborted, "{refused}");
    }
    assert!(front.peers.session_is_up(who));
    assert_eq!(front.peers.connected(), 1);
}

/// A batch that starts somewhere else resets its session, and no other.
#[tokio::test]
async fn a_gap_resets_the_session_and_disturbs_nobody() {
    let place = Place::new();
    let front = Front::start(&place);
    let inner = Inner::start(&place, front.address);
    ready(&front, &inner).await;
    let mut raw = Raw::register(&front, &place, hello(instance(), 1)).await.unwrap();
    let batch = Batch {
        after: 7,
        through: 8,
        halves: vec![live_half(99).encode_to_vec().into()],
        ..Batch::default()
    };
    raw.send(Message::Batch(batch)).await;
    let ended = raw.end().await.unwrap_err();
    assert_eq!(ended.code(), Code::Aborted);
    assert!(ended.message().contains("Gap"), "{ended}");
    let known = front.node.ledger.view().mirrored;
    assert!(known.iter().all(|half| half.key.connection != ConnectionId(99)), "nothing of it was applied");
    churn(&front.node, &inner.node, 11, 300, |_| {}).await;
    agree(&[(&front.node, &inner.node)]).await;
    let session = front.node.ledger.standing(inner.instance(), front.node.time.now()).unwrap().session;
    assert_eq!(session, Some(1), "the other session was never reset");
}

/// What cannot be understood ends the session with the field's name.
#[tokio::test]
async fn nonsense_ends_the_session_with_the_field_s_name() {
    let place = Place::new();
    let front = Front::start(&place);
    let mut raw = Raw::register(&front, &place, hello(instance(), 1)).await.unwrap();
    let half = HalfUpdate { connection_id: "nonsense".to_owned(), ..live_half(1) };
    let halves = vec![half.encode_to_vec().into()];
    raw.send(Message::Batch(Batch { through: 1, halves, ..Batch::default() })).await;
    let ended = raw.end().await.unwrap_err();
    assert_eq!(ended.code(), Code::InvalidArgument);
    assert!(ended.message().contains("half.connection_id"), "{ended}");
}

/// A message beyond the limit ends its session alone.
#[tokio::test]
async fn a_message_that_is_too_large_ends_the_session() {
    let place = Place::new();
    let front = Front::start(&place);
    let who = instance();
    let raw = Raw::register(&front, &place, hello(who, 1)).await.unwrap();
    let huge = wire::NamesWithoutCertificate { names: vec!["x".repeat(1_000); 300] };
    raw.send(Message::NamesWithoutCertificate(huge)).await;
    until("the end", || !front.peers.session_is_up(who), String::new).await;
    assert!(front.peers.directory().names_without_certificate().is_empty());
}

/// R-69, and flat memory: who acknowledges nothing gets a window's worth, however much happens, and is reset.
#[tokio::test]
async fn a_peer_that_never_acknowledges_gets_a_window_and_no_more() {
    let place = Place::new();
    let front = Front::start(&place);
    let who = instance();
    let mut raw = Raw::register(&front, &place, hello(who, 1)).await.unwrap();
    // Alive, but never an Ack.
    let outgoing = raw.outgoing.clone();
    let beats = tokio::spawn(async move {
        loop {
            let beat = wire::Heartbeat { position: 0, active: Some(duration(1)) };
            if outgoing.send(say(Message::Heartbeat(beat))).await.is_err() {
                return;
            }
            tokio::time::sleep(RHYTHM.heartbeat).await;
        }
    });
    for _ in 0..5_000 {
        open_front(&front.node);
    }
    let mut batches = 0;
    let ended = loop {
        match raw.next().await {
            Some(Ok(Message::Batch(_) | Message::SnapshotChunk(_))) => batches += 1,
            Some(Ok(_)) => {}
            Some(Err(status)) => break status,
            None => panic!("it ended without a word"),
        }
    };
    beats.abort();
    assert!(batches <= ledger::WINDOW, "{batches} batches were sent");
    assert!(ended.message().contains("acknowledged nothing"), "{ended}");
}

/// Readiness needs every acknowledgement: of the routes, and of the hop key.
#[tokio::test]
async fn a_networkproxy_that_has_not_acknowledged_its_key_is_not_ready() {
    let place = Place::new();
    let front = Front::start(&place);
    let who = instance();
    let token = place.token().read().unwrap();
    let first = say(Message::Hello(hello(who, 1)));
    let mut raw = Raw::call(&front, Some(token.reveal()), first).await.unwrap();
    let Some(Ok(Message::Hello(answer))) = raw.next().await else { panic!("no Hello") };
    let key = answer.front.unwrap().hop_key.unwrap();
    assert_eq!(key.secret.len(), 32);
    let routes = wire::Acknowledged { route_generation: Some(1), ..Default::default() };
    raw.send(Message::Acknowledged(routes)).await;
    let shown = || format!("{:?}", front.peers.readiness(who));
    until("the routes", || front.peers.readiness(who) == Readiness::Key, shown).await;
    let wrong = wire::Acknowledged { hop_key_id: Some(key.id ^ 1), ..Default::default() };
    raw.send(Message::Acknowledged(wrong)).await;
    let older = wire::Acknowledged { route_generation: Some(0), ..Default::default() };
    raw.send(Message::Acknowledged(older)).await;
    let right = wire::Acknowledged { hop_key_id: Some(key.id), ..Default::default() };
    raw.send(Message::Acknowledged(right)).await;
    until("the key", || front.peers.readiness(who) == Readiness::Routes, shown).await;
    raw.send(Message::Acknowledged(wire::Acknowledged { route_generation: Some(1), ..Default::default() }))
        .await;
    until("readiness", || front.peers.is_ready(who), shown).await;
}

/// A peer that is alive and acknowledges, but does not read what is sent to it: its stream has no room, and
/// the session is reset after the stall.
#[tokio::test]
async fn a_stream_without_room_is_a_stall() {
    let place = Place::new();
    let front = Front::start(&place);
    let who = instance();
    let raw = Raw::register(&front, &place, hello(who, 1)).await.unwrap();
    let outgoing = raw.outgoing.clone();
    let alive = tokio::spawn(async move {
        loop {
            let ack = say(Message::Ack(wire::Ack { applied: 0, chunks: 1 }));
            let beat = say(Message::Heartbeat(wire::Heartbeat { position: 0, active: Some(duration(1)) }));
            if outgoing.send(ack).await.is_err() || outgoing.send(beat).await.is_err() {
                return;
            }
            tokio::time::sleep(RHYTHM.heartbeat / 2).await;
        }
    });
    tokio::time::timeout(RHYTHM.stall_after * 2, std::future::pending::<()>()).await.ok();
    assert!(front.peers.session_is_up(who), "it is alive, and there was little to read");
    let mut table = config::InnerTable { generation: 2, ..config::InnerTable::default() };
    for number in 0..40_000 {
        let name: std::sync::Arc<str> = format!("an-entry-with-a-long-name-{number}").into();
        let entry =
            config::InnerEntry::new(name.clone(), config::Protocol::Http, true, Vec::new(), BTreeSet::new());
        table.entries.insert(name, entry);
    }
    front.peers.publish(&table).unwrap();
    until("the reset", || !front.peers.session_is_up(who), String::new).await;
    alive.abort();
    drop(raw);
}

/// A peer that does not read: nothing piles up, it is reset, and the others never notice.
#[tokio::test]
async fn a_peer_that_does_not_read_is_reset() {
    let place = Place::new();
    let front = Front::start(&place);
    let inner = Inner::start(&place, front.address);
    ready(&front, &inner).await;
    let who = instance();
    let raw = Raw::register(&front, &place, hello(who, 1)).await.unwrap();
    assert!(front.peers.session_is_up(who));
    churn(&front.node, &inner.node, 12, 1_000, |_| {}).await;
    until("the reset", || !front.peers.session_is_up(who), String::new).await;
    agree(&[(&front.node, &inner.node)]).await;
    drop(raw);
}

/// More live halves than its own limit: a peer that counts wrong must not fill our memory.
#[tokio::test]
async fn a_peer_that_announces_more_than_its_limit_is_reset() {
    let place = Place::new();
    let front = Front::start(&place);
    let mut raw = Raw::register(&front, &place, Hello { max_live: 0, ..hello(instance(), 1) }).await.unwrap();
    let nothing = wire::SnapshotChunk { digest: Some(wire::Digest::default()), ..Default::default() };
    raw.send(Message::SnapshotChunk(nothing)).await;
    let mut position = 0;
    let ended = loop {
        let half = |offset| HalfUpdate {
            seq: position + offset,
            opened_seq: position + offset,
            ..live_half(u128::from(position + offset))
        };
        let halves = (1..=256_u64).map(|offset| half(offset).encode_to_vec().into()).collect();
        raw.send(Message::Batch(Batch {
            after: position,
            through: position + 256,
            halves,
            ..Batch::default()
        }))
        .await;
        position += 256;
        assert!(position < 30_000, "it was never reset");
        // Until it is acknowledged, or refused.
        let answer = loop {
            match raw.next().await {
                Some(Ok(Message::Ack(ack))) if ack.applied == position => break None,
                Some(Ok(_)) => {}
                Some(Err(status)) => break Some(status),
                None => panic!("it ended without a word"),
            }
        };
        if let Some(status) = answer {
            break status;
        }
    };
    assert!(ended.message().contains("more live halves"), "{ended}");
}

/// 64 networkproxies and no more; one that is known may always come back.
#[tokio::test]
async fn there_are_at_most_64_networkproxies() {
    let place = Place::new();
    let front = Front::start(&place);
    let mut raws = Vec::new();
    let first = instance();
    raws.push(Raw::register(&front, &place, hello(first, 1)).await.unwrap());
    let known = raws[0].outgoing.clone();
    for _ in 1..64 {
        raws.push(Raw::register(&front, &place, hello(instance(), 1)).await.unwrap());
    }
    // None of them speaks: before the first is reset, the 65th is refused.
    let refused = Raw::register(&front, &place, hello(instance(), 1)).await.err().expect("a refusal");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(Raw::register(&front, &place, hello(first, 2)).await.is_ok());
    drop(known);
    until("their end", || front.peers.connected() == 0, || front.peers.connected().to_string()).await;
}

/// A Hello that does not come is not waited for for ever.
#[tokio::test]
async fn a_call_without_a_hello_is_ended() {
    let place = Place::new();
    let front = Front::start(&place);
    let token = place.token().read().unwrap();
    let (_outgoing, receiver) = mpsc::channel::<SyncRequest>(1);
    let mut request = Request::new(ReceiverStream::new(receiver));
    request.metadata_mut().insert("authorization", format!("Bearer {}", token.reveal()).parse().unwrap());
    let mut client = connect(&front).await;
    let refused =
        tokio::time::timeout(Duration::from_secs(10), client.sync(request)).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
}
