//! A hundred thousand routes: a decision costs what it costs with ten.
//!
//! *Owns* the promise that work is bounded by steps, which are counted; time would measure the machine.

use std::net::{IpAddr, Ipv4Addr};

use config::{
    Class, PortRange, Question, Request, Route, RouteTable, SmartproxyConfig, Surroundings, check_smartproxy,
};

const ROUTES: u32 = 100_000;

fn template(text: &str) -> Route {
    let text = format!("version: 1\nroutes:\n  - {{ name: t, match: {{ ports: [443] }}, {text} }}\n");
    let report = check_smartproxy("f", &text, &Surroundings::ideal());
    report.config.expect("a valid template").routes.remove(0)
}

fn many(template: &Route, pattern: impl Fn(u32) -> String) -> SmartproxyConfig {
    let routes = (0..ROUTES)
        .map(|order| {
            let mut route = template.clone();
            route.name = format!("route-{order}").into();
            route.order = order;
            route.matching.domains = vec![pattern(order).parse().expect("a name")];
            route
        })
        .collect();
    SmartproxyConfig { routes, ..SmartproxyConfig::default() }
}

fn question(name: &str) -> Question<'_> {
    Question {
        port: 443,
        class: Class::Tls,
        server_name: Some(name),
        alpn: &[],
        client_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

#[test]
fn a_decision_among_a_hundred_thousand_routes_takes_three_lookups_and_one_candidate() {
    let passthrough = template("tls: passthrough, forward: { targets: ['192.0.2.1:443'] }");
    let mut config = many(&passthrough, |order| match order {
        order if order.is_multiple_of(2) => format!("host-{order}.example"),
        order => format!("*.zone-{order}.example"),
    });
    let mut rest = passthrough;
    rest.name = "rest".into();
    rest.order = ROUTES;
    config.routes.push(rest);
    let table = RouteTable::build(&config).expect("no conflicts");
    for (name, entry) in [
        ("host-0.example", "route-0"),
        ("host-99998.example", "route-99998"),
        ("www.zone-99999.example", "route-99999"),
        ("nobody.example", "rest"),
    ] {
        let decision = table.decide(&question(name));
        assert_eq!(decision.entry.map(|entry| &*entry.name), Ok(entry));
        assert!(decision.trace.lookups <= 3, "{name}: {} look-ups", decision.trace.lookups);
        assert_eq!(decision.trace.steps.len(), 1, "{name}: {}", decision.trace);
    }
    let none = table.decide(&question("host-1.example"));
    assert_eq!(none.entry.map(|entry| &*entry.name), Ok("rest"));
}

/// The second step as well: all clear-text HTTP routes of a port are one entry.
#[test]
fn a_request_among_a_hundred_thousand_hosts_finds_its_route_by_name() {
    let mut config = many(&template("respond: { body: x }"), |order| format!("host-{order}.example"));
    for route in &mut config.routes {
        route.matching.ports = vec![PortRange { first: 80, last: 80 }];
    }
    let table = RouteTable::build(&config).expect("no conflicts");
    assert_eq!(table.entries().len(), 1);
    let inner = table.inner(1);
    let entry = inner.entry("route-0").expect("it");
    for order in [0, 1, 50_000, 99_999] {
        let host = format!("host-{order}.example");
        let found = entry.route_for(&Request { server_name: None, authority: &host, path: "/" });
        assert_eq!(found.map(|route| route.name.to_string()), Ok(format!("route-{order}")));
        assert_eq!(entry.candidates(&host, "/"), 1);
    }
}

/// And one host with as many paths: what is compared depends on the length of the request's path.
#[test]
fn a_request_among_a_hundred_thousand_paths_of_one_host_finds_its_route_by_path() {
    let mut config = many(&template("respond: { body: x }"), |_| "app.example".to_owned());
    for route in &mut config.routes {
        route.matching.ports = vec![PortRange { first: 80, last: 80 }];
        let star = if route.order.is_multiple_of(2) { "*" } else { "" };
        route.matching.path = Some(format!("/service-{}/{star}", route.order).into());
    }
    let inner = RouteTable::build(&config).expect("no conflicts").inner(1);
    let entry = inner.entry("route-0").expect("it");
    let find = |path: &str| {
        assert!(entry.candidates("app.example", path) <= path.len() + 3, "{path}");
        let found = entry.route_for(&Request { server_name: None, authority: "app.example", path });
        found.map(|route| route.name.to_string()).ok()
    };
    assert_eq!(find("/service-50000/"), Some("route-50000".to_owned()));
    assert_eq!(find("/service-50000/deeper"), Some("route-50000".to_owned()));
    assert_eq!(find("/service-50001/"), Some("route-50001".to_owned()));
    assert_eq!(find("/service-50001/deeper"), None, "it is exact");
    assert_eq!(find("/elsewhere"), None);
}
