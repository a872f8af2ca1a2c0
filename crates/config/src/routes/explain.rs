//! Owns the long answer to "why did it go there": every route, and the clause that kept it out.
//!
//! Never used on the data path: it looks at all routes. Invariant: the winner it names is the one that
//! `decide` and `route_for` pick, because it asks them.

use std::sync::Arc;

use super::decide::{Class, Clause, Decision, Question, Verdict};
use super::entry::EntryClass;
use super::inner::{NoRoute, Request, authority_host};
use super::pattern::normal_name;
use super::route::Route;
use super::table::RouteTable;

/// The long answer.
#[derive(Debug, Clone)]
pub struct Explanation<'t> {
    /// The first step: the entry and its trace.
    pub decision: Decision<'t>,
    /// The route that wins: of the entry's routes the one that the request picks, or the only one. `None`
    /// where there is no entry, or several routes and no request.
    pub route: Option<&'t Arc<Route>>,
    /// Why the request has no route, where it has none.
    pub no_route: Option<NoRoute>,
    /// Every route in the order of the file, and what became of it.
    pub routes: Vec<(&'t Arc<Route>, Verdict)>,
}

impl RouteTable {
    /// Explains a decision; with a request, also which route of the entry answers it.
    pub fn explain(&self, question: &Question<'_>, request: Option<&Request<'_>>) -> Explanation<'_> {
        let class = if self.server_speaks_first(question.port) { Class::Clear } else { question.class };
        let question = Question { class, ..*question };
        let decision = self.decide(&question);
        let (route, no_route) = match decision.entry {
            Err(_) => (None, None),
            Ok(entry) => match (self.index_of(entry).and_then(|index| self.inner_entry(index)), request) {
                (Some(inner), Some(request)) => match inner.route_for(request) {
                    Ok(found) => (entry.routes.iter().find(|route| route.name == found.name), None),
                    Err(no_route) => (None, Some(no_route)),
                },
                _ => (entry.only_route(), None),
            },
        };
        let verdict = |candidate: &Arc<Route>| {
            if route.is_some_and(|route| Arc::ptr_eq(route, candidate)) {
                return Verdict::Chosen;
            }
            Verdict::Failed(failed(candidate, &question, request).unwrap_or(Clause::Outranked))
        };
        let routes = self.routes().iter().map(|route| (route, verdict(route))).collect();
        Explanation { decision, route, no_route, routes }
    }
}

/// The first clause of a route that fails on its own, whatever other routes there are.
fn failed(route: &Route, question: &Question<'_>, request: Option<&Request<'_>>) -> Option<Clause> {
    if !route.matching.has_port(question.port) {
        return Some(Clause::Port);
    }
    match (route.class(), question.class) {
        (EntryClass::Tls, Class::Clear) | (EntryClass::Clear, Class::Tls) => return Some(Clause::Class),
        _ => {}
    }
    let host = match question.class {
        Class::Tls => question.server_name,
        Class::Clear => request.and_then(|request| authority_host(request.authority)),
    };
    let host = host.map(normal_name);
    let listed = |name: &str| route.matching.domains.iter().any(|domain| domain.covers(name));
    if !route.matching.domains.is_empty() && !host.as_deref().is_some_and(listed) {
        return Some(Clause::Domain);
    }
    if let Some(clause) = route.matching.failed_clause(question) {
        return Some(clause);
    }
    match (&route.matching.path, request) {
        (Some(path), Some(request)) if !path.covers(request.path) => Some(Clause::Path),
        _ => None,
    }
}
