//! Owns the arithmetic over samples: medians, spreads, percentiles. Pure.
//!
//! Never averages: one disturbed round of a shared machine must not move a figure.

use serde::{Deserialize, Serialize};

/// The middle value, or the mean of the two middle ones.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(sorted[sorted.len() / 2 - 1], upper))
}

/// `(max - min) / median`; `None` without a median that can divide.
pub(crate) fn spread(values: &[f64]) -> Option<f64> {
    let middle = median(values).filter(|middle| *middle > 0.0)?;
    let max = values.iter().copied().fold(f64::MIN, f64::max);
    let min = values.iter().copied().fold(f64::MAX, f64::min);
    Some((max - min) / middle)
}

/// What a set of latencies comes to, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    /// How many there were.
    pub count: u64,
    /// Half are at most this.
    pub p50: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// All are at most this.
    pub max: f64,
}

impl Percentiles {
    /// Of latencies in nanoseconds, in any order. `None` of none.
    pub(crate) fn of(mut nanoseconds: Vec<u64>) -> Option<Self> {
        nanoseconds.sort_unstable();
        let at = |share: f64| nearest_rank(&nanoseconds, share).map(|ns| ns as f64 / 1e3);
        Some(Self { count: nanoseconds.len() as u64, p50: at(0.5)?, p99: at(0.99)?, max: at(1.0)? })
    }
}

/// The smallest value that `share` of all values do not exceed.
fn nearest_rank(sorted: &[u64], share: f64) -> Option<u64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn the_spread_is_relative_to_the_median() {
        assert_eq!(spread(&[8.0, 10.0, 12.0]), Some(0.4));
        assert_eq!(spread(&[7.0]), Some(0.0));
        assert_eq!(spread(&[0.0, 0.0]), None);
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let latencies = (1..=1000).rev().map(|n| n * 1000).collect();
        let expected = Percentiles { count: 1000, p50: 500.0, p99: 990.0, max: 1000.0 };
        assert_eq!(Percentiles::of(latencies), Some(expected));
        let one = Percentiles { count: 1, p50: 7.0, p99: 7.0, max: 7.0 };
        assert_eq!(Percentiles::of(vec![7000]), Some(one));
        assert_eq!(Percentiles::of(Vec::new()), None);
    }
}
