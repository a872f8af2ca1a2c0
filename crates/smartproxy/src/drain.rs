//! The end of a drain, entry by entry.
//!
//! *Owns* the order in which entries run out of time: each has its own `drain`, the process's unless its
//! routes say otherwise. *Never* ends a connection itself: it orders. *Invariant*: no connection is cut
//! before its entry's time, and none outlives the longest.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use ledger::{Limit, Role};

use crate::app::App;

/// Keys looked at per hold of the books.
const AT_ONCE: usize = 1_024;

/// The longest time that any connection may take, with where that is written.
pub(crate) fn longest(app: &App, process: Limit) -> Limit {
    let entries = app.drains().map(|(_, limit)| limit.clone());
    entries.chain([process]).max_by_key(|limit| limit.value).expect("the process's own is among them")
}

/// Orders each entry's connections to end when its time is over, from now on.
pub(crate) async fn end_by_entry(app: &App) -> Infallible {
    let began = app.manager.clock().active();
    let mut due: BTreeMap<_, Vec<(&Arc<str>, &Limit)>> = BTreeMap::new();
    for (entry, limit) in app.drains() {
        due.entry(limit.value).or_default().push((entry, limit));
    }
    for (after, entries) in due {
        app.manager.clock().sleep_until(began.saturating_add(after)).await;
        for (entry, limit) in entries {
            let ended = end(app, entry, limit);
            if ended > 0 {
                tracing::info!(ended, %entry, limit = ?limit.value, "the drain's time is over for an entry");
            }
        }
    }
    std::future::pending().await
}

/// Orders the live connections of `entry` to end; how many.
fn end(app: &App, entry: &str, limit: &Limit) -> usize {
    let ledger = app.manager.ledger();
    let order = runtime::drain_order(Role::Front, limit);
    let mut from = None;
    let mut ended = 0;
    loop {
        let stretch = ledger.live(from, AT_ONCE);
        let Some(last) = stretch.last() else { return ended };
        from = Some(*last);
        for key in stretch {
            let of_entry = ledger.half(key).and_then(|half| half.routing.clone());
            if of_entry.is_some_and(|routing| routing.value.entry.as_deref() == Some(entry)) {
                ended += usize::from(app.manager.initiate_cleanup_once(key, order.clone()));
            }
        }
    }
}
