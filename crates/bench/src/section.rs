//! Owns what is measured of our own processes alone: how costs grow, what the books cost, memory under churn, overload.
//!
//! Never compares with peers: these are promises of ours. A section is a few tables and what failed.

mod books;
mod ledger;
mod memory;
mod overload;
mod scaling;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::child::Process;
use crate::layout::Service;
use crate::outcome::Outcome;
use crate::stage::{Stage, generator_core};
use crate::subject::{Running, Subject, Terms};
use crate::table::Text;

/// What a section says.
#[derive(Default)]
pub(crate) struct Findings {
    /// Its tables.
    pub tables: Vec<Text>,
    /// What failed.
    pub failures: Vec<String>,
}

/// A section by its name.
pub(crate) struct Section {
    /// For `--only`.
    pub name: &'static str,
    run: fn(&Plan<'_>) -> Findings,
}

/// What every section needs.
pub(crate) struct Plan<'a> {
    /// Where it happens.
    pub stage: &'a Stage,
    /// How often each is measured.
    pub rounds: usize,
    /// Our programs, by the name of the build.
    pub builds: &'a [(String, PathBuf)],
    /// Where a smartproxy without books is.
    pub stubbed: Option<&'a Path>,
}

/// All, in order.
pub(crate) const ALL: [Section; 5] = [
    Section { name: "scaling", run: scaling::run },
    Section { name: "ledger", run: ledger::run },
    Section { name: "books", run: books::run },
    Section { name: "memory", run: memory::run },
    Section { name: "overload", run: overload::run },
];

impl Section {
    /// Runs it; a failure is a finding.
    pub(crate) fn run(&self, plan: &Plan<'_>) -> Findings {
        (self.run)(plan)
    }
}

/// Our processes, serving, with a generator's words at hand.
struct Ours<'a> {
    stage: &'a Stage,
    terms: Terms,
    running: Running,
}

impl<'a> Ours<'a> {
    fn start(stage: &'a Stage, terms: Terms) -> Result<Self> {
        // The probe leaves one target connection; passthrough needs no probe of its own.
        let probed = if terms.alone { Service::One } else { Service::Http };
        let running = stage.start(Subject::Ours, &terms, probed)?;
        Ok(Self { stage, terms, running })
    }

    fn load(&self, service: Service, kind: &str, more: &[&str]) -> Result<Outcome> {
        let more: Vec<String> = more.iter().map(|word| (*word).to_owned()).collect();
        self.stage.load(&self.running, &self.terms, service, kind, &more)
    }

    /// Opens idle TLS connections; they stay until the process is told to leave by [`leave`].
    fn idle(&self, connections: usize) -> Result<Process> {
        let more = ["--connections".to_owned(), connections.to_string()];
        let mut holder = self.stage.generator(&self.running, &self.terms, Service::Http, "idle", &more)?;
        let line = holder.line()?;
        anyhow::ensure!(line == "open", "the generator said {line}");
        Ok(holder)
    }

    fn generator_core(&self) -> Option<usize> {
        generator_core(&self.terms)
    }
}

/// Closes idle connections; each must have been open until now.
fn leave(mut holder: Process) -> Result<()> {
    drop(holder.stdin());
    let outcome: Outcome = serde_json::from_str(&holder.rest()?).context("the idle generator")?;
    crate::stage::check(&outcome, crate::workload::Handshakes::Any).context("idle connections")
}
