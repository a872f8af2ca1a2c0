//! Owns the proof that a hop header says what its writer said, or is refused.
//! Never opens a socket.
//! Invariant: no test reads a header that did not verify.

use proptest::prelude::*;

use super::*;

fn key() -> HopKey {
    HopKey::new(7, &[0x5a; 32])
}

fn header() -> HopHeader {
    HopHeader {
        client: "192.0.2.7:51000".parse().unwrap(),
        local: "198.51.100.1:443".parse().unwrap(),
        server_name: Some("app.example.com".to_owned()),
        connection_id: 0x0198_f6c2_11aa_7bcd_8ef0_1234_5678_9abc,
        entry: "app".to_owned(),
        generation: 42,
        class: HopClass::Tls,
    }
}

fn encoded(header: &HopHeader, counter: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let length = header.encode(&key(), counter, &mut out).unwrap();
    assert_eq!(length, out.len());
    out
}

/// Decodes and verifies with the one key there is.
fn accept(received: &[u8]) -> Result<Progress<(VerifiedHopHeader, usize)>, HopRefusal> {
    match HopHeader::decode(received)? {
        Progress::Incomplete { at_least } => Ok(Progress::Incomplete { at_least }),
        Progress::Complete((unverified, length)) => {
            let verified = unverified.verify(|id| (id == 7).then(key))?;
            Ok(Progress::Complete((verified, length)))
        }
    }
}

/// A well-formed, rightly tagged header with these TLVs in front of the tag.
fn tagged(version_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len() + 3 + TAG_LEN).unwrap().to_be_bytes();
    let mut out = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    out.extend_from_slice(&[version_command, family]);
    out.extend_from_slice(&length);
    out.extend_from_slice(block);
    out.extend_from_slice(&[TAG, 0, 32]);
    out.extend_from_slice(&7_u64.to_be_bytes());
    out.extend_from_slice(&1_u64.to_be_bytes());
    let mac = key().mac(&out);
    out.extend_from_slice(&mac);
    out
}

const ID: &[u8] = &[tlv::UNIQUE_ID, 0, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const ENTRY: &[u8] = &[CONTEXT, 0, 12, 1, 0, 0, 0, 0, 0, 0, 0, 9, b'a', b'p', b'p'];

fn block(tlvs: &[&[u8]]) -> Vec<u8> {
    [&[1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 10][..], &tlvs.concat()].concat()
}

/// R-21: what smartproxy writes is what networkproxy reads, whatever follows on the socket.
#[test]
fn a_tagged_header_arrives_as_it_was_written() {
    let header = header();
    let wire = encoded(&header, 9);
    let received = [wire.as_slice(), b"\x16\x03\x01 the hello"].concat();
    let want = VerifiedHopHeader { header, key_id: 7, counter: 9 };
    assert_eq!(accept(&received), Ok(Progress::Complete((want, wire.len()))));
}

/// R-21: the layout of the page that documents the hop, so that another implementation could read it.
#[test]
fn the_tlvs_stand_where_they_are_documented() {
    let wire = encoded(&header(), 9);
    let Ok(Progress::Complete(parsed)) = ProxyV2::parse(&wire, HOP_HEADER_LIMIT) else { panic!() };
    let kinds: Vec<_> = parsed.tlvs.iter().map(|tlv| tlv.kind).collect();
    assert_eq!(kinds, [0x02, 0x05, 0xe0, 0xe1]);
    assert_eq!(parsed.tlvs.first(0x02), Some(b"app.example.com".as_slice()));
    assert_eq!(parsed.tlvs.first(0x05), Some(&header().connection_id.to_be_bytes()[..]));
    assert_eq!(parsed.tlvs.first(0xe0), Some(&b"\x01\0\0\0\0\0\0\0\x2aapp"[..]));
    let tag = parsed.tlvs.first(0xe1).unwrap();
    assert_eq!(tag[..16], [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]);
    let full = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[0x5a; 32]), &wire[..wire.len() - 16]);
    assert_eq!(tag[16..], full.as_ref()[..16]);
}

/// R-21: every prefix is incomplete and says truthfully how much is missing.
#[test]
fn every_prefix_of_a_header_is_incomplete() {
    let wire = encoded(&header(), 9);
    for end in 0..wire.len() {
        let progress = accept(&wire[..end]);
        let Ok(Progress::Incomplete { at_least }) = progress else { panic!("{end}: {progress:?}") };
        assert!(at_least >= 1 && end + at_least <= wire.len(), "{end} + {at_least}");
    }
}

/// R-21: a header in which any bit was changed never verifies, whatever bytes follow it.
#[test]
fn a_flipped_bit_never_verifies() {
    let wire = encoded(&header(), 9);
    let longest_tail = vec![0; HOP_HEADER_LIMIT];
    for bit in 0..wire.len() * 8 {
        let mut flipped = wire.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        for tail in [&[][..], &longest_tail, &wire] {
            let received = [&flipped, tail].concat();
            let outcome = accept(&received);
            assert!(!matches!(outcome, Ok(Progress::Complete(_))), "bit {bit}: {outcome:?}");
            let waits = matches!(outcome, Ok(Progress::Incomplete { .. }));
            assert!(!waits || tail.len() < HOP_HEADER_LIMIT, "bit {bit} waits for ever");
        }
    }
}

/// R-21: bytes that are no hop header are told apart by what refused them, with the first byte that shows it.
#[test]
fn each_refusal_comes_with_the_first_byte_that_shows_it() {
    let valid = tagged(0x21, 0x11, &block(&[ID, ENTRY]));
    assert!(matches!(accept(&valid), Ok(Progress::Complete(_))));
    let too_long = tagged(0x21, 0x11, &vec![0; HOP_HEADER_LIMIT]);
    let length = too_long.len();
    let too_short = [&valid[..14], &[0, 11]].concat();
    let limit = HOP_HEADER_LIMIT;
    for (wire, shortest, want) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), 1, HopRefusal::Missing),
        (b"\x16\x03\x01".to_vec(), 1, HopRefusal::Missing),
        (b"PROXY TCP4 1.2.3.4".to_vec(), 1, HopRefusal::Missing),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), 12, HopRefusal::Missing),
        (tagged(0x20, 0x00, &[]), 13, HopFault::Command.into()),
        (tagged(0x11, 0x11, &[]), 13, HopFault::Header(ProxyV2Error::Version { found: 1 }).into()),
        (tagged(0x21, 0x00, &[]), 14, HopFault::Family.into()),
        (tagged(0x21, 0x12, &block(&[ID, ENTRY])), 14, HopFault::Family.into()),
        (tagged(0x21, 0x31, &[0; 216]), 14, HopFault::Family.into()),
        (too_long, 16, HopFault::Header(ProxyV2Error::TooLong { length, limit }).into()),
        (too_short, 16, HopFault::Header(ProxyV2Error::AddressesTooShort { length: 11 }).into()),
    ] {
        assert_eq!(accept(&wire[..shortest]), Err(want));
        let before = accept(&wire[..shortest - 1]);
        assert!(matches!(before, Ok(Progress::Incomplete { .. })), "{want:?}: {before:?}");
    }
}

/// R-21: a rightly tagged header that lacks, repeats or spoils a field is our own fault, and refused as such.
#[test]
fn a_malformed_header_is_invalid_even_with_a_right_tag() {
    let bad_name: &[u8] = &[tlv::AUTHORITY, 0, 1, b'*'];
    let name: &[u8] = &[tlv::AUTHORITY, 0, 1, b'a'];
    let short_id: &[u8] = &[tlv::UNIQUE_ID, 0, 2, 1, 2];
    let bad_class: &[u8] = &[CONTEXT, 0, 9, 3, 0, 0, 0, 0, 0, 0, 0, 9];
    let bad_utf8: &[u8] = &[CONTEXT, 0, 10, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0xff];
    let cut_context: &[u8] = &[CONTEXT, 0, 8, 1, 0, 0, 0, 0, 0, 0, 0];
    let cut_off: &[u8] = &[tlv::NOOP, 0xff, 0xff];
    for (tlvs, want) in [
        (vec![ENTRY], HopFault::ConnectionId),
        (vec![short_id, ENTRY], HopFault::ConnectionId),
        (vec![ID], HopFault::Context),
        (vec![ID, bad_class], HopFault::Context),
        (vec![ID, bad_utf8], HopFault::Context),
        (vec![ID, cut_context], HopFault::Context),
        (vec![ID, ID, ENTRY], HopFault::Repeated { kind: tlv::UNIQUE_ID }),
        (vec![ID, ENTRY, ENTRY], HopFault::Repeated { kind: CONTEXT }),
        (vec![name, name, ID, ENTRY], HopFault::Repeated { kind: tlv::AUTHORITY }),
        (vec![bad_name, ID, ENTRY], HopFault::ServerName(NameFault::Character { found: b'*' })),
        (vec![ID, ENTRY, cut_off], HopFault::Header(ProxyV2Error::Tlv)),
    ] {
        assert_eq!(accept(&tagged(0x21, 0x11, &block(&tlvs))), Err(want.into()));
    }
}

/// R-21: a later smartproxy may say more than this networkproxy understands.
#[test]
fn an_unknown_tlv_is_skipped() {
    let unknown: &[u8] = &[0xe7, 0, 1, 9];
    let wire = tagged(0x21, 0x11, &block(&[ID, unknown, ENTRY]));
    assert!(matches!(accept(&wire), Ok(Progress::Complete(_))));
}

/// R-21: being on 127.0.0.1 proves nothing: no tag, a strange key or a wrong secret is no authentication.
#[test]
fn a_header_that_our_smartproxy_did_not_write_is_not_authenticated() {
    let mut untagged = Vec::new();
    let addresses = Addresses::new(header().client, header().local);
    let id = Tlv { kind: tlv::UNIQUE_ID, value: &[1; 16] };
    ProxyV2::encode(Some(addresses), &[id], &mut untagged).unwrap();
    assert_eq!(accept(&untagged), Err(HopRefusal::AuthFailed(AuthFault::Untagged)));

    for (key, want) in [
        (HopKey::new(8, &[0x5a; 32]), AuthFault::UnknownKey { id: 8 }),
        (HopKey::new(7, &[0x5b; 32]), AuthFault::WrongTag),
    ] {
        let mut wire = Vec::new();
        header().encode(&key, 1, &mut wire).unwrap();
        assert_eq!(accept(&wire), Err(HopRefusal::AuthFailed(want)));
    }
}

/// R-21: nothing can be appended behind a tag, and a tag is whole.
#[test]
fn the_tag_is_the_last_tlv_and_of_its_size() {
    let valid = tagged(0x21, 0x11, &block(&[ID, ENTRY]));
    let with_length = |tlvs: &[u8]| {
        let length = u16::try_from(tlvs.len()).unwrap().to_be_bytes();
        [&valid[..14], &length, tlvs].concat()
    };
    let body = &valid[16..];
    let appended = with_length(&[body, &[tlv::NOOP, 0, 1, 0]].concat());
    assert_eq!(accept(&appended), Err(HopFault::Tag.into()));
    let as_long_as_a_tag = [&[0xe7, 0, 32][..], &[1; 32]].concat();
    let appended = with_length(&[body, &as_long_as_a_tag].concat());
    assert_eq!(accept(&appended), Err(HopFault::Tag.into()));
    let before_tag = &body[..body.len() - 3 - TAG_LEN];
    for size in [0, 31, 33] {
        let tag = [&[TAG, 0, size], &vec![1; usize::from(size)][..]].concat();
        assert_eq!(accept(&with_length(&[before_tag, &tag].concat())), Err(HopFault::Tag.into()), "{size}");
    }
    let mut zero = valid.clone();
    let counter = zero.len() - 24..zero.len() - 16;
    zero[counter].fill(0);
    assert_eq!(accept(&zero), Err(HopFault::ZeroCounter.into()));
}

/// R-21: what cannot be sent is an error of the sender and leaves nothing half written.
#[test]
fn a_header_that_cannot_be_written_leaves_the_buffer_as_it_was() {
    let mut out = b"before".to_vec();
    let long = HopHeader { entry: "e".repeat(1000), ..header() };
    let length = encoded(&header(), 1).len() + 1000 - 3;
    assert_eq!(long.encode(&key(), 1, &mut out), Err(HopEncodeError::TooLong { length }));
    let huge = HopHeader { entry: "e".repeat(70_000), ..header() };
    assert_eq!(huge.encode(&key(), 1, &mut out), Err(HopEncodeError::Header(ProxyV2EncodeError)));
    let unnamed = HopHeader { server_name: Some(String::new()), ..header() };
    assert_eq!(unnamed.encode(&key(), 1, &mut out), Err(HopEncodeError::ServerName(NameFault::Empty)));
    assert_eq!(header().encode(&key(), 0, &mut out), Err(HopEncodeError::ZeroCounter));
    assert_eq!(out, b"before");
}

/// The secret of a key never reaches a log.
#[test]
fn a_key_is_shown_without_its_secret() {
    assert_eq!(format!("{:?}", key()), "HopKey { id: 7, .. }");
}

prop_compose! {
    fn any_header()(
        client: SocketAddr,
        local: SocketAddr,
        server_name in prop::option::of("[a-z0-9_-]{1,63}(\\.[a-z0-9_-]{1,60}){0,2}"),
        connection_id: u128,
        entry in "\\PC{0,60}",
        generation: u64,
        clear: bool,
    ) -> HopHeader {
        let Addresses { source: client, destination: local } = Addresses::new(client, local);
        let class = if clear { HopClass::Clear } else { HopClass::Tls };
        HopHeader { client, local, server_name, connection_id, entry, generation, class }
    }
}

proptest! {
    /// R-21, R-24: any header round-trips, addresses of mixed families included.
    #[test]
    fn any_header_is_read_back(header in any_header(), counter in 1_u64.., before in 0_usize..4) {
        let mut out = vec![0xaa; before];
        let length = header.encode(&key(), counter, &mut out).unwrap();
        let want = VerifiedHopHeader { header, key_id: 7, counter };
        prop_assert_eq!(accept(&out[before..]), Ok(Progress::Complete((want, length))));
    }

    /// R-21: no change whatever of a header verifies.
    #[test]
    fn no_changed_header_verifies(
        header in any_header(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4),
    ) {
        let wire = encoded(&header, 1);
        let mut changed = wire.clone();
        for (at, change) in changes {
            changed[at.index(wire.len())] ^= change;
        }
        prop_assume!(changed != wire);
        let verified = matches!(accept(&changed), Ok(Progress::Complete(_)));
        prop_assert!(!verified);
    }

    /// R-21: arbitrary bytes, also behind a valid beginning, never panic and never verify.
    #[test]
    fn arbitrary_bytes_never_verify(kept in 0_usize..60, noise in prop::collection::vec(any::<u8>(), 1..200)) {
        let wire = encoded(&header(), 1);
        let received = [&wire[..kept], &noise].concat();
        prop_assume!(!received.starts_with(&wire));
        let verified = matches!(accept(&received), Ok(Progress::Complete(_)));
        prop_assert!(!verified);
    }
}
