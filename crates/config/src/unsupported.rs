//! Owns the one list of keys (and words) that the reference has and no feature stands behind yet.
//!
//! A file that uses one gets the error "not supported yet" at its place, rather than a setting without effect
//! . An issue that builds a feature deletes its rows here.
//!
//! Invariant: every row names a key of the schema; a test looks each one up.

/// Keys of `smartproxy.yaml`; `[]` stands for the elements of a list, `=` comes before a single word.
pub(crate) const SMARTPROXY: &[&str] = &[
    "control.tls",
    "limits.new_connections_per_ip",
    "proxy_protocol",
    "routes[].match.client_ip",
    "routes[].match.alpn",
    "routes[].match.path",
    "routes[].match.method",
    "routes[].match.headers",
    "routes[].match.priority",
    "routes[].match.detect",
    "routes[].priority",
    "routes[].tls=reencrypt",
    "routes[].forward.targets[].weight",
    "routes[].forward.balance=least_connections",
    "routes[].forward.balance=random",
    "routes[].forward.balance=ip_hash",
    "routes[].forward.health_check",
    "routes[].forward.send_proxy",
    "routes[].forward.target_tls",
    "routes[].http",
    "routes[].security",
];

/// Keys of `networkproxy.yaml`.
pub(crate) const NETWORKPROXY: &[&str] = &["control.tls", "admin.tls"];
