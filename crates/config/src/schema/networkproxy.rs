//! Owns the keys of `networkproxy.yaml`: names, shapes, defaults, and what each one does.
//!
//! Never reads anything. The order here is the order of the reference page.

use super::Least::None as NoLeast;
use super::Scalar::{Address, Auto, Bool, Choice, Duration, File, Integer, Size, Word};
use super::Shape::{List, One, Section, Sourced};
use super::Zero::{NoLimit, Refused};
use super::smartproxy::{LOG, SERVER_TLS};
use super::{Key, key, optional, required};

const fn deadline(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    key(name, Sourced(Duration(Refused)), default, doc)
}

/// The whole file.
pub(crate) static KEYS: [Key; 12] = [
    key("version", One(Choice(&[1])), "1", "The version of the file format."),
    key("workers", One(Auto(1, 1024)), "auto", "Threads that carry connections; `auto` = one per core."),
    key("control", Section(&CONTROL), "{}", "The control channel to smartproxy."),
    key("hop", Section(&HOP), "{}", "The data hop from smartproxy."),
    key("admin", Section(&ADMIN), "{}", "The gRPC port: admin services, health, reflection."),
    key("metrics", Section(&METRICS), "{}", "The HTTP port for `/metrics`, `/healthz` and `/readyz`."),
    key("log", Section(&LOG), "{}", "The log."),
    key(
        "certificates",
        Section(&CERTIFICATES),
        "{}",
        "Certificates and private keys, chosen by server name. Changed files are picked up; a broken new file keeps the last good one.",
    ),
    key("tls", Section(&TLS), "{}", "What TLS is offered to clients. 0-RTT is off."),
    key("timeouts", Section(&TIMEOUTS), "{}", "Deadlines."),
    key("limits", Section(&LIMITS), "{}", "Admission and memory."),
    key("pool", Section(&POOL), "{}", "Connections to targets."),
];

static CONTROL: [Key; 3] = [
    key("connect", One(Address), "127.0.0.1:7800", "smartproxy's control address."),
    optional(
        "token_file",
        One(File),
        "The bearer token's file, read before each dial; the default is smartproxy's. A missing one is waited for.",
    ),
    optional("tls", Section(&CLIENT_TLS), "TLS to smartproxy's control address."),
];

static CLIENT_TLS: [Key; 3] = [
    required("cert_file", One(File), "The client's certificate chain, PEM."),
    required("key_file", One(File), "Its private key, PEM."),
    required("ca_file", One(File), "The authority that signs smartproxy's certificate, PEM."),
];

static HOP: [Key; 1] = [key(
    "listen",
    One(Address),
    "127.0.0.1:7443",
    "Where it listens, on loopback; port 0 = any, announced to smartproxy.",
)];

static ADMIN: [Key; 4] = [
    key("listen", One(Address), "127.0.0.1:7801", "Where the gRPC port listens."),
    optional("tls", Section(&SERVER_TLS), "TLS for the gRPC port, with client certificates checked."),
    key(
        "allow_plaintext",
        One(Bool),
        "false",
        "Lets the port listen off loopback without TLS. The token is then needed for reading as well.",
    ),
    key("read_requires_token", One(Bool), "false", "Reading needs the token on loopback too."),
];

static METRICS: [Key; 1] =
    [key("listen", One(Address), "127.0.0.1:7811", "Where it listens; any address will do.")];

static CERTIFICATES: [Key; 3] = [
    key(
        "files",
        List(&Section(&CERTIFICATE_FILE), NoLeast),
        "[]",
        "Pairs named one by one. The first is the default for absent or unmatched names.",
    ),
    optional(
        "directory",
        One(File),
        "A directory of pairs: every `NAME.pem` and `NAME.key`, or `NAME/fullchain.pem` and `NAME/privkey.pem`; watched.",
    ),
    key("self_signed", One(Bool), "false", "Makes a certificate for names that have none (development)."),
];

static CERTIFICATE_FILE: [Key; 2] = [
    required("cert_file", One(File), "The certificate chain, leaf first, PEM."),
    required("key_file", One(File), "The leaf's private key, PEM."),
];

static TLS: [Key; 2] = [
    key("min_version", One(Word(&["1.2", "1.3"])), "'1.2'", "The oldest version that is accepted."),
    key("session_tickets", One(Bool), "true", "Resumption by tickets."),
];

static TIMEOUTS: [Key; 12] = [
    deadline("hop_header", "2s", "To read the header of a hop connection."),
    deadline("tls_handshake", "10s", "From the hop header to the end of the TLS handshake."),
    deadline("request_header", "10s", "To read a request's header."),
    deadline("keep_alive", "75s", "Between two requests."),
    key("request", Sourced(Duration(NoLimit)), "0s", "For a whole request and its response."),
    deadline("response", "60s", "From the end of the request to the header of the response."),
    deadline("stream_idle", "5m", "No byte of a request or response in either direction."),
    deadline("tunnel_idle", "1h", "No byte through an upgraded or opaque connection."),
    deadline("connect", "5s", "To connect to a target."),
    deadline("half_close", "1m", "One side has closed and the other makes no progress."),
    deadline("close", "5s", "To deliver what is left and say goodbye."),
    deadline("drain", "30s", "To let connections finish when draining."),
];

static LIMITS: [Key; 4] = [
    key(
        "max_connections",
        Sourced(Auto(1, 100_000_000)),
        "auto",
        "Live connections; `auto` = what the limit on open files allows. Announced to smartproxy as capacity.",
    ),
    key("max_header_bytes", One(Size(1 << 10, 1 << 20)), "64KiB", "A request's header in all."),
    key("max_headers", One(Integer(1, 10_000)), "100", "Header fields of one request."),
    key("max_concurrent_streams", One(Integer(1, 10_000)), "128", "HTTP/2 streams of one connection."),
];

static POOL: [Key; 4] = [
    key(
        "max_idle_per_target",
        One(Integer(0, 100_000)),
        "64",
        "Idle connections kept for each target; those beyond it go after a second.",
    ),
    deadline("idle_timeout", "30s", "How long an idle one is kept."),
    key(
        "max_age",
        Sourced(Duration(NoLimit)),
        "0s",
        "Age after which one takes no new request; live streams finish.",
    ),
    key(
        "retry_stale",
        One(Bool),
        "true",
        "Sends a request once more on a fresh connection when a reused one failed before any byte of the response.",
    ),
];
