//! Which counters of a hop key were used.
//!
//! Owns the sliding window of one key: the highest counter and a bit for each of the 65,536 up to it.
//! Never sees an unverified counter (only the key's holder can move the window), and knows no time.
//! Invariant: a counter is accepted at most once; one that is older than the window never.

/// The counters that a window spans. Headers are written by many workers and read in the order of their
/// sockets, so they arrive out of order, but not by this much.
pub const REPLAY_WINDOW: u64 = 65_536;

const WORDS: usize = (REPLAY_WINDOW / 64) as usize;

/// The used counters of one key; 8 KiB.
#[derive(Debug, Clone)]
pub struct ReplayWindow {
    /// The highest counter accepted, 0 before the first.
    highest: u64,
    /// Bit `counter % REPLAY_WINDOW` for each counter in `highest - 65,535 ..= highest`: used.
    used: Box<[u64; WORDS]>,
}

impl ReplayWindow {
    /// A window in which no counter was used.
    pub fn new() -> Self {
        Self { highest: 0, used: Box::new([0; WORDS]) }
    }

    /// Marks `counter` as used.
    pub fn accept(&mut self, counter: u64) -> Result<(), Replayed> {
        if counter == 0 {
            return Err(Replayed::Zero);
        }
        if counter > self.highest {
            self.forget(counter);
            self.highest = counter;
        } else if self.highest - counter >= REPLAY_WINDOW {
            return Err(Replayed::TooOld { behind: self.highest - counter });
        }
        let (word, bit) = place(counter);
        if self.used[word] & bit != 0 {
            return Err(Replayed::Seen);
        }
        self.used[word] |= bit;
        Ok(())
    }

    /// Clears the places of the counters between the highest one and `counter`, which held older ones.
    fn forget(&mut self, counter: u64) {
        if counter - self.highest >= REPLAY_WINDOW {
            self.used.fill(0);
            return;
        }
        let mut left = counter - self.highest;
        let mut next = self.highest + 1;
        while left > 0 {
            let (word, bit) = place(next);
            let cleared = if bit == 1 && left >= 64 {
                self.used[word] = 0;
                64
            } else {
                self.used[word] &= !bit;
                1
            };
            left -= cleared;
            // Past the last counter there is only when nothing is left.
            next = next.wrapping_add(cleared);
        }
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

/// `hop_replayed`: why a counter is not fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Replayed {
    /// The counter 0, which no header has: attempt 0 is the front half.
    #[error("the counter is 0")]
    Zero,
    /// The counter was used.
    #[error("the counter was used before")]
    Seen,
    /// The counter is older than the window, so nobody knows.
    #[error("the counter is {behind} behind the newest")]
    TooOld {
        /// The distance to the highest counter.
        behind: u64,
    },
}

/// The word and the bit of a counter.
fn place(counter: u64) -> (usize, u64) {
    ((counter % REPLAY_WINDOW / 64) as usize, 1 << (counter % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    /// a header that was recorded and sent again is refused.
    #[test]
    fn a_counter_is_accepted_once() {
        let mut window = ReplayWindow::new();
        assert_eq!(window.accept(0), Err(Replayed::Zero));
        assert_eq!(window.accept(3), Ok(()));
        assert_eq!(window.accept(3), Err(Replayed::Seen));
        assert_eq!(window.accept(1), Ok(()));
        assert_eq!(window.accept(1), Err(Replayed::Seen));
        assert_eq!(window.accept(2), Ok(()));
    }

    /// the edges of the window, and of the counter itself.
    #[test]
    fn the_window_is_exactly_65_536_wide() {
        let mut window = ReplayWindow::new();
        assert_eq!(window.accept(100_000), Ok(()));
        assert_eq!(window.accept(100_000 - 65_535), Ok(()));
        assert_eq!(window.accept(100_000 - 65_536), Err(Replayed::TooOld { behind: 65_536 }));
        assert_eq!(window.accept(100_001), Ok(()));
        assert_eq!(window.accept(100_001 - 65_535), Ok(()), "same place as a counter that left the window");
        assert_eq!(window.accept(u64::MAX - 1), Ok(()));
        assert_eq!(window.accept(u64::MAX), Ok(()));
        assert_eq!(window.accept(u64::MAX), Err(Replayed::Seen));
        assert_eq!(window.accept(100_002), Err(Replayed::TooOld { behind: u64::MAX - 100_002 }));
    }

    /// Steps of every size that matters: neighbours, words, a whole window, far beyond.
    fn step() -> impl Strategy<Value = i64> {
        prop_oneof![
            8 => -70_i64..70,
            3 => -66_000_i64..66_000,
            2 => 65_530_i64..65_545,
            2 => -65_545_i64..-65_530,
            1 => 0_i64..1_000_000,
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// for any order of counters the window says what a set of all of them would say.
        #[test]
        fn the_window_agrees_with_a_set_of_all_counters(
            start in prop_oneof![Just(1_u64), 1_u64..200_000, Just(u64::MAX - 100_000)],
            steps in prop::collection::vec(step(), 1..300),
        ) {
            let mut window = ReplayWindow::new();
            let mut accepted = BTreeSet::new();
            let mut counter = start;
            for step in steps {
                let newest = accepted.last().copied().unwrap_or(0);
                let want = if counter == 0 {
                    Err(Replayed::Zero)
                } else if accepted.contains(&counter) && newest - counter < 65_536 {
                    Err(Replayed::Seen)
                } else if newest >= counter && newest - counter >= 65_536 {
                    Err(Replayed::TooOld { behind: newest - counter })
                } else {
                    accepted.insert(counter);
                    Ok(())
                };
                prop_assert_eq!(window.accept(counter), want, "counter {}", counter);
                counter = counter.saturating_add_signed(step);
            }
        }
    }
}
