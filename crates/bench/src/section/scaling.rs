//! T10: what work costs while thousands of other connections are open. T12: two threads against one.
//!
//! Never calls a shared machine a machine with enough cores: with two, generator and proxies share them, so the gain that
//! the cost per unit implies is shown beside the one that was seen.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::{Findings, Ours, Plan, leave};
use crate::layout::Service;
use crate::outcome::Outcome;
use crate::stage::check;
use crate::stats::{median, spread};
use crate::table::{Text, number, percent};
use crate::workload::Handshakes;

const OPEN: [usize; 3] = [1000, 4000, 8000];
/// The work: row, service, kind, connections.
const WORK: [(&str, Service, &str, &str); 3] = [
    ("W1 new passthrough connection, µs", Service::One, "connections", "32"),
    ("W3 small GET, µs", Service::Http, "requests", "64"),
    ("W4 full handshake + GET, µs", Service::Http, "handshakes", "16"),
];

pub(super) fn run(plan: &Plan<'_>) -> Findings {
    let mut findings = Findings::default();
    match open_connections(plan) {
        Ok(table) => findings.tables.push(table),
        Err(error) => findings.failures.push(format!("scaling, open connections: {error:#}")),
    }
    match threads(plan) {
        Ok(table) => findings.tables.push(table),
        Err(error) => findings.failures.push(format!("scaling, threads: {error:#}")),
    }
    findings
}

fn each(ours: &Ours<'_>) -> Result<Vec<Outcome>> {
    let measure = |(row, service, kind, connections)| {
        let outcome = ours.load(service, kind, &["--connections", connections]).context(row)?;
        check(&outcome, Handshakes::Any).context(row)?;
        Ok(outcome)
    };
    WORK.into_iter().map(measure).collect()
}

fn open_connections(plan: &Plan<'_>) -> Result<Text> {
    let mut costs: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for _ in 0..plan.rounds {
        for open in OPEN {
            let ours = Ours::start(plan.stage, plan.stage.terms(1, false))?;
            let holder = ours.idle(open).with_context(|| format!("{open} open"))?;
            for (work, outcome) in each(&ours).with_context(|| format!("{open} open"))?.iter().enumerate() {
                costs.entry((work, open)).or_default().push(outcome.cost());
            }
            leave(holder)?;
        }
    }
    let mut table = Text::new(
        "T10: cost while other bridged TLS connections are open and idle, 1 thread",
        &["work", "1,000", "4,000", "8,000", "8,000 / 1,000", "spread", "≤ 1.10"],
    );
    for (work, (row, ..)) in WORK.iter().enumerate() {
        let at = |open| costs.get(&(work, open)).and_then(|values| median(values)).unwrap_or(f64::NAN);
        let noise = OPEN.iter().filter_map(|open| spread(costs.get(&(work, *open))?)).fold(0.0, f64::max);
        let growth = at(8000) / at(1000);
        table.rows.push(vec![
            (*row).to_owned(),
            number(at(1000)),
            number(at(4000)),
            number(at(8000)),
            format!("{growth:.2}"),
            percent(noise),
            if growth <= 1.1 {
                "met".to_owned()
            } else {
                format!("MISSED by {:.0} %", (growth / 1.1 - 1.0) * 100.0)
            },
        ]);
    }
    Ok(table)
}

fn threads(plan: &Plan<'_>) -> Result<Text> {
    let mut seen: BTreeMap<(usize, usize), (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for _ in 0..plan.rounds {
        for threads in [1, 2] {
            let ours = Ours::start(plan.stage, plan.stage.terms(threads, false))?;
            for (work, outcome) in each(&ours)?.iter().enumerate() {
                let (costs, rates) = seen.entry((work, threads)).or_default();
                costs.push(outcome.cost());
                rates.push(outcome.rate());
            }
        }
    }
    let mut table = Text::new(
        "T12: two threads in each process against one",
        &["work", "cost 1", "cost 2", "rate 1", "rate 2", "rate 2 / 1", "implied by cost", "≥ 1.8"],
    );
    for (work, (row, ..)) in WORK.iter().enumerate() {
        let of = |threads| {
            let (costs, rates) = seen.get(&(work, threads))?;
            Some((median(costs)?, median(rates)?))
        };
        let (Some((cost_1, rate_1)), Some((cost_2, rate_2))) = (of(1), of(2)) else { continue };
        let implied = 2.0 * cost_1 / cost_2;
        table.rows.push(vec![
            (*row).to_owned(),
            number(cost_1),
            number(cost_2),
            number(rate_1),
            number(rate_2),
            format!("{:.2}", rate_2 / rate_1),
            format!("{implied:.2}"),
            if implied >= 1.8 {
                "implied".to_owned()
            } else {
                format!("MISSED by {:.0} %", (1.0 - implied / 1.8) * 100.0)
            },
        ]);
    }
    table.notes.push("This machine has two cores: with two threads the generator and the backend compete with the proxies for both, so the rate cannot double. `implied by cost` is 2 × cost 1 / cost 2: the gain where every thread has a core of its own.".to_owned());
    Ok(table)
}
