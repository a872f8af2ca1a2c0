//! The defaults, spelt out: what a file that says nothing means, and what no file at all means.
//!
//! *Owns* the numbers that operators rely on; changing one here is changing a promise.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use config::{
    Action, Auto, LogFormat, LogLevel, NetworkproxyConfig, RouteTable, SmartproxyConfig, Source, Sourced,
    Surroundings, TlsMode, TlsVersion, check_networkproxy, check_smartproxy, default_token_file,
};

fn seconds(seconds: u64) -> Sourced<Duration> {
    Sourced::by_default(Duration::from_secs(seconds))
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn a_smartproxy_file_that_says_nothing_means_the_defaults() {
    let config = check_smartproxy("f", "version: 1\n", &Surroundings::ideal()).config.expect("valid");
    assert_eq!(config.version, 1);
    assert_eq!(config.workers, Auto::Auto);
    assert_eq!(config.bind.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0.0.0.0", "::"]);
    assert_eq!(config.control.listen, address("127.0.0.1:7800"));
    assert_eq!(config.control.token_file, None);
    assert_eq!(config.control.heartbeat, Duration::from_secs(1));
    assert_eq!(config.control.stall_after, Duration::from_secs(3));
    assert!(!config.control.allow_plaintext);
    assert!(!config.control.read_requires_token);
    assert_eq!(config.metrics.listen, address("127.0.0.1:7810"));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Info, LogFormat::Text));
    let timeouts = &config.timeouts;
    assert_eq!(timeouts.accept_queue, Sourced::by_default(Some(Duration::from_millis(100))));
    assert_eq!(timeouts.proxy_header, seconds(2));
    assert_eq!(timeouts.initial_data, seconds(5));
    assert_eq!(timeouts.connect, seconds(5));
    assert_eq!(timeouts.hold, seconds(10));
    assert_eq!(timeouts.inactivity, seconds(3600));
    assert_eq!(timeouts.half_close, seconds(60));
    assert_eq!(timeouts.write_stall, seconds(300));
    assert_eq!(timeouts.max_lifetime, Sourced::by_default(None));
    assert_eq!(timeouts.close, seconds(5));
    assert_eq!(timeouts.drain, seconds(30));
    assert_eq!(timeouts.tcp_keepalive, seconds(60));
    assert!((timeouts.jitter.fraction() - 0.05).abs() < f64::EPSILON);
    let limits = &config.limits;
    assert_eq!(limits.max_connections.value, Auto::Auto);
    assert_eq!(limits.max_connections_per_ip.value, None);
    assert_eq!(limits.max_held.value, 10_000);
    assert_eq!(limits.initial_data_bytes, 16 * 1024);
    assert_eq!(limits.closed_records, 10_000);
    assert_eq!(config.routes, []);
}

#[test]
fn a_networkproxy_file_that_says_nothing_means_the_defaults() {
    let config = check_networkproxy("f", "version: 1\n", &Surroundings::ideal()).config.expect("valid");
    assert_eq!(config.workers, Auto::Auto);
    assert_eq!(config.control.connect, address("127.0.0.1:7800"));
    assert_eq!(config.control.token_file, None);
    assert_eq!(config.hop.listen, address("127.0.0.1:7443"));
    assert_eq!(config.admin.listen, address("127.0.0.1:7801"));
    assert_eq!(config.metrics.listen, address("127.0.0.1:7811"));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Info, LogFormat::Text));
    assert_eq!((config.certificates.files.len(), &config.certificates.directory), (0, &None));
    assert!(!config.certificates.self_signed);
    assert_eq!((config.tls.min_version, config.tls.session_tickets), (TlsVersion::V1_2, true));
    let timeouts = &config.timeouts;
    assert_eq!(timeouts.hop_header, seconds(2));
    assert_eq!(timeouts.tls_handshake, seconds(10));
    assert_eq!(timeouts.request_header, seconds(10));
    assert_eq!(timeouts.keep_alive, seconds(75));
    assert_eq!(timeouts.request, Sourced::by_default(None));
    assert_eq!(timeouts.response, seconds(60));
    assert_eq!(timeouts.stream_idle, seconds(300));
    assert_eq!(timeouts.tunnel_idle, seconds(3600));
    assert_eq!(timeouts.connect, seconds(5));
    assert_eq!(timeouts.half_close, seconds(60));
    assert_eq!(timeouts.close, seconds(5));
    assert_eq!(timeouts.drain, seconds(30));
    let limits = &config.limits;
    assert_eq!(limits.max_connections.value, Auto::Auto);
    assert_eq!(
        (limits.max_header_bytes, limits.max_headers, limits.max_concurrent_streams),
        (65_536, 100, 128)
    );
    let pool = &config.pool;
    assert_eq!(
        (pool.max_idle_per_target, pool.idle_timeout.value, pool.retry_stale),
        (64, Duration::from_secs(30), true)
    );
    assert_eq!(pool.max_age.value, None);
}

/// P8, P10: without a file both doors are on loopback, and both are answered without a backend.
#[test]
fn without_a_file_two_doors_on_loopback_show_the_status_page() {
    let config = SmartproxyConfig::default();
    assert_eq!(config.bind.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1"]);
    let table = RouteTable::build(&config).expect("no conflicts");
    let doors: Vec<_> = table.listeners().map(|door| (door.port, door.tls, door.clear)).collect();
    assert_eq!(doors, [(8080, false, true), (8443, true, false)]);
    assert!(config.routes.iter().all(|route| route.action == Action::StatusPage));
    assert_eq!(config.routes[0].tls, Some(TlsMode::Terminate));
    assert!(NetworkproxyConfig::default().certificates.self_signed);
}

/// P5: a deadline says which line, and which route, set it.
#[test]
fn a_deadline_says_where_its_value_came_from() {
    let text = "version: 1\ntimeouts:\n  connect: 7s\nroutes:\n  - name: mail\n    match: { ports: [993] }\n    \
                forward: { targets: [10.0.0.9:993] }\n    timeouts:\n      inactivity: 10m\n";
    let config = check_smartproxy("s.yaml", text, &Surroundings::ideal()).config.expect("valid");
    let table = RouteTable::build(&config).expect("no conflicts");
    let timeouts = &table.entry("mail").expect("the entry").timeouts;
    assert_eq!(timeouts.connect.source, Source::File { file: "s.yaml".into(), line: 3 });
    assert_eq!(timeouts.inactivity.source.to_string(), "route mail (s.yaml:9)");
    assert_eq!(timeouts.inactivity.value, Duration::from_mins(10));
    assert_eq!(timeouts.half_close.source, Source::Default);
}

#[test]
fn the_token_file_is_where_the_user_may_write() {
    let with = |value: Option<&str>, uid| {
        default_token_file(&|name| value.filter(|_| name == "XDG_RUNTIME_DIR").map(str::to_owned), uid)
    };
    assert_eq!(with(Some("/run/user/1000"), 1000), PathBuf::from("/run/user/1000/smartproxy/control.token"));
    assert_eq!(with(Some("/run/user/0"), 0), PathBuf::from("/run/user/0/smartproxy/control.token"));
    assert_eq!(with(None, 0), PathBuf::from("/run/smartproxy/control.token"));
    assert_eq!(with(None, 1000), PathBuf::from("/tmp/smartproxy-1000/control.token"));
    assert_eq!(with(Some(""), 1000), PathBuf::from("/tmp/smartproxy-1000/control.token"));
    assert_eq!(with(Some("relative"), 1000), PathBuf::from("/tmp/smartproxy-1000/control.token"));
}
