//! networkproxy: owns the private keys, ends TLS, speaks HTTP with clients and targets.

pub mod certificates;
pub mod http;
pub mod tls;
