//! Idle connections beyond `pool.max_idle_per_target`.
//!
//! *Owns* how long they may stay: under load the next request comes within the moment, and a connection that was
//! closed would be dialled again for it. *Never* touches one that is in use. *Invariant*: a second after the last
//! request there are no more idle connections to a target than configured.

use std::time::Duration;

use super::{Idle, Pool, Table};

/// How long a connection that is one too many is kept for the next request.
const GRACE: Duration = Duration::from_secs(1);

/// Lets surplus connections go until there are none.
pub(super) async fn trim(pool: Pool) {
    let clock = &pool.shared.clock;
    let most = pool.shared.settings.max_idle_per_target;
    loop {
        clock.sleep_until(clock.active().saturating_add(GRACE / 4)).await;
        let now = clock.active();
        let mut table = pool.table();
        let gone = table.take_surplus(most, now.saturating_sub(GRACE));
        let is_trimmed = table.has_surplus(most);
        table.is_trimmed = is_trimmed;
        drop(table);
        // Their drivers see that nobody can send any more, and say goodbye.
        drop(gone);
        if !is_trimmed {
            return;
        }
    }
}

impl Table {
    /// The surplus that has been idle since `before` or longer; the longest first.
    fn take_surplus(&mut self, most: usize, before: Duration) -> Vec<Idle> {
        let mut gone = Vec::new();
        for idle in self.idle.values_mut() {
            while idle.len() > most && idle.front().is_some_and(|first| first.since <= before) {
                gone.extend(idle.pop_front());
            }
        }
        self.idle.retain(|_, idle| !idle.is_empty());
        gone
    }

    fn has_surplus(&self, most: usize) -> bool {
        self.idle.values().any(|idle| idle.len() > most)
    }
}
