//! Commands against a fake process: errors, tokens, exit codes, and the pages that name command lines.

use std::time::{Duration, Instant};

use clap::Parser as _;

use super::*;
use crate::fake::{Answers, Fake, ID, closed, connection, is, run};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A file that holds `token`.
fn token_file(token: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.token");
    std::fs::write(&path, format!("{token}\n")).unwrap();
    let path = path.display().to_string();
    (directory, path)
}

fn failure(result: (Result<ExitCode, Failure>, String)) -> String {
    let text = result.0.unwrap_err().to_string();
    assert!(!text.contains('\n'), "one line: {text}");
    text
}

#[tokio::test]
async fn a_refused_connection_asks_whether_the_process_runs() {
    // Bound and dropped: nobody listens there now.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = failure(run(&format!("status --address {address}")).await);
    assert!(text.contains("refused") && text.contains(&format!("running at {address}?")), "{text}");
}

#[tokio::test]
async fn a_port_that_speaks_something_else_is_told_apart() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        socket
    });
    let text = failure(run(&format!("status --address {address}")).await);
    assert!(text.contains("without a gRPC answer"), "{text}");
    drop(answering.await.unwrap());
}

/// A stopped process (SIGSTOP) still takes connections: the kernel does.
#[tokio::test]
async fn health_does_not_wait_for_a_process_that_stands_still() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let started = Instant::now();
    let text = failure(run(&format!("health --address {}", listener.local_addr().unwrap())).await);
    assert!(text.contains("no answer from") && text.contains("2000ms"), "{text}");
    assert!(started.elapsed() >= Duration::from_millis(1_900) && started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn health_is_the_exit_code() {
    for (unhealthy, expected, word) in
        [(false, ExitCode::SUCCESS, "serving\n"), (true, ExitCode::FAILURE, "not serving\n")]
    {
        let fake = Fake::start(Answers { unhealthy, ..Answers::default() }).await;
        let (code, text) = fake.run("health").await;
        assert!(is(code.unwrap(), expected));
        assert_eq!(text, word);
    }
}

/// P10: where reading needs the token, a health check has it from the token file.
#[tokio::test]
async fn health_passes_where_reading_needs_the_token() {
    let (_kept, file) = token_file(TOKEN);
    let fake = Fake::start(Answers { token: Some(TOKEN), ..Answers::default() }).await;
    assert!(is(fake.run_with(&file, "health").await.0.unwrap(), ExitCode::SUCCESS));
    let text = failure(fake.run("health").await);
    assert!(text.contains("wants the token") && text.contains("there is no token file"), "{text}");
    let (_kept, wrong) = token_file("another-token-of-some-length");
    let text = failure(fake.run_with(&wrong, "health").await);
    assert!(text.contains("refuses the token in") && text.contains(&wrong), "{text}");
}

#[tokio::test]
async fn every_command_that_asks_presents_the_token() {
    let (_kept, file) = token_file(TOKEN);
    let answers = Answers { token: Some(TOKEN), connections: vec![connection()], ..Answers::default() };
    let fake = Fake::start(answers).await;
    for line in ["list", "get 456789ab", "close 456789ab", "counters", "status", "health"] {
        assert!(fake.run_with(&file, line).await.0.is_ok(), "{line}");
        let text = failure(fake.run(line).await);
        assert!(text.contains("wants the token"), "{line}: {text}");
    }
}

#[tokio::test]
async fn close_says_how_and_why() {
    let (_kept, file) = token_file(TOKEN);
    let fake = Fake::start(Answers { connections: vec![connection()], ..Answers::default() }).await;
    let (code, text) = fake.run_with(&file, "close 456789ab --note maintenance").await;
    assert!(is(code.unwrap(), ExitCode::SUCCESS));
    assert_eq!(text, format!("{ID} is closing\n"));
    let (_, text) = fake.run_with(&file, "close 456789ab --abort").await;
    assert_eq!(text, format!("{ID} is reset\n"));
    let asked: Vec<_> = fake.seen().closes.into_iter().map(|r| (r.id, r.mode, r.note)).collect();
    let expected =
        [("456789ab".to_owned(), 1, "maintenance".to_owned()), ("456789ab".to_owned(), 2, String::new())];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn a_refusal_is_the_processes_own_words() {
    let (_kept, file) = token_file(TOKEN);
    let fake = Fake::start(Answers { connections: vec![closed()], ..Answers::default() }).await;
    let text = failure(fake.run_with(&file, "close 456789ab").await);
    assert_eq!(text, "it is over already: ask 127.0.0.1:7801");
    assert_eq!(failure(fake.run("get ffffff").await), "no record ends in ffffff");
}

/// A missing token is named before a process is asked to change anything.
#[tokio::test]
async fn close_without_a_token_does_not_ask() {
    let fake = Fake::start(Answers { connections: vec![connection()], ..Answers::default() }).await;
    let text = failure(fake.run("close 456789ab").await);
    assert!(text.contains("there is no token file /nonexistent/control.token"), "{text}");
    assert!(fake.seen().closes.is_empty());
}

#[tokio::test]
async fn token_prints_the_token_and_nothing_else() {
    let (_kept, file) = token_file(TOKEN);
    let (code, text) = run(&format!("token --token-file {file}")).await;
    assert!(is(code.unwrap(), ExitCode::SUCCESS));
    assert_eq!(text, format!("{TOKEN}\n"));
    let text = failure(run("token --token-file /nonexistent/control.token").await);
    assert!(text.contains("/nonexistent/control.token") && text.contains("first start"), "{text}");
}

#[tokio::test]
async fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, text) = run(&format!("completions {shell}")).await;
        assert!(is(code.unwrap(), ExitCode::SUCCESS));
        assert!(text.contains("proxyctl") && text.contains("counters"), "{shell}");
    }
}

/// documentation that is not code rots.
#[test]
fn every_command_line_of_the_documentation_is_understood() {
    let pages = [include_str!("../../../../docs/operations.md"), include_str!("../../../../README.md")];
    let mut read = 0;
    for line in pages.iter().flat_map(|page| page.lines()) {
        let line = line.trim_start().strip_prefix("target/debug/").unwrap_or(line.trim_start());
        if !line.starts_with("proxyctl ") {
            continue;
        }
        let command = line.split(" #").next().unwrap_or_default();
        let command = command.split(" | ").next().unwrap_or_default();
        // A quoted text is one word to the shell.
        let words = command.split('"').enumerate().flat_map(|(n, part)| match n % 2 {
            0 => part.split_whitespace().collect(),
            _ => vec![part],
        });
        if let Err(error) = Arguments::try_parse_from(words) {
            panic!("{line}: {error}");
        }
        read += 1;
    }
    assert!(read > 20, "the pages have {read} command lines");
}
