//! Owns one of the two real binaries as a child: its start, its signals, its log, its descriptors, its end.
//!
//! Never signals a pid that it did not start, and never after that child was waited for. Whatever happens, the child is
//! killed when this value is dropped.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::wait;

/// A child, running or not.
#[derive(Debug)]
pub struct Process {
    program: &'static str,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    exit: Option<ExitStatus>,
    starts: u32,
}

impl Process {
    /// `program` (a file in [`binaries`]) with `--config CONFIG`, its output appended to `log`. Not started yet.
    pub(crate) fn new(program: &'static str, config: PathBuf, log: PathBuf) -> Self {
        Self { program, config, log, child: None, exit: None, starts: 0 }
    }

    /// Starts it.
    pub(crate) fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("{} is running already", self.program);
        }
        let path = binaries().join(self.program);
        let output: File = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let child = Command::new(&path)
            .arg("--config")
            .arg(&self.config)
            .env_remove("RUST_LOG")
            .env("XDG_RUNTIME_DIR", self.log.parent().unwrap_or(Path::new("/")))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {}: run `make build` first", path.display()))?;
        self.child = Some(child);
        self.exit = None;
        self.starts += 1;
        Ok(())
    }

    /// It was started and has not been seen to end.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        self.child.as_ref().map(Child::id).with_context(|| format!("{} is not running", self.program))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()?).ok().and_then(Pid::from_raw).context("a pid")?;
        kill_process(pid, signal).with_context(|| format!("{signal:?} to {}", self.program))
    }

    /// SIGKILL, and waits for it to be gone.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            // A stopped process dies of SIGKILL as well.
            child.kill()?;
            self.exit = Some(child.wait()?);
        }
        Ok(())
    }

    /// Waits until it ended by itself, at most `bound`.
    pub async fn ended(&mut self, bound: Duration) -> Result<ExitStatus> {
        let program = self.program;
        let status = wait::until(&format!("{program} ends"), bound, async || {
            self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
        })
        .await?;
        self.child = None;
        self.exit = Some(status);
        Ok(status)
    }

    /// An error where it ended although nobody asked it to.
    pub(crate) fn still_there(&mut self) -> Result<()> {
        if let Some(child) = self.child.as_mut()
            && let Some(status) = child.try_wait()?
        {
            self.child = None;
            self.exit = Some(status);
            bail!("{} ended by itself with {status}; its log:\n{}", self.program, self.log());
        }
        Ok(())
    }

    /// Everything that it logged, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its open descriptors: what each is, sorted.
    pub fn descriptors(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/{}/fd", self.pid()?))? {
            // One that is closed between the listing and the look is not open.
            if let Ok(target) = std::fs::read_link(entry?.path()) {
                found.push(target.display().to_string());
            }
        }
        found.sort();
        Ok(found)
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Changes how many descriptors it may open, while it runs; returns the limit before. None is no limit.
    pub fn limit_descriptors(&self, most: Option<u64>) -> Result<Option<u64>> {
        let pid = i32::try_from(self.pid()?).ok().and_then(Pid::from_raw).context("a pid")?;
        let hard = getrlimit(Resource::Nofile).maximum;
        let before = prlimit(Some(pid), Resource::Nofile, Rlimit { current: most, maximum: hard })?;
        Ok(before.current)
    }

    /// Leaves it this many descriptors beside those that are open; returns the limit before.
    pub fn leave_descriptors(&self, free: usize) -> Result<Option<u64>> {
        let mut taken = std::collections::BTreeSet::new();
        for entry in std::fs::read_dir(format!("/proc/{}/fd", self.pid()?))? {
            taken.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        // The limit is on the number, and the lowest free number is given out first (getrlimit(2), open(2)).
        let limit = (0..).filter(|number| !taken.contains(number)).nth(free);
        self.limit_descriptors(limit)
    }

    /// Where its configuration is.
    pub fn config(&self) -> &Path {
        &self.config
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Where the binaries are: `SMARTPROXY_BIN_DIR`, or the directory above that of the test executable.
pub fn binaries() -> PathBuf {
    if let Some(directory) = std::env::var_os("SMARTPROXY_BIN_DIR") {
        return PathBuf::from(directory);
    }
    let executable = std::env::current_exe().expect("the test executable has a path");
    executable.parent().and_then(Path::parent).expect("it lies in target/PROFILE/deps").to_path_buf()
}
