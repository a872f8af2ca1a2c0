//! Owns what a table of results says: costs with verdicts, and rates.
//!
//! Never prints a figure where something failed. Invariant: every mark is explained below the table.

pub(crate) mod page;
pub(crate) mod surroundings;

use std::fmt::Write as _;

use crate::results::{Cell, Row, Table};
use crate::stats::median;
use crate::subject::Subject;
use crate::table::{Text, number, percent};
use crate::targets::Target;

/// Above this share of a core, generator and backend are what limited the rate.
const FULL: f64 = 0.97;
/// Above this share of the machine, others disturb what is measured. Interrupts, which belong to nobody, are in it.
const NOISY: f64 = 0.1;

/// The costs and their verdicts.
pub(crate) fn costs(table: &Table) -> Text {
    let subjects = present(table);
    let mut head = vec!["work", "unit"];
    head.extend(subjects.iter().map(|subject| subject.title()));
    head.extend(["ratio", "spread", "must", "verdict"]);
    let plural = if table.threads == 1 { "" } else { "s" };
    let title = format!("Cost, {} thread{plural} in each process: medians", table.threads);
    let mut text = Text::new(title, &head);
    for row in &table.rows {
        let mut cells = vec![row.name.clone(), row.unit.text().to_owned()];
        cells.extend(subjects.iter().map(|subject| figure(row.cells.get(subject))));
        let target = Target::of(&row.name).filter(|_| table.judged);
        let ratio = target.and_then(|target| target.ratio(|subject| row.figure(subject)));
        cells.push(ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")));
        cells.push(spreads(row, target));
        cells.push(target.map_or(String::new(), |t| format!("{} {}", t.id, t.must.text(row.unit.text()))));
        cells.push(target.map_or(String::new(), |t| t.judge(|subject| row.figure(subject)).to_string()));
        text.rows.push(cells);
    }
    text.notes.push("`ratio`: ours over the peer that the target names. `spread`: (max − min) / median over the rounds, ours / that peer.".to_owned());
    if table.threads == 1 {
        text.notes.push(
            "The proxies share core 0, generator and backend core 1 (`direct`: the backend on core 0)."
                .to_owned(),
        );
    }
    for failure in table.failures() {
        text.notes.push(format!("FAILED {failure}"));
    }
    text
}

/// The rates, and the busy time of the whole machine.
pub(crate) fn rates(table: &Table) -> Text {
    let subjects = present(table);
    let mut head = vec!["work"];
    head.extend(subjects.iter().map(|subject| subject.title()));
    let compares = subjects.contains(&Subject::Direct) && subjects.contains(&Subject::Ours);
    if compares {
        head.push("ours / direct");
    }
    let mut text = Text::new("Units per second, and busy µs of the whole machine per unit", &head);
    let mut any_full = false;
    for row in &table.rows {
        let mut cells = vec![row.name.clone()];
        let mut any = false;
        for subject in &subjects {
            let cell = row.cells.get(subject);
            let rates = cell.filter(|cell| cell.failure().is_none()).and_then(|cell| {
                Some((cell.rate(|r| r.per_second)?, cell.rate(|r| r.machine)?, cell.rate(|r| r.around)?))
            });
            any |= rates.is_some();
            cells.push(rates.map_or(String::new(), |(rate, machine, around)| {
                let mark = if around > FULL { "≥ " } else { "" };
                any_full |= around > FULL;
                format!("{mark}{} ({})", number(rate), number(machine))
            }));
        }
        if compares {
            let rate = |subject| row.cells.get(&subject).and_then(|cell| cell.rate(|r| r.per_second));
            let share = rate(Subject::Ours).zip(rate(Subject::Direct)).map(|(ours, direct)| ours / direct);
            cells.push(share.map_or(String::new(), percent));
        }
        if any {
            text.rows.push(cells);
        }
    }
    if any_full {
        text.notes.push(format!(
            "≥: generator and backend used more than {} of a core, so the rate is theirs and the proxy could do more; the cost per unit is the proxy's own all the same.",
            percent(FULL)
        ));
    }
    text
}

fn present(table: &Table) -> Vec<Subject> {
    Subject::ALL
        .into_iter()
        .filter(|subject| table.rows.iter().any(|row| row.cells.contains_key(subject)))
        .collect()
}

fn figure(cell: Option<&Cell>) -> String {
    match cell {
        None => String::new(),
        Some(cell) => match (cell.failure(), cell.figure()) {
            (Some(_), _) => "FAILED".to_owned(),
            (None, Some(figure)) => number(figure),
            (None, None) => "not measured".to_owned(),
        },
    }
}

fn spreads(row: &Row, target: Option<Target>) -> String {
    let of = |subject| row.cells.get(&subject).and_then(Cell::spread).map(percent);
    let peer = target.and_then(|target| match target.must {
        crate::targets::Bound::Times(_, peer) => Some(peer),
        crate::targets::Bound::Fixed(_) => None,
    });
    match (of(Subject::Ours), peer.and_then(of)) {
        (Some(ours), Some(peer)) => format!("{ours} / {peer}"),
        (Some(ours), None) => ours,
        _ => String::new(),
    }
}

/// How quiet the machine was, in words.
pub(crate) fn quietness(table: &Table, rounds: usize) -> Option<String> {
    let cells = || table.rows.iter().flat_map(|row| row.cells.values());
    let others: Vec<f64> = cells().filter_map(|cell| cell.rate(|rate| rate.others)).collect();
    let most = others.iter().copied().fold(0.0, f64::max);
    let middle = median(&others)?;
    let mut words = format!(
        "Everything else on this machine took {} of it (median over the cells; {} at most)",
        percent(middle),
        percent(most)
    );
    if let Some(spread) = median(&cells().filter_map(Cell::spread).collect::<Vec<_>>()).filter(|_| rounds > 1)
    {
        let _ = write!(words, "; the median of all spreads is {}", percent(spread));
    }
    words.push('.');
    if middle > NOISY {
        words.push_str(" THE MACHINE WAS BUSY WITH OTHER WORK: do not trust these figures.");
    }
    Some(words)
}
