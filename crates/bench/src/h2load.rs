//! Owns the reading of what h2load (nghttp2) prints.
//!
//! Never forgives: a request that is not a 2xx is lost.

use anyhow::{Context as _, Result, ensure};

/// What it did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    /// Answers with 2xx.
    pub done: u64,
    /// Everything else that was asked for.
    pub lost: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Reads its whole output.
pub(crate) fn parse(text: &str) -> Result<Summary> {
    let total = number(text, "requests:", "total").context("no line of requests")?;
    let done = number(text, "status codes:", "2xx").context("no line of status codes")?;
    let finished = text.lines().find_map(|line| line.strip_prefix("finished in ")).context("not finished")?;
    let seconds = duration(finished.split(',').next().unwrap_or_default()).context("no duration")?;
    ensure!(done <= total, "{done} of {total} requests were answered");
    Ok(Summary { done, lost: total - done, seconds })
}

/// The number before `what` in the line that starts with `line`: `requests: 5 total, 5 started, …`.
fn number(text: &str, line: &str, what: &str) -> Option<u64> {
    let rest = text.lines().find_map(|found| found.strip_prefix(line))?;
    rest.split(',').find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
}

/// `2.05s`, `912.33ms`, `87us`.
fn duration(text: &str) -> Option<f64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let value: f64 = text[..split].parse().ok()?;
    match &text[split..] {
        "s" => Some(value),
        "ms" => Some(value / 1e3),
        "us" => Some(value / 1e6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
finished in 912.50ms, 35068.49 req/s, 1.10MB/s
requests: 32000 total, 32000 started, 32000 done, 32000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 32000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.01MB (1056000) total, 93.75KB (96000) headers (space savings 90.91%), 62.50KB (64000) data
";

    #[test]
    fn a_clean_run_lost_nothing() {
        assert_eq!(parse(GOOD).unwrap(), Summary { done: 32_000, lost: 0, seconds: 0.9125 });
    }

    #[test]
    fn answers_that_are_not_2xx_are_lost() {
        let bad = GOOD.replace("32000 2xx, 0 3xx, 0 4xx, 0 5xx", "31990 2xx, 0 3xx, 0 4xx, 10 5xx");
        assert_eq!(parse(&bad).unwrap().lost, 10);
    }

    #[test]
    fn units_of_time_are_read_and_nonsense_is_not() {
        assert_eq!(duration("2.05s"), Some(2.05));
        assert_eq!(duration("87us"), Some(87.0 / 1e6));
        assert_eq!(duration("soon"), None);
        assert!(parse("").is_err());
    }
}
