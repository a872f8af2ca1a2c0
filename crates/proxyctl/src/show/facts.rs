//! Names and values, one to a line: what is known of one thing.
//!
//! *Owns* the alignment of a block. *Never* prints an absent value. *Invariant*: a value of several lines
//! keeps them, under each other.

use super::screen::{Screen, Tint};
use super::table::{Cell, Column, Table};
use crate::failure::Failure;

/// A block that is being collected.
pub(crate) struct Facts(Table);

impl Facts {
    /// A block indented by two.
    pub(crate) fn new() -> Self {
        let columns = vec![Column::left("            "), Column::left("")];
        Self(Table::new(columns).indented(2).without_titles())
    }

    /// A fact.
    pub(crate) fn add(&mut self, name: &str, value: impl AsRef<str>) {
        self.add_tinted(name, value, Tint::Plain);
    }

    /// A fact in the colour of `tint`.
    pub(crate) fn add_tinted(&mut self, name: &str, value: impl AsRef<str>, tint: Tint) {
        let mut lines = value.as_ref().lines();
        let first = lines.next().unwrap_or("-");
        self.0.row(vec![Cell::new(name).tinted(Tint::Faint), Cell::new(first).tinted(tint)]);
        for line in lines {
            self.0.row(vec![Cell::new(""), Cell::new(line).tinted(tint)]);
        }
    }

    /// A fact, where there is one.
    pub(crate) fn add_if(&mut self, name: &str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value.filter(|value| !value.as_ref().is_empty()) {
            self.add(name, value);
        }
    }

    /// A fact of several values, one under the other.
    pub(crate) fn add_all(&mut self, name: &str, values: &[String]) {
        if !values.is_empty() {
            self.add(name, values.join("\n"));
        }
    }

    /// Writes the block.
    pub(crate) fn write(mut self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        self.0.write(screen)
    }
}
