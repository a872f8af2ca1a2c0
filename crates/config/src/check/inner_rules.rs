//! Owns what must hold between several keys of `networkproxy.yaml`.
//!
//! Never opens a certificate: that a key belongs to it, and that it has not expired, is found by the process.

use super::Surroundings;
use super::outer_rules::{clash, most_connections, plaintext, token_file};
use crate::networkproxy::NetworkproxySettings;
use crate::problem::Problems;
use crate::tree::Node;

pub(super) fn settings(
    config: &NetworkproxySettings,
    root: &Node,
    around: &Surroundings<'_>,
    problems: &mut Problems,
) {
    addresses(config, root, problems);
    certificates(config, root, around, problems);
    most_connections(config.limits.max_connections.value, root, around, problems);
    if let Some(path) = &config.control.token_file {
        token_file(path, root, around, problems);
    }
}

fn addresses(config: &NetworkproxySettings, root: &Node, problems: &mut Problems) {
    plaintext("admin", config.admin.listen, config.admin.allow_plaintext, root, problems);
    if !config.hop.listen.ip().to_canonical().is_loopback() {
        let what = format!("`hop.listen` is {}, off loopback", config.hop.listen);
        problems.error(
            root.place_of(&["hop", "listen"]),
            what,
            "a loopback address: the hop stays on one machine",
        );
    }
    let connect = config.control.connect;
    if connect.port() == 0 || connect.ip().is_unspecified() {
        let what = format!("`control.connect` is {connect}, which nobody can connect to");
        problems.error(root.place_of(&["control", "connect"]), what, "smartproxy's control address");
    } else if !connect.ip().to_canonical().is_loopback() {
        let what = format!("`control.connect` is {connect}, off loopback: the token travels in clear text");
        problems.warn(root.place_of(&["control", "connect"]), what, "a loopback address");
    }
    let own = [
        (["hop", "listen"], config.hop.listen),
        (["admin", "listen"], config.admin.listen),
        (["metrics", "listen"], config.metrics.listen),
    ];
    for (i, (keys, address)) in own.iter().enumerate() {
        if let Some((other, _)) = own[..i].iter().find(|(_, other)| clash(*address, *other)) {
            let what = format!("`{}` is {address}, where `{}` is", keys.join("."), other.join("."));
            problems.error(root.place_of(keys), what, "an address for each");
        }
    }
}

fn certificates(
    config: &NetworkproxySettings,
    root: &Node,
    around: &Surroundings<'_>,
    problems: &mut Problems,
) {
    let certificates = &config.certificates;
    let elements = root.find(&["certificates", "files"]).map_or(&[][..], Node::elements);
    for (pair, node) in certificates.files.iter().zip(elements) {
        for (key, path) in [("cert_file", &pair.cert_file), ("key_file", &pair.key_file)] {
            if let Err(error) = (around.readable)(path) {
                let what = format!("`{key}`: `{}` cannot be read: {error}", path.display());
                problems.error(node.place_of(&[key]), what, "a readable PEM file");
            }
        }
    }
    if let Some(directory) = &certificates.directory
        && let Err(error) = (around.readable)(directory)
    {
        let what = format!("`certificates.directory`: `{}` cannot be read: {error}", directory.display());
        problems.error(root.place_of(&["certificates", "directory"]), what, "a readable directory");
    }
    if certificates.files.is_empty()
        && elements.is_empty()
        && certificates.directory.is_none()
        && !certificates.self_signed
    {
        let what = "there are no certificates, so no TLS can be terminated";
        let expected = "`certificates.files`, `certificates.directory`, or `certificates.self_signed: true`";
        problems.warn(root.place_of(&["certificates"]), what, expected);
    }
}
