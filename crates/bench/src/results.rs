//! Owns what was measured, by row and subject, over the rounds. Pure.
//!
//! Never drops a failure: a cell that failed once shows that, and no figure.

use std::collections::BTreeMap;

use crate::stage::Figure;
use crate::stats::{median, spread};
use crate::subject::Subject;
use crate::workload::Unit;

/// One row and subject over all rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    figures: Vec<Figure>,
    failures: Vec<String>,
}

impl Cell {
    /// The result of one round.
    pub(crate) fn add(&mut self, result: Result<Figure, String>) {
        match result {
            Ok(figure) => self.figures.push(figure),
            Err(failure) => self.failures.push(failure),
        }
    }

    /// The median, if no round failed.
    pub(crate) fn figure(&self) -> Option<f64> {
        if self.failures.is_empty() { median(&self.values()) } else { None }
    }

    /// Over the rounds.
    pub(crate) fn spread(&self) -> Option<f64> {
        spread(&self.values())
    }

    /// What went wrong first.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failures.first().map(String::as_str)
    }

    /// The median of something that goes with the figures.
    pub(crate) fn rate(&self, pick: impl Fn(crate::stage::Rate) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.figures.iter().filter_map(|figure| figure.rate.map(&pick)).collect();
        median(&values)
    }

    fn values(&self) -> Vec<f64> {
        self.figures.iter().map(|figure| figure.value).collect()
    }
}

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Its name.
    pub name: String,
    /// What it is counted in.
    pub unit: Unit,
    /// Who took part.
    pub cells: BTreeMap<Subject, Cell>,
}

impl Row {
    /// The figure of a subject.
    pub(crate) fn figure(&self, subject: Subject) -> Option<f64> {
        self.cells.get(&subject)?.figure()
    }
}

/// One table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Threads of each process.
    pub threads: usize,
    /// Its figures are meant to be figures: not those of a quick run.
    pub judged: bool,
    /// Its rows.
    pub rows: Vec<Row>,
}

impl Table {
    /// Every failure of subjects that must not fail: `row, subject: words`.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut list = Vec::new();
        for row in &self.rows {
            for (subject, cell) in &row.cells {
                list.extend(
                    cell.failures.iter().map(|words| format!("{}, {}: {words}", row.name, subject.title())),
                );
            }
        }
        list
    }
}
