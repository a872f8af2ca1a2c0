//! `list`: connections, page after page.
//!
//! *Owns* the paging and the columns. *Never* holds more than a page, however many connections there are.
//! *Invariant*: what is printed is what the process sent; only `--entry`, which the process cannot filter by,
//! is applied here.

use std::process::ExitCode;
use std::time::SystemTime;

use control::api::messages as pb;
use ledger::{Phase, Reason};
use serde_json::json;

use crate::admin::{Admin, Need, PATIENCE};
use crate::arguments::{Arguments, HandledBy, List, Output, Since};
use crate::failure::Failure;
use crate::show::screen::{Screen, Tint};
use crate::show::table::{Cell, Column, Table};
use crate::show::{json, names, text};

pub(super) async fn run(
    arguments: &Arguments,
    list: &List,
    screen: &mut Screen<'_>,
) -> Result<ExitCode, Failure> {
    let admin = Admin::connect(arguments, Need::Maybe, PATIENCE).await?;
    let limit = list.limit.unwrap_or(u64::MAX);
    let mut request = request(list, SystemTime::now());
    let mut page = Page::new(arguments.output);
    // By entry, the process cannot say how many there are: they are counted here, to the last page.
    let mut matching = 0;
    loop {
        let answer = admin.answer(admin.connections().list_connections(request.clone())).await?;
        let mut found = answer.connections;
        found.retain(|connection| list.entry.is_none() || connection.entry == list.entry);
        matching = if list.entry.is_some() { matching + found.len() as u64 } else { answer.total_size };
        found.truncate(usize::try_from(limit - page.shown).unwrap_or(usize::MAX));
        page.write(&found, screen)?;
        let enough = page.shown >= limit && list.entry.is_none();
        if answer.next_page_token.is_empty() || enough || screen.is_closed() {
            break;
        }
        request.page_token = answer.next_page_token;
    }
    page.end(matching, screen)?;
    Ok(ExitCode::SUCCESS)
}

/// The first page of what `list` asks for.
fn request(list: &List, now: SystemTime) -> pb::ListConnectionsRequest {
    let phase = |name: &String| {
        let phase = Phase::ALL.into_iter().find(|phase| phase.name() == name);
        phase.map_or(0, |phase| i32::from(phase.number()))
    };
    let reason = |name: &String| Reason::from_name(name).map_or(0, |reason| i32::from(reason.number()));
    let handled_by = match list.handled_by {
        None => pb::HandledBy::Unspecified,
        Some(HandledBy::Smartproxy) => pb::HandledBy::Smartproxy,
        Some(HandledBy::Networkproxy) => pb::HandledBy::Networkproxy,
    };
    let closed_since = list.closed_since.map(|since| match since {
        Since::Ago(ago) => now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH).into(),
        Since::At(at) => at,
    });
    let filter = pb::ConnectionFilter {
        phases: list.phases.iter().map(phase).collect(),
        route: list.route.clone().unwrap_or_default(),
        client_cidr: list.client.map(|network| network.to_string()).unwrap_or_default(),
        server_name: list.server_name.clone().unwrap_or_default(),
        handled_by: handled_by.into(),
        reasons: list.reasons.iter().map(reason).collect(),
        // Longer than the wire can say is longer than anything is old.
        older_than: list.older_than.map(|age| age.try_into().unwrap_or_default()),
        closed_since,
        include_closed: list.all,
    };
    let order = if list.oldest_first { pb::Order::OldestFirst } else { pb::Order::NewestFirst };
    let page_size = list.limit.map_or(list.page_size, |limit| {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        if list.entry.is_none() { list.page_size.min(limit) } else { list.page_size }
    });
    pb::ListConnectionsRequest {
        filter: Some(filter),
        page_size,
        page_token: String::new(),
        order: order.into(),
    }
}

/// What is printed, page by page.
struct Page {
    output: Output,
    table: Table,
    shown: u64,
}

impl Page {
    fn new(output: Output) -> Self {
        Self { output, table: Table::new(columns(output)), shown: 0 }
    }

    fn write(&mut self, connections: &[pb::Connection], screen: &mut Screen<'_>) -> Result<(), Failure> {
        for connection in connections {
            match self.output {
                Output::Json => {
                    let (open, comma) =
                        if self.shown == 0 { ("{\n  \"connections\": [", "") } else { ("", ",") };
                    let value = json::text("Connection", connection).replace('\n', "\n    ");
                    screen.write(format_args!("{open}{comma}\n    {value}"))?;
                }
                output => self.table.row(cells(connection, output)),
            }
            self.shown += 1;
        }
        if self.table.is_empty() { Ok(()) } else { self.table.write(screen) }
    }

    /// `matching` is how many there are, shown or not.
    fn end(&self, matching: u64, screen: &mut Screen<'_>) -> Result<(), Failure> {
        match (self.output, self.shown) {
            (Output::Json, 0) => {
                let empty =
                    json!({ "connections": [], "next_page_token": "", "total_size": matching.to_string() });
                json::write_value(screen, &empty)
            }
            (Output::Json, _) => screen.line(format_args!(
                "\n  ],\n  \"next_page_token\": \"\",\n  \"total_size\": \"{matching}\"\n}}"
            )),
            (_, 0) => screen.line("no connections"),
            (_, shown) if shown < matching => {
                let note = screen.paint(Tint::Faint, &format!("{shown} of {matching} connections"));
                screen.line(note)
            }
            _ => Ok(()),
        }
    }
}

fn columns(output: Output) -> Vec<Column> {
    let name = Column::left("NAME").down_to(10);
    let route = Column::left("ROUTE").down_to(6);
    let client = Column::left("CLIENT").down_to(14);
    let end = Column::left("END").down_to(24);
    if output != Output::Wide {
        // In 80 columns: ID, AGE, PHASE, CLIENT, ROUTE, END.
        return vec![
            Column::left("ID"),
            Column::right("AGE"),
            Column::left("PHASE").down_to(8),
            client,
            name.omissible(4),
            route,
            Column::left("BY").down_to(5).omissible(1),
            Column::right("IN").omissible(2),
            Column::right("OUT").omissible(3),
            end,
        ];
    }
    vec![
        Column::left("ID"),
        Column::left("ACCEPTED"),
        Column::left("ENDED"),
        Column::right("AGE"),
        Column::left("PHASE"),
        client,
        Column::left("LISTENER").down_to(12),
        name,
        Column::left("ENTRY").down_to(8),
        route,
        Column::left("BY").down_to(5),
        Column::left("PROTOCOL"),
        Column::left("TARGET").down_to(12),
        Column::right("IN"),
        Column::right("OUT"),
        Column::right("REQUESTS"),
        Column::right("IDLE"),
        end,
    ]
}

fn cells(connection: &pb::Connection, output: Output) -> Vec<Cell> {
    let phase = Cell::new(if connection.provisional {
        "settling".to_owned()
    } else {
        names::phase(connection.phase)
    });
    let age = Cell::new(text::wire_span(connection.age.as_ref()));
    let client = Cell::new(text::or_dash(Some(&connection.client_address)));
    let name = Cell::new(text::or_dash(connection.server_name.as_deref()));
    let decided = connection.route.as_deref().or(connection.entry.as_deref());
    let by = Cell::new(names::handled_by(connection.handled_by));
    let bytes_in = Cell::new(text::bytes(connection.bytes_from_client));
    let bytes_out = Cell::new(text::bytes(connection.bytes_to_client));
    let end = end_cell(connection, output);
    if output != Output::Wide {
        let id = Cell::new(text::tail(&connection.id));
        let route = Cell::new(text::or_dash(decided));
        return vec![id, age, phase, client, name, route, by, bytes_in, bytes_out, end];
    }
    let working = connection.inner.as_ref().or(connection.front.as_ref());
    let protocol =
        working.and_then(|half| half.routing.as_ref()).and_then(|routing| routing.protocol.as_deref());
    let target = working.and_then(|half| half.target.as_ref()).map(|target| target.name.as_str());
    let requests = connection.inner.as_ref().map_or(0, |inner| inner.requests_started);
    let idle =
        halves(connection).filter_map(|half| half.idle.as_ref()).min_by_key(|idle| text::length(Some(idle)));
    vec![
        Cell::new(&connection.id),
        Cell::new(text::time(connection.accepted_at.as_ref())),
        Cell::new(text::time(connection.ended_at.as_ref())),
        age,
        phase,
        client,
        Cell::new(text::or_dash(Some(&connection.listener))),
        name,
        Cell::new(text::or_dash(connection.entry.as_deref())),
        Cell::new(text::or_dash(connection.route.as_deref())),
        by,
        Cell::new(text::or_dash(protocol)),
        Cell::new(text::or_dash(target)),
        bytes_in,
        bytes_out,
        Cell::of(requests),
        Cell::new(text::wire_span(idle)),
        end,
    ]
}

/// Why it ended; while it is live, what will end it if nothing else does.
fn end_cell(connection: &pb::Connection, output: Output) -> Cell {
    if let Some(cause) = &connection.termination {
        let (reason, by) = (names::reason(cause.reason), names::initiator(cause.initiator));
        let text = if output == Output::Wide { format!("{reason} by {by}") } else { reason };
        return Cell::new(text).tinted(names::reason_tint(cause.reason));
    }
    if connection.provisional {
        return Cell::new("cause not settled yet").tinted(Tint::Faint);
    }
    let left = |deadline: &&pb::Deadline| deadline.time_left.map(|left| (left.seconds, left.nanos));
    let armed =
        halves(connection).flat_map(|half| &half.deadlines).filter(|deadline| left(deadline).is_some());
    match armed.min_by_key(left) {
        Some(deadline) => {
            let left = text::length(deadline.time_left.as_ref());
            if left.is_zero() {
                return Cell::new(format!("{} due", deadline.name)).tinted(Tint::Odd);
            }
            Cell::new(format!("{} in {}", deadline.name, text::span(left)))
        }
        None => Cell::new("-"),
    }
}

fn halves(connection: &pb::Connection) -> impl Iterator<Item = &pb::Half> {
    connection.front.iter().chain(&connection.inner)
}

#[cfg(test)]
mod tests;
