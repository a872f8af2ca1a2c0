//! Owns the question "does it serve yet?", asked by the driver before a generator is let loose.
//!
//! Never counts: a probe is one unit of the service that is about to be measured.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime::Runtime;

use crate::certificate::Certificate;
use crate::layout::Service;
use crate::load::{LoadArguments, once};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks one address.
pub(crate) struct Probe {
    runtime: Runtime,
    question: LoadArguments,
    service: Service,
}

impl Probe {
    pub(crate) fn new(to: SocketAddr, service: Service, certificate: &Certificate) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let question = LoadArguments::new(to, service.name(), &certificate.cert);
        Ok(Self { runtime, question, service })
    }

    /// One unit, from a new connection.
    pub(crate) fn once(&self) -> Result<()> {
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, once(&self.question, self.service)).await })
            .context("no answer to a probe")?
    }
}
