//! Seeded simulation of one smartproxy ledger and two networkproxy ledgers.
//!
//! `LEDGER_SEED=n` replays one seed, `LEDGER_SEEDS=n` runs as many (500 by default), from `LEDGER_FROM` on. A failing seed is
//! printed. The hop and its ends are inputs of their own, unordered against the control channel; control
//! links delay, break, reconnect, and deliver messages of an old session into the new one; processes stop,
//! go on, crash and restart at any step; wall clocks jump. When everything is quiet again: mirrors equal
//! truth, laws hold, every half is settled, every pair settled from both has one cause, memory is bounded.

#![expect(clippy::unchecked_time_subtraction, reason = "simulated time never runs backwards")]
#![expect(clippy::format_push_string, reason = "a report on a failure, once")]

mod checks;
mod hop;
mod process;
mod rng;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use ledger::LedgerLimits;
use ledger::fault::Fault;

use crate::rng::Rng;
use crate::world::World;

/// What the control channel does to messages, beyond delaying and breaking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    /// Nothing: a stream delivers what was sent, in order, until it breaks.
    Honest,
    /// Now and then a batch or a chunk vanishes: the position check must reset the session.
    Lossy,
    /// Now and then a half's phase is altered: the digest must find it, a snapshot must repair it.
    Corrupt,
}

/// What one seed varies.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    channel: Channel,
    pub(crate) limits: LedgerLimits,
    pub(crate) arrival_ms: u64,
    pub(crate) active: Duration,
    /// The longest stop or cut: in some seeds long enough for a peer to be forgotten.
    pub(crate) longest_absence: Duration,
    pub(crate) fault: Option<Fault>,
    pub(crate) last_delivery: BTreeMap<(usize, usize, u64), Duration>,
    pub(crate) pairs_compared: usize,
}

impl Scenario {
    fn of(seed: u64, fault: Option<Fault>) -> Self {
        let mut rng = Rng::new(seed ^ 0xabcd);
        let closed_records = rng.pick(&[5, 50, 1_000, 10_000]);
        let channel = match seed % 8 {
            6 => Channel::Lossy,
            7 => Channel::Corrupt,
            _ => Channel::Honest,
        };
        // Some seeds are long enough for peers to be forgotten, some busy enough for pulls of many batches.
        let (arrival_ms, active, absence) = match seed % 32 {
            9 | 25 => (700, 150, 100),
            3 => (8, 4 + rng.below(4), 4),
            _ => (rng.pick(&[30, 120, 400]), 8 + rng.below(30), 12),
        };
        Self {
            seed,
            channel,
            limits: LedgerLimits { closed_records, ..LedgerLimits::default() },
            arrival_ms,
            active: Duration::from_secs(active),
            longest_absence: Duration::from_secs(absence),
            fault,
            last_delivery: BTreeMap::new(),
            pairs_compared: 0,
        }
    }
}

/// Runs one seed; says how many pairs were compared, or what was violated.
fn run(seed: u64, fault: Option<Fault>) -> Result<usize, String> {
    let scenario = Scenario::of(seed, fault);
    let active = scenario.active;
    let mut world = World::new(scenario);
    world.run_until(active);
    world.heal();
    world.check_quiet();
    match world.violation {
        Some(why) => Err(format!("LEDGER_SEED={seed}: {why}")),
        None => Ok(world.scenario.pairs_compared),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a whole number"))
}

/// whatever happens, the books balance and every close has one cause.
#[test]
fn two_processes_keep_one_set_of_books() {
    if let Some(seed) = number("LEDGER_SEED") {
        run(seed, None).unwrap_or_else(|why| panic!("{why}"));
        return;
    }
    let seeds = number("LEDGER_SEEDS").unwrap_or(500);
    let mut pairs = 0;
    let from = number("LEDGER_FROM").unwrap_or(0);
    for seed in from..from + seeds {
        pairs += run(seed, None).unwrap_or_else(|why| panic!("{why}"));
    }
    assert!(pairs as u64 > seeds * 5, "only {pairs} pairs were compared over {seeds} seeds");
}

/// The same seed gives the same run: nothing in the ledger depends on anything but its inputs.
#[test]
fn a_seed_replays_exactly() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed, None), run(seed, None));
    }
}

#[expect(clippy::print_stdout, reason = "says how it was caught, with --nocapture")]
/// Each guard, removed, is missed by the simulation within a few seeds.
fn is_caught(fault: Fault) {
    let attempt = |seed| std::panic::catch_unwind(|| run(seed, Some(fault)));
    let caught = (0..200).find_map(|seed| match attempt(seed) {
        Ok(outcome) => outcome.err(),
        Err(_) => Some(format!("LEDGER_SEED={seed}: an assertion of a debug build")),
    });
    let why = caught.unwrap_or_else(|| panic!("{fault:?} was not noticed in 200 seeds"));
    println!("{fault:?}: {}", why.lines().next().unwrap_or_default());
}

macro_rules! planted {
    ($($name:ident: $fault:ident;)+) => {$(
        #[test]
        fn $name() {
            is_caught(Fault::$fault);
        }
    )+};
}

planted! {
    a_dropped_end_is_noticed: DropEnd;
    a_batch_applied_across_a_gap_is_noticed: ApplyAcrossGap;
    a_superseded_half_that_is_joined_is_noticed: JoinSuperseded;
    an_old_sessions_message_applied_in_the_new_one_is_noticed: AcceptOldSession;
    an_old_instance_taken_for_a_new_one_is_noticed: MatchOldInstance;
    a_settling_half_evicted_unsettled_is_noticed: EvictUnsettled;
    a_drift_that_is_not_counted_is_noticed: IgnoreDrift;
    two_causes_for_one_pair_are_noticed: PreferOwnEvidence;
    a_half_that_nobody_looks_at_again_is_noticed: ForgetToLook;
}
