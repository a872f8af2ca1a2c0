//! Causes that many connections share.
//!
//! *Owns* the latest settlements, each with the ends that it was made from: connections that end alike share one.
//! *Never* decides anything: [`crate::termination`] does. *Invariant*: what is taken from here equals what would have
//! been made.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::evidence::End;
use crate::half::Settlement;
use crate::id::Role;
use crate::termination::{AloneBecause, SettledFrom, alone, only, root_cause};

/// Settlements remembered: looking at one costs a fraction of making one, and few are in use at a time.
const MOST: usize = 8;

/// What a half is settled from.
#[derive(Clone, Debug)]
pub(crate) enum Grounds {
    /// The front's end and the inner half's.
    Both { front: Arc<End>, inner: Arc<End> },
    /// Its own end: the other half's will not be known.
    Alone(Arc<End>, AloneBecause),
    /// Its own end: there was no other half.
    Only(Arc<End>),
}

/// The latest settlements of one process's halves.
#[derive(Debug)]
pub(crate) struct Causes {
    role: Role,
    latest: VecDeque<(Grounds, Arc<Settlement>)>,
}

impl Causes {
    pub(crate) fn of(role: Role) -> Self {
        Self { role, latest: VecDeque::new() }
    }

    /// The settlement that `grounds` make.
    pub(crate) fn settle(&mut self, grounds: Grounds) -> Arc<Settlement> {
        if let Some((_, known)) = self.latest.iter().find(|(known, _)| known.tell_the_same(&grounds)) {
            debug_assert_eq!(**known, grounds.settlement(self.role), "{grounds:?}");
            return Arc::clone(known);
        }
        let made = Arc::new(grounds.settlement(self.role));
        self.latest.truncate(MOST - 1);
        self.latest.push_front((grounds, Arc::clone(&made)));
        made
    }
}

impl Grounds {
    fn settlement(&self, role: Role) -> Settlement {
        let (cause, from) = match self {
            Self::Both { front, inner } => (root_cause(front, inner), SettledFrom::Both),
            Self::Alone(end, because) => (alone(end, role, *because), SettledFrom::Alone),
            Self::Only(end) => (only(end, role), SettledFrom::Only),
        };
        Settlement { cause, from, late: Vec::new() }
    }

    /// Do the other grounds make the same settlement?
    fn tell_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Both { front, inner }, Self::Both { front: other_front, inner: other_inner }) => {
                front.tells_the_same(other_front) && inner.tells_the_same(other_inner)
            }
            (Self::Alone(end, because), Self::Alone(other, as_well)) => {
                because == as_well && end.tells_the_same(other)
            }
            (Self::Only(end), Self::Only(other)) => end.tells_the_same(other),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::evidence::{HopCount, LegName, Observation, Rule};
    use crate::id::InstanceId;
    use crate::phase::Phase;
    use crate::reason::{Class, Initiator, Reason};
    use crate::time::Wall;

    fn end() -> End {
        let rule = Rule { name: "idle".into(), limit: "1m".into(), source: "default".into() };
        let seen =
            Observation::new(Role::Front, Reason::TlsHandshakeTimeout, Some(LegName::Client), Duration::ZERO)
                .by_rule(rule, "60s")
                .with_detail("since the last byte");
        End {
            phase: Phase::Relaying,
            observations: vec![seen],
            suspended: Duration::ZERO,
            hop: HopCount::default(),
            undelivered: 0,
            at: Wall(0),
            age: Duration::ZERO,
        }
    }

    /// `end` with one thing changed.
    fn but(change: impl FnOnce(&mut End)) -> Arc<End> {
        let mut end = end();
        change(&mut end);
        Arc::new(end)
    }

    /// Everything that a cause says makes a difference; when it was, and how much had passed, does not.
    #[test]
    fn connections_that_end_alike_share_one_settlement() {
        let mut causes = Causes::of(Role::Front);
        let first = causes.settle(Grounds::Only(Arc::new(end())));
        let later = but(|end| {
            end.observations[0].after = Duration::from_secs(7);
            (end.at, end.age, end.undelivered) = (Wall(9), Duration::from_secs(9), 3);
            end.hop = HopCount { sent: 1, received: 2, read_to_eof: true };
        });
        assert!(Arc::ptr_eq(&first, &causes.settle(Grounds::Only(later))));

        let others = [
            but(|end| end.phase = Phase::HalfClosed),
            but(|end| end.suspended = Duration::from_secs(1)),
            but(|end| end.observations.push(end.observations[0].clone())),
            but(|end| end.observations[0].reason = Reason::HalfCloseTimeout),
            but(|end| end.observations[0].class = Class::Orderly),
            but(|end| end.observations[0].initiator = Initiator::Client),
            but(|end| end.observations[0].leg = None),
            but(|end| end.observations[0].rule = None),
            but(|end| end.observations[0].observed = Some("61s".into())),
            but(|end| end.observations[0].detail = None),
        ];
        let base = Arc::new(end());
        let both = |front: &Arc<End>, inner: &Arc<End>| Grounds::Both {
            front: Arc::clone(front),
            inner: Arc::clone(inner),
        };
        for other in &others {
            for (known, asked) in [
                (Grounds::Only(Arc::clone(&base)), Grounds::Only(Arc::clone(other))),
                (both(&base, &base), both(other, &base)),
                (both(&base, &base), both(&base, other)),
            ] {
                // Nothing but the one that differs is remembered.
                let mut causes = Causes::of(Role::Front);
                let known = causes.settle(known);
                assert!(!Arc::ptr_eq(&known, &causes.settle(asked)), "{other:?}");
            }
        }
    }

    /// What comes too often to be forgotten is remembered, and no crowd is.
    #[test]
    fn only_the_latest_are_remembered() {
        let mut causes = Causes::of(Role::Front);
        for number in 0..100_u32 {
            let end = but(|end| end.observations[0].observed = Some(number.to_string().into()));
            let first = causes.settle(Grounds::Only(Arc::clone(&end)));
            assert!(Arc::ptr_eq(&first, &causes.settle(Grounds::Only(end))));
            assert!(causes.latest.len() <= MOST);
        }
    }

    /// The same end, but the other half's is missing for another reason, or there is none.
    #[test]
    fn what_a_half_waited_for_is_part_of_its_cause() {
        let mut causes = Causes::of(Role::Front);
        let end = but(|end| end.observations.clear());
        let lost = |instance| AloneBecause::SessionDown(InstanceId(instance));
        let mut grounds = vec![Grounds::Only(Arc::clone(&end))];
        for because in
            [AloneBecause::Unseen, AloneBecause::Superseded, AloneBecause::Evicted, lost(1), lost(2)]
        {
            grounds.push(Grounds::Alone(Arc::clone(&end), because));
        }
        for grounds in grounds.iter().chain(grounds.iter().rev()) {
            assert_eq!(*causes.settle(grounds.clone()), grounds.settlement(Role::Front));
        }
        assert_eq!(causes.latest.len(), grounds.len(), "each is remembered apart");
    }
}
