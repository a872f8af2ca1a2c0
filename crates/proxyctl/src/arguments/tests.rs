//! What the command line takes and what it refuses.

use clap::CommandFactory as _;
use clap::error::ErrorKind;

use super::*;

fn read(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(std::iter::once("proxyctl").chain(line.split_whitespace()))
}

fn list(line: &str) -> List {
    match read(line).unwrap().command {
        Command::List(list) => list,
        other => panic!("{other:?}"),
    }
}

fn wait_of(line: &str) -> Option<Duration> {
    match read(line).unwrap().command {
        Command::Audit { wait } => wait,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn global_flags_stand_before_or_after_the_command() {
    for line in [
        "--address 127.0.0.1:7801 --output json --token-file /t status",
        "status --address 127.0.0.1:7801 -o json --token-file /t",
    ] {
        let arguments = read(line).unwrap();
        assert_eq!(arguments.address.as_str(), "127.0.0.1:7801");
        assert_eq!(arguments.output, Output::Json);
        assert_eq!(arguments.token_file().path(), std::path::Path::new("/t"));
    }
    let defaults = read("status").unwrap();
    assert_eq!((defaults.address.as_str(), defaults.output), ("127.0.0.1:7800", Output::Table));
}

#[test]
fn every_filter_is_read() {
    let found = list(
        "list --phase relaying,held --phase closing --entry e --route r --client 10.1.2.3/8 --server-name s \
         --handled-by networkproxy --reason client_reset,target_reset --older-than 10m --closed-since 1h --all \
         --oldest-first --limit 7 --page-size 3",
    );
    assert_eq!(found.phases, ["relaying", "held", "closing"]);
    assert_eq!(found.reasons, ["client_reset", "target_reset"]);
    assert_eq!((found.entry.as_deref(), found.route.as_deref()), (Some("e"), Some("r")));
    assert_eq!(found.client.unwrap().to_string(), "10.0.0.0/8");
    assert_eq!(found.handled_by, Some(HandledBy::Networkproxy));
    assert_eq!(found.older_than, Some(Duration::from_mins(10)));
    assert_eq!(found.closed_since, Some(Since::Ago(Duration::from_hours(1))));
    assert!(found.all && found.oldest_first);
    assert_eq!((found.limit, found.page_size), (Some(7), 3));
    assert!(list("list --include-closed").all);
    assert!(!list("list").all);
}

#[test]
fn networks_are_addresses_or_prefixes() {
    for (text, expected) in [
        ("10.0.0.0/8", Some("10.0.0.0/8")),
        ("192.0.2.7", Some("192.0.2.7/32")),
        ("2001:db8::1", Some("2001:db8::1/128")),
        ("2001:db8::1/32", Some("2001:db8::/32")),
        ("10.0.0.0/33", None),
        ("10.0.0", None),
        ("example.com", None),
        ("", None),
    ] {
        assert_eq!(network(text).ok().map(|n| n.to_string()).as_deref(), expected, "{text}");
    }
}

/// R-49: a duration has a unit and an end.
#[test]
fn durations_and_moments_say_their_unit() {
    assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
    assert_eq!(duration("90"), Err(Unreadable::Duration(config::UnitError::NoUnit)));
    assert_eq!("10m".parse(), Ok(Since::Ago(Duration::from_mins(10))));
    let at = Timestamp { seconds: 1_738_324_800, nanos: 0 };
    assert_eq!("2025-01-31T12:00:00Z".parse(), Ok(Since::At(at)));
    assert_eq!("2025-01-31T13:00:00+01:00".parse(), Ok(Since::At(at)));
    assert_eq!("yesterday".parse::<Since>(), Err(Unreadable::Moment));
}

#[test]
fn a_wait_has_a_default_and_an_end() {
    assert_eq!(wait_of("audit"), None);
    assert_eq!(wait_of("audit --wait"), Some(Duration::from_secs(30)));
    assert_eq!(wait_of("audit --wait 5s"), Some(Duration::from_secs(5)));
    assert_eq!(read("audit --wait 61s").unwrap_err().kind(), ErrorKind::ValueValidation);
}

#[test]
fn an_address_names_host_and_port() {
    for good in ["127.0.0.1:7800", "localhost:7801", "[::1]:7800", "proxy-1.internal:1"] {
        assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
    }
    for bad in [
        "",
        "127.0.0.1",
        ":7800",
        "127.0.0.1:0",
        "127.0.0.1:99999",
        "::1:7800",
        "[::1",
        "[x]:1",
        "a/b:1",
        "u@h:1",
    ] {
        assert_eq!(bad.parse::<Address>(), Err(Unreadable::Address), "{bad}");
    }
    let process = |text: &str| text.parse::<Address>().unwrap().likely_process();
    assert_eq!(process("h:7800"), "smartproxy");
    assert_eq!(process("h:7801"), "networkproxy");
    assert_eq!(process("h:1"), "smartproxy or networkproxy");
}

#[test]
fn mistakes_are_usage_errors() {
    for line in [
        "",
        "lst",
        "get",
        "close",
        "check",
        "list --phase relayin",
        "list --reason client_rest",
        "list --client 10.0.0.0/99",
        "list --older-than 10",
        "list --limit 0",
        "list --page-size 1001",
        "list --handled-by haproxy",
        "status --output xml",
        "status --address 7800",
        "completions ksh",
    ] {
        assert_eq!(read(line).unwrap_err().exit_code(), 2, "{line}");
    }
    let slip = read("list --reason client_rest").unwrap_err().to_string();
    assert!(slip.contains("client_reset"), "{slip}");
}
