//! Owns what is measured: the proxies of a run, each started afresh for each measurement and gone after it.
//!
//! Never lets two of them run at once. Invariant: [`Subject::start`] returns when a request got through, or says why none
//! did.

mod haproxy;
mod nginx;
mod ours;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::accounting;
use crate::certificate::Certificate;
use crate::child::{Output, Process};
use crate::layout::{PASSTHROUGH, Service, TERMINATED};
use crate::probe::Probe;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// One column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// No proxy at all.
    Direct,
    /// smartproxy and networkproxy.
    Ours,
    /// HAProxy, one hop.
    Haproxy,
    /// nginx, one hop.
    Nginx,
    /// HAProxy in front of HAProxy.
    HaproxyTwice,
    /// nginx in front of nginx.
    NginxTwice,
}

impl Subject {
    /// All, in the order of the columns.
    pub(crate) const ALL: [Self; 6] =
        [Self::Direct, Self::Ours, Self::Haproxy, Self::Nginx, Self::HaproxyTwice, Self::NginxTwice];

    /// The head of its column.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Ours => "smartproxy",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::HaproxyTwice => "HAProxy ×2",
            Self::NginxTwice => "nginx ×2",
        }
    }

    /// It stands for a proxy in front of a proxy, and passthrough does not pass it twice.
    pub(crate) const fn is_two_hops_of_a_peer(self) -> bool {
        matches!(self, Self::HaproxyTwice | Self::NginxTwice)
    }
}

/// How everything is started.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Threads of each process.
    pub threads: usize,
    /// Session tickets are given.
    pub tickets: bool,
    /// Where our own programs are.
    pub binaries: PathBuf,
    /// smartproxy without networkproxy: there is nobody to tell anything.
    pub alone: bool,
    /// The level of our own log.
    pub log: String,
    /// The core of the proxies; any without.
    pub core: Option<usize>,
}

/// What is running.
pub(crate) struct Running {
    subject: Subject,
    /// Every process of it.
    pub pids: Vec<u32>,
    /// For dropping.
    processes: Vec<Process>,
}

impl Running {
    /// Where a client goes for a service.
    pub(crate) fn address(&self, service: Service) -> SocketAddr {
        address(self.subject, service)
    }

    /// The head of its column.
    pub(crate) const fn title(&self) -> &'static str {
        self.subject.title()
    }

    /// None of its processes ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        for process in &mut self.processes {
            if let Some(status) = process.ended()? {
                bail!("{} ended during the measurement: {status}", self.subject.title());
            }
        }
        Ok(())
    }
}

fn address(subject: Subject, service: Service) -> SocketAddr {
    match (subject, service) {
        (Subject::Direct, Service::Http) => Service::HttpTls.address(),
        (Subject::Direct, service) => service.address(),
        // One port for both: that passthrough and termination share one is part of what it does.
        (Subject::Ours, _) => PASSTHROUGH,
        (_, Service::Http | Service::HttpTls) => TERMINATED,
        _ => PASSTHROUGH,
    }
}

impl Subject {
    /// Starts it and waits until `service` is reached through it. `backend` is what `direct` consists of.
    pub(crate) fn start(
        self,
        terms: &Terms,
        certificate: &Certificate,
        directory: &Path,
        service: Service,
        backend: u32,
    ) -> Result<Running> {
        let commands = self.commands(terms, certificate, directory)?;
        let log = |index: usize| directory.join(format!("{}-{index}.log", self.file()));
        let mut processes = Vec::new();
        for (index, command) in commands.iter().enumerate() {
            processes.push(Process::start(command, terms.core, &Output::File(&log(index)))?);
        }
        let probe = Probe::new(address(self, service), service, certificate)?;
        let bound = Instant::now() + PATIENCE;
        while let Err(error) = probe.once() {
            for (index, process) in processes.iter_mut().enumerate() {
                if let Some(status) = process.ended()? {
                    bail!("{} did not start: {status}: {}", self.title(), last_line(&log(index)));
                }
            }
            if Instant::now() > bound {
                let said: Vec<String> = (0..commands.len()).map(|index| last_line(&log(index))).collect();
                return Err(error)
                    .with_context(|| format!("{} does not serve: {}", self.title(), said.join("; ")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut pids = Vec::new();
        for process in &processes {
            pids.extend(accounting::family(process.pid())?);
        }
        if self == Self::Direct {
            pids.push(backend);
        }
        Ok(Running { subject: self, pids, processes })
    }

    fn commands(
        self,
        terms: &Terms,
        certificate: &Certificate,
        directory: &Path,
    ) -> Result<Vec<Vec<String>>> {
        let mut commands = Vec::new();
        for (name, text, command) in self.files(terms, certificate, directory) {
            let file = directory.join(name);
            std::fs::write(&file, text)?;
            let mut words: Vec<String> = command.into_iter().collect();
            words.push(file.display().to_string());
            commands.push(words);
        }
        Ok(commands)
    }

    /// Its configuration: for each process the file's name, its text, and the command that takes it.
    pub(crate) fn files(
        self,
        terms: &Terms,
        certificate: &Certificate,
        directory: &Path,
    ) -> Vec<(&'static str, String, Vec<String>)> {
        match self {
            Self::Direct => Vec::new(),
            Self::Ours => ours::files(terms, certificate, directory),
            Self::Haproxy => haproxy::one_hop(terms, certificate),
            Self::HaproxyTwice => haproxy::two_hops(terms, certificate),
            Self::Nginx => nginx::one_hop(terms, certificate, directory),
            Self::NginxTwice => nginx::two_hops(terms, certificate, directory),
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Ours => "ours",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::HaproxyTwice => "haproxy-twice",
            Self::NginxTwice => "nginx-twice",
        }
    }
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let last: Vec<&str> = text.lines().rev().take(2).collect();
    if last.is_empty() { "(it said nothing)".to_owned() } else { last.join(" | ") }
}
