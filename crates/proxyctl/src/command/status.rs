//! `status`: what a process is and how it stands with its peers.
//!
//! *Owns* the layout. *Never* hides a warning: they come first. *Invariant*: a peer that takes no new
//! connections comes with the reason why.

use std::process::ExitCode;

use control::api::messages as pb;

use crate::admin::{Admin, Need, PATIENCE};
use crate::arguments::{Arguments, Output};
use crate::failure::Failure;
use crate::show::facts::Facts;
use crate::show::screen::{Screen, Tint};
use crate::show::table::{Cell, Column, Table};
use crate::show::{json, names, text};

pub(super) async fn run(arguments: &Arguments, screen: &mut Screen<'_>) -> Result<ExitCode, Failure> {
    let admin = Admin::connect(arguments, Need::Maybe, PATIENCE).await?;
    let status = admin.answer(admin.proxy().get_status(pb::GetStatusRequest {})).await?;
    match arguments.output {
        Output::Json => json::write(screen, "GetStatusResponse", &status)?,
        output => show(&status, output, screen)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(status: &pb::GetStatusResponse, output: Output, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let phase = names::process_phase(status.phase);
    let tint = if phase == "ready" { Tint::Good } else { Tint::Odd };
    let (process, phase) = (names::process(status.role), screen.paint(tint, &phase));
    screen.line(format_args!("{process} {}: {phase}", text::clean(&status.version)))?;
    for warning in &status.warnings {
        let mark = screen.paint(Tint::Odd, "warning");
        screen.line(format_args!("{mark}: {}", text::clean(warning)))?;
    }
    facts(status).write(screen)?;
    let mut listeners = Table::new(vec![Column::left("LISTENER"), Column::left("FOR")]);
    for listener in &status.listeners {
        listeners.row(vec![Cell::new(&listener.address), Cell::new(&listener.purpose)]);
    }
    if !listeners.is_empty() {
        screen.line("")?;
        listeners.write(screen)?;
    }
    peers(status, output, screen)
}

fn facts(status: &pb::GetStatusResponse) -> Facts {
    let mut facts = Facts::new();
    facts.add("instance", &status.instance_id);
    facts.add_if("revision", Some(&status.revision));
    facts.add(
        "started",
        format!(
            "{} ({} ago)",
            text::time(status.started_at.as_ref()),
            text::wire_span(status.uptime.as_ref())
        ),
    );
    let suspended = text::length(status.suspended.as_ref());
    if !suspended.is_zero() {
        facts.add_tinted(
            "suspended",
            format!("stood still for {} of that", text::span(suspended)),
            Tint::Odd,
        );
    }
    facts.add(
        "configured by",
        format!("{}, generation {}", status.configuration_file, status.configuration_generation),
    );
    facts.add("clients", status.connected_clients.to_string());
    facts.add("descriptors", format!("{} open of {}", status.open_fds, status.max_fds));
    facts.add("threads", format!("{} carry connections", status.worker_threads));
    facts.add("tasks", format!("{} alive", status.alive_tasks));
    if status.role == i32::from(pb::Role::Front) {
        facts.add("pipes", format!("{} kept for copying", status.pooled_pipes));
    } else {
        facts.add("targets", format!("{} idle connections kept", status.pooled_target_connections));
    }
    let uncertified = status.names_without_certificate.join(", ");
    if !uncertified.is_empty() {
        facts.add_tinted("no certificate", uncertified, Tint::Odd);
    }
    facts
}

fn peers(status: &pb::GetStatusResponse, output: Output, screen: &mut Screen<'_>) -> Result<(), Failure> {
    if status.peers.is_empty() {
        let none = screen.paint(Tint::Odd, "no peer has connected yet");
        return screen.line(format_args!("\n{none}"));
    }
    let mut columns = vec![
        Column::left("PEER"),
        Column::left("VERSION"),
        Column::left("CHANNEL").down_to(12),
        Column::left("TAKES NEW").down_to(12),
        Column::left("ADMIN"),
        Column::right("LIVE"),
        Column::right("LAG"),
    ];
    if output == Output::Wide {
        columns.extend([
            Column::right("SESSION"),
            Column::right("WRITTEN"),
            Column::right("ACKED"),
            Column::right("APPLIED"),
            Column::right("SETTLING"),
            Column::right("UNSEEN"),
            Column::right("SNAPSHOTS"),
            Column::right("ROUTES"),
            Column::left("HOP"),
            Column::right("BRIDGED"),
            Column::right("CAPACITY"),
            Column::left("LAST END").down_to(12),
        ]);
    }
    let mut table = Table::new(columns);
    for peer in &status.peers {
        let (channel, tint) = channel(peer);
        let instance = if output == Output::Wide { &peer.instance_id } else { text::tail(&peer.instance_id) };
        let mut cells = vec![
            Cell::new(instance),
            Cell::new(text::or_dash(Some(&peer.version))),
            Cell::new(channel).tinted(tint),
            takes_new(peer, status.role),
            Cell::new(text::or_dash(Some(&peer.admin_address))),
            Cell::of(peer.live),
            Cell::of(peer.lag),
        ];
        if output == Output::Wide {
            cells.extend([peer.session, peer.written, peer.acked, peer.applied, peer.settling].map(Cell::of));
            cells.extend([peer.closed_unseen, peer.snapshots, peer.route_generation].map(Cell::of));
            cells.push(Cell::new(text::or_dash(Some(&peer.hop_address))));
            cells.extend([peer.bridged, peer.capacity].map(Cell::of));
            cells.push(Cell::new(text::or_dash(Some(&peer.last_end))));
        }
        table.row(cells);
    }
    screen.line("")?;
    table.write(screen)
}

fn channel(peer: &pb::Peer) -> (String, Tint) {
    match (peer.connected, peer.heartbeats_fresh) {
        (true, true) => ("up".to_owned(), Tint::Good),
        (true, false) => (
            format!("stale, last heartbeat {} ago", text::wire_span(peer.since_heartbeat.as_ref())),
            Tint::Bad,
        ),
        (false, _) => (format!("down for {}", text::wire_span(peer.down_for.as_ref())), Tint::Bad),
    }
}

/// Whether a networkproxy takes new connections; a smartproxy is not asked.
fn takes_new(peer: &pb::Peer, asked: i32) -> Cell {
    let draining = if peer.draining { "draining" } else { "-" };
    match (asked == i32::from(pb::Role::Front), peer.ready) {
        (false, _) => Cell::new(draining),
        (true, true) => Cell::new("yes").tinted(Tint::Good),
        (true, false) => {
            Cell::new(format!("no: {}", text::or_dash(Some(&peer.not_ready_because)))).tinted(Tint::Odd)
        }
    }
}

#[cfg(test)]
mod tests;
