//! The hop keys that networkproxy accepts.
//!
//! *Owns* which key stands for which smartproxy instance, and how long. *Never* drops a key because a session
//! is down: hop headers do not depend on the channel. *Invariant*: the key of an instance that another one
//! replaced is dropped 60 s after its session is gone, and not before.

use std::collections::BTreeMap;
use std::time::Duration;

use ledger::InstanceId;

use crate::key::HopKey;

/// How long the key of a replaced instance is kept after its session is gone.
const KEPT: Duration = Duration::from_mins(1);

/// The keys in force. A copy as of one moment.
#[derive(Clone, Debug, Default)]
pub struct KeyRing {
    keys: BTreeMap<u64, Entry>,
    /// The instance that the latest session was with.
    latest: Option<InstanceId>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: HopKey,
    front: InstanceId,
    /// When the session with it ended; `None` while it is up.
    gone: Option<Duration>,
}

impl KeyRing {
    /// The key of this name and the smartproxy instance that it stands for.
    pub fn find(&self, id: u64) -> Option<(HopKey, InstanceId)> {
        self.keys.get(&id).map(|entry| (entry.key, entry.front))
    }

    /// How many keys are in force.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Is no key in force?
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The instances that keys stand for.
    pub fn fronts(&self) -> impl Iterator<Item = InstanceId> {
        self.keys.values().map(|entry| entry.front)
    }

    /// A session with `front` is up, and this is the key.
    pub(crate) fn adopt(&mut self, key: HopKey, front: InstanceId) {
        self.keys.retain(|id, entry| entry.front != front || *id == key.id);
        self.keys.insert(key.id, Entry { key, front, gone: None });
        self.latest = Some(front);
    }

    /// The session with `front` is gone.
    pub(crate) fn session_gone(&mut self, front: InstanceId, now: Duration) {
        for entry in self.keys.values_mut().filter(|entry| entry.front == front) {
            entry.gone = Some(now);
        }
    }

    /// Drops what nobody can be using any more. `true` where something was dropped.
    pub(crate) fn sweep(&mut self, now: Duration) -> bool {
        let before = self.keys.len();
        let latest = self.latest;
        self.keys.retain(|_, entry| {
            let replaced = latest != Some(entry.front);
            !replaced || entry.gone.is_none_or(|gone| now.saturating_sub(gone) < KEPT)
        });
        self.keys.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const OLD: InstanceId = InstanceId(1);
    const NEW: InstanceId = InstanceId(2);

    #[test]
    fn a_key_survives_its_session_until_60_s_after_another_instance_came() {
        let mut ring = KeyRing::default();
        let (old, new) = (HopKey { id: 1, secret: [1; 32] }, HopKey { id: 2, secret: [2; 32] });
        ring.adopt(old, OLD);
        ring.session_gone(OLD, S * 10);
        assert!(!ring.sweep(S * 10_000), "nobody replaced it");
        ring.adopt(new, NEW);
        assert_eq!(ring.find(1), Some((old, OLD)));
        ring.session_gone(OLD, S * 10_000);
        assert!(!ring.sweep(S * 10_059));
        assert!(ring.sweep(S * 10_060));
        assert_eq!((ring.find(1), ring.find(2)), (None, Some((new, NEW))));
    }

    #[test]
    fn the_same_instance_has_one_key() {
        let mut ring = KeyRing::default();
        ring.adopt(HopKey { id: 1, secret: [1; 32] }, OLD);
        ring.adopt(HopKey { id: 2, secret: [2; 32] }, OLD);
        assert_eq!((ring.len(), ring.find(1)), (1, None));
    }
}
