//! `networkproxy`: owns the private keys.
//!
//! *Owns* the process: configuration, threads, signals, exit code. *Never* opens a public port. *Invariant*:
//! exit 0 after a clean drain, 1 on failure, 2 on bad configuration or usage. The life of one connection is
//! `connection.rs`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use config::{NetworkproxyConfig, Surroundings};
use networkproxy::arguments::Arguments;
use networkproxy::certificates::CertificateStore;
use networkproxy::start;
use runtime::{DescriptorLimit, Workers};

/// Chosen by what work costs with it, and by what it gives back after a peak: `docs/performance.md`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let descriptors = DescriptorLimit::raise();
    let surroundings =
        Surroundings { most_connections: Some(descriptors.connections()), ..Surroundings::real() };
    let (config, certificates) = match arguments.configuration(&surroundings) {
        Ok(checked) => checked,
        Err(code) => return code,
    };
    runtime::logging::init(&config.log);
    match run(&arguments, &config, certificates, descriptors) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(
    arguments: &Arguments,
    config: &NetworkproxyConfig,
    certificates: CertificateStore,
    descriptors: DescriptorLimit,
) -> Result<()> {
    let workers = Workers::start(config.workers.or_else(runtime::cores))
        .context("the worker threads could not be started")?;
    let main = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    main.block_on(async {
        let running = start::start(config, certificates, arguments.file(), descriptors, &workers)?;
        let check = || {
            let problems = arguments.problems();
            for problem in &problems {
                tracing::error!(%problem, "SIGHUP: the configuration file has a problem; nothing was changed");
            }
            if problems.is_empty() {
                tracing::info!("SIGHUP: the configuration file is valid; a restart applies it");
            }
        };
        let signals = runtime::serve_signals(running.switch.clone(), running.drain_limit, check);
        tokio::select! {
            left = running.until_empty() => left,
            failed = signals => failed.context("signals cannot be received"),
        }
    })
}
