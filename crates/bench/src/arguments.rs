//! Owns the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::backend::BackendArguments;
use crate::child::ExecArguments;
use crate::load::LoadArguments;

/// What a unit of work costs, beside HAProxy and nginx in the same run.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs; all but `run` are its children.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure and print.
    Run(RunArguments),
    /// The targets.
    #[command(hide = true)]
    Backend(BackendArguments),
    /// A generator.
    #[command(hide = true)]
    Load(Box<LoadArguments>),
    /// Becomes another program, tied to this one's parent.
    #[command(hide = true)]
    Exec(ExecArguments),
}

/// Who is measured beside us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peers {
    /// Nobody.
    None,
    /// HAProxy, once and twice.
    Haproxy,
    /// HAProxy and nginx, once and twice.
    All,
}

/// `bench run`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArguments {
    /// Everything for a second, once, beside HAProxy alone: does it work, not how fast it is.
    #[arg(long)]
    pub quick: bool,
    /// Only these: W1 … W8, scaling, ledger, books, memory, overload.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Threads of each process; a table for each number.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    pub threads: Vec<usize>,
    /// How many times each is measured, in turn.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// The length of each measurement.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Who is measured beside us.
    #[arg(long, value_enum)]
    pub peers: Option<Peers>,
    /// Where smartproxy and networkproxy are; `memory` takes several, as NAME=DIR.
    #[arg(long, default_value = "target/release")]
    pub bin_dir: Vec<String>,
    /// Where a smartproxy without books is (its feature `stubbed`): what they cost is measured against it.
    #[arg(long)]
    pub stubbed: Option<PathBuf>,
    /// The level of our own log. The peers log nothing per connection.
    #[arg(long, default_value = "warn")]
    pub log: String,
    /// Write the tables between the markers of this page.
    #[arg(long)]
    pub write: Option<PathBuf>,
}

impl RunArguments {
    /// Is this part wanted?
    pub(crate) fn wants(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only.eq_ignore_ascii_case(id))
    }

    /// Is this section wanted? A quick run has none.
    pub(crate) fn wants_section(&self, name: &str) -> bool {
        if self.only.is_empty() { !self.quick } else { self.wants(name) }
    }

    /// Where our programs are, each with its name.
    pub(crate) fn binaries(&self) -> Vec<(String, PathBuf)> {
        let named = |text: &String| match text.split_once('=') {
            Some((name, directory)) => (name.to_owned(), PathBuf::from(directory)),
            None => (text.clone(), PathBuf::from(text)),
        };
        self.bin_dir.iter().map(named).collect()
    }
}
