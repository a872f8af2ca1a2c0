//! Owns the texts with units: durations, sizes, percentages and rates, read and written.
//!
//! Never guesses a unit: a bare number is an error that suggests one. Every value is finite and fits the
//! clocks that use it.
//!
//! Invariant: what `duration_text` and `size_text` write, `duration` and `size` read back.

use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

/// The longest duration that is accepted: a year, far inside what any timer can hold.
pub const LONGEST: Duration = Duration::from_hours(366 * 24);

/// A number, or what the process finds out by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(from = "Option<T>")]
pub enum Auto<T> {
    /// `auto`.
    Auto,
    /// This many.
    Exactly(T),
}

impl<T> Auto<T> {
    /// The number, where one is configured.
    pub fn configured(self) -> Option<T> {
        match self {
            Self::Auto => None,
            Self::Exactly(number) => Some(number),
        }
    }

    /// The number, or what `auto` finds.
    pub fn or_else(self, auto: impl FnOnce() -> T) -> T {
        match self {
            Self::Auto => auto(),
            Self::Exactly(number) => number,
        }
    }
}

impl<T> From<Option<T>> for Auto<T> {
    fn from(number: Option<T>) -> Self {
        number.map_or(Self::Auto, Self::Exactly)
    }
}

/// A share of a hundred, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct Percent(u32);

impl Percent {
    /// The share as a fraction: `5%` is 0.05.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// In hundredths of a percent: `5%` is 500.
    pub fn basis_points(self) -> u32 {
        self.0
    }
}

/// So many in so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Rate {
    /// How many, at least 1.
    pub count: u64,
    /// In how long, not zero.
    pub per: Duration,
}

/// Why a text with a unit cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnitError {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// A number alone.
    #[error("has no unit")]
    NoUnit,
    /// A number and letters that are no unit.
    #[error("has an unknown unit")]
    UnknownUnit,
    /// No whole number in front.
    #[error("has no whole number in front of its unit")]
    NoNumber,
    /// A minus.
    #[error("is negative")]
    Negative,
    /// More than any clock or memory holds.
    #[error("is too large")]
    TooLarge,
    /// `/` is missing in a rate.
    #[error("has no `/` between a count and a duration")]
    NoSlash,
    /// None, or in no time.
    #[error("is zero")]
    Zero,
}

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Reads `500ms`, `10s`, `1m`, `1h`, `1d`.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let millis = with_unit(text, &DURATION_UNITS)?;
    let duration = Duration::from_millis(millis);
    if duration > LONGEST { Err(UnitError::TooLarge) } else { Ok(duration) }
}

/// Reads `512B`, `16KiB`, `100MiB`, `1GiB` as a number of bytes.
pub fn size(text: &str) -> Result<u64, UnitError> {
    with_unit(text, &SIZE_UNITS)
}

/// Reads `5%` or `2.5%`, at most two decimals, at most 100%.
pub fn percent(text: &str) -> Result<Percent, UnitError> {
    let number = match text.trim().strip_suffix('%') {
        Some(number) => number.trim_end(),
        None if text.trim().is_empty() => return Err(UnitError::Empty),
        None => return Err(UnitError::NoUnit),
    };
    if number.starts_with('-') {
        return Err(UnitError::Negative);
    }
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > 2 {
        return Err(UnitError::NoNumber);
    }
    let whole: u32 = whole.parse().map_err(|_| UnitError::TooLarge)?;
    let scale = if decimals.len() == 1 { 10 } else { 1 };
    let decimals: u32 = decimals.parse().map_err(|_| UnitError::NoNumber)?;
    let points = whole.checked_mul(100).and_then(|points| points.checked_add(decimals * scale));
    points.filter(|points| *points <= 10_000).map(Percent).ok_or(UnitError::TooLarge)
}

/// Reads `300/1m`.
pub fn rate(text: &str) -> Result<Rate, UnitError> {
    let (count, per) = text.split_once('/').ok_or(UnitError::NoSlash)?;
    let count = whole_number(count.trim())?;
    let per = duration(per)?;
    if count == 0 || per.is_zero() { Err(UnitError::Zero) } else { Ok(Rate { count, per }) }
}

/// The shortest text that [`duration`] reads back; whole milliseconds only.
pub fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis().try_into().unwrap_or(u64::MAX);
    if millis == 0 { "0s".to_owned() } else { text_with_unit(millis, &DURATION_UNITS) }
}

/// The shortest text that [`size`] reads back.
pub fn size_text(bytes: u64) -> String {
    if bytes == 0 { "0B".to_owned() } else { text_with_unit(bytes, &SIZE_UNITS) }
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Result<u64, UnitError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(UnitError::Empty);
    }
    if text.starts_with('-') {
        return Err(UnitError::Negative);
    }
    let letters = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(letters);
    let number = whole_number(number)?;
    let unit = unit.trim_start();
    if unit.is_empty() {
        return Err(UnitError::NoUnit);
    }
    if unit.starts_with('.') {
        return Err(UnitError::NoNumber);
    }
    let (_, scale) = units.iter().find(|(name, _)| *name == unit).ok_or(UnitError::UnknownUnit)?;
    number.checked_mul(*scale).ok_or(UnitError::TooLarge)
}

fn whole_number(text: &str) -> Result<u64, UnitError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(UnitError::NoNumber);
    }
    text.parse().map_err(|_| UnitError::TooLarge)
}

fn text_with_unit(number: u64, units: &[(&str, u64)]) -> String {
    let divides = units.iter().rev().find(|(_, scale)| number.is_multiple_of(*scale));
    let (unit, scale) = divides.copied().unwrap_or(("", 1));
    format!("{}{unit}", number / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a unit is required, nothing is negative or endless.
    #[test]
    fn durations_have_a_unit_and_an_end() {
        for (text, expected) in [
            ("500ms", Ok(500)),
            ("10s", Ok(10_000)),
            ("1m", Ok(60_000)),
            ("1h", Ok(3_600_000)),
            ("2d", Ok(172_800_000)),
            (" 10 s ", Ok(10_000)),
            ("0s", Ok(0)),
            ("", Err(UnitError::Empty)),
            ("10", Err(UnitError::NoUnit)),
            ("s", Err(UnitError::NoNumber)),
            ("1.5s", Err(UnitError::NoNumber)),
            ("10S", Err(UnitError::UnknownUnit)),
            ("1h30m", Err(UnitError::UnknownUnit)),
            ("10 minutes", Err(UnitError::UnknownUnit)),
            ("-1s", Err(UnitError::Negative)),
            ("367d", Err(UnitError::TooLarge)),
            ("99999999999999999999s", Err(UnitError::TooLarge)),
            ("18446744073709551615h", Err(UnitError::TooLarge)),
        ] {
            assert_eq!(duration(text), expected.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn sizes_are_binary_and_say_so() {
        for (text, expected) in [
            ("512B", Ok(512)),
            ("16KiB", Ok(16 << 10)),
            ("100MiB", Ok(100 << 20)),
            ("1GiB", Ok(1 << 30)),
            ("16", Err(UnitError::NoUnit)),
            ("16KB", Err(UnitError::UnknownUnit)),
            ("-1B", Err(UnitError::Negative)),
            ("17179869184GiB", Err(UnitError::TooLarge)),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }

    #[test]
    fn percentages_have_a_sign_and_two_decimals_at_most() {
        for (text, expected) in [
            ("5%", Ok(500)),
            ("2.5%", Ok(250)),
            ("0.05%", Ok(5)),
            ("100%", Ok(10_000)),
            ("0 %", Ok(0)),
            ("", Err(UnitError::Empty)),
            ("5", Err(UnitError::NoUnit)),
            ("-5%", Err(UnitError::Negative)),
            ("100.01%", Err(UnitError::TooLarge)),
            ("1.234%", Err(UnitError::NoNumber)),
            (".5%", Err(UnitError::NoNumber)),
            ("5.%", Err(UnitError::NoNumber)),
            ("%", Err(UnitError::NoNumber)),
        ] {
            assert_eq!(percent(text).map(Percent::basis_points), expected, "{text}");
        }
    }

    #[test]
    fn rates_are_a_count_and_a_duration() {
        let rate_of = |count, seconds| Ok(Rate { count, per: Duration::from_secs(seconds) });
        for (text, expected) in [
            ("300/1m", rate_of(300, 60)),
            ("1 / 10s", rate_of(1, 10)),
            ("300", Err(UnitError::NoSlash)),
            ("0/1m", Err(UnitError::Zero)),
            ("1/0s", Err(UnitError::Zero)),
            ("1/60", Err(UnitError::NoUnit)),
            ("x/1m", Err(UnitError::NoNumber)),
        ] {
            assert_eq!(rate(text), expected, "{text}");
        }
    }
}
