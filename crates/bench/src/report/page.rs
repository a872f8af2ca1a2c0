//! Owns the part of a page that a run writes: what is between two markers. Pure, but for reading and writing the file.
//!
//! Never touches what is outside them: that is written by hand.

use std::path::Path;

use anyhow::{Context as _, Result};

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// Puts `text` between the markers of a file.
pub(crate) fn write(file: &Path, text: &str) -> Result<()> {
    let name = || file.display().to_string();
    let page = std::fs::read_to_string(file).with_context(name)?;
    let page = between(&page, text).with_context(|| format!("{}: no `{BEGIN}` before `{END}`", name()))?;
    std::fs::write(file, page).with_context(name)
}

fn between(page: &str, text: &str) -> Option<String> {
    let begin = page.find(BEGIN)? + BEGIN.len();
    let end = begin + page[begin..].find(END)?;
    Some(format!("{}\n{}\n{}", &page[..begin], text.trim(), &page[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_the_markers_stays_and_a_second_run_replaces_the_first() {
        let page = format!("# Title\n{BEGIN}\nold\n{END}\nby hand\n");
        let once = between(&page, "new\n").unwrap();
        assert_eq!(once, format!("# Title\n{BEGIN}\nnew\n{END}\nby hand\n"));
        assert_eq!(between(&once, "new").unwrap(), once);
    }

    #[test]
    fn a_page_without_markers_in_order_is_refused() {
        assert_eq!(between("# Title\n", "new"), None);
        assert_eq!(between(&format!("{END}{BEGIN}"), "new"), None);
    }
}
