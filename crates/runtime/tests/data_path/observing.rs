//! What a process says about itself: log lines, metrics, probes.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ledger::{Direction, HopCount, LegName, Phase, Reason, Role};
use runtime::{
    AcceptErrors, BuildInfo, Exposition, MAX_ENTRIES, SettledTotals, Status, common_metrics, logging,
    serve_status,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::{Process, listener, within};

/// Where a test's log lines go.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Logs what settled while `work` ran.
async fn lines_of(process: &Process, totals: &Arc<SettledTotals>) -> Vec<String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (ledger, clock) = (process.manager.ledger().clone(), process.manager.clock().clone());
    within(logging::log_settled(ledger, Arc::clone(totals), clock, std::future::ready(()))).await;
    lines.text().lines().map(str::to_owned).collect()
}

fn refuse(process: &Process, count: usize) {
    let accept = || {
        let address = "127.0.0.1:1".parse().unwrap();
        Arc::new(crate::rig::accept(address, address, process.manager.clock()))
    };
    for _ in 0..count {
        let now = process.manager.clock().now();
        let id = runtime::mint::connection_id();
        let key = ledger::HalfKey::front(id, process.manager.ledger().instance());
        process.manager.ledger().open_front(id, accept(), now).unwrap();
        let observation = ledger::Observation::new(Role::Front, Reason::NoRoute, None, Duration::ZERO);
        let ending = ledger::Ending { observations: vec![observation], ..ledger::Ending::default() };
        process.manager.ledger().close(key, ending, now).unwrap();
    }
}

/// Style page: exactly one INFO line per connection, at settlement, with the facts as fields.
#[tokio::test]
async fn a_connection_has_one_line_when_it_settles() {
    let process = Process::start(Role::Front);
    let totals = Arc::new(SettledTotals::default());
    let mut ids = Vec::new();
    for reason in [Reason::ClientReset, Reason::InactivityTimeout] {
        let (mut tracked, leg, _client) = process.accept().await;
        tracked.phase(Phase::InitialData);
        assert_eq!(leg.try_write(b"12345").unwrap(), 5);
        tracked.observe(tracked.observation(reason, Some(LegName::Client)));
        ids.push(tracked.id().to_string());
        tracked.finish(HopCount::default(), 7);
    }
    let lines = lines_of(&process, &totals).await;
    assert_eq!(lines.len(), 2, "{lines:#?}");
    for (line, (id, reason, initiator)) in
        lines.iter().zip([(&ids[0], "client_reset", "client"), (&ids[1], "inactivity_timeout", "smartproxy")])
    {
        for part in [
            format!(r#""id":"{id}""#),
            format!(r#""reason":"{reason}""#),
            format!(r#""initiator":"{initiator}""#),
            r#""level":"INFO""#.to_owned(),
            r#""client_out":5"#.to_owned(),
            r#""undelivered":7"#.to_owned(),
            r#""settled_from":"only""#.to_owned(),
            r#""phase":"initial_data""#.to_owned(),
            r#""sentence":""#.to_owned(),
        ] {
            assert!(line.contains(&part), "{part} is missing in {line}");
        }
    }
    assert!(lines_of(&process, &totals).await.is_empty(), "a second look has nothing to say");
}

/// R-54: a flood of refusals gives few lines, and their counts add up.
#[tokio::test]
async fn a_flood_of_refusals_is_folded_and_counted() {
    let process = Process::start(Role::Front);
    let totals = Arc::new(SettledTotals::default());
    refuse(&process, 5_000);
    let lines = lines_of(&process, &totals).await;
    assert!(lines.len() < 100, "{}", lines.len());
    let folded = lines.iter().filter_map(|line| line.split_once(r#""folded":"#)).map(|(_, rest)| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<usize>().unwrap()
    });
    let single = lines.iter().filter(|line| line.contains(r#""message":"connection closed""#)).count();
    assert_eq!(folded.sum::<usize>() + single, 5_000);
}

struct Page {
    process: Process,
    totals: SettledTotals,
    ready: AtomicBool,
}

impl Status for Page {
    fn metrics(&self) -> String {
        let mut page = Exposition::default();
        let build = BuildInfo { version: "1.2.3", revision: "abc" };
        let errors = AcceptErrors::default();
        common_metrics(
            &mut page,
            build,
            &self.process.manager,
            &self.totals,
            &errors,
            Duration::from_secs(1),
        );
        page.finish()
    }

    fn readiness(&self) -> Result<(), &'static str> {
        if self.ready.load(Ordering::Relaxed) { Ok(()) } else { Err("draining") }
    }
}

async fn ask(address: std::net::SocketAddr, request: &str) -> (String, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(socket.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// API page, "Metrics": the names, and numbers that are the books'.
#[tokio::test]
async fn metrics_and_probes_are_served() {
    let process = Process::start(Role::Front);
    let (tracked, leg, _client) = process.accept().await;
    assert_eq!(leg.try_write(b"12345").unwrap(), 5);
    assert_eq!(tracked.traffic().bytes(LegName::Client, Direction::Out), 5);
    refuse(&process, 3);
    let page = Arc::new(Page { process, totals: SettledTotals::default(), ready: AtomicBool::new(true) });
    for half in page.process.manager.ledger().take_settled(10) {
        page.totals.count(&half);
    }
    let listening = listener();
    let address = listening.local_addr().unwrap();
    let server = tokio::spawn(serve_status(listening, Arc::clone(&page)));
    let (head, body) = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("version=0.0.4"), "{head}");
    for line in [
        "proxy_connected_clients 1",
        "proxy_port_proxy_connections 0",
        "proxy_settling_connections 0",
        "proxy_phase_connections{phase=\"accepted\"} 1",
        "proxy_held_connections 0",
        "proxy_control_connected 0",
        "proxy_control_lag_halves 0",
        "proxy_connections_settled_total{reason=\"no_route\",initiator=\"smartproxy\"} 3",
        "proxy_bytes_total{leg=\"client\",direction=\"out\"} 5",
        "proxy_tls_terminated_connections_total 0",
        "proxy_late_evidence_total 0",
        "proxy_drift_detected_total 0",
        "proxy_drift_repaired_total 0",
        "proxy_audit_repairs_total 0",
        "proxy_accept_errors_total{kind=\"process_descriptors\"} 0",
        "proxy_connection_duration_seconds_count 3",
        "proxy_target_connect_duration_seconds_count 0",
        "proxy_last_sweep_age_seconds 1",
        "proxy_build_info{version=\"1.2.3\",revision=\"abc\"} 1",
    ] {
        assert!(body.lines().any(|l| l == line), "{line} is missing in\n{body}");
    }
    for name in
        ["process_open_fds", "process_max_fds", "process_cpu_seconds_total", "process_resident_memory_bytes"]
    {
        assert!(body.lines().any(|l| l.starts_with(&format!("{name} "))), "{name} is missing");
    }
    for (request, code, text) in [
        ("GET /healthz", "200", "ok\n"),
        ("GET /readyz", "200", "ready\n"),
        ("POST /readyz", "405", "GET or HEAD\n"),
        ("GET /", "404", "/metrics, /healthz, /readyz\n"),
    ] {
        let (head, body) =
            ask(address, &format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {code}")), "{request}: {head}");
        assert_eq!(body, text, "{request}");
    }
    page.ready.store(false, Ordering::Relaxed);
    let (head, body) = ask(address, "GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 503") && body == "draining\n");
    server.abort();
    drop(tracked);
    assert!(page.totals.entries().len() <= MAX_ENTRIES);
}
