//! How long to wait before the next dial.
//!
//! *Owns* the pause between two dials. *Never* draws randomness itself. *Invariant*: between 50 ms and
//! 500 ms, longer with every failure, and not the same for two processes that failed together.

use std::time::Duration;

/// The shortest pause.
const SHORTEST: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST: Duration = Duration::from_millis(500);

/// The pause after `failures` dials in a row that failed (0: a session that ended), spread by `random`.
pub(crate) fn pause(failures: u32, random: u64) -> Duration {
    let most = (SHORTEST * 2).saturating_mul(1 << failures.min(4)).min(LONGEST);
    let least = most / 2;
    let fraction = (random >> 11) as f64 / (1_u64 << 53) as f64;
    least + most.saturating_sub(least).mul_f64(fraction)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_grow_from_50_ms_to_500_ms() {
        assert_eq!(pause(0, 0), SHORTEST);
        assert_eq!(pause(1, 0), SHORTEST * 2);
        assert_eq!(pause(u32::MAX, 0), LONGEST / 2);
        assert!(pause(u32::MAX, u64::MAX) > LONGEST.mul_f64(0.99));
    }

    proptest! {
        /// processes that fail together do not come back together.
        #[test]
        fn every_pause_is_within_bounds_and_spread(failures in any::<u32>(), random in any::<u64>()) {
            let paused = pause(failures, random);
            prop_assert!((SHORTEST..=LONGEST).contains(&paused));
            prop_assert_ne!(paused, pause(failures, random ^ (1 << 63)));
        }
    }
}
