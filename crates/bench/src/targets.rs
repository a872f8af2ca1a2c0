//! Owns the targets T1 to T8 of the design and the verdict on a row. Pure.
//!
//! Never judges what was not measured: without a figure of ours or of the peer there is no verdict, only the reason.

use crate::subject::Subject;

/// A limit for a figure of ours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// So many times the figure of a peer.
    Times(f64, Subject),
    /// This figure.
    Fixed(f64),
}

/// What a row is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Target {
    /// `T1` to `T8`.
    pub id: &'static str,
    /// Where a careful implementation lands.
    pub must: Bound,
    /// What makes the project famous.
    pub hope: Bound,
}

/// How a row stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Both limits are kept.
    Hope,
    /// The first limit is kept; the other is missed by this share of itself.
    Must { short_of_hope: Option<f64> },
    /// Missed by this share of the limit.
    Missed { by: f64 },
    /// A figure is missing.
    Open,
}

impl Bound {
    /// In words.
    pub(crate) fn text(self, unit: &str) -> String {
        match self {
            Self::Times(factor, peer) => format!("≤ {factor} × {}", peer.title()),
            Self::Fixed(limit) => format!("≤ {limit} {unit}"),
        }
    }

    fn limit(self, figure: impl Fn(Subject) -> Option<f64>) -> Option<f64> {
        match self {
            Self::Times(factor, peer) => figure(peer).map(|figure| figure * factor),
            Self::Fixed(limit) => Some(limit),
        }
    }
}

impl Target {
    /// The target of a row, by its name.
    pub(crate) fn of(row: &str) -> Option<Self> {
        use Bound::{Fixed, Times};
        use Subject::{Haproxy, HaproxyTwice, Nginx};
        let target = |id, must, hope| Some(Self { id, must, hope });
        let mut words = row.split_whitespace();
        match words.next()? {
            "W1" => target("T1", Times(1.1, Haproxy), Times(0.9, Nginx)),
            "W2" => target("T2", Times(0.4, Haproxy), Times(0.35, Haproxy)),
            "W3" => target("T3", Times(1.1, HaproxyTwice), Times(0.75, HaproxyTwice)),
            "W4" => target("T4", Times(0.5, HaproxyTwice), Times(0.5, Haproxy)),
            "W5" => target("T6", Times(0.6, HaproxyTwice), Times(0.6, Haproxy)),
            "W6" => target("T5", Times(1.5, HaproxyTwice), Times(1.0, Haproxy)),
            "W7" if row.contains("passthrough") => target("T7", Times(1.2, Haproxy), Fixed(3.3)),
            "W7" => target("T7", Times(1.5, HaproxyTwice), Fixed(15.0)),
            "W8" => target("T8", Times(1.1, HaproxyTwice), Times(1.0, Haproxy)),
            _ => None,
        }
    }

    /// Judges the figures of a row.
    pub(crate) fn judge(&self, figure: impl Fn(Subject) -> Option<f64>) -> Verdict {
        let (Some(ours), Some(must)) = (figure(Subject::Ours), self.must.limit(&figure)) else {
            return Verdict::Open;
        };
        if ours > must {
            return Verdict::Missed { by: ours / must - 1.0 };
        }
        match self.hope.limit(&figure) {
            Some(hope) if ours <= hope => Verdict::Hope,
            hope => Verdict::Must { short_of_hope: hope.map(|hope| ours / hope - 1.0) },
        }
    }

    /// Our figure over the one that `must` names.
    pub(crate) fn ratio(&self, figure: impl Fn(Subject) -> Option<f64>) -> Option<f64> {
        let Bound::Times(_, peer) = self.must else { return None };
        Some(figure(Subject::Ours)? / figure(peer).filter(|figure| *figure > 0.0)?)
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hope => f.write_str("met, hope too"),
            Self::Must { short_of_hope: Some(by) } => write!(f, "met (hope missed by {:.0} %)", by * 100.0),
            Self::Must { short_of_hope: None } => f.write_str("met"),
            Self::Missed { by } => write!(f, "MISSED by {:.0} %", by * 100.0),
            Self::Open => f.write_str("no verdict"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(ours: f64, haproxy: f64, nginx: f64) -> impl Fn(Subject) -> Option<f64> {
        move |subject| match subject {
            Subject::Ours => Some(ours),
            Subject::Haproxy => Some(haproxy),
            Subject::Nginx => Some(nginx),
            _ => None,
        }
    }

    #[test]
    fn a_row_is_judged_by_the_peer_that_its_target_names() {
        let target = Target::of("W1 new passthrough connection").unwrap();
        assert_eq!(target.judge(figures(34.0, 40.0, 40.0)), Verdict::Hope);
        let Verdict::Must { short_of_hope: Some(by) } = target.judge(figures(43.2, 40.0, 40.0)) else {
            panic!("the must is met")
        };
        assert!((by - 0.2).abs() < 1e-9);
        let Verdict::Missed { by } = target.judge(figures(66.0, 40.0, 40.0)) else { panic!("it is missed") };
        assert!((by - 0.5).abs() < 1e-9);
        assert!((target.ratio(figures(66.0, 40.0, 40.0)).unwrap() - 1.65).abs() < 1e-9);
    }

    #[test]
    fn without_the_peer_there_is_no_verdict() {
        let target = Target::of("W3 small GET").unwrap();
        assert_eq!(target.judge(figures(20.0, 15.0, 15.0)), Verdict::Open);
        assert_eq!(target.ratio(figures(20.0, 15.0, 15.0)), None);
        assert_eq!(Target::of("W4r resumed"), None);
    }

    #[test]
    fn idle_memory_has_a_target_for_each_way() {
        let passthrough = Target::of("W7 idle passthrough, 5000").unwrap();
        assert_eq!(passthrough.judge(figures(3.0, 3.3, 15.0)), Verdict::Hope);
        let bridged = Target::of("W7 idle TLS keep-alive, 5000").unwrap();
        assert_eq!(bridged.must, Bound::Times(1.5, Subject::HaproxyTwice));
    }
}
