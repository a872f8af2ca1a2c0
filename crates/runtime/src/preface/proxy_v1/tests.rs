//! Owns the proof that a version 1 line is read as the specification spells it, and not otherwise.
//! Never opens a socket.
//! Invariant: every example is taken from, or breaks one sentence of, `proxy-protocol.txt` §2.1.

use proptest::prelude::*;

use super::*;

fn tcp(source: &str, destination: &str) -> ProxyV1 {
    ProxyV1::Tcp(Addresses::new(source.parse().unwrap(), destination.parse().unwrap()))
}

/// R-23, R-24: the examples of the specification, and the canonical form of their addresses.
#[test]
fn the_lines_of_the_specification_are_read() {
    let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                   ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(longest.len(), PROXY_V1_LIMIT);
    for (line, want) in [
        ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", tcp("192.168.0.1:56324", "192.168.0.11:443")),
        ("PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n", tcp("255.255.255.255:65535", "0.0.0.0:0")),
        ("PROXY TCP6 2001:DB8::1 ::1 1 2\r\n", tcp("[2001:db8::1]:1", "[::1]:2")),
        ("PROXY TCP6 ::ffff:1.2.3.4 ::ffff:102:305 1 2\r\n", tcp("1.2.3.4:1", "1.2.3.5:2")),
        ("PROXY UNKNOWN\r\n", ProxyV1::Unknown),
        ("PROXY UNKNOWN whatever\x01 it says\r\n", ProxyV1::Unknown),
        (longest, ProxyV1::Unknown),
    ] {
        let received = [line.as_bytes(), b"\r\nGET /"].concat();
        assert_eq!(ProxyV1::parse(&received), Ok(Progress::Complete((want, line.len()))), "{line}");
        for end in 0..line.len() {
            let progress = ProxyV1::parse(&received[..end]).expect(line);
            let Progress::Incomplete { at_least } = progress else { panic!("{progress:?}") };
            assert!(at_least >= 1 && end + at_least <= line.len(), "{line}: {end} + {at_least}");
        }
    }
}

/// R-23: what does not exactly match the specification is refused, with the first byte that shows it.
#[test]
fn a_line_that_differs_is_refused_as_soon_as_it_differs() {
    let too_long = format!("PROXY UNKNOWN {}", "x".repeat(93));
    let cr_too_late = format!("PROXY UNKNOWN {}\r", "x".repeat(92));
    for (shortest, want) in [
        ("p", ProxyV1Error::Prefix),
        ("PROXY\t", ProxyV1Error::Prefix),
        ("PROXY\r\n", ProxyV1Error::Prefix),
        ("PROXY  ", ProxyV1Error::Protocol),
        ("PROXY TCP5", ProxyV1Error::Protocol),
        ("PROXY TCP4\r\n", ProxyV1Error::Protocol),
        ("PROXY UD", ProxyV1Error::Protocol),
        ("PROXY UNKNOWNX", ProxyV1Error::Protocol),
        ("PROXY UNKNOWN\n", ProxyV1Error::LineEnd),
        ("PROXY UNKNOWN\rx", ProxyV1Error::LineEnd),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", ProxyV1Error::LineEnd),
        ("PROXY TCP4 1.2.3.4%", ProxyV1Error::Character { found: b'%' }),
        ("PROXY TCP6 [", ProxyV1Error::Character { found: b'[' }),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 +", ProxyV1Error::Character { found: b'+' }),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", ProxyV1Error::Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", ProxyV1Error::Addresses),
        ("PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n", ProxyV1Error::Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", ProxyV1Error::Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", ProxyV1Error::Addresses),
        ("PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", ProxyV1Error::Addresses),
        ("PROXY TCP4 256.2.3.4 1.2.3.4 1 2\r\n", ProxyV1Error::Addresses),
        ("PROXY TCP4 ::1 ::1 1 2\r\n", ProxyV1Error::Addresses),
        ("PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", ProxyV1Error::Addresses),
        (&too_long, ProxyV1Error::TooLong),
        (&cr_too_late, ProxyV1Error::TooLong),
    ] {
        assert_eq!(ProxyV1::parse(shortest.as_bytes()), Err(want), "{shortest:?}");
        let before = &shortest.as_bytes()[..shortest.len() - 1];
        assert!(matches!(ProxyV1::parse(before), Ok(Progress::Incomplete { .. })), "{shortest:?}");
    }
}

/// R-24: an IPv4 client of an IPv6 listener is written in the one family that the line has.
#[test]
fn addresses_of_two_families_are_written_as_ipv6() {
    let mut line = Vec::new();
    tcp("1.2.3.4:5", "[2001:db8::1]:443").encode(&mut line);
    assert_eq!(line, b"PROXY TCP6 ::ffff:102:304 2001:db8::1 5 443\r\n");
}

proptest! {
    /// R-23: what is written is read back, canonical.
    #[test]
    fn a_written_line_is_read_back(source: std::net::SocketAddr, destination: std::net::SocketAddr) {
        let want = ProxyV1::Tcp(Addresses::new(source, destination));
        let mut line = Vec::new();
        want.encode(&mut line);
        let length = line.len();
        prop_assert_eq!(ProxyV1::parse(&line), Ok(Progress::Complete((want, length))));
    }

    /// R-23: arbitrary bytes behind a plausible beginning never panic, and no prefix of an accepted line fails.
    #[test]
    fn arbitrary_lines_never_panic(
        opening in prop::sample::select(vec!["", "PROXY ", "PROXY TCP4 1.2.3.4 ", "PROXY TCP6 ::1 "]),
        tail in "[0-9a-f:. \r\n]{0,100}",
        noise in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let received = [opening.as_bytes(), tail.as_bytes(), &noise].concat();
        if let Ok(Progress::Complete((_, length))) = ProxyV1::parse(&received) {
            for end in 0..length {
                let early = ProxyV1::parse(&received[..end]);
                let incomplete = matches!(early, Ok(Progress::Incomplete { .. }));
                prop_assert!(incomplete, "{:?}", early);
            }
        }
    }
}
