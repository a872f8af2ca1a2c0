//! `smartproxy`: owns the public ports.
//!
//! ```text
//!   accept ─▶ admit ─▶ first bytes ─▶ route ─┬─▶ relay to the target
//!                                            └─▶ bridge to a networkproxy ─▶ relay over the hop
//! ```
//!
//! *Owns* the process: configuration, threads, signals, exit code. *Never* holds a private key. *Invariant*:
//! exit 0 after a clean drain, 1 on failure, 2 on bad configuration or usage. The life of one connection is
//! `connection.rs`.

mod app;
mod arguments;
mod bounds;
mod client_addresses;
mod connection;
mod counts;
mod drain;
mod first_bytes;
mod network_proxy_bridge;
mod process;
mod start;
mod status;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use config::{SmartproxyConfig, Surroundings};
use runtime::{DescriptorLimit, Workers};

use crate::arguments::Arguments;

/// Chosen by what work costs with it, and by what it gives back after a peak: `docs/performance.md`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let descriptors = DescriptorLimit::raise();
    let surroundings =
        Surroundings { most_connections: Some(descriptors.connections()), ..Surroundings::real() };
    let config = match arguments.configuration(&surroundings) {
        Ok(config) => config,
        Err(code) => return code,
    };
    runtime::logging::init(&config.settings.log);
    match run(&arguments, &config, descriptors) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, config: &SmartproxyConfig, descriptors: DescriptorLimit) -> Result<()> {
    let workers = Workers::start(config.settings.workers.or_else(runtime::cores))
        .context("the worker threads could not be started")?;
    let main = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    main.block_on(async {
        let running = start::start(config, arguments.file(), descriptors, &workers)?;
        let check = || {
            let report = arguments.report(&Surroundings::real());
            for problem in &report.errors {
                tracing::error!(%problem, "SIGHUP: the configuration file has a problem; nothing was changed");
            }
            if report.errors.is_empty() {
                tracing::info!("SIGHUP: the configuration file is valid; a restart applies it");
            }
        };
        let signals = runtime::serve_signals(running.switch.clone(), running.longest_drain.value, check);
        tokio::select! {
            left = running.until_empty() => left,
            failed = signals => failed.context("signals cannot be received"),
        }
    })
}
