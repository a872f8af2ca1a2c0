//! What a process exports: its own ledger, in numbers.
//!
//! *Owns* the names of the metrics that both processes have (documentation page "Metrics"); a process adds
//! its own to the page. *Never* labels by address, host, id or alert, and never by reason and route at once.
//! *Invariant*: every gauge is a table's length, every counter a fold; nothing here can be incremented.

use std::time::Duration;

use ledger::{Counters, Direction, LegName, Phase};

use crate::accept::AcceptErrors;
use crate::exposition::Exposition;
use crate::manager::ConnectionManager;
use crate::process;
use crate::settled::SettledTotals;

/// Which build it is.
#[derive(Clone, Copy, Debug)]
pub struct BuildInfo {
    /// The version, as `--version` says.
    pub version: &'static str,
    /// The commit it was built from; empty where unknown.
    pub revision: &'static str,
}

/// Writes what both processes have.
pub fn common_metrics(
    page: &mut Exposition,
    build: BuildInfo,
    manager: &ConnectionManager,
    settled: &SettledTotals,
    accept_errors: &AcceptErrors,
    since_sweep: Duration,
) {
    let counters = manager.ledger().counters(manager.clock().now());
    live(page, &counters);
    sums(page, &counters);
    control(page, &counters);
    alarms(page, &counters);
    page.counter("proxy_ledger_waits_total", "Calls that found the books held and had to wait.")
        .value(manager.ledger().waits());
    let mut opened = page.counter("proxy_connections_opened_total", "Records opened, by listener.");
    for (listener, count) in manager.opened() {
        opened.labelled(&[("listener", &listener)], count);
    }
    let mut entries =
        page.counter("proxy_entry_connections_closed_total", "Connections closed and settled, by entry.");
    for (entry, count) in settled.entries() {
        entries.labelled(&[("entry", &entry)], count);
    }
    let mut errors = page.counter("proxy_accept_errors_total", "Failed accepts, by kind.");
    for (fault, count) in accept_errors.counts() {
        errors.labelled(&[("kind", fault.name())], count);
    }
    page.histogram(
        "proxy_connection_duration_seconds",
        "Age of connections at their end.",
        settled.durations(),
    );
    page.histogram(
        "proxy_target_connect_duration_seconds",
        "Time to connect to a target.",
        settled.target_connects(),
    );
    page.gauge("proxy_last_sweep_age_seconds", "Time since the books were last looked over.")
        .value(since_sweep.as_secs_f64());
    page.gauge("proxy_build_info", "Which build this is.")
        .labelled(&[("version", build.version), ("revision", build.revision)], 1);
    process::metrics(page);
}

fn live(page: &mut Exposition, counters: &Counters) {
    page.gauge("proxy_connected_clients", "Live records.").value(counters.connected_clients);
    page.gauge("proxy_port_proxy_connections", "Live inner halves; on smartproxy, live bridged fronts.")
        .value(counters.port_proxy_connections);
    page.gauge("proxy_settling_connections", "Closed records whose cause is not settled yet.")
        .value(counters.settling);
    let mut phases = page.gauge("proxy_phase_connections", "Live records, by phase.");
    for phase in Phase::ALL.into_iter().filter(|phase| !phase.is_closed()) {
        phases.labelled(&[("phase", phase.name())], counters.phases.get(&phase).unwrap_or(&0));
    }
    page.gauge("proxy_held_connections", "Clients that wait for a networkproxy.")
        .value(counters.phases.get(&Phase::Held).unwrap_or(&0));
}

fn sums(page: &mut Exposition, counters: &Counters) {
    let mut settled =
        page.counter("proxy_connections_settled_total", "Settled connections, by cause and who began it.");
    for ((reason, initiator), count) in &counters.tally.settled {
        settled.labelled(&[("reason", &reason.to_string()), ("initiator", initiator.name())], count);
    }
    let mut bytes = page.counter("proxy_bytes_total", "Bytes read from (in) and written to (out) each leg.");
    for leg in [LegName::Client, LegName::Hop, LegName::Target] {
        for (direction, name) in [(Direction::In, "in"), (Direction::Out, "out")] {
            let of = |sums: &[[u64; 2]; 3]| sums[leg as usize - 1][direction as usize];
            let sum = of(&counters.tally.bytes) + of(&counters.live_bytes);
            bytes.labelled(&[("leg", leg.name()), ("direction", name)], sum);
        }
    }
    page.counter(
        "proxy_tls_terminated_connections_total",
        "Connections that completed a TLS handshake with us.",
    )
    .value(counters.tally.tls_terminated);
    let mut refused = page.counter("proxy_hop_refused_total", "Hop connections refused, by reason.");
    for (reason, count) in &counters.arrivals.refused {
        refused.labelled(&[("reason", &reason.to_string())], count);
    }
}

fn control(page: &mut Exposition, counters: &Counters) {
    let connected = counters.mirrors.iter().filter(|mirror| mirror.status.connected).count();
    page.gauge("proxy_control_connected", "Peers whose control session is up.").value(connected);
    let lag: u64 = counters.mirrors.iter().map(|mirror| mirror.status.lag).sum();
    page.gauge("proxy_control_lag_halves", "Changed halves that a known peer has not applied.").value(lag);
}

fn alarms(page: &mut Exposition, counters: &Counters) {
    let alarms = &counters.alarms;
    for (name, help, count) in [
        ("proxy_late_evidence_total", "Evidence that came after settlement.", counters.tally.late_evidence),
        ("proxy_drift_detected_total", "Digests that differed.", alarms.drift_detected),
        ("proxy_drift_repaired_total", "Snapshots that repaired one.", alarms.drift_repaired),
        ("proxy_audit_repairs_total", "Records that a sweep had to end: each is a bug.", alarms.repairs),
    ] {
        page.counter(name, help).value(count);
    }
}
