//! HTTP between clients and backends.

pub mod answer;
pub mod head;
