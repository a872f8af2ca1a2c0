//! The end of a drain, entry by entry.
//!
//! *Owns* the order in which entries run out of time: each has its own `drain`, the process's unless its
//! routes say otherwise. *Never* ends a connection itself: it orders. *Invariant*: no connection is cut
//! before its entry's time, and none outlives the longest.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;

use ledger::{HalfKey, Limit, Role};

use crate::app::App;

/// The longest time that any connection may take, with where that is written.
pub(crate) fn longest(app: &App, process: Limit) -> Limit {
    let entries = app.drains().map(|(_, limit)| limit.clone());
    entries.chain([process]).max_by_key(|limit| limit.value).expect("the process's own is among them")
}

/// Orders each entry's connections to end when its time is over, from now on.
pub(crate) async fn end_by_entry(app: &App) -> Infallible {
    let began = app.manager.clock().active();
    let mut due: BTreeMap<_, HashMap<&str, &Limit>> = BTreeMap::new();
    for (entry, limit) in app.drains() {
        due.entry(limit.value).or_default().insert(entry, limit);
    }
    for (after, entries) in due {
        app.manager.clock().sleep_until(began.saturating_add(after)).await;
        let ended = end(app, &entries);
        if ended > 0 {
            tracing::info!(ended, limit = ?after, "the drain's time is over for some entries");
        }
    }
    std::future::pending().await
}

/// Orders the live connections of `entries` to end, each by its entry's limit; how many.
fn end(app: &App, entries: &HashMap<&str, &Limit>) -> usize {
    let limit_of = |key| {
        let half = app.manager.ledger().half(key)?;
        entries.get(half.routing.as_ref()?.value.entry.as_deref()?).copied()
    };
    let ends = |key: &HalfKey| {
        limit_of(*key).is_some_and(|limit| {
            app.manager.initiate_cleanup_once(*key, runtime::drain_order(Role::Front, limit))
        })
    };
    app.manager.live_keys().flatten().filter(ends).count()
}
