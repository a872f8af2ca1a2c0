//! What the documents promise about the repository itself: the files they name are there.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

const PAGES: [&str; 9] = [
    "README.md",
    "docs/api.md",
    "docs/architecture.md",
    "docs/configuration.md",
    "docs/ledger.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/requirements.md",
    "CHANGELOG.md",
];

/// A page that names a test, a source file or a sample names one that exists.
#[test]
fn every_file_that_a_page_names_exists() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let mut named = 0;
    for page in PAGES {
        let text = std::fs::read_to_string(root.join(page)).with_context(|| page.to_owned())?;
        for word in text.split(['`', ' ', '(', ')', ',', '\n']) {
            let ours =
                ["crates/", "tests/", "deploy/", "docs/", "proto/"].iter().any(|at| word.starts_with(at));
            let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if !ours || !plain {
                continue;
            }
            named += 1;
            ensure!(
                root.join(word.trim_end_matches('.')).exists(),
                "{page} names {word}, which is not there"
            );
        }
    }
    ensure!(named > 30, "only {named} names were found");
    Ok(())
}

/// Every requirement that is not waiting for a feature has a test that names it.
#[test]
fn every_requirement_has_a_test_that_names_it() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let mut tests = String::new();
    for place in ["crates", "tests"] {
        gather(&root.join(place), &mut tests)?;
    }
    let page = std::fs::read_to_string(root.join("docs/requirements.md"))?;
    let mut asked = 0;
    for row in page.lines().filter(|row| row.starts_with("| R-") && !row.contains("| later: ")) {
        let name = row.trim_start_matches("| ").split([' ', ',']).next().context("a number")?;
        let named = tests.match_indices(name).any(|(at, _)| {
            let after = tests[at + name.len()..].chars().next();
            !after.is_some_and(|next| next.is_ascii_digit())
        });
        ensure!(named, "no test names {name}: {row}");
        asked += 1;
    }
    ensure!(asked > 50, "only {asked} requirements were found");
    Ok(())
}

/// The text of everything that is or holds a test, this file apart.
fn gather(place: &Path, tests: &mut String) -> Result<()> {
    for entry in std::fs::read_dir(place)? {
        let path = entry?.path();
        if path.is_dir() {
            gather(&path, tests)?;
            continue;
        }
        let text = match path.extension().and_then(std::ffi::OsStr::to_str) {
            Some("rs" | "sh") if !path.ends_with("documents.rs") => std::fs::read_to_string(&path)?,
            _ => continue,
        };
        let in_tests =
            path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
        let from = if in_tests { 0 } else { text.find("#[cfg(test)]").unwrap_or(text.len()) };
        tests.push_str(&text[from..]);
    }
    Ok(())
}
