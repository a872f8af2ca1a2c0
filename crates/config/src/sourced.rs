//! Owns where a value came from: the built-in default, a line of the file, or a route's own line.
//!
//! Every armed deadline says why it has the length it has, so every timeout is a [`Sourced`] value.
//! Never holds a column: what an operator wants from a live record is the line to edit.
//!
//! Invariant: `Source::Default` is given only to values that no line of any file names.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A value and the place that set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sourced<T> {
    /// The value in force.
    pub value: T,
    /// Who set it.
    pub source: Source,
}

impl<T> Sourced<T> {
    /// A value that no file names.
    pub fn by_default(value: T) -> Self {
        Self { value, source: Source::Default }
    }

    /// The same value, said to be set by the route `name`.
    pub(crate) fn in_route(self, name: &Arc<str>) -> Self {
        let source = match self.source {
            Source::File { file, line } => Source::Route { name: Arc::clone(name), file, line },
            other => other,
        };
        Self { source, ..self }
    }
}

impl<T> Deref for Sourced<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// The built-in default.
    Default,
    /// A line of a configuration file, for the whole process.
    File {
        /// The file's name as it was given.
        file: Arc<str>,
        /// The line, counted from 1.
        line: u32,
    },
    /// A route's own line.
    Route {
        /// The route's name.
        name: Arc<str>,
        /// The file's name as it was given.
        file: Arc<str>,
        /// The line, counted from 1.
        line: u32,
    },
}

/// `default`, `smartproxy.yaml:12`, or `route app (smartproxy.yaml:40)`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Route { name, file, line } => write!(f, "route {name} ({file}:{line})"),
        }
    }
}
