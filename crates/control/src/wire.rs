//! Protobuf's encoding, for the one message that travels all the time: a half's changes.
//!
//! *Owns* varints, keys and lengths (<https://protobuf.dev/programming-guides/encoding/>), in both directions. *Never*
//! allocates while it reads, and never trusts a length. *Invariant*: what [`Writer`] wrote is what prost would have
//! written for the same fields in the same order.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use crate::convert::{Fault, Malformed};

/// Wire types.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// Appends fields. As proto3 has it, a number, flag or text that is zero or empty is left out, unless it is
/// `present`.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

/// The fields of a message, in the order they were written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    message: &'static str,
}

/// One field's value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    /// An integer, flag or enum.
    Number(u64),
    /// A text, byte string or message.
    Bytes(&'a [u8]),
    /// Eight or four bytes, which no field that is read here has.
    Fixed,
}

impl Writer {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// A number or enum.
    pub(crate) fn number(&mut self, field: u32, value: impl Into<u64>) {
        let value = value.into();
        if value != 0 {
            self.present(field, value);
        }
    }

    /// A number of a field that may be absent, and is not.
    pub(crate) fn present(&mut self, field: u32, value: impl Into<u64>) {
        self.key(field, VARINT);
        self.varint(value.into());
    }

    pub(crate) fn flag(&mut self, field: u32, value: bool) {
        self.number(field, value);
    }

    pub(crate) fn text(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.present_text(field, text);
        }
    }

    /// A text of a field that may be absent, and is not; or an element of a list.
    pub(crate) fn present_text(&mut self, field: u32, text: &str) {
        self.key(field, BYTES);
        self.varint(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// What `value` shows as a text, which is never empty.
    pub(crate) fn shown(&mut self, field: u32, value: impl fmt::Display) {
        self.message(field, |writer| {
            // Writing to memory does not fail.
            let _ = write!(writer, "{value}");
        });
    }

    /// An address with its port, which every half has several of.
    pub(crate) fn address(&mut self, field: u32, address: SocketAddr) {
        let SocketAddr::V4(v4) = address else { return self.shown(field, address) };
        self.message(field, |writer| {
            for (index, octet) in v4.ip().octets().into_iter().enumerate() {
                if index > 0 {
                    writer.bytes.push(b'.');
                }
                writer.decimal(octet.into());
            }
            writer.bytes.push(b':');
            writer.decimal(v4.port());
        });
    }

    /// A message with what `write` writes into it.
    pub(crate) fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        self.key(field, BYTES);
        let at = self.bytes.len();
        self.bytes.push(0);
        write(self);
        let length = self.bytes.len() - at - 1;
        if let Ok(short) = u8::try_from(length)
            && short < 0x80
        {
            self.bytes[at] = short;
            return;
        }
        // The length needs more than the byte that was left for it: what follows moves on.
        let (prefix, size) = encoded(length as u64);
        let end = self.bytes.len();
        self.bytes.resize(end + size - 1, 0);
        self.bytes.copy_within(at + 1..end, at + size);
        self.bytes[at..at + size].copy_from_slice(&prefix[..size]);
    }

    fn decimal(&mut self, number: u16) {
        if number >= 10 {
            self.decimal(number / 10);
        }
        self.bytes.push(b'0' + (number % 10) as u8);
    }

    fn key(&mut self, field: u32, wire_type: u64) {
        self.varint(u64::from(field) << 3 | wire_type);
    }

    fn varint(&mut self, value: u64) {
        if value < 0x80 {
            self.bytes.push(value as u8);
        } else {
            let (bytes, size) = encoded(value);
            self.bytes.extend_from_slice(&bytes[..size]);
        }
    }
}

impl fmt::Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// A varint and how many bytes of it count.
fn encoded(mut value: u64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut size = 0;
    while value >= 0x80 {
        bytes[size] = value as u8 | 0x80;
        value >>= 7;
        size += 1;
    }
    bytes[size] = value as u8;
    (bytes, size + 1)
}

impl<'a> Fields<'a> {
    /// The fields of a message of this name.
    pub(crate) const fn of(bytes: &'a [u8], message: &'static str) -> Self {
        Self { rest: bytes, message }
    }

    /// The next field's number and value.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let message = self.message;
        self.split().map(Some).ok_or(Fault::Encoding.of(message))
    }

    fn split(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            VARINT => Value::Number(self.varint()?),
            BYTES => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            FIXED64 => self.take(8).map(|_| Value::Fixed)?,
            FIXED32 => self.take(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        let number = key >> 3;
        (number != 0).then_some((number, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (index, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                // The tenth byte has room for one bit.
                let fits = index < 9 || *byte <= 1;
                self.rest = &self.rest[index + 1..];
                return fits.then_some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }
}

impl<'a> Value<'a> {
    pub(crate) fn number(self, field: &'static str) -> Result<u64, Malformed> {
        match self {
            Value::Number(number) => Ok(number),
            _ => Err(Fault::Encoding.of(field)),
        }
    }

    /// A number of 32 bits; of more, the lower ones count, as everywhere in protobuf.
    pub(crate) fn number32(self, field: &'static str) -> Result<u32, Malformed> {
        self.number(field).map(|number| number as u32)
    }

    /// The number of an enum.
    pub(crate) fn enumeration(self, field: &'static str) -> Result<i32, Malformed> {
        self.number32(field).map(u32::cast_signed)
    }

    pub(crate) fn flag(self, field: &'static str) -> Result<bool, Malformed> {
        self.number(field).map(|number| number != 0)
    }

    pub(crate) fn bytes(self, field: &'static str) -> Result<&'a [u8], Malformed> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(Fault::Encoding.of(field)),
        }
    }

    pub(crate) fn text(self, field: &'static str) -> Result<&'a str, Malformed> {
        str::from_utf8(self.bytes(field)?).map_err(|_| Fault::Encoding.of(field))
    }

    /// The fields of a message.
    pub(crate) fn fields(self, field: &'static str) -> Result<Fields<'a>, Malformed> {
        self.bytes(field).map(|bytes| Fields::of(bytes, field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bytes: &[u8]) -> Result<Vec<u64>, Malformed> {
        let mut fields = Fields::of(bytes, "test");
        let mut numbers = Vec::new();
        while let Some((number, _)) = fields.next()? {
            numbers.push(number);
        }
        Ok(numbers)
    }

    /// lengths on both sides of every size of a varint, nested.
    #[test]
    fn a_message_of_any_length_is_framed_as_prost_frames_it() {
        for length in [0, 1, 126, 127, 128, 129, 16_383, 16_384, 100_000] {
            let text = "x".repeat(length);
            let mut ours = Writer::default();
            ours.message(3, |inner| inner.message(4, |innermost| innermost.present_text(5, &text)));
            let mut innermost = Vec::new();
            prost::encoding::string::encode(5, &text, &mut innermost);
            let mut inner = Vec::new();
            prost::encoding::bytes::encode(4, &innermost, &mut inner);
            let mut whole = Vec::new();
            prost::encoding::bytes::encode(3, &inner, &mut whole);
            assert_eq!(ours.into_bytes(), whole);
        }
    }

    /// every boundary of a varint.
    #[test]
    fn a_number_is_written_and_read_as_prost_does() {
        for value in (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) - 1, u64::MAX >> bit]) {
            let mut ours = Writer::default();
            ours.present(1, value);
            let mut theirs = Vec::new();
            prost::encoding::uint64::encode(1, &value, &mut theirs);
            let ours = ours.into_bytes();
            assert_eq!(ours, theirs);
            let (number, read) = Fields::of(&ours, "test").next().unwrap().unwrap();
            assert_eq!((number, read.number("value")), (1, Ok(value)));
        }
    }

    #[test]
    fn what_is_cut_short_or_of_no_known_type_is_an_error() {
        let refused = Err(Fault::Encoding.of("test"));
        let endless = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        let wrong: [&[u8]; 9] = [
            &[0x08],
            &[0x80],
            &[0x0a, 5, 1, 2],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            &[0x09, 1, 2, 3],
            &[0x0d, 1],
            &[0x0b],
            &[0x00, 0],
            &endless,
        ];
        for bytes in wrong {
            assert_eq!(fields(bytes), refused, "{bytes:?}");
        }
        assert_eq!(
            fields(&[0x08, 1, 0x12, 1, 9, 0x19, 0, 0, 0, 0, 0, 0, 0, 0, 0x25, 0, 0, 0, 0]).unwrap(),
            [1, 2, 3, 4]
        );
    }

    #[test]
    fn a_value_of_another_type_is_named() {
        let refused = Fault::Encoding.of("field");
        assert_eq!(Value::Number(1).text("field").unwrap_err(), refused);
        assert_eq!(Value::Fixed.bytes("field").unwrap_err(), refused);
        assert_eq!(Value::Bytes(&[0xff]).text("field").unwrap_err(), refused);
        assert_eq!(Value::Bytes(&[]).number("field").unwrap_err(), refused);
        assert_eq!(Value::Fixed.flag("field").unwrap_err(), refused);
    }
}
