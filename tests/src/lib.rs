//! The harness of the process tests: it starts the two real binaries, and holds the scripted clients and targets.
//!
//! A test takes an [`Address`] of its own, starts its targets there, describes the two processes in a [`Setup`], and gets
//! a [`Pair`] that serves. It ends with [`Pair::teardown`], which asserts what must hold after every test: the books
//! balance, nothing drifted or was repaired, no descriptor or task is left, nothing panicked. The cases are in
//! `tests/cases`.
//!
//! Never sleeps to let something happen: see [`wait`]. Never imports the processes: what is tested is what is shipped.
#![expect(clippy::format_push_string, reason = "texts here are short and made once")]

mod address;
mod admin;
pub mod books;
pub mod certificates;
pub mod client;
pub mod cutter;
mod pair;
pub mod process;
pub mod setup;
pub mod tap;
pub mod target;
pub mod wait;

pub use address::Address;
pub use admin::{Admin, Refused};
pub use pair::{BOTH, Expected, Pair, Which};
pub use setup::{Route, Setup};
