//! Owns the checking of a whole file: text → tree → schema → types → what belongs together.
//!
//! Never touches the machine by itself: what must be asked of it (may this file be read, how many descriptors
//! are there) comes in as [`Surroundings`]. Ports in use, and whether a key belongs to its certificate, are
//! for the process to find.
//!
//! Invariant: a report has a configuration exactly if it has no error.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_yaml::{Mapping, Value};

use crate::networkproxy::NetworkproxyConfig;
use crate::problem::{At, Place, Problem, Problems};
use crate::routes::RouteTable;

use crate::schema::read::Reader;
use crate::schema::route::{RouteKeys, one_action, route};
use crate::schema::{FileSchema, NETWORKPROXY, SMARTPROXY};

use crate::smartproxy::SmartproxyConfig;
use crate::tree::{self, Data, Node};

mod inner_rules;
mod outer_rules;

/// What the check of a file found.
#[derive(Debug, Clone, PartialEq)]
pub struct Report<C> {
    /// What keeps the file from being used, in the order of the file.
    pub errors: Vec<Problem>,
    /// What is probably not meant, in the order of the file.
    pub warnings: Vec<Problem>,
    /// The configuration, where there is no error.
    pub config: Option<C>,
}

impl<C> Report<C> {
    /// A report of one error, for a file that could not be read at all.
    fn of(problem: Problem) -> Self {
        Self { errors: vec![problem], warnings: Vec::new(), config: None }
    }
}

/// What a check asks of the machine.
pub struct Surroundings<'a> {
    /// Whether a file or directory can be read.
    pub readable: &'a dyn Fn(&Path) -> io::Result<()>,
    /// The most connections that the process may have, where it is known.
    pub most_connections: Option<u64>,
}

impl Surroundings<'static> {
    /// A machine on which every file can be read and nothing is limited: for tests and `proxyctl check`.
    pub fn ideal() -> Self {
        Self { readable: &|_| Ok(()), most_connections: None }
    }

    /// This machine: opens each file once.
    pub fn real() -> Self {
        Self { readable: &|path| std::fs::File::open(path).map(drop), most_connections: None }
    }
}

/// Either file.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyConfig {
    /// `smartproxy.yaml`.
    Smartproxy(Box<SmartproxyConfig>),
    /// `networkproxy.yaml`.
    Networkproxy(Box<NetworkproxyConfig>),
}

/// Which of the two files a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `smartproxy.yaml`.
    Smartproxy,
    /// `networkproxy.yaml`.
    Networkproxy,
}

/// Checks the text of a `smartproxy.yaml`; `name` is how errors call the file.
pub fn check_smartproxy(name: &str, text: &str, surroundings: &Surroundings<'_>) -> Report<SmartproxyConfig> {
    let mut problems = Problems::new(name);
    let config = read(text, &SMARTPROXY, &mut problems)
        .and_then(|(root, values)| smartproxy(&root, values, surroundings, &mut problems));
    report(problems, config)
}

/// Checks the text of a `networkproxy.yaml`; `name` is how errors call the file.
pub fn check_networkproxy(
    name: &str,
    text: &str,
    surroundings: &Surroundings<'_>,
) -> Report<NetworkproxyConfig> {
    let mut problems = Problems::new(name);
    let config = read(text, &NETWORKPROXY, &mut problems).and_then(|(root, values)| {
        let settings = fill(values, &mut problems)?;
        inner_rules::settings(&settings, &root, surroundings, &mut problems);
        Some(NetworkproxyConfig { file: Arc::clone(&problems.file), settings })
    });
    report(problems, config)
}

/// Checks the text of either file, after finding out by its keys which one it is.
pub fn check_any(name: &str, text: &str, surroundings: &Surroundings<'_>) -> Report<AnyConfig> {
    match detect(text) {
        FileKind::Smartproxy => {
            let Report { errors, warnings, config } = check_smartproxy(name, text, surroundings);
            Report { errors, warnings, config: config.map(Box::new).map(AnyConfig::Smartproxy) }
        }
        FileKind::Networkproxy => {
            let Report { errors, warnings, config } = check_networkproxy(name, text, surroundings);
            Report { errors, warnings, config: config.map(Box::new).map(AnyConfig::Networkproxy) }
        }
    }
}

/// Which of the two files a text is, by the keys that only one of them has. Ties go to smartproxy.
pub fn detect(text: &str) -> FileKind {
    let Some(Node { data: Data::Section(pairs), .. }) = tree::parse(text, &mut Problems::new("")) else {
        return FileKind::Smartproxy;
    };
    let has = |file: &FileSchema, key: &str| file.keys.iter().any(|known| known.name == key);
    let knows = |file: &FileSchema| pairs.iter().filter(|pair| has(file, &pair.key)).count();
    let dials = pairs.iter().any(|pair| pair.key == "control" && pair.value.pair("connect").is_some());
    if knows(&NETWORKPROXY) + usize::from(dials) > knows(&SMARTPROXY) {
        FileKind::Networkproxy
    } else {
        FileKind::Smartproxy
    }
}

/// Reads a file and checks it with `check`, which is one of the functions above.
pub fn load<C>(
    path: &Path,
    surroundings: &Surroundings<'_>,
    check: fn(&str, &str, &Surroundings<'_>) -> Report<C>,
) -> Report<C> {
    let name = path.display().to_string();
    let start = || Place { file: name.as_str().into(), line: At::START.line, column: At::START.column };
    let bytes = match read_at_most(path, tree::LARGEST_FILE as u64 + 1) {
        Ok(bytes) => bytes,
        Err(error) => {
            let what = format!("the file cannot be read: {error}");
            return Report::of(Problem::new(start(), what, "a readable file"));
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => check(&name, &text, surroundings),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let At { line, column } = At::after(&String::from_utf8_lossy(&error.as_bytes()[..good]));
            let place = Place { file: name.into(), line, column };
            Report::of(Problem::new(place, "this byte is not UTF-8", "text in UTF-8"))
        }
    }
}

/// Where the token file is when no file says so: `$XDG_RUNTIME_DIR/smartproxy/control.token`, else
/// `/run/smartproxy/control.token` as root, else `/tmp/smartproxy-UID/control.token`.
pub fn default_token_file(env: &dyn Fn(&str) -> Option<String>, uid: u32) -> PathBuf {
    match env("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|directory| directory.is_absolute()) {
        Some(directory) => directory.join("smartproxy/control.token"),
        None if uid == 0 => PathBuf::from("/run/smartproxy/control.token"),
        None => PathBuf::from(format!("/tmp/smartproxy-{uid}/control.token")),
    }
}

fn read_at_most(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    use io::Read as _;

    let mut text = Vec::new();
    std::fs::File::open(path)?.take(bytes).read_to_end(&mut text)?;
    Ok(text)
}

/// Text → tree → values.
fn read(text: &str, file: &'static FileSchema, problems: &mut Problems) -> Option<(Node, Mapping)> {
    let root = tree::parse(text, problems);
    if !problems.errors.is_empty() && root.is_none() {
        return None;
    }
    let Some(root) = root.filter(|root| !root.is_null()) else {
        let what = "the file is empty";
        problems.error(At::START, what, "at least `version: 1`; without a file the embedded default is used");
        return None;
    };
    let values = Reader::new(file, problems).section(&root, file.keys)?;
    Some((root, values))
}

/// Values → types. The schema has checked everything that serde could object to.
fn fill<T: DeserializeOwned>(values: Mapping, problems: &mut Problems) -> Option<T> {
    match serde_yaml::from_value(Value::Mapping(values)) {
        Ok(filled) => Some(filled),
        Err(error) => {
            let what = format!("the checked values do not fit their types ({error})");
            problems.error(At::START, what, "a schema that agrees with the types: please report this");
            None
        }
    }
}

fn smartproxy(
    root: &Node,
    mut values: Mapping,
    surroundings: &Surroundings<'_>,
    problems: &mut Problems,
) -> Option<SmartproxyConfig> {
    let listed = match values.remove("routes") {
        Some(Value::Sequence(routes)) => routes,
        _ => Vec::new(),
    };
    let settings = fill(values, problems)?;
    let nodes = root.find(&["routes"]).map_or(&[][..], Node::elements);
    let mut routes = Vec::with_capacity(listed.len());
    let mut unread: BTreeSet<usize> = (0..nodes.len()).collect();

    for value in listed {
        let Value::Mapping(value) = value else { continue };
        let Some(keys) = fill::<RouteKeys>(value, problems) else { continue };
        let order = keys.order as usize;
        let Some(node) = nodes.get(order) else { continue };
        unread.remove(&order);
        routes.extend(route(keys, node, problems));
    }
    for order in unread {
        one_action(&nodes[order], problems);
    }
    let config = SmartproxyConfig { file: Arc::clone(&problems.file), settings, routes };
    outer_rules::settings(&config, root, surroundings, problems);
    outer_rules::names(nodes, problems);
    outer_rules::ports(&config, root, problems);
    outer_rules::targets(&config, nodes, problems);
    if let Err(conflicts) = RouteTable::build(&config) {
        problems.errors.extend(conflicts);
    }
    Some(config)
}

fn report<C>(problems: Problems, config: Option<C>) -> Report<C> {
    let (errors, warnings) = problems.sorted();
    let config = config.filter(|_| errors.is_empty());
    Report { errors, warnings, config }
}
