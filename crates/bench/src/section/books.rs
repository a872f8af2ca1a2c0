//! What the books and the control channel cost a new connection, by leaving them out.
//!
//! Never compares runs of different minutes: the variants take turns. Passthrough, because smartproxy carries it by
//! itself: with networkproxy there is somebody to tell of it, without there is not, and a build without books has nothing
//! to tell.

use anyhow::{Context as _, Result};

use super::{Findings, Ours, Plan};
use crate::layout::Service;
use crate::stage::check;
use crate::stats::{median, spread};
use crate::subject::Terms;
use crate::table::{Text, number, percent};
use crate::workload::Handshakes;

pub(super) fn run(plan: &Plan<'_>) -> Findings {
    let mut findings = Findings::default();
    match costs(plan) {
        Ok(table) => findings.tables.push(table),
        Err(error) => findings.failures.push(format!("books: {error:#}")),
    }
    findings
}

fn costs(plan: &Plan<'_>) -> Result<Text> {
    let terms = plan.stage.terms(1, false);
    let alone = Terms { alone: true, ..terms.clone() };
    let mut variants = vec![("books, told to networkproxy", terms), ("books, nobody to tell", alone.clone())];
    if let Some(stubbed) = plan.stubbed {
        variants.push(("no books", Terms { binaries: stubbed.to_owned(), ..alone }));
    }
    let mut costs = vec![Vec::new(); variants.len()];
    for _ in 0..plan.rounds {
        for ((name, terms), costs) in variants.iter().zip(&mut costs) {
            let ours = Ours::start(plan.stage, terms.clone()).with_context(|| (*name).to_owned())?;
            let outcome = ours.load(Service::One, "connections", &["--connections", "32"])?;
            check(&outcome, Handshakes::Any).with_context(|| (*name).to_owned())?;
            costs.push(outcome.cost());
        }
    }
    let mut table = Text::new(
        "T9: what a new passthrough connection costs with and without books, 1 thread",
        &["", "µs/conn", "spread", "more than the row below"],
    );
    let middles: Vec<f64> = costs.iter().map(|costs| median(costs).unwrap_or(f64::NAN)).collect();
    for (at, (name, _)) in variants.iter().enumerate() {
        let below = middles.get(at + 1).map(|below| format!("{:+.1} %", (middles[at] / below - 1.0) * 100.0));
        table.rows.push(vec![
            (*name).to_owned(),
            number(middles[at]),
            spread(&costs[at]).map_or(String::new(), percent),
            below.unwrap_or_default(),
        ]);
    }
    if plan.stubbed.is_none() {
        table.notes.push("There is no build without books here (--stubbed).".to_owned());
    }
    Ok(table)
}
