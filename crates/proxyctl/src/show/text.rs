//! Values as people read them: spans of time, times of day, bytes, ids.
//!
//! *Owns* their spelling. *Never* rounds what is compared: exact numbers are in `--output json`.
//! *Invariant*: [`clean`] leaves no character that a terminal obeys.

use std::borrow::Cow;
use std::time::Duration;

use prost_types::Timestamp;

/// How many characters of an id a table shows: the random end, which is what people type.
const TAIL: usize = 12;

/// A span of time in at most two units: `350ms`, `12.3s`, `4m05s`, `2h13m`, `3d04h`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{seconds}.{}s", duration.subsec_millis() / 100),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// As [`span`], of a span on the wire; `-` where it is absent. A negative one has a minus.
pub(crate) fn wire_span(duration: Option<&prost_types::Duration>) -> String {
    let Some(duration) = duration else { return "-".to_owned() };
    if let Ok(positive) = Duration::try_from(*duration) {
        return span(positive);
    }
    let size = Duration::new(duration.seconds.unsigned_abs(), duration.nanos.unsigned_abs());
    format!("-{}", span(size))
}

/// How long `duration` on the wire is; zero where it is absent or negative.
pub(crate) fn length(duration: Option<&prost_types::Duration>) -> Duration {
    duration.and_then(|duration| Duration::try_from(*duration).ok()).unwrap_or_default()
}

/// A time of day in UTC with milliseconds: `2025-01-31T12:00:01.250Z`; `-` where it is absent.
pub(crate) fn time(at: Option<&Timestamp>) -> String {
    let Some(at) = at else { return "-".to_owned() };
    let whole = Timestamp { seconds: at.seconds, nanos: 0 }.to_string();
    let millis = at.nanos.clamp(0, 999_999_999) / 1_000_000;
    format!("{}.{millis:03}Z", whole.trim_end_matches('Z'))
}

/// Bytes with a binary unit: `999B`, `1.2KiB`, `3.4GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
}

/// The end of an id: unique in practice, and enough for `get` and `close`.
pub(crate) fn tail(id: &str) -> &str {
    let start = id.len().saturating_sub(TAIL);
    id.get(start..).unwrap_or(id)
}

/// `text` or `-`.
pub(crate) fn or_dash(text: Option<&str>) -> &str {
    text.filter(|text| !text.is_empty()).unwrap_or("-")
}

/// `text` with everything that a terminal obeys written out: control characters, and those that turn the
/// direction of writing or cannot be seen.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().flat_map(|c| {
        let (escape, plain) = if obeyed(c) { (Some(c.escape_unicode()), None) } else { (None, Some(c)) };
        escape.into_iter().flatten().chain(plain)
    });
    Cow::Owned(escaped.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_at_most_two_units() {
        for (millis, expected) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1.0s"),
            (12_399, "12.3s"),
            (59_999, "59.9s"),
            (60_000, "1m00s"),
            (245_000, "4m05s"),
            (3_599_999, "59m59s"),
            (7_980_000, "2h13m"),
            (86_400_000, "1d00h"),
            (273_600_000, "3d04h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn absent_and_negative_spans_are_told_apart() {
        assert_eq!(wire_span(None), "-");
        assert_eq!(wire_span(Some(&prost_types::Duration { seconds: 0, nanos: -20_000_000 })), "-20ms");
        assert_eq!(wire_span(Some(&prost_types::Duration { seconds: 61, nanos: 0 })), "1m01s");
        assert_eq!(length(Some(&prost_types::Duration { seconds: -1, nanos: 0 })), Duration::ZERO);
    }

    #[test]
    fn times_are_utc_with_milliseconds_of_fixed_width() {
        let at = |seconds, nanos| time(Some(&Timestamp { seconds, nanos }));
        assert_eq!(at(1_738_324_801, 250_000_000), "2025-01-31T12:00:01.250Z");
        assert_eq!(at(1_738_324_801, 999), "2025-01-31T12:00:01.000Z");
        assert_eq!(time(None), "-");
    }

    #[test]
    fn bytes_have_a_binary_unit_and_one_decimal() {
        for (count, expected) in [
            (0, "0B"),
            (1_023, "1023B"),
            (1_024, "1.0KiB"),
            (1_280, "1.2KiB"),
            (1_048_575, "1023.9KiB"),
            (1_048_576, "1.0MiB"),
            (u64::MAX, "16383.9PiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert!(matches!(clean("app.example.com → ü"), Cow::Borrowed(_)));
        assert_eq!(clean("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\u{a}");
        assert_eq!(clean("x\u{9b}y\u{202e}z"), "x\\u{9b}y\\u{202e}z");
    }

    #[test]
    fn an_id_is_known_by_its_end() {
        assert_eq!(tail("01948a1e-7c00-7abc-8def-0123456789ab"), "0123456789ab");
        assert_eq!(tail("short"), "short");
    }
}
