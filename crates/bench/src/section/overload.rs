//! Three times what can be done is asked for: how much is still done, what is refused and why, and whether an operator
//! still gets answers.
//!
//! Never retries in place of a client: each has its own deadline and goes away. Afterwards the books must balance.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use control::api::messages::Reason;

use super::{Findings, Ours, Plan};
use crate::admin::Admin;
use crate::layout::Service;
use crate::outcome::Outcome;
use crate::stage::check;
use crate::stats::Percentiles;
use crate::table::{Text, number, percent};
use crate::watcher::{Questions, Seen, Watcher};
use crate::workload::Handshakes;

/// What is asked for, over what can be done.
const TIMES: f64 = 3.0;
/// What a generator may hold open: descriptors.
const CLIENTS: &str = "8000";
/// How long it is overloaded before it is measured, and half of how long then: seconds.
const LONG: f64 = 4.0;
/// How long a client waits.
const PATIENCE: &str = "2";

struct Case {
    row: &'static str,
    peak: (&'static str, &'static [&'static str]),
    flood: &'static str,
    clients: &'static str,
}

const CASES: [Case; 2] = [
    Case {
        row: "new TLS connections",
        peak: ("handshakes", &["--connections", "32"]),
        flood: "arrivals",
        clients: CLIENTS,
    },
    // A request costs more the more connections there are (caches): so as many for both.
    Case { row: "requests", peak: ("requests", &["--connections", "512"]), flood: "steady", clients: "512" },
];

pub(super) fn run(plan: &Plan<'_>) -> Findings {
    let mut table = Text::new(
        format!(
            "Overload: {TIMES} × the peak is offered, from {LONG} s on, clients wait {PATIENCE} s, 1 thread; the \
             round with the median goodput, and what was worst of the answers in any"
        ),
        &[
            "work",
            "peak /s",
            "offered /s",
            "done /s",
            "goodput",
            "of each round",
            "latency p50 / p99 ms",
            "GetStatus p50 / p99 ms",
            "first page p50 / p99 ms",
            "oldest heartbeat",
        ],
    );
    let mut findings = Findings::default();
    for case in &CASES {
        rounds(plan, case, &mut table, &mut findings.failures);
    }
    findings.tables.push(table);
    findings
}

/// One round: the peak, the overload, the peak again.
struct Round {
    peak: f64,
    flood: Outcome,
    seen: Seen,
    /// What smartproxy's books say of the clients' ends.
    ends: String,
}

impl Round {
    fn goodput(&self) -> f64 {
        self.flood.rate() / self.peak
    }
}

fn rounds(plan: &Plan<'_>, case: &Case, table: &mut Text, failures: &mut Vec<String>) {
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds {
        match one(plan, case) {
            Ok(round) => rounds.push(round),
            Err(error) => failures.push(format!("overload, {}: {error:#}", case.row)),
        }
    }
    for Seen { failed, first_failure, .. } in rounds.iter().map(|round| &round.seen) {
        if *failed > 0 {
            let first = first_failure.as_deref().unwrap_or_default();
            failures.push(format!("overload, {}: {failed} questions failed, first: {first}", case.row));
        }
    }
    let each: Vec<String> = rounds.iter().map(|round| percent(round.goodput())).collect();
    rounds.sort_by(|one, other| one.goodput().total_cmp(&other.goodput()));
    // Of two in the middle the worse.
    let Some(median) = rounds.get(rounds.len().saturating_sub(1) / 2) else { return };
    table.rows.push(row(case.row, median, &rounds, &each.join(", ")));
    let refusals = median.flood.refusals.iter();
    let client: Vec<String> = refusals.map(|(words, count)| format!("{words}: {count}")).collect();
    if !client.is_empty() {
        table.notes.push(format!("{}: not done, as the clients saw it: {}", case.row, client.join(", ")));
    }
    if rounds.iter().any(|round| round.flood.around() > 0.97) {
        table
            .notes
            .push(format!("{}: the generator's core was full, so less was offered than meant.", case.row));
    }
    table
        .notes
        .push(format!("{}: ends in smartproxy's books: {}; every audit balanced.", case.row, median.ends));
}

fn one(plan: &Plan<'_>, case: &Case) -> Result<Round> {
    let ours = Ours::start(plan.stage, plan.stage.terms(1, false))?;
    let admin = Admin::connect()?;
    let peak = || {
        let peak = ours.load(Service::Http, case.peak.0, case.peak.1)?;
        check(&peak, Handshakes::Any).context("the peak")?;
        Ok::<_, anyhow::Error>(peak.rate())
    };
    let first = peak()?;
    let before = settled(&admin)?;
    let watcher = Watcher::start(Questions::Few, ours.generator_core());
    // From when on it is the same every second; a quick run is no measurement.
    let long = if plan.stage.seconds < 1.0 { plan.stage.seconds } else { LONG };
    let (warm_up, seconds) = (long.to_string(), (long * 2.0).to_string());
    let rate = (first * TIMES).to_string();
    let more = [
        "--rate",
        &rate,
        "--warm-up",
        &warm_up,
        "--seconds",
        &seconds,
        "--connections",
        case.clients,
        "--patience",
        PATIENCE,
    ];
    let flood = ours.load(Service::Http, case.flood, &more);
    let seen = watcher.finish()?;
    let flood = flood?;
    admin.emptied(Duration::from_secs(60))?;
    for process in 0..2 {
        let audit = admin.audit(process, Some(Duration::from_secs(30)))?;
        ensure!(audit.balanced && audit.quiet, "the books do not balance afterwards: {:?}", audit.laws);
    }
    let ends: Vec<String> = settled(&admin)?
        .into_iter()
        .filter_map(|(reason, count)| {
            let new = count - before.get(&reason).copied().unwrap_or(0);
            (new > 0).then(|| format!("{reason}: {new}"))
        })
        .collect();
    // Before and after, because the machine's own speed changes.
    let peak = f64::midpoint(first, peak()?);
    Ok(Round { peak, flood, seen, ends: ends.join(", ") })
}

fn row(name: &str, median: &Round, rounds: &[Round], goodputs: &str) -> Vec<String> {
    let Round { peak, flood, .. } = median;
    let shown = |p50: f64, p99: f64| format!("{} / {}", number(p50 / 1e3), number(p99 / 1e3));
    let worst = |latency: fn(&Seen) -> Option<Percentiles>| {
        let all: Vec<Percentiles> = rounds.iter().filter_map(|round| latency(&round.seen)).collect();
        let most = |of: fn(&Percentiles) -> f64| all.iter().map(of).fold(0.0, f64::max);
        if all.is_empty() { String::new() } else { shown(most(|l| l.p50), most(|l| l.p99)) }
    };
    let stale: u64 = rounds.iter().map(|round| round.seen.stale).sum();
    let oldest = rounds.iter().map(|round| round.seen.oldest).max().unwrap_or_default();
    let stale = if stale > 0 { format!(", stale {stale} times") } else { String::new() };
    vec![
        name.to_owned(),
        number(*peak),
        number(flood.offered as f64 / flood.seconds),
        number(flood.rate()),
        percent(median.goodput()),
        goodputs.to_owned(),
        flood.latency.map_or(String::new(), |latency| shown(latency.p50, latency.p99)),
        worst(Seen::status),
        worst(Seen::first_page),
        format!("{:.1} s{stale}", oldest.as_secs_f64()),
    ]
}

/// Settled connections of smartproxy by reason.
fn settled(admin: &Admin) -> Result<BTreeMap<String, u64>> {
    let own = admin.counters()?.own.context("counters without their own")?;
    let mut reasons = BTreeMap::new();
    for count in own.tally.unwrap_or_default().settled {
        let name = Reason::try_from(count.reason).map_or("unknown", |reason| reason.as_str_name());
        *reasons.entry(name.trim_start_matches("REASON_").to_lowercase()).or_default() += count.count;
    }
    Ok(reasons)
}
