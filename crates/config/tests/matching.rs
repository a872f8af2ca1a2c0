//! Both steps of matching: which entry takes a connection, and which of its routes takes a request.
//!
//! *Owns* the promises of "Matching" in `docs/configuration.md`, each on the smallest file that shows it.

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

/// Where a Host decides, a block is one of the routes that networkproxy picks from.
#[test]
fn a_block_by_host_beside_clear_text_http_is_networkproxys_to_answer() {
    let routes = clear("web", "ports: [80]")
        + "  - { name: no, match: { ports: [80], domains: [bad.example] }, block: {} }\n";
    let table = table(&routes);
    assert_eq!(taken(&table, &clear_text(80)).as_deref(), Ok("web"));
    let inner = table.inner(7);
    assert_eq!(inner_route(&inner, "web", None, "bad.example").as_deref(), Ok("no"));
    assert_eq!(inner_route(&inner, "web", None, "good.example").as_deref(), Ok("web"));
    let blocked =
        inner.entry("web").expect("it").routes().iter().find(|route| *route.name == *"no").expect("it");
    assert_eq!(blocked.action, InnerAction::Block);
    assert_eq!(taken(&table, &tls(80, Some("bad.example"))).as_deref(), Ok("no"));
}

#[test]
fn all_clear_text_http_routes_of_a_port_are_one_entry() {
    let routes = [
        clear("static", "ports: [80], domains: [static.example]"),
        clear("wild", "ports: [80], domains: ['*.example']"),
        clear("rest", "ports: [80]"),
        clear("other-port", "ports: [8080], domains: [static.example]"),
    ];
    let table = table(&routes.concat());
    let inner = table.inner(1);
    assert_eq!(inner.entries.keys().map(|name| &**name).collect::<Vec<_>>(), ["other-port", "static"]);
    for (host, route) in [
        ("static.example", "static"),
        ("STATIC.example.:80", "static"),
        ("b.example", "wild"),
        ("a.b.example", "rest"),
        ("[2001:db8::1]:80", "rest"),
        ("", "rest"),
    ] {
        assert_eq!(inner_route(&inner, "static", None, host).as_deref(), Ok(route), "{host}");
    }
    assert_eq!(inner_route(&inner, "other-port", None, "b.example"), Err(NoRoute::Misdirected));
}

/// a connection that was opened for one name does not carry requests for another route's name.
#[test]
fn an_authority_of_another_entry_is_answered_with_421() {
    let routes = [
        terminated("a", "ports: [443], domains: [a.example, '*.a.example']"),
        terminated("b", "ports: [443], domains: [b.example]"),
        terminated("special", "ports: [443], domains: [special.a.example]"),
        passthrough("legacy", "ports: [443], domains: [legacy.a.example]"),
        terminated("rest", "ports: [443]"),
    ];
    let table = table(&routes.concat());
    let inner = table.inner(1);
    let misdirected = Err(NoRoute::Misdirected);
    assert_eq!(inner_route(&inner, "a", Some("a.example"), "a.example").as_deref(), Ok("a"));
    assert_eq!(inner_route(&inner, "a", Some("a.example"), "x.a.example").as_deref(), Ok("a"));
    assert_eq!(inner_route(&inner, "a", Some("a.example"), "b.example"), misdirected);
    assert_eq!(inner_route(&inner, "a", Some("a.example"), "nobody.example"), misdirected);
    assert_eq!(inner_route(&inner, "a", Some("x.a.example"), "special.a.example"), misdirected);
    assert_eq!(inner_route(&inner, "a", Some("x.a.example"), "legacy.a.example"), misdirected);
    assert_eq!(inner_route(&inner, "rest", Some("c.example"), "c.example").as_deref(), Ok("rest"));
    assert_eq!(inner_route(&inner, "rest", Some("c.example"), "d.example").as_deref(), Ok("rest"));
    assert_eq!(inner_route(&inner, "rest", Some("c.example"), "b.example"), misdirected);
    assert_eq!(inner_route(&inner, "rest", None, "x.a.example"), misdirected);
    assert_eq!(NoRoute::Misdirected.status(), 421);
}

/// The name that smartproxy admitted a connection with is never sent away, even where another port gives it
/// to another entry: the client would come back for ever.
#[test]
fn the_name_that_a_connection_was_admitted_with_is_never_misdirected() {
    let routes = [
        terminated("wild", "ports: [443, 8443], domains: ['*.a.example']"),
        terminated("exact", "ports: [443], domains: [x.a.example]"),
    ];
    let table = table(&routes.concat());
    assert_eq!(taken(&table, &tls(8443, Some("X.a.example"))).as_deref(), Ok("wild"));
    let inner = table.inner(1);
    assert_eq!(inner_route(&inner, "wild", Some("X.a.example"), "x.a.example:8443").as_deref(), Ok("wild"));
    assert_eq!(inner_route(&inner, "wild", Some("y.a.example"), "x.a.example"), Err(NoRoute::Misdirected));
}

/// an authority is a host and perhaps a port, and nothing else.
#[test]
fn a_malformed_authority_is_a_bad_request() {
    let table = table(&clear("web", "ports: [80]"));
    let inner = table.inner(1);
    for authority in [
        "user@a.example",
        "a.example/x",
        "a b",
        "a.example:80x",
        "a.example:80:80",
        "[::1",
        "[::1]80",
        "a,b",
        "a\t",
    ] {
        assert_eq!(inner_route(&inner, "web", None, authority), Err(NoRoute::BadAuthority), "{authority:?}");
    }
}

/// One route on several ports and names is one entry; names that lead to different lists of routes are
/// different entries with different names.
#[test]
fn an_entry_is_a_distinct_list_of_routes() {
    let table = table(&terminated("app", "ports: [443, 8443], domains: [app.example, '*.app.example']"));
    assert_eq!(table.entries().len(), 1);
    assert_eq!(table.entries()[0].domains.len(), 2);
    for port in [443, 8443] {
        assert_eq!(taken(&table, &tls(port, Some("x.app.example"))).as_deref(), Ok("app"));
    }
    let mut config = config(
        &[
            terminated("a", "ports: [443], domains: [a.example, b.example]"),
            terminated("b", "ports: [443], domains: [c.example]"),
        ]
        .concat(),
    );
    config.routes[1].matching.domains.push("b.example".parse().expect("a name"));
    config.routes[1].matching.path = Some(config::PathPattern::Prefix("/api/".to_owned()));
    let table = RouteTable::build(&config).expect("no conflicts");
    let names: Vec<_> = table.entries().iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(names, ["a", "a/b.example", "b"]);
    let inner = table.inner(1);
    let at = |path| Request { server_name: Some("b.example"), authority: "b.example", path };
    let entry = inner.entry("a/b.example").expect("it");
    assert_eq!(entry.route_for(&at("/api/x")).map(|route| &*route.name), Ok("b"));
    assert_eq!(entry.route_for(&at("/x")).map(|route| &*route.name), Ok("a"));
    assert_eq!(inner_route(&inner, "a", Some("a.example"), "b.example"), Err(NoRoute::Misdirected));
}

/// The longer path wins, an exact path beats a prefix of its length, and a priority beats both.
#[test]
fn the_longer_path_wins_and_a_path_that_no_route_has_is_not_found() {
    let names = ["short", "long", "exact", "first"];
    let routes: String = names
        .iter()
        .map(|name| terminated(name, &format!("ports: [443], domains: [{name}.example]")))
        .collect();
    let mut config = config(&routes);
    let path = |text: &str| Some(config::PathPattern::from(text.to_owned()));
    for (route, path) in
        config.routes.iter_mut().zip([path("/a/*"), path("/a/b/*"), path("/a/b/c"), path("/p*")])
    {
        route.matching.domains = vec!["a.example".parse().expect("a name")];
        route.matching.path = path;
    }
    config.routes[3].matching.path = path("/a/b/c/d*");
    config.routes[0].matching.priority = 0;
    let inner = RouteTable::build(&config).expect("no conflicts").inner(1);
    let route = |path| {
        let request = Request { server_name: Some("a.example"), authority: "a.example", path };
        inner.entry("short").expect("it").route_for(&request).map(|route| route.name.to_string())
    };
    assert_eq!(route("/a/x").as_deref(), Ok("short"));
    assert_eq!(route("/a/b/x").as_deref(), Ok("long"));
    assert_eq!(route("/a/b/c").as_deref(), Ok("exact"));
    assert_eq!(route("/a/b/c/d/e").as_deref(), Ok("first"));
    assert_eq!(route("/elsewhere"), Err(NoRoute::NotFound));
    config.routes[0].matching.priority = 1;
    let inner = RouteTable::build(&config).expect("no conflicts").inner(1);
    let request = Request { server_name: Some("a.example"), authority: "a.example", path: "/a/b/c" };
    assert_eq!(inner.entry("short").expect("it").route_for(&request).map(|route| &*route.name), Ok("short"));
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

/// What networkproxy is sent is the same after the journey.
#[test]
fn the_inner_table_survives_its_journey() {
    let routes = [
        terminated("a", "ports: [443], domains: [a.example, '*.a.example']"),
        terminated("b", "ports: [443], domains: [b.a.example]"),
        "  - { name: fwd, match: { ports: [80] }, protocol: http, forward: { targets: ['10.0.0.1:80', 'back.end:81'] }, timeouts: { connect: 3s, inactivity: 10m } }\n".to_owned(),
        "  - { name: page, match: { ports: [81] }, respond: { status_page: true } }\n".to_owned(),
        "  - { name: away, match: { ports: [82] }, redirect: { to: 'https://{host}{path_and_query}' } }\n".to_owned(),
    ];
    let table = table(&routes.concat());
    let inner = table.inner(42);
    let json = serde_json::to_string(&inner).expect("JSON");
    let arrived: InnerTable = serde_json::from_str(&json).expect("the same JSON");
    assert_eq!(arrived, inner);
    assert_eq!(arrived.generation, 42);
    assert_eq!(inner_route(&arrived, "a", Some("x.a.example"), "b.a.example"), Err(NoRoute::Misdirected));
    let forward = &arrived.entry("fwd").expect("it").routes()[0];
    let connect = forward.timeouts.connect.as_ref().expect("the route's own");
    assert_eq!(connect.source.to_string(), "route fwd (f:5)");
    assert!(forward.timeouts.half_close.is_none());
    let names: Vec<String> = arrived.terminated_domains().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a.example", "b.a.example", "*.a.example"]);
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
