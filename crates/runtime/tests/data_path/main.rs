//! The data path on real sockets: legs, relay, goodbye, listener, dial.
//!
//! Owns a rig of a client, a relay and a target on loopback addresses. Never sleeps to synchronise: it waits
//! for a state, with a bound. Invariant: every test ends with a closed record and an audit that balances.

mod dialling;
mod goodbyes;
mod legs;
mod listening;
mod records;
mod relaying;
mod rig;
