//! Lists, against a fake process and fixed records.

use std::time::Duration;

use super::*;
use crate::fake::{Answers, Fake, at, closed, connection, is, millis, shown};

/// So many connections, of two entries in turn.
fn many(count: usize) -> Answers {
    let one = |n: usize| pb::Connection {
        id: format!("01948a1e-7c00-7abc-8def-{n:012}"),
        entry: Some(if n.is_multiple_of(2) { "even" } else { "odd" }.to_owned()),
        ..connection()
    };
    Answers { connections: (0..count).map(one).collect(), ..Answers::default() }
}

fn ids(text: &str) -> Vec<&str> {
    text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect()
}

fn table(connections: &[pb::Connection], output: Output) -> String {
    shown(|screen| {
        let mut page = Page::new(output);
        page.write(connections, screen)?;
        page.end(connections.len() as u64, screen)
    })
}

#[test]
fn a_live_connection_shows_what_will_end_it_and_a_closed_one_what_did() {
    let provisional = pb::Connection { provisional: true, termination: None, ..closed() };
    let expected = "\
ID               AGE  PHASE        CLIENT           NAME             ROUTE    BY                IN     OUT  END
0123456789ab  12m04s  http_active  192.0.2.7:51234  app.example.com  app-api  networkproxy  1.2KiB  3.3MiB  response due
0123456789ab  12m04s  closed       192.0.2.7:51234  app.example.com  app-api  networkproxy  1.2KiB  3.3MiB  client_reset
0123456789ab  12m04s  settling     192.0.2.7:51234  app.example.com  app-api  networkproxy  1.2KiB  3.3MiB  cause not settled yet
";
    assert_eq!(table(&[connection(), closed(), provisional], Output::Table), expected);
}

#[test]
fn eighty_columns_are_enough_for_what_matters_most() {
    let mut out = Vec::new();
    let looks = crate::show::screen::Looks { width: Some(80), ..crate::show::screen::Looks::PLAIN };
    let mut page = Page::new(Output::Table);
    page.write(&[connection(), closed()], &mut Screen::new(&mut out, looks)).unwrap();
    let expected = "\
ID               AGE  PHASE     CLIENT          NAME        ROUTE   END
0123456789ab  12m04s  http_ac…  192.0.2.7:512…  app.examp…  app-a…  response due
0123456789ab  12m04s  closed    192.0.2.7:512…  app.examp…  app-a…  client_reset
";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn wide_shows_every_column() {
    let expected = "\
ID                                    ACCEPTED                  ENDED                        AGE  PHASE        CLIENT           LISTENER     NAME             ENTRY  ROUTE    BY            PROTOCOL  TARGET                 IN     OUT  REQUESTS  IDLE  END
01948a1e-7c00-7abc-8def-0123456789ab  2025-01-31T12:00:00.000Z  -                         12m04s  http_active  192.0.2.7:51234  0.0.0.0:443  app.example.com  app    app-api  networkproxy  h2        api.internal:8080  1.2KiB  3.3MiB         5  2.5s  response due
01948a1e-7c00-7abc-8def-0123456789ab  2025-01-31T12:00:00.000Z  2025-01-31T12:12:04.000Z  12m04s  closed       192.0.2.7:51234  0.0.0.0:443  app.example.com  app    app-api  networkproxy  -         -                  1.2KiB  3.3MiB         0     -  client_reset by client
";
    assert_eq!(table(&[connection(), closed()], Output::Wide), expected);
}

/// A client chooses its server name; what it chooses must not reach the terminal as it is.
#[test]
fn what_a_client_sent_is_not_obeyed_by_the_terminal() {
    let hostile = pb::Connection { server_name: Some("\u{1b}[2J".into()), ..connection() };
    let text = table(&[hostile], Output::Table);
    assert!(!text.contains('\u{1b}') && text.contains("\\u{1b}[2J"), "{text}");
}

#[test]
fn the_soonest_deadline_of_either_half_is_shown() {
    let mut connection = connection();
    connection.inner.as_mut().unwrap().deadlines.pop();
    assert_eq!(end_cell(&connection, Output::Table), Cell::new("stream_idle in 4m57s"));
    connection.inner.as_mut().unwrap().deadlines.clear();
    assert_eq!(end_cell(&connection, Output::Table), Cell::new("backstop in 1h06m"));
    connection.front.as_mut().unwrap().deadlines[0].time_left = None;
    assert_eq!(end_cell(&connection, Output::Table), Cell::new("-"));
}

#[test]
fn every_flag_becomes_its_filter() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    let list = List {
        phases: vec!["held".into(), "closed".into()],
        route: Some("r".into()),
        client: Some("10.0.0.0/8".parse().unwrap()),
        server_name: Some("s".into()),
        handled_by: Some(HandledBy::Smartproxy),
        reasons: vec!["panicked".into()],
        older_than: Some(Duration::from_secs(5)),
        closed_since: Some(Since::Ago(Duration::from_secs(100))),
        all: true,
        oldest_first: true,
        page_size: 7,
        ..List::default()
    };
    let expected = pb::ListConnectionsRequest {
        filter: Some(pb::ConnectionFilter {
            phases: vec![pb::Phase::Held.into(), pb::Phase::Closed.into()],
            route: "r".into(),
            client_cidr: "10.0.0.0/8".into(),
            server_name: "s".into(),
            handled_by: pb::HandledBy::Smartproxy.into(),
            reasons: vec![pb::Reason::Panicked.into()],
            older_than: millis(5_000),
            closed_since: Some(prost_types::Timestamp { seconds: 900, nanos: 0 }),
            include_closed: true,
        }),
        page_size: 7,
        page_token: String::new(),
        order: pb::Order::OldestFirst.into(),
    };
    assert_eq!(request(&list, now), expected);
    let nothing = request(&List { page_size: 500, ..List::default() }, now);
    assert_eq!(nothing.filter, Some(pb::ConnectionFilter::default()));
    let at = at(0).map(Since::At);
    assert_eq!(
        request(&List { closed_since: at, ..List::default() }, now).filter.unwrap().closed_since,
        crate::fake::at(0)
    );
}

#[tokio::test]
async fn all_pages_are_asked_for_and_titles_come_once() {
    let fake = Fake::start(many(7)).await;
    let text = fake.text("list --page-size 3").await;
    assert_eq!(ids(&text).len(), 7);
    assert_eq!(text.matches("CLIENT").count(), 1);
    let tokens: Vec<String> = fake.seen().lists.into_iter().map(|request| request.page_token).collect();
    assert_eq!(tokens, ["", "3", "6"]);
}

#[tokio::test]
async fn a_limit_ends_the_asking_and_says_how_many_there_are() {
    let fake = Fake::start(many(7)).await;
    let text = fake.text("list --page-size 3 --limit 4").await;
    assert!(text.ends_with("\n4 of 7 connections\n"), "{text}");
    assert_eq!(ids(&text).len(), 5, "four and the note");
    assert_eq!(fake.seen().lists.len(), 2);
    fake.text("list --limit 2").await;
    assert_eq!(fake.seen().lists.last().unwrap().page_size, 2, "no more is asked for than is wanted");
}

#[tokio::test]
async fn an_entry_is_filtered_here_over_all_pages() {
    let fake = Fake::start(many(7)).await;
    let text = fake.text("list --page-size 2 --entry odd").await;
    assert_eq!(ids(&text), ["000000000001", "000000000003", "000000000005"]);
    let text = fake.text("list --page-size 2 --entry odd --limit 1").await;
    assert!(text.ends_with("\n1 of 3 connections\n"), "{text}");
}

#[tokio::test]
async fn json_is_one_answer_of_the_api_over_all_pages() {
    let fake = Fake::start(many(5)).await;
    let text = fake.text("list --page-size 2 -o json").await;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["connections"].as_array().unwrap().len(), 5);
    assert_eq!(value["total_size"], "5");
    assert_eq!(value["connections"][4]["handled_by"], "HANDLED_BY_NETWORKPROXY");
    let whole = pb::ListConnectionsResponse {
        connections: many(5).connections,
        next_page_token: String::new(),
        total_size: 5,
    };
    assert_eq!(text.trim_end(), json::text("ListConnectionsResponse", &whole), "to the letter");
}

#[tokio::test]
async fn nothing_to_list_is_no_error() {
    let fake = Fake::start(Answers::default()).await;
    assert_eq!(fake.text("list").await, "no connections\n");
    let empty = json::text("ListConnectionsResponse", &pb::ListConnectionsResponse::default());
    assert_eq!(fake.text("list -o json").await.trim_end(), empty);
}

#[tokio::test]
async fn a_reader_that_went_away_ends_the_paging() {
    struct Gone;
    impl std::io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    use clap::Parser as _;
    let fake = Fake::start(many(7)).await;
    let address = fake.address.to_string();
    let words =
        ["proxyctl", "--token-file", "/nonexistent", "--address", &address, "list", "--page-size", "1"];
    let arguments = Arguments::try_parse_from(words).unwrap();
    let looks = crate::show::screen::Looks::PLAIN;
    let code = crate::command::run(&arguments, looks, &mut Gone).await.unwrap();
    assert!(is(code, ExitCode::SUCCESS));
    assert_eq!(fake.seen().lists.len(), 1);
}
