//! Owns the reference page: both files' keys as Markdown, made from the tables that the reader uses (R-61).
//!
//! Never says anything that the tables do not; what only prose can say stands in the text around them here.

use std::fmt::Write as _;

use crate::schema::{Fallback, FileSchema, Key, NETWORKPROXY, SMARTPROXY, Scalar, Shape, Zero};

/// The page `docs/configuration.md`.
pub fn reference() -> String {
    let mut page = include_str!("reference/head.md").to_owned();
    page.push_str("\n## smartproxy.yaml\n\n");
    table(&mut page, &SMARTPROXY);
    page.push_str("\nWithout `--config`:\n\n```yaml\n");
    page.push_str(crate::DEFAULT_SMARTPROXY);
    page.push_str("```\n\n## networkproxy.yaml\n\n");
    table(&mut page, &NETWORKPROXY);
    page.push_str("\nWithout `--config`:\n\n```yaml\n");
    page.push_str(crate::DEFAULT_NETWORKPROXY);
    page.push_str("```\n\n");
    page.push_str(include_str!("reference/tail.md"));
    page
}

fn table(page: &mut String, file: &FileSchema) {
    page.push_str("| key | value | default | what it does |\n|---|---|---|---|\n");
    rows(page, file, "", file.keys);
}

fn rows(page: &mut String, file: &FileSchema, prefix: &str, keys: &'static [Key]) {
    for key in keys {
        let path = format!("{prefix}{}", key.name);
        let missing = file.unsupported.contains(&path.as_str());
        let default = match key.fallback {
            Fallback::Required => "required".to_owned(),
            Fallback::Absent | Fallback::Text("{}" | "''") => "–".to_owned(),
            Fallback::Text(text) => format!("`{}`", text.replace('\'', "\"")),
        };
        let words = file.unsupported.iter().filter_map(|row| row.strip_prefix(&format!("{path}=")));
        let words: Vec<String> = words.map(|word| format!("`{word}`")).collect();
        let note = match (missing, words.as_slice()) {
            (true, _) => "**Not supported yet.** ".to_owned(),
            (false, []) => String::new(),
            (false, words) => format!("**Not supported yet: {}.** ", words.join(", ")),
        };
        let value = cell(&value_of(file, &path, key.shape));
        writeln!(page, "| `{path}` | {value} | {default} | {note}{} |", cell(key.doc))
            .expect("a String takes all");
        if missing {
            continue;
        }
        match key.shape {
            Shape::Section(inner)
            | Shape::Placed(inner)
            | Shape::Short(inner, _)
            | Shape::WordOr(_, inner) => {
                rows(page, file, &format!("{path}."), inner);
            }
            Shape::List(Shape::Section(inner) | Shape::Placed(inner) | Shape::Short(inner, _), _) => {
                rows(page, file, &format!("{path}[]."), inner);
            }
            _ => {}
        }
    }
}

fn value_of(file: &FileSchema, path: &str, shape: Shape) -> String {
    match shape {
        Shape::Section(_) | Shape::Placed(_) => "section".to_owned(),
        Shape::List(Shape::Section(_) | Shape::Placed(_), _) => "list of sections".to_owned(),
        Shape::List(Shape::Short(..), _) => "list".to_owned(),
        Shape::List(of, _) => format!("list: {}", value_of(file, path, *of)),
        Shape::WordOr(word, _) => format!("`{word}` or section"),
        Shape::Names(_) => "section with names of your own".to_owned(),
        Shape::One(scalar) | Shape::Sourced(scalar) => match scalar {
            Scalar::Duration(Zero::Refused) => "duration".to_owned(),
            Scalar::Duration(Zero::NoLimit) => "duration, `0s` = no limit".to_owned(),
            Scalar::Duration(Zero::NoWait) => "duration, `0s` = do not wait".to_owned(),
            Scalar::Address => "IP address and port".to_owned(),
            _ => file.expectation(path, shape),
        },
        Shape::Short(..) => file.expectation(path, shape),
    }
}

/// A bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
