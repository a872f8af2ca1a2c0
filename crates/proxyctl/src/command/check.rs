//! `check`: says everything that is wrong with configuration files.
//!
//! *Owns* finding out which of the two files each is. *Never* asks a process: it works where none runs.
//! *Invariant*: exit 2 exactly if a file has an error; a warning is shown and does not fail.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use config::{AnyConfig, Problem, Report, Surroundings, check_any, load};
use serde_json::{Value, json};

use crate::arguments::Output;
use crate::failure::Failure;
use crate::show::json;
use crate::show::screen::{Screen, Tint};

/// Where the files are that a configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamedFiles {
    /// On this machine, for this user.
    Here,
    /// Somewhere else: they are not opened.
    Elsewhere,
}

pub(super) fn run(
    files: &[PathBuf],
    named: NamedFiles,
    output: Output,
    screen: &mut Screen<'_>,
) -> Result<ExitCode, Failure> {
    let surroundings = match named {
        NamedFiles::Here => Surroundings::real(),
        NamedFiles::Elsewhere => Surroundings::ideal(),
    };
    let reports: Vec<(&Path, Report<AnyConfig>)> =
        files.iter().map(|file| (file.as_path(), load(file, &surroundings, check_any))).collect();
    if output == Output::Json {
        let all: Vec<Value> = reports.iter().flat_map(|(_, report)| values(report)).collect();
        json::write_value(screen, &Value::Array(all))?;
    } else {
        for (file, report) in &reports {
            show(file, report, screen)?;
        }
    }
    let good = reports.iter().all(|(_, report)| report.errors.is_empty());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
}

fn show(file: &Path, report: &Report<AnyConfig>, screen: &mut Screen<'_>) -> Result<(), Failure> {
    for (problem, severity) in in_order(report) {
        let (place, text) = (problem.place.to_string(), problem.to_string());
        let rest = text.strip_prefix(&place).unwrap_or(&text);
        let place = screen.paint(Tint::Strong, &place);
        let mark = match severity {
            Severity::Error => String::new(),
            Severity::Warning => format!(": {}", screen.paint(Tint::Odd, "warning")),
        };
        screen.line(format_args!("{place}{mark}{rest}"))?;
    }
    let Some(config) = &report.config else { return Ok(()) };
    let summary = match config {
        AnyConfig::Smartproxy(config) => format!("smartproxy, routes: {}", config.routes.len()),
        AnyConfig::Networkproxy(_) => "networkproxy".to_owned(),
    };
    let good = screen.paint(Tint::Good, "good");
    screen.line(format_args!("{}: {good} ({summary})", file.display()))
}

/// Errors and warnings in the order of the file.
fn in_order(report: &Report<AnyConfig>) -> Vec<(&Problem, Severity)> {
    let errors = report.errors.iter().map(|problem| (problem, Severity::Error));
    let warnings = report.warnings.iter().map(|problem| (problem, Severity::Warning));
    let mut all: Vec<_> = errors.chain(warnings).collect();
    all.sort_by(|(a, _), (b, _)| a.place.cmp(&b.place));
    all
}

fn values(report: &Report<AnyConfig>) -> Vec<Value> {
    let value = |(problem, severity): (&Problem, Severity)| {
        let severity = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        json!({
            "file": &*problem.place.file, "line": problem.place.line, "column": problem.place.column,
            "severity": severity, "what": problem.what, "expected": problem.expected,
            "suggestion": problem.suggestion,
        })
    };
    in_order(report).into_iter().map(value).collect()
}

#[cfg(test)]
mod tests;
