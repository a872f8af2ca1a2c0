//! The page for operators says what the code says.
//!
//! *Owns* the comparison of `docs/operations.md` with the table of reasons. *Never* writes the page. *Invariant*:
//! every reason of this build is on the page, with its sentence and advice, in the order of its number.

use ledger::Reason;

const PAGE: &str = include_str!("../../../docs/operations.md");
const START: &str = "<!-- reasons: made from ledger::Reason, checked by a test -->\n";
const END: &str = "<!-- end of reasons -->\n";

/// The table as it has to be.
fn reasons() -> String {
    let row =
        |reason: &Reason| format!("| `{}` | {} | {} |\n", reason.name(), reason.sentence(), reason.advice());
    let head = "| reason | what happened | what to do |\n|---|---|---|\n".to_owned();
    std::iter::once(head).chain(Reason::ALL.iter().map(row)).collect()
}

/// every cause has a value of its own, and a word on what to do about it.
#[test]
fn the_page_lists_every_reason_with_its_advice() {
    let (_, rest) = PAGE.split_once(START).expect("the page marks where the table starts");
    let (table, _) = rest.split_once(END).expect("the page marks where the table ends");
    assert!(table == reasons(), "the table in docs/operations.md has to be:\n{}", reasons());
}

/// A reason that the text names exists.
#[test]
fn the_page_names_no_reason_that_does_not_exist() {
    let (before, _) = PAGE.split_once(START).unwrap();
    let named: Vec<&str> = before
        .lines()
        .filter_map(|line| line.split("--reason ").nth(1))
        .filter_map(|rest| rest.split_whitespace().next())
        .flat_map(|names| names.split(','))
        .collect();
    assert!(!named.is_empty());
    for name in named {
        assert!(Reason::from_name(name.trim_matches('`')).is_some(), "{name}");
    }
}
