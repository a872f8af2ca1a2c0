//! The data path on real sockets: legs, relay, goodbye, listener, dial.
//!
//! Owns a rig of a client, a relay and a target on loopback addresses. Never sleeps to synchronise: it waits
//! for a state, with a bound. Invariant: every test ends with a closed record and an audit that balances.

#![expect(clippy::unwrap_used, reason = "a test stops where its rig cannot stand")]
#![expect(clippy::unchecked_time_subtraction, reason = "later less earlier, of one clock")]

mod dialling;
mod goodbyes;
mod leaving;
mod legs;
mod listening;
mod observing;
mod records;
mod relaying;
mod resolving;
mod rig;
mod splicing;
