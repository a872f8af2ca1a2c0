//! Owns the two real processes of a test: their files, their start, their faults, their end.
//!
//! A test gets a [`Pair`] that serves, does its worst, and ends with [`Pair::teardown`], which asserts what must hold
//! after every test. Where a test fails instead, both ledgers and both logs are printed.
//!
//! Invariant: no process outlives its pair.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::address::Address;
use crate::admin::Admin;
use crate::books;
use crate::client::http::fetch;
use crate::cutter::{Cutter, Rewrite};
use crate::process::Process;
use crate::setup::{Channel, Hop, Setup, port};
use crate::tap::HopTap;
use crate::wait::{self, SOON, until};

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// The one with the public ports.
    Smartproxy,
    /// The one with the keys.
    Networkproxy,
    /// A second one with keys, for rolling upgrades.
    Second,
}

/// Both, in the order in which they are started.
pub const BOTH: [Which; 2] = [Which::Smartproxy, Which::Networkproxy];

const ALL: [Which; 3] = [Which::Smartproxy, Which::Networkproxy, Which::Second];

/// What must not grow; pooled pipes, pooled target connections and control sessions are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Baseline {
    descriptors: usize,
    tasks: u64,
}

#[derive(Debug)]
struct Member {
    process: Process,
    admin: Option<Admin>,
    baseline: Option<Baseline>,
}

/// smartproxy and networkproxy, with what stands between them.
#[derive(Debug)]
pub struct Pair {
    address: Address,
    directory: TempDir,
    members: [Member; 3],
    cutter: Option<Cutter>,
    tap: Option<HopTap>,
    torn_down: bool,
}

/// What a test says it will leave behind, which otherwise fails its teardown.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Expected {
    alarms: Vec<&'static str>,
    errors: Vec<&'static str>,
}

impl Expected {
    /// Nothing.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// This field of `Alarms` may be other than zero.
    pub fn alarm(mut self, name: &'static str) -> Self {
        self.alarms.push(name);
        self
    }

    /// ERROR lines that contain this are in order.
    pub fn error(mut self, part: &'static str) -> Self {
        self.errors.push(part);
        self
    }
}

impl Pair {
    /// Starts what `setup` says on `address`, and waits until it serves.
    pub async fn start(address: Address, setup: Setup) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("e2e-").tempdir()?;
        let member = |program, name: &str, yaml: String| {
            let config = directory.path().join(format!("{name}.yaml"));
            std::fs::write(&config, yaml)?;
            let log = directory.path().join(format!("{name}.log"));
            Ok::<_, anyhow::Error>(Member {
                process: Process::new(program, config, log),
                admin: None,
                baseline: None,
            })
        };
        let path = directory.path();
        let members = [
            member("smartproxy", "smartproxy", setup.smartproxy_yaml(address, path))?,
            member("networkproxy", "networkproxy", setup.networkproxy_yaml(address, path, 0)?)?,
            member("networkproxy", "second", setup.networkproxy_yaml(address, path, port::SECOND)?)?,
        ];
        let tap = match setup.hop {
            Hop::Tapped => Some(HopTap::start(address.port(port::TAP), address.port(port::HOP)).await?),
            Hop::Direct | Hop::Misdirected => None,
        };
        let cutter = match (setup.channel, setup.hop) {
            (Channel::Direct, _) => None,
            (Channel::Cut, Hop::Direct) => {
                Some(Cutter::start(address.port(port::CUTTER), address.port(port::CONTROL)).await?)
            }
            (Channel::Cut, Hop::Tapped | Hop::Misdirected) => {
                let (from, to) = (address.port(port::HOP), address.port(port::TAP));
                let rewrite = Rewrite::new(&from.to_string(), &to.to_string());
                let (listen, dial) = (address.port(port::CUTTER), address.port(port::CONTROL));
                Some(Cutter::watched(listen, dial, std::sync::Arc::new(rewrite)).await?)
            }
        };
        let mut pair = Self { address, directory, members, cutter, tap, torn_down: false };
        pair.member_mut(Which::Smartproxy).process.start()?;
        if setup.networkproxy {
            pair.member_mut(Which::Networkproxy).process.start()?;
        }
        pair.answering(Which::Smartproxy).await?;
        if setup.networkproxy {
            pair.answering(Which::Networkproxy).await?;
            pair.serving(Which::Networkproxy).await?;
        }
        pair.take_baseline().await?;
        Ok(pair)
    }

    /// Starts a process that is not running, and waits until it answers and, a networkproxy, is ready for connections.
    pub async fn restart(&mut self, which: Which) -> Result<()> {
        self.begin(which)?;
        self.answering(which).await?;
        for inner in [Which::Networkproxy, Which::Second] {
            let member = self.member(inner);
            // One that never served needs no smartproxy to come back to.
            if member.process.is_running() && (inner == which || member.admin.is_some()) {
                self.serving(inner).await?;
            }
        }
        Ok(())
    }

    /// Starts a process that is not running, and returns at once.
    pub fn begin(&mut self, which: Which) -> Result<()> {
        let member = self.member_mut(which);
        member.admin = None;
        member.process.start()
    }

    /// Waits until `which` answers on its gRPC and metrics ports.
    pub async fn answering(&mut self, which: Which) -> Result<()> {
        let (admin, health) = (self.admin_address(which), self.metrics_address(which));
        let token = self.directory.path().join("control.token");
        let member = self.member_mut(which);
        let bound = SOON * 2;
        let start = std::time::Instant::now();
        loop {
            member.process.still_there()?;
            let text = std::fs::read_to_string(&token).unwrap_or_default();
            if !text.trim().is_empty() {
                let client = Admin::new(admin, Some(text.trim().to_owned()))?;
                let healthy = fetch(health, "/healthz").await.is_ok_and(|(status, _)| status == 200);
                if healthy && client.call("proxy.admin.v1.ProxyService/GetStatus", &json!({})).await.is_ok() {
                    member.admin = Some(client);
                    return Ok(());
                }
            }
            if start.elapsed() > bound {
                bail!("{which:?} did not answer within {bound:?}; its log:\n{}", member.process.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until smartproxy sends new connections to this networkproxy.
    pub async fn serving(&self, which: Which) -> Result<()> {
        let admin = self.admin_address(which).to_string();
        until(&format!("smartproxy finds {which:?} ready"), SOON * 2, async || {
            let status = self.status(Which::Smartproxy).await.ok()?;
            let ready = status["peers"].as_array()?.iter().any(|peer| {
                peer["ready"] == true && peer["connected"] == true && peer["admin_address"] == admin.as_str()
            });
            ready.then_some(())
        })
        .await
        .with_context(|| self.logs())?;
        until(&format!("{which:?} says that it is ready"), SOON, async || {
            let (status, _) = fetch(self.metrics_address(which), "/readyz").await.ok()?;
            (status == 200).then_some(())
        })
        .await
    }

    /// Waits until smartproxy sends new connections to no networkproxy.
    pub async fn unready(&self) -> Result<()> {
        until("smartproxy finds no networkproxy ready", SOON, async || {
            let status = self.status(Which::Smartproxy).await.ok()?;
            status["peers"].as_array()?.iter().all(|peer| peer["ready"] == false).then_some(())
        })
        .await
    }

    /// SIGKILL.
    pub fn kill9(&mut self, which: Which) -> Result<()> {
        self.member_mut(which).process.kill9()
    }

    /// SIGSTOP.
    pub fn stop(&self, which: Which) -> Result<()> {
        self.member(which).process.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn cont(&self, which: Which) -> Result<()> {
        self.member(which).process.signal(Signal::CONT)
    }

    /// SIGTERM: drain.
    pub fn terminate(&self, which: Which) -> Result<()> {
        self.member(which).process.signal(Signal::TERM)
    }

    /// Any signal.
    pub fn signal(&self, which: Which, signal: Signal) -> Result<()> {
        self.member(which).process.signal(signal)
    }

    /// Waits until the process ended by itself.
    pub async fn ended(&mut self, which: Which, bound: Duration) -> Result<ExitStatus> {
        self.member_mut(which).process.ended(bound).await
    }

    /// It runs.
    pub fn is_running(&self, which: Which) -> bool {
        self.member(which).process.is_running()
    }

    /// The process itself.
    pub fn process(&self, which: Which) -> &Process {
        &self.member(which).process
    }

    /// What stands on the control channel.
    pub fn cutter(&self) -> &Cutter {
        self.cutter.as_ref().expect("the setup asked for a cutter")
    }

    /// What stands on the hop.
    pub fn tap(&self) -> &HopTap {
        self.tap.as_ref().expect("the setup asked for a tap")
    }

    /// The test's address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The test's directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// smartproxy's public TLS port.
    pub fn tls(&self) -> SocketAddr {
        self.address.port(port::TLS)
    }

    /// smartproxy's public clear-text HTTP port.
    pub fn http(&self) -> SocketAddr {
        self.address.port(port::HTTP)
    }

    /// smartproxy's public plain TCP port.
    pub fn tcp(&self) -> SocketAddr {
        self.address.port(port::TCP)
    }

    /// networkproxy's hop.
    pub fn hop(&self) -> SocketAddr {
        self.address.port(port::HOP)
    }

    /// Where a process answers gRPC.
    pub fn admin_address(&self, which: Which) -> SocketAddr {
        self.address.port(match which {
            Which::Smartproxy => port::CONTROL,
            Which::Networkproxy => port::ADMIN,
            Which::Second => port::ADMIN + port::SECOND,
        })
    }

    /// Where a process answers for its metrics and health.
    pub fn metrics_address(&self, which: Which) -> SocketAddr {
        self.address.port(match which {
            Which::Smartproxy => port::METRICS,
            Which::Networkproxy => port::INNER_METRICS,
            Which::Second => port::INNER_METRICS + port::SECOND,
        })
    }

    /// The token.
    pub fn token(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.directory.path().join("control.token"))?.trim().to_owned())
    }

    /// Calls an admin method; see [`Admin::call`].
    pub async fn call(&self, which: Which, method: &str, request: &Value) -> Result<Value> {
        let admin =
            self.member(which).admin.as_ref().with_context(|| format!("{which:?} was not started"))?;
        admin.call(method, request).await
    }

    /// `GetStatus`.
    pub async fn status(&self, which: Which) -> Result<Value> {
        self.call(which, "proxy.admin.v1.ProxyService/GetStatus", &json!({})).await
    }

    /// Everything both logged.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for which in ALL {
            let log = self.member(which).process.log();
            let lines: Vec<&str> = log.lines().collect();
            let skip = lines.len().saturating_sub(60);
            if !lines.is_empty() {
                text.push_str(&format!("---- log of {which:?} ({skip} lines before)\n"));
                text.push_str(&lines[skip..].join("\n"));
                text.push('\n');
            }
        }
        text
    }

    /// Which processes run.
    pub fn running(&self) -> Vec<Which> {
        ALL.into_iter().filter(|which| self.is_running(*which)).collect()
    }

    /// Asserts that nothing was left behind, and that both leave in order when asked.
    pub async fn teardown(self) -> Result<()> {
        self.teardown_expecting(&Expected::nothing()).await
    }

    /// As [`Self::teardown`], with what the test says it leaves behind.
    pub async fn teardown_expecting(mut self, expected: &Expected) -> Result<()> {
        for which in self.running() {
            self.member_mut(which).process.still_there()?;
        }
        for which in self.running() {
            self.settled_and_balanced(which, expected).await?;
        }
        for which in self.running() {
            self.back_at_baseline(which).await?;
        }
        let running = self.running();
        for which in &running {
            self.terminate(*which)?;
        }
        for which in running {
            let status = self.ended(which, SOON).await?;
            ensure!(status.success(), "{which:?} left with {status}");
        }
        for which in ALL {
            check_log(which, &self.member(which).process.log(), expected)?;
        }
        self.torn_down = true;
        Ok(())
    }

    /// The audit of one process, when it has come to rest: every law holds, every close is settled, no alarm. R-09: no
    /// record outlived its sockets, and no sweep had to repair anything.
    pub async fn settled_and_balanced(&self, which: Which, expected: &Expected) -> Result<Value> {
        let request = json!({ "wait": "10s" });
        let audit = self.call(which, "proxy.admin.v1.ConnectionService/Audit", &request).await?;
        let broken: Vec<&Value> =
            audit["laws"].as_array().context("laws")?.iter().filter(|law| law["holds"] != true).collect();
        ensure!(
            audit["balanced"] == true && audit["quiet"] == true && broken.is_empty(),
            "{which:?} is not at rest: balanced {}, quiet {}, broken laws {broken:#?}, in flight {:#}",
            audit["balanced"],
            audit["quiet"],
            audit["in_flight"]
        );
        for name in ["drift_detected", "drift_repaired", "repairs", "unjoined", "hop_contradictions"] {
            ensure!(
                audit["alarms"][name] == 0 || expected.alarms.contains(&name),
                "{which:?} raised an alarm: {name} is {}",
                audit["alarms"][name]
            );
        }
        Ok(audit)
    }

    async fn take_baseline(&mut self) -> Result<()> {
        for which in self.running() {
            let taken = self.steady(which).await?;
            self.member_mut(which).baseline = Some(taken);
        }
        Ok(())
    }

    /// What a process holds, when it has been the same for a few looks.
    async fn steady(&self, which: Which) -> Result<Baseline> {
        let mut last = (None, 0);
        until(&format!("{which:?} is steady"), SOON, async || {
            let now = self.holds(which).await.ok()?;
            last = if last.0 == Some(now) { (last.0, last.1 + 1) } else { (Some(now), 0) };
            (last.1 == 4).then_some(now)
        })
        .await
    }

    async fn holds(&self, which: Which) -> Result<Baseline> {
        let status = self.status(which).await?;
        let descriptors = self.member(which).process.descriptors()?.len();
        let count = |name: &str| status[name].as_u64().with_context(|| format!("{name} of GetStatus"));
        let (pipes, targets) = (count("pooled_pipes")?, count("pooled_target_connections")?);
        let sessions =
            status["peers"].as_array().context("peers")?.iter().filter(|peer| peer["connected"] == true);
        let apart = 2 * pipes + targets + sessions.count() as u64;
        Ok(Baseline {
            descriptors: descriptors.saturating_sub(usize::try_from(apart)?),
            // Each pooled connection has a task that watches it.
            tasks: count("alive_tasks")?.saturating_sub(targets),
        })
    }

    /// descriptors and tasks are those of a process that carries nobody.
    async fn back_at_baseline(&self, which: Which) -> Result<()> {
        let member = self.member(which);
        let Some(baseline) = member.baseline else { return Ok(()) };
        let back = until("back at the baseline", SOON, async || {
            (self.holds(which).await.ok()? == baseline).then_some(())
        })
        .await;
        if back.is_err() {
            let (now, status) = (self.holds(which).await?, self.status(which).await?);
            bail!(
                "{which:?} held {baseline:?} before the first connection and holds {now:?} after the last\n\
                 {status:#}\n{:#?}",
                member.process.descriptors()?
            );
        }
        Ok(())
    }

    fn member(&self, which: Which) -> &Member {
        &self.members[which as usize]
    }

    fn member_mut(&mut self, which: Which) -> &mut Member {
        &mut self.members[which as usize]
    }

    /// Both ledgers side by side, asked for on a thread of its own: a failing test cannot await any more.
    fn ledgers(&self) -> String {
        let running = self.running();
        let addresses: Vec<_> = running.iter().map(|which| (*which, self.admin_address(*which))).collect();
        let token = self.token().ok();
        let asked = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let ask = books::side_by_side(&addresses, token);
                wait::within("both ledgers", Duration::from_secs(3), ask).await?
            })
        });
        match asked.join() {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => format!("the ledgers cannot be shown: {error:#}"),
            Err(_) => "the ledgers cannot be shown".to_owned(),
        }
    }
}

impl Drop for Pair {
    #[expect(clippy::print_stderr, reason = "the test runner shows it with the test that failed")]
    fn drop(&mut self) {
        if !self.torn_down {
            eprintln!("{}\n{}", self.ledgers(), self.logs());
        }
    }
}

/// No panic and no ERROR line, apart from what is expected.
fn check_log(which: Which, log: &str, expected: &Expected) -> Result<()> {
    for line in log.lines() {
        let error = line.contains(" ERROR ") || line.contains("\"level\":\"ERROR\"");
        let fine = expected.errors.iter().any(|part| line.contains(part));
        ensure!(!line.contains("panicked"), "{which:?} panicked: {line}");
        ensure!(!error || fine, "{which:?} logged an error: {line}");
    }
    Ok(())
}
