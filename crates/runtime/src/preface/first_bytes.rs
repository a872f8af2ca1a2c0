//! What kind of traffic a client's first bytes begin.
//!
//! Owns the distinction TLS, HTTP in clear text, neither.
//! Never reads further than the longest method name, and never decides what a listener does with the
//! answer: a ClientHello that turns out to be broken is `Tls` here and a fault of `ClientHelloReader`.
//! Invariant: an answer other than `NeedMore` never changes when more bytes arrive.

/// The class of a connection, as far as its first bytes show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstBytes {
    /// What is there fits more than one class; at most 16 bytes settle it.
    NeedMore,
    /// A TLS handshake record of major version 3 (SSL 3.0 to TLS 1.3).
    Tls,
    /// An HTTP/1 request method and a space, or the HTTP/2 connection preface.
    PlainHttp,
    /// Neither: for a listener that has a route for opaque bytes, any protocol of its own.
    Opaque,
}

/// What starts an HTTP request: the methods of RFC 9110 §9.3, PATCH (RFC 5789), WebDAV (RFC 4918,
/// RFC 3253, RFC 5323), QUERY, and the HTTP/2 connection preface (RFC 9113 §3.4).
///
/// A list, not the grammar of a method: `NICK x` and `AUTH x` would fit that, and are other protocols.
const HTTP_OPENINGS: [&[u8]; 20] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"CONNECT ",
    b"TRACE ",
    b"PATCH ",
    b"PROPFIND ",
    b"PROPPATCH ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
    b"LOCK ",
    b"UNLOCK ",
    b"REPORT ",
    b"SEARCH ",
    b"QUERY ",
    b"PRI * HTTP/2",
];

/// The content type of a TLS handshake record (RFC 8446 §5.1).
pub(super) const HANDSHAKE: u8 = 22;
/// The major version that every record since SSL 3.0 carries.
pub(super) const MAJOR: u8 = 3;

/// Classifies all bytes that the client has sent so far.
///
/// A TLS client is told by two bytes; the rest of the record is judged by `ClientHelloReader`, so that a
/// broken hello is named as one and is not mistaken for another protocol. An SSLv2-style hello has no mark
/// that an opaque protocol could not have, and is `Opaque`.
pub fn classify(received: &[u8]) -> FirstBytes {
    match received {
        [] | [HANDSHAKE] => FirstBytes::NeedMore,
        [HANDSHAKE, MAJOR, ..] => FirstBytes::Tls,
        _ if HTTP_OPENINGS.iter().any(|opening| received.starts_with(opening)) => FirstBytes::PlainHttp,
        _ if HTTP_OPENINGS.iter().any(|opening| opening.starts_with(received)) => FirstBytes::NeedMore,
        _ => FirstBytes::Opaque,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// each class, told by the fewest bytes that can tell it.
    #[test]
    fn each_class_is_told_as_soon_as_it_can_be() {
        for (received, want) in [
            (b"".as_slice(), FirstBytes::NeedMore),
            (b"\x16", FirstBytes::NeedMore),
            (b"\x16\x03", FirstBytes::Tls),
            (b"\x16\x03\x01\x02\x00\x01", FirstBytes::Tls),
            (b"\x16\x02", FirstBytes::Opaque),
            (b"\x15\x03", FirstBytes::Opaque),
            (b"\x80", FirstBytes::Opaque),
            (b"G", FirstBytes::NeedMore),
            (b"GET", FirstBytes::NeedMore),
            (b"GET ", FirstBytes::PlainHttp),
            (b"GETS", FirstBytes::Opaque),
            (b"get ", FirstBytes::Opaque),
            (b"PRI * HTTP/", FirstBytes::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", FirstBytes::PlainHttp),
            (b"PROXY TCP4 ", FirstBytes::Opaque),
            (b"PROPFIND /", FirstBytes::PlainHttp),
            (b"SSH-2.0-x", FirstBytes::Opaque),
            (b"EHLO x\r\n", FirstBytes::Opaque),
        ] {
            assert_eq!(classify(received), want, "{received:?}");
        }
    }

    proptest! {
        /// a class once told stays, however the bytes were cut.
        #[test]
        fn an_answer_never_changes_with_more_bytes(
            opening in prop::sample::select(HTTP_OPENINGS.to_vec()),
            cut in 0_usize..13,
            tail in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let bytes = [&opening[..cut.min(opening.len())], &tail].concat();
            let whole = classify(&bytes);
            for end in 0..bytes.len() {
                let early = classify(&bytes[..end]);
                prop_assert!(early == FirstBytes::NeedMore || early == whole);
            }
        }

        /// sixteen bytes always suffice.
        #[test]
        fn sixteen_bytes_always_tell_the_class(bytes in any::<[u8; 16]>()) {
            prop_assert_ne!(classify(&bytes), FirstBytes::NeedMore);
        }
    }
}
