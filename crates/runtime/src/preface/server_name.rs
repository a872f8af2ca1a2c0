//! The one spelling of a host name that came from the wire.
//!
//! Owns the check that a server name is a DNS name and its canonical form: ASCII, lower case, no
//! trailing dot, the same form in which routes are written.
//! Never resolves, never decides whether a name is served here.
//! Invariant: `canonical_name` is idempotent, and two spellings of one name have one result.

/// The longest DNS name in its text form (RFC 1035 §2.3.4, without the trailing dot).
const NAME_LIMIT: usize = 253;
/// The longest label (RFC 1035 §2.3.4).
const LABEL_LIMIT: usize = 63;

/// Why bytes are not a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// No character at all, or only the root's dot.
    #[error("the name is empty")]
    Empty,
    /// More than 253 bytes.
    #[error("the name has {length} bytes, more than 253")]
    TooLong {
        /// Its bytes, without a trailing dot.
        length: usize,
    },
    /// A label of no or more than 63 bytes.
    #[error("a label of the name has {length} bytes, not 1 to 63")]
    Label {
        /// The label's bytes.
        length: usize,
    },
    /// A byte that no host name has: not a letter, digit, hyphen or underscore.
    #[error("the name contains the byte {found:#04x}")]
    Character {
        /// The byte.
        found: u8,
    },
}

/// `name` in lower case without a trailing dot.
///
/// Letters, digits, hyphens and underscores are taken in any place of a label: names that RFC 952 would
/// refuse (`_dmarc`, a label that ends in a hyphen) are in use, and a router need not know better.
pub fn canonical_name(name: &[u8]) -> Result<String, NameFault> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() {
        return Err(NameFault::Empty);
    }
    if name.len() > NAME_LIMIT {
        return Err(NameFault::TooLong { length: name.len() });
    }
    let strange = |byte: &u8| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if let Some(found) = name.iter().copied().find(|byte| strange(byte)) {
        return Err(NameFault::Character { found });
    }
    for label in name.split(|byte| *byte == b'.') {
        if label.is_empty() || label.len() > LABEL_LIMIT {
            return Err(NameFault::Label { length: label.len() });
        }
    }
    Ok(name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// one spelling, so that a route is found whatever the client's case.
    #[test]
    fn names_are_lower_cased_and_lose_one_trailing_dot() {
        let longest = [[b'a'; 63].as_slice(), &[b'b'; 63], &[b'c'; 63], &[b'd'; 61]].join(&b'.');
        assert_eq!(longest.len(), 253);
        for (given, want) in [
            (b"WWW.Example.COM".as_slice(), "www.example.com"),
            (b"example.com.", "example.com"),
            (b"localhost", "localhost"),
            (b"_dmarc.a-.r3---sn.example", "_dmarc.a-.r3---sn.example"),
            (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
            (&longest, std::str::from_utf8(&longest).unwrap()),
        ] {
            assert_eq!(canonical_name(given).as_deref(), Ok(want));
        }
    }

    /// what is not a name never becomes a key of the route table.
    #[test]
    fn what_is_not_a_dns_name_is_refused_with_the_reason() {
        let long_label = [b"x".repeat(64).as_slice(), b".example"].concat();
        let long_name = [b"a.".repeat(126).as_slice(), b"aa"].concat();
        for (given, want) in [
            (b"".as_slice(), NameFault::Empty),
            (b".", NameFault::Empty),
            (b"a..b", NameFault::Label { length: 0 }),
            (b".a", NameFault::Label { length: 0 }),
            (b"a..", NameFault::Label { length: 0 }),
            (&long_label, NameFault::Label { length: 64 }),
            (&long_name, NameFault::TooLong { length: 254 }),
            ("b\u{fc}cher.example".as_bytes(), NameFault::Character { found: 0xc3 }),
            (b"a\0.example", NameFault::Character { found: 0 }),
            (b"*.example", NameFault::Character { found: b'*' }),
            (b"a b", NameFault::Character { found: b' ' }),
            (b"host:443", NameFault::Character { found: b':' }),
        ] {
            assert_eq!(canonical_name(given), Err(want), "{given:?}");
        }
    }

    proptest! {
        /// arbitrary bytes never panic and what is accepted is a fixed point.
        #[test]
        fn a_canonical_name_is_its_own_canonical_name(bytes in "\\PC{0,80}") {
            if let Ok(name) = canonical_name(bytes.as_bytes()) {
                prop_assert_eq!(canonical_name(name.as_bytes()), Ok(name));
            }
        }
    }
}
