//! Every command: asks, shows, and says how to exit.
//!
//! *Owns* the way from arguments to output. *Never* prints except to the writer it is given, so that each
//! command is a function that a test calls. *Invariant*: nothing is written after the reader went away.

mod audit;
mod check;
mod close;
mod counters;
mod get;
mod health;
mod list;
mod pause;
mod status;

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::arguments::{Arguments, Command};
use crate::failure::{Failure, Reported};
use crate::show::screen::{Looks, Screen};

/// Carries out what `arguments` say.
pub(crate) async fn run(
    arguments: &Arguments,
    looks: Looks,
    out: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let mut screen = Screen::new(out, looks);
    let code = match &arguments.command {
        Command::List(list) => list::run(arguments, list, &mut screen).await?,
        Command::Get { id } => get::run(arguments, id, &mut screen).await?,
        Command::Close { id, abort, note } => {
            let how = if *abort { close::How::Abort } else { close::How::Graceful };
            close::run(arguments, id, how, note, &mut screen).await?
        }
        Command::Counters => counters::run(arguments, &mut screen).await?,
        Command::Audit { wait } => audit::run(arguments, *wait, &mut screen).await?,
        Command::Status => status::run(arguments, &mut screen).await?,
        Command::Check { files, elsewhere } => {
            let named = if *elsewhere { check::NamedFiles::Elsewhere } else { check::NamedFiles::Here };
            check::run(files, named, arguments.output, &mut screen)?
        }
        Command::Health => health::run(arguments, &mut screen).await?,
        Command::Token => token(arguments, &mut screen)?,
        Command::Pause => pause::run().await?,
        Command::Completions { shell } => completions(*shell, &mut screen)?,
    };
    screen.flush()?;
    Ok(code)
}

fn token(arguments: &Arguments, screen: &mut Screen<'_>) -> Result<ExitCode, Failure> {
    let token = arguments.token_file().read().map_err(|error| Failure::Token(Reported::whole(&error)))?;
    screen.line(token.reveal())?;
    Ok(ExitCode::SUCCESS)
}

fn completions(shell: clap_complete::Shell, screen: &mut Screen<'_>) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "proxyctl", &mut script);
    screen.write(String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests;
