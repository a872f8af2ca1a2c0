//! Prints the reference page: `cargo run -q -p config --example reference > docs/configuration.md`.
//!
//! *Owns* nothing but the way out; the page is [`config::reference`].

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(config::reference().as_bytes())
}
