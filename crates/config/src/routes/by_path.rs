//! Owns the routes that list one name, and finds the one for a path.
//!
//! Never compares names. A few routes are tried in order of precedence; of many, each distinct pattern is found
//! by its text.
//!
//! Invariant: what `best` finds is the first, in order of precedence, of the routes that cover the path; its
//! work is bounded by a constant and the length of the path.

use std::collections::{BTreeSet, HashMap};

use super::inner::InnerRoute;
use super::pattern::PathPattern;

/// So many routes are tried one after the other: that is faster than a look-up by text.
const FEW: usize = 8;

/// The routes that list one name.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ByPath {
    /// Positions, in order of precedence.
    Few(Vec<u32>),
    /// By pattern.
    Many(Box<Index>),
}

/// Of routes with the same pattern, the position of the first in order of precedence.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Index {
    exact: HashMap<Box<str>, u32>,
    prefix: HashMap<Box<str>, u32>,
    /// The lengths that a prefix has.
    lengths: BTreeSet<usize>,
    any: Option<u32>,
}

impl ByPath {
    /// The routes at these positions of `routes`.
    pub(super) fn new(mut positions: Vec<u32>, routes: &[InnerRoute]) -> Self {
        positions.sort_by_key(|at| routes[*at as usize].rank(0));
        if positions.len() <= FEW {
            return Self::Few(positions);
        }
        let mut index = Index::default();
        for at in positions {
            match &routes[at as usize].path {
                None => {
                    index.any.get_or_insert(at);
                }
                Some(PathPattern::Exact(path)) => {
                    index.exact.entry(path.as_str().into()).or_insert(at);
                }
                Some(PathPattern::Prefix(prefix)) => {
                    index.prefix.entry(prefix.as_str().into()).or_insert(at);
                    index.lengths.insert(prefix.len());
                }
            }
        }
        Self::Many(Box::new(index))
    }

    /// Whether no route lists the name.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Few(positions) if positions.is_empty())
    }

    /// The route for `path`.
    pub(super) fn best<'r>(&self, routes: &'r [InnerRoute], path: &str) -> Option<&'r InnerRoute> {
        let route = |at: u32| &routes[at as usize];
        match self {
            Self::Few(positions) => {
                positions.iter().map(|at| route(*at)).find(|route| route.covers_path(path))
            }
            Self::Many(index) => index.covering(path).map(route).min_by_key(|route| route.rank(0)),
        }
    }

    /// How many routes, at most, are looked at for `path`.
    pub(super) fn candidates(&self, path: &str) -> usize {
        match self {
            Self::Few(positions) => positions.len(),
            Self::Many(index) => index.covering(path).count(),
        }
    }
}

impl Index {
    /// The routes that cover `path`, one for each pattern that does.
    fn covering<'i>(&'i self, path: &'i str) -> impl Iterator<Item = u32> + 'i {
        let prefixes = self.lengths.range(..=path.len()).filter_map(|length| {
            // A length may lie inside of a character: then no prefix of that length covers it.
            path.get(..*length).and_then(|prefix| self.prefix.get(prefix))
        });
        self.exact.get(path).into_iter().chain(prefixes).chain(&self.any).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::inner::{InnerAction, InnerTimeoutOverrides};
    use super::*;

    fn route(order: u32, path: Option<&str>, priority: i32) -> InnerRoute {
        InnerRoute {
            name: format!("route-{order}").into(),
            domains: Vec::new(),
            path: path.map(|path| path.to_owned().into()),
            priority,
            order,
            action: InnerAction::StatusPage,
            timeouts: InnerTimeoutOverrides::default(),
        }
    }

    proptest! {
        /// However many routes list a name, the one found is the one that comparing with each would find.
        #[test]
        fn the_index_finds_what_comparing_with_each_finds(
            patterns in prop::collection::vec((prop::option::of("/?[abü]{0,3}/?[ab]{0,2}\\*?"), -1_i32..2), 0..40),
            path in "/?[abü]{0,4}/?[ab]{0,3}",
        ) {
            let routes: Vec<InnerRoute> =
                (0..).zip(&patterns).map(|(order, (path, priority))| route(order, path.as_deref(), *priority)).collect();
            let listed = ByPath::new((0..routes.len() as u32).collect(), &routes);
            let compared = routes.iter().filter(|route| route.covers_path(&path)).min_by_key(|route| route.rank(0));
            prop_assert_eq!(listed.best(&routes, &path), compared);
            prop_assert!(listed.candidates(&path) <= FEW.max(path.len() + 3));
        }
    }
}
