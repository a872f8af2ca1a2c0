//! Owns the walk over a tree along a schema: names every key and value that does not fit, and gives the rest,
//! with defaults filled in, to serde.
//!
//! Never stops: a value that does not fit is replaced by its default, and an element of a list that has a
//! problem is left out, so that what is right is still checked against everything else.
//!
//! Invariant: what it returns has every key that its structs need; serde cannot fail on it.

use serde_yaml::{Mapping, Value};

use super::scalar::one_of;
use super::{Fallback, FileSchema, Key, Least, Scalar, Shape};
use crate::problem::{At, Problems, nearest};
use crate::tree::{self, Data, Node, Pair};

/// A walk over one file.
pub(crate) struct Reader<'p> {
    file: &'static FileSchema,
    problems: &'p mut Problems,
    path: String,
    origin: Origin,
}

/// Whether the walk is over the file or over a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    File,
    Default,
}

impl<'p> Reader<'p> {
    pub(crate) fn new(file: &'static FileSchema, problems: &'p mut Problems) -> Self {
        Self { file, problems, path: String::new(), origin: Origin::File }
    }

    /// Reads a section; `None` where a key is missing without which it means nothing.
    pub(crate) fn section(&mut self, node: &Node, keys: &'static [Key]) -> Option<Mapping> {
        let pairs = match &node.data {
            Data::Section(pairs) => pairs.as_slice(),
            _ if node.is_null() => &[],
            _ => {
                let what = format!("{} is {}", self.here(), node.kind());
                self.problems.error(node.at, what, format!("a section with {}", self.keys_of(keys)));
                return None;
            }
        };
        let mut values = Mapping::new();
        for pair in pairs {
            match keys.iter().find(|key| key.name == pair.key) {
                Some(key) => {
                    if let Some(value) = self.pair(pair, key) {
                        values.insert(key.name.into(), value);
                    }
                }
                None => self.unknown(pair, keys),
            }
        }
        let mut complete = true;
        for key in keys {
            if values.contains_key(key.name) {
                continue;
            }
            let written = node.pair(key.name).is_some();
            match key.fallback {
                Fallback::Text(text) if !self.is_unsupported(key.name) => {
                    if let Some(value) = self.default(text, key) {
                        values.insert(key.name.into(), value);
                    }
                }
                Fallback::Required => {
                    complete = false;
                    if !written {
                        let what = format!("{} has no `{}`", self.here(), key.name);
                        self.problems.error(
                            node.at,
                            what,
                            format!("`{}: …`, {}", key.name, self.expectation_of(key.name, key.shape)),
                        );
                    }
                }
                Fallback::Text(_) | Fallback::Absent => {}
            }
        }
        complete.then_some(values)
    }

    fn pair(&mut self, pair: &Pair, key: &Key) -> Option<Value> {
        if self.is_unsupported(key.name) {
            let what = format!("`{}` is not supported yet", self.path_of(key.name));
            self.problems.error(pair.at, what, "a file without it");
            return None;
        }
        let before = self.enter(key.name);
        let value = self.value(&pair.value, pair.at, key.shape);
        self.path.truncate(before);
        value
    }

    fn default(&mut self, text: &str, key: &Key) -> Option<Value> {
        let node = tree::parse(text, self.problems)?;
        let origin = std::mem::replace(&mut self.origin, Origin::Default);
        let before = self.enter(key.name);
        let value = self.value(&node, node.at, key.shape);
        self.path.truncate(before);
        self.origin = origin;
        value
    }

    fn value(&mut self, node: &Node, key_at: At, shape: Shape) -> Option<Value> {
        if matches!(node.data, Data::Refused) {
            return None;
        }
        match shape {
            Shape::One(scalar) => self.scalar(node, key_at, scalar),
            Shape::Sourced(scalar) => {
                let value = self.scalar(node, key_at, scalar)?;
                let mut sourced = Mapping::new();
                sourced.insert("value".into(), value);
                sourced.insert("source".into(), self.source(key_at));
                Some(sourced.into())
            }
            Shape::Section(keys) | Shape::Placed(keys) => self.section(node, keys).map(Into::into),
            Shape::Short(keys, name) => match &node.data {
                Data::Scalar { .. } if !node.is_null() => {
                    let pair = Pair { key: name.to_owned(), at: node.at, value: node.clone() };
                    self.section(&Node { at: node.at, data: Data::Section(vec![pair]) }, keys).map(Into::into)
                }
                _ => self.section(node, keys).map(Into::into),
            },
            Shape::WordOr(word, keys) => match &node.data {
                Data::Scalar { text, .. } if text == word => Some(Value::Null),
                Data::Section(_) => self.section(node, keys).map(Into::into),
                _ => {
                    let what = format!("{} is {}", self.here(), node.kind());
                    let expected = self.file.expectation(&self.path, shape);
                    self.problems.error(node.at, what, expected);
                    None
                }
            },
            Shape::Names(scalar) => self.names(node, scalar),
            Shape::List(of, least) => self.list(node, key_at, *of, least),
        }
    }

    fn scalar(&mut self, node: &Node, key_at: At, scalar: Scalar) -> Option<Value> {
        let Data::Scalar { text, style } = &node.data else {
            let what = format!("{} is {}", self.here(), node.kind());
            self.problems.error(node.at, what, self.file.expectation(&self.path, Shape::One(scalar)));
            return None;
        };
        if node.is_null() {
            let what = format!("{} has no value", self.here());
            self.problems.error(key_at, what, self.file.expectation(&self.path, Shape::One(scalar)));
            return None;
        }
        if matches!(scalar, Scalar::Word(_))
            && self.file.unsupported.contains(&format!("{}={text}", self.path).as_str())
        {
            let what = format!("`{}: {text}` is not supported yet", self.path);
            self.problems.error(node.at, what, self.file.expectation(&self.path, Shape::One(scalar)));
            return None;
        }
        match scalar.read(text, *style) {
            Ok(value) => Some(value),
            Err(refusal) => {
                let what = format!("{}: {}", self.here(), refusal.what);
                let expected = match scalar {
                    Scalar::Word(_) => self.file.expectation(&self.path, Shape::One(scalar)),
                    _ => refusal.expected,
                };
                self.problems.error_with(node.at, what, expected, refusal.suggestion);
                None
            }
        }
    }

    fn list(&mut self, node: &Node, key_at: At, of: Shape, least: Least) -> Option<Value> {
        let elements = match &node.data {
            Data::List(elements) => elements.as_slice(),
            _ if node.is_null() => &[],
            _ => {
                let what = format!("{} is {}", self.here(), node.kind());
                self.problems.error(
                    node.at,
                    what,
                    format!("a list in brackets or with dashes, {}", self.expectation_of("[]", of)),
                );
                return None;
            }
        };
        if elements.is_empty() && least == Least::One {
            let what = format!("{} is empty", self.here());
            let at = if node.is_null() { key_at } else { node.at };
            self.problems.error(at, what, format!("at least one element, {}", self.expectation_of("[]", of)));
            return None;
        }
        let before = self.path.len();
        self.path.push_str("[]");
        let mut values = Vec::with_capacity(elements.len());
        let mut whole = true;
        for (order, element) in elements.iter().enumerate() {
            let errors = self.problems.errors.len();
            let value = self.value(element, element.at, of);
            match value {
                Some(mut value) if self.problems.errors.len() == errors => {
                    if let (Shape::Placed(_), Value::Mapping(placed)) = (of, &mut value) {
                        placed.insert("order".into(), order.into());
                    }
                    values.push(value);
                }
                _ => whole = false,
            }
        }
        self.path.truncate(before);
        (whole || matches!(of, Shape::Placed(_)) || least == Least::None || !values.is_empty())
            .then_some(values.into())
    }

    fn names(&mut self, node: &Node, scalar: Scalar) -> Option<Value> {
        let Data::Section(pairs) = &node.data else {
            let what = format!("{} is {}", self.here(), node.kind());
            self.problems.error(node.at, what, "a section with names of your own");
            return None;
        };
        let mut values = Mapping::new();
        for pair in pairs {
            if let Some(value) = self.scalar(&pair.value, pair.at, scalar) {
                values.insert(pair.key.as_str().into(), value);
            }
        }
        Some(values.into())
    }

    fn unknown(&mut self, pair: &Pair, keys: &'static [Key]) {
        let below = keys.iter().find_map(|key| match key.shape {
            Shape::Section(inner) if inner.iter().any(|inner| inner.name == pair.key) => {
                Some(format!("{}.{}", key.name, pair.key))
            }
            _ => None,
        });
        let suggestion = nearest(&pair.key, keys.iter().map(|key| key.name)).or(below);
        let place = match self.path.as_str() {
            "" if self.file.other.keys.iter().any(|key| key.name == pair.key) => {
                format!(", which belongs in {}", self.file.other.name)
            }
            "" => String::new(),
            _ => format!(" in {}", self.here()),
        };
        self.problems.error_with(
            pair.at,
            format!("unknown key `{}`{place}", pair.key),
            self.keys_of(keys),
            suggestion,
        );
    }

    fn source(&self, at: At) -> Value {
        let mut source = Mapping::new();
        match self.origin {
            Origin::Default => {
                source.insert("kind".into(), "default".into());
            }
            Origin::File => {
                source.insert("kind".into(), "file".into());
                source.insert("file".into(), (*self.problems.file).into());
                source.insert("line".into(), at.line.into());
            }
        }
        source.into()
    }

    fn is_unsupported(&self, name: &str) -> bool {
        self.file.unsupported.contains(&self.path_of(name).as_str())
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The keys of the section that is being read, apart from those that are not supported.
    fn keys_of(&self, keys: &[Key]) -> String {
        self.file.keys_of(&self.path, keys)
    }

    /// What belongs at a key, or (`[]`) at each element, of what is being read.
    fn expectation_of(&self, name: &str, shape: Shape) -> String {
        let path = if name == "[]" { format!("{}[]", self.path) } else { self.path_of(name) };
        self.file.expectation(&path, shape)
    }

    /// Goes one key down; the result is the length of the path to come back to.
    fn enter(&mut self, name: &str) -> usize {
        let before = self.path.len();
        if before > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        before
    }

    fn here(&self) -> String {
        match self.path.strip_suffix("[]") {
            _ if self.path.is_empty() => "the file".to_owned(),
            Some(list) => format!("an element of `{list}`"),
            None => format!("`{}`", self.path),
        }
    }
}

impl FileSchema {
    /// What a value at `path` looks like, apart from what is not supported.
    pub(crate) fn expectation(&self, path: &str, shape: Shape) -> String {
        match shape {
            Shape::One(Scalar::Word(words)) | Shape::Sourced(Scalar::Word(words)) => {
                let built = words
                    .iter()
                    .filter(|word| !self.unsupported.contains(&format!("{path}={word}").as_str()));
                one_of(&built.collect::<Vec<_>>())
            }
            Shape::One(scalar) | Shape::Sourced(scalar) => scalar.expectation(),
            Shape::Section(keys) | Shape::Placed(keys) => {
                format!("a section with {}", self.keys_of(path, keys))
            }
            Shape::Short(keys, name) => {
                keys.iter().find(|key| key.name == name).map_or_else(String::new, |key| {
                    format!(
                        "{}, or a section with {}",
                        self.expectation(path, key.shape),
                        self.keys_of(path, keys)
                    )
                })
            }
            Shape::WordOr(word, keys) => format!("`{word}`, or a section with {}", self.keys_of(path, keys)),
            Shape::Names(_) => "a section with names of your own".to_owned(),
            Shape::List(of, _) => {
                format!("a list, each element {}", self.expectation(&format!("{path}[]"), *of))
            }
        }
    }

    /// The names of `keys`, which stand at `path`, apart from those that are not supported.
    fn keys_of(&self, path: &str, keys: &[Key]) -> String {
        let dot = if path.is_empty() { "" } else { "." };
        let built = |key: &&Key| !self.unsupported.contains(&format!("{path}{dot}{}", key.name).as_str());
        match keys.iter().filter(built).map(|key| key.name).collect::<Vec<_>>().as_slice() {
            [] => "no keys".to_owned(),
            names => one_of(names),
        }
    }
}
