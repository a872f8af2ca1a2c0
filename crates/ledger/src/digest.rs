//! A fixed, order-free digest of the live halves.
//!
//! *Owns* how (key, phase) is mixed (splitmix64) and summed. *Never* uses `DefaultHasher`: both processes,
//! possibly of different builds, must get the same number. *Invariant*: removing what was added restores
//! the digest; HTTP_IDLE and HTTP_ACTIVE count alike, because they change without a journal entry.

use crate::id::HalfKey;
use crate::phase::Phase;

/// Counts and a mix over the live halves of one process at one journal position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Halves ever opened.
    pub opened: u64,
    /// Halves that reached CLOSED.
    pub closed: u64,
    /// Wrapping sum over the live halves.
    pub sum: u64,
    /// Exclusive or over the live halves.
    pub xor: u64,
}

impl Digest {
    /// A live half appeared.
    pub(crate) fn add(&mut self, key: HalfKey, phase: Phase) {
        let mixed = mix(key, phase);
        self.sum = self.sum.wrapping_add(mixed);
        self.xor ^= mixed;
    }

    /// A live half went away (or is about to be added with another phase).
    pub(crate) fn remove(&mut self, key: HalfKey, phase: Phase) {
        let mixed = mix(key, phase);
        self.sum = self.sum.wrapping_sub(mixed);
        self.xor ^= mixed;
    }
}

fn mix(key: HalfKey, phase: Phase) -> u64 {
    let phase = if phase == Phase::HttpActive { Phase::HttpIdle } else { phase };
    let words = [
        key.connection.0 as u64,
        (key.connection.0 >> 64) as u64,
        key.instance.0 as u64,
        (key.instance.0 >> 64) as u64,
        key.attempt.0,
        u64::from(phase.number()),
    ];
    words.into_iter().fold(0, |hash, word| splitmix64(hash ^ word))
}

/// Sebastiano Vigna's public-domain finaliser (splitmix64).
pub(crate) const fn splitmix64(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Attempt, ConnectionId, InstanceId};

    #[test]
    fn the_mix_is_fixed_and_reversible() {
        assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf, "the published first output for seed 0");
        let key = HalfKey::inner(ConnectionId(1), InstanceId(2), Attempt(3));
        let mut digest = Digest::default();
        digest.add(key, Phase::HttpIdle);
        digest.remove(key, Phase::HttpActive);
        assert_eq!(digest, Digest::default());
        digest.add(key, Phase::Connecting);
        digest.remove(key, Phase::Relaying);
        assert_ne!(digest, Digest::default());
    }
}
