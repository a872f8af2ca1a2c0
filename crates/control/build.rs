//! Compiles the protos without protoc: protox parses them, prost and tonic generate from its descriptors.
//!
//! Owns what is generated: messages, clients, servers, and the descriptor set that reflection serves. Never writes
//! outside `OUT_DIR`. The halves of a batch stay bytes, which a message's encoding is: `convert::update` writes and reads
//! them without a detour over a copy in prost's types.

use std::path::PathBuf;

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;

const FILES: [&str; 6] = [
    "proxy/admin/v1/audit.proto",
    "proxy/admin/v1/connection.proto",
    "proxy/admin/v1/half.proto",
    "proxy/admin/v1/proxy.proto",
    "proxy/admin/v1/termination.proto",
    "proxy/control/v1/control.proto",
];

/// Messages whose `halves` stay bytes.
const OF_HALVES: [&str; 3] = ["Batch", "SnapshotChunk", "Progress"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let control = descriptors.file.iter_mut().filter(|file| file.package() == "proxy.control.v1");
    for message in control.flat_map(|file| &mut file.message_type) {
        if OF_HALVES.contains(&message.name()) {
            for field in message.field.iter_mut().filter(|field| field.name() == "halves") {
                field.set_type(Type::Bytes);
                field.type_name = None;
            }
        }
    }
    let mut bytes: Vec<String> = OF_HALVES.map(|name| format!(".proxy.control.v1.{name}.halves")).into();
    bytes.push(".proxy.control.v1.RouteTableChunk".to_owned());
    let configured = bytes.iter().fold(tonic_prost_build::configure(), tonic_prost_build::Builder::bytes);
    configured.compile_fds(descriptors)?;
    Ok(())
}
