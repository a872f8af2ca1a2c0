//! Owns the processes that a run starts: generator, backend, the proxies.
//!
//! Each is started through `bench exec`, which ties its life to ours (`PR_SET_PDEATHSIG`), pins it, and becomes the
//! program. Never signals a pid that was waited for. Invariant: dropped means killed and gone, whole family included.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::accounting;

/// `bench exec`: becomes another program.
#[derive(Debug, clap::Args)]
pub(crate) struct ExecArguments {
    /// The core that it may run on; any without.
    #[arg(long)]
    core: Option<usize>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

/// Becomes the program; returns only if that fails.
pub(crate) fn exec(arguments: &ExecArguments) -> Result<()> {
    let (program, rest) = arguments.program.split_first().context("a program")?;
    // nginx's workers outlive a master that is killed.
    let signal = if program.ends_with("nginx") { Signal::TERM } else { Signal::KILL };
    set_parent_process_death_signal(Some(signal))?;
    if let Some(core) = arguments.core {
        let mut set = CpuSet::new();
        set.set(core);
        sched_setaffinity(None, &set).context("pinning")?;
    }
    Err(Command::new(program).args(rest).exec()).with_context(|| program.clone())
}

/// Where the output of a process goes.
pub(crate) enum Output<'a> {
    /// To us, line by line.
    Piped,
    /// To a file, with what it says on stderr.
    File(&'a Path),
}

/// A process that was started.
pub(crate) struct Process {
    child: Child,
    lines: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts `program`, pinned to `core`.
    pub(crate) fn start(program: &[String], core: Option<usize>, output: &Output<'_>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("exec");
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        command.arg("--").args(program).env_remove("RUST_LOG").stdin(Stdio::piped());
        match output {
            Output::Piped => command.stdout(Stdio::piped()),
            Output::File(path) => {
                let file = File::create(path)?;
                command.stdout(file.try_clone()?).stderr(file)
            }
        };
        let mut child = command.spawn().with_context(|| program.join(" "))?;
        let lines = child.stdout.take().map(BufReader::new);
        Ok(Self { child, lines })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its next line on stdout.
    pub(crate) fn line(&mut self) -> Result<String> {
        let lines = self.lines.as_mut().context("its output is not ours")?;
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            bail!("it ended without a word: {}", self.child.wait()?);
        }
        Ok(line.trim().to_owned())
    }

    /// Everything else that it says on stdout, until it closes it.
    pub(crate) fn rest(&mut self) -> Result<String> {
        let lines = self.lines.as_mut().context("its output is not ours")?;
        Ok(std::io::read_to_string(lines)?)
    }

    /// Takes its stdin; closing that is how an idle generator is told to leave.
    pub(crate) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let family = accounting::family(self.child.id()).unwrap_or_default();
        for pid in &family {
            if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                // Gone already is as good.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        drop(self.child.wait());
        // Its children are not ours to wait for; their ports must be free before this returns.
        let bound = Instant::now() + Duration::from_secs(5);
        while Instant::now() < bound && family.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
