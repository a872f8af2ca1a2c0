//! Every kind of mistake at once: the exact lines that an operator reads, for both files.
//!
//! *Owns* the promise that errors teach: `mistakes/*.txt` holds what is printed for `mistakes/*.yaml`, line by
//! line. Write a new kind of mistake into the YAML, and what should be said about it into the text.

use std::io;
use std::path::Path;

use config::{Report, Surroundings, check_networkproxy, check_smartproxy};

const SMARTPROXY: &str = include_str!("mistakes/smartproxy.yaml");
const NETWORKPROXY: &str = include_str!("mistakes/networkproxy.yaml");

/// A machine with few descriptors, on which some files are missing and one may not be read.
fn surroundings() -> Surroundings<'static> {
    let readable = |path: &Path| match path {
        path if path.starts_with("/secret") => Err(io::ErrorKind::PermissionDenied.into()),
        path if path.starts_with("/etc") => Ok(()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    Surroundings { readable: Box::leak(Box::new(readable)), most_connections: Some(1000) }
}

fn lines<C>(report: &Report<C>) -> String {
    let errors = report.errors.iter().map(|problem| format!("{problem}\n"));
    errors.chain(report.warnings.iter().map(|problem| format!("warning: {problem}\n"))).collect()
}

#[track_caller]
fn assert_lines(found: &str, expected: &str) {
    let differ = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert_eq!(differ, None, "first difference (found, expected) in:\n{found}");
    assert_eq!(found.lines().count(), expected.lines().count(), "{found}");
}

/// P9, R-20, R-62: all problems of a file at once, in order, each with its place, what was expected and what was meant.
#[test]
fn every_kind_of_mistake_in_smartproxy_yaml_is_named_at_once() {
    let report = check_smartproxy("smartproxy.yaml", SMARTPROXY, &surroundings());
    assert_lines(&lines(&report), include_str!("mistakes/smartproxy.txt"));
    assert_eq!(report.config, None);
}

/// P9, R-20: as above.
#[test]
fn every_kind_of_mistake_in_networkproxy_yaml_is_named_at_once() {
    let report = check_networkproxy("networkproxy.yaml", NETWORKPROXY, &surroundings());
    assert_lines(&lines(&report), include_str!("mistakes/networkproxy.txt"));
    assert_eq!(report.config, None);
}

/// What is probably not meant is said, and keeps nothing from starting.
#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let outer =
        check_smartproxy("s", "version: 1\ncontrol: { allow_plaintext: true }\n", &Surroundings::ideal());
    assert_eq!(
        lines(&outer).lines().collect::<Vec<_>>(),
        [
            "warning: s:1:1: there are no routes, so no public port is opened; expected at least one route",
            "warning: s:2:29: `control.allow_plaintext` has no effect on a loopback address; expected the file without it",
        ]
    );
    assert!(outer.config.is_some());
    let inner = check_networkproxy("n", "control: { connect: 10.0.0.1:7800 }\n", &Surroundings::ideal());
    assert_eq!(
        lines(&inner).lines().collect::<Vec<_>>(),
        [
            "warning: n:1:1: there are no certificates, so no TLS can be terminated; expected `certificates.files`, \
             `certificates.directory`, or `certificates.self_signed: true`",
            "warning: n:1:21: `control.connect` is 10.0.0.1:7800, off loopback: the token travels in clear text; \
             expected a loopback address",
        ]
    );
    assert!(inner.config.is_some());
}

/// A file given to the wrong process says whose its keys are.
#[test]
fn either_file_is_recognised_by_its_keys() {
    use config::{FileKind, detect};

    assert_eq!(detect("routes: []\n"), FileKind::Smartproxy);
    assert_eq!(detect("limits: {}\n"), FileKind::Smartproxy);
    assert_eq!(detect("hop: {}\nlog: {}\n"), FileKind::Networkproxy);
    assert_eq!(detect("control: { connect: 127.0.0.1:7800 }\n"), FileKind::Networkproxy);
    assert_eq!(detect("version: 1\n\tx"), FileKind::Smartproxy);
}
