//! The ClientHello, read from whatever has arrived of it.
//!
//! Owns record reassembly, the walk over the hello's fields and the reasons why bytes are not a hello.
//! Never changes or keeps the client's bytes (they are replayed as they came), and never judges what a
//! terminating server has to judge: ciphers, groups, compression, and extensions not named in
//! `extensions`.
//! Invariant: work is linear in the bytes received, however they are cut; a fault is reported with the
//! first byte that shows it, and the same fault for every segmentation.

mod extensions;
mod fault;
#[cfg(test)]
mod tests;

use std::fmt;

pub use self::extensions::Alpn;
pub use self::fault::{ClientHelloError, Field, HelloFault};
use super::Progress;
use super::first_bytes::{FirstBytes, HANDSHAKE, MAJOR, classify};

/// The default bound on the bytes of a hello, its record headers included.
pub const CLIENT_HELLO_LIMIT: usize = 16 * 1024;

/// TLSPlaintext: content type, version, length (RFC 8446 §5.1).
const RECORD_HEADER: usize = 5;
/// The longest plaintext fragment (RFC 8446 §5.1).
const RECORD_LIMIT: usize = 1 << 14;
/// Handshake: message type, length (RFC 8446 §4).
const MESSAGE_HEADER: usize = 4;
/// The message type of a ClientHello (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;
/// The shortest hello: version, random, no session id, one cipher suite, one compression method.
const SHORTEST_BODY: usize = 2 + 32 + 1 + 2 + 2 + 1 + 1;

/// What a router needs to know of a ClientHello (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The `host_name` of the SNI extension, canonical (see `canonical_name`); `None` without the
    /// extension or where it names an IP address. With ECH it is the outer, public name.
    pub server_name: Option<String>,
    /// The SNI extension carried an IP address. RFC 6066 §3 does not permit one; it is taken as no name,
    /// as rustls takes it, because clients in the field send it and a route without domains can serve them.
    pub server_name_is_ip: bool,
    /// The protocols offered in ALPN, in the client's order; empty without the extension.
    pub alpn: Alpn,
    /// The highest version offered, from `supported_versions` where there is one, GREASE apart.
    pub highest_version: TlsVersion,
    /// The hello carries `encrypted_client_hello`, real or GREASE (nobody can tell).
    pub has_ech: bool,
    /// The bytes that the hello and its record headers take; what follows is the client's next flight.
    pub wire_len: usize,
}

impl ClientHello {
    /// Reads a hello from all bytes received so far, of which it may take at most `limit`.
    ///
    /// Starts anew with each call; a caller that is called back for each read keeps a
    /// [`ClientHelloReader`] instead.
    pub fn parse(received: &[u8], limit: usize) -> Result<Progress<Self>, ClientHelloError> {
        ClientHelloReader::new(limit).push(received)
    }
}

/// A hello in the course of its arrival.
#[derive(Debug)]
pub struct ClientHelloReader {
    limit: usize,
    opening: Opening,
    /// Bytes of the caller's buffer that were taken in.
    seen: usize,
    /// Bytes of the record under way that have not arrived.
    left_in_record: usize,
    /// The handshake message so far, record headers removed.
    message: Vec<u8>,
    /// Where in `message` the first unread extension starts, once the walk has come that far.
    next_extension: Option<usize>,
    found: extensions::Found,
    hello: ClientHello,
}

impl ClientHelloReader {
    /// A reader that accepts a hello of at most `limit` bytes, record headers included.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            opening: Opening::Unknown,
            seen: 0,
            left_in_record: 0,
            message: Vec::new(),
            next_extension: None,
            found: extensions::Found::default(),
            hello: ClientHello::default(),
        }
    }

    /// Takes in what is new in `received`, which holds *all* bytes since the connection began.
    ///
    /// The caller keeps them anyway, to replay them. After `Complete` or an error the reader is spent.
    pub fn push(&mut self, received: &[u8]) -> Result<Progress<ClientHello>, ClientHelloError> {
        if self.opening == Opening::Unknown {
            self.opening = open(received)?;
            if self.opening == Opening::Unknown {
                return Ok(Progress::Incomplete { at_least: 1 });
            }
        }
        loop {
            let rest = received.get(self.seen..).unwrap_or_default();
            self.check_limit()?;
            if self.left_in_record == 0 {
                let Some(length) = record_length(rest)? else {
                    return Ok(Progress::Incomplete { at_least: self.missing() - rest.len() });
                };
                self.seen += RECORD_HEADER;
                self.left_in_record = length;
                continue;
            }
            if rest.is_empty() {
                return Ok(Progress::Incomplete { at_least: self.missing() });
            }
            let fragment = &rest[..rest.len().min(self.left_in_record)];
            self.message.extend_from_slice(fragment);
            self.seen += fragment.len();
            self.left_in_record -= fragment.len();
            match self.walk() {
                Err(Pause::Fault(fault)) => return Err(ClientHelloError::Invalid(fault)),
                Err(Pause::Wait) => {}
                Ok(()) => {
                    self.hello.wire_len = self.seen;
                    return Ok(Progress::Complete(std::mem::take(&mut self.hello)));
                }
            }
        }
    }

    /// Walks the message as far as it has arrived; `Ok` at its end.
    ///
    /// What precedes the extensions is walked again after each read, which costs the same few steps
    /// whatever its size; the extensions, of which there can be thousands, are walked once.
    fn walk(&mut self) -> Result<(), Pause> {
        let end = match *self.message.as_slice() {
            [CLIENT_HELLO, ..] if self.message.len() < MESSAGE_HEADER => return Err(Pause::Wait),
            [CLIENT_HELLO, a, b, c, ..] => MESSAGE_HEADER + u32::from_be_bytes([0, a, b, c]) as usize,
            [found, ..] => return Err(HelloFault::HandshakeType { found }.into()),
            [] => return Err(Pause::Wait),
        };
        if end < MESSAGE_HEADER + SHORTEST_BODY {
            return Err(HelloFault::TooShort { length: end - MESSAGE_HEADER }.into());
        }
        if self.bytes_needed() > self.limit {
            return Err(HelloFault::TooLarge { limit: self.limit }.into());
        }
        let mut walk =
            Walk { message: &self.message, at: self.next_extension.unwrap_or(MESSAGE_HEADER), end };
        if self.next_extension.is_none() {
            self.hello.highest_version = walk_to_extensions(&mut walk)?;
            self.next_extension = Some(walk.at);
        }
        while walk.at < end {
            let kind = walk.u16(Field::Extension)?;
            let length = walk.u16(Field::Extension)?;
            let body = walk.take(usize::from(length), Field::Extension)?;
            extensions::read(&mut self.hello, &mut self.found, kind, body)?;
            self.next_extension = Some(walk.at);
        }
        if self.message.len() > end || self.left_in_record > 0 {
            return Err(HelloFault::TrailingBytes.into());
        }
        Ok(())
    }

    /// The bytes that are missing at least, the header of a further record included.
    fn missing(&self) -> usize {
        let missing = self.end().saturating_sub(self.message.len());
        if missing > self.left_in_record { missing + RECORD_HEADER } else { missing }
    }

    /// The bytes that the hello will have taken at least. What came behind it in the same read is not its
    /// own, and must not make it too large: in another read it would have come later.
    fn bytes_needed(&self) -> usize {
        let behind = self.message.len().saturating_sub(self.end());
        self.seen - behind + self.missing()
    }

    /// Where the message ends; the least that is possible while its header is not whole.
    fn end(&self) -> usize {
        match *self.message.as_slice() {
            [_, a, b, c, ..] => MESSAGE_HEADER + u32::from_be_bytes([0, a, b, c]) as usize,
            _ => MESSAGE_HEADER + SHORTEST_BODY,
        }
    }

    fn check_limit(&self) -> Result<(), ClientHelloError> {
        if self.bytes_needed() > self.limit {
            return Err(HelloFault::TooLarge { limit: self.limit }.into());
        }
        Ok(())
    }
}

/// A TLS protocol version as it is written on the wire, 0x0301 to 0x0304 for TLS 1.0 to 1.3.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TlsVersion(pub u16);

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0x0300 => f.write_str("SSLv3"),
            0x0301 => f.write_str("TLSv1.0"),
            0x0302 => f.write_str("TLSv1.1"),
            0x0303 => f.write_str("TLSv1.2"),
            0x0304 => f.write_str("TLSv1.3"),
            other => write!(f, "{other:#06x}"),
        }
    }
}

/// Whether the first bytes have shown that this is TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    Unknown,
    Tls,
}

/// Why the walk over a message stops before its end.
enum Pause {
    Wait,
    Fault(HelloFault),
}

impl From<HelloFault> for Pause {
    fn from(fault: HelloFault) -> Self {
        Self::Fault(fault)
    }
}

/// A walk over a message of known length of which only the beginning may have arrived.
struct Walk<'a> {
    message: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Walk<'a> {
    fn take(&mut self, count: usize, field: Field) -> Result<&'a [u8], Pause> {
        let upto = self.at + count;
        if upto > self.end {
            return Err(HelloFault::Length(field).into());
        }
        let taken = self.message.get(self.at..upto).ok_or(Pause::Wait)?;
        self.at = upto;
        Ok(taken)
    }

    fn u8(&mut self, field: Field) -> Result<u8, Pause> {
        Ok(self.take(1, field)?[0])
    }

    fn u16(&mut self, field: Field) -> Result<u16, Pause> {
        let bytes = self.take(2, field)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

/// Walks over everything before the first extension; returns the version field.
fn walk_to_extensions(walk: &mut Walk<'_>) -> Result<TlsVersion, Pause> {
    let version = walk.u16(Field::Random)?;
    if version < 0x0300 {
        return Err(HelloFault::Version { found: version }.into());
    }
    walk.take(32, Field::Random)?;
    let session_id = walk.u8(Field::SessionId)?;
    if session_id > 32 {
        return Err(HelloFault::Length(Field::SessionId).into());
    }
    walk.take(usize::from(session_id), Field::SessionId)?;
    let suites = walk.u16(Field::CipherSuites)?;
    if suites == 0 || suites % 2 != 0 {
        return Err(HelloFault::Length(Field::CipherSuites).into());
    }
    walk.take(usize::from(suites), Field::CipherSuites)?;
    let methods = walk.u8(Field::CompressionMethods)?;
    if methods == 0 {
        return Err(HelloFault::Length(Field::CompressionMethods).into());
    }
    walk.take(usize::from(methods), Field::CompressionMethods)?;
    // A hello may end here: extensions came with RFC 3546 and are optional up to TLS 1.2.
    if walk.at < walk.end {
        let extensions = walk.u16(Field::Extensions)?;
        if walk.at + usize::from(extensions) != walk.end {
            return Err(HelloFault::Length(Field::Extensions).into());
        }
    }
    Ok(TlsVersion(version))
}

/// The length of the record that starts with `rest`, or `None` while its header is not whole.
fn record_length(rest: &[u8]) -> Result<Option<usize>, HelloFault> {
    match *rest {
        [found, ..] if found != HANDSHAKE => Err(HelloFault::ContentType { found }),
        [_, found, ..] if found != MAJOR => Err(HelloFault::RecordVersion { found }),
        // The minor version of a record is to be ignored (RFC 8446 §5.1).
        [_, _, _, high, low, ..] => match usize::from(u16::from_be_bytes([high, low])) {
            0 => Err(HelloFault::EmptyRecord),
            length if length > RECORD_LIMIT => Err(HelloFault::RecordTooLong { length }),
            length => Ok(Some(length)),
        },
        _ => Ok(None),
    }
}

/// Tells from the first bytes whether this is TLS, or what else it is.
///
/// Bytes that cannot become a hello are refused at once, but for the few that are needed to say what they
/// are: an HTTP method up to its space, an SSLv2-style hello up to its version.
fn open(received: &[u8]) -> Result<Opening, ClientHelloError> {
    match classify(received) {
        FirstBytes::NeedMore => return Ok(Opening::Unknown),
        FirstBytes::Tls => return Ok(Opening::Tls),
        FirstBytes::PlainHttp => return Err(ClientHelloError::PlainHttp),
        FirstBytes::Opaque => {}
    }
    match *received {
        // ChangeCipherSpec, Alert, ApplicationData, Heartbeat: TLS, but not its beginning.
        [20 | 21 | 23 | 24] => Ok(Opening::Unknown),
        [found @ (20 | 21 | 23 | 24), MAJOR, ..] => Err(HelloFault::ContentType { found }.into()),
        // SSL 2.0: two bytes of length, the first with its highest bit set, type 1, version 2 or 3.x.
        [0x80..=0xff, _, 1, 0, 2, ..] | [0x80..=0xff, _, 1, 3, ..] => Err(HelloFault::Sslv2.into()),
        [0x80..=0xff] | [0x80..=0xff, _] | [0x80..=0xff, _, 1] | [0x80..=0xff, _, 1, 0] => {
            Ok(Opening::Unknown)
        }
        _ => Err(ClientHelloError::NotTls),
    }
}
