//! Thousands of idle bridged TLS connections for as long as `SOAK_SECONDS` says: nothing grows. Run by `make soak`.
//!
//! As many as the descriptors of this process and of the two others allow; beside them every connection is listed page by
//! page and the books are audited every few seconds. Prints the memory per connection of each process.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::client::tls::Tls;
use e2e::client::{connect, connect_from, echo};
use e2e::wait::until;
use e2e::{BOTH, Pair, Setup, Which};
use rustix::process::{Resource, getrlimit};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::load::Stage;

/// How many connections are wanted.
const MOST: u64 = 8_000;
/// Handshakes at once.
const AT_ONCE: usize = 64;
/// How much resident memory may grow after the warm-up, in all. Some of it comes and goes: what a list of everything took
/// is kept by the allocator for a while, on each thread that freed some.
const SLACK: u64 = 8 << 20;

/// How many connections the descriptors allow: this process holds a client and a target for each, smartproxy a client and
/// a hop, networkproxy a hop and a target. All three have the same limit.
fn affordable() -> u64 {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    MOST.min(limit.saturating_sub(500) / 5 * 2)
}

/// Opens `count` bridged connections, from a few client addresses so that no source port runs out.
async fn open(stage: &Stage, count: u64) -> Result<Vec<TlsStream<TcpStream>>> {
    let to = stage.pair.tls();
    let connector = Tls::to("app.test").connector()?;
    let mut opened = Vec::new();
    let mut opening = tokio::task::JoinSet::new();
    let mut started = 0;
    while (opened.len() as u64) < count {
        while started < count && opening.len() < AT_ONCE {
            let connector = connector.clone();
            let from = std::net::Ipv4Addr::new(127, 0, 1, 1 + u8::try_from(started % 4)?);
            opening.spawn(async move {
                let stream = connect_from(from.into(), to).await?;
                let name = rustls::pki_types::ServerName::try_from("app.test")?;
                let mut client = connector.connect(name, stream).await?;
                echo(&mut client, b"first").await?;
                Ok::<_, anyhow::Error>(client)
            });
            started += 1;
        }
        opened.push(opening.join_next().await.context("one is being opened")???);
    }
    Ok(opened)
}

/// Every connection is in the list of each process, page by page, and the books balance.
async fn looked_through(pair: &Pair, count: u64) -> Result<()> {
    for which in BOTH {
        let (mut seen, mut token) = (0, String::new());
        loop {
            let request = json!({ "page_size": 1000, "page_token": token });
            let page = pair.connections(which, "ListConnections", &request).await?;
            seen += page["connections"].as_array().context("connections")?.len() as u64;
            page["next_page_token"].as_str().context("next_page_token")?.clone_into(&mut token);
            if token.is_empty() {
                break;
            }
        }
        ensure!(seen == count, "{which:?} lists {seen} of {count}");
        let audit = pair.connections(which, "Audit", &json!({ "wait": "1s" })).await?;
        ensure!(audit["balanced"] == true, "{which:?}: {audit:#}");
        for alarm in ["drift_detected", "drift_repaired", "repairs"] {
            ensure!(audit["alarms"][alarm] == 0, "{which:?}: {alarm} {audit:#}");
        }
    }
    Ok(())
}

fn resident(pair: &Pair) -> Result<[u64; 2]> {
    Ok([pair.process(Which::Smartproxy).resident()?, pair.process(Which::Networkproxy).resident()?])
}

#[expect(clippy::print_stderr, reason = "the figures are what this is run for")]
async fn soak(count: u64, time: Duration) -> Result<()> {
    let stage = Stage::start(|setup: Setup| setup.inner_timeout("tunnel_idle", "2h")).await?;
    let empty = resident(&stage.pair)?;
    let start = Instant::now();
    let mut clients = open(&stage, count).await?;
    eprintln!("{count} connections in {:.1} s", start.elapsed().as_secs_f64());
    for which in BOTH {
        until(&format!("{which:?} has them all"), Duration::from_secs(30), async || {
            (stage.pair.live(which).await.ok()? == count).then_some(())
        })
        .await?;
    }
    // The warm-up: whatever the first lists and audits allocate is kept by the allocator.
    for _ in 0..3 {
        looked_through(&stage.pair, count).await?;
    }
    let warm = resident(&stage.pair)?;
    for (which, (warm, empty)) in BOTH.into_iter().zip(warm.into_iter().zip(empty)) {
        let each = warm.saturating_sub(empty) / count;
        eprintln!("{which:?}: {} MiB empty, {} MiB with {count}: {each} bytes each", empty >> 20, warm >> 20);
    }
    let start = Instant::now();
    let mut shown = Duration::ZERO;
    let mut beat = tokio::time::interval(Duration::from_secs(5));
    while start.elapsed() < time {
        beat.tick().await;
        looked_through(&stage.pair, count).await?;
        if start.elapsed() >= shown + Duration::from_mins(1) {
            shown = start.elapsed();
            let [front, inner] = resident(&stage.pair)?.map(|bytes| bytes >> 10);
            eprintln!("{:>4.0} s: {front} KiB, {inner} KiB", shown.as_secs_f64());
        }
    }
    let after = resident(&stage.pair)?;
    for (which, (after, warm)) in BOTH.into_iter().zip(after.into_iter().zip(warm)) {
        eprintln!(
            "{which:?}: {} KiB after {:.0} s, {} KiB warm",
            after >> 10,
            time.as_secs_f64(),
            warm >> 10
        );
        ensure!(after <= warm + SLACK, "{which:?} grew from {warm} to {after} bytes");
    }
    for client in clients.iter_mut().step_by(97) {
        echo(client, b"alive").await?;
    }
    drop(clients);
    for which in BOTH {
        until(&format!("{which:?} is empty"), Duration::from_secs(60), async || {
            (stage.pair.live(which).await.ok()? == 0).then_some(())
        })
        .await?;
    }
    drop(connect(stage.pair.tls()).await?);
    stage.pair.teardown().await
}

/// Must reach: 8,000 idle bridged connections, or what the descriptor limit allows, without growth over ten minutes.
#[tokio::test]
#[ignore = "long: run by make soak"]
async fn idle_bridged_connections_cost_memory_once() -> Result<()> {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    soak(affordable(), Duration::from_secs(seconds.unwrap_or(600))).await
}

/// The same in small, so that it cannot rot.
#[tokio::test]
async fn a_few_hundred_idle_connections_cost_memory_once() -> Result<()> {
    soak(300, Duration::from_secs(2)).await
}
