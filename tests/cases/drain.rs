//! Leaving in order: SIGTERM of either process, its deadline, a second signal, SIGHUP.
//!
//! A process that drains takes nothing new, lets finish what it has, tells the other, and leaves with exit code 0 when it
//! is empty or its deadline passes; nobody is refused who could be served.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::client::http::{Http, empty, fetch, whole};
use e2e::client::{Ending, connect, echo, read_to_end};
use e2e::cutter::Way;
use e2e::wait::{SOON, until};
use e2e::{Pair, Setup, Which};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;

use crate::load::{Arrivals, Stage, freeze};

/// A drain that is not cut short has 30 s; one that left when it was empty took nothing like it.
const AT_ONCE: Duration = Duration::from_secs(8);

/// Waits until `/readyz` of a process says no while `/healthz` says yes.
async fn not_ready(pair: &Pair, which: Which) -> Result<()> {
    until(&format!("{which:?} is not ready"), SOON, async || {
        let (status, _) = fetch(pair.metrics_address(which), "/readyz").await.ok()?;
        (status == 503).then_some(())
    })
    .await?;
    let (status, _) = fetch(pair.metrics_address(which), "/healthz").await?;
    ensure!(status == 200, "a draining process is healthy: {status}");
    Ok(())
}

/// It left by itself, with exit code 0, long before the deadline of a drain.
async fn left(pair: &mut Pair, which: Which) -> Result<()> {
    let status = pair.ended(which, AT_ONCE).await?;
    ensure!(status.success(), "{which:?} left with {status}");
    Ok(())
}

/// What `which` says of how its only session ended.
async fn last_end(pair: &Pair, which: Which) -> Result<String> {
    let end = until("the session is over", SOON, async || {
        let status = pair.status(which).await.ok()?;
        let peer = status["peers"].as_array()?.iter().find(|peer| peer["connected"] == false)?.clone();
        Some(peer["last_end"].as_str()?.to_owned())
    })
    .await?;
    Ok(end)
}

/// smartproxy lets its connections finish, and is gone when the last one is.
#[tokio::test]
async fn smartproxy_leaves_when_its_last_connection_did() -> Result<()> {
    let mut stage = Stage::start(|setup| setup).await?;
    let mut relayed = stage.pass_client().await?;
    let mut bridged = stage.opaque_client().await?;
    stage.pair.terminate(Which::Smartproxy)?;
    not_ready(&stage.pair, Which::Smartproxy).await?;
    until("the ports are closed", SOON, async || connect(stage.pair.tls()).await.err().map(drop)).await?;
    echo(&mut relayed, b"goes on").await?;
    echo(&mut bridged, b"goes on").await?;
    ensure!(stage.pair.is_running(Which::Smartproxy));
    let from = bridged.get_ref().0.local_addr()?;
    drop((relayed, bridged));
    left(&mut stage.pair, Which::Smartproxy).await?;
    stage.pair.ended_with(from, "client_closed", "client").await?;
    ensure!(last_end(&stage.pair, Which::Networkproxy).await?.contains("left"), "the goodbye was heard");
    stage.pair.restart(Which::Smartproxy).await?;
    stage.balances_soon().await?;
    stage.pair.teardown().await
}

/// a client that waited in the accept queue when the word came is served.
#[tokio::test]
async fn a_client_in_the_accept_queue_is_served_before_the_port_closes() -> Result<()> {
    let mut stage = Stage::start(|setup| setup).await?;
    freeze(&stage.pair, Which::Smartproxy).await?;
    let mut queued = Vec::new();
    for _ in 0..8 {
        let mut client = connect(stage.pair.tcp()).await?;
        client.write_all(b"queued").await?;
        queued.push(client);
    }
    stage.pair.terminate(Which::Smartproxy)?;
    stage.pair.cont(Which::Smartproxy)?;
    for client in &mut queued {
        ensure!(e2e::client::read(client, 6).await? == b"queued", "an echo");
    }
    drop(queued);
    left(&mut stage.pair, Which::Smartproxy).await?;
    stage.pair.restart(Which::Smartproxy).await?;
    stage.pair.teardown().await
}

/// networkproxy finishes the requests that it has: idle HTTP/1 ends in order, HTTP/2 gets GOAWAY, answers in
/// progress arrive whole and say `connection: close`.
#[tokio::test]
async fn networkproxy_answers_what_it_was_asked_and_leaves() -> Result<()> {
    let mut stage = Stage::start(|setup| setup).await?;
    let mut idle = Http::tls1(stage.pair.tls(), "other.test").await?;
    ensure!(idle.get("other.test", "/head").await?.status == 200);
    let mut idle2 = Http::tls2(stage.pair.tls(), "other.test").await?;
    ensure!(idle2.get("other.test", "/head").await?.status == 200);
    let mut one = Http::tls1(stage.pair.tls(), "other.test").await?;
    let request = one.request("GET", "other.test", "/held", empty())?;
    let answer_one = one.begin(request).await?;
    let mut two = Http::tls2(stage.pair.tls(), "other.test").await?;
    let request = two.request("GET", "other.test", "/held", empty())?;
    let answer_two = two.begin(request).await?;
    for asking in [one.local(), two.local()] {
        stage.pair.in_phase(Which::Networkproxy, asking, "HTTP_ACTIVE").await?;
    }
    stage.pair.terminate(Which::Networkproxy)?;
    not_ready(&stage.pair, Which::Networkproxy).await?;
    for idle in [&mut idle, &mut idle2] {
        idle.closed().await?.context("an idle connection ends in order")?;
    }
    for idle in [idle.local(), idle2.local()] {
        drained_or_left(&stage.pair, idle).await?;
    }
    ensure!(stage.pair.is_running(Which::Networkproxy));
    stage.web.release();
    let reply = whole(tokio::time::timeout(SOON, answer_one).await??).await?;
    ensure!(reply.status == 200 && reply.text() == "released", "{reply:?}");
    ensure!(reply.header("connection") == "close", "{reply:?}");
    let reply = whole(tokio::time::timeout(SOON, answer_two).await??).await?;
    ensure!(reply.status == 200 && reply.text() == "released", "{reply:?}");
    one.closed().await?.context("ends in order")?;
    two.closed().await?.context("ends in order, after GOAWAY")?;
    left(&mut stage.pair, Which::Networkproxy).await?;
    for asking in [one.local(), two.local()] {
        drained_or_left(&stage.pair, asking).await?;
    }
    ensure!(last_end(&stage.pair, Which::Smartproxy).await?.contains("left"), "the goodbye was heard");
    stage.pair.restart(Which::Networkproxy).await?;
    stage.balances_soon().await?;
    stage.pair.teardown().await
}

/// A client that was told that the server leaves may go with our last words unread: its kernel says so with a reset.
async fn drained_or_left(pair: &Pair, from: std::net::SocketAddr) -> Result<()> {
    let record = pair.settled(Which::Smartproxy, from).await?;
    match record["termination"]["reason"].as_str() {
        Some("REASON_CLIENT_RESET") => pair.ended_with(from, "client_reset", "client").await?,
        _ => pair.ended_with(from, "drained", "networkproxy").await?,
    };
    Ok(())
}

/// What does not end by itself ends at the deadline of the drain: not before, with that reason, as a reset.
#[tokio::test]
async fn what_stays_ends_at_the_drains_deadline() -> Result<()> {
    for which in e2e::BOTH {
        let change = |setup: Setup| setup.timeout("drain", "700ms").inner_timeout("drain", "700ms");
        let mut stage = Stage::start(change).await?;
        let mut client = stage.opaque_client().await?;
        let from = client.get_ref().0.local_addr()?;
        let start = Instant::now();
        stage.pair.terminate(which)?;
        ensure!(read_to_end(&mut client, SOON).await? == (Vec::new(), Ending::Reset), "{which:?}");
        ensure!(start.elapsed() >= Duration::from_millis(690), "{which:?}: {:?}", start.elapsed());
        stage.opaque.all_reset(1).await?;
        left(&mut stage.pair, which).await?;
        let initiator = if which == Which::Smartproxy { "smartproxy" } else { "networkproxy" };
        let record = stage.pair.ended_with(from, "drain_deadline", initiator).await?;
        let rule = &record["termination"]["rule"];
        ensure!((rule["name"] == "drain") && (rule["limit"] == "700ms"), "{rule:#}");
        stage.pair.restart(which).await?;
        stage.pair.teardown().await?;
    }
    Ok(())
}

/// a route's own `drain` counts, shorter or longer than the process's, for its connections alone.
#[tokio::test]
async fn a_routes_own_drain_rules_its_connections() -> Result<()> {
    let address = e2e::Address::next();
    let target = e2e::target::Target::echo(address).await?;
    let routes = [
        e2e::Route::passthrough("short", target.address()).domain("short.test").timeout("drain", "200ms"),
        e2e::Route::passthrough("long", target.address()).domain("long.test").timeout("drain", "1200ms"),
    ];
    let mut pair = Pair::start(address, Setup::new(routes).timeout("drain", "600ms")).await?;
    let mut clients = Vec::new();
    for name in ["short.test", "long.test"] {
        let mut client = connect(pair.tls()).await?;
        echo(&mut client, &e2e::client::tls::Tls::to(name).hello()?).await?;
        clients.push(client);
    }
    let start = Instant::now();
    pair.terminate(Which::Smartproxy)?;
    for (mut client, limit) in clients.into_iter().zip([200, 1_200]) {
        ensure!(read_to_end(&mut client, SOON).await? == (Vec::new(), Ending::Reset), "{limit} ms");
        let took = start.elapsed();
        let limit = Duration::from_millis(limit);
        ensure!(took + Duration::from_millis(10) >= limit, "{took:?} of {limit:?}");
    }
    left(&mut pair, Which::Smartproxy).await?;
    pair.restart(Which::Smartproxy).await?;
    pair.teardown().await
}

/// A second signal ends everything at once.
#[tokio::test]
async fn a_second_signal_ends_everything_at_once() -> Result<()> {
    for which in e2e::BOTH {
        let mut stage = Stage::start(|setup| setup).await?;
        let mut client = stage.opaque_client().await?;
        let from = client.get_ref().0.local_addr()?;
        stage.pair.terminate(which)?;
        not_ready(&stage.pair, which).await?;
        echo(&mut client, b"the first signal lets it finish").await?;
        stage.pair.terminate(which)?;
        ensure!(read_to_end(&mut client, SOON).await? == (Vec::new(), Ending::Reset), "{which:?}");
        left(&mut stage.pair, which).await?;
        let initiator = if which == Which::Smartproxy { "smartproxy" } else { "networkproxy" };
        stage.pair.ended_with(from, "shutdown", initiator).await?;
        stage.pair.restart(which).await?;
        stage.pair.teardown().await?;
    }
    Ok(())
}

/// SIGHUP looks at the file and changes nothing, whether the file is in order or not.
#[tokio::test]
async fn a_hangup_checks_the_file_and_changes_nothing() -> Result<()> {
    let stage = Stage::start(|setup| setup).await?;
    let mut client = stage.opaque_client().await?;
    for which in e2e::BOTH {
        stage.pair.signal(which, Signal::HUP)?;
        until(&format!("{which:?} has checked its file"), SOON, async || {
            stage.pair.process(which).log().contains("SIGHUP: the configuration file is valid").then_some(())
        })
        .await?;
        let before = stage.pair.status(which).await?;
        ensure!(before["configuration_generation"] == 1 && before["phase"] == "PROCESS_PHASE_READY");
    }
    echo(&mut client, b"nobody noticed").await?;
    drop(client);
    stage.pair.teardown().await
}

/// until smartproxy knows of the drain, networkproxy serves what smartproxy still sends.
#[tokio::test]
async fn a_draining_networkproxy_serves_until_smartproxy_knows() -> Result<()> {
    let mut stage = Stage::start(Setup::cut).await?;
    stage.pair.cutter().set(Way::Freeze);
    stage.pair.terminate(Which::Networkproxy)?;
    not_ready(&stage.pair, Which::Networkproxy).await?;
    let mut client = stage.opaque_client().await?;
    echo(&mut client, b"served by the one that leaves").await?;
    stage.pair.cutter().set(Way::Pass);
    echo(&mut client, b"and goes on").await?;
    ensure!(stage.pair.is_running(Which::Networkproxy));
    drop(client);
    left(&mut stage.pair, Which::Networkproxy).await?;
    stage.pair.restart(Which::Networkproxy).await?;
    stage.balances_soon().await?;
    stage.pair.teardown().await
}

/// A rolling upgrade: with a second networkproxy there, the first one's leaving refuses nobody and ends nothing early.
#[tokio::test]
async fn new_clients_go_to_the_second_while_the_first_drains() -> Result<()> {
    let mut stage = Stage::start(|setup| setup).await?;
    let mut staying = stage.opaque_client().await?;
    let arriving = Arrivals::start(stage.pair.tls(), Duration::from_millis(15));
    stage.pair.begin(Which::Second)?;
    stage.pair.answering(Which::Second).await?;
    stage.pair.serving(Which::Second).await?;
    stage.pair.terminate(Which::Networkproxy)?;
    not_ready(&stage.pair, Which::Networkproxy).await?;
    echo(&mut staying, b"goes on").await?;
    let opened = stage.opaque.target.accepted();
    until("new clients are served", SOON, async || {
        (stage.opaque.target.accepted() >= opened + 20).then_some(())
    })
    .await?;
    echo(&mut staying, b"goes on").await?;
    drop(staying);
    left(&mut stage.pair, Which::Networkproxy).await?;
    let (served, lost) = arriving.none_refused(&stage.pair).await?;
    ensure!(served >= 20 && lost == 0, "{served} served, {lost} lost");
    stage.pair.restart(Which::Networkproxy).await?;
    stage.pair.live_is(Which::Smartproxy, 0).await?;
    stage.balances_soon().await?;
    // smartproxy's baseline knows one session.
    stage.pair.terminate(Which::Second)?;
    left(&mut stage.pair, Which::Second).await?;
    stage.pair.teardown().await
}
