//! Owns the keys of `smartproxy.yaml`: names, shapes, defaults, and what each one does.
//!
//! Never reads anything. The order here is the order of the reference page.

use super::Least::{None as NoLeast, One as AtLeastOne};
use super::Scalar::{
    Address, Auto, Bool, Choice, Domain, Duration, File, Integer, Ip, Limit, Location, Name, Network,
    Percent, Ports, Rate, Size, Target, Text, UrlPath, Word,
};
use super::Shape::{List, Names, One, Placed, Section, Short, Sourced, WordOr};
use super::Zero::{NoLimit, NoWait, Refused};
use super::{Key, key, optional, required};

const fn deadline(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    key(name, Sourced(Duration(Refused)), default, doc)
}

const fn own_deadline(name: &'static str, doc: &'static str) -> Key {
    optional(name, Sourced(Duration(Refused)), doc)
}

/// The whole file.
pub(crate) static KEYS: [Key; 10] = [
    key("version", One(Choice(&[1])), "1", "The version of the file format."),
    key("workers", One(Auto(1, 1024)), "auto", "Threads that carry connections; `auto` = one per core."),
    key(
        "bind",
        List(&One(Ip), AtLeastOne),
        "['0.0.0.0', '::']",
        "Addresses that every public port is bound on. IPv6 sockets take IPv6 only; a family that the host lacks is \
         skipped with a warning.",
    ),
    key(
        "control",
        Section(&CONTROL),
        "{}",
        "The gRPC port: control channel, admin services, health, reflection.",
    ),
    key("metrics", Section(&METRICS), "{}", "The HTTP port for `/metrics`, `/healthz` and `/readyz`."),
    key("log", Section(&LOG), "{}", "The log."),
    key("timeouts", Section(&TIMEOUTS), "{}", "Deadlines. No phase of a connection is without one."),
    key("limits", Section(&LIMITS), "{}", "Admission and memory."),
    optional(
        "proxy_protocol",
        List(&Section(&PROXY_PROTOCOL), NoLeast),
        "Ports on which a PROXY protocol header is required from some networks, and refused from all others.",
    ),
    key(
        "routes",
        List(&Placed(&ROUTE), NoLeast),
        "[]",
        "What to do with which connection. The order is the last tie-breaker.",
    ),
];

static CONTROL: [Key; 7] = [
    key(
        "listen",
        One(Address),
        "127.0.0.1:7800",
        "Where the gRPC port listens. It is bound first and alone: the lock against a second instance.",
    ),
    optional(
        "token_file",
        One(File),
        "The bearer token's file, made on first start. When absent: `$XDG_RUNTIME_DIR/smartproxy/control.token`, else \
         `/run/smartproxy/control.token` as root, else `/tmp/smartproxy-UID/control.token`.",
    ),
    key("heartbeat", One(Duration(Refused)), "1s", "Time between two heartbeats on the control channel."),
    key(
        "stall_after",
        One(Duration(Refused)),
        "3s",
        "Silence, or standing still, after which a session is reset; at least two heartbeats.",
    ),
    optional("tls", Section(&SERVER_TLS), "TLS for the gRPC port, with client certificates checked."),
    key(
        "allow_plaintext",
        One(Bool),
        "false",
        "Lets the port listen off loopback without TLS. The token is then needed for reading as well.",
    ),
    key("read_requires_token", One(Bool), "false", "Reading needs the token on loopback too."),
];

pub(super) static SERVER_TLS: [Key; 3] = [
    required("cert_file", One(File), "The server's certificate chain, PEM."),
    required("key_file", One(File), "Its private key, PEM."),
    required("client_ca_file", One(File), "The authority that signs clients' certificates, PEM."),
];

static METRICS: [Key; 1] =
    [key("listen", One(Address), "127.0.0.1:7810", "Where it listens; any address will do.")];

pub(super) static LOG: [Key; 2] = [
    key(
        "level",
        One(Word(&["error", "warn", "info", "debug", "trace"])),
        "info",
        "The least severe level that is written.",
    ),
    key(
        "format",
        One(Word(&["text", "json"])),
        "text",
        "How lines look: for people, or one JSON object each.",
    ),
];

static TIMEOUTS: [Key; 13] = [
    key(
        "accept_queue",
        Sourced(Duration(NoLimit)),
        "100ms",
        "To wait to be accepted, on a port with bridged routes, while for two seconds more clients have come than can \
         be served: who waited longer is refused at once. Otherwise nobody is refused for it.",
    ),
    deadline("proxy_header", "2s", "To read an inbound PROXY protocol header."),
    deadline("initial_data", "5s", "From accept (or the end of the PROXY header) to the routing decision."),
    deadline("connect", "5s", "To connect to the target or to the hop."),
    key("hold", Sourced(Duration(NoWait)), "10s", "To wait for a networkproxy to come (back)."),
    deadline(
        "inactivity",
        "1h",
        "No byte in either direction. On bridged connections networkproxy's file rules, unless the route writes one.",
    ),
    deadline(
        "half_close",
        "1m",
        "One side has closed and the other makes no progress. On bridged connections as above.",
    ),
    deadline("write_stall", "5m", "A side does not take our bytes."),
    key("max_lifetime", Sourced(Duration(NoLimit)), "0s", "From accept to the end, whatever happens."),
    deadline("close", "5s", "To deliver what is left and say goodbye."),
    deadline("drain", "30s", "To let connections finish when draining."),
    deadline(
        "tcp_keepalive",
        "60s",
        "A peer that acknowledges nothing for this long is gone (`TCP_USER_TIMEOUT`). A silent one is probed after half of it, six times before the time is up.",
    ),
    key(
        "jitter",
        One(Percent(50)),
        "5%",
        "Spread of deadlines, sweeps and reconnects, so that they do not fall together.",
    ),
];

static LIMITS: [Key; 6] = [
    key(
        "max_connections",
        Sourced(Auto(1, 100_000_000)),
        "auto",
        "Live connections. `auto` = what the limit on open files allows after raising it: 2 descriptors each, \
         and 1,000 for pipes and everything else; a larger number is refused.",
    ),
    key(
        "max_connections_per_ip",
        Sourced(Limit(100_000_000)),
        "0",
        "Live connections of one client address; 0 = no limit of its own.",
    ),
    key("new_connections_per_ip", WordOr("off", &RATE), "off", "New connections of one client address."),
    key(
        "max_held",
        Sourced(Integer(0, 10_000_000)),
        "10000",
        "Connections that wait for a networkproxy at one time.",
    ),
    key(
        "initial_data_bytes",
        One(Size(1 << 10, 64 << 10)),
        "16KiB",
        "Bytes read before the routing decision.",
    ),
    key(
        "closed_records",
        One(Integer(1, 10_000_000)),
        "10000",
        "Closed records that are retained, bounded by memory as well.",
    ),
];

static RATE: [Key; 2] = [
    required("rate", One(Rate), "How many in how long, for example `300/1m`."),
    required("burst", One(Integer(1, 1_000_000)), "How many at once."),
];

static PROXY_PROTOCOL: [Key; 2] = [
    required("ports", List(&One(Ports), AtLeastOne), "The ports."),
    required("accept_from", List(&One(Network), AtLeastOne), "The networks from which a header is required."),
];

pub(super) static ROUTE: [Key; 12] = [
    required(
        "name",
        One(Name),
        "The route's name: unique, letters, digits, `-`, `_` and `.`. It is the entry's name in records, logs and metrics.",
    ),
    required("match", Section(&MATCH), "What the route takes."),
    optional(
        "tls",
        One(Word(&["passthrough", "terminate", "reencrypt"])),
        "What happens to TLS: relayed as it is, ended by networkproxy, or ended and made anew to the target. Absent = \
         clear text.",
    ),
    optional(
        "protocol",
        One(Word(&["http", "tcp"])),
        "What is spoken inside. Absent: `http` with `terminate`, `reencrypt`, `redirect` and `respond`, else `tcp`.",
    ),
    optional("forward", Section(&FORWARD), "Sends to a target."),
    optional("redirect", Section(&REDIRECT), "Answers HTTP requests with a location."),
    optional(
        "respond",
        Section(&RESPOND),
        "Answers HTTP requests with fixed text, or with the built-in status page.",
    ),
    optional(
        "block",
        Section(&[]),
        "Refuses, TLS and clear text alike. On clear-text HTTP ports with a 403.",
    ),
    optional("http", Section(&HTTP), "Changes to requests and responses."),
    optional("security", Section(&SECURITY), "Who may use the route, and how much."),
    optional("timeouts", Section(&ROUTE_TIMEOUTS), "The route's own deadlines."),
    optional("priority", One(Integer(0, 1_000_000)), "Overrides the order of precedence; more wins."),
];

static MATCH: [Key; 9] = [
    required(
        "ports",
        List(&One(Ports), AtLeastOne),
        "Public ports: numbers, or ranges such as `8000-8010`. 0 asks the kernel for a free one.",
    ),
    key(
        "domains",
        List(&One(Domain), NoLeast),
        "[]",
        "Server names (TLS) or Hosts (clear-text HTTP); `*.` covers exactly one label. Empty = any, also none.",
    ),
    optional("client_ip", List(&One(Network), NoLeast), "Networks of clients."),
    optional(
        "alpn",
        List(&One(Text), NoLeast),
        "Protocols, one of which the client must offer; also all that networkproxy negotiates.",
    ),
    optional("path", One(UrlPath), "The request's path; a final `*` covers everything that begins so."),
    optional("method", One(Text), "The request's method."),
    optional("headers", Names(Text), "Headers of the request and their values."),
    optional("priority", One(Integer(0, 1_000_000)), "Overrides the order of precedence; more wins."),
    optional(
        "detect",
        One(Word(&["http", "tcp"])),
        "Tells clear-text HTTP from other clear text by its first bytes.",
    ),
];

static FORWARD: [Key; 5] = [
    required(
        "targets",
        List(&Short(&TARGET, "address"), AtLeastOne),
        "Where to: `host:port`, or `{ address: host:port }`. Names are resolved without blocking; all their addresses \
         are used.",
    ),
    key(
        "balance",
        One(Word(&["round_robin", "least_connections", "random", "ip_hash"])),
        "round_robin",
        "How a target is picked.",
    ),
    optional("health_check", Section(&HEALTH_CHECK), "Takes targets out that do not answer."),
    optional("send_proxy", One(Word(&["v1", "v2"])), "Sends a PROXY protocol header to the target."),
    optional("target_tls", Section(&TARGET_TLS), "TLS to the target."),
];

static TARGET: [Key; 2] = [
    required("address", One(Target), "Host and port."),
    optional("weight", One(Integer(1, 1000)), "Share of connections."),
];

static HEALTH_CHECK: [Key; 5] = [
    optional("path", One(UrlPath), "Asked by HTTP; absent = TCP alone."),
    key("interval", One(Duration(Refused)), "5s", "Time between two checks."),
    key("timeout", One(Duration(Refused)), "2s", "To answer."),
    key("unhealthy_after", One(Integer(1, 100)), "3", "Failures in a row."),
    key("healthy_after", One(Integer(1, 100)), "2", "Successes in a row."),
];

static TARGET_TLS: [Key; 2] = [
    optional("server_name", One(Domain), "The name that the target's certificate must have."),
    optional("ca_file", One(File), "The authority that signs it, PEM."),
];

static REDIRECT: [Key; 2] = [
    required(
        "to",
        One(Location),
        "The location; `{host}`, `{path}`, `{query}` and `{path_and_query}` are filled in.",
    ),
    key("status", One(Choice(&[301, 302, 303, 307, 308])), "308", "The status."),
];

static RESPOND: [Key; 3] = [
    key("status", One(Integer(200, 599)), "200", "The status."),
    key("body", One(Text), "''", "Plain text."),
    key(
        "status_page",
        One(Bool),
        "false",
        "The built-in status page instead: it says that the two processes work, and shows the connection's id.",
    ),
];

static HTTP: [Key; 3] = [
    optional("request_headers", Section(&HEADERS), "Headers of requests."),
    optional("response_headers", Section(&HEADERS), "Headers of responses."),
    optional("max_body", One(Size(0, 1 << 40)), "The largest body of a request."),
];

static HEADERS: [Key; 2] = [
    optional("set", Names(Text), "Set to these values."),
    optional("remove", List(&One(Text), NoLeast), "Removed."),
];

static SECURITY: [Key; 4] = [
    optional("allow", List(&One(Network), NoLeast), "Only these networks."),
    optional("block", List(&One(Network), NoLeast), "All but these networks."),
    optional("max_connections", One(Integer(1, 100_000_000)), "Live connections of the route."),
    optional(
        "max_connections_per_ip",
        One(Integer(1, 100_000_000)),
        "Live connections of one client address to the route.",
    ),
];

static ROUTE_TIMEOUTS: [Key; 9] = [
    own_deadline("connect", "As `timeouts.connect`. To the target, also where networkproxy dials it."),
    optional("hold", Sourced(Duration(NoWait)), "As `timeouts.hold`; only where networkproxy is needed."),
    own_deadline(
        "inactivity",
        "As `timeouts.inactivity`; on bridged routes in place of networkproxy's `stream_idle` and `tunnel_idle`.",
    ),
    own_deadline("half_close", "As `timeouts.half_close`, also on bridged routes."),
    own_deadline("write_stall", "As `timeouts.write_stall`."),
    optional("max_lifetime", Sourced(Duration(NoLimit)), "As `timeouts.max_lifetime`."),
    own_deadline("close", "As `timeouts.close`."),
    own_deadline("drain", "As `timeouts.drain`."),
    own_deadline("tcp_keepalive", "As `timeouts.tcp_keepalive`."),
];
