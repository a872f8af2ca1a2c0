//! Owns the proof that a ClientHello is understood however it arrives, and that nothing else is.
//! Never opens a socket; the hellos are in `corpus`.
//! Invariant: every fault is provoked by a hello that is valid but for that fault.

mod corpus;

use proptest::prelude::*;

use super::super::NameFault;
use super::*;
use corpus::{big, body_before_extensions, extension, handshake, in_records, message, record, server_name};

fn parse(received: &[u8]) -> Result<Progress<ClientHello>, ClientHelloError> {
    ClientHello::parse(received, CLIENT_HELLO_LIMIT)
}

fn complete(received: &[u8]) -> ClientHello {
    match parse(received) {
        Ok(Progress::Complete(hello)) => hello,
        other => panic!("{other:?}"),
    }
}

/// The verdict on `received` when it arrives in reads that end at `cuts` (ascending) and at its end.
fn piecewise(
    received: &[u8],
    cuts: impl IntoIterator<Item = usize>,
    limit: usize,
) -> Result<Progress<ClientHello>, ClientHelloError> {
    let mut reader = ClientHelloReader::new(limit);
    for cut in cuts {
        match reader.push(&received[..cut])? {
            Progress::Incomplete { .. } => {}
            complete @ Progress::Complete(_) => return Ok(complete),
        }
    }
    reader.push(received)
}

/// Asserts that `wire` is refused for `want`, with its byte number `shortest` and not before.
fn refused_with_byte(wire: &[u8], shortest: usize, want: ClientHelloError) {
    assert_eq!(parse(wire), Err(want));
    assert_eq!(parse(&wire[..shortest]), Err(want), "byte {shortest} shows it");
    let before = parse(&wire[..shortest - 1]);
    assert!(matches!(before, Ok(Progress::Incomplete { .. })), "{want:?} before byte {shortest}: {before:?}");
    assert_eq!(piecewise(wire, 0..wire.len(), CLIENT_HELLO_LIMIT), Err(want));
}

/// TLS 1.0 to 1.3, GREASE, no SNI, ECH, post-quantum shares, no extensions, many records.
#[test]
fn every_hello_of_the_corpus_is_understood() {
    for sample in corpus::all() {
        sample.assert_is(&complete(&sample.wire));
    }
}

/// at every prefix a hello is incomplete, and what it says is missing is not too much.
#[test]
fn every_prefix_of_a_hello_is_incomplete() {
    for sample in corpus::all() {
        let mut reader = ClientHelloReader::new(CLIENT_HELLO_LIMIT);
        for end in 0..sample.wire.len() {
            let Ok(Progress::Incomplete { at_least }) = reader.push(&sample.wire[..end]) else {
                panic!("{}: byte {end}", sample.label)
            };
            assert!(at_least >= 1 && end + at_least <= sample.wire.len(), "{}: byte {end}", sample.label);
        }
        let Ok(Progress::Complete(hello)) = reader.push(&sample.wire) else { panic!("{}", sample.label) };
        sample.assert_is(&hello);
    }
}

/// cut in two at any byte, with the client's next flight behind it.
#[test]
fn every_split_of_a_hello_gives_the_same_hello() {
    for sample in corpus::all() {
        let followed = [sample.wire.as_slice(), b"\x14\x03\x03\x00\x01\x01early data"].concat();
        for cut in 0..sample.wire.len() {
            let Ok(Progress::Complete(hello)) = piecewise(&followed, [cut], CLIENT_HELLO_LIMIT) else {
                panic!("{}: cut at {cut}", sample.label)
            };
            sample.assert_is(&hello);
        }
    }
}

/// every flipped bit gives a verdict, and the same one however the bytes arrive.
#[test]
fn a_flipped_bit_gives_the_same_verdict_in_one_piece_and_byte_by_byte() {
    for sample in corpus::all().into_iter().filter(|sample| sample.wire.len() < 2000) {
        for bit in 0..sample.wire.len() * 8 {
            let mut wire = sample.wire.clone();
            wire[bit / 8] ^= 1 << (bit % 8);
            let whole = parse(&wire);
            assert_eq!(piecewise(&wire, [bit / 8, bit / 8 + 1], CLIENT_HELLO_LIMIT), whole, "bit {bit}");
            if bit % 8 == 0 {
                assert_eq!(piecewise(&wire, 0..wire.len(), CLIENT_HELLO_LIMIT), whole, "bit {bit}");
            }
        }
    }
}

/// a 16 KiB hello that arrives byte by byte costs steps in proportion to its size: each extension,
/// here 4,000 of them, is walked once.
#[test]
fn extensions_are_walked_once_however_the_bytes_arrive() {
    let extensions: Vec<u8> = (0x4000_u16..0x4000 + 4000).flat_map(|kind| extension(kind, &[])).collect();
    let wire = record(&message(&extensions));
    let mut reader = ClientHelloReader::new(CLIENT_HELLO_LIMIT);
    let mut last = 0;
    for end in 0..wire.len() {
        let Ok(Progress::Incomplete { .. }) = reader.push(&wire[..end]) else { panic!("byte {end}") };
        let next = reader.next_extension.unwrap_or(0);
        assert!(next >= last, "never walks back");
        if next > 0 {
            assert!(reader.message.len() - next < 4, "everything that is whole was walked");
        }
        last = next;
    }
    assert!(matches!(reader.push(&wire), Ok(Progress::Complete(_))));
}

/// the limit is exact, counts record headers, and is told before the bytes are buffered.
#[test]
fn a_hello_of_the_limit_is_read_and_one_byte_more_is_refused_at_once() {
    assert_eq!(complete(&big(CLIENT_HELLO_LIMIT)).wire_len, CLIENT_HELLO_LIMIT);
    let too_large = ClientHelloError::Invalid(HelloFault::TooLarge { limit: CLIENT_HELLO_LIMIT });
    refused_with_byte(&big(CLIENT_HELLO_LIMIT + 1), 9, too_large);

    let message = &big(4096)[5..];
    let wire = in_records(message, 16);
    let limit = wire.len();
    assert!(matches!(ClientHello::parse(&wire, limit), Ok(Progress::Complete(_))));
    let refused = Err(HelloFault::TooLarge { limit: limit - 1 }.into());
    assert_eq!(ClientHello::parse(&wire, limit - 1), refused);
    assert_eq!(piecewise(&wire, 0..wire.len(), limit - 1), refused);
    // The header of the last record but one is the first byte that shows it.
    let shortest = wire.len() - (message.len() % 16 + 5) - 16;
    assert_eq!(ClientHello::parse(&wire[..shortest], limit - 1), refused);
    let before = ClientHello::parse(&wire[..shortest - 1], limit - 1);
    assert!(matches!(before, Ok(Progress::Incomplete { .. })), "{before:?}");
}

/// what is not TLS is told apart by name, with the first byte that shows it.
#[test]
fn strangers_are_named_by_their_first_bytes() {
    let sslv2 = ClientHelloError::Invalid(HelloFault::Sslv2);
    for (wire, shortest, want) in [
        (b"GET / HTTP/1.1\r\n".as_slice(), 4, ClientHelloError::PlainHttp),
        (b"OPTIONS * HTTP/1.1", 8, ClientHelloError::PlainHttp),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 12, ClientHelloError::PlainHttp),
        (b"PRI * HTTQ", 10, ClientHelloError::NotTls),
        (b"GETTING", 4, ClientHelloError::NotTls),
        (b"SSH-2.0-OpenSSH_9.6", 2, ClientHelloError::NotTls),
        (b"PROXY TCP4 1.2.3.4", 4, ClientHelloError::NotTls),
        (b"\0", 1, ClientHelloError::NotTls),
        (b"\x16\x02\0", 2, ClientHelloError::NotTls),
        (b"\x17\x02", 2, ClientHelloError::NotTls),
        (b"\x80\x2e\x01\x00\x02\x00\x15", 5, sslv2),
        (b"\x80\x2e\x01\x03\x01\x00\x15", 4, sslv2),
        (b"\x80\x2e\x02", 3, ClientHelloError::NotTls),
        (b"\x80\x2e\x01\x01", 4, ClientHelloError::NotTls),
        (b"\x80\x2e\x01\x00\x03", 5, ClientHelloError::NotTls),
        (b"\x15\x03\x01\0\x02\x02\x28", 2, HelloFault::ContentType { found: 21 }.into()),
        (b"\x17\x03\x03\0\x20", 2, HelloFault::ContentType { found: 23 }.into()),
    ] {
        refused_with_byte(wire, shortest, want);
    }
}

/// each fault of the record layer (RFC 8446 §5.1).
#[test]
fn a_broken_record_layer_is_refused_with_the_byte_that_breaks_it() {
    let whole = big(300);
    let message = &whole[5..];
    let first = record(&message[..100]);
    let after_first = |next: &[u8]| [first.as_slice(), next, &record(&message[100..])].concat();
    for (wire, shortest, want) in [
        ([&[22, 3, 1, 0, 0][..], &whole].concat(), 5, HelloFault::EmptyRecord),
        ([&[22, 3, 1, 0x40, 1][..], message].concat(), 5, HelloFault::RecordTooLong { length: 16385 }),
        (after_first(&[22, 3, 3, 0, 0]), 110, HelloFault::EmptyRecord),
        (after_first(&[20, 3, 3, 0, 1, 1]), 106, HelloFault::ContentType { found: 20 }),
        (after_first(&[21, 3, 3, 0, 2, 1, 0]), 106, HelloFault::ContentType { found: 21 }),
        (after_first(&[22, 4, 3, 0, 9]), 107, HelloFault::RecordVersion { found: 4 }),
        (record(&[message, &[1]].concat()), 300, HelloFault::TrailingBytes),
    ] {
        refused_with_byte(&wire, shortest, want.into());
    }
    // The longest record is legal, and what follows the hello's last record is the client's business.
    let longest = 16 * 1024 + 5;
    assert!(matches!(ClientHello::parse(&big(longest), 20_000), Ok(Progress::Complete(_))));
    assert_eq!(complete(&[&whole[..], &[0xff; 9]].concat()).wire_len, 300);
}

/// a message that is not a hello, or cannot be one, is refused by its header.
#[test]
fn another_handshake_message_is_refused_by_its_header() {
    let server_hello = record(&handshake(2, &body_before_extensions()));
    refused_with_byte(&server_hello, 6, HelloFault::HandshakeType { found: 2 }.into());
    let short = record(&handshake(1, &[3; 40]));
    refused_with_byte(&short, 9, HelloFault::TooShort { length: 40 }.into());
}

/// each field before the extensions that can be broken.
#[test]
fn a_broken_field_is_refused_with_the_byte_that_breaks_it() {
    let start = 5 + 4;
    let valid = body_before_extensions();
    // Version 2, random 32, session id length 1, suites length 2, suites 4, methods length 1, method 1.
    let (session_id, suites, methods, end) = (34, 35, 41, 43);
    assert_eq!(valid.len(), end);
    let broken = |at: usize, bytes: &[u8]| {
        let mut body = valid.clone();
        body[at..at + bytes.len()].copy_from_slice(bytes);
        record(&handshake(1, &body))
    };
    let length = |field| ClientHelloError::Invalid(HelloFault::Length(field));
    let old = ClientHelloError::Invalid(HelloFault::Version { found: 0x0002 });
    refused_with_byte(&broken(0, &[0, 2]), start + 2, old);
    refused_with_byte(&broken(session_id, &[33]), start + session_id + 1, length(Field::SessionId));
    let too_long = [&valid[..session_id], &[33], &[0x11; 33], &valid[session_id + 1..]].concat();
    let too_long = record(&handshake(1, &too_long));
    refused_with_byte(&too_long, start + session_id + 1, length(Field::SessionId));
    refused_with_byte(&broken(session_id, &[32]), start + session_id + 1, length(Field::SessionId));
    refused_with_byte(&broken(suites, &[0, 0]), start + suites + 2, length(Field::CipherSuites));
    refused_with_byte(&broken(suites, &[0, 3]), start + suites + 2, length(Field::CipherSuites));
    refused_with_byte(&broken(suites, &[0, 8]), start + suites + 2, length(Field::CipherSuites));
    refused_with_byte(&broken(methods, &[0]), start + methods + 1, length(Field::CompressionMethods));
    refused_with_byte(&broken(methods, &[2]), start + methods + 1, length(Field::CompressionMethods));
    for (extensions, shortest) in [(&[0][..], end), (&[0, 1], end + 2), (&[0, 0, 0], end + 2)] {
        let wire = record(&handshake(1, &[&valid, extensions].concat()));
        refused_with_byte(&wire, start + shortest.max(1), length(Field::Extensions));
    }
    let first = start + end + 2;
    let cut_header = record(&message(&[0, 0, 0]));
    refused_with_byte(&cut_header, first + 2, length(Field::Extension));
    let too_long = record(&message(&[0x40, 0, 0, 2, 1]));
    refused_with_byte(&too_long, first + 4, length(Field::Extension));
}

/// what decides about the route is unambiguous, or the hello is refused.
#[test]
fn an_ambiguous_or_broken_extension_is_refused() {
    let names = HelloFault::Length(Field::ServerNameList);
    let alpn = HelloFault::Length(Field::ProtocolNameList);
    let versions = HelloFault::Length(Field::SupportedVersions);
    let bad_name = |fault| HelloFault::ServerName(fault);
    let long_label = format!("{}.example", "x".repeat(64));
    for (extensions, want) in [
        (extension(0, &[]), names),
        (extension(0, &[0, 0]), names),
        (extension(0, &[0, 3, 0, 0]), names),
        (extension(0, &[0, 4, 0, 0, 1, b'a', 0]), names),
        (extension(0, &[0, 5, 0, 0, 1, b'a', 0]), names),
        (extension(0, &[0, 4, 0, 0, 2, b'a']), names),
        (extension(0, &[0, 8, 0, 0, 1, b'a', 0, 0, 1, b'a']), HelloFault::TwoServerNames),
        (server_name(""), bad_name(NameFault::Empty)),
        (server_name("b\u{fc}cher.example"), bad_name(NameFault::Character { found: 0xc3 })),
        (server_name("a\0.example"), bad_name(NameFault::Character { found: 0 })),
        (server_name("[::1]"), bad_name(NameFault::Character { found: b'[' })),
        (server_name("example.com:443"), bad_name(NameFault::Character { found: b':' })),
        (server_name(&long_label), bad_name(NameFault::Label { length: 64 })),
        ([server_name("a"), server_name("a")].concat(), HelloFault::RepeatedExtension { kind: 0 }),
        (extension(16, &[]), alpn),
        (extension(16, &[0, 0]), alpn),
        (extension(16, &[0, 1, 0]), alpn),
        (extension(16, &[0, 3, 2, b'h', b'2', 0]), alpn),
        (extension(16, &[0, 2, 2, b'h']), alpn),
        (extension(43, &[]), versions),
        (extension(43, &[0]), versions),
        (extension(43, &[1, 3]), versions),
        (extension(43, &[2, 3, 4, 0]), versions),
        (
            [extension(43, &[2, 3, 4]), extension(43, &[2, 3, 3])].concat(),
            HelloFault::RepeatedExtension { kind: 43 },
        ),
        (
            [extension(0xfe0d, &[0]), extension(0xfe0d, &[0])].concat(),
            HelloFault::RepeatedExtension { kind: 0xfe0d },
        ),
    ] {
        let wire = record(&message(&extensions));
        refused_with_byte(&wire, wire.len(), want.into());
    }
}

/// the server name as a route is written: lower case, no trailing dot; other name types skipped.
#[test]
fn the_server_name_is_found_in_its_canonical_form() {
    let sni = |extensions: &[u8]| complete(&record(&message(extensions)));
    assert_eq!(sni(&server_name("WwW.Example.COM.")).server_name.as_deref(), Some("www.example.com"));
    let other_type = extension(0, &[0, 8, 9, 0, 1, 0xff, 0, 0, 1, b'a']);
    assert_eq!(sni(&other_type).server_name.as_deref(), Some("a"));
    let only_other_type = extension(0, &[0, 4, 9, 0, 1, 0xff]);
    assert_eq!(sni(&only_other_type).server_name, None);
}

/// an address in the SNI, which RFC 6066 §3 does not permit but clients send, is no name.
#[test]
fn an_ip_address_as_server_name_is_taken_as_no_name() {
    for address in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
        let hello = complete(&record(&message(&server_name(address))));
        assert_eq!((hello.server_name, hello.server_name_is_ip), (None, true), "{address}");
    }
    let hello = complete(&record(&message(&server_name("192.0.2.1.example"))));
    assert_eq!((hello.server_name.as_deref(), hello.server_name_is_ip), (Some("192.0.2.1.example"), false));
}

/// the highest version is that of the extension, drafts and GREASE apart, else the hello's own.
#[test]
fn the_highest_version_is_the_one_that_is_offered() {
    let highest = |extensions: &[u8]| complete(&record(&message(extensions))).highest_version;
    assert_eq!(highest(&[]), TlsVersion(0x0303));
    assert_eq!(highest(&extension(43, &[4, 3, 3, 3, 4])), TlsVersion(0x0304));
    assert_eq!(highest(&extension(43, &[6, 0xfa, 0xfa, 0x7f, 0x1c, 3, 2])), TlsVersion(0x0302));
    assert_eq!(highest(&extension(43, &[2, 0xfa, 0xfa])), TlsVersion(0x0303));
    assert_eq!(TlsVersion(0x0304).to_string(), "TLSv1.3");
    assert_eq!(TlsVersion(0x7f1c).to_string(), "0x7f1c");
}

/// ALPN is what the client offers, in its order.
#[test]
fn alpn_is_kept_in_the_clients_order() {
    let wire = record(&message(&extension(16, b"\0\x0c\x08http/1.1\x02h2")));
    let alpn = complete(&wire).alpn;
    assert_eq!(alpn.names().collect::<Vec<_>>(), [b"http/1.1".as_slice(), b"h2"]);
    assert!(alpn.offers(b"h2") && !alpn.offers(b"h") && !alpn.is_empty());
    assert!(complete(&record(&message(&[]))).alpn.is_empty());
}

/// bytes behind a hello are trailing bytes, also where only they exceed the limit, however they came.
#[test]
fn bytes_behind_a_hello_do_not_make_it_too_large() {
    let hello = message(&[]);
    let limit = record(&hello).len() + 10;
    let wire = record(&[hello.as_slice(), &[0; 100]].concat());
    let trailing = Err(ClientHelloError::Invalid(HelloFault::TrailingBytes));
    assert_eq!(ClientHello::parse(&wire, limit), trailing);
    assert_eq!(piecewise(&wire, 0..wire.len(), limit), trailing);
}

proptest! {
    /// arbitrary bytes, also behind a valid beginning, never panic, and how they are cut
    /// never changes the verdict.
    #[test]
    fn how_bytes_are_cut_never_changes_the_verdict(
        kept in 0_usize..400,
        noise in prop::collection::vec(any::<u8>(), 0..200),
        fragment in 1_usize..300,
        limit in prop_oneof![64_usize..700, Just(CLIENT_HELLO_LIMIT)],
        mut cuts in prop::collection::vec(0_usize..600, 0..12),
    ) {
        let valid = in_records(&big(400)[5..], fragment);
        let wire = [&valid[..kept.min(valid.len())], &noise].concat();
        let whole = ClientHello::parse(&wire, limit);
        cuts.retain(|cut| *cut < wire.len());
        cuts.sort_unstable();
        prop_assert_eq!(piecewise(&wire, cuts, limit), whole.clone());
        prop_assert_eq!(piecewise(&wire, 0..wire.len(), limit), whole.clone());
        if let Ok(Progress::Incomplete { at_least }) = whole {
            prop_assert!(at_least >= 1 && wire.len() + at_least <= limit);
        }
    }

    /// any list of extensions, well formed or not, gives a verdict, and the same one in pieces.
    #[test]
    fn arbitrary_extensions_never_panic(
        extensions in prop::collection::vec(
            (
                prop::sample::select(vec![0_u16, 16, 43, 0xfe0d, 0x5a5a]),
                prop::collection::vec(prop_oneof![Just(0), Just(1), Just(2), Just(3), any::<u8>()], 0..12),
            ),
            0..5,
        ),
    ) {
        let extensions: Vec<u8> = extensions.iter().flat_map(|(kind, body)| extension(*kind, body)).collect();
        let wire = record(&message(&extensions));
        let whole = parse(&wire);
        let incomplete = matches!(whole, Ok(Progress::Incomplete { .. }));
        prop_assert!(!incomplete, "a whole message is judged");
        prop_assert_eq!(piecewise(&wire, 0..wire.len(), CLIENT_HELLO_LIMIT), whole);
    }
}
