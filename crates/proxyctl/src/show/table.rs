//! Aligned columns, written a page at a time.
//!
//! *Owns* the widths. *Never* holds more than the rows of one page, so a list of any length costs the memory
//! of a page. *Invariant*: a column never gets narrower from page to page, and only where the output has a width
//! are columns left out or lines cut.

use super::screen::{Screen, Tint};
use super::text::clean;
use crate::failure::Failure;

/// Between two columns.
const GAP: usize = 2;

/// A table that is being written.
pub(crate) struct Table {
    columns: Vec<Column>,
    widths: Vec<usize>,
    rows: Vec<Vec<Cell>>,
    /// Columns that found no room, decided when the titles are written.
    omitted: Vec<usize>,
    indent: usize,
    titles: Titles,
}

/// One column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    align: Align,
    shrinks: Shrinks,
    /// Left out where there is no room; the lowest number first.
    omissible: Option<u8>,
}

/// One cell: its text, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tint: Tint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// What a column does where a line is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shrinks {
    Never,
    To(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Titles {
    Due,
    Written,
}

impl Table {
    /// A table of these columns.
    pub(crate) fn new(columns: Vec<Column>) -> Self {
        let widths = columns.iter().map(|column| column.title.chars().count()).collect();
        Self { columns, widths, rows: Vec::new(), omitted: Vec::new(), indent: 0, titles: Titles::Due }
    }

    /// Every line starts with so many spaces.
    pub(crate) fn indented(self, indent: usize) -> Self {
        Self { indent, ..self }
    }

    /// Without the line of titles.
    pub(crate) fn without_titles(self) -> Self {
        Self { titles: Titles::Written, ..self }
    }

    /// Adds a row; it is written by the next [`Table::write`].
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len(), "a cell for every column");
        self.rows.push(cells);
    }

    /// There is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes the rows that were added since the last time; titles come first, once.
    pub(crate) fn write(&mut self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        for row in &self.rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let line = screen.looks().width.unwrap_or(usize::MAX);
        if self.titles == Titles::Due {
            self.omit(line);
        }
        let widths = self.fitting(line);
        if self.titles == Titles::Due {
            let title = |column: &Column| Cell::new(column.title).tinted(Tint::Strong);
            let titles: Vec<Cell> = self.columns.iter().map(title).collect();
            screen.line(self.line_of(&titles, &widths, screen))?;
            self.titles = Titles::Written;
        }
        for row in std::mem::take(&mut self.rows) {
            screen.line(self.line_of(&row, &widths, screen))?;
        }
        Ok(())
    }

    /// Leaves columns out until the others fit at their narrowest.
    fn omit(&mut self, line: usize) {
        let narrowest: Vec<usize> =
            self.columns.iter().zip(&self.widths).map(|(column, width)| column.narrowest(*width)).collect();
        let mut by_rank: Vec<usize> = (0..self.columns.len()).collect();
        by_rank.retain(|column| self.columns[*column].omissible.is_some());
        by_rank.sort_by_key(|column| self.columns[*column].omissible);
        for column in by_rank {
            if self.length(&narrowest) <= line {
                break;
            }
            self.omitted.push(column);
        }
    }

    /// The widths, with the widest shrinking columns cut down until a line fits (or none can shrink further).
    fn fitting(&self, line: usize) -> Vec<usize> {
        let mut widths = self.widths.clone();
        while self.length(&widths) > line {
            let shrinking = widths.iter_mut().enumerate().filter(|(column, width)| {
                !self.omitted.contains(column) && **width > self.columns[*column].narrowest(**width)
            });
            let Some((_, widest)) = shrinking.max_by_key(|(_, width)| **width) else { break };
            *widest -= 1;
        }
        widths
    }

    /// How long a line of these widths is.
    fn length(&self, widths: &[usize]) -> usize {
        let shown = widths.iter().enumerate().filter(|(column, _)| !self.omitted.contains(column));
        let (columns, sum) = shown.fold((0, 0), |(columns, sum), (_, width)| (columns + 1, sum + width));
        self.indent + sum + GAP * usize::saturating_sub(columns, 1)
    }

    fn line_of(&self, cells: &[Cell], widths: &[usize], screen: &Screen<'_>) -> String {
        let mut line = " ".repeat(self.indent);
        let mut owed = 0;
        for (number, ((cell, column), width)) in cells.iter().zip(&self.columns).zip(widths).enumerate() {
            if self.omitted.contains(&number) {
                continue;
            }
            let text = cut(&cell.text, *width);
            let pad = width.saturating_sub(text.chars().count());
            let (before, after) = if column.align == Align::Right { (pad, 0) } else { (0, pad) };
            // Spaces are written only before text: no line ends in any.
            if text.is_empty() {
                owed += before;
            } else {
                line.push_str(&" ".repeat(owed + before));
                line.push_str(&screen.paint(cell.tint, &text));
                owed = 0;
            }
            owed += after + GAP;
        }
        line
    }
}

impl Column {
    /// Starts at the left.
    pub(crate) const fn left(title: &'static str) -> Self {
        Self { title, align: Align::Left, shrinks: Shrinks::Never, omissible: None }
    }

    /// Ends at the right: numbers.
    pub(crate) const fn right(title: &'static str) -> Self {
        Self { title, align: Align::Right, shrinks: Shrinks::Never, omissible: None }
    }

    /// May be cut down to so many characters where a line is too long.
    pub(crate) const fn down_to(self, least: usize) -> Self {
        Self { shrinks: Shrinks::To(least), ..self }
    }

    /// May be left out where there is no room for all; the lowest rank goes first.
    pub(crate) const fn omissible(self, rank: u8) -> Self {
        Self { omissible: Some(rank), ..self }
    }

    /// How narrow a column of `width` may become.
    fn narrowest(self, width: usize) -> usize {
        match self.shrinks {
            Shrinks::Never => width,
            Shrinks::To(least) => least.max(self.title.chars().count()).min(width),
        }
    }
}

impl Cell {
    /// A cell of this text; control characters are shown, not obeyed.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self { text: clean(text.as_ref()).into_owned(), tint: Tint::Plain }
    }

    /// A number, or anything else that is displayed.
    pub(crate) fn of(value: impl std::fmt::Display) -> Self {
        Self::new(value.to_string())
    }

    /// In the colour of `tint`.
    pub(crate) fn tinted(self, tint: Tint) -> Self {
        Self { tint, ..self }
    }
}

/// At most `width` characters of `text`; what is cut off leaves a mark.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::super::screen::{Looks, Paint};
    use super::*;

    fn columns() -> Vec<Column> {
        vec![
            Column::left("ID"),
            Column::right("BYTES"),
            Column::left("ROUTE").down_to(6),
            Column::left("END"),
        ]
    }

    fn written(table: &mut Table, looks: Looks) -> String {
        let mut out = Vec::new();
        table.write(&mut Screen::new(&mut out, looks)).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn row(id: &str, bytes: u64, route: &str, end: &str) -> Vec<Cell> {
        vec![Cell::new(id), Cell::of(bytes), Cell::new(route), Cell::new(end)]
    }

    #[test]
    fn columns_are_aligned_and_lines_end_without_spaces() {
        let mut table = Table::new(columns());
        table.row(row("aa", 5, "shop", "soon"));
        table.row(row("bbbb", 12345, "a-longer-route", ""));
        let expected = "\
ID    BYTES  ROUTE           END
aa        5  shop            soon
bbbb  12345  a-longer-route
";
        assert_eq!(written(&mut table, Looks::PLAIN), expected);
    }

    #[test]
    fn a_narrow_terminal_cuts_the_widest_column_that_may_shrink() {
        let mut table = Table::new(columns());
        table.row(row("bbbb", 12345, "a-longer-route", "soon"));
        let looks = Looks { width: Some(27), ..Looks::PLAIN };
        let text = written(&mut table, looks);
        assert_eq!(text, "ID    BYTES  ROUTE     END\nbbbb  12345  a-longe…  soon\n");
        assert!(text.lines().all(|line| line.chars().count() <= 27));
        let mut table = Table::new(columns());
        table.row(row("bbbb", 12345, "a-longer-route", "soon"));
        let narrow = written(&mut table, Looks { width: Some(3), ..Looks::PLAIN });
        assert!(narrow.contains("a-lon…"), "it shrinks no further than it may: {narrow}");
    }

    #[test]
    fn without_room_whole_columns_are_left_out_the_least_wanted_first() {
        let columns = vec![
            Column::left("ID"),
            Column::right("IN").omissible(2),
            Column::left("BY").omissible(1),
            Column::left("END").down_to(4),
        ];
        let text = |width| {
            let mut table = Table::new(columns.clone());
            table.row(vec![Cell::new("abcdef"), Cell::of(12), Cell::new("them"), Cell::new("a long reason")]);
            written(&mut table, Looks { width: Some(width), ..Looks::PLAIN })
        };
        assert_eq!(text(80), "ID      IN  BY    END\nabcdef  12  them  a long reason\n");
        assert_eq!(text(22), "ID      IN  BY    END\nabcdef  12  them  a l…\n");
        assert_eq!(text(21), "ID      IN  END\nabcdef  12  a long r…\n");
        assert_eq!(text(15), "ID      END\nabcdef  a long…\n");
        assert_eq!(text(5), "ID      END\nabcdef  a l…\n", "what may not be left out stays");
    }

    #[test]
    fn pages_share_one_line_of_titles_and_never_get_narrower() {
        let mut table = Table::new(vec![Column::left("A"), Column::left("B")]);
        table.row(vec![Cell::new("wide one"), Cell::new("1")]);
        let first = written(&mut table, Looks::PLAIN);
        table.row(vec![Cell::new("x"), Cell::new("2")]);
        let second = written(&mut table, Looks::PLAIN);
        assert_eq!(first + &second, "A         B\nwide one  1\nx         2\n");
    }

    #[test]
    fn colours_do_not_move_columns_and_control_characters_are_not_obeyed() {
        let mut table = Table::new(vec![Column::left("A"), Column::left("B")]);
        table.row(vec![Cell::new("\u{1b}[31mx").tinted(Tint::Bad), Cell::new("y")]);
        let looks = Looks { paint: Paint::Coloured, width: None };
        let text = written(&mut table, looks);
        assert!(text.contains("\u{1b}[1;31m\\u{1b}[31mx\u{1b}[0m  y"), "{text:?}");
    }
}
