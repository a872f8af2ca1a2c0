//! Two processes' books over a real gRPC channel on 127.0.0.1, with faults in between.
//!
//! *Owns* the proofs of the control channel and of the admin services. *Never* sleeps to be on time: every
//! wait is for a state, and bounded. *Invariant*: after quiescence each mirror equals the other's table, both
//! audits balance, and no drift was ever seen.

#![expect(clippy::unwrap_used, reason = "a test stops where its rig cannot stand")]

mod admin;
mod cutter;
mod dialling;
mod faults;
mod harness;
mod raw;
mod readiness;
mod sessions;
mod traffic;
