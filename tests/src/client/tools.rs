//! Owns the third-party clients: curl and openssl, as an operator would call them.
//!
//! They trust the authority of the run through a file. Nothing here retries, and every program has a bound.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::certificates::Authority;

/// No call of a tool takes longer.
const BOUND: Duration = Duration::from_secs(20);

/// What a program said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// `curl` for `https://NAME:PORT/PATH` at `to`, with more arguments.
pub async fn curl(directory: &Path, to: SocketAddr, name: &str, path: &str, more: &[&str]) -> Result<Said> {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--include", "--noproxy", "*", "--max-time", "15"])
        .arg("--resolve")
        .arg(format!("{name}:{}:{}", to.port(), to.ip()))
        .arg("--cacert")
        .arg(authority(directory)?)
        .args(more)
        .arg(format!("https://{name}:{}{path}", to.port()));
    run(command).await
}

/// `openssl s_client` to `to`, with more arguments: says `input`, and goes when it was answered with `answer`.
pub async fn s_client(
    directory: &Path,
    to: SocketAddr,
    input: &str,
    answer: &str,
    more: &[&str],
) -> Result<Said> {
    let authority = authority(directory)?.display().to_string();
    let trusting = ["-verify_return_error", "-CAfile", &authority];
    s_client_unverified(to, input, answer, &[&trusting, more].concat()).await
}

/// As [`s_client`], whatever the certificate.
pub async fn s_client_unverified(to: SocketAddr, input: &str, answer: &str, more: &[&str]) -> Result<Said> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &to.to_string()]).args(more);
    let mut child = spawn(&mut command)?;
    let (mut stdin, mut stdout) =
        (child.stdin.take().context("a pipe")?, child.stdout.take().context("a pipe")?);
    let mut out = Vec::new();
    let talk = async {
        // Its standard input stays open until it was answered: its end is what makes it go.
        stdin.write_all(input.as_bytes()).await?;
        while !String::from_utf8_lossy(&out).contains(answer) && stdout.read_buf(&mut out).await? > 0 {}
        drop(stdin);
        stdout.read_to_end(&mut out).await?;
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(BOUND, talk).await;
    let output = output.with_context(|| format!("{command:?} did not end within {BOUND:?}"))??;
    Ok(Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&out).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

async fn run(mut command: Command) -> Result<Said> {
    let mut child = spawn(&mut command)?;
    drop(child.stdin.take());
    let output = tokio::time::timeout(BOUND, child.wait_with_output())
        .await
        .with_context(|| format!("{command:?} did not end within {BOUND:?}"))??;
    Ok(Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn spawn(command: &mut Command) -> Result<tokio::process::Child> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.spawn().with_context(|| format!("starting {command:?}"))
}

fn authority(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("authority.pem");
    std::fs::write(&path, Authority::of_this_run().pem())?;
    Ok(path)
}
