//! `counters`: a process's own numbers beside what it believes of its peers.
//!
//! *Owns* the layout: a line per counter, a column per process. *Never* adds columns up: the two processes
//! count the same connections. *Invariant*: a number that the answer does not have is `-`, not 0.

use std::collections::BTreeMap;
use std::process::ExitCode;

use control::api::messages as pb;

use super::audit::alarms_that_rang;
use crate::admin::{Admin, Need, PATIENCE};
use crate::arguments::{Arguments, Output};
use crate::failure::Failure;
use crate::show::screen::Screen;
use crate::show::table::{Cell, Column, Table};
use crate::show::{json, names, text};

pub(super) async fn run(arguments: &Arguments, screen: &mut Screen<'_>) -> Result<ExitCode, Failure> {
    let admin = Admin::connect(arguments, Need::Maybe, PATIENCE).await?;
    let counters = admin.answer(admin.connections().get_counters(pb::GetCountersRequest {})).await?;
    match arguments.output {
        Output::Json => json::write(screen, "GetCountersResponse", &counters)?,
        output => show(&counters, output, screen)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(counters: &pb::GetCountersResponse, output: Output, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let Some(own) = &counters.own else { return screen.line("the process sent no counters") };
    screen.line(format_args!("{} {}\n", names::process(own.role), text::clean(&own.instance_id)))?;
    sums(own, counters, output, screen)?;
    if !own.phases.is_empty() {
        let mut phases = Table::new(vec![Column::left("PHASE"), Column::right("LIVE")]);
        own.phases
            .iter()
            .for_each(|at| phases.row(vec![Cell::new(names::phase(at.phase)), Cell::of(at.count)]));
        screen.line("")?;
        phases.write(screen)?;
    }
    settled(own, counters, screen)?;
    if let Some(arrivals) = &own.hop_arrivals {
        hop_arrivals(arrivals, screen)?;
    }
    own.alarms.as_ref().map_or(Ok(()), |alarms| alarms_that_rang(alarms, screen))
}

/// A cell of what a peer told.
fn theirs(count: fn(&pb::Tally) -> u64) -> impl Fn(&pb::PeerCounters) -> Cell {
    move |peer| peer.tally.as_ref().map_or_else(|| Cell::new("-"), |tally| Cell::of(count(tally)))
}

fn sums(
    own: &pb::OwnCounters,
    counters: &pb::GetCountersResponse,
    output: Output,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let mut columns = vec![Column::left("COUNTER"), Column::right("OWN")];
    columns.extend(counters.peers.iter().map(|_| Column::right("PEER")));
    let mut table = Table::new(columns);
    let mut row = |name: &str, own: Cell, of_peer: &dyn Fn(&pb::PeerCounters) -> Cell| {
        let mut cells = vec![Cell::new(name), own];
        cells.extend(counters.peers.iter().map(of_peer));
        table.row(cells);
    };
    let none = |_: &pb::PeerCounters| Cell::new("-");
    row("instance", Cell::new(text::tail(&own.instance_id)), &|peer| {
        Cell::new(text::tail(&peer.instance_id))
    });
    row("as of", Cell::new("now"), &|peer| Cell::new(if peer.stale { "last digest" } else { "now" }));
    row("connected_clients", Cell::of(own.connected_clients), &|peer| Cell::of(peer.connected_clients));
    row("port_proxy_connections", Cell::of(own.port_proxy_connections), &|peer| {
        Cell::of(peer.port_proxy_connections)
    });
    row("tls_terminated_connections", Cell::of(own.tls_terminated_connections), &|peer| {
        Cell::of(peer.tls_terminated_connections)
    });
    row("opened", Cell::of(own.opened), &theirs(|tally| tally.opened));
    row("settling", Cell::of(own.settling), &|peer| Cell::of(peer.settling));
    row("settled", Cell::of(own.settled), &theirs(|tally| tally.settled.iter().map(|by| by.count).sum()));
    if own.role == i32::from(pb::Role::Front) {
        row("admitted", Cell::of(own.admitted), &none);
        row("client_addresses", Cell::of(own.client_addresses), &none);
    }
    row("requests", Cell::of(own.requests), &none);
    let bytes = own.bytes.unwrap_or_default();
    for (name, count) in [
        ("bytes from clients", bytes.client_in),
        ("bytes to clients", bytes.client_out),
        ("bytes from the hop", bytes.hop_in),
        ("bytes to the hop", bytes.hop_out),
        ("bytes from targets", bytes.target_in),
        ("bytes to targets", bytes.target_out),
    ] {
        let shown = if output == Output::Wide { count.to_string() } else { text::bytes(count) };
        row(name, Cell::new(shown), &none);
    }
    if output == Output::Wide {
        let of = own.tally.clone().unwrap_or_default();
        row("settled from both", Cell::of(of.settled_from_both), &theirs(|tally| tally.settled_from_both));
        row("settled alone", Cell::of(of.settled_alone), &theirs(|tally| tally.settled_alone));
        row("settled, never bridged", Cell::of(of.settled_only), &theirs(|tally| tally.settled_only));
        row("ever bridged", Cell::of(of.bridged), &theirs(|tally| tally.bridged));
        row("late evidence", Cell::of(of.late_evidence), &theirs(|tally| tally.late_evidence));
    }
    table.write(screen)?;
    match counters.departed.as_ref().filter(|departed| departed.instances > 0) {
        Some(departed) => {
            let opened = departed.tally.as_ref().map_or(0, |tally| tally.opened);
            screen.line(format_args!(
                "\npeers gone for good: {}, which had opened {opened} halves",
                departed.instances
            ))
        }
        None => Ok(()),
    }
}

/// Settled halves by reason and initiator, the most frequent first.
fn settled(
    own: &pb::OwnCounters,
    counters: &pb::GetCountersResponse,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let tallies = || {
        let peers = counters.peers.iter().map(|peer| peer.tally.as_ref());
        std::iter::once(own.tally.as_ref()).chain(peers)
    };
    let mut counts: BTreeMap<(i32, i32), Vec<u64>> = BTreeMap::new();
    for (column, tally) in tallies().enumerate() {
        for settled in tally.iter().flat_map(|tally| &tally.settled) {
            let row = counts
                .entry((settled.reason, settled.initiator))
                .or_insert_with(|| vec![0; tallies().count()]);
            row[column] += settled.count;
        }
    }
    if counts.is_empty() {
        return Ok(());
    }
    let mut columns = vec![Column::left("REASON"), Column::left("INITIATOR"), Column::right("OWN")];
    columns.extend(counters.peers.iter().map(|_| Column::right("PEER")));
    let mut table = Table::new(columns);
    let mut rows: Vec<_> = counts.into_iter().collect();
    rows.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.clone()));
    for ((reason, initiator), counts) in rows {
        let mut cells = vec![
            Cell::new(names::reason(reason)).tinted(names::reason_tint(reason)),
            Cell::new(names::initiator(initiator)),
        ];
        cells.extend(counts.into_iter().map(Cell::of));
        table.row(cells);
    }
    screen.line("")?;
    table.write(screen)
}

fn hop_arrivals(arrivals: &pb::HopArrivals, screen: &mut Screen<'_>) -> Result<(), Failure> {
    if arrivals.arrived == 0 {
        return Ok(());
    }
    let mut table = Table::new(vec![Column::left("HOP SOCKETS"), Column::right("COUNT")]);
    for (name, count) in
        [("arrived", arrivals.arrived), ("pending", arrivals.pending), ("verified", arrivals.verified)]
    {
        table.row(vec![Cell::new(name), Cell::of(count)]);
    }
    for refused in &arrivals.refused {
        let name = format!("refused: {}", names::reason(refused.reason));
        table.row(vec![Cell::new(name).tinted(names::reason_tint(refused.reason)), Cell::of(refused.count)]);
    }
    screen.line("")?;
    table.write(screen)
}

#[cfg(test)]
mod tests;
