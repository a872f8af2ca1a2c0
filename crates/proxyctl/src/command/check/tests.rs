//! `check` on good files, on files with mistakes, and on none.

use super::*;
use crate::fake::{is, run, shown};

const SMARTPROXY: &str = "\
version: 1
routes:
  - name: a
    match: { ports: [443], domain: [a.example.com] }
    tls: passthrough
    forward: { tagrets: [10.0.0.1:443] }
";
const NETWORKPROXY: &str = "\
version: 1
certificates:
  files: [{ cert_file: /nonexistent/a.pem, key_file: /nonexistent/a.key }]
";

fn file(directory: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// P9: every problem at once, with file, line and column, and the nearest valid name.
#[tokio::test]
async fn every_problem_of_every_file_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let one = file(&directory, "one.yaml", SMARTPROXY);
    let two = file(
        &directory,
        "two.yaml",
        "version: 1\nhop: { listen: 127.0.0.1:74430 }\ntls: { min_version: \"9\" }\n",
    );
    let (code, text) = run(&format!("check {one} {two}")).await;
    assert!(is(code.unwrap(), ExitCode::from(2)));
    for start in
        [format!("{one}:4:28: "), format!("{one}:6:16: "), format!("{two}:2:16: "), format!("{two}:3:21: ")]
    {
        assert!(text.lines().any(|line| line.starts_with(&start)), "{start} in\n{text}");
    }
    assert!(text.contains("did you mean `targets`?"), "{text}");
    assert!(!text.contains("good"), "{text}");
}

#[tokio::test]
async fn the_keys_tell_which_file_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let one = file(&directory, "a", config::DEFAULT_SMARTPROXY);
    let two = file(&directory, "b", config::DEFAULT_NETWORKPROXY);
    let (code, text) = run(&format!("check {one} {two}")).await;
    assert!(is(code.unwrap(), ExitCode::SUCCESS), "{text}");
    assert_eq!(text, format!("{one}: good (smartproxy, routes: 2)\n{two}: good (networkproxy)\n"));
}

#[tokio::test]
async fn files_that_are_named_are_opened_unless_they_are_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "n.yaml", NETWORKPROXY);
    let (code, text) = run(&format!("check {path}")).await;
    assert!(is(code.unwrap(), ExitCode::from(2)));
    assert!(text.contains("/nonexistent/a.key"), "{text}");
    let (code, text) = run(&format!("check --elsewhere {path}")).await;
    assert!(is(code.unwrap(), ExitCode::SUCCESS), "{text}");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_an_error_with_its_name() {
    let (code, text) = run("check /nonexistent/smartproxy.yaml").await;
    assert!(is(code.unwrap(), ExitCode::from(2)));
    assert!(text.starts_with("/nonexistent/smartproxy.yaml:1:1: the file cannot be read"), "{text}");
}

#[test]
fn a_warning_is_shown_in_its_place_and_does_not_fail() {
    let place = |line| config::Place { file: "f".into(), line, column: 1 };
    let config = config::check_any("f", config::DEFAULT_NETWORKPROXY, &Surroundings::ideal()).config;
    let report = Report {
        errors: Vec::new(),
        warnings: vec![config::Problem::new(place(7), "this is odd", "something else")],
        config,
    };
    let text = shown(|screen| show(Path::new("f"), &report, screen));
    assert_eq!(text, "f:7:1: warning: this is odd; expected something else\nf: good (networkproxy)\n");
    let mixed =
        Report { errors: vec![config::Problem::new(place(9), "wrong", "right")], config: None, ..report };
    let text = shown(|screen| show(Path::new("f"), &mixed, screen));
    assert_eq!(text, "f:7:1: warning: this is odd; expected something else\nf:9:1: wrong; expected right\n");
}

#[tokio::test]
async fn json_lists_the_problems_of_all_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "one.yaml", SMARTPROXY);
    let (code, text) = run(&format!("check -o json {path}")).await;
    assert!(is(code.unwrap(), ExitCode::from(2)));
    let problems: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!((&problems[0]["line"], &problems[0]["severity"]), (&json!(4), &json!("error")));
    let good = file(&directory, "good.yaml", config::DEFAULT_NETWORKPROXY);
    assert_eq!(run(&format!("check -o json {good}")).await.1, "[]\n");
}
