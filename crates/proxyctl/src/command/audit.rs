//! `audit`: do the books balance?
//!
//! *Owns* the exit code that scripts read. *Never* judges: the process says which law holds. *Invariant*: exit
//! 0 exactly if the process said that it is balanced.

use std::process::ExitCode;
use std::time::Duration;

use control::api::messages as pb;

use crate::admin::{Admin, Need, PATIENCE};
use crate::arguments::{Arguments, Output};
use crate::failure::Failure;
use crate::show::screen::{Screen, Tint};
use crate::show::table::{Cell, Column, Table};
use crate::show::{json, names, text};

pub(super) async fn run(
    arguments: &Arguments,
    wait: Option<Duration>,
    screen: &mut Screen<'_>,
) -> Result<ExitCode, Failure> {
    let admin = Admin::connect(arguments, Need::Maybe, PATIENCE).await?;
    let request = pb::AuditRequest { wait: wait.and_then(|wait| wait.try_into().ok()) };
    let within = PATIENCE + wait.unwrap_or_default();
    let audit = admin.answer_within(within, admin.connections().audit(request)).await?;
    match arguments.output {
        Output::Json => json::write(screen, "AuditResponse", &audit)?,
        output => show(&audit, output, screen)?,
    }
    Ok(if audit.balanced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(audit: &pb::AuditResponse, output: Output, screen: &mut Screen<'_>) -> Result<(), Failure> {
    // What the numbers count is wanted where they differ.
    let counted = |law: &pb::Law| output == Output::Wide || !law.holds;
    let mut columns = vec![
        Column::left("STATE"),
        Column::left("LAW").down_to(30),
        Column::right("LEFT"),
        Column::right("RIGHT"),
        Column::right("EXCUSED"),
        Column::left("PEER"),
    ];
    if audit.laws.iter().any(counted) {
        columns.push(Column::left("COUNTED").down_to(20));
    }
    let width = columns.len();
    let mut laws = Table::new(columns);
    for law in &audit.laws {
        let (mark, tint) = if law.holds { ("holds", Tint::Good) } else { ("BROKEN", Tint::Bad) };
        let sides = format!("{} {}, {} {}", law.left_name, law.left, law.right_name, law.right);
        let peer = match output {
            Output::Wide => law.peer_instance_id.as_str(),
            _ => text::tail(&law.peer_instance_id),
        };
        let mut cells = vec![
            Cell::new(mark).tinted(tint),
            Cell::new(&law.name),
            Cell::of(law.left),
            Cell::of(law.right),
            Cell::of(law.excused),
            Cell::new(text::or_dash(Some(peer))),
            Cell::new(if counted(law) { sides.as_str() } else { "" }),
        ];
        cells.truncate(width);
        laws.row(cells);
    }
    laws.write(screen)?;
    in_flight(&audit.in_flight, screen)?;
    if let Some(alarms) = &audit.alarms {
        alarms_that_rang(alarms, screen)?;
    }
    let (verdict, tint) = match (audit.balanced, audit.quiet) {
        (true, true) => ("balanced; nothing is in flight, every closed half is settled", Tint::Good),
        (true, false) => ("balanced; some connections are in flight or not settled yet", Tint::Good),
        (false, _) => ("NOT balanced", Tint::Bad),
    };
    let process = names::process(audit.role);
    let verdict = screen.paint(tint, verdict);
    screen.line(format_args!("\n{process} {}: {verdict}", text::clean(&audit.instance_id)))
}

fn in_flight(flights: &[pb::InFlight], screen: &mut Screen<'_>) -> Result<(), Failure> {
    if flights.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(vec![
        Column::left("IN FLIGHT"),
        Column::left("LIVE AT"),
        Column::right("ATTEMPT"),
        Column::left("PEER"),
        Column::right("FOR"),
        Column::left("EXCUSE"),
    ]);
    for flight in flights {
        let tint = if flight.excuse == 0 { Tint::Bad } else { Tint::Plain };
        table.row(vec![
            Cell::new(text::tail(&flight.connection_id)),
            Cell::new(names::process(flight.live)),
            Cell::of(flight.attempt),
            Cell::new(text::tail(&flight.peer_instance_id)),
            Cell::new(text::wire_span(flight.age.as_ref())),
            Cell::new(names::excuse(flight.excuse)).tinted(tint),
        ]);
    }
    screen.line("")?;
    table.write(screen)
}

/// Those alarms that are not zero.
pub(super) fn alarms_that_rang(alarms: &pb::Alarms, screen: &mut Screen<'_>) -> Result<(), Failure> {
    // What only explains (a peer that restarted) is odd; what must never happen is bad.
    let all = [
        (
            "drift_detected",
            alarms.drift_detected,
            Tint::Bad,
            "digests of a peer that differed from its mirror",
        ),
        ("drift_repaired", alarms.drift_repaired, Tint::Bad, "snapshots that repaired one"),
        ("repairs", alarms.repairs, Tint::Bad, "records that a sweep had to end: a bug"),
        (
            "unjoined",
            alarms.unjoined,
            Tint::Odd,
            "halves of peers whose own half was gone when they appeared",
        ),
        (
            "hop_contradictions",
            alarms.hop_contradictions,
            Tint::Bad,
            "pairs whose hop byte counts contradict each other",
        ),
        ("hop_gaps", alarms.hop_gaps, Tint::Odd, "directions of pairs that lost bytes on the hop"),
        ("hop_gap_bytes", alarms.hop_gap_bytes, Tint::Odd, "bytes sent and not received, over those"),
        ("unlogged", alarms.unlogged, Tint::Odd, "settled halves whose log line was folded into this count"),
        ("session_resets", alarms.session_resets, Tint::Odd, "control sessions that ended without a goodbye"),
    ];
    let mut table =
        Table::new(vec![Column::left("ALARM"), Column::right("COUNT"), Column::left("MEANING").down_to(20)]);
    for (name, count, tint, meaning) in all.into_iter().filter(|(_, count, ..)| *count > 0) {
        table.row(vec![Cell::new(name).tinted(tint), Cell::of(count), Cell::new(meaning)]);
    }
    if table.is_empty() {
        return Ok(());
    }
    screen.line("")?;
    table.write(screen)
}

#[cfg(test)]
mod tests;
