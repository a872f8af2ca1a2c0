//! The program itself: exit codes, streams, signals.
//!
//! *Owns* the child processes that it starts. *Never* talks to a proxy. *Invariant*: waits are bounded, and a
//! child that is left is killed.

use std::io::Read as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Long enough for any machine, short enough for a person.
const BOUND: Duration = Duration::from_secs(20);

fn proxyctl(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proxyctl"));
    command.args(words).stdin(Stdio::null());
    command
}

fn output(words: &[&str]) -> Output {
    proxyctl(words).output().expect("the build made it")
}

/// Waits for the child's end; kills it where it does not come.
fn ended(mut child: Child) -> Option<i32> {
    let started = Instant::now();
    while started.elapsed() < BOUND {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().and_then(|()| child.wait()).expect("it is our child");
    panic!("it did not end within {BOUND:?}");
}

/// Signals that the process handles, as a bit mask (proc_pid_status(5), SigCgt).
fn caught(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[test]
fn pause_does_nothing_until_it_is_told_to_end() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut child = proxyctl(&["pause"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let bit = 1 << (signal.as_raw() - 1);
        let started = Instant::now();
        // It listens once the kernel says that the signal has a handler.
        while caught(pid) & bit == 0 {
            assert!(started.elapsed() < BOUND, "it never handled {signal:?}");
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut said = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(ended(child), Some(0));
        let mut text = String::new();
        said.0.read_to_string(&mut text).unwrap();
        said.1.read_to_string(&mut text).unwrap();
        assert_eq!(text, "");
    }
}

#[test]
fn wrong_usage_exits_with_2_and_a_failure_with_1() {
    for words in [&["lst"][..], &["list", "--phase", "nowhere"], &["--address", "nowhere", "status"], &[]] {
        let output = output(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{words:?}");
    }
    let output = output(&["--address", "127.0.0.1:1", "status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("proxyctl: cannot connect: "), "{said}");
}

#[test]
fn help_and_version_are_no_errors() {
    for words in [&["--help"][..], &["--version"], &["list", "--help"]] {
        let output = output(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{words:?}");
    }
}

/// `proxyctl … | head`: whoever reads may stop.
#[test]
fn a_closed_pipe_is_no_error() {
    let mut child =
        proxyctl(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = child.stderr.take().unwrap();
    assert_eq!(ended(child), Some(0));
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

/// What was not written must not look as if it had been.
#[test]
fn a_full_disk_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = proxyctl(&["completions", "bash"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("proxyctl: cannot write the output: No space left"), "{said}");
}

/// The default path of the token, where no environment names a directory of the user's.
#[test]
fn the_token_is_found_where_smartproxy_makes_it() {
    let directory = tempfile::tempdir().unwrap();
    let ours = directory.path().join("smartproxy");
    std::fs::create_dir(&ours).unwrap();
    std::fs::write(ours.join("control.token"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let output = proxyctl(&["token"]).env("XDG_RUNTIME_DIR", directory.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"0123456789abcdef0123456789abcdef\n");
}

/// Colours are for terminals: a pipe gets none.
#[test]
fn output_to_a_pipe_has_no_colours() {
    let output = output(&["check", "/nonexistent/smartproxy.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!output.stdout.contains(&0x1b));
}
