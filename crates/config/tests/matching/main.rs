//! Both steps of matching: which entry takes a connection, and which of its routes takes a request.
//!
//! *Owns* the promises of "Matching" in `docs/configuration.md`, each on the smallest file that shows it.

mod entries;
mod requests;

use std::net::IpAddr;

use config::{
    Class, EntryClass, InnerAction, InnerTable, NoEntry, NoRoute, Protocol, Question, Request, RouteTable,
    SmartproxyConfig, Surroundings, Transport, check_smartproxy,
};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

#[track_caller]
fn config(routes: &str) -> SmartproxyConfig {
    let report = check_smartproxy("f", &format!("version: 1\nroutes:\n{routes}"), &Surroundings::ideal());
    let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
    report.config.unwrap_or_else(|| panic!("{errors:#?}"))
}

#[track_caller]
fn table(routes: &str) -> RouteTable {
    RouteTable::build(&config(routes)).expect("no conflicts")
}

/// A route that passes TLS through on port 443.
fn passthrough(name: &str, matching: &str) -> String {
    format!(
        "  - {{ name: {name}, match: {{ {matching} }}, tls: passthrough, forward: {{ targets: ['10.0.0.1:443'] }} }}\n"
    )
}

/// A route that networkproxy answers.
fn answered(name: &str, tls: &str, matching: &str) -> String {
    format!("  - {{ name: {name}, match: {{ {matching} }}, {tls} respond: {{ body: {name} }} }}\n")
}

fn terminated(name: &str, matching: &str) -> String {
    answered(name, "tls: terminate,", matching)
}

fn clear(name: &str, matching: &str) -> String {
    answered(name, "", matching)
}

fn tls(port: u16, server_name: Option<&str>) -> Question<'_> {
    Question { port, class: Class::Tls, server_name, alpn: &[], client_ip: CLIENT }
}

fn clear_text(port: u16) -> Question<'static> {
    Question { port, class: Class::Clear, server_name: None, alpn: &[], client_ip: CLIENT }
}

/// The name of the entry that takes a connection, or why none does.
fn taken(table: &RouteTable, question: &Question<'_>) -> Result<String, NoEntry> {
    table.decide(question).entry.map(|entry| entry.name.to_string())
}

fn inner_route(inner: &InnerTable, entry: &str, sni: Option<&str>, host: &str) -> Result<String, NoRoute> {
    let request = Request { server_name: sni, authority: host, path: "/" };
    inner.entry(entry).expect("the entry").route_for(&request).map(|route| route.name.to_string())
}
