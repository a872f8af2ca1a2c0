//! Ids, times, addresses, texts and counts.
//!
//! *Owns* how each kind of value looks on the wire and what of it is accepted. *Never* lets a value through
//! that later arithmetic could overflow on. *Invariant*: a text is never cut inside a character.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use ledger::Wall;
use prost_types::Timestamp;

use super::{Fault, Malformed};
use crate::wire::{Value, Writer};

/// No text of a peer is kept beyond this many bytes.
pub(crate) const LONGEST_TEXT: usize = 4096;
/// Counts above this cannot be true; sums of many of them still fit.
pub(crate) const LARGEST_COUNT: u64 = 1 << 56;
/// The largest number of seconds that `google.protobuf.Duration` may hold.
const LONGEST_SECONDS: u64 = 315_576_000_000;

/// An id, whole.
pub(crate) fn id<T: FromStr>(text: &str, field: &'static str) -> Result<T, Malformed> {
    text.parse().map_err(|_| Fault::Id.of(field))
}

/// A duration; beyond 10,000 years it is 10,000 years.
pub(crate) fn duration(value: Duration) -> prost_types::Duration {
    let seconds = value.as_secs().min(LONGEST_SECONDS);
    prost_types::Duration { seconds: seconds.cast_signed(), nanos: value.subsec_nanos().cast_signed() }
}

/// A duration that must be there.
pub(crate) fn read_duration(
    value: Option<prost_types::Duration>,
    field: &'static str,
) -> Result<Duration, Malformed> {
    optional_duration(value, field)?.ok_or(Fault::Missing.of(field))
}

/// A duration that may be absent.
pub(crate) fn optional_duration(
    value: Option<prost_types::Duration>,
    field: &'static str,
) -> Result<Option<Duration>, Malformed> {
    let Some(value) = value else { return Ok(None) };
    let seconds = u64::try_from(value.seconds).ok().filter(|seconds| *seconds <= LONGEST_SECONDS);
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        (Some(seconds), Some(nanos)) => Ok(Some(Duration::new(seconds, nanos))),
        _ => Err(Fault::Time.of(field)),
    }
}

/// A duration, as [`duration`] has it.
pub(crate) fn write_duration(writer: &mut Writer, field: u32, value: Duration) {
    let prost_types::Duration { seconds, nanos } = duration(value);
    write_time(writer, field, seconds, nanos);
}

/// A time of day, as [`timestamp`] has it.
pub(crate) fn write_timestamp(writer: &mut Writer, field: u32, at: Wall) {
    let Timestamp { seconds, nanos } = timestamp(at);
    write_time(writer, field, seconds, nanos);
}

/// `google.protobuf.Duration` and `Timestamp` have the same fields; neither is negative here.
fn write_time(writer: &mut Writer, field: u32, seconds: i64, nanos: i32) {
    writer.message(field, |time| {
        time.number(1, seconds.cast_unsigned());
        time.number(2, nanos.cast_unsigned());
    });
}

/// A duration that travelled with a half.
pub(crate) fn duration_of(value: Value<'_>, field: &'static str) -> Result<Duration, Malformed> {
    let (seconds, nanos) = time_of(value, field)?;
    read_duration(Some(prost_types::Duration { seconds, nanos }), field)
}

/// A time of day that travelled with a half.
pub(crate) fn timestamp_of(value: Value<'_>, field: &'static str) -> Result<Wall, Malformed> {
    let (seconds, nanos) = time_of(value, field)?;
    read_timestamp(Some(Timestamp { seconds, nanos }), field)
}

fn time_of(value: Value<'_>, field: &'static str) -> Result<(i64, i32), Malformed> {
    let mut fields = value.fields(field)?;
    let (mut seconds, mut nanos) = (0, 0);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => seconds = value.number(field)?.cast_signed(),
            2 => nanos = value.enumeration(field)?,
            _ => {}
        }
    }
    Ok((seconds, nanos))
}

/// A time of day.
pub(crate) fn timestamp(at: Wall) -> Timestamp {
    Timestamp { seconds: (at.0 / 1_000_000).cast_signed(), nanos: (at.0 % 1_000_000) as i32 * 1_000 }
}

/// A time of day that must be there.
pub(crate) fn read_timestamp(value: Option<Timestamp>, field: &'static str) -> Result<Wall, Malformed> {
    let value = value.ok_or(Fault::Missing.of(field))?;
    let seconds = u64::try_from(value.seconds).ok().filter(|seconds| *seconds <= LONGEST_SECONDS);
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        (Some(seconds), Some(nanos)) => Ok(Wall(seconds * 1_000_000 + u64::from(nanos) / 1_000)),
        _ => Err(Fault::Time.of(field)),
    }
}

/// An address with its port.
pub(crate) fn read_address(text: &str, field: &'static str) -> Result<SocketAddr, Malformed> {
    text.parse().map_err(|_| Fault::Address.of(field))
}

/// An id that travelled with a half.
pub(crate) fn id_of<T: FromStr>(value: Value<'_>, field: &'static str) -> Result<T, Malformed> {
    id(value.text(field)?, field)
}

/// An address that travelled with a half.
pub(crate) fn address_of(value: Value<'_>, field: &'static str) -> Result<SocketAddr, Malformed> {
    read_address(value.text(field)?, field)
}

/// `text`, clipped to `limit` bytes at a character's boundary.
pub(crate) fn clip(text: &str, limit: usize) -> String {
    clipped(text, limit).to_owned()
}

/// The part of `text` that travels.
pub(crate) fn clipped(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// A text of bounded length that travelled with a half.
pub(crate) fn text_of<'a>(value: Value<'a>, field: &'static str) -> Result<&'a str, Malformed> {
    bounded(value.text(field)?, field)
}

/// A text that may be absent, in a half that travels.
pub(crate) fn write_optional_text(writer: &mut Writer, field: u32, text: Option<&str>, limit: usize) {
    if let Some(text) = text {
        writer.present_text(field, clipped(text, limit));
    }
}

/// One more element of a list of bounded length.
pub(crate) fn push<T>(
    list: &mut Vec<T>,
    limit: usize,
    field: &'static str,
    element: T,
) -> Result<(), Malformed> {
    if list.len() >= limit {
        return Err(Fault::TooMany(limit).of(field));
    }
    list.push(element);
    Ok(())
}

/// A text of bounded length.
pub(crate) fn read_text(text: String, field: &'static str) -> Result<String, Malformed> {
    bounded(text, field)
}

fn bounded<T: AsRef<str>>(text: T, field: &'static str) -> Result<T, Malformed> {
    if text.as_ref().len() > LONGEST_TEXT { Err(Fault::TooLong(LONGEST_TEXT).of(field)) } else { Ok(text) }
}

/// As [`read_text`], where it may be absent.
pub(crate) fn optional_text(text: Option<String>, field: &'static str) -> Result<Option<String>, Malformed> {
    text.map(|text| read_text(text, field)).transpose()
}

/// A count that can be summed.
pub(crate) fn count(value: u64, field: &'static str) -> Result<u64, Malformed> {
    if value > LARGEST_COUNT { Err(Fault::Number(value.cast_signed()).of(field)) } else { Ok(value) }
}

/// A list of bounded length, each element read by `read`.
pub(crate) fn list<W, T>(
    values: Vec<W>,
    limit: usize,
    field: &'static str,
    mut read: impl FnMut(W) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    if values.len() > limit {
        return Err(Fault::TooMany(limit).of(field));
    }
    // Collected as a `Result`, its size would not be known in advance.
    let mut elements = Vec::with_capacity(values.len());
    for value in values {
        elements.push(read(value)?);
    }
    Ok(elements)
}

/// A message that must be there.
pub(crate) fn required<T>(value: Option<T>, field: &'static str) -> Result<T, Malformed> {
    value.ok_or(Fault::Missing.of(field))
}
