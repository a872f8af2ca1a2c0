//! The first step: from port, class, name and client to an entry.
//!
//! *Owns* the order of precedence between entries, and the ways to have none.

use crate::*;

#[test]
fn an_exact_name_beats_a_wildcard_and_a_wildcard_beats_none() {
    let routes = [
        passthrough("any", "ports: [443]"),
        passthrough("wild", "ports: [443], domains: ['*.example.com']"),
        passthrough("exact", "ports: [443], domains: [a.example.com]"),
    ];
    let table = table(&routes.concat());
    for (name, entry) in [
        ("a.example.com", "exact"),
        ("A.Example.COM.", "exact"),
        ("b.example.com", "wild"),
        ("a.b.example.com", "any"),
        ("example.com", "any"),
        (".example.com", "any"),
        ("", "any"),
    ] {
        assert_eq!(taken(&table, &tls(443, Some(name))).as_deref(), Ok(entry), "{name}");
    }
    assert_eq!(taken(&table, &tls(443, None)).as_deref(), Ok("any"));
}

/// each way to have no entry is a value of its own.
#[test]
fn a_connection_without_an_entry_is_told_why() {
    let routes = [
        passthrough("named", "ports: [443], domains: [a.example, '*.b.example']"),
        clear("web", "ports: [80]"),
    ];
    let table = table(&routes.concat());
    assert_eq!(taken(&table, &tls(444, Some("a.example"))), Err(NoEntry::UnknownPort));
    assert_eq!(taken(&table, &clear_text(443)), Err(NoEntry::NotTls));
    assert_eq!(taken(&table, &tls(80, Some("a.example"))), Err(NoEntry::NotClear));
    assert_eq!(taken(&table, &tls(443, None)), Err(NoEntry::ServerNameMissing));
    assert_eq!(taken(&table, &tls(443, Some(""))), Err(NoEntry::ServerNameMissing));
    assert_eq!(taken(&table, &tls(443, Some("c.example"))), Err(NoEntry::ServerNameUnknown));
    assert_eq!(taken(&table, &tls(443, Some("b.example"))), Err(NoEntry::ServerNameUnknown));
}

/// P8: passthrough, termination and clear text share a port.
#[test]
fn passthrough_termination_and_clear_text_share_a_port() {
    let routes = [
        passthrough("legacy", "ports: [443], domains: [legacy.example]"),
        terminated("app", "ports: [443], domains: [app.example]"),
        clear("web", "ports: [443]"),
    ];
    let table = table(&routes.concat());
    assert!(matches!(table.entry("legacy").expect("it").transport, Transport::Relay { .. }));
    let bridge = |terminated| Transport::Bridge { protocol: Protocol::Http, terminated };
    assert_eq!(table.entry("app").expect("it").transport, bridge(true));
    assert_eq!(table.entry("web").expect("it").transport, bridge(false));
    assert_eq!(taken(&table, &clear_text(443)).as_deref(), Ok("web"));
    assert_eq!(taken(&table, &tls(443, Some("legacy.example"))).as_deref(), Ok("legacy"));
    assert_eq!(table.entry("app").expect("it").class, EntryClass::Tls);
}

#[test]
fn a_block_takes_tls_and_clear_text_alike() {
    let routes = "  - { name: no, match: { ports: [443] }, block: {} }\n".to_owned();
    let table = table(&(routes + &terminated("app", "ports: [443], domains: [app.example]")));
    let entry = table.decide(&clear_text(443)).entry.expect("an entry").clone();
    assert_eq!((&*entry.name, &entry.transport, entry.class), ("no", &Transport::Block, EntryClass::Either));
    assert_eq!(taken(&table, &tls(443, Some("other.example"))).as_deref(), Ok("no"));
    assert_eq!(taken(&table, &tls(443, Some("app.example"))).as_deref(), Ok("app"));
    assert_eq!(table.entries().len(), 2);
    assert_eq!(table.inner(1).entries.len(), 1);
}

/// A server may speak first where nobody needs to see the client's bytes.
#[test]
fn a_port_with_only_clear_text_tcp_waits_for_no_bytes() {
    let tcp = |name: &str, port: u16| {
        format!(
            "  - {{ name: {name}, match: {{ ports: [{port}] }}, forward: {{ targets: ['10.0.0.1:25'] }} }}\n"
        )
    };
    let routes = [
        tcp("smtp", 25),
        tcp("mixed", 26),
        passthrough("tls", "ports: [26], domains: [a.example]"),
        clear("web", "ports: [80]"),
    ];
    let table = table(&routes.concat());
    let waits: Vec<_> = [25, 26, 80, 443].iter().map(|port| table.server_speaks_first(*port)).collect();
    assert_eq!(waits, [true, false, false, false]);
    assert_eq!(taken(&table, &tls(25, Some("a.example"))).as_deref(), Ok("smtp"));
    assert_eq!(taken(&table, &tls(26, Some("a.example"))).as_deref(), Ok("tls"));
    assert_eq!(taken(&table, &tls(26, Some("b.example"))), Err(NoEntry::ServerNameUnknown));
    assert_eq!(taken(&table, &clear_text(26)).as_deref(), Ok("mixed"));
}

/// What is prepared for later keys decides already: client networks come before none, and protocols too.
#[test]
fn client_networks_and_protocols_are_clauses_of_an_entry() {
    let names = ["lan", "h2", "rest"];
    let routes: String = names
        .iter()
        .map(|name| passthrough(name, &format!("ports: [443], domains: [{name}.example]")))
        .collect();
    let mut config = config(&routes);
    for route in &mut config.routes {
        route.matching.domains.clear();
    }
    config.routes[0].matching.client_ip = vec!["10.0.0.0/8".parse().expect("a network")];
    config.routes[1].matching.alpn = vec!["h2".to_owned()];
    let table = RouteTable::build(&config).expect("no conflicts");
    let ask = |client: &str, alpn: &'static [&'static [u8]]| {
        let client_ip = client.parse().expect("an address");
        let decision =
            table.decide(&Question { port: 443, class: Class::Tls, server_name: None, alpn, client_ip });
        (decision.entry.map(|entry| entry.name.to_string()), decision.trace.to_string())
    };
    assert_eq!(ask("10.1.2.3", &[]), (Ok("lan".to_owned()), "lan: chosen".to_owned()));
    assert_eq!(ask("::ffff:10.1.2.3", &[]).0.as_deref(), Ok("lan"));
    assert_eq!(ask("192.0.2.1", &[b"h2"]), (Ok("h2".to_owned()), "lan: client_ip, h2: chosen".to_owned()));
    assert_eq!(ask("192.0.2.1", &[b"http/1.1"]).1, "lan: client_ip, h2: alpn, rest: chosen");
}

/// P5: the long answer names every route and the clause that kept it out.
#[test]
fn an_explanation_names_every_route_and_the_clause_that_failed() {
    let routes = [
        terminated("app", "ports: [443], domains: [app.example]"),
        passthrough("legacy", "ports: [443], domains: [legacy.example]"),
        clear("web", "ports: [443]"),
        terminated("rest", "ports: [443]"),
        clear("other", "ports: [80]"),
    ];
    let table = table(&routes.concat());
    let explanation = table.explain(&tls(443, Some("app.example")), None);
    assert_eq!(explanation.route.map(|route| &*route.name), Some("app"));
    let verdicts: Vec<String> =
        explanation.routes.iter().map(|(route, verdict)| format!("{} {verdict}", route.name)).collect();
    assert_eq!(verdicts, ["app chosen", "legacy domain", "web class", "rest outranked", "other port"]);
    let request = Request { server_name: Some("app.example"), authority: "legacy.example", path: "/" };
    let explanation = table.explain(&tls(443, Some("app.example")), Some(&request));
    assert_eq!((explanation.route, explanation.no_route), (None, Some(NoRoute::Misdirected)));
}

/// the listening set is what the routes name.
#[test]
fn the_listeners_are_the_ports_that_routes_name() {
    let routes = [terminated("a", "ports: [8000-8002, 443]"), clear("b", "ports: [8001]")];
    let table = table(&routes.concat());
    let doors: Vec<_> =
        table.listeners().map(|door| (door.port, door.tls, door.clear, door.place.line)).collect();
    assert_eq!(
        doors,
        [(443, true, false, 3), (8000, true, false, 3), (8001, true, true, 3), (8002, true, false, 3)]
    );
}

/// A slip in a range does not fill the memory.
#[test]
fn a_table_of_too_many_pairs_is_refused() {
    let names: Vec<String> = (0..20).map(|number| format!("n{number}.example")).collect();
    let text = format!(
        "version: 1\nroutes:\n{}",
        terminated("wide", &format!("ports: [1-65535], domains: [{}]", names.join(", ")))
    );
    let text = text.replace("1-65535", "8000-65535");
    let report = check_smartproxy("f", &text, &Surroundings::ideal());
    let lines: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "f:3:5: with route `wide` there are more than 1000000 pairs of port and name; expected fewer ports or fewer domains"
        ]
    );
}
