//! Owns what a figure depends on besides the code: machine, kernel, versions, revision, date.
//!
//! Never fails: what cannot be found out is said to be unknown.

use std::fmt::Write as _;
use std::process::Command;

use crate::stage::Stage;
use crate::subject::{Subject, Terms};

/// Each fact with its name.
pub(crate) fn facts(profile: &str, load_average: &str) -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    vec![
        ("date", said("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        ("machine", format!("{}, {cores} cores", processor())),
        ("kernel", said("uname", &["-sr"])),
        ("load average before", load_average.to_owned()),
        ("revision", said("git", &["describe", "--always", "--dirty", "--abbrev=10"])),
        ("compiler", format!("{}, profile {profile}", said("rustc", &["--version"]))),
        ("HAProxy", said("haproxy", &["-v"])),
        ("nginx", said("nginx", &["-v"])),
        ("h2load", said("h2load", &["--version"])),
    ]
}

/// What else the machine had to do before, in words.
pub(crate) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The configurations, collapsed, for a page.
pub(crate) fn configurations(stage: &Stage, terms: &Terms, subjects: &[Subject]) -> String {
    let mut text = "<details><summary>The exact configurations (for one thread)</summary>\n".to_owned();
    for subject in subjects {
        for (name, content) in stage.files(*subject, terms) {
            let _ = write!(text, "\n`{name}`\n```\n{content}```\n");
        }
    }
    text + "\n</details>\n"
}

/// The first line that a program says, on either output.
fn said(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else { return "unknown".to_owned() };
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    line.map_or("unknown", |line| line.trim_start_matches([' ', '\t', ':'])).to_owned()
}
