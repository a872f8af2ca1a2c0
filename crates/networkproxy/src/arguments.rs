//! The command line: `networkproxy [--config FILE] [--check]`.
//!
//! *Owns* reading the configuration, with its certificates, and the exit codes that follow. *Never* starts
//! anything. *Invariant*: exit 2 means that the configuration or the usage is wrong, and every problem was
//! printed.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;
use config::{DEFAULT_NETWORKPROXY, NetworkproxyConfig, Report, Surroundings, check_networkproxy, load};

use crate::certificates::{CertificateStore, Event, Notice};

/// Owns the private keys: ends TLS, speaks HTTP, pools connections to targets.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Arguments {
    /// Configuration file; without it a built-in configuration that serves at once.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration, print every problem, and exit: 0 if there is none, else 2.
    #[arg(long)]
    check: bool,
}

impl Arguments {
    /// The configuration to start with and its certificates, or how to exit.
    pub fn configuration(
        &self,
        surroundings: &Surroundings<'_>,
    ) -> Result<(NetworkproxyConfig, CertificateStore), ExitCode> {
        let (report, certificates) = self.report(surroundings);
        let mut out = std::io::stderr().lock();
        for warning in &report.warnings {
            drop(writeln!(out, "warning: {warning}"));
        }
        for problem in &report.errors {
            drop(writeln!(out, "{problem}"));
        }
        let Some(config) = report.config else { return Err(ExitCode::from(2)) };
        let (store, notices) = certificates.unwrap_or_else(|| read_certificates(&config));
        let mut broken = false;
        for notice in notices.iter().filter(|notice| notice.event.is_fault()) {
            let named = config.certificates.files.iter().any(|file| file.cert_file == notice.cert_file);
            let refused = named && matches!(notice.event, Event::Refused(_));
            broken |= refused;
            let prefix = if refused { "" } else { "warning: " };
            drop(writeln!(out, "{prefix}{}: certificates: {notice}", config.file));
        }
        match (broken, self.check) {
            (true, _) => Err(ExitCode::from(2)),
            (false, true) => Err(ExitCode::SUCCESS),
            (false, false) => Ok((config, store)),
        }
    }

    /// Checks the file again, for SIGHUP: every problem of it, and of the certificates that it names.
    pub fn problems(&self) -> Vec<String> {
        let (report, certificates) = self.report(&Surroundings::real());
        let of_file = report.errors.iter().map(ToString::to_string);
        let notices = certificates.map(|(_, notices)| notices).unwrap_or_default();
        let of_certificates =
            notices.iter().filter(|notice| notice.event.is_fault()).map(ToString::to_string);
        of_file.chain(of_certificates).collect()
    }

    /// What to call the configuration.
    pub fn file(&self) -> String {
        self.config.as_ref().map_or_else(|| "(built-in)".to_owned(), |path| path.display().to_string())
    }

    fn report(
        &self,
        surroundings: &Surroundings<'_>,
    ) -> (Report<NetworkproxyConfig>, Option<(CertificateStore, Vec<Notice>)>) {
        let report = match &self.config {
            Some(path) => load(path, surroundings, check_networkproxy),
            None => check_networkproxy("(built-in)", DEFAULT_NETWORKPROXY, surroundings),
        };
        let certificates = report.config.as_ref().map(read_certificates);
        (report, certificates)
    }
}

fn read_certificates(config: &NetworkproxyConfig) -> (CertificateStore, Vec<Notice>) {
    CertificateStore::open(config.certificates.clone(), SystemTime::now())
}
