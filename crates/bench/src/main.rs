//! `bench`: what a unit of work costs, beside HAProxy and nginx in the same run.
//!
//! ```text
//!   run ──┬─▶ backend            one process, every target
//!         ├─▶ subject            smartproxy + networkproxy, or a peer; fresh for each measurement
//!         └─▶ load, h2load       one generator; reads the clocks of the others at the edges of its window
//! ```
//!
//! *Owns* the method: CPU time of all processes of a proxy per unit of work, medians of interleaved rounds, ratios to
//! peers. *Never* asserts a time. *Invariant*: what failed or was lost is printed in place of a figure, and makes the
//! exit code 1.

mod accounting;
mod admin;
mod arguments;
mod backend;
mod certificate;
mod child;
mod h2load;
mod layout;
mod load;
mod outcome;
mod output;
mod probe;
mod report;
mod results;
mod run;
mod section;
mod stage;
mod stats;
mod subject;
mod table;
mod targets;
mod watcher;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use crate::arguments::{Arguments, Command};

fn main() -> ExitCode {
    match perform(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::progress(format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> Result<bool> {
    match command {
        Command::Run(arguments) => return run::run(&arguments),
        Command::Backend(arguments) => backend::run(&arguments)?,
        Command::Load(arguments) => load::run(*arguments)?,
        Command::Exec(arguments) => child::exec(&arguments)?,
    }
    Ok(true)
}
