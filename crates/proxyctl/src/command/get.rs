//! `get`: everything about one connection.
//!
//! *Owns* the order of the story: what it is, why it ended or what will end it, each half, the timeline.
//! *Never* hides that a cause is provisional. *Invariant*: a cause that this build knows comes with advice.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use control::api::messages as pb;

use crate::admin::{Admin, Need, PATIENCE};
use crate::arguments::{Arguments, Output};
use crate::failure::Failure;
use crate::show::facts::Facts;
use crate::show::screen::{Screen, Tint};
use crate::show::table::{Cell, Column, Table};
use crate::show::{half, json, names, text};

pub(super) async fn run(
    arguments: &Arguments,
    id: &str,
    screen: &mut Screen<'_>,
) -> Result<ExitCode, Failure> {
    let admin = Admin::connect(arguments, Need::Maybe, PATIENCE).await?;
    let request = pb::GetConnectionRequest { id: id.to_owned() };
    let answer = admin.answer(admin.connections().get_connection(request)).await?;
    match (arguments.output, &answer.connection) {
        (Output::Json, _) => json::write(screen, "GetConnectionResponse", &answer)?,
        (_, Some(connection)) => show(connection, screen)?,
        (_, None) => screen.line("the process sent no record")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(connection: &pb::Connection, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let id = screen.paint(Tint::Strong, &text::clean(&connection.id));
    let (phase, age) = (names::phase(connection.phase), text::wire_span(connection.age.as_ref()));
    match connection.ended_at {
        Some(_) => screen.line(format_args!("{id}  {phase} after {age}"))?,
        None => screen.line(format_args!("{id}  {phase}, {age} old"))?,
    }
    let mut facts = Facts::new();
    facts.add("client", text::or_dash(Some(&connection.client_address)));
    facts.add("listener", text::or_dash(Some(&connection.listener)));
    facts.add("accepted", text::time(connection.accepted_at.as_ref()));
    facts.add_if("ended", connection.ended_at.as_ref().map(|at| text::time(Some(at))));
    facts.add_if("server name", connection.server_name.as_deref());
    facts.add_if("entry", connection.entry.as_deref());
    facts.add_if("route", connection.route.as_deref());
    facts.add("handled by", names::handled_by(connection.handled_by));
    let (sent, received) = (connection.bytes_from_client, connection.bytes_to_client);
    facts.add(
        "bytes",
        format!("{} from the client, {} to the client", text::bytes(sent), text::bytes(received)),
    );
    facts.write(screen)?;
    cause(connection, screen)?;
    let halves = [("front half", &connection.front), ("inner half", &connection.inner)];
    for (title, half) in halves {
        half.as_ref().map_or(Ok(()), |half| half::write(title, half, screen))?;
    }
    for given_up in &connection.superseded {
        half::write(&format!("inner half given up (attempt {})", given_up.attempt), given_up, screen)?;
    }
    timeline(connection, screen)
}

fn cause(connection: &pb::Connection, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let Some(cause) = &connection.termination else {
        if connection.provisional {
            let note = "over; its cause is provisional until the other half's end is known";
            let note = screen.paint(Tint::Odd, note);
            screen.line(format_args!("\n{note}"))?;
        }
        return Ok(());
    };
    let (heading, reason) = (screen.paint(Tint::Strong, "cause"), names::reason(cause.reason));
    let reason = screen.paint(names::reason_tint(cause.reason), &reason);
    screen.line(format_args!("\n{heading}  {reason}"))?;
    let mut facts = Facts::new();
    facts.add("sentence", &cause.sentence);
    facts.add("initiator", names::initiator(cause.initiator));
    facts.add("in phase", names::phase(cause.phase));
    if cause.side != 0 {
        facts.add("seen on", format!("the {} leg", names::leg(cause.side)));
    }
    facts.add_if("rule", cause.rule.as_ref().map(|rule| half::rule_text(rule, cause.observed.as_deref())));
    facts.add_if("evidence", cause.evidence.as_deref());
    facts.add_all("chain", &cause.chain);
    facts.add_if("advice", names::reason_of(cause.reason).map(ledger::Reason::advice));
    facts.write(screen)
}

fn timeline(connection: &pb::Connection, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let Some(first) = connection.timeline.first() else { return Ok(()) };
    let start = first.at.and_then(|at| SystemTime::try_from(at).ok());
    let mut table = Table::new(vec![
        Column::left("TIMELINE (UTC)"),
        Column::right("AFTER"),
        Column::left("PROCESS"),
        Column::left("WHAT"),
    ]);
    for event in &connection.timeline {
        let at = event.at.and_then(|at| SystemTime::try_from(at).ok());
        let after = start.zip(at).map(|(start, at)| at.duration_since(start).unwrap_or(Duration::ZERO));
        let process = names::process(event.role);
        // The words name the process; the column does so already.
        let what = event
            .text
            .strip_prefix(&process)
            .map_or(event.text.as_str(), |rest| rest.trim_start_matches([':', ' ']));
        // The attempt matters only where there were several.
        let who = if connection.superseded.is_empty() || event.attempt == 0 {
            process
        } else {
            format!("{process} #{}", event.attempt)
        };
        table.row(vec![
            Cell::new(text::time(event.at.as_ref())).tinted(Tint::Faint),
            Cell::new(after.map_or_else(|| "-".to_owned(), |after| format!("+{}", text::span(after)))),
            Cell::new(who),
            Cell::new(what),
        ]);
    }
    screen.line("")?;
    table.write(screen)
}

#[cfg(test)]
mod tests;
