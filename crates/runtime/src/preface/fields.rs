//! A reader of length-prefixed fields, as TLS (RFC 8446 §3) and PROXY v2 TLVs are built from.
//!
//! Owns the bounds checks of every nested field, so that no parser here indexes a slice by a number
//! that came from the wire.
//! Never allocates, never panics: what does not fit is `None`, and the caller names the fault.
//! Invariant: a failed read leaves the position where it was.

/// The unread rest of a field whose bytes are all there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// Whether everything was read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    /// The next `N` bytes, as an array.
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// One byte.
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes in network order.
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Eight bytes in network order.
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A vector with a length of one byte.
    pub(super) fn vector8(&mut self) -> Option<&'a [u8]> {
        let mut rest = *self;
        let length = rest.u8()?;
        let value = rest.bytes(usize::from(length))?;
        *self = rest;
        Some(value)
    }

    /// A vector with a length of two bytes.
    pub(super) fn vector16(&mut self) -> Option<&'a [u8]> {
        let mut rest = *self;
        let length = rest.u16()?;
        let value = rest.bytes(usize::from(length))?;
        *self = rest;
        Some(value)
    }
}
