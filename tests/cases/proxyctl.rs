//! `proxyctl` against the two real processes: what an operator does without grpcurl.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use e2e::client::tls::Tls;
use e2e::client::{Ending, echo, read_to_end};
use e2e::process::binaries;
use e2e::target::Target;
use e2e::wait::{SOON, within};
use e2e::{Address, Pair, Route, Setup, Which};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::Command;

/// Exit code, standard output, standard error.
type Said = (i32, String, String);

async fn ask(pair: &Pair, which: Which, arguments: &[&str]) -> Result<Said> {
    let mut command = Command::new(binaries().join("proxyctl"));
    command
        .args(["--address", &pair.admin_address(which).to_string(), "--token-file"])
        .arg(pair.directory().join("control.token"))
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = within(&format!("proxyctl {arguments:?}"), SOON * 2, command.output()).await??;
    Ok((
        output.status.code().context("an exit code")?,
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

async fn answered(pair: &Pair, which: Which, arguments: &[&str]) -> Result<String> {
    let (code, out, err) = ask(pair, which, arguments).await?;
    ensure!(code == 0, "proxyctl {arguments:?} left with {code}: {out}{err}");
    Ok(out)
}

/// Every command that asks, of either process; JSON is the API's own.
#[tokio::test]
async fn an_operator_finds_a_connection_and_closes_it() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let route = Route::terminate_tcp("app", target.address()).domain("app.test");
    let pair = Pair::start(address, Setup::new([route])).await?;
    let mut client = Tls::to("app.test").connect(pair.tls()).await?;
    echo(&mut client, b"hello").await?;
    let from = client.get_ref().0.local_addr()?;
    let id = pair.id(from).await?;
    let end = &id[id.len() - 8..];
    pair.in_phase(Which::Networkproxy, from, "RELAYING").await?;
    pair.in_phase(Which::Smartproxy, from, "RELAYING").await?;
    for which in e2e::BOTH {
        let table = answered(&pair, which, &["list"]).await?;
        ensure!(table.contains(end) && table.contains("app"), "{table}");
        let listed: Value = serde_json::from_str(&answered(&pair, which, &["list", "-o", "json"]).await?)?;
        assert_eq!(listed["connections"][0]["id"], id.as_str(), "{listed:#}");
        let shown = answered(&pair, which, &["get", end]).await?;
        ensure!(shown.contains(&id) && shown.contains("relaying"), "{shown}");
        let shown: Value = serde_json::from_str(&answered(&pair, which, &["get", end, "-o", "json"]).await?)?;
        ensure!(shown.to_string().contains(&id), "{shown:#}");
        answered(&pair, which, &["counters"]).await?;
        let status = answered(&pair, which, &["status"]).await?;
        ensure!(status.to_lowercase().contains("ready"), "{status}");
        let audit = answered(&pair, which, &["audit", "--wait", "10s"]).await?;
        ensure!(!audit.is_empty());
        answered(&pair, which, &["health"]).await?;
        let (code, _, err) = ask(&pair, which, &["get", "ffffffffffff"]).await?;
        ensure!(code == 1 && !err.is_empty(), "{code} {err}");
    }
    assert_eq!(answered(&pair, Which::Smartproxy, &["token"]).await?.trim(), pair.token()?);
    answered(&pair, Which::Networkproxy, &["close", end, "--abort", "--note", "tidying up"]).await?;
    assert_eq!(read_to_end(&mut client, SOON).await?.1, Ending::Reset);
    let record = pair.ended_joined(from, "operator_closed", "operator").await?;
    ensure!(record["termination"]["evidence"].as_str().is_some_and(|text| text.contains("tidying up")));
    let closed = answered(&pair, Which::Smartproxy, &["list", "--reason", "operator_closed"]).await?;
    ensure!(closed.contains(end), "{closed}");
    drop(client);
    pair.teardown().await
}

/// Exit codes: 1 where nobody answers, 2 for wrong usage and for a file with mistakes; `check` tells the two files apart.
#[tokio::test]
async fn exit_codes_can_be_scripted() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let mut pair = Pair::start(address, Setup::new([Route::tcp("echo", target.address())])).await?;
    for which in e2e::BOTH {
        let file = pair.process(which).config().display().to_string();
        answered(&pair, which, &["check", &file]).await?;
    }
    let wrong = pair.directory().join("wrong.yaml");
    std::fs::write(&wrong, "version: 1\nroutes:\n  - name: a\n    match: { ports: [1] }\n    blok: {}\n")?;
    let (code, out, err) = ask(&pair, Which::Smartproxy, &["check", &wrong.display().to_string()]).await?;
    ensure!(code == 2 && format!("{out}{err}").contains("wrong.yaml:5:"), "{code} {out}{err}");
    let (code, _, _) = ask(&pair, Which::Smartproxy, &["list", "--phase", "no-such-phase"]).await?;
    assert_eq!(code, 2);
    pair.kill9(Which::Networkproxy)?;
    for command in ["health", "status", "audit"] {
        let (code, _, err) = ask(&pair, Which::Networkproxy, &[command]).await?;
        ensure!(code == 1 && !err.is_empty(), "{command}: {code} {err}");
    }
    pair.restart(Which::Networkproxy).await?;
    pair.teardown().await
}

/// `pause` owns a namespace: it does nothing, and leaves at once when it is told to.
#[tokio::test]
async fn pause_waits_for_its_signal() -> Result<()> {
    let mut child = Command::new(binaries().join("proxyctl")).arg("pause").kill_on_drop(true).spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).context("a pid")?;
    // It handles the signal once it sleeps; a default disposition would end it with the signal instead of exit 0.
    e2e::wait::until("it waits", SOON, async || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
        (caught & (1 << (Signal::TERM.as_raw() - 1)) != 0).then_some(())
    })
    .await?;
    kill_process(pid, Signal::TERM)?;
    let status = within("it leaves", SOON, child.wait()).await??;
    ensure!(status.success(), "{status}");
    Ok(())
}
