//! What a broken or malicious peer may send: an error value each time, never a panic.

use super::*;

fn some_update() -> wire::HalfUpdate {
    wire::HalfUpdate {
        connection_id: ConnectionId(1).to_string(),
        phase: 1,
        traffic: Some(wire::Traffic::default()),
        ..wire::HalfUpdate::default()
    }
}

fn fault(update: &wire::HalfUpdate) -> Malformed {
    read_update(&update.encode_to_vec()).unwrap_err()
}

#[test]
fn the_least_that_is_a_half_is_read() {
    assert!(read_update(&some_update().encode_to_vec()).is_ok());
}

#[test]
fn every_missing_field_is_named() {
    let cases = [
        (wire::HalfUpdate { phase: 0, ..some_update() }, Fault::Missing.of("half.phase")),
        (wire::HalfUpdate { traffic: None, ..some_update() }, Fault::Missing.of("half.traffic")),
        (
            wire::HalfUpdate { end: Some(admin::End { phase: 1, ..admin::End::default() }), ..some_update() },
            Fault::Missing.of("end.hop"),
        ),
        (
            wire::HalfUpdate {
                settlement: Some(admin::Settlement { settled_from: 1, ..Default::default() }),
                ..some_update()
            },
            Fault::Missing.of("settlement.cause"),
        ),
        (
            wire::HalfUpdate {
                log: vec![wire::PhaseEntry { phase: 1, ..Default::default() }],
                ..some_update()
            },
            Fault::Missing.of("half.log.after"),
        ),
        (
            wire::HalfUpdate {
                hop: Some(admin::Hop { bridged_attempt: Some(1), ..Default::default() }),
                ..some_update()
            },
            Fault::Contradiction.of("hop.bridged_attempt"),
        ),
    ];
    for (update, expected) in cases {
        assert_eq!(fault(&update), expected);
    }
}

#[test]
fn ids_addresses_times_and_numbers_out_of_range_are_refused() {
    let connection = |id: &str| wire::HalfUpdate { connection_id: id.to_owned(), ..some_update() };
    for id in ["", "1", "nonsense", "0192f7a1-b2c3-7d4e-8f90-0123456789abc", &"0".repeat(1_000_000)] {
        assert_eq!(fault(&connection(id)), Fault::Id.of("half.connection_id"));
    }
    for phase in [256, i32::MAX, -1, i32::MIN] {
        assert_eq!(fault(&wire::HalfUpdate { phase, ..some_update() }).field, "half.phase");
    }
    let good = admin::Accept {
        client_address: "127.0.0.1:1".to_owned(),
        remote_address: "127.0.0.1:1".to_owned(),
        local_address: "127.0.0.1:1".to_owned(),
        address_source: 1,
        accepted_at: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        ..admin::Accept::default()
    };
    let with = |accept: admin::Accept| wire::HalfUpdate { accept: Some(accept), ..some_update() };
    assert!(read_update(&with(good.clone()).encode_to_vec()).is_ok());
    let cases = [
        (admin::Accept { client_address: "localhost:1".to_owned(), ..good.clone() }, "accept.client_address"),
        (admin::Accept { remote_address: "127.0.0.1".to_owned(), ..good.clone() }, "accept.remote_address"),
        (admin::Accept { local_address: String::new(), ..good.clone() }, "accept.local_address"),
        (admin::Accept { address_source: 9, ..good.clone() }, "accept.address_source"),
        (admin::Accept { listener: "x".repeat(100_000), ..good.clone() }, "accept.listener"),
        (admin::Accept { accepted_at: None, ..good.clone() }, "accept.accepted_at"),
    ];
    for (accept, field) in cases {
        assert_eq!(fault(&with(accept)).field, field);
    }
    for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0), (i64::MIN, i32::MIN)] {
        let at = prost_types::Timestamp { seconds, nanos };
        let accept = admin::Accept { accepted_at: Some(at), ..good.clone() };
        assert_eq!(fault(&with(accept)), Fault::Time.of("accept.accepted_at"));
    }
}

#[test]
fn too_much_of_anything_is_refused() {
    let observation =
        admin::Observation { reason: 1, after: Some(prost_types::Duration::default()), ..Default::default() };
    let end = admin::End {
        phase: 1,
        hop: Some(admin::HopCount::default()),
        observations: vec![observation; 17],
        ..Default::default()
    };
    assert_eq!(fault(&wire::HalfUpdate { end: Some(end), ..some_update() }).field, "end.observations");
    let routing = admin::Routing { alpn_offered: vec!["h2".to_owned(); 9], ..Default::default() };
    assert_eq!(
        fault(&wire::HalfUpdate { routing: Some(routing), ..some_update() }).field,
        "routing.alpn_offered"
    );
    let armed = vec![wire::ArmedDeadline::default(); 33];
    assert_eq!(fault(&wire::HalfUpdate { armed, ..some_update() }).field, "half.armed");
    let batch = wire::Batch { halves: vec![some_update().encode_to_vec().into(); 257], ..Default::default() };
    let kind = wire::sync_message::Message::Batch(batch);
    let refused = decode(wire::SyncMessage { message: Some(kind) }, SENDER).unwrap_err();
    assert_eq!(refused, Fault::TooMany(256).of("batch.halves"));
    let meter = wire::Meter { bytes: u64::MAX, last_nanos: 0 };
    let traffic = wire::Traffic { hop_in: Some(meter), ..Default::default() };
    assert_eq!(fault(&wire::HalfUpdate { traffic: Some(traffic), ..some_update() }).field, "traffic.bytes");
}

/// Sums that a peer makes up must not overflow ours.
#[test]
fn tallies_that_contradict_themselves_are_refused() {
    let read = super::super::tally::read_tally;
    let settled = |count| vec![admin::SettledCount { reason: 1, initiator: 1, count }; 2];
    let max =
        admin::Tally { opened: u64::MAX, closed: u64::MAX, settled: settled(u64::MAX), ..Default::default() };
    assert_eq!(read(max).unwrap_err().field, "tally.settled.count");
    let more = admin::Tally { opened: 5, closed: 5, settled: settled(3), ..Default::default() };
    assert_eq!(read(more).unwrap_err(), Fault::Contradiction.of("tally.settled"));
    let closed = admin::Tally { opened: 4, closed: 5, ..Default::default() };
    assert_eq!(read(closed).unwrap_err(), Fault::Contradiction.of("tally.closed"));
    let twice = admin::Tally { opened: 6, closed: 6, settled: settled(3), ..Default::default() };
    assert_eq!(read(twice).unwrap().settled_total(), 6, "the same key twice adds up");
}

/// Bytes that are no half are refused as such, and text that is no text.
#[test]
fn what_is_no_half_is_refused() {
    let whole = some_update().encode_to_vec();
    assert_eq!(read_update(&whole[..whole.len() - 1]).unwrap_err().fault, Fault::Encoding);
    let cases: [(&[u8], &str); 4] = [
        (&[0x12, 1, 0xff], "half.connection_id"),
        (&[0x08 | 2, 0], "half.seq"),
        (&[0x32, 1, 0xff], "half.accept"),
        (&[0x3a, 2, 0x0a, 9], "routing"),
    ];
    for (bytes, field) in cases {
        assert_eq!(read_update(bytes).unwrap_err(), Fault::Encoding.of(field));
    }
}

#[test]
fn a_deadline_of_a_newer_build_is_left_out() {
    let newer = wire::ArmedDeadline { name: "patience".to_owned(), ..Default::default() };
    let update = wire::HalfUpdate { armed: vec![newer], ..some_update() };
    let read = read_update(&update.encode_to_vec()).unwrap();
    assert!(read.armed.is_empty());
}

#[test]
fn a_message_of_a_newer_kind_is_skipped() {
    let mut bytes = Vec::new();
    prost::encoding::bytes::encode(99, &b"anything".to_vec(), &mut bytes);
    let message = wire::SyncMessage::decode(&*bytes).unwrap();
    assert!(matches!(decode(message, SENDER), Ok(Inbound::Unknown)));
    assert!(matches!(decode(wire::SyncMessage::default(), SENDER), Ok(Inbound::Unknown)));
}

#[test]
fn hellos_that_make_no_sense_are_refused_with_the_field() {
    let hello = |front, inner| wire::Hello {
        instance_id: SENDER.to_string(),
        role: 2,
        session: 1,
        protocol_min: 1,
        protocol_max: 1,
        active: Some(prost_types::Duration::default()),
        front,
        inner,
        ..wire::Hello::default()
    };
    let zero = || Some(prost_types::Duration::default());
    let second = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let inner = |address: &str| wire::InnerTerms {
        hop_address: address.to_owned(),
        capacity: 1,
        tls_handshake: zero(),
        largest_idle: zero(),
        half_close: zero(),
    };
    let front = |heartbeat, stall_after, secret: usize| wire::FrontTerms {
        heartbeat,
        stall_after,
        hop_key: Some(wire::HopKey { id: 1, secret: vec![0; secret] }),
    };
    let read = |hello| {
        let message = wire::SyncMessage { message: Some(wire::sync_message::Message::Hello(hello)) };
        decode(message, SENDER).map_err(|malformed| malformed.field)
    };
    assert!(read(hello(None, Some(inner("127.0.0.1:7443")))).is_ok());
    assert!(read(hello(Some(front(second(1), second(3), 32)), None)).is_ok());
    assert_eq!(read(hello(None, None)).unwrap_err(), "hello.inner");
    assert_eq!(read(hello(None, Some(inner("127.0.0.1:0")))).unwrap_err(), "hello.inner.hop_address");
    for terms in [
        front(second(3), second(1), 32),
        front(zero(), second(1), 32),
        front(second(1), second(1_000_000), 32),
    ] {
        assert_eq!(read(hello(Some(terms), None)).unwrap_err(), "hello.front.heartbeat");
    }
    assert_eq!(
        read(hello(Some(front(second(1), second(3), 31)), None)).unwrap_err(),
        "hello.front.hop_key.secret"
    );
    assert_eq!(read(hello(Some(front(None, second(3), 32)), None)).unwrap_err(), "hello.front.heartbeat");
}

#[test]
fn route_tables_that_do_not_fit_together_are_refused() {
    let chunk = |offset, total_size, size: usize| wire::RouteTableChunk {
        generation: 1,
        offset,
        total_size,
        json: vec![b' '; size].into(),
    };
    let read = |chunk| {
        let kind = wire::sync_message::Message::RouteTableChunk(chunk);
        decode(wire::SyncMessage { message: Some(kind) }, SENDER).is_ok()
    };
    assert!(read(chunk(0, 10, 10)));
    for wrong in [chunk(0, 9, 10), chunk(u64::MAX, 10, 10), chunk(0, u64::MAX, 10), chunk(0, 100_000, 70_000)]
    {
        assert!(!read(wrong));
    }
}

proptest! {
    /// No bytes at all make it panic.
    #[test]
    fn arbitrary_bytes_are_an_error_or_a_message(bytes in vec(any::<u8>(), 0..2_000)) {
        if let Ok(message) = wire::SyncMessage::decode(&*bytes) {
            drop(decode(message, SENDER));
        }
        drop(read_update(&bytes));
    }

    /// A message with any one byte changed is an error or another message.
    #[test]
    fn a_damaged_message_is_an_error_or_a_message(original in message(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut bytes = encode(&original, Duration::ZERO).encode_to_vec();
        prop_assume!(!bytes.is_empty());
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        if let Ok(message) = wire::SyncMessage::decode(&*bytes) {
            drop(decode(message, SENDER));
        }
    }
}
