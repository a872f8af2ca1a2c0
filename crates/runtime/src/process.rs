//! What the kernel says about this process: the standard `process_*` metrics.
//!
//! *Owns* the reading of `/proc/self` (proc(5)). *Never* fails: what cannot be read is left out.
//! *Invariant*: values are absolute, as of the call.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use crate::exposition::Exposition;
use crate::limits::open_descriptors;

/// Writes the standard process metrics.
pub(crate) fn metrics(page: &mut Exposition) {
    if let Ok(open) = open_descriptors() {
        page.gauge("process_open_fds", "Open file descriptors.").value(open);
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        page.gauge("process_max_fds", "The limit of open file descriptors.").value(limit);
    }
    let Some(stat) = Stat::read() else { return };
    let ticks = clock_ticks_per_second() as f64;
    page.counter("process_cpu_seconds_total", "User and system time.").value(stat.cpu_ticks as f64 / ticks);
    page.gauge("process_virtual_memory_bytes", "Virtual memory.").value(stat.virtual_bytes);
    page.gauge("process_resident_memory_bytes", "Resident memory.")
        .value(stat.resident_pages * page_size() as u64);
    page.gauge("process_threads", "Threads.").value(stat.threads);
    if let Some(boot) = boot_time() {
        page.gauge("process_start_time_seconds", "Start, in seconds since 1970.")
            .value(boot as f64 + stat.started_ticks as f64 / ticks);
    }
}

/// The fields of `/proc/self/stat` that are shown.
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    started_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the program's name in parentheses and may hold anything, also parentheses.
        let (_, rest) = text.rsplit_once(')')?;
        // proc(5) counts from 1; what follows the name begins with field 3.
        let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3)?.parse().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            started_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// When the machine started, in seconds since 1970.
fn boot_time() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}
