//! Messages as JSON, in the mapping of protobuf.
//!
//! *Owns* the one set of options: field names of the protos, 64-bit numbers as text, fields at their default
//! present (so that `jq .balanced` finds `false`). *Never* knows a message by its type: descriptors say all.
//! *Invariant*: what is printed can be read back as the request or answer that it is.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use super::screen::Screen;
use crate::failure::Failure;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(control::api::DESCRIPTORS).expect("the build made the descriptors")
});

/// Writes one answer, which is `proxy.admin.v1.NAME`.
pub(crate) fn write(screen: &mut Screen<'_>, name: &str, message: &impl Message) -> Result<(), Failure> {
    screen.line(text(name, message))
}

/// Writes JSON that is no message of the protos.
pub(crate) fn write_value(screen: &mut Screen<'_>, value: &Value) -> Result<(), Failure> {
    screen.line(format_args!("{value:#}"))
}

/// `message`, which is `proxy.admin.v1.NAME`: indented by two, fields in the order of their numbers.
pub(crate) fn text(name: &str, message: &impl Message) -> String {
    let name = format!("proxy.admin.v1.{name}");
    let descriptor = POOL.get_message_by_name(&name).expect("commands name messages of the protos");
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("a message decodes by its own descriptor");
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
    let mut text = Vec::new();
    dynamic
        .serialize_with_options(&mut serde_json::Serializer::pretty(&mut text), &options)
        .expect("every value of the protos has a JSON form");
    String::from_utf8(text).expect("JSON is UTF-8")
}

#[cfg(test)]
mod tests {
    use control::api::messages as pb;
    use serde_json::json;

    use super::*;

    fn value(name: &str, message: &impl Message) -> Value {
        serde_json::from_str(&text(name, message)).unwrap()
    }

    #[test]
    fn fields_come_in_the_order_of_the_protos() {
        let law = pb::Law { name: "a".into(), left: 1, ..Default::default() };
        let text = text("Law", &law);
        let keys: Vec<&str> = text.lines().filter_map(|line| line.trim().split('"').nth(1)).collect();
        let fields =
            ["name", "peer_instance_id", "left_name", "left", "right_name", "right", "excused", "holds"];
        assert_eq!(keys, fields);
    }

    #[test]
    fn the_mapping_is_that_of_protobuf_with_the_protos_field_names() {
        let law = pb::Law { name: "a = b".into(), left: u64::MAX, ..Default::default() };
        let expected = json!({
            "name": "a = b", "peer_instance_id": "", "left_name": "", "left": "18446744073709551615",
            "right_name": "", "right": "0", "excused": "0", "holds": false
        });
        assert_eq!(value("Law", &law), expected);
        let deadline = pb::Deadline {
            limit: Some(prost_types::Duration { seconds: 60, nanos: 500_000_000 }),
            ..Default::default()
        };
        assert_eq!(value("Deadline", &deadline)["limit"], json!("60.500s"));
        assert_eq!(value("Deadline", &deadline).get("time_left"), None, "absent stays absent");
        let half = pb::Half { phase: 6, role: 99, ..Default::default() };
        assert_eq!(value("Half", &half)["phase"], json!("PHASE_CONNECTING"));
        assert_eq!(value("Half", &half)["role"], json!(99), "an unknown number is kept");
    }
}
