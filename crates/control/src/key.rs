//! The keys of hop headers.
//!
//! *Owns* how a key is drawn and what it consists of. *Never* shows a secret: `Debug` prints the key's name
//! alone. *Invariant*: 32 bytes from the operating system's generator, a name that is not derived from them.

use std::fmt;

use aws_lc_rs::rand;

/// The key of hop headers between one smartproxy instance and one networkproxy instance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HopKey {
    /// The key's name, as hop headers carry it.
    pub id: u64,
    /// What only the two processes know.
    pub secret: [u8; 32],
}

impl HopKey {
    /// A new key.
    pub fn draw() -> Self {
        let mut id = [0; 8];
        let mut secret = [0; 32];
        rand::fill(&mut id).expect("the operating system gives random bytes");
        rand::fill(&mut secret).expect("the operating system gives random bytes");
        Self { id: u64::from_be_bytes(id), secret }
    }
}

impl fmt::Debug for HopKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HopKey").field("id", &format_args!("{:016x}", self.id)).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keys_are_alike_and_none_shows_its_secret() {
        let (a, b) = (HopKey::draw(), HopKey::draw());
        assert_ne!(a.id, b.id);
        assert_ne!(a.secret, b.secret);
        let shown = format!("{:?}", HopKey { id: 1, secret: [0xab; 32] });
        assert_eq!(shown, "HopKey { id: 0000000000000001, .. }");
    }
}
