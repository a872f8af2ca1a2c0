//! Owns the first step of matching: from what the first bytes show to an entry, and why.
//!
//! Never looks into a request. Invariant: the work is two look-ups by name and the candidates found there;
//! the trace names each of these candidates once, with the clause that it failed.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::entry::Entry;
use super::pattern::{normal_name, parent_name};
use super::table::{Candidate, Names, RouteTable};

/// What smartproxy knows when it decides.
#[derive(Debug, Clone, Copy)]
pub struct Question<'q> {
    /// The port as the file names it (0 where the kernel chose).
    pub port: u16,
    /// What the first bytes are. Of no matter where the server speaks first: nobody looks at them there.
    pub class: Class,
    /// The server name of the ClientHello, in any case, with or without a trailing dot.
    pub server_name: Option<&'q str>,
    /// The protocols that the ClientHello offers (RFC 7301).
    pub alpn: &'q [&'q [u8]],
    /// The client's real address.
    pub client_ip: IpAddr,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// A ClientHello.
    Tls,
    /// Anything else.
    Clear,
}

/// Where a connection goes, and why.
#[derive(Debug, Clone)]
pub struct Decision<'t> {
    /// The entry, or why there is none.
    pub entry: Result<&'t Arc<Entry>, NoEntry>,
    /// The candidates that were looked at.
    pub trace: Trace,
}

/// Why no entry takes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoEntry {
    /// No route names the port.
    UnknownPort,
    /// Clear bytes on a port where every route expects TLS.
    NotTls,
    /// A ClientHello on a port where every route expects clear text.
    NotClear,
    /// Every route names a server, the client named none.
    ServerNameMissing,
    /// Every route names another server.
    ServerNameUnknown,
    /// The name is right, another clause is not.
    Unmatched(Clause),
}

impl fmt::Display for NoEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPort => f.write_str("no route names this port"),
            Self::NotTls => f.write_str("every route of this port expects TLS"),
            Self::NotClear => f.write_str("no route of this port expects TLS"),
            Self::ServerNameMissing => f.write_str("every route names a server and the client named none"),
            Self::ServerNameUnknown => f.write_str("no route names this server"),
            Self::Unmatched(clause) => write!(f, "no route of this server matches its {clause}"),
        }
    }
}

/// A part of a match that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Clause {
    /// The port is another.
    Port,
    /// The first bytes are of the other class.
    Class,
    /// The server name or Host is another, or absent.
    Domain,
    /// The client's address is outside.
    ClientIp,
    /// The client offers none of the protocols.
    Alpn,
    /// The path is another.
    Path,
    /// It matches, but another is more specific or comes first.
    Outranked,
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Port => "port",
            Self::Class => "class",
            Self::Domain => "domain",
            Self::ClientIp => "client_ip",
            Self::Alpn => "alpn",
            Self::Path => "path",
            Self::Outranked => "outranked",
        })
    }
}

/// The candidates that a decision looked at, in order of precedence; shown as `lan: client_ip, app: chosen`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    /// One step for each candidate.
    pub steps: Vec<TraceStep>,
    /// Look-ups by port and name that were made.
    pub lookups: u32,
}

/// One candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceStep {
    /// The entry's name.
    pub entry: Arc<str>,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It takes the connection.
    Chosen,
    /// A clause failed.
    Failed(Clause),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen => f.write_str("chosen"),
            Self::Failed(clause) => clause.fmt(f),
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{}: {}", step.entry, step.verdict)?;
        }
        Ok(())
    }
}

impl RouteTable {
    /// The entry that takes a connection.
    pub fn decide(&self, question: &Question<'_>) -> Decision<'_> {
        let mut trace = Trace { lookups: 1, ..Trace::default() };
        let Some(port) = self.port(question.port) else {
            return Decision { entry: Err(NoEntry::UnknownPort), trace };
        };
        let (names, other) = match question.class {
            Class::Tls if !port.server_speaks_first => (&port.tls, &port.clear),
            _ => (&port.clear, &port.tls),
        };
        if names.is_empty() && !other.is_empty() {
            let none = if question.class == Class::Clear { NoEntry::NotTls } else { NoEntry::NotClear };
            return Decision { entry: Err(none), trace };
        }
        let name = question.server_name.map(normal_name).filter(|name| !name.is_empty());
        let mut found = candidates(names, name.as_deref(), &mut trace.lookups);
        let mut failed = None;
        while let Some(candidate) = take_first(&mut found) {
            let entry = self.entry_at(candidate.entry);
            let clause = failed_clause(entry, question);
            let verdict = clause.map_or(Verdict::Chosen, Verdict::Failed);
            trace.steps.push(TraceStep { entry: Arc::clone(&entry.name), verdict });
            match clause {
                None => return Decision { entry: Ok(entry), trace },
                Some(clause) => failed = Some(clause),
            }
        }
        let none = match (failed, name) {
            (Some(clause), _) => NoEntry::Unmatched(clause),
            (None, None) => NoEntry::ServerNameMissing,
            (None, Some(_)) => NoEntry::ServerNameUnknown,
        };
        Decision { entry: Err(none), trace }
    }
}

/// The first clause, other than port, class and name, that the question fails. The routes of an entry share
/// these clauses.
fn failed_clause(entry: &Entry, question: &Question<'_>) -> Option<Clause> {
    entry.routes.first().and_then(|route| route.matching.failed_clause(question))
}

/// The three sorted lists that can hold a match: the name itself, its wildcard, and no name.
fn candidates<'n>(names: &'n Names, name: Option<&str>, lookups: &mut u32) -> [&'n [Candidate]; 3] {
    let mut found: [&[Candidate]; 3] = [&[], &[], &names.any];
    if let Some(name) = name {
        *lookups += 1;
        found[0] = names.exact.get(name).map_or(&[], Vec::as_slice);
        if let Some(parent) = parent_name(name) {
            *lookups += 1;
            found[1] = names.wildcard.get(parent).map_or(&[], Vec::as_slice);
        }
    }
    found
}

/// Takes the candidate of the lowest rank from three sorted lists.
fn take_first<'n>(found: &mut [&'n [Candidate]; 3]) -> Option<&'n Candidate> {
    let list = found.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list[0].rank)?;
    let (first, rest) = list.split_first()?;
    *list = rest;
    Some(first)
}
