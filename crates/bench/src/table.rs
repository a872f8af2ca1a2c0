//! Owns the lay-out of tables: aligned for a terminal, piped for Markdown. Pure.

use std::fmt::Write as _;

/// A table of text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text {
    /// One line above it.
    pub title: String,
    /// The first row.
    pub head: Vec<String>,
    /// The others; the first column is aligned left, the rest right.
    pub rows: Vec<Vec<String>>,
    /// Lines below it.
    pub notes: Vec<String>,
}

impl Text {
    pub(crate) fn new(title: impl Into<String>, head: &[&str]) -> Self {
        Self {
            title: title.into(),
            head: head.iter().map(|word| (*word).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// For a terminal.
    pub(crate) fn aligned(&self) -> String {
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| {
                self.lines().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0)
            })
            .collect();
        let mut text = format!("{}\n", self.title);
        for row in self.lines() {
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths.get(column).copied().unwrap_or(0).saturating_sub(width(cell)));
                let (left, right) =
                    if column == 0 { (cell.as_str(), pad.as_str()) } else { (pad.as_str(), cell.as_str()) };
                text.push_str(if column == 0 { "  " } else { " │ " });
                text.push_str(left);
                text.push_str(right);
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        text
    }

    /// For a page.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("**{}**\n\n", self.title);
        for (index, row) in self.lines().enumerate() {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
            if index == 0 {
                let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
            }
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text
    }

    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.head).chain(&self.rows)
    }
}

/// Columns of a terminal that it takes: every character that is used here takes one.
fn width(cell: &str) -> usize {
    cell.chars().count()
}

/// A figure with as many digits as mean something.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let whole = text.split('.').next().unwrap_or_default().trim_start_matches('-').len();
    if whole <= 3 {
        return text;
    }
    // Only whole numbers are that long.
    let mut grouped = String::new();
    for (index, digit) in text.chars().enumerate() {
        if index > 0 && (text.len() - index) % 3 == 0 && digit.is_ascii_digit() && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A share in per cent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_or_groups_of_three() {
        assert_eq!(number(1.234), "1.23");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(123.4), "123");
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(number(-12_345.0), "-12,345");
        assert_eq!(number(-0.5), "-0.50");
    }

    #[test]
    fn columns_line_up_and_markdown_has_a_rule() {
        let mut table = Text::new("title", &["work", "µs"]);
        table.rows.push(vec!["a|b".into(), "1,000".into()]);
        assert_eq!(table.aligned(), "title\n  work │    µs\n  a|b  │ 1,000\n");
        assert_eq!(table.markdown(), "**title**\n\n| work | µs |\n|---|---|\n| a\\|b | 1,000 |\n");
    }
}
