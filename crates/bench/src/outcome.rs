//! Owns what a load generator reports, as one line of JSON.
//!
//! Never a rate or a ratio: only what was counted, so that the reader can judge it. Invariant: an outcome with `lost`
//! above zero is a failure, whatever else it says.

use serde::{Deserialize, Serialize};

use crate::stats::Percentiles;

/// What one generator did in its window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Outcome {
    /// Units of work done: connections, requests, or megabytes (1,000,000 bytes).
    pub units: f64,
    /// The length of the window.
    pub seconds: f64,
    /// CPU time of the proxy's processes.
    pub proxy_us: f64,
    /// CPU time of the backend.
    pub backend_us: f64,
    /// CPU time of the generator.
    pub own_us: f64,
    /// Busy time of the whole machine.
    pub busy_us: f64,
    /// Time that the hypervisor took from the machine.
    pub stolen_us: f64,
    /// Units that failed, in or out of the window.
    pub lost: u64,
    /// What the first of them met.
    pub first_loss: Option<String>,
    /// Full TLS handshakes.
    pub full: u64,
    /// Resumed TLS handshakes.
    pub resumed: u64,
    /// Latencies of the units, where they were taken.
    pub latency: Option<Percentiles>,
    /// Units that were due, in an open loop.
    pub offered: u64,
    /// What became of the others, in an open loop with deadlines.
    pub refusals: std::collections::BTreeMap<String, u64>,
}

impl Outcome {
    /// CPU microseconds of the proxy per unit.
    pub(crate) fn cost(&self) -> f64 {
        self.proxy_us / self.units
    }

    /// Units per second.
    pub(crate) fn rate(&self) -> f64 {
        self.units / self.seconds
    }

    /// Busy microseconds of the whole machine per unit.
    pub(crate) fn machine(&self) -> f64 {
        self.busy_us / self.units
    }

    /// The share of one core that generator and backend used together.
    pub(crate) fn around(&self) -> f64 {
        (self.own_us + self.backend_us) / (self.seconds * 1e6)
    }

    /// The share of a core that generator or backend used, whichever used more.
    pub(crate) fn busiest(&self) -> f64 {
        self.own_us.max(self.backend_us) / (self.seconds * 1e6)
    }

    /// The share of the machine that was neither idle nor ours: other processes, and what the hypervisor took.
    pub(crate) fn others(&self) -> f64 {
        let known = self.proxy_us + self.backend_us + self.own_us;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (self.busy_us + self.stolen_us - known).max(0.0) / (self.seconds * 1e6 * cores as f64)
    }

    /// Why this is not a figure, if it is not.
    pub(crate) fn failure(&self) -> Option<String> {
        if self.lost > 0 {
            let first = self.first_loss.as_deref().unwrap_or("unknown");
            return Some(format!("{} lost, first: {first}", self.lost));
        }
        if let Some((words, count)) = self.refusals.first_key_value() {
            return Some(format!("{count} refused: {words}"));
        }
        (self.units <= 0.0).then(|| "no work was done".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_a_failure_and_so_is_nothing_done() {
        let good = Outcome { units: 4.0, proxy_us: 10.0, seconds: 2.0, ..Outcome::default() };
        assert_eq!(good.failure(), None);
        assert!((good.cost() - 2.5).abs() < 1e-9 && (good.rate() - 2.0).abs() < 1e-9);
        let lossy = Outcome { lost: 1, first_loss: Some("reset".into()), ..good };
        assert_eq!(lossy.failure().as_deref(), Some("1 lost, first: reset"));
        let refused = Outcome { refusals: [("late".to_owned(), 3)].into(), lost: 0, ..lossy };
        assert_eq!(refused.failure().as_deref(), Some("3 refused: late"));
        assert_eq!(Outcome::default().failure().as_deref(), Some("no work was done"));
    }

    #[test]
    fn it_survives_the_line_of_json() {
        let latency = Percentiles::of(vec![1500, 2500]);
        let outcome = Outcome { units: 3.0, latency, full: 2, ..Outcome::default() };
        let line = serde_json::to_string(&outcome).unwrap();
        assert_eq!(serde_json::from_str::<Outcome>(&line).unwrap(), outcome);
    }
}
