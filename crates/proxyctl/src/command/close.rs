//! `close`: ends a connection.
//!
//! *Owns* nothing. *Never* closes by a filter: one id, one connection. *Invariant*: needs the token before it
//! asks, so that a missing one is named at once.

use std::process::ExitCode;

use control::api::messages::{CloseConnectionRequest, CloseMode};

use crate::admin::{Admin, Need, PATIENCE};
use crate::arguments::{Arguments, Output};
use crate::failure::Failure;
use crate::show::json;
use crate::show::screen::Screen;
use crate::show::text::clean;

/// How to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Deliver, say goodbye, wait for a bounded time.
    Graceful,
    /// Reset both sides.
    Abort,
}

pub(super) async fn run(
    arguments: &Arguments,
    id: &str,
    how: How,
    note: &str,
    screen: &mut Screen<'_>,
) -> Result<ExitCode, Failure> {
    let admin = Admin::connect(arguments, Need::Token, PATIENCE).await?;
    let mode = match how {
        How::Graceful => CloseMode::Graceful,
        How::Abort => CloseMode::Abort,
    };
    let request = CloseConnectionRequest { id: id.to_owned(), mode: mode.into(), note: note.to_owned() };
    let answer = admin.answer(admin.connections().close_connection(request)).await?;
    if arguments.output == Output::Json {
        json::write(screen, "CloseConnectionResponse", &answer)?;
    } else {
        let id = clean(&answer.id);
        match (answer.initiated, how) {
            (true, How::Graceful) => screen.line(format_args!("{id} is closing"))?,
            (true, How::Abort) => screen.line(format_args!("{id} is reset"))?,
            (false, _) => screen.line(format_args!("{id} was ending already"))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
