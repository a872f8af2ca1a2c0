//! Owns a run: rounds in turn over all subjects, tables, the page, the exit code.
//!
//! Never stops at a failure: it is printed in place of a figure, the rest goes on, and the exit code tells.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::arguments::{Peers, RunArguments};
use crate::output::{line, progress};
use crate::report::{self, page, surroundings};
use crate::results::{Cell, Row, Table};
use crate::section::{self, Plan};
use crate::stage::{Stage, minutes};
use crate::subject::Subject;
use crate::table::Text;
use crate::workload::{self, Extent, Workload};

/// Measures what is asked for; `false` if something failed.
pub(crate) fn run(arguments: &RunArguments) -> Result<bool> {
    let (extent, rounds, seconds) =
        if arguments.quick { (Extent::Quick, 1, 0.7) } else { (Extent::Full, 3, 2.0) };
    let rounds = arguments.rounds.unwrap_or(rounds);
    let seconds = arguments.seconds.unwrap_or(seconds);
    let binaries = arguments.binaries();
    let (_, first) = binaries.first().context("no --bin-dir")?;
    for (_, directory) in &binaries {
        ensure!(
            directory.join("smartproxy").is_file(),
            "{}: build smartproxy and networkproxy first",
            directory.display()
        );
    }
    let profile = profile(first);
    line(format!("smartproxy benchmark, profile {profile}, {rounds} × {seconds} s"));
    let load_average = surroundings::load_average();
    line(format!("load average before: {load_average}"));
    if profile == "dev" {
        line("THIS IS NO RELEASE BUILD: its figures mean nothing, only that everything works.");
    }
    let stage = Stage::set(seconds, first.clone(), arguments.log.clone())?;
    let subjects =
        subjects(arguments.peers.unwrap_or(if arguments.quick { Peers::Haproxy } else { Peers::All }));
    let workloads: Vec<Workload> =
        workload::all(extent).into_iter().filter(|workload| arguments.wants(workload.id)).collect();
    let threads = if arguments.quick { vec![1] } else { arguments.threads.clone() };
    let start = Instant::now();
    let mut texts = Vec::new();
    let mut failed = Vec::new();
    for threads in threads {
        let chosen: Vec<&Workload> = workloads
            .iter()
            .filter(|workload| threads == 1 || !arguments.only.is_empty() || workload.with_more_threads())
            .collect();
        if chosen.is_empty() {
            continue;
        }
        let rows = rows(&stage, &chosen, &subjects, threads, rounds, start);
        let table = Table { threads, judged: !arguments.quick, rows };
        let mut costs = report::costs(&table);
        costs.notes.extend(report::quietness(&table, rounds));
        let rates = report::rates(&table);
        for text in [costs, rates].into_iter().filter(|text| !text.rows.is_empty()) {
            line(text.aligned());
            texts.push(text);
        }
        failed.extend(table.failures());
    }
    let plan = Plan { stage: &stage, rounds, builds: &binaries, stubbed: arguments.stubbed.as_deref() };
    let sections = section::ALL.into_iter().filter(|section| arguments.wants_section(section.name));
    for section in sections {
        let findings = section.run(&plan);
        for text in findings.tables {
            line(text.aligned());
            texts.push(text);
        }
        failed.extend(findings.failures);
        progress(format!("{} {}", minutes(start), section.name));
    }
    if let Some(file) = &arguments.write {
        let text = written(&stage, &texts, &subjects, &surroundings::facts(&profile, &load_average));
        page::write(file, &text)?;
        line(format!("written to {}", file.display()));
    }
    for failure in &failed {
        line(format!("FAILED {failure}"));
    }
    Ok(failed.is_empty())
}

/// The subjects that can run here.
fn subjects(peers: Peers) -> Vec<Subject> {
    let has = |program: &str| Command::new(program).arg("-v").output().is_ok();
    let (haproxy, nginx) = (has("haproxy"), has("nginx"));
    let wanted = |subject: &Subject| match subject {
        Subject::Direct | Subject::Ours => true,
        Subject::Haproxy | Subject::HaproxyTwice => peers != Peers::None && haproxy,
        Subject::Nginx | Subject::NginxTwice => peers == Peers::All && nginx,
    };
    if peers != Peers::None && !haproxy {
        line("HAProxy is not installed: its columns are missing.");
    }
    if peers == Peers::All && !nginx {
        line("nginx is not installed: its columns are missing.");
    }
    Subject::ALL.into_iter().filter(wanted).collect()
}

fn rows(
    stage: &Stage,
    workloads: &[&Workload],
    subjects: &[Subject],
    threads: usize,
    rounds: usize,
    start: Instant,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for workload in workloads {
        let mut cells: Vec<BTreeMap<Subject, Cell>> = vec![BTreeMap::new(); workload.rows.len()];
        for round in 1..=rounds {
            for subject in subjects.iter().copied().filter(|subject| workload.concerns(*subject)) {
                let result = stage.measure(workload, subject, threads).map_err(|error| format!("{error:#}"));
                if let Err(words) = &result {
                    progress(format!("{} {}: FAILED {words}", workload.rows[0], subject.title()));
                }
                for (index, cells) in cells.iter_mut().enumerate() {
                    let figure = result.as_ref().map(|figures| figures[index]).map_err(Clone::clone);
                    cells.entry(subject).or_default().add(figure);
                }
            }
            progress(format!("{} {threads} thread(s), {}, round {round}", minutes(start), workload.rows[0]));
        }
        let named = workload.rows.iter().cloned().zip(cells);
        rows.extend(named.map(|(name, cells)| Row { name, unit: workload.unit, cells }));
    }
    rows
}

fn written(stage: &Stage, texts: &[Text], subjects: &[Subject], facts: &[(&str, String)]) -> String {
    let facts: Vec<String> = facts.iter().map(|(name, fact)| format!("{name}: {fact}")).collect();
    let mut text = format!("Written by `make bench`. {}.\n", facts.join(" · "));
    for table in texts {
        text.push('\n');
        text.push_str(&table.markdown());
    }
    text.push('\n');
    text + &surroundings::configurations(stage, &stage.terms(1, true), subjects)
}

/// The profile by the directory's name, as cargo lays it out.
fn profile(directory: &Path) -> String {
    match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev".to_owned(),
        Some(name) => name.to_owned(),
        None => directory.display().to_string(),
    }
}
