//! Owns the proof that a version 2 header is read as the specification says, and no further.
//! Never opens a socket.
//! Invariant: every refused header differs from a valid one in the one thing that is refused.

use proptest::prelude::*;

use super::*;

fn addresses(source: &str, destination: &str) -> Addresses {
    Addresses::new(source.parse().unwrap(), destination.parse().unwrap())
}

fn header(version_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[version_command, family], &length, block].concat()
}

fn parse(received: &[u8]) -> Result<ProxyV2<'_>, ProxyV2Error> {
    match ProxyV2::parse(received, PROXY_V2_LIMIT)? {
        Progress::Complete(header) => Ok(header),
        Progress::Incomplete { at_least } => panic!("{at_least} bytes are missing"),
    }
}

/// a header as haproxy writes it, byte for byte.
#[test]
fn a_header_on_the_wire_is_read_and_written_alike() {
    let block = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb, 2, 0, 3, b'a', b'.', b'b'];
    let wire = header(0x21, 0x11, &block);
    let read = parse(&wire).unwrap();
    assert_eq!(read.command, ProxyV2Command::Proxy);
    assert_eq!(read.addresses, Some(addresses("192.168.0.1:56324", "192.168.0.11:443")));
    assert_eq!(read.tlvs.first(tlv::AUTHORITY), Some(b"a.b".as_slice()));
    assert_eq!(read.wire_len, wire.len());
    let mut written = Vec::new();
    let tlvs: Vec<_> = read.tlvs.iter().collect();
    ProxyV2::encode(read.addresses, &tlvs, &mut written).unwrap();
    assert_eq!(written, wire);
}

/// the connection's own addresses count where §2.2 says so, whatever stands in the block.
#[test]
fn only_tcp_over_ip_gives_addresses() {
    let block = [1_u8; 250];
    for (version_command, family, addresses, tlvs) in [
        (0x20, 0x00, false, 0),
        (0x20, 0x11, false, 0),
        (0x20, 0xff, false, 0),
        (0x21, 0x00, false, 0),
        (0x21, 0x01, false, 0),
        (0x21, 0x10, false, 0),
        (0x21, 0x11, true, 1),
        (0x21, 0x12, false, 1),
        (0x21, 0x21, true, 1),
        (0x21, 0x22, false, 1),
        (0x21, 0x31, false, 1),
        (0x21, 0x32, false, 1),
    ] {
        let length = match family >> 4 {
            1 => 12,
            2 => 36,
            _ => 216,
        };
        let block = [&block[..length], &[tlv::NOOP, 0, 1, 0]].concat();
        let wire = header(version_command, family, &block);
        let read = parse(&wire).unwrap();
        assert_eq!(read.addresses.is_some(), addresses, "{family:#x}");
        assert_eq!(read.tlvs.iter().count(), tlvs, "{family:#x}");
        assert_eq!(read.wire_len, wire.len());
    }
    assert_eq!(parse(&header(0x20, 0, &[])).unwrap().command, ProxyV2Command::Local);
}

/// each rule of §2.2 that a header can break, refused with the byte that breaks it.
#[test]
fn what_the_specification_forbids_is_refused_as_soon_as_it_shows() {
    let shown_by = |wire: &[u8], shortest: usize, want: ProxyV2Error| {
        assert_eq!(ProxyV2::parse(&wire[..shortest], PROXY_V2_LIMIT), Err(want));
        let before = ProxyV2::parse(&wire[..shortest - 1], PROXY_V2_LIMIT);
        assert!(matches!(before, Ok(Progress::Incomplete { .. })), "{want:?}: {before:?}");
    };
    for at in 0..SIGNATURE.len() {
        let mut wire = header(0x21, 0x11, &[0; 12]);
        wire[at] ^= 1;
        shown_by(&wire, at + 1, ProxyV2Error::Signature);
    }
    shown_by(&header(0x11, 0x11, &[0; 12]), 13, ProxyV2Error::Version { found: 1 });
    shown_by(&header(0x22, 0x11, &[0; 12]), 13, ProxyV2Error::Command { found: 2 });
    shown_by(&header(0x21, 0x41, &[0; 12]), 14, ProxyV2Error::Family { found: 0x41 });
    shown_by(&header(0x21, 0x13, &[0; 12]), 14, ProxyV2Error::Family { found: 0x13 });
    shown_by(&header(0x21, 0x11, &[0; 11]), 16, ProxyV2Error::AddressesTooShort { length: 11 });
    shown_by(&header(0x21, 0x21, &[0; 35]), 16, ProxyV2Error::AddressesTooShort { length: 35 });
    shown_by(&header(0x21, 0x31, &[0; 215]), 16, ProxyV2Error::AddressesTooShort { length: 215 });
    let huge = header(0x21, 0x11, &[0; PROXY_V2_LIMIT - FIXED + 1]);
    shown_by(&huge, 16, ProxyV2Error::TooLong { length: PROXY_V2_LIMIT + 1, limit: PROXY_V2_LIMIT });
    for cut_off in [&[4_u8][..], &[4, 0], &[4, 0, 1], &[4, 0, 0, 4, 1, 0, 0]] {
        let wire = header(0x21, 0x11, &[&[0; 12], cut_off].concat());
        shown_by(&wire, wire.len(), ProxyV2Error::Tlv);
    }
}

/// a header of exactly the limit is read, and the bytes behind it are the client's.
#[test]
fn a_header_of_the_limit_is_read() {
    let padding = vec![0; PROXY_V2_LIMIT - FIXED - 12 - 3];
    let mut wire = Vec::new();
    let tlvs = [Tlv { kind: tlv::NOOP, value: &padding }];
    ProxyV2::encode(Some(addresses("1.2.3.4:5", "6.7.8.9:10")), &tlvs, &mut wire).unwrap();
    assert_eq!(wire.len(), PROXY_V2_LIMIT);
    wire.extend_from_slice(b"GET / HTTP/1.1");
    assert_eq!(parse(&wire).unwrap().wire_len, PROXY_V2_LIMIT);
}

/// the checksum is checked where there is one (§2.2.3), wherever it stands.
#[test]
fn a_header_with_a_wrong_checksum_is_refused() {
    assert_eq!(!crc32c(u32::MAX, b"123456789"), 0xe306_9283, "the check value of CRC-32C");
    let mut wire = Vec::new();
    let tlvs =
        [Tlv { kind: tlv::CRC32C, value: &[0; 4] }, Tlv { kind: tlv::AUTHORITY, value: b"example.com" }];
    ProxyV2::encode(Some(addresses("1.2.3.4:5", "6.7.8.9:10")), &tlvs, &mut wire).unwrap();
    let sum = !crc32c(u32::MAX, &wire);
    wire[31..35].copy_from_slice(&sum.to_be_bytes());
    assert!(parse(&wire).is_ok());
    for at in FIXED..wire.len() {
        let mut flipped = wire.clone();
        flipped[at] ^= 0x40;
        let refused = matches!(parse(&flipped), Err(ProxyV2Error::Checksum | ProxyV2Error::Tlv));
        // The byte of the type makes it another TLV, which nobody checks.
        assert_eq!(refused, at != FIXED + 12, "byte {at}");
    }
    let short = header(0x21, 0x11, &[&[0; 12][..], &[tlv::CRC32C, 0, 3, 0, 0, 0]].concat());
    assert_eq!(parse(&short), Err(ProxyV2Error::Checksum));
}

/// what cannot be said in a header leaves nothing half written.
#[test]
fn tlvs_that_do_not_fit_leave_the_buffer_as_it_was() {
    let mut out = b"before".to_vec();
    let value = vec![0; 65_536];
    assert_eq!(
        ProxyV2::encode(None, &[Tlv { kind: tlv::NOOP, value: &value }], &mut out),
        Err(ProxyV2EncodeError)
    );
    let half = Tlv { kind: tlv::NOOP, value: &value[..40_000] };
    assert_eq!(ProxyV2::encode(None, &[half, half], &mut out), Err(ProxyV2EncodeError));
    assert_eq!(out, b"before");
}

proptest! {
    /// what is written is read back, canonical; every prefix of it is incomplete and says
    /// truthfully how much is missing.
    #[test]
    fn a_written_header_is_read_back(
        pair in prop::option::of(any::<(std::net::SocketAddr, std::net::SocketAddr)>()),
        tlvs in prop::collection::vec((4_u8.., prop::collection::vec(any::<u8>(), 0..40)), 0..6),
    ) {
        let given = pair.map(|(source, destination)| Addresses::new(source, destination));
        let tlvs: Vec<_> = tlvs.iter().map(|(kind, value)| Tlv { kind: *kind, value }).collect();
        let mut wire = Vec::new();
        ProxyV2::encode(given, &tlvs, &mut wire).unwrap();
        for end in 0..wire.len() {
            let progress = ProxyV2::parse(&wire[..end], PROXY_V2_LIMIT).unwrap();
            let Progress::Incomplete { at_least } = progress else { panic!("{progress:?}") };
            prop_assert!(at_least >= 1 && end + at_least <= wire.len());
        }
        let read = parse(&wire).unwrap();
        prop_assert_eq!(read.addresses, given);
        prop_assert_eq!(read.wire_len, wire.len());
        let kept = if given.is_some() { tlvs } else { Vec::new() };
        prop_assert_eq!(read.tlvs.iter().collect::<Vec<_>>(), kept);
    }

    /// arbitrary bytes behind the signature never panic.
    #[test]
    fn arbitrary_headers_never_panic(
        fixed in (prop::sample::select(vec![0x20_u8, 0x21]), any::<u8>(), 0_u16..300),
        block in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let (version_command, family, length) = fixed;
        let wire = [&SIGNATURE[..], &[version_command, family], &length.to_be_bytes(), &block].concat();
        if let Ok(Progress::Complete(header)) = ProxyV2::parse(&wire, PROXY_V2_LIMIT) {
            prop_assert_eq!(header.wire_len, FIXED + usize::from(length));
            for end in 0..header.wire_len {
                let early = ProxyV2::parse(&wire[..end], PROXY_V2_LIMIT);
                let incomplete = matches!(early, Ok(Progress::Incomplete { .. }));
                prop_assert!(incomplete, "{:?}", early);
            }
        }
    }
}
