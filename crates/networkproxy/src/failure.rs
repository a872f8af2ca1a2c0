//! What went wrong between us and a target.
//!
//! *Owns* the sorting of dial errors, hyper's client errors and sockets' errnos into reasons. *Never* blames
//! the client or us for a target's fault, or the other way round. *Invariant*: a rule of ours that fired is
//! named with its limit and source.

use ledger::{Armed, Limit, Observation, Reason, Rule};
use runtime::{DialError, ResolveError};
use thiserror::Error;

use crate::pool::TargetWire;

/// How a target failed us.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct TargetFailure {
    /// Which failure.
    pub reason: Reason,
    /// Our rule that fired, and what was measured.
    rule: Option<(Rule, Box<str>)>,
    /// errno, parser's message.
    detail: Option<Box<str>>,
}

impl TargetFailure {
    /// A failure without further facts.
    pub const fn of(reason: Reason) -> Self {
        Self { reason, rule: None, detail: None }
    }

    /// The target's name has no address.
    pub fn in_resolving(error: &ResolveError) -> Self {
        Self { reason: Reason::TargetResolveFailed, rule: None, detail: Some(chain(error).into()) }
    }

    /// No connection could be made, within `connect`.
    pub fn in_dial(error: &DialError, connect: &Limit) -> Self {
        let reason = error.reason(ledger::LegName::Target);
        let rule = (reason == Reason::TargetConnectTimeout).then(|| {
            let limit = format!("{:?}", connect.value);
            let rule = Rule {
                name: "connect".into(),
                limit: limit.clone().into(),
                source: (*connect.source).into(),
            };
            (rule, limit.into())
        });
        Self { reason, rule, detail: Some(error.to_string().into()) }
    }

    /// A deadline of ours that waits for the target has passed.
    pub fn expired(reason: Reason, armed: &Armed) -> Self {
        let observed = format!("{:?}", armed.limit);
        Self { reason, rule: Some((armed.rule(), observed.into())), detail: None }
    }

    /// hyper could not send the request or read the response.
    pub fn in_response(error: &hyper::Error, wire: Option<&TargetWire>) -> Self {
        let failure = wire.and_then(TargetWire::failure);
        let closed = wire.is_some_and(TargetWire::saw_fin);
        let answered = wire.is_some_and(TargetWire::has_answered);
        let (reason, detail) = match failure {
            Some(failure) if failure.kind() == std::io::ErrorKind::TimedOut => {
                (Reason::TargetVanished, failure.to_string())
            }
            Some(failure) => (Reason::TargetReset, failure.to_string()),
            None if error.is_parse() => (Reason::TargetProtocolError, chain(error)),
            None if closed && !answered => (Reason::TargetClosed, "closed before it answered".to_owned()),
            None if closed => (Reason::TargetProtocolError, "closed in the middle of a response".to_owned()),
            None => (Reason::TargetProtocolError, chain(error)),
        };
        Self { reason, rule: None, detail: Some(detail.into()) }
    }

    /// Adds what is known beside the reason.
    pub fn complete(&self, observation: Observation) -> Observation {
        let observation = match &self.rule {
            Some((rule, observed)) => observation.by_rule(rule.clone(), observed.clone()),
            None => observation,
        };
        match &self.detail {
            Some(detail) => observation.with_detail(detail.clone()),
            None => observation,
        }
    }
}

/// An error with everything below it, for a record's detail.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        below = cause.source();
    }
    text
}
