//! Owns the patterns of a match: names, paths, ports, and the one normal form of a name.
//!
//! Never looks at a connection. Invariant: a pattern's text is in normal form (lower case, no trailing dot),
//! so that equal patterns are equal texts; `*.` covers exactly one label.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A name, or all names with exactly one more label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DomainPattern {
    /// This name.
    Exact(Arc<str>),
    /// `*.` and this name.
    Wildcard(Arc<str>),
}

impl DomainPattern {
    /// Whether the pattern covers `name`, which is in normal form.
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *name,
            Self::Wildcard(parent) => parent_name(name) == Some(parent),
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}

impl FromStr for DomainPattern {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        match text.strip_prefix("*.") {
            Some(parent) => Ok(Self::Wildcard(host_name(parent)?.into())),
            None if text == "*" => Err(DomainError::Everything),
            None => Ok(Self::Exact(host_name(text)?.into())),
        }
    }
}

impl TryFrom<String> for DomainPattern {
    type Error = DomainError;

    fn try_from(text: String) -> Result<Self, DomainError> {
        text.parse()
    }
}

impl From<DomainPattern> for String {
    fn from(pattern: DomainPattern) -> Self {
        pattern.to_string()
    }
}

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DomainError {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// Two dots in a row, or one at the start.
    #[error("the name has an empty label")]
    EmptyLabel,
    /// Above 253 characters, or a label above 63 (RFC 1035 section 2.3.4).
    #[error("the name is too long for DNS")]
    TooLong,
    /// `*` alone.
    #[error("`*` alone covers no name: `*.` covers exactly one label")]
    Everything,
    /// `*` elsewhere than as the first label.
    #[error("`*` stands only for the whole first label")]
    Star,
    /// A port, a path or a scheme.
    #[error("a name has no scheme, port or path")]
    NotOnlyAName,
    /// Letters beyond ASCII.
    #[error("a name with letters beyond ASCII is written in its `xn--` form")]
    NotAscii,
    /// Anything else that names do not have.
    #[error("a name has only letters, digits, `-`, `_` and dots")]
    Character,
}

/// The beginning of a path, or a whole path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum PathPattern {
    /// This path and no other.
    Exact(String),
    /// Every path that begins so; written with a final `*`.
    Prefix(String),
}

impl PathPattern {
    /// Whether the pattern covers `path` (without its query).
    pub fn covers(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()),
        }
    }

    /// Longer is more specific; an exact path beats a prefix of its length.
    pub(crate) fn specificity(&self) -> (usize, bool) {
        match self {
            Self::Exact(path) => (path.len(), true),
            Self::Prefix(path) => (path.len(), false),
        }
    }
}

impl From<String> for PathPattern {
    fn from(text: String) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Exact(text),
        }
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> Self {
        match pattern {
            PathPattern::Exact(path) => path,
            PathPattern::Prefix(path) => path + "*",
        }
    }
}

/// Ports, both ends included. Port 0 alone asks the kernel for a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, not below the first.
    pub last: u16,
}

impl PortRange {
    /// Each port.
    pub fn ports(self) -> std::ops::RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// The normal form of a name that a client sent: lower case, without a trailing dot.
pub fn normal_name(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// The name without its first label; none where that leaves nothing or the label is empty.
pub(crate) fn parent_name(name: &str) -> Option<&str> {
    match name.split_once('.') {
        Some((label, parent)) if !label.is_empty() && !parent.is_empty() => Some(parent),
        _ => None,
    }
}

/// Checks a name from the file and puts it in normal form.
pub(crate) fn host_name(text: &str) -> Result<String, DomainError> {
    let name = normal_name(text);
    if name.is_empty() {
        return Err(DomainError::Empty);
    }
    for c in name.chars() {
        match c {
            'a'..='z' | '0'..='9' | '-' | '_' | '.' => {}
            '*' => return Err(DomainError::Star),
            ':' | '/' => return Err(DomainError::NotOnlyAName),
            c if !c.is_ascii() => return Err(DomainError::NotAscii),
            _ => return Err(DomainError::Character),
        }
    }
    if name.split('.').any(str::is_empty) {
        return Err(DomainError::EmptyLabel);
    }
    if name.len() > 253 || name.split('.').any(|label| label.len() > 63) {
        return Err(DomainError::TooLong);
    }
    Ok(name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_exactly_one_label() {
        let pattern: DomainPattern = "*.Example.com.".parse().unwrap();
        assert_eq!(pattern.to_string(), "*.example.com");
        assert!(pattern.covers("a.example.com"));
        for name in ["example.com", "a.b.example.com", ".example.com", "aexample.com", ""] {
            assert!(!pattern.covers(name), "{name}");
        }
    }

    #[test]
    fn each_mistake_in_a_name_is_named() {
        let long = "a".repeat(64);
        for (text, error) in [
            ("", DomainError::Empty),
            (".", DomainError::Empty),
            ("*", DomainError::Everything),
            ("*.", DomainError::Empty),
            ("a.*.b", DomainError::Star),
            ("*a.b", DomainError::Star),
            ("*.*.b", DomainError::Star),
            ("a..b", DomainError::EmptyLabel),
            (".a", DomainError::EmptyLabel),
            ("a:443", DomainError::NotOnlyAName),
            ("https://a", DomainError::NotOnlyAName),
            ("bücher.de", DomainError::NotAscii),
            ("a b", DomainError::Character),
            (long.as_str(), DomainError::TooLong),
        ] {
            assert_eq!(text.parse::<DomainPattern>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_path_pattern_with_a_star_is_a_prefix_and_one_without_is_exact() {
        let prefix = PathPattern::from("/api/*".to_owned());
        assert!(prefix.covers("/api/") && prefix.covers("/api/x") && !prefix.covers("/api"));
        let exact = PathPattern::from("/api".to_owned());
        assert!(exact.covers("/api") && !exact.covers("/api/"));
        assert!(exact.specificity() > PathPattern::from("/ap*".to_owned()).specificity());
        assert!(exact.specificity() > PathPattern::from("/api*".to_owned()).specificity());
    }
}
