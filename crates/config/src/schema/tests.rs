//! Every key of both tables: its default, its error, and that it reaches the configuration.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{Fallback, FileSchema, Key, NETWORKPROXY, SMARTPROXY, Scalar, Shape, Zero};
use crate::{RouteTable, Surroundings, check_any, check_networkproxy, check_smartproxy};

/// A key, the way to it, and its place in a document that has nothing else.
struct Row {
    file: &'static FileSchema,
    path: String,
    key: &'static Key,
    /// The document up to and including `key:`.
    document: String,
    line: usize,
}

impl Row {
    fn is_unsupported(&self) -> bool {
        let above = self.file.unsupported.iter().filter(|row| !row.contains('='));
        above.into_iter().any(|row| {
            self.path == *row
                || self.path.starts_with(&format!("{row}."))
                || self.path.starts_with(&format!("{row}[]"))
        })
    }
}

fn rows() -> Vec<Row> {
    let mut all = Vec::new();
    for file in [&SMARTPROXY, &NETWORKPROXY] {
        collect(file, "", file.keys, "", 0, false, &mut all);
    }
    all
}

fn collect(
    file: &'static FileSchema,
    above: &str,
    keys: &'static [Key],
    document: &str,
    depth: usize,
    in_list: bool,
    all: &mut Vec<Row>,
) {
    for key in keys {
        let path = format!("{above}{}", key.name);
        let mut document = document.to_owned();
        let indent = "  ".repeat(depth);
        let dash = if in_list { "- " } else { "" };
        write!(document, "\n{indent}{dash}{}:", key.name).unwrap();
        let line = document.lines().count();
        let inner_depth = depth + 1 + usize::from(in_list);
        match key.shape {
            Shape::Section(inner) | Shape::WordOr(_, inner) => {
                collect(file, &format!("{path}."), inner, &document, inner_depth, false, all);
            }
            Shape::List(Shape::Section(inner) | Shape::Placed(inner) | Shape::Short(inner, _), _) => {
                collect(file, &format!("{path}[]."), inner, &document, inner_depth, true, all);
            }
            _ => {}
        }
        all.push(Row { file, path, key, document, line });
    }
}

fn errors(row: &Row, value: &str) -> Vec<String> {
    let text = format!("{} {value}\n", row.document);
    let report = if row.file.name == "smartproxy.yaml" {
        check_smartproxy("f", &text, &Surroundings::ideal()).errors
    } else {
        check_networkproxy("f", &text, &Surroundings::ideal()).errors
    };
    report.iter().map(ToString::to_string).collect()
}

/// a wrong value of any key is an error at its line, with its name; an unbuilt key is one whatever its value.
#[test]
fn every_key_has_an_error_of_its_own() {
    let rows = rows();
    assert!(rows.len() > 130, "{} rows", rows.len());
    for row in rows {
        let wrong = match row.key.shape {
            Shape::One(_) | Shape::Sourced(_) | Shape::Short(..) | Shape::WordOr(..) => "[x]",
            _ => "5",
        };
        let errors = errors(&row, wrong);
        let at = format!("f:{}:", row.line);
        let named = if row.is_unsupported() {
            let unbuilt =
                row.file.unsupported.iter().find(|unbuilt| row.path.starts_with(**unbuilt)).unwrap();
            errors.iter().any(|error| error.contains(&format!("`{unbuilt}` is not supported yet")))
        } else {
            errors
                .iter()
                .any(|error| error.starts_with(&at) && error.contains(&format!("`{}` is ", row.path)))
        };
        assert!(named, "{} = {wrong}: {errors:#?}", row.path);
    }
}

/// A key without a value is an error of single values, and an empty section or list of the others.
#[test]
fn every_single_value_must_be_written() {
    for row in rows().iter().filter(|row| !row.is_unsupported()) {
        if matches!(row.key.shape, Shape::One(_) | Shape::Sourced(_)) {
            let errors = errors(row, "");
            let expected = format!("f:{}:", row.line);
            let found = errors
                .iter()
                .any(|e| e.starts_with(&expected) && e.contains(&format!("`{}` has no value", row.path)));
            assert!(found, "{}: {errors:#?}", row.path);
        }
    }
}

/// Every required key is missed by name.
#[test]
fn every_required_key_is_missed() {
    for row in rows().iter().filter(|row| row.key.fallback == Fallback::Required && !row.is_unsupported()) {
        let (document, _) = row.document.rsplit_once('\n').unwrap();
        let in_list = row.path.rsplit_once('.').is_some_and(|(above, _)| above.ends_with("[]"));
        let empty = if in_list { "\n            - {}\n" } else { " {}\n" };
        let text = format!("{document}{empty}");
        let errors: Vec<String> =
            check_any("f", &text, &Surroundings::ideal()).errors.iter().map(ToString::to_string).collect();
        let missed = errors.iter().any(|error| error.contains(&format!("has no `{}`", row.key.name)));
        assert!(missed, "{} in {text}: {errors:#?}", row.path);
    }
}

/// the list of what is not built names keys and words that the tables have, and each is refused by name.
#[test]
fn every_row_of_the_unsupported_list_is_a_key_and_is_refused() {
    let rows = rows();
    for file in [&SMARTPROXY, &NETWORKPROXY] {
        for unbuilt in file.unsupported {
            let (path, word) =
                unbuilt.split_once('=').map_or((*unbuilt, None), |(path, word)| (path, Some(word)));
            let row = rows.iter().find(|row| row.file.name == file.name && row.path == path);
            let row = row.unwrap_or_else(|| panic!("{unbuilt} is in no table"));
            let name = match (word, row.key.shape) {
                (Some(word), Shape::One(Scalar::Word(words))) => {
                    assert!(words.contains(&word), "{unbuilt}");
                    format!("`{path}: {word}`")
                }
                (Some(_), _) => panic!("{unbuilt} is no list of words"),
                (None, _) => format!("`{path}`"),
            };
            let errors = errors(row, word.unwrap_or("{}"));
            let refused = errors.iter().any(|error| error.contains(&format!("{name} is not supported yet")));
            assert!(refused, "{unbuilt}: {errors:#?}");
        }
    }
}

/// No key is accepted and then lost: each of a process's settings changes the configuration when it changes.
#[test]
fn every_setting_reaches_the_configuration() {
    let settings = rows().into_iter().filter(|row| !row.is_unsupported() && !row.path.contains("[]"));
    let mut tried = 0;
    for row in settings {
        let (Shape::One(scalar) | Shape::Sourced(scalar)) = row.key.shape else { continue };
        if row.path == "version" {
            continue;
        }
        let value = other_value(scalar, &row);
        let text = format!("version: 1{} {value}\n", row.document);
        let (empty, changed) = if row.file.name == "smartproxy.yaml" {
            let of = |text: &str| check_smartproxy("f", text, &Surroundings::ideal());
            assert_eq!(of(&text).errors, [], "{text}");
            (format!("{:?}", of("version: 1\n").config), format!("{:?}", of(&text).config))
        } else {
            let of = |text: &str| check_networkproxy("f", text, &Surroundings::ideal());
            assert_eq!(of(&text).errors, [], "{text}");
            (format!("{:?}", of("version: 1\n").config), format!("{:?}", of(&text).config))
        };
        assert_ne!(empty, changed, "{} has no effect", row.path);
        tried += 1;
    }
    assert!(tried > 50, "{tried} settings");
}

/// A valid value that is not the default.
fn other_value(scalar: Scalar, row: &Row) -> String {
    match (scalar, row.path.as_str()) {
        (_, "control.stall_after") => "7s".to_owned(),
        (_, "control.heartbeat") => "1500ms".to_owned(),
        (Scalar::Bool, _) => {
            if row.key.fallback == Fallback::Text("true") { "false" } else { "true" }.to_owned()
        }
        (Scalar::Duration(Zero::Refused | Zero::NoLimit | Zero::NoWait), _) => "77s".to_owned(),
        (Scalar::Integer(..) | Scalar::Auto(..) | Scalar::Limit(..), _) => "77".to_owned(),
        (Scalar::Size(..), _) => "17KiB".to_owned(),
        (Scalar::Percent(_), _) => "7%".to_owned(),
        (Scalar::Address, _) => "127.0.0.77:77".to_owned(),
        (Scalar::File, _) => "/elsewhere".to_owned(),
        (Scalar::Word(words), _) => {
            format!(
                "'{}'",
                words
                    .iter()
                    .find(|word| !matches!(row.key.fallback, Fallback::Text(text) if text.contains(**word)))
                    .unwrap()
            )
        }
        (scalar, path) => panic!("{path}: no other value of {scalar:?}"),
    }
}

/// The keys of a table are unique and documented, and every default is valid.
#[test]
fn the_tables_are_in_order() {
    let mut paths = BTreeSet::new();
    for row in rows() {
        assert!(paths.insert((row.file.name, row.path.clone())), "{} is there twice", row.path);
        assert!(row.key.doc.ends_with('.') && row.key.doc.len() > 6, "{} has no sentence", row.path);
        if let (Fallback::Text(text), Shape::One(scalar) | Shape::Sourced(scalar)) =
            (row.key.fallback, row.key.shape)
        {
            let plain = text.trim_matches('\'');
            assert!(scalar.read(plain, crate::tree::Style::Plain).is_ok(), "{}: default {text}", row.path);
        }
    }
}

/// The keys of routes, each as a route that lacks it (or has another value) and one that has it.
const ROUTE_KEYS: [(&str, &str, &str); 16] = [
    ("routes[].name", "name: a, match: {ports: [1]}, block:", "name: b, match: {ports: [1]}, block:"),
    ("routes[].match.ports", "name: a, match: {ports: [1]}, block:", "name: a, match: {ports: [2]}, block:"),
    (
        "routes[].match.domains",
        "name: a, match: {ports: [1]}, block:",
        "name: a, match: {ports: [1], domains: [x.y]}, block:",
    ),
    ("routes[].tls", "respond: {}", "tls: terminate, respond: {}"),
    ("routes[].protocol", "forward: {targets: ['x:1']}", "protocol: http, forward: {targets: ['x:1']}"),
    ("routes[].forward", "block:", "forward: {targets: ['x:1']}"),
    ("routes[].forward.targets", "forward: {targets: ['x:1']}", "forward: {targets: ['x:1', 'y:1']}"),
    (
        "routes[].forward.targets[].address",
        "forward: {targets: [{address: 'x:1'}]}",
        "forward: {targets: [{address: 'x:2'}]}",
    ),
    ("routes[].redirect", "respond: {}", "redirect: {to: /}"),
    ("routes[].redirect.to", "redirect: {to: /}", "redirect: {to: /x}"),
    ("routes[].redirect.status", "redirect: {to: /}", "redirect: {to: /, status: 301}"),
    ("routes[].respond", "block:", "respond: {}"),
    ("routes[].respond.status", "respond: {}", "respond: {status: 418}"),
    ("routes[].respond.body", "respond: {}", "respond: {body: x}"),
    ("routes[].respond.status_page", "respond: {}", "respond: {status_page: true}"),
    ("routes[].block", "respond: {}", "block:"),
];

/// Sections whose keys are proven one by one, and a key with a single word, which cannot be told apart yet.
const PROVEN_BY_THEIR_PARTS: [&str; 3] = ["routes[].match", "routes[].timeouts", "routes[].forward.balance"];

/// What smartproxy decides with, and networkproxy is sent, for a file of one route.
fn effect_of(route: &str) -> String {
    let start = if route.starts_with("name") { "" } else { "name: a, match: {ports: [1]}, " };
    let text = format!("version: 1\nroutes:\n  - {{ {start}{route} }}\n");
    let report = check_smartproxy("f", &text, &Surroundings::ideal());
    assert_eq!(report.errors, [], "{text}");
    let table = RouteTable::build(&report.config.unwrap()).unwrap();
    let facts = table.entries().iter().map(|entry| {
        format!(
            "{} {:?} {:?} {:?} {:?}",
            entry.name, entry.class, entry.domains, entry.transport, entry.timeouts
        )
    });
    let entries: Vec<String> = facts.collect();
    let ports: Vec<u16> = table.listeners().map(|listener| listener.port).collect();
    format!("{entries:?} {ports:?} {:?}", table.inner(1))
}

/// as above, of routes.
#[test]
fn every_key_of_a_route_reaches_the_table() {
    for (path, without, with) in ROUTE_KEYS {
        assert_ne!(effect_of(without), effect_of(with), "{path} has no effect");
    }
    for row in rows().iter().filter(|row| row.path.starts_with("routes[]") && !row.is_unsupported()) {
        if let Some(deadline) = row.path.strip_prefix("routes[].timeouts.") {
            let http = if deadline == "hold" { "protocol: http, " } else { "" };
            let route = format!("{http}forward: {{targets: ['x:1']}}");
            let own = format!("{route}, timeouts: {{{deadline}: 77s}}");
            assert_ne!(effect_of(&route), effect_of(&own), "{} has no effect", row.path);
        } else {
            let listed = ROUTE_KEYS.iter().any(|(path, ..)| *path == row.path);
            assert!(
                listed || PROVEN_BY_THEIR_PARTS.contains(&row.path.as_str()),
                "{} has no proof",
                row.path
            );
        }
    }
}
