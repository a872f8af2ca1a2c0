//! One half of a connection, for people.
//!
//! *Owns* what is said about a half and in which order. *Never* repeats what is the same as in the record's
//! head. *Invariant*: an absent group is not mentioned; an absent value inside one is `-`.

use control::api::messages as pb;

use super::facts::Facts;
use super::screen::{Screen, Tint};
use super::table::{Cell, Column, Table};
use super::{names, text};
use crate::failure::Failure;

/// Writes everything about `half`; `title` says which one it is.
pub(crate) fn write(title: &str, half: &pb::Half, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let heading = screen.paint(Tint::Strong, title);
    let whose = if half.own { "this process's own" } else { "as the peer told" };
    let (process, instance) = (names::process(half.role), text::clean(&half.instance_id));
    screen.line(format_args!("\n{heading}  {process} {instance} ({whose})"))?;
    let mut facts = Facts::new();
    phase(half, &mut facts);
    if let Some(accept) = &half.accept {
        accepted(accept, &mut facts);
    }
    if let Some(routing) = &half.routing {
        routed(routing, &mut facts);
    }
    if let Some(hop) = &half.hop {
        facts.add("hop", hop_text(hop));
    }
    if let Some(tls) = &half.tls {
        let alpn = tls.alpn.as_deref().map(|alpn| format!(", alpn {alpn}")).unwrap_or_default();
        let resumed = if tls.resumed { ", resumed" } else { "" };
        facts.add("tls", format!("{} {}{alpn}{resumed}", tls.version, tls.cipher));
    }
    if let Some(target) = &half.target {
        facts.add("target", target_text(target));
    }
    if let Some(bytes) = &half.bytes {
        facts.add_all("bytes", &byte_lines(bytes));
    }
    if half.requests_started > 0 {
        let (started, finished) = (half.requests_started, half.requests_finished);
        facts.add("requests", format!("{started} started, {finished} finished"));
    }
    facts.add_if("idle", half.idle.as_ref().map(|idle| text::wire_span(Some(idle))));
    if let Some(settlement) = &half.settlement {
        settled(settlement, &mut facts);
    }
    if let Some(end) = &half.end {
        ended(end, &mut facts);
    }
    if half.log_dropped > 0 {
        facts.add("log", format!("{} entries from the middle were not kept", half.log_dropped));
    }
    facts.write(screen)?;
    deadlines(&half.deadlines, screen)
}

fn phase(half: &pb::Half, facts: &mut Facts) {
    let mut phase = names::phase(half.phase);
    if half.half_closed != 0 && half.end.is_none() {
        phase = format!("{phase} (the {} has closed its side)", names::leg(half.half_closed));
    }
    match &half.in_phase {
        Some(since) => facts.add("phase", format!("{phase} for {}", text::wire_span(Some(since)))),
        None => facts.add("phase", phase),
    }
}

fn accepted(accept: &pb::Accept, facts: &mut Facts) {
    facts.add("socket", format!("{} → {}", accept.remote_address, accept.local_address));
    if accept.client_address != accept.remote_address {
        let source = names::address_source(accept.address_source);
        facts.add("client", format!("{} (from {source})", accept.client_address));
    }
}

fn routed(routing: &pb::Routing, facts: &mut Facts) {
    let decided = match (routing.entry.as_deref(), routing.route.as_deref()) {
        (Some(entry), Some(route)) if entry != route => format!("{route} (entry {entry})"),
        (_, Some(route)) => route.to_owned(),
        (Some(entry), None) => format!("entry {entry}"),
        (None, None) => "-".to_owned(),
    };
    facts.add("route", format!("{decided}, configuration generation {}", routing.generation));
    facts.add_if("protocol", routing.protocol.as_deref());
    if !routing.alpn_offered.is_empty() {
        facts.add("alpn offered", routing.alpn_offered.join(", "));
    }
    facts.add_if("trace", routing.trace.as_deref());
}

fn hop_text(hop: &pb::Hop) -> String {
    let addresses = match (&hop.local_address, &hop.remote_address) {
        (None, None) => String::new(),
        (local, remote) => {
            format!("{} → {}", text::or_dash(local.as_deref()), text::or_dash(remote.as_deref()))
        }
    };
    let bridged = hop.bridged_instance_id.as_deref().map(|instance| {
        let attempt = hop.bridged_attempt.unwrap_or_default();
        format!("bridged to {instance} by attempt {attempt}, {} in all", hop.attempts)
    });
    let given_up = hop.given_up_attempt.map(|attempt| format!("given up: attempt {attempt}"));
    let lines = [Some(addresses), bridged, given_up].into_iter().flatten().filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

fn target_text(target: &pb::Target) -> String {
    let at = match target.address.as_deref() {
        None => ", not connected".to_owned(),
        Some(address) if address == target.name => String::new(),
        Some(address) => format!(" at {address}"),
    };
    let how = match (&target.connect_duration, target.reused) {
        (_, true) => ", pooled connection used again".to_owned(),
        (Some(dial), false) => format!(", connected in {}", text::wire_span(Some(dial))),
        (None, false) => String::new(),
    };
    format!("{}{at}{how}", target.name)
}

/// A line per leg that moved bytes.
fn byte_lines(bytes: &pb::ByteCounts) -> Vec<String> {
    [
        ("client", bytes.client_in, bytes.client_out),
        ("hop", bytes.hop_in, bytes.hop_out),
        ("target", bytes.target_in, bytes.target_out),
    ]
    .into_iter()
    .filter(|(_, read, written)| read + written > 0)
    .map(|(leg, read, written)| {
        format!("{leg}: {} read, {} written", text::bytes(read), text::bytes(written))
    })
    .collect()
}

fn settled(settlement: &pb::Settlement, facts: &mut Facts) {
    if let Some(cause) = &settlement.cause {
        let from = match names::settled_from(settlement.settled_from).as_str() {
            "both" => "from both halves' ends".to_owned(),
            "alone" => "alone: the other half's end was not known in time".to_owned(),
            "only" => "it was never bridged".to_owned(),
            other => other.to_owned(),
        };
        facts.add_tinted(
            "settled",
            format!("{} ({from})", names::reason(cause.reason)),
            names::reason_tint(cause.reason),
        );
    }
    facts.add_all("known later", &settlement.late_evidence);
}

fn ended(end: &pb::End, facts: &mut Facts) {
    facts.add(
        "ended",
        format!("{} after {}", text::time(end.ended_at.as_ref()), text::wire_span(end.age.as_ref())),
    );
    let seen: Vec<String> = end.observations.iter().map(observation).collect();
    facts.add_all("saw", &seen);
    if let Some(hop) = &end.hop {
        let read = if hop.read_to_eof { "read to its end" } else { "not read to its end" };
        facts.add("hop bytes", format!("{} sent, {} received, {read}", hop.sent_bytes, hop.received_bytes));
    }
    if end.undelivered_bytes > 0 {
        facts.add_tinted("undelivered", format!("{} bytes", end.undelivered_bytes), Tint::Odd);
    }
    let suspended = text::length(end.suspended.as_ref());
    if !suspended.is_zero() {
        facts.add_tinted(
            "suspended",
            format!("its process stood still for {}", text::span(suspended)),
            Tint::Odd,
        );
    }
}

fn observation(seen: &pb::Observation) -> String {
    let leg = if seen.leg == 0 { String::new() } else { format!(" on the {} leg", names::leg(seen.leg)) };
    let rule = seen.rule.as_ref().map(|rule| format!(", {}", rule_text(rule, seen.observed.as_deref())));
    let detail = seen.detail.as_deref().map(|detail| format!(": {detail}"));
    format!(
        "+{} {}{leg}{}{}",
        text::wire_span(seen.after.as_ref()),
        names::reason(seen.reason),
        rule.unwrap_or_default(),
        detail.unwrap_or_default()
    )
}

/// `half_close = 60s (default), observed 60.001s`
pub(crate) fn rule_text(rule: &pb::Rule, observed: Option<&str>) -> String {
    let observed = observed.map(|observed| format!(", observed {observed}")).unwrap_or_default();
    format!("{} = {} ({}){observed}", rule.name, rule.limit, text::or_dash(Some(&rule.source)))
}

fn deadlines(armed: &[pb::Deadline], screen: &mut Screen<'_>) -> Result<(), Failure> {
    if armed.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(vec![
        Column::left("DEADLINE"),
        Column::right("LEFT"),
        Column::right("LIMIT"),
        Column::left("FROM"),
        Column::left("STARTS ANEW"),
    ])
    .indented(2);
    for deadline in armed {
        let left = deadline.time_left.as_ref();
        let due = left.is_some_and(|left| left.seconds < 0 || left.nanos < 0);
        let left = if due { Cell::new("due").tinted(Tint::Odd) } else { Cell::new(text::wire_span(left)) };
        table.row(vec![
            Cell::new(&deadline.name),
            left,
            Cell::new(text::wire_span(deadline.limit.as_ref())),
            Cell::new(text::or_dash(Some(&deadline.source))),
            Cell::new(if deadline.restarts_on_bytes { "with every byte" } else { "never" }),
        ]);
    }
    table.write(screen)
}
