//! What the processes tell by themselves: one log line for each connection, and metrics derived from the books.

use anyhow::{Context as _, Result, ensure};
use e2e::books::Metrics;
use e2e::client::http::{Http, fetch};
use e2e::client::tls::Tls;
use e2e::client::{Ending, connect, connect_refused_with, echo, will_reset};
use e2e::target::Target;
use e2e::target::http::HttpTarget;
use e2e::wait::{SOON, until};
use e2e::{Address, Pair, Route, Setup, Which};
use serde_json::Value;

/// The INFO lines of a connection in a process's JSON log, once there is one.
async fn lines_of(pair: &Pair, which: Which, id: &str) -> Result<Vec<Value>> {
    let lines = || -> Vec<Value> {
        let log = pair.process(which).log();
        let parsed = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.filter(|line| line["level"] == "INFO" && line["id"] == id).collect()
    };
    until(&format!("{which:?} logs {id}"), SOON, async || (!lines().is_empty()).then_some(())).await?;
    Ok(lines())
}

/// At debug level every line about a connection carries its `conn` span: id, client, listener, route.
#[tokio::test]
async fn lines_about_a_connection_carry_its_span() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let routes = [Route::terminate_tcp("ended", target.address()).domain("app.test")];
    let json = |setup: Setup| setup.front("log", "format", "json").inner("log", "format", "json");
    let setup = json(Setup::new(routes)).front("log", "level", "debug").inner("log", "level", "debug");
    let pair = Pair::start(address, setup).await?;
    let mut client = Tls::to("app.test").connect(pair.tls()).await?;
    echo(&mut client, b"1234567").await?;
    let from = client.get_ref().0.local_addr()?;
    drop(client);
    pair.ended_with(from, "client_closed", "client").await?;
    for which in e2e::BOTH {
        let log = pair.process(which).log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let of_client =
            |line: &Value| line["span"]["name"] == "conn" && line["span"]["client"] == from.to_string();
        let observed = lines.filter(|line| line["message"] == "observed").find(of_client);
        let span = observed.with_context(|| format!("{which:?}: {log}"))?["span"].clone();
        ensure!(span["id"].is_string() && span["listener"].is_string(), "{span:#}");
        ensure!(span["route"] == "ended", "{which:?}: {span:#}");
    }
    pair.teardown().await
}

/// Exactly one INFO line for each connection in each process that had a half of it, at settlement, with cause, bytes,
/// phase and duration; a refused one too.
#[tokio::test]
async fn each_connection_is_one_line_in_the_log() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let routes = [
        Route::tcp("plain", target.address()),
        Route::terminate_tcp("ended", target.address()).domain("app.test"),
    ];
    let setup = Setup::new(routes).front("log", "format", "json").inner("log", "format", "json");
    let pair = Pair::start(address, setup).await?;

    let mut plain = connect(pair.tcp()).await?;
    echo(&mut plain, b"12345").await?;
    let plain_from = plain.local_addr()?;
    drop(plain);
    let mut ended = Tls::to("app.test").connect(pair.tls()).await?;
    echo(&mut ended, b"1234567").await?;
    let ended_from = ended.get_ref().0.local_addr()?;
    will_reset(ended.get_ref().0)?;
    drop(ended);
    let refused = connect(pair.tls()).await?;
    let refused_from = refused.local_addr()?;
    Tls::to("unknown.test").refused(refused).await?;

    for (from, reason, initiator, halves) in [
        (plain_from, "client_closed", "client", vec![Which::Smartproxy]),
        (ended_from, "client_reset", "client", vec![Which::Smartproxy, Which::Networkproxy]),
        (refused_from, "sni_unknown", "smartproxy", vec![Which::Smartproxy]),
    ] {
        let record = pair.ended_with(from, reason, initiator).await?;
        let id = record["id"].as_str().context("an id")?;
        for which in halves {
            let lines = lines_of(&pair, which, id).await?;
            ensure!(lines.len() == 1, "{which:?}: {lines:#?}");
            let line = &lines[0];
            assert_eq!(line["reason"], reason, "{which:?}: {line:#}");
            assert_eq!(line["initiator"], initiator);
            assert_eq!(line["client"], from.to_string());
            ensure!(line["phase"].is_string() && line["duration"].is_number(), "{line:#}");
            let half = if which == Which::Smartproxy { &record["front"] } else { &record["inner"] };
            for (field, count) in
                [("target_in", "target_in"), ("client_in", "client_in"), ("hop_in", "hop_in")]
            {
                assert_eq!(line[field], half["bytes"][count], "{which:?} {field}: {line:#}");
            }
        }
    }
    // The other process has no half of a relayed one, and no line about it.
    let record = pair.settled(Which::Networkproxy, plain_from).await?;
    let id = record["id"].as_str().context("an id")?;
    ensure!(!pair.process(Which::Networkproxy).log().contains(id), "networkproxy logged what is not its own");
    pair.teardown().await
}

/// a flood of refusals takes few lines, and none of them goes uncounted.
#[tokio::test]
async fn a_flood_of_refusals_takes_few_lines_and_is_counted() -> Result<()> {
    const FLOOD: u64 = 500;
    let address = Address::next();
    let target = Target::echo(address).await?;
    let route = Route::passthrough("app", target.address()).domain("app.test");
    let pair = Pair::start(address, Setup::new([route])).await?;
    for _ in 0..FLOOD {
        let stream = connect(pair.tls()).await?;
        Tls::to("unknown.test").refused_bytes(stream).await?;
    }
    let settled = "proxy_connections_settled_total{reason=\"sni_unknown\",initiator=\"smartproxy\"}";
    until("each is counted", SOON, async || {
        let metrics = pair.metrics(Which::Smartproxy).await.ok()?;
        (metrics.count(settled) == Some(FLOOD)).then_some(())
    })
    .await?;
    let log = pair.process(Which::Smartproxy).log();
    let lines = log.lines().filter(|line| line.contains("sni_unknown")).count();
    ensure!(lines < 100, "{lines} lines");
    pair.teardown().await
}

/// The metrics have the agreed names, are derived from the books, and carry no label of a client.
#[tokio::test]
async fn metrics_have_the_agreed_names_and_say_what_the_books_say() -> Result<()> {
    const BOTH: [&str; 21] = [
        "proxy_connected_clients",
        "proxy_port_proxy_connections",
        "proxy_settling_connections",
        "proxy_phase_connections",
        "proxy_control_connected",
        "proxy_control_lag_halves",
        "proxy_ledger_waits_total",
        "proxy_last_sweep_age_seconds",
        "proxy_build_info",
        "proxy_connections_opened_total",
        "proxy_connections_settled_total",
        "proxy_bytes_total",
        "proxy_accept_errors_total",
        "proxy_late_evidence_total",
        "proxy_drift_detected_total",
        "proxy_drift_repaired_total",
        "proxy_audit_repairs_total",
        "proxy_connection_duration_seconds_bucket",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_resident_memory_bytes",
    ];
    const FRONT: [&str; 6] = [
        "proxy_connections_in_hand",
        "proxy_held_connections",
        "proxy_hop_ports_in_use",
        "proxy_entry_connections_closed_total",
        "proxy_hop_rebridged_total",
        "proxy_hold_duration_seconds_bucket",
    ];
    const INNER: [&str; 7] = [
        "proxy_pool_connections",
        "proxy_tls_terminated_connections_total",
        "proxy_tls_handshakes_total",
        "proxy_http_requests_total",
        "proxy_hop_refused_total",
        "proxy_http_request_duration_seconds_bucket",
        "proxy_target_connect_duration_seconds_bucket",
    ];
    let address = Address::next();
    let target = HttpTarget::start(address).await?;
    let route = Route::terminate("app", target.address()).domain("app.test");
    let pair = Pair::start(address, Setup::new([route])).await?;
    let mut gone = Http::tls2(pair.tls(), "app.test").await?;
    assert_eq!(gone.get("app.test", "/bytes/1000").await?.status, 200);
    let from = gone.local();
    gone.abandon();
    pair.ended_joined(from, "client_closed", "client").await?;
    let (_, _, ending) = connect_refused_with(pair.hop(), b"no header at all").await?;
    assert_eq!(ending, Ending::Reset);
    // Logged and counted at settlement, a moment after.
    let closed = "proxy_connections_settled_total{reason=\"client_closed\",initiator=\"client\"}";
    let entry = "proxy_entry_connections_closed_total{entry=\"app\"}";
    for which in e2e::BOTH {
        until("its end is counted", SOON, async || {
            let metrics = pair.metrics(which).await.ok()?;
            [closed, entry].iter().all(|name| metrics.count(name) == Some(1)).then_some(())
        })
        .await?;
    }
    let mut stays = Http::tls1(pair.tls(), "app.test").await?;
    assert_eq!(stays.get("app.test", "/").await?.status, 200);

    for which in e2e::BOTH {
        let metrics = pair.metrics(which).await?;
        let own = if which == Which::Smartproxy { FRONT.as_slice() } else { INNER.as_slice() };
        for name in BOTH.iter().chain(own) {
            let exported = metrics.names().any(|key| key == *name || key.starts_with(&format!("{name}{{")));
            ensure!(exported, "{which:?} does not export {name}: {metrics:#?}");
        }
        for key in metrics.names() {
            for forbidden in ["127.0.0.1", "app.test", "alert="] {
                ensure!(!key.contains(forbidden), "{which:?}: a label must not hold that: {key}");
            }
            ensure!(!(key.contains("reason=") && key.contains("route=")), "never reason by route: {key}");
        }
        for gauge in ["proxy_connected_clients", "proxy_port_proxy_connections", "proxy_control_connected"] {
            assert_eq!(metrics.count(gauge), Some(1), "{which:?} {gauge}");
        }
        assert_eq!(metrics.sum("proxy_connections_opened_total{"), 2);
        assert_eq!(metrics.sum("proxy_phase_connections{"), 1);
        let (_, text) = fetch(pair.metrics_address(which), "/metrics").await?;
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let family = family.filter(|family| text.contains(&format!("# TYPE {family} histogram")));
            let family = family.unwrap_or(name);
            ensure!(text.contains(&format!("# TYPE {family} ")), "{which:?}: {name} has no type");
            ensure!(text.contains(&format!("# HELP {family} ")), "{which:?}: {name} has no help");
        }
    }
    let inner = pair.metrics(Which::Networkproxy).await?;
    assert_eq!(inner.count("proxy_hop_refused_total{reason=\"hop_header_missing\"}"), Some(1));
    assert_eq!(inner.count("proxy_tls_terminated_connections_total"), Some(2));
    assert_eq!(inner.sum("proxy_http_requests_total{"), 2);
    stays.abandon();
    pair.teardown().await
}

/// for each kind of route, the bytes that are counted are the payload and what the protocol adds, no more.
#[tokio::test]
async fn every_kind_of_route_counts_its_bytes() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let web = HttpTarget::start(address).await?;
    let routes = [
        Route::tcp("plain", target.address()),
        Route::terminate_tcp("ended", target.address()).domain("app.test"),
        Route::http("web", web.address()),
    ];
    let pair = Pair::start(address, Setup::new(routes)).await?;
    let payload = e2e::target::pattern(10_000);
    let mut plain = connect(pair.tcp()).await?;
    echo(&mut plain, &payload).await?;
    drop(plain);
    let mut ended = Tls::to("app.test").connect(pair.tls()).await?;
    echo(&mut ended, &payload).await?;
    drop(ended);
    let mut clear = Http::clear(pair.http()).await?;
    assert_eq!(clear.get("any.test", "/bytes/10000").await?.body.len(), 10_000);
    clear.abandon();
    pair.live_is(Which::Smartproxy, 0).await?;
    pair.live_is(Which::Networkproxy, 0).await?;
    let bytes = |metrics: &Metrics, leg: &str, direction: &str| {
        metrics
            .count(&format!("proxy_bytes_total{{leg=\"{leg}\",direction=\"{direction}\"}}"))
            .unwrap_or_default()
    };
    let front = pair.metrics(Which::Smartproxy).await?;
    let inner = pair.metrics(Which::Networkproxy).await?;
    // smartproxy relays plain TCP itself: exactly the payload, each way.
    assert_eq!((bytes(&front, "target", "in"), bytes(&front, "target", "out")), (10_000, 10_000));
    // What one process writes to the hop the other reads, hop headers apart.
    assert_eq!(bytes(&front, "hop", "out"), bytes(&inner, "hop", "in"));
    assert_eq!(bytes(&front, "hop", "in"), bytes(&inner, "hop", "out"));
    // networkproxy's targets: the payload, and the heads of one HTTP exchange.
    let from_targets = bytes(&inner, "target", "in");
    ensure!((20_001..20_400).contains(&from_targets), "{from_targets} bytes");
    pair.teardown().await
}

/// Health and readiness are asked over HTTP, and say the same as the gRPC health service.
#[tokio::test]
async fn health_and_readiness_are_asked_over_http() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let pair = Pair::start(address, Setup::new([Route::tcp("plain", target.address())])).await?;
    for which in e2e::BOTH {
        assert_eq!(fetch(pair.metrics_address(which), "/healthz").await?.0, 200, "{which:?}");
        assert_eq!(fetch(pair.metrics_address(which), "/readyz").await?.0, 200, "{which:?}");
        assert_eq!(fetch(pair.metrics_address(which), "/elsewhere").await?.0, 404, "{which:?}");
    }
    pair.teardown().await
}

/// The exposition is what Prometheus reads: parsed whole, nothing twice.
#[test]
fn a_metric_that_is_exported_twice_is_seen() {
    assert!(Metrics::parse("a 1\nb{c=\"d\"} 2\n").is_ok());
    assert!(Metrics::parse("a 1\na 2\n").is_err());
}
