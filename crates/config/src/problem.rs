//! Owns what a configuration error says: a place, what is wrong, what was expected, the nearest valid word.
//!
//! Never stops at the first one: everything that looks at a file appends to one [`Problems`], and the
//! report is sorted by position at the end.
//!
//! Invariant: a problem's text is one line, whatever the file contained.

use std::fmt;
use std::sync::Arc;

/// One thing that is wrong, or (as a warning) probably not meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub what: String,
    /// What was expected instead, where that can be said.
    pub expected: Option<String>,
    /// The nearest valid word.
    pub suggestion: Option<String>,
}

impl Problem {
    /// A problem found after the file was read, for example a port in use.
    pub fn new(place: Place, what: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { place, what: what.into(), expected: Some(expected.into()), suggestion: None }
    }
}

/// `file:line:column: what is wrong; expected …; did you mean …?`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, one_line(&self.what))?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {}", one_line(expected))?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean `{}`?", one_line(suggestion))?;
        }
        Ok(())
    }
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file's name as it was given.
    pub file: Arc<str>,
    /// The line, counted from 1.
    pub line: u32,
    /// The column in characters, counted from 1.
    pub column: u32,
}

/// `file:line:column`
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A line and a column, within a file that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct At {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl At {
    /// The first character of a file.
    pub(crate) const START: Self = Self { line: 1, column: 1 };

    /// The character that follows `before`, the file's text up to it.
    pub(crate) fn after(before: &str) -> Self {
        let line = before.matches('\n').count() as u32 + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u32 + 1;
        Self { line, column }
    }
}

/// The problems of one file, as they are found.
#[derive(Debug)]
pub(crate) struct Problems {
    pub(crate) file: Arc<str>,
    pub(crate) errors: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

impl Problems {
    pub(crate) fn new(file: &str) -> Self {
        Self { file: Arc::from(file), errors: Vec::new(), warnings: Vec::new() }
    }

    pub(crate) fn place(&self, at: At) -> Place {
        Place { file: Arc::clone(&self.file), line: at.line, column: at.column }
    }

    /// Says what is wrong and what was expected.
    pub(crate) fn error(&mut self, at: At, what: impl Into<String>, expected: impl Into<String>) {
        let problem = Problem::new(self.place(at), what, expected);
        self.errors.push(problem);
    }

    /// As [`Self::error`], with the nearest valid word where there is one.
    pub(crate) fn error_with(
        &mut self,
        at: At,
        what: impl Into<String>,
        expected: impl Into<String>,
        suggestion: Option<String>,
    ) {
        let problem = Problem { suggestion, ..Problem::new(self.place(at), what, expected) };
        self.errors.push(problem);
    }

    /// Says what is probably not meant.
    pub(crate) fn warn(&mut self, at: At, what: impl Into<String>, expected: impl Into<String>) {
        let problem = Problem::new(self.place(at), what, expected);
        self.warnings.push(problem);
    }

    /// Both lists in the order of the file; what was said twice is kept once.
    pub(crate) fn sorted(mut self) -> (Vec<Problem>, Vec<Problem>) {
        for list in [&mut self.errors, &mut self.warnings] {
            list.sort();
            list.dedup();
        }
        (self.errors, self.warnings)
    }
}

/// The valid word nearest to `given`, if it is near enough to be a slip of the finger: at most one edit in
/// three characters (two words of the same letters apart from `-`, `_` and case always are).
pub(crate) fn nearest<'w>(given: &str, words: impl IntoIterator<Item = &'w str>) -> Option<String> {
    if given.len() > 64 {
        return None;
    }
    let folded = fold(given);
    words
        .into_iter()
        .map(|word| (edits(&folded, &fold(word)), word))
        .filter(|(edits, word)| *edits <= 1 + word.len().min(given.len()) / 4)
        .min_by_key(|(edits, word)| (*edits, word.len().abs_diff(given.len())))
        .map(|(_, word)| word.to_owned())
}

fn fold(word: &str) -> Vec<char> {
    word.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).flat_map(char::to_lowercase).collect()
}

/// The number of insertions, deletions, replacements and swaps of neighbours between two words.
fn edits(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut least = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

/// Text of the file may hold anything; a problem stays one line and prints no control character.
fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// what the errors promise.
    #[test]
    fn a_slip_of_the_finger_is_recognised_and_a_different_word_is_not() {
        let words = ["targets", "timeouts", "balance", "max_connections", "max_connections_per_ip"];
        assert_eq!(nearest("tagrets", words).as_deref(), Some("targets"));
        assert_eq!(nearest("timeout", words).as_deref(), Some("timeouts"));
        assert_eq!(nearest("max-connections", words).as_deref(), Some("max_connections"));
        assert_eq!(nearest("maxConnections", words).as_deref(), Some("max_connections"));
        assert_eq!(nearest("max_conections", words).as_deref(), Some("max_connections"));
        assert_eq!(nearest("colour", words), None);
        assert_eq!(nearest("", words), None);
    }

    #[test]
    fn a_problem_is_one_line_whatever_the_file_contained() {
        let place = Place { file: "a.yaml".into(), line: 3, column: 7 };
        let problem = Problem::new(place, "unknown key `a\nb\u{1b}`", "a key");
        assert_eq!(problem.to_string(), "a.yaml:3:7: unknown key `a\\nb\\u{1b}`; expected a key");
    }
}
