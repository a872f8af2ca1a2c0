//! Owns what the kernel says about processes: CPU time, memory, threads, children; and about the whole machine.
//!
//! Never estimates: the CPU time of a process is its clock (clock_getcpuclockid(3)), exact to the moment, all threads
//! and ended ones included. The machine's busy time comes in ticks of 10 ms and is good for windows of a second or more.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

use crate::outcome::Outcome;

/// Whose CPU time is wanted.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Watch {
    /// The processes that make up the proxy.
    #[arg(long, value_delimiter = ',')]
    pub proxy: Vec<u32>,
    /// The backend.
    #[arg(long)]
    pub backend: Option<u32>,
}

/// A stretch of time in which work is done.
pub(crate) struct Window {
    watch: Watch,
    start: Instant,
    proxy: Duration,
    backend: Duration,
    own: Duration,
    machine: Machine,
}

impl Window {
    /// Begins now.
    pub(crate) fn open(watch: &Watch) -> Result<Self> {
        Ok(Self {
            machine: Machine::now()?,
            own: cpu(std::process::id())?,
            backend: watch.backend.map_or(Ok(Duration::ZERO), cpu)?,
            proxy: cpu_of_all(&watch.proxy)?,
            start: Instant::now(),
            watch: watch.clone(),
        })
    }

    /// Ends now.
    pub(crate) fn close(self) -> Result<Outcome> {
        let wall = self.start.elapsed();
        let proxy = cpu_of_all(&self.watch.proxy)?.saturating_sub(self.proxy);
        let backend = self.watch.backend.map_or(Ok(Duration::ZERO), cpu)?.saturating_sub(self.backend);
        let own = cpu(std::process::id())?.saturating_sub(self.own);
        let machine = Machine::now()?;
        Ok(Outcome {
            seconds: wall.as_secs_f64(),
            proxy_us: micros(proxy),
            backend_us: micros(backend),
            own_us: micros(own),
            busy_us: micros(machine.busy.saturating_sub(self.machine.busy)),
            stolen_us: micros(machine.stolen.saturating_sub(self.machine.stolen)),
            ..Outcome::default()
        })
    }
}

/// Microseconds.
pub(crate) fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

/// The CPU time of a process so far.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()))
        .with_context(|| format!("process {pid} is gone"))?;
    Ok(Duration::from(clock.now().with_context(|| format!("process {pid} is gone"))?))
}

/// The CPU time of several processes so far.
pub(crate) fn cpu_of_all(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| cpu(*pid)).sum()
}

/// What the whole machine did so far.
struct Machine {
    /// Time not idle, interrupts included, over all cores.
    busy: Duration,
    /// Time that the hypervisor gave to others.
    stolen: Duration,
}

impl Machine {
    /// proc_stat(5), the line `cpu`: user nice system idle iowait irq softirq steal.
    fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
        let tick = |count: u64| Duration::from_millis(10 * count);
        Ok(Self { busy: tick(at(0) + at(1) + at(2) + at(5) + at(6)), stolen: tick(at(7)) })
    }
}

/// Resident memory of several processes, each shared page in its share, in bytes.
pub(crate) fn memory(pids: &[u32]) -> Result<u64> {
    pids.iter().map(|pid| kibibytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")).sum()
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    kibibytes(&format!("/proc/{pid}/status"), "VmRSS:")
}

fn kibibytes(file: &str, key: &str) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let word =
        line.and_then(|line| line.split_whitespace().next()).with_context(|| format!("{file}: {key}"))?;
    Ok(word.parse::<u64>()? * 1024)
}

/// The name and CPU time of each thread of a process.
pub(crate) fn threads(pid: u32) -> Result<Vec<(String, Duration)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        // A thread may end between the two reads; then it is not counted.
        let (Ok(name), Ok(times)) =
            (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("schedstat")))
        else {
            continue;
        };
        let nanoseconds = times.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
        found.push((name.trim().to_owned(), Duration::from_nanos(nanoseconds)));
    }
    Ok(found)
}

/// A process and everything that it started, itself first.
pub(crate) fn family(pid: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(child) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{child}/stat")) else { continue };
        // The name in brackets may contain anything, spaces too: what follows the last bracket is `state ppid …`.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        parents.extend(parent.map(|parent: u32| (child, parent)));
    }
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    Ok(family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_cpu_time_memory_threads_and_itself_in_its_family() {
        let own = std::process::id();
        assert!(cpu(own).unwrap() > Duration::ZERO);
        assert!(memory(&[own]).unwrap() > 0);
        assert!(resident(own).unwrap() > 0);
        assert!(!threads(own).unwrap().is_empty());
        assert_eq!(family(own).unwrap()[0], own);
    }

    #[test]
    fn a_window_counts_what_was_spent_in_it() {
        let watch = Watch { proxy: vec![std::process::id()], backend: None };
        let window = Window::open(&watch).unwrap();
        let mut sum = 0_u64;
        let before = cpu(std::process::id()).unwrap();
        while cpu(std::process::id()).unwrap() < before + Duration::from_millis(2) {
            sum = std::hint::black_box(sum + 1);
        }
        let outcome = window.close().unwrap();
        assert!(outcome.proxy_us >= 2000.0, "{outcome:?}");
        assert!((outcome.own_us - outcome.proxy_us).abs() < outcome.own_us);
    }
}
