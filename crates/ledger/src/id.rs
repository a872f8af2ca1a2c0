//! Names of things: processes, connections, halves.
//!
//! *Owns* the 128-bit identifiers, how they are shown and how a person may abbreviate them.
//! *Never* mints one: randomness and clocks are the caller's (`runtime::mint`).
//! *Invariant*: an id is shown in exactly one way, the lower-case hyphenated form of RFC 9562 §4,
//! and parsing what was shown gives the same id.

use std::fmt;
use std::str::FromStr;

/// One life of a process: a UUID v7 made at its start, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u128);

/// One client connection: a UUID v7 minted by smartproxy when it accepts the client's socket.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u128);

/// Which bridging of a connection an inner half belongs to: the counter of its hop tag.
///
/// Counters ascend over all bridgings of one smartproxy instance, so of two attempts for one connection
/// the larger is the later. [`Attempt::FRONT`] (0) is the front half's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u64);

/// What identifies one half: the connection, the process instance that owns the half, the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HalfKey {
    /// The connection that both halves share.
    pub connection: ConnectionId,
    /// The process whose half this is.
    pub instance: InstanceId,
    /// 0 for a front half, the hop tag's counter for an inner half.
    pub attempt: Attempt,
}

/// Which process's part of a connection a half is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// smartproxy's half: it faces the client.
    Front,
    /// networkproxy's half: it faces the target.
    Inner,
}

impl Attempt {
    /// The front half's own attempt number.
    pub const FRONT: Self = Self(0);
}

impl HalfKey {
    /// The key of the front half of `connection` at `instance`.
    pub const fn front(connection: ConnectionId, instance: InstanceId) -> Self {
        Self { connection, instance, attempt: Attempt::FRONT }
    }

    /// The key of the inner half that `attempt` opened at `instance`.
    pub const fn inner(connection: ConnectionId, instance: InstanceId, attempt: Attempt) -> Self {
        Self { connection, instance, attempt }
    }
}

impl Role {
    /// The other process's role.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Front => Self::Inner,
            Self::Inner => Self::Front,
        }
    }

    /// The name of the process that plays this role.
    pub const fn process(self) -> &'static str {
        match self {
            Self::Front => "smartproxy",
            Self::Inner => "networkproxy",
        }
    }
}

/// Part of an id that a person typed: the last hex digits of a [`ConnectionId`].
///
/// A suffix and not a prefix, because a UUID v7 begins with the clock: connections of one minute share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdSuffix {
    value: u128,
    digits: u32,
}

/// Why a text names no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseIdError {
    /// Not 32 hex digits (with or without hyphens).
    Malformed,
    /// A suffix of fewer than six hex digits could match by accident.
    SuffixTooShort,
}

impl IdSuffix {
    /// Reads 6 to 32 hex digits; hyphens are ignored.
    pub fn parse(text: &str) -> Result<Self, ParseIdError> {
        let (value, digits) = hex(text)?;
        match digits {
            0..6 => Err(ParseIdError::SuffixTooShort),
            _ => Ok(Self { value, digits }),
        }
    }

    /// Does `id` end in these digits?
    pub const fn matches(self, id: ConnectionId) -> bool {
        let mask = if self.digits >= 32 { u128::MAX } else { (1 << (self.digits * 4)) - 1 };
        id.0 & mask == self.value
    }
}

fn hex(text: &str) -> Result<(u128, u32), ParseIdError> {
    let mut value = 0_u128;
    let mut digits = 0;
    for c in text.chars().filter(|c| *c != '-') {
        let digit = c.to_digit(16).ok_or(ParseIdError::Malformed)?;
        digits += 1;
        if digits > 32 {
            return Err(ParseIdError::Malformed);
        }
        value = value << 4 | u128::from(digit);
    }
    Ok((value, digits))
}

/// Read of every half that travels.
fn whole(text: &str) -> Result<u128, ParseIdError> {
    let (mut value, mut digits) = (0_u128, 0);
    for byte in text.bytes().filter(|byte| *byte != b'-') {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => return Err(ParseIdError::Malformed),
        };
        digits += 1;
        value = value << 4 | u128::from(digit);
    }
    // More digits than fit have shifted the first ones out; they are counted all the same.
    if digits == 32 { Ok(value) } else { Err(ParseIdError::Malformed) }
}

/// Written for every half that travels: without a detour over another text.
fn hyphenated(id: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in id.to_be_bytes().into_iter().enumerate() {
        at += usize::from(matches!(index, 4 | 6 | 8 | 10));
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 15)];
        at += 2;
    }
    f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
}

macro_rules! shown_as_uuid {
    ($($id:ident),+) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hyphenated(self.0, f)
            }
        }
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hyphenated(self.0, f)
            }
        }
        impl FromStr for $id {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                whole(text).map(Self)
            }
        }
    )+};
}
shown_as_uuid!(InstanceId, ConnectionId);

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not an id: expected 32 hex digits, hyphens allowed",
            Self::SuffixTooShort => "too short: expected the whole id or at least its last 6 hex digits",
        })
    }
}

impl std::error::Error for ParseIdError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_as_it_was_shown() {
        let id = ConnectionId(0x0192_f7a1_b2c3_7d4e_8f90_0123_4567_89ab);
        assert_eq!(id.to_string(), "0192f7a1-b2c3-7d4e-8f90-0123456789ab");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("0192F7A1B2C37D4E8F900123456789AB".parse(), Ok(id));
    }

    #[test]
    fn a_suffix_needs_six_digits_and_matches_the_end_only() {
        let id = ConnectionId(0x0192_f7a1_b2c3_7d4e_8f90_0123_4567_89ab);
        assert!(IdSuffix::parse("6789ab").unwrap().matches(id));
        assert!(IdSuffix::parse("0123-4567-89ab").unwrap().matches(id));
        assert!(IdSuffix::parse(&id.to_string()).unwrap().matches(id));
        assert!(!IdSuffix::parse("0192f7").unwrap().matches(id));
        assert_eq!(IdSuffix::parse("789ab"), Err(ParseIdError::SuffixTooShort));
        assert_eq!(IdSuffix::parse("6789xb"), Err(ParseIdError::Malformed));
        assert_eq!(IdSuffix::parse(&"0".repeat(33)), Err(ParseIdError::Malformed));
    }
}
