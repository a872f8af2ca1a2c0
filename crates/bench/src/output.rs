//! Owns what this program prints: the report on stdout, progress on stderr, and a child's lines for its parent.
//!
//! Never decides what is said. Every line is flushed: a parent waits for it.

use std::fmt::Display;
use std::io::Write as _;

/// One line on stdout.
pub(crate) fn line(text: impl Display) {
    let mut out = std::io::stdout().lock();
    // A reader that is gone is no reason to fail: there is nobody to tell.
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}

/// One line of progress on stderr.
pub(crate) fn progress(text: impl Display) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}
