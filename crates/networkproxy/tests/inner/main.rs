//! The inner half of a connection, over real sockets: a hop whose header has verified on one side, scripted
//! targets on the other.
//!
//! Deadlines are milliseconds where a test waits for one; waits for a state are bounded at ten seconds.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod endings;
mod harness;
mod hop;
mod http2;
mod pool;
mod requests;
mod resting;
mod smuggling;
mod targets;
mod tunnels;
