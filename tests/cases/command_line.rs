//! The command line: exit codes, checks, signals, and the one instance for each control address.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use e2e::client::{connect, echo};
use e2e::process::binaries;
use e2e::target::Target;
use e2e::wait::{SOON, until};
use e2e::{Address, Pair, Route, Setup, Which};
use rustix::process::Signal;

const PROGRAMS: [&str; 2] = ["smartproxy", "networkproxy"];

fn run(program: &str, arguments: &[&str]) -> Result<(i32, String)> {
    let path = binaries().join(program);
    let Output { status, stdout, stderr } = Command::new(&path)
        .args(arguments)
        .output()
        .with_context(|| format!("running {}", path.display()))?;
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    Ok((status.code().context("an exit code")?, text))
}

/// P9: every problem at once, with file, line, column and the nearest name; nothing is started; exit 2.
#[test]
fn a_wrong_configuration_is_refused_with_every_problem() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("smartproxy.yaml");
    let text = "version: 1\ntimeouts: { conect: 5s, hold: soon }\nroutes:\n  - name: a\n    match: { ports: [70000] }\n    \
        forward: { tagrets: [\"127.0.0.1:1\"] }\n  - name: later\n    match: { ports: [80], path: /x }\n    \
        respond: { status: 200 }\n";
    std::fs::write(&file, text)?;
    let path = file.display().to_string();
    for arguments in [vec!["--config", &path, "--check"], vec!["--config", &path]] {
        let (code, said) = run("smartproxy", &arguments)?;
        assert_eq!(code, 2, "{said}");
        for part in
            [":2:", "conect", "did you mean `connect`", "soon", "70000", "tagrets", "not supported yet"]
        {
            ensure!(said.contains(part), "{part} is not in:\n{said}");
        }
        ensure!(
            said.lines().filter(|line| line.contains("smartproxy.yaml:")).count() >= 5,
            "all at once:\n{said}"
        );
    }
    let file = directory.path().join("networkproxy.yaml");
    std::fs::write(&file, "version: 1\npool: { max_idle: 3 }\nhop: { listen: nowhere }\n")?;
    let (code, said) = run("networkproxy", &["--config", &file.display().to_string(), "--check"])?;
    assert_eq!(code, 2, "{said}");
    ensure!(said.contains("max_idle") && said.contains("nowhere"), "{said}");
    Ok(())
}

/// Exit codes: 0 for a good file that is checked, 2 for wrong usage or a file that is not there, and a version.
#[test]
fn exit_codes_say_what_was_wrong() -> Result<()> {
    let directory = tempfile::tempdir()?;
    for program in PROGRAMS {
        let file = directory.path().join(format!("{program}.yaml"));
        std::fs::write(&file, "version: 1\n")?;
        let path = file.display().to_string();
        let (code, said) = run(program, &["--config", &path, "--check"])?;
        assert_eq!(code, 0, "{program}: {said}");
        let (code, said) = run(program, &["--check"])?;
        assert_eq!(code, 0, "{program}, the embedded default: {said}");
        for arguments in
            [vec!["--config", "/does/not/exist", "--check"], vec!["--no-such-option"], vec!["stray"]]
        {
            let (code, said) = run(program, &arguments)?;
            assert_eq!(code, 2, "{program} {arguments:?}: {said}");
        }
        let (code, said) = run(program, &["--version"])?;
        ensure!(code == 0 && said.contains(program), "{said}");
    }
    Ok(())
}

/// The control port is the lock: a second smartproxy on the same file ends with exit 1 and words, and takes no
/// connection from the first.
#[tokio::test]
async fn a_second_smartproxy_does_not_start() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let pair = Pair::start(address, Setup::new([Route::tcp("echo", target.address())])).await?;
    let config = pair.process(Which::Smartproxy).config().display().to_string();
    let (code, said) =
        tokio::task::spawn_blocking(move || run("smartproxy", &["--config", &config])).await??;
    ensure!(code == 1 || code == 2, "{code}: {said}");
    ensure!(
        said.contains(&pair.admin_address(Which::Smartproxy).to_string()) || said.contains("7800"),
        "{said}"
    );
    for _ in 0..20 {
        let mut client = connect(pair.tcp()).await?;
        echo(&mut client, b"the first one's").await?;
    }
    pair.teardown().await
}

/// SIGHUP checks the file and says what it found; it never ends the process, whatever the file holds by then.
#[tokio::test]
async fn a_hangup_checks_the_file_and_goes_on() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let pair = Pair::start(address, Setup::new([Route::tcp("echo", target.address())])).await?;
    for which in e2e::BOTH {
        let config = pair.process(which).config().to_path_buf();
        std::fs::write(&config, "version: 1\nno_such_key: 1\n")?;
        pair.signal(which, Signal::HUP)?;
        until("the mistake is logged", SOON, async || {
            pair.process(which).log().contains("no_such_key").then_some(())
        })
        .await?;
        assert_eq!(
            pair.status(which).await?["configuration_generation"],
            1,
            "{which:?}: nothing is half applied"
        );
    }
    let mut client = connect(pair.tcp()).await?;
    echo(&mut client, b"still the old routes").await?;
    drop(client);
    pair.teardown_expecting(&e2e::Expected::nothing().error("no_such_key")).await
}

/// smartproxy alone makes the token, for its owner's eyes only, and keeps one that is there.
#[tokio::test]
async fn the_token_is_made_once_and_kept_secret() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let address = Address::next();
    let target = Target::echo(address).await?;
    let mut pair = Pair::start(address, Setup::new([Route::tcp("echo", target.address())])).await?;
    let file = pair.directory().join("control.token");
    let mode = std::fs::metadata(&file)?.permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let token = pair.token()?;
    ensure!(token.len() >= 32, "{} letters", token.len());
    pair.kill9(Which::Smartproxy)?;
    pair.restart(Which::Smartproxy).await?;
    assert_eq!(pair.token()?, token);
    for which in e2e::BOTH {
        ensure!(!pair.process(which).log().contains(&token), "{which:?} logged the token");
    }
    pair.teardown().await
}

/// A public port that is taken ends the start with words.
#[tokio::test]
async fn a_port_that_is_taken_is_named() -> Result<()> {
    let address = Address::next();
    let taken = tokio::net::TcpListener::bind(address.port(9_000)).await?;
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("smartproxy.yaml");
    write_config(&config, address)?;
    let path = config.display().to_string();
    let (code, said) = tokio::task::spawn_blocking(move || run("smartproxy", &["--config", &path])).await??;
    ensure!(code == 1 || code == 2, "{code}: {said}");
    ensure!(said.contains("9000"), "{said}");
    drop(taken);
    Ok(())
}

fn write_config(path: &Path, address: Address) -> Result<()> {
    let token = path.with_file_name("token");
    let text = format!(
        "version: 1\nbind: [{address}]\ncontrol: {{ listen: \"{address}:7800\", token_file: {} }}\n\
         metrics: {{ listen: \"{address}:7810\" }}\nroutes:\n  - name: a\n    match: {{ ports: [9000] }}\n    \
         forward: {{ targets: [\"127.0.0.1:1\"] }}\n",
        token.display()
    );
    Ok(std::fs::write(path, text)?)
}
