//! Memory under churn: thousands of bridged TLS connections opened and closed, five times, for each build.
//!
//! Never looks before the last record is gone: what an ended connection still holds would count as the allocator's.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Findings, Ours, Plan, leave};
use crate::accounting::resident;
use crate::admin::Admin;
use crate::table::{Text, number};

const CONNECTIONS: usize = 8000;
const ROUNDS: usize = 5;
/// After the last record is gone, for allocators that give back in the background.
const SETTLING: Duration = Duration::from_secs(2);

pub(super) fn run(plan: &Plan<'_>) -> Findings {
    let mut head = vec!["build", "process", "empty"];
    let rounds: Vec<String> = (1..=ROUNDS).map(|round| format!("round {round}: peak → after")).collect();
    head.extend(rounds.iter().map(String::as_str));
    head.push("kept of the first peak");
    let mut table = Text::new(
        format!(
            "Resident memory in MiB, {CONNECTIONS} bridged TLS connections opened and closed {ROUNDS} times"
        ),
        &head,
    );
    let mut findings = Findings::default();
    for (name, directory) in plan.builds {
        let mut terms = plan.stage.terms(1, true);
        terms.binaries.clone_from(directory);
        match churn(plan, terms) {
            Ok(processes) => {
                for (process, sizes) in ["smartproxy", "networkproxy"].iter().zip(processes) {
                    table.rows.push(row(name, process, &sizes));
                }
            }
            Err(error) => findings.failures.push(format!("memory, {name}: {error:#}")),
        }
    }
    findings.tables.push(table);
    findings
}

/// Empty, then peak and after for each round; bytes.
type Sizes = (u64, Vec<(u64, u64)>);

fn churn(plan: &Plan<'_>, terms: crate::subject::Terms) -> Result<[Sizes; 2]> {
    let ours = Ours::start(plan.stage, terms)?;
    let admin = Admin::connect()?;
    let pids = [ours.running.pids[0], *ours.running.pids.last().context("two processes")?];
    let look = || -> Result<[u64; 2]> { Ok([resident(pids[0])?, resident(pids[1])?]) };
    let empty = look()?;
    let mut sizes = empty.map(|empty| (empty, Vec::new()));
    for _ in 0..ROUNDS {
        let holder = ours.idle(CONNECTIONS)?;
        let peak = look()?;
        leave(holder)?;
        admin.emptied(Duration::from_secs(60))?;
        std::thread::sleep(SETTLING);
        for ((_, rounds), pair) in sizes.iter_mut().zip(peak.into_iter().zip(look()?)) {
            rounds.push(pair);
        }
    }
    Ok(sizes)
}

fn row(name: &str, process: &str, (empty, rounds): &Sizes) -> Vec<String> {
    let mib = |bytes: u64| number(bytes as f64 / 1024.0 / 1024.0);
    let mut cells = vec![name.to_owned(), process.to_owned(), mib(*empty)];
    cells.extend(rounds.iter().map(|(peak, after)| format!("{} → {}", mib(*peak), mib(*after))));
    let kept = match (rounds.first(), rounds.last()) {
        (Some((peak, _)), Some((_, after))) if peak > empty => {
            let share = after.saturating_sub(*empty) as f64 / (peak - empty) as f64;
            format!("{:.0} %", share * 100.0)
        }
        _ => String::new(),
    };
    cells.push(kept);
    cells
}
