//! Why a command could not be carried out, and what to do about it.
//!
//! *Owns* the words. *Never* shows a library's error alone: whoever reads it wants to know whether the process
//! runs, where the token is, which port is meant. *Invariant*: one line per failure.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use tonic::{Code, Status};

use crate::arguments::Address;
use crate::show::text::clean;

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// Nobody listens there, or no packet gets there.
    #[error("cannot connect: {cause}; is {} running at {address}? (another address: --address HOST:PORT)", .address.likely_process())]
    Unreachable {
        /// Where it should be.
        address: Address,
        /// What the kernel or the resolver said.
        cause: Reported,
    },
    /// It takes connections and does not answer.
    #[error("no answer from {address} within {}ms; the process may be stopped or overloaded", .within.as_millis())]
    NoAnswer {
        /// Whose answer.
        address: Address,
        /// How long it was waited for.
        within: Duration,
    },
    /// The connection ended in the middle of the call, or the other side speaks something else.
    #[error(
        "{address} ended the call without a gRPC answer: {cause}; is it the gRPC port (by default 7800 of smartproxy, \
         7801 of networkproxy), and is the process still there?"
    )]
    Interrupted {
        /// Whose answer.
        address: Address,
        /// What went wrong.
        cause: Reported,
    },
    /// A token was presented and is not the one.
    #[error(
        "{address} refuses the token in {} ({words}); name the file that it uses (control.token_file) with --token-file",
        .file.display()
    )]
    WrongToken {
        /// Who refuses it.
        address: Address,
        /// Where it is from.
        file: PathBuf,
        /// The process's own words.
        words: Reported,
    },
    /// The call needs a token and there is none.
    #[error(
        "{address} wants the token, and {cause}; smartproxy makes it on its first start: run this as the same user, or \
         name the file (control.token_file) with --token-file"
    )]
    NoToken {
        /// Who wants it.
        address: Address,
        /// Why there is none.
        cause: Reported,
    },
    /// There is no token to print.
    #[error(
        "{0}; smartproxy makes it on its first start: run this as the same user, or name the file (control.token_file) \
         with --token-file"
    )]
    Token(Reported),
    /// The process answered that it will not.
    #[error("{}", refusal(.status, .address))]
    Refused {
        /// Who.
        address: Address,
        /// Its code and words.
        status: Box<Status>,
    },
    /// The signals that end `pause` cannot be listened to.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// The output takes nothing more.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

/// What another library or process said, on one line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub(crate) struct Reported(String);

impl Reported {
    /// These words.
    pub(crate) fn words(words: &str) -> Self {
        Self(clean(words).into_owned())
    }

    /// `error` and its causes.
    pub(crate) fn whole(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(deeper) = cause {
            text = format!("{text}: {deeper}");
            cause = deeper.source();
        }
        Self::words(&text)
    }

    /// The innermost cause of `error`: the outer ones repeat it or say less.
    pub(crate) fn root_of(error: &dyn std::error::Error) -> Self {
        let mut cause = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Self::words(&cause.to_string())
    }
}

impl Failure {
    /// What a status means, where the transport made it and where the process did.
    pub(crate) fn of_status(status: Status, address: &Address) -> Self {
        let address = address.clone();
        // Only the client's own transport leaves a source: a process that answers sends a code and words.
        match std::error::Error::source(&status) {
            Some(source) => Self::Interrupted { address, cause: Reported::root_of(source) },
            None => Self::Refused { address, status: Box::new(status) },
        }
    }
}

/// The process's own words, and what to do where the code alone says it.
fn refusal(status: &Status, address: &Address) -> String {
    let words = clean(status.message());
    match status.code() {
        Code::Unimplemented => {
            format!("{address} does not know this call; it is another program or an older version")
        }
        _ if words.is_empty() => format!("{address} refuses: {:?}", status.code()),
        _ => words.into_owned(),
    }
}
