//! `proxyctl`: asks either process what it knows, and tells it what to end.
//!
//! ```text
//!   arguments ──▶ command ──gRPC──▶ smartproxy or networkproxy
//!                    │
//!                    └──▶ show: tables and texts ──▶ Screen ──▶ stdout
//! ```
//!
//! *Owns* the exit code: 0 done, 1 failed (or the books do not balance, or not healthy), 2 wrong usage or a
//! configuration with errors. *Never* prints a message of another program unescaped. *Invariant*: a reader
//! that went away (`proxyctl list | head`) is no error.

mod admin;
mod arguments;
mod command;
mod failure;
#[cfg(test)]
mod fake;
mod show;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::Arguments;
use crate::show::screen::Looks;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(&arguments) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell where stderr is closed as well.
            drop(writeln!(std::io::stderr().lock(), "proxyctl: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let stdout = std::io::stdout();
    let looks = if stdout.is_terminal() {
        let columns = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
        Looks::of_terminal(columns, |name| std::env::var(name).ok())
    } else {
        Looks::PLAIN
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut out = std::io::BufWriter::new(stdout.lock());
    let code = runtime.block_on(command::run(arguments, looks, &mut out))?;
    // A host name that is still being looked up must not keep a timed-out command waiting.
    runtime.shutdown_background();
    Ok(code)
}
