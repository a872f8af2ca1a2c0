//! Owns the YAML text as a tree in which every key and value knows its line and column.
//!
//! Never resolves aliases: what a file says is written where it applies, and a bomb of aliases cannot be
//! built. Depth and size are bounded; one document, no tags, no key twice.
//!
//! Invariant: a tree is returned only for text that is YAML; what is YAML but not ours is a problem with a
//! position, and the rest of the tree is still there to be checked.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use crate::problem::{At, Problems};

/// The largest file that is read, in bytes.
pub const LARGEST_FILE: usize = 16 << 20;
/// The deepest nesting that a file may have.
const DEEPEST: usize = 32;

/// A value and where it starts.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: At,
    pub(crate) data: Data,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    Scalar {
        text: String,
        style: Style,
    },
    List(Vec<Node>),
    Section(Vec<Pair>),
    /// Something that is a problem already, and is looked at no further.
    Refused,
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) at: At,
    pub(crate) value: Node,
}

/// Whether a scalar had quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Quoted,
}

impl Node {
    /// The value of `key`, where this is a section that has it.
    pub(crate) fn pair(&self, key: &str) -> Option<&Pair> {
        match &self.data {
            Data::Section(pairs) => pairs.iter().find(|pair| pair.key == key),
            _ => None,
        }
    }

    /// The value under a chain of keys.
    pub(crate) fn find(&self, keys: &[&str]) -> Option<&Node> {
        keys.iter().try_fold(self, |node, key| node.pair(key).map(|pair| &pair.value))
    }

    /// Where the value under a chain of keys is, or the nearest place above it that exists.
    pub(crate) fn place_of(&self, keys: &[&str]) -> At {
        let mut at = self.at;
        let mut node = self;
        for key in keys {
            let Some(pair) = node.pair(key) else { break };
            at = if pair.value.is_null() { pair.at } else { pair.value.at };
            node = &pair.value;
        }
        at
    }

    /// The elements, where this is a list.
    pub(crate) fn elements(&self) -> &[Node] {
        match &self.data {
            Data::List(elements) => elements,
            _ => &[],
        }
    }

    /// Nothing, or one of the words that YAML has for it.
    pub(crate) fn is_null(&self) -> bool {
        match &self.data {
            Data::Scalar { text, style: Style::Plain } => {
                matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }

    /// What this is, for an error: `the list` is wrong, `text` was expected.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.data {
            _ if self.is_null() => "nothing",
            Data::Scalar { .. } => "a single value",
            Data::List(_) => "a list",
            Data::Section(_) => "a section with keys",
            Data::Refused => "something else",
        }
    }
}

/// Reads one document. `None` after a problem that leaves no tree.
pub(crate) fn parse(text: &str, problems: &mut Problems) -> Option<Node> {
    if text.len() > LARGEST_FILE {
        let what = format!("the file has {} bytes", text.len());
        problems.error(At::START, what, format!("at most {}", crate::units::size_text(LARGEST_FILE as u64)));
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(nul) = text.find('\0') {
        // The parser takes it for the end of the file: what follows would be accepted without effect.
        problems.error(At::after(&text[..nul]), "a NUL character", "text without control characters");
        return None;
    }
    let mut builder = Builder { problems, open: Vec::new(), root: None, documents: 0, too_deep: 0 };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        match event {
            Ok((event, span)) => builder.take(event, at(&span.start)),
            Err(error) => {
                let (what, expected) = syntax(text, error.marker(), error.info());
                builder.problems.error(at(error.marker()), what, expected);
                return None;
            }
        }
    }
    builder.root
}

/// Puts the parser's events together. A stack of its own, so that depth costs no call stack.
struct Builder<'p> {
    problems: &'p mut Problems,
    open: Vec<Open>,
    root: Option<Node>,
    documents: u32,
    too_deep: u32,
}

/// A list or section whose end has not come yet.
struct Open {
    at: At,
    data: Data,
    key: Expected,
    seen: HashMap<String, u32>,
}

/// What comes next in a section.
enum Expected {
    Key,
    /// The value of this key.
    Value(String, At),
    /// The value of a key that is a problem already.
    Nothing,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, at: At) {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents == 2 {
                    self.problems.error(at, "a second document starts here", "one document per file");
                }
            }
            _ if self.documents > 1 => {}
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse(at, anchor, tag.as_ref());
                let style = if style == ScalarStyle::Plain { Style::Plain } else { Style::Quoted };
                self.put(Node { at, data: Data::Scalar { text: text.into_owned(), style } });
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse(at, anchor, tag.as_ref());
                self.begin(at, Data::List(Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse(at, anchor, tag.as_ref());
                self.begin(at, Data::Section(Vec::new()));
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(_) => {
                self.problems.error(
                    at,
                    "aliases (`*name`) are not supported",
                    "the value itself, written out",
                );
                self.put(Node { at, data: Data::Refused });
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }

    fn refuse(&mut self, at: At, anchor: usize, tag: Option<&Cow<'_, Tag>>) {
        if anchor != 0 {
            self.problems.error(at, "anchors (`&name`) are not supported", "the value alone");
        }
        if let Some(tag) = tag {
            let core = if tag.is_yaml_core_schema() { "!!" } else { tag.handle.as_str() };
            let what = format!("tags (`{core}{}`) are not supported", tag.suffix);
            self.problems.error(at, what, "the value alone");
        }
    }

    fn begin(&mut self, at: At, data: Data) {
        if self.open.len() >= DEEPEST {
            if self.too_deep == 0 {
                let what = format!("lists and sections are nested more than {DEEPEST} deep");
                self.problems.error(at, what, "the keys of the reference, which are less deep");
            }
            self.too_deep += 1;
            return;
        }
        self.open.push(Open { at, data, key: Expected::Key, seen: HashMap::new() });
    }

    fn end(&mut self) {
        if self.too_deep > 0 {
            self.too_deep -= 1;
        } else if let Some(open) = self.open.pop() {
            self.put(Node { at: open.at, data: open.data });
        }
    }

    fn put(&mut self, node: Node) {
        if self.too_deep > 0 {
            return;
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match (&mut open.data, std::mem::replace(&mut open.key, Expected::Key)) {
            (Data::List(elements), _) => elements.push(node),
            (Data::Section(pairs), Expected::Value(key, at)) => pairs.push(Pair { key, at, value: node }),
            (Data::Section(_), Expected::Key) => {
                let at = node.at;
                let Data::Scalar { text, .. } = node.data else {
                    if !matches!(node.data, Data::Refused) {
                        let what = format!("{} stands where a key belongs", node.kind());
                        self.problems.error(at, what, "a name and a colon");
                    }
                    open.key = Expected::Nothing;
                    return;
                };
                if let Some(line) = open.seen.insert(text.clone(), at.line) {
                    let what = format!("the key `{text}` is here twice, first on line {line}");
                    self.problems.error(at, what, "each key once");
                }
                open.key = Expected::Value(text, at);
            }
            (Data::Section(_), Expected::Nothing) | (Data::Scalar { .. } | Data::Refused, _) => {}
        }
    }
}

fn at(marker: &Marker) -> At {
    At { line: marker.line().max(1) as u32, column: marker.col() as u32 + 1 }
}

/// What the parser's words mean to somebody who edits a file.
fn syntax(text: &str, marker: &Marker, info: &str) -> (String, String) {
    let line = text.lines().nth(marker.line().saturating_sub(1)).unwrap_or_default();
    let indent = &line[..line.len() - line.trim_start().len()];
    if indent.contains('\t') {
        return ("the line is indented with a tab".to_owned(), "spaces".to_owned());
    }
    (format!("this is not YAML ({info})"), "keys and values as in the reference".to_owned())
}
