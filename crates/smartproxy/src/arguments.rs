//! The command line: `smartproxy [--config FILE] [--check]`.
//!
//! *Owns* reading the configuration and its exit codes. *Never* starts anything. *Invariant*: exit 2 means
//! that the configuration or the usage is wrong, and every problem was printed.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use config::{DEFAULT_SMARTPROXY, Report, SmartproxyConfig, Surroundings, check_smartproxy, load};

/// Owns the public ports: accepts, admits, routes, relays, bridges.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Arguments {
    /// Configuration file; without it a built-in configuration that serves at once.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration, print every problem, and exit: 0 if there is none, else 2.
    #[arg(long)]
    check: bool,
}

impl Arguments {
    /// The configuration to start with, or how to exit.
    pub(crate) fn configuration(
        &self,
        surroundings: &Surroundings<'_>,
    ) -> Result<SmartproxyConfig, ExitCode> {
        let report = self.report(surroundings);
        let mut out = std::io::stderr().lock();
        for problem in report.warnings.iter().map(|w| format!("warning: {w}")) {
            drop(writeln!(out, "{problem}"));
        }
        for problem in &report.errors {
            drop(writeln!(out, "{problem}"));
        }
        match report.config {
            Some(config) if !self.check => Ok(config),
            Some(_) => Err(ExitCode::SUCCESS),
            None => Err(ExitCode::from(2)),
        }
    }

    /// Checks the file again, for SIGHUP.
    pub(crate) fn report(&self, surroundings: &Surroundings<'_>) -> Report<SmartproxyConfig> {
        match &self.config {
            Some(path) => load(path, surroundings, check_smartproxy),
            None => check_smartproxy("(built-in)", DEFAULT_SMARTPROXY, surroundings),
        }
    }

    /// What to call the configuration.
    pub(crate) fn file(&self) -> String {
        self.config.as_ref().map_or_else(|| "(built-in)".to_owned(), |path| path.display().to_string())
    }
}
