//! The built-in status page: proof that both processes work, before there is a backend.
//!
//! *Owns* its text, as HTML for browsers and plain for everybody else. *Never* loads anything from elsewhere
//! and never shows a target, a client or a path. *Invariant*: its numbers are the ledger's.

use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderMap, HeaderValue};
use ledger::ConnectionId;

use super::answer::Answer;
use crate::gateway::Gateway;

/// The page, in the form that the client prefers.
pub(super) fn page(gateway: &Gateway, id: ConnectionId, asked: &HeaderMap) -> Answer {
    let now = gateway.clock().now();
    let counters = gateway.manager.ledger().running_counters(now);
    let rows = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("instance", gateway.instance().to_string()),
        ("connection", id.to_string()),
        ("uptime", format!("{}s", now.mono.as_secs())),
        ("connected_clients", counters.connected_clients.to_string()),
        ("port_proxy_connections", counters.port_proxy_connections.to_string()),
        ("tls_terminated_connections", counters.tally.tls_terminated.to_string()),
        ("opened", counters.tally.opened.to_string()),
        ("settling", counters.settling.to_string()),
    ];
    let html = asked
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.as_bytes().windows(9).any(|w| w == b"text/html"));
    let (kind, body) = if html {
        ("text/html; charset=utf-8", as_html(&rows))
    } else {
        ("text/plain; charset=utf-8", as_text(&rows))
    };
    let mut answer = Response::new(Bytes::from(body));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn as_text(rows: &[(&str, String)]) -> String {
    let lines = rows.iter().map(|(name, value)| format!("{name}: {value}\n"));
    std::iter::once("smartproxy and networkproxy are working\n\n".to_owned()).chain(lines).collect()
}

fn as_html(rows: &[(&str, String)]) -> String {
    // Nothing here comes from a client: names are ours, values are numbers and ids.
    let rows = rows.iter().fold(String::new(), |mut text, (name, value)| {
        text.push_str(&["<tr><th>", name, "</th><td>", value, "</td></tr>\n"].concat());
        text
    });
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>networkproxy</title>\n\
         <style>body{{font-family:system-ui,sans-serif;margin:3em}}th{{text-align:left;padding-right:2em}}\
         td{{font-family:monospace}}</style></head>\n\
         <body><h1>smartproxy and networkproxy are working</h1>\n<table>\n{rows}</table>\n\
         <p>Ask for this connection: <code>proxyctl get</code> and its id.</p></body></html>\n"
    )
}
