//! A decision among 10, 1,000 and 100,000 routes: it must cost the same, but for the caches.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use config::{
    Class, PortRange, Question, Request, Route, RouteTable, SmartproxyConfig, Surroundings, check_smartproxy,
    normal_name,
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const ROUTES: [u32; 3] = [10, 1_000, 100_000];

/// smartproxy's step: by server name.
fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for routes in ROUTES {
        let template = template("tls: passthrough, forward: { targets: ['192.0.2.1:443'] }");
        let config = many(&template, routes, |order| match order {
            order if order.is_multiple_of(2) => format!("host-{order}.example"),
            order => format!("*.zone-{order}.example"),
        });
        let table = RouteTable::build(&config).expect("no conflicts");
        let exact = names(routes, |at| format!("host-{}.example", at & !1));
        let wildcard = names(routes, |at| format!("www.zone-{}.example", at | 1));
        let unknown = names(routes, |at| format!("nobody-{at}.example"));
        for (kind, names) in [("exact", exact), ("wildcard", wildcard), ("unknown", unknown)] {
            let mut names = names.iter().cycle();
            group.bench_function(BenchmarkId::new(kind, routes), |bencher| {
                bencher.iter(|| black_box(table.decide(&question(names.next().expect("endless")))));
            });
        }
    }
    group.finish();
}

/// networkproxy's step: by host and path, all routes in one entry.
fn route_for(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route_for");
    for routes in ROUTES {
        let template = in_clear(template("respond: { body: x }"));
        let mut config = many(&template, routes, |order| match order % 3 {
            0 => format!("host-{order}.example"),
            1 => format!("host-{}.example", order - 1),
            _ => format!("*.zone-{order}.example"),
        });
        for route in config.routes.iter_mut().filter(|route| route.order % 3 == 1) {
            route.matching.path = Some("/api/*".to_owned().into());
        }
        let table = RouteTable::build(&config).expect("no conflicts").inner(1);
        let entry = table.entry("route-0").expect("all clear-text routes of a port are one entry");
        let exact = names(routes, |at| format!("host-{}.example", at / 3 * 3));
        let wildcard = names(routes, |at| format!("www.zone-{}.example", (at / 3 * 3 + 2).min(routes - 2)));
        for (kind, names, path) in
            [("host_and_path", &exact, "/api/v1/users"), ("host", &exact, "/"), ("wildcard", &wildcard, "/")]
        {
            let mut names = names.iter().cycle();
            group.bench_function(BenchmarkId::new(kind, routes), |bencher| {
                bencher.iter(|| {
                    let authority = names.next().expect("endless");
                    let request = Request { server_name: Some(authority), authority, path };
                    black_box(entry.route_for(&request).is_ok())
                });
            });
        }
    }
    for routes in ROUTES {
        let template = in_clear(template("respond: { body: x }"));
        let mut config = many(&template, routes, |_| "app.example".to_owned());
        for route in &mut config.routes {
            let star = if route.order.is_multiple_of(2) { "*" } else { "" };
            route.matching.path = Some(format!("/service-{}/{star}", route.order).into());
        }
        let table = RouteTable::build(&config).expect("no conflicts").inner(1);
        let entry = table.entry("route-0").expect("one entry");
        let paths = names(routes, |at| format!("/service-{at}/"));
        let mut paths = paths.iter().cycle();
        group.bench_function(BenchmarkId::new("one_host_many_paths", routes), |bencher| {
            bencher.iter(|| {
                let path = paths.next().expect("endless");
                let request = Request { server_name: None, authority: "app.example", path };
                black_box(entry.route_for(&request).expect("one of them"))
            });
        });
    }
    group.finish();
}

fn in_clear(mut route: Route) -> Route {
    route.matching.ports = vec![PortRange { first: 80, last: 80 }];
    route
}

fn name(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("normal_name");
    group.bench_function("as it should be", |b| b.iter(|| normal_name(black_box("app.example.com")).len()));
    group.bench_function("mixed case", |b| b.iter(|| normal_name(black_box("App.Example.COM.")).len()));
    group.finish();
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

/// Names all over the table: the caches should see what traffic of many clients looks like.
fn names(routes: u32, name: impl Fn(u32) -> String) -> Vec<String> {
    (0..1_024_u32).map(|at| name(at.wrapping_mul(2_654_435_761) % routes)).collect()
}

fn template(text: &str) -> Route {
    let text = format!("version: 1\nroutes:\n  - {{ name: t, match: {{ ports: [443] }}, {text} }}\n");
    let report = check_smartproxy("f", &text, &Surroundings::ideal());
    report.config.expect("a valid template").routes.remove(0)
}

fn many(template: &Route, routes: u32, domain: impl Fn(u32) -> String) -> SmartproxyConfig {
    let routes = (0..routes)
        .map(|order| {
            let mut route = template.clone();
            route.name = format!("route-{order}").into();
            route.order = order;
            route.matching.domains = vec![domain(order).parse().expect("a name")];
            route
        })
        .collect();
    SmartproxyConfig { routes, ..SmartproxyConfig::default() }
}

criterion_group!(benches, decide, route_for, name);
criterion_main!(benches);
