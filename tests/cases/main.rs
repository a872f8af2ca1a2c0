//! The process tests: the two real binaries under real traffic and real faults.
//!
//! One module a topic; each test's name is the sentence that it proves, its doc comment names the requirement. Every test
//! has an address of its own and ends with the harness's teardown.

mod bad_input;
mod books;
mod chaos;
mod command_line;
mod crash;
mod documents;
mod drain;
mod endings;
mod hop;
mod http;
mod kept;
mod limits;
mod load;
mod passthrough;
mod plain_tcp;
mod proxyctl;
mod reasons;
mod soak;
mod telling;
mod termination;
mod web_socket;
