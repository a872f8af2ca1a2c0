//! Pages and samples that would rot if nothing read them: the reference page and the deployment's files.
//!
//! *Owns* the promise that what is written about configuration is what the reader does.

use std::fs;
use std::path::Path;

use config::{AnyConfig, FileKind, Surroundings, check_any, detect};

/// R-61: the page is what the tables say. To renew it:
/// `cargo run -q -p config --example reference > docs/configuration.md`.
#[test]
fn the_reference_page_is_made_from_the_tables() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let page = fs::read_to_string(path).expect("the page exists");
    let differ = page
        .lines()
        .zip(config::reference().lines())
        .find(|(there, made)| there != made)
        .map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(differ, None, "docs/configuration.md is not what the tables say");
    assert_eq!(page, config::reference());
}

/// R-61: every key that is not supported yet is marked so on the page.
#[test]
fn the_reference_page_marks_what_is_not_supported() {
    let page = config::reference();
    for row in ["`routes[].match.path` ", "`proxy_protocol` ", "`routes[].security` ", "`control.tls` "] {
        let line = page
            .lines()
            .find(|line| line.starts_with(&format!("| {row}")))
            .unwrap_or_else(|| panic!("{row}"));
        assert!(line.contains("**Not supported yet.**"), "{line}");
    }
    let tls = page.lines().find(|line| line.starts_with("| `routes[].tls` ")).expect("the row");
    assert!(tls.contains("Not supported yet: `reencrypt`"), "{tls}");
    let bind = page.lines().find(|line| line.starts_with("| `bind` ")).expect("the row");
    assert!(!bind.contains("Not supported") && bind.contains(r#"`["0.0.0.0", "::"]`"#), "{bind}");
}

/// R-61: the deployment's files are valid, without a warning, and each is the file that its name says.
#[test]
fn the_samples_of_the_deployment_are_valid() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy"));
    for file in
        ["smartproxy.yaml", "networkproxy.yaml", "container/smartproxy.yaml", "container/networkproxy.yaml"]
    {
        let text = fs::read_to_string(root.join(file)).expect("the sample exists");
        let report = check_any(file, &text, &Surroundings::ideal());
        assert_eq!((report.errors, report.warnings), (vec![], vec![]));
        let (kind, expected) = match report.config {
            Some(AnyConfig::Smartproxy(_)) => (FileKind::Smartproxy, "smartproxy.yaml"),
            Some(AnyConfig::Networkproxy(_)) => (FileKind::Networkproxy, "networkproxy.yaml"),
            None => panic!("{file} has no configuration"),
        };
        assert!(file.ends_with(expected) && detect(&text) == kind, "{file}");
    }
}
