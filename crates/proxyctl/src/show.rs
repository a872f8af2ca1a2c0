//! How answers look to people and to programs.
//!
//! *Owns* texts of values, tables, colours and JSON. *Never* asks a process anything. *Invariant*: what came
//! from outside (names, details, notes) reaches the terminal only through [`text::clean`].

pub(crate) mod facts;
pub(crate) mod half;
pub(crate) mod json;
pub(crate) mod names;
pub(crate) mod screen;
pub(crate) mod table;
pub(crate) mod text;
