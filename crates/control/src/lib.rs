//! The wire.
mod proto;
