//! T9: the share of CPU that the books and the control channel take. T11: what reading everything does to traffic.
//!
//! Never guesses what a worker spends on the books: only whole threads are told apart. What a worker does for its own
//! record (a short lock, a few stores) is inside every cost of the other tables.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Findings, Ours, Plan, leave};
use crate::accounting::{micros, threads};
use crate::layout::Service;
use crate::stage::check;
use crate::stats::{Percentiles, median, spread};
use crate::table::{Text, number, percent};
use crate::watcher::{Questions, Seen, Watcher};
use crate::workload::Handshakes;

/// Open while everything is read: two descriptors each in smartproxy, of 20,000.
const OPEN: usize = 7000;

pub(super) fn run(plan: &Plan<'_>) -> Findings {
    let mut findings = Findings::default();
    match shares(plan) {
        Ok(table) => findings.tables.push(table),
        Err(error) => findings.failures.push(format!("ledger, shares: {error:#}")),
    }
    match reading(plan) {
        Ok((table, failure)) => {
            findings.tables.push(table);
            findings.failures.extend(failure);
        }
        Err(error) => findings.failures.push(format!("ledger, reading: {error:#}")),
    }
    findings
}

/// CPU time by the name of the thread, over both processes.
fn by_thread(pids: &[u32]) -> Result<BTreeMap<String, Duration>> {
    let mut times = BTreeMap::new();
    for pid in pids {
        for (name, time) in threads(*pid)? {
            *times.entry(name).or_default() += time;
        }
    }
    Ok(times)
}

fn shares(plan: &Plan<'_>) -> Result<Text> {
    let cases: [(&str, &str, &[&str], f64); 3] = [
        ("W3 at saturation", "requests", &["--connections", "64"], 0.05),
        ("W4 at saturation", "handshakes", &["--connections", "16"], 0.05),
        (
            "2,000 TLS connections/s",
            "arrivals",
            &["--connections", "4000", "--rate", "2000", "--seconds", "4"],
            0.10,
        ),
    ];
    let mut table = Text::new(
        "T9: CPU of the threads that are not workers, as a share of both processes, 1 thread",
        &["work", "per second", "control", "others", "share", "spread", "at most"],
    );
    let mut names = BTreeSet::new();
    for (row, kind, more, limit) in cases {
        let (mut control, mut others, mut sum, mut rates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            let ours = Ours::start(plan.stage, plan.stage.terms(1, false))?;
            let before = by_thread(&ours.running.pids)?;
            let mut outcome = ours.load(Service::Http, kind, more)?;
            // At a fixed rate, as much as the generator can do will do: the rate that was reached is in the table.
            outcome.refusals.clear();
            check(&outcome, Handshakes::Any).context(row)?;
            let after = by_thread(&ours.running.pids)?;
            let spent = |name: &String| {
                let then = before.get(name).copied().unwrap_or_default();
                micros(after.get(name).copied().unwrap_or_default().saturating_sub(then))
            };
            let all: f64 = after.keys().map(spent).sum();
            let control_share = spent(&"control".to_owned()) / all;
            let beside = |name: &&String| !name.starts_with("worker") && name.as_str() != "control";
            let rest: f64 = after.keys().filter(beside).map(spent).sum();
            names.extend(after.keys().filter(beside).cloned());
            control.push(control_share);
            others.push(rest / all);
            sum.push(control_share + rest / all);
            rates.push(outcome.rate());
        }
        let of = |values: &[f64]| median(values).unwrap_or(f64::NAN);
        let share = of(&sum);
        let verdict = if share <= limit { "met" } else { "MISSED" };
        table.rows.push(vec![
            row.to_owned(),
            number(of(&rates)),
            tenth(of(&control)),
            tenth(of(&others)),
            tenth(share),
            spread(&sum).map_or(String::new(), percent),
            format!("{} {verdict}", percent(limit)),
        ]);
    }
    let names: Vec<String> = names.into_iter().collect();
    table.notes.push(format!("The other threads: {}.", names.join(", ")));
    table.notes.push(
        "What a worker does for its own record is not in the share, but in every cost of the other tables."
            .to_owned(),
    );
    Ok(table)
}

fn tenth(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn reading(plan: &Plan<'_>) -> Result<(Text, Option<String>)> {
    let ours = Ours::start(plan.stage, plan.stage.terms(1, true))?;
    let holder = ours.idle(OPEN)?;
    let (mut without, mut with, mut seen) = (Vec::new(), Vec::new(), Seen::default());
    let traffic = || -> Result<(Percentiles, f64)> {
        let outcome = ours.load(Service::Http, "requests", &["--connections", "64", "--latency"])?;
        check(&outcome, Handshakes::Any)?;
        Ok((outcome.latency.context("no latencies")?, outcome.cost()))
    };
    for _ in 0..plan.rounds {
        without.push(traffic()?);
        let watcher = Watcher::start(Questions::Everything, ours.generator_core());
        let result = traffic();
        seen.add(watcher.finish()?);
        with.push(result?);
    }
    leave(holder)?;
    let mut table = Text::new(
        format!(
            "T11: W3 while all of {OPEN} other records are listed and audited and `/metrics` scraped in a loop, 1 thread"
        ),
        &["", "p50 µs", "p99 µs", "µs/req", "spread of p99"],
    );
    let middle = |values: &[(Percentiles, f64)], pick: fn(&(Percentiles, f64)) -> f64| {
        median(&values.iter().map(pick).collect::<Vec<_>>()).unwrap_or(f64::NAN)
    };
    for (row, values) in [("undisturbed", &without), ("while read", &with)] {
        let p99: Vec<f64> = values.iter().map(|(latency, _)| latency.p99).collect();
        table.rows.push(vec![
            row.to_owned(),
            number(middle(values, |(latency, _)| latency.p50)),
            number(middle(values, |(latency, _)| latency.p99)),
            number(middle(values, |(_, cost)| *cost)),
            spread(&p99).map_or(String::new(), percent),
        ]);
    }
    let moved =
        middle(&with, |(latency, _)| latency.p99) / middle(&without, |(latency, _)| latency.p99) - 1.0;
    let page = seen.first_page().unwrap_or_default();
    table.notes.push(format!(
        "p99 moved by {:+.0} % (target < 5 %: {}). First page: p50 {} ms, p99 {} ms (target < 10 ms: {}). A round of everything from both processes: p50 {} ms, {} records. Readers and generator share core 1, so a part of the movement is theirs.",
        moved * 100.0,
        if moved < 0.05 { "met" } else { "MISSED" },
        number(page.p50 / 1e3),
        number(page.p99 / 1e3),
        if page.p99 < 10_000.0 { "met" } else { "MISSED" },
        number(seen.round().unwrap_or_default().p50 / 1e3),
        seen.records,
    ));
    let failure = (seen.failed > 0).then(|| {
        format!(
            "ledger, reading: {} questions failed, first: {}",
            seen.failed,
            seen.first_failure.unwrap_or_default()
        )
    });
    Ok((table, failure))
}
