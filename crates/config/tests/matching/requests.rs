//! The second step: from a request to one of its entry's routes.
//!
//! *Owns* 421 and 404, precedence between the routes of an entry, and what travels to networkproxy.

use crate::*;

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
