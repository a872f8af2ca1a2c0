//! Ledger values to and from the wire, field by field.
//!
//! *Owns* every place where a proto type meets a ledger type. *Never* panics on what a peer or a client sent:
//! a message that cannot be understood is a [`Malformed`] value. *Invariant*: what is read back from what was
//! written equals it, apart from texts longer than their limit, which are clipped when written.

use std::fmt;

pub(crate) mod books;
pub(crate) mod ends;
pub(crate) mod groups;
pub(crate) mod known;
pub(crate) mod message;
pub(crate) mod record;
pub(crate) mod scalar;
pub(crate) mod tally;
pub(crate) mod update;

/// Why a message cannot be understood; names the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// The field, as the proto names it.
    pub(crate) field: &'static str,
    /// What is wrong with it.
    pub(crate) fault: Fault,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It must be there.
    Missing,
    /// Not an id.
    Id,
    /// Not `address:port`.
    Address,
    /// Negative, or not a duration or time of day at all.
    Time,
    /// An enum number or count outside of what can be kept.
    Number(i64),
    /// Text beyond this many bytes.
    TooLong(usize),
    /// More elements than this.
    TooMany(usize),
    /// Numbers that contradict each other.
    Contradiction,
    /// Not what the field's type is encoded as.
    Encoding,
}

impl Fault {
    /// This fault of `field`.
    pub(crate) const fn of(self, field: &'static str) -> Malformed {
        Malformed { field, fault: self }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.field;
        match self.fault {
            Fault::Missing => write!(f, "{field} is missing"),
            Fault::Id => write!(f, "{field} is not an id"),
            Fault::Address => write!(f, "{field} is not an address with a port"),
            Fault::Time => write!(f, "{field} is not a valid time"),
            Fault::Number(number) => write!(f, "{field} cannot be {number}"),
            Fault::TooLong(limit) => write!(f, "{field} is longer than {limit} bytes"),
            Fault::TooMany(limit) => write!(f, "{field} has more than {limit} elements"),
            Fault::Contradiction => write!(f, "{field} contradicts itself"),
            Fault::Encoding => write!(f, "{field} is not encoded as its type is"),
        }
    }
}

impl std::error::Error for Malformed {}

#[cfg(test)]
mod tests;
