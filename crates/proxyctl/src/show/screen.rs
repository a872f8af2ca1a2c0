//! Where output goes: the writer, what it can show, and whether anybody still reads.
//!
//! *Owns* colour and width. *Never* fails because the reader went away: it stops writing and says so when
//! asked. *Invariant*: every other error of the writer (a full disk) is an error of the command.

use std::fmt::Display;
use std::io::{self, Write};

use crate::failure::Failure;

/// The output of one command.
pub(crate) struct Screen<'a> {
    to: &'a mut dyn Write,
    looks: Looks,
    readers: Readers,
}

/// What the output can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Looks {
    /// Whether colours are shown.
    pub(crate) paint: Paint,
    /// Characters in a line; `None` where lines may be of any length.
    pub(crate) width: Option<usize>,
}

/// Whether colours are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Text alone.
    Plain,
    /// ANSI colours.
    Coloured,
}

/// What a piece of text means, for its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tint {
    /// Nothing in particular.
    #[default]
    Plain,
    /// A heading.
    Strong,
    /// Of less interest.
    Faint,
    /// As it should be.
    Good,
    /// Worth a look.
    Odd,
    /// Not as it should be.
    Bad,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    Listening,
    Gone,
}

impl<'a> Screen<'a> {
    /// Output to `to`.
    pub(crate) fn new(to: &'a mut dyn Write, looks: Looks) -> Self {
        Self { to, looks, readers: Readers::Listening }
    }

    /// What it can show.
    pub(crate) fn looks(&self) -> Looks {
        self.looks
    }

    /// The reader went away: what is still to come is for nobody.
    pub(crate) fn is_closed(&self) -> bool {
        self.readers == Readers::Gone
    }

    /// Writes one line.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        self.write(format_args!("{text}\n"))
    }

    /// Writes text as it is.
    pub(crate) fn write(&mut self, text: impl Display) -> Result<(), Failure> {
        let written = match self.readers {
            Readers::Listening => write!(self.to, "{text}"),
            Readers::Gone => Ok(()),
        };
        self.unless_gone(written)
    }

    /// `text` in the colour of `tint`.
    pub(crate) fn paint(&self, tint: Tint, text: &str) -> String {
        self.looks.paint.apply(tint, text)
    }

    /// Hands over what was written.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        let flushed = match self.readers {
            Readers::Listening => self.to.flush(),
            Readers::Gone => Ok(()),
        };
        self.unless_gone(flushed)
    }

    fn unless_gone(&mut self, result: io::Result<()>) -> Result<(), Failure> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.readers = Readers::Gone;
                Ok(())
            }
            other => other.map_err(Failure::Output),
        }
    }
}

impl Looks {
    /// A file, a pipe: no colour, no width.
    pub(crate) const PLAIN: Self = Self { paint: Paint::Plain, width: None };

    /// A terminal of so many columns; `NO_COLOR` (<https://no-color.org>) and `TERM=dumb` turn colours off.
    pub(crate) fn of_terminal(columns: Option<usize>, env: impl Fn(&str) -> Option<String>) -> Self {
        let refused = env("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env("TERM").is_some_and(|term| term == "dumb");
        let paint = if refused || dumb { Paint::Plain } else { Paint::Coloured };
        Self { paint, width: columns.filter(|columns| *columns > 0) }
    }
}

impl Paint {
    /// `text` in the colour of `tint`, ECMA-48 select graphic rendition.
    pub(crate) fn apply(self, tint: Tint, text: &str) -> String {
        let code = match (self, tint) {
            (Self::Plain, _) | (_, Tint::Plain) => return text.to_owned(),
            (_, Tint::Strong) => "1",
            (_, Tint::Faint) => "2",
            (_, Tint::Good) => "32",
            (_, Tint::Odd) => "33",
            (_, Tint::Bad) => "1;31",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_error_and_a_full_disk_is() {
        let mut closed = Closed;
        let mut screen = Screen::new(&mut closed, Looks::PLAIN);
        screen.line("x").unwrap();
        assert!(screen.is_closed());
        screen.flush().unwrap();
        let mut full = Full;
        let mut screen = Screen::new(&mut full, Looks::PLAIN);
        assert!(matches!(screen.line("x"), Err(Failure::Output(_))));
        assert!(!screen.is_closed());
    }

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        assert_eq!(Looks::of_terminal(Some(80), env(&[])).paint, Paint::Coloured);
        assert_eq!(Looks::of_terminal(Some(80), env(&[("NO_COLOR", "1")])).paint, Paint::Plain);
        assert_eq!(Looks::of_terminal(Some(80), env(&[("NO_COLOR", "")])).paint, Paint::Coloured);
        assert_eq!(Looks::of_terminal(Some(80), env(&[("TERM", "dumb")])).paint, Paint::Plain);
        assert_eq!(Looks::of_terminal(Some(0), env(&[])).width, None);
        assert_eq!(Paint::Plain.apply(Tint::Bad, "x"), "x");
        assert_eq!(Paint::Coloured.apply(Tint::Bad, "x"), "\u{1b}[1;31mx\u{1b}[0m");
    }
}
