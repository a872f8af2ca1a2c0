//! Facts that many halves share, read once.
//!
//! *Owns* what a session has read of names, routings, TLS parameters and causes, by the bytes they travelled as. *Never*
//! holds more than [`MOST`] of a kind, nor long ones: clients choose some of them. *Invariant*: what is taken from here equals
//! what would have been read.

use std::collections::HashMap;
use std::sync::Arc;

use ledger::{Routing, Settlement, Tls};

use super::Malformed;

/// Facts of one kind.
const MOST: usize = 512;
/// Bytes of a fact that is kept.
const LONGEST: usize = 512;

/// What one session's halves have in common.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) texts: Facts<str>,
    pub(crate) routings: Facts<Routing>,
    pub(crate) tls: Facts<Tls>,
    pub(crate) settlements: Facts<Settlement>,
}

/// Facts of one kind, by the bytes they travelled as.
#[derive(Debug)]
pub(crate) struct Facts<T: ?Sized>(HashMap<Box<[u8]>, Arc<T>>);

impl<T: ?Sized> Facts<T> {
    /// The fact that travelled as `bytes`: the one that is known, or what `read` makes of them.
    pub(crate) fn get(
        &mut self,
        bytes: &[u8],
        read: impl FnOnce() -> Result<Arc<T>, Malformed>,
    ) -> Result<Arc<T>, Malformed> {
        match self.0.get(bytes) {
            Some(known) => Ok(Arc::clone(known)),
            None => read().map(|fact| self.keep(bytes, fact)),
        }
    }

    fn keep(&mut self, bytes: &[u8], fact: Arc<T>) -> Arc<T> {
        if bytes.len() <= LONGEST {
            if self.0.len() >= MOST {
                self.0.clear();
            }
            self.0.insert(bytes.into(), Arc::clone(&fact));
        }
        fact
    }
}

impl Facts<str> {
    /// The text, shared with whoever has the same.
    pub(crate) fn text(&mut self, text: &str) -> Arc<str> {
        match self.0.get(text.as_bytes()) {
            Some(known) => Arc::clone(known),
            None => self.keep(text.as_bytes(), text.into()),
        }
    }
}

impl<T: ?Sized> Default for Facts<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_and_no_crowd_of_them_is_kept() {
        let mut texts = Facts::<str>::default();
        let first = texts.text("app");
        assert!(Arc::ptr_eq(&first, &texts.text("app")));
        let long = "x".repeat(LONGEST + 1);
        assert_eq!(&*texts.text(&long), long);
        assert_eq!(texts.0.len(), 1, "a long text is not kept");
        for number in 0..10 * MOST {
            assert_eq!(*texts.text(&number.to_string()), *number.to_string());
            assert!(texts.0.len() <= MOST);
        }
    }
}
