//! Text that is not what a configuration file is: broken YAML, hostile YAML, other encodings.
//!
//! *Owns* the promise that whatever a file holds, an operator gets one clear line and no crash.

use std::fmt::Write as _;
use std::fs;

use config::{LARGEST_FILE, Surroundings, check_smartproxy, load};

fn lines(text: &str) -> Vec<String> {
    let report = check_smartproxy("f", text, &Surroundings::ideal());
    report.errors.iter().map(ToString::to_string).collect()
}

fn lines_of_bytes(bytes: &[u8]) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), bytes).expect("written");
    let report = load(file.path(), &Surroundings::real(), check_smartproxy);
    let name = format!("{}:", file.path().display());
    report.errors.iter().map(|problem| problem.to_string().replace(&name, "f:")).collect()
}

#[test]
fn text_that_is_no_section_is_refused_with_its_place() {
    for (text, expected) in [
        ("", "f:1:1: the file is empty; expected at least `version: 1`"),
        ("# only a comment\n", "f:1:1: the file is empty; expected at least `version: 1`"),
        ("~\n", "f:1:1: the file is empty; expected at least `version: 1`"),
        ("- a\n", "f:1:1: the file is a list; expected a section with one of `version`"),
        ("hello\n", "f:1:1: the file is a single value; expected a section with one of `version`"),
        ("version: 1\nroutes:\n\t- name: a\n", "f:3:2: the line is indented with a tab; expected spaces"),
        ("version: 1\nroutes: [a, b\n", "f:3:1: this is not YAML (while parsing a flow sequence"),
        ("version: 1\nlog: \"abc\n", "f:2:6: this is not YAML (while scanning a quoted scalar"),
        ("version: 1\nbind: [a]\n  bad: x\n", "f:3:3: this is not YAML (while parsing a block mapping"),
    ] {
        let lines = lines(text);
        assert!(lines.len() == 1 && lines[0].starts_with(expected), "{text:?}: {lines:#?}");
    }
}

#[test]
fn yaml_that_configuration_does_not_use_is_refused_with_its_place() {
    for (text, expected) in [
        (
            "version: 1\n---\nversion: 1\n",
            "f:2:1: a second document starts here; expected one document per file",
        ),
        (
            "version: 1\nversion: 1\n",
            "f:2:1: the key `version` is here twice, first on line 1; expected each key once",
        ),
        ("version: 1\nlog: !x {}\n", "f:2:9: tags (`!x`) are not supported; expected the value alone"),
        ("version: !!int 1\n", "f:1:16: tags (`!!int`) are not supported; expected the value alone"),
        ("version: 1\nlog: &x {}\n", "f:2:9: anchors (`&name`) are not supported; expected the value alone"),
        ("version: 1\n? [a]\n: b\n", "f:2:3: a list stands where a key belongs; expected a name and a colon"),
    ] {
        assert_eq!(lines(text), [expected], "{text:?}");
    }
    let aliased = lines("version: 1\nlog: &x {}\nmetrics: *x\n");
    assert_eq!(
        aliased[1],
        "f:3:10: aliases (`*name`) are not supported; expected the value itself, written out"
    );
    assert_eq!(aliased.len(), 2);
}

/// A few hundred bytes that name gigabytes are refused without building them.
#[test]
fn a_bomb_of_aliases_is_refused_at_once() {
    let mut text = "version: 1\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(text, "a{level}: &a{level} [{aliases}]").expect("a String takes all");
    }
    let lines = lines(&text);
    assert!(lines.iter().any(|line| line.contains("aliases (`*name`) are not supported")), "{}", lines.len());
    assert!(lines.len() < 1000, "{}", lines.len());
}

#[test]
fn deep_nesting_is_refused_without_deep_recursion() {
    let expected = "lists and sections are nested more than 32 deep";
    for text in [
        format!("log: {}{}\n", "[".repeat(200), "]".repeat(200)),
        format!("log:\n {}x\n", "- ".repeat(100_000)),
        (0..2_000).fold(String::new(), |text, depth| text + &" ".repeat(depth) + "a:\n"),
    ] {
        let lines = lines(&text);
        assert_eq!(lines.iter().filter(|line| line.contains(expected)).count(), 1, "{lines:?}");
    }
    let flows = lines(&"[".repeat(100_000));
    assert!(flows.len() == 1 && flows[0].contains("recursion limit exceeded"), "{flows:?}");
}

#[test]
fn a_huge_file_is_refused_by_its_size() {
    let text = format!("version: 1\n{}", "#".repeat(LARGEST_FILE));
    assert_eq!(lines(&text), [format!("f:1:1: the file has {} bytes; expected at most 16MiB", text.len())]);
    let read = lines_of_bytes(text.as_bytes());
    assert_eq!(read, [format!("f:1:1: the file has {} bytes; expected at most 16MiB", LARGEST_FILE + 1)]);
}

#[test]
fn text_that_is_not_utf_8_is_refused_at_its_first_wrong_byte() {
    let expected = "this byte is not UTF-8; expected text in UTF-8";
    assert_eq!(lines_of_bytes(b"version: 1\nlog: \xc3\xa9\xff\n"), [format!("f:2:7: {expected}")]);
    assert_eq!(lines_of_bytes(b"\xff\xfev\0e\0"), [format!("f:1:1: {expected}")]);
    let after_mark = lines_of_bytes(b"\xef\xbb\xbfversion: 2\n");
    assert_eq!(after_mark, ["f:1:10: `version`: 2 is not known here; expected `1`"]);
}

/// what stands behind a NUL would be read by nobody.
#[test]
fn a_nul_is_refused_where_it_stands() {
    let expected = "a NUL character; expected text without control characters";
    assert_eq!(lines("version: 1\n# c\0omment\nfoo: 1\n"), [format!("f:2:4: {expected}")]);
    assert_eq!(lines_of_bytes(b"version: 1\n\0\nfoo: bar\n{{{"), [format!("f:2:1: {expected}")]);
}

#[test]
fn a_file_that_cannot_be_read_is_one_problem() {
    let report = load("/does/not/exist".as_ref(), &Surroundings::real(), check_smartproxy);
    let lines: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("/does/not/exist:1:1: the file cannot be read: No such file"), "{lines:?}");
}

/// What an editor on another system writes is read alike.
#[test]
fn line_ends_of_other_systems_are_line_ends() {
    assert_eq!(
        lines("version: 1\r\nworker: 2\r\n")[0].split(';').next(),
        Some("f:2:1: unknown key `worker`")
    );
}

/// A file's name is in every line of every problem; what the file holds cannot forge a line of its own.
#[test]
fn a_problem_is_one_line_even_where_the_file_has_control_characters() {
    for line in lines("version: 1\n\"a\\nb\\e[31m\": 1\nlog: { level: \"x\\u2028\\ny\" }\n") {
        assert!(line.starts_with("f:") && !line.contains(['\n', '\u{1b}']), "{line:?}");
    }
}
