//! Owns one measurement: a subject started, a generator run against it, both gone again.
//!
//! Never retries: a measurement is a set of figures or the words that stand in their place. Invariant: between two
//! measurements only the backend runs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use tempfile::TempDir;

use crate::accounting::{self, Watch, Window};
use crate::certificate::Certificate;
use crate::child::{Output, Process};
use crate::h2load;
use crate::layout::Service;
use crate::outcome::Outcome;
use crate::output::progress;
use crate::subject::{Running, Subject, Terms};
use crate::workload::{Handshakes, Work, Workload};

/// After the last connection was opened, until everything that a burst leaves behind is gone.
const SETTLING: Duration = Duration::from_millis(1500);

/// What every measurement of a run shares.
pub(crate) struct Stage {
    /// Configurations and logs.
    directory: TempDir,
    /// The certificate.
    pub certificate: Certificate,
    backend: Process,
    /// The length of a window.
    pub seconds: f64,
    /// Where our own programs are.
    pub binaries: PathBuf,
    /// The level of our own log.
    pub log: String,
}

/// One figure of one round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figure {
    /// In the unit of its row.
    pub value: f64,
    /// Units per second, and machine time per unit, where that makes sense.
    pub rate: Option<Rate>,
}

/// What goes with a cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// Units per second.
    pub per_second: f64,
    /// Busy microseconds of the whole machine per unit.
    pub machine: f64,
    /// The share of their core that generator and backend took together, or of a core each where they may use any.
    pub around: f64,
    /// The share of the machine that everything else took: how quiet it was.
    pub others: f64,
}

impl Rate {
    pub(crate) fn of(outcome: &Outcome, terms: &Terms) -> Self {
        let around = if terms.core.is_some() { outcome.around() } else { outcome.busiest() };
        Self { per_second: outcome.rate(), machine: outcome.machine(), around, others: outcome.others() }
    }
}

impl Stage {
    /// Makes the certificate and starts the backend.
    pub(crate) fn set(seconds: f64, binaries: PathBuf, log: String) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("bench-").tempdir()?;
        let certificate = Certificate::make(directory.path())?;
        let own = std::env::current_exe()?.display().to_string();
        let path = |path: &PathBuf| path.display().to_string();
        let command = [
            own,
            "backend".to_owned(),
            "--cert".to_owned(),
            path(&certificate.cert),
            "--key".to_owned(),
            path(&certificate.key),
        ];
        let mut backend = Process::start(&command, None, &Output::Piped)?;
        ensure!(backend.line()? == "ready", "the backend said something else");
        Ok(Self { directory, certificate, backend, seconds, binaries, log })
    }

    /// How a subject is started for `threads`.
    pub(crate) fn terms(&self, threads: usize, tickets: bool) -> Terms {
        Terms {
            threads,
            tickets,
            binaries: self.binaries.clone(),
            alone: false,
            log: self.log.clone(),
            core: (threads == 1).then_some(0),
        }
    }

    /// Starts a subject; it serves when this returns.
    pub(crate) fn start(&self, subject: Subject, terms: &Terms, service: Service) -> Result<Running> {
        // Without a proxy the backend takes its place, and its core.
        let core = match (terms.core, subject) {
            (None, _) => None,
            (Some(core), Subject::Direct) => Some(core),
            (Some(_), _) => generator_core(terms),
        };
        let mut set = CpuSet::new();
        for each in 0..std::thread::available_parallelism()?.get().max(2) {
            if core.is_none_or(|core| core == each) {
                set.set(each);
            }
        }
        sched_setaffinity(Pid::from_raw(self.backend.pid().cast_signed()), &set)
            .context("pinning the backend")?;
        subject.start(terms, &self.certificate, self.directory.path(), service, self.backend.pid())
    }

    /// The configuration files of a subject: name and text.
    pub(crate) fn files(&self, subject: Subject, terms: &Terms) -> Vec<(&'static str, String)> {
        let files = subject.files(terms, &self.certificate, self.directory.path());
        files.into_iter().map(|(name, text, _)| (name, text)).collect()
    }

    /// Runs `work` against a fresh subject; one figure for each row.
    pub(crate) fn measure(
        &self,
        workload: &Workload,
        subject: Subject,
        threads: usize,
    ) -> Result<Vec<Figure>> {
        let terms = self.terms(threads, workload.tickets);
        let mut running = self.start(subject, &terms, workload.service)?;
        let figures = match &workload.work {
            Work::Closed { kind, connections, more, handshakes } => {
                let mut words = vec!["--connections".to_owned(), connections.to_string()];
                words.extend(more.iter().cloned());
                let kind = clap::ValueEnum::to_possible_value(kind).context("a kind")?;
                let outcome = self.load(&running, &terms, workload.service, kind.get_name(), &words)?;
                check(&outcome, *handshakes)?;
                vec![Figure { value: outcome.cost(), rate: Some(Rate::of(&outcome, &terms)) }]
            }
            Work::Http2 { connections, streams } => {
                let outcome = self.http2(&running, &terms, *connections, *streams)?;
                check(&outcome, Handshakes::Any)?;
                vec![Figure { value: outcome.cost(), rate: Some(Rate::of(&outcome, &terms)) }]
            }
            Work::Latency { rate, connections } => {
                let words = ["--connections", &connections.to_string(), "--rate", &rate.to_string()];
                let words: Vec<String> = words.map(str::to_owned).to_vec();
                let outcome = self.load(&running, &terms, workload.service, "steady", &words)?;
                check(&outcome, Handshakes::Any)?;
                let latency = outcome.latency.context("no latencies")?;
                let figure = |value| Figure { value, rate: None };
                vec![figure(latency.p50), figure(latency.p99)]
            }
            Work::Idle { connections, passthrough } => {
                let each = self.idle(&running, &terms, workload.service, *connections, *passthrough)?;
                vec![Figure { value: each, rate: None }]
            }
        };
        running.check()?;
        Ok(figures)
    }

    /// Runs a generator of ours to its end.
    pub(crate) fn load(
        &self,
        running: &Running,
        terms: &Terms,
        service: Service,
        kind: &str,
        more: &[String],
    ) -> Result<Outcome> {
        let mut generator = self.generator(running, terms, service, kind, more)?;
        let text = generator.rest()?;
        let status = generator.wait()?;
        ensure!(status.success(), "the generator failed: {status}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Starts a generator of ours.
    pub(crate) fn generator(
        &self,
        running: &Running,
        terms: &Terms,
        service: Service,
        kind: &str,
        more: &[String],
    ) -> Result<Process> {
        let pids: Vec<String> = running.pids.iter().map(u32::to_string).collect();
        let mut words =
            vec![std::env::current_exe()?.display().to_string(), "load".to_owned(), kind.to_owned()];
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        option("--to", running.address(service).to_string());
        option("--name", service.name().to_owned());
        option("--cert", self.certificate.cert.display().to_string());
        option("--seconds", self.seconds.to_string());
        option("--proxy", pids.join(","));
        if !running.pids.contains(&self.backend.pid()) {
            option("--backend", self.backend.pid().to_string());
        }
        words.extend(more.iter().cloned());
        Process::start(&words, generator_core(terms), &Output::Piped)
    }

    /// h2load's own start and end are inside its window: 32 handshakes among tens of thousands of requests.
    fn http2(&self, running: &Running, terms: &Terms, connections: usize, streams: usize) -> Result<Outcome> {
        let batch = connections * streams;
        let requests = (self.seconds * 25_000.0 / batch as f64).ceil() as usize * batch;
        let address = running.address(Service::Http);
        let words = [
            "h2load",
            "--threads=1",
            &format!("--requests={requests}"),
            &format!("--clients={connections}"),
            &format!("--max-concurrent-streams={streams}"),
            "--tls13-ciphers=TLS_AES_128_GCM_SHA256",
            "--groups=X25519",
            &format!("--connect-to={address}"),
            &format!("https://{}/", Service::Http.name()),
        ];
        let words: Vec<String> = words.map(str::to_owned).to_vec();
        let watch = Watch { proxy: running.pids.clone(), backend: Some(self.backend.pid()) };
        let children = || -> Result<f64> {
            let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
            Ok([usage.user_time(), usage.system_time()].iter().map(micros).sum())
        };
        let before = children()?;
        let window = Window::open(&watch)?;
        let mut generator = Process::start(&words, generator_core(terms), &Output::Piped)?;
        let text = generator.rest()?;
        let outcome = window.close()?;
        let status = generator.wait()?;
        ensure!(status.success(), "h2load failed: {status}");
        let summary = h2load::parse(&text)?;
        let lost = (summary.lost > 0).then(|| "not answered with 2xx".to_owned());
        let own_us = children()? - before;
        Ok(Outcome {
            units: summary.done as f64,
            seconds: summary.seconds,
            own_us,
            lost: summary.lost,
            first_loss: lost,
            ..outcome
        })
    }

    /// KiB that each of many idle connections costs.
    fn idle(
        &self,
        running: &Running,
        terms: &Terms,
        service: Service,
        connections: usize,
        passthrough: bool,
    ) -> Result<f64> {
        let each =
            || -> Result<Vec<u64>> { running.pids.iter().map(|pid| accounting::memory(&[*pid])).collect() };
        let before = each()?;
        let mut words = vec!["--connections".to_owned(), connections.to_string()];
        if passthrough {
            words.push("--passthrough".to_owned());
        }
        let mut generator = self.generator(running, terms, service, "idle", &words)?;
        ensure!(generator.line()? == "open", "the generator said something else");
        std::thread::sleep(SETTLING);
        let after = each()?;
        drop(generator.stdin());
        let outcome: Outcome = serde_json::from_str(&generator.rest()?)?;
        check(&outcome, Handshakes::Any)?;
        let grown: Vec<f64> = before
            .iter()
            .zip(after)
            .map(|(before, after)| after.saturating_sub(*before) as f64 / 1024.0 / connections as f64)
            .collect();
        let words: Vec<String> = grown.iter().map(|each| format!("{each:.1}")).collect();
        progress(format!("  {}: {} KiB in its processes", running.title(), words.join(" + ")));
        Ok(grown.iter().sum())
    }
}

/// The core of the generator: the one beside the proxies'.
pub(crate) fn generator_core(terms: &Terms) -> Option<usize> {
    terms.core.map(|core| core + 1)
}

fn micros(time: &nix::sys::time::TimeVal) -> f64 {
    time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64
}

/// Is it a figure, and of the work that was meant?
pub(crate) fn check(outcome: &Outcome, handshakes: Handshakes) -> Result<()> {
    if let Some(failure) = outcome.failure() {
        bail!("{failure}");
    }
    let (full, resumed) = (outcome.full, outcome.resumed);
    match handshakes {
        Handshakes::Full => ensure!(resumed == 0 && full > 0, "{resumed} of {} were resumed", full + resumed),
        Handshakes::Resumed => {
            ensure!(
                resumed > 0 && full * 100 <= resumed,
                "only {resumed} of {} were resumed",
                full + resumed
            );
        }
        Handshakes::Any => {}
    }
    Ok(())
}

/// For how long a run has been going, for its progress.
pub(crate) fn minutes(since: Instant) -> String {
    let seconds = since.elapsed().as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
