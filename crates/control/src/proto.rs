//! The generated messages, clients and servers.
//!
//! *Owns* the include of what `build.rs` generated, and the descriptors for reflection. *Never* edited by hand: the
//! protos in `proto/` are the reference. *Invariant*: nothing outside this crate names these types except through
//! [`crate::api`].

#![allow(missing_docs, unreachable_pub, clippy::pedantic, reason = "generated; the protos are documented")]

/// Every message and service, encoded as a `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Package `proxy.admin.v1`.
pub mod admin {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/proxy.admin.v1.rs"));
    }
}

/// Package `proxy.control.v1`.
pub mod control {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/proxy.control.v1.rs"));
    }
}
