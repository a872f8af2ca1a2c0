//! Compiles the protos without protoc: protox parses them, prost and tonic generate from its descriptors.
//!
//! Owns what is generated: messages, clients, servers, and the descriptor set that reflection serves. Never writes
//! outside `OUT_DIR`.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 6] = [
    "proxy/admin/v1/audit.proto",
    "proxy/admin/v1/connection.proto",
    "proxy/admin/v1/half.proto",
    "proxy/admin/v1/proxy.proto",
    "proxy/admin/v1/termination.proto",
    "proxy/control/v1/control.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".proxy.control.v1.RouteTableChunk").compile_fds(descriptors)?;
    Ok(())
}
