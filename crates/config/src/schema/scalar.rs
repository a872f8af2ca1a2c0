//! Owns the reading of single values: from the text in the file to the value that serde takes.
//!
//! Never knows which key it reads for. Every refusal says what was expected and, where one is near, what was
//! probably meant.

use std::net::IpAddr;
use std::time::Duration;

use serde_yaml::{Mapping, Value};

use super::{Scalar, Zero};
use crate::problem::nearest;
use crate::tree::Style;
use crate::units::{self, UnitError};

mod network;

/// Why a value is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) what: String,
    pub(crate) expected: String,
    pub(crate) suggestion: Option<String>,
}

impl Refusal {
    fn new(what: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { what: what.into(), expected: expected.into(), suggestion: None }
    }

    fn or(self, suggestion: Option<String>) -> Self {
        Self { suggestion, ..self }
    }
}

impl Scalar {
    /// What a value of this kind looks like, for errors and the reference page.
    pub(crate) fn expectation(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Name => "a name of letters, digits, `-`, `_` and `.`, at most 64".to_owned(),
            Self::Bool => "`true` or `false`".to_owned(),
            Self::Integer(least, most) => format!("a whole number from {least} to {most}"),
            Self::Limit(most) => format!("a whole number up to {most}, 0 = no limit"),
            Self::Auto(least, most) => format!("`auto` or a whole number from {least} to {most}"),
            Self::Word(words) => one_of(words),
            Self::Choice(numbers) => one_of(&numbers.iter().map(u64::to_string).collect::<Vec<_>>()),
            Self::Duration(Zero::Refused) => {
                "a duration such as `500ms`, `10s`, `1m` or `1h`, above zero".to_owned()
            }
            Self::Duration(Zero::NoLimit) => {
                "a duration such as `500ms`, `10s`, `1m` or `1h`, `0s` = no limit".to_owned()
            }
            Self::Duration(Zero::NoWait) => {
                "a duration such as `500ms`, `10s`, `1m` or `1h`, `0s` = do not wait".to_owned()
            }
            Self::Size(least, most) => {
                format!(
                    "a size such as `16KiB` from {} to {}",
                    units::size_text(least),
                    units::size_text(most)
                )
            }
            Self::Percent(most) => format!("a percentage such as `5%`, at most {most}%"),
            Self::Rate => "a rate such as `300/1m`".to_owned(),
            Self::Address => "an IP address and a port such as `127.0.0.1:7800` or `[::1]:7800`".to_owned(),
            Self::Ip => "an IP address".to_owned(),
            Self::Network => "a network such as `10.0.0.0/8`".to_owned(),
            Self::Domain => "a name such as `app.example.com` or `*.example.com`".to_owned(),
            Self::Ports => "a port such as `443` or a range such as `8000-8010`".to_owned(),
            Self::Target => "`host:port`".to_owned(),
            Self::File => "a path".to_owned(),
            Self::UrlPath => "a path such as `/api/*`".to_owned(),
            Self::Location => "a location such as `https://{host}{path_and_query}`".to_owned(),
        }
    }

    /// Reads the text of a value.
    pub(crate) fn read(self, text: &str, style: Style) -> Result<Value, Refusal> {
        let refuse = |what: String| Refusal::new(what, self.expectation());
        match self {
            Self::File if text.is_empty() => Err(refuse("the path is empty".to_owned())),
            Self::Text | Self::File => Ok(text.into()),
            Self::Name => name(text).map(Into::into).map_err(|what| refuse(format!("`{text}` {what}"))),
            Self::Bool => boolean(text, style),
            Self::Integer(least, most) => integer(text, style, least, most).map(Into::into).map_err(refuse),
            Self::Limit(most) => match integer(text, style, 0, most) {
                Ok(0) => Ok(Value::Null),
                Ok(number) => Ok(number.into()),
                Err(what) => Err(refuse(what)),
            },
            Self::Auto(..) if text == "auto" => Ok(Value::Null),
            Self::Auto(least, most) => {
                let read = integer(text, style, least, most).map(Into::into);
                read.map_err(|what| refuse(what).or(nearest(text, ["auto"])))
            }
            Self::Word(words) => word(text, words),
            Self::Choice(numbers) => match integer(text, style, 0, u64::MAX) {
                Ok(number) if numbers.contains(&number) => Ok(number.into()),
                Ok(number) => Err(refuse(format!("{number} is not known here"))),
                Err(what) => Err(refuse(what)),
            },
            Self::Duration(zero) => duration(text, zero),
            Self::Size(least, most) => size(text, least, most),
            Self::Percent(most) => percent(text, most),
            Self::Rate => {
                units::rate(text).map(|rate| rate_value(&rate)).map_err(|error| refuse(quoted(text, error)))
            }
            Self::Address => network::address(text),
            Self::Ip => match text.parse::<IpAddr>() {
                Ok(ip) => Ok(ip.to_string().into()),
                Err(_) => Err(refuse(format!("`{text}` is no IP address"))),
            },
            Self::Network => network::network(text),
            Self::Domain => network::domain(text),
            Self::Ports => network::ports(text),
            Self::Target => network::target(text),
            Self::UrlPath => network::url_path(text).map(Into::into).map_err(refuse),
            Self::Location => network::location(text),
        }
    }
}

/// `one of a, b or c`
pub(crate) fn one_of<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{}`", word.as_ref())).collect();
    match words.as_slice() {
        [] => "nothing".to_owned(),
        [only] => only.clone(),
        [rest @ .., last] => format!("one of {} or {last}", rest.join(", ")),
    }
}

fn quoted(text: &str, error: UnitError) -> String {
    format!("`{text}` {error}")
}

fn name(text: &str) -> Result<&str, &'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match text {
        "" => Err("is empty"),
        _ if text.len() > 64 => Err("is longer than 64 characters"),
        _ if !text.chars().all(allowed) => Err("has other characters"),
        _ => Ok(text),
    }
}

fn boolean(text: &str, style: Style) -> Result<Value, Refusal> {
    match text {
        "true" | "false" if style == Style::Plain => Ok((text == "true").into()),
        _ => {
            let meant = match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "y" | "1" | "enabled" => Some("true"),
                "false" | "no" | "off" | "n" | "0" | "disabled" => Some("false"),
                _ => None,
            };
            let what = match style {
                Style::Quoted => format!("`{text}` in quotes is text"),
                Style::Plain => format!("`{text}` is neither true nor false"),
            };
            let nearest = meant.map(str::to_owned).or_else(|| nearest(text, ["true", "false"]));
            Err(Refusal::new(what, Scalar::Bool.expectation()).or(nearest))
        }
    }
}

fn integer(text: &str, style: Style, least: u64, most: u64) -> Result<u64, String> {
    let digits = text.strip_prefix('+').unwrap_or(text).replace('_', "");
    if style == Style::Quoted && text.parse::<u64>().is_ok() {
        return Err(format!("`{text}` in quotes is text"));
    }
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        let negative = text.strip_prefix('-').is_some_and(|rest| rest.parse::<f64>().is_ok());
        let why = if negative { "is negative" } else { "is no whole number" };
        return Err(format!("`{text}` {why}"));
    }
    match digits.parse::<u64>() {
        Ok(number) if number < least => Err(format!("{number} is too small")),
        Ok(number) if number <= most => Ok(number),
        _ => Err(format!("{text} is too large")),
    }
}

fn word(text: &str, words: &[&str]) -> Result<Value, Refusal> {
    if words.contains(&text) {
        return Ok(text.into());
    }
    let refusal = Refusal::new(format!("`{text}` is not known here"), one_of(words));
    Err(refusal.or(nearest(text, words.iter().copied())))
}

fn duration(text: &str, zero: Zero) -> Result<Value, Refusal> {
    let expected = Scalar::Duration(zero).expectation();
    match units::duration(text) {
        Ok(duration) if duration.is_zero() && zero == Zero::Refused => {
            Err(Refusal::new(format!("`{text}` is zero"), expected))
        }
        Ok(duration) if duration.is_zero() && zero == Zero::NoLimit => Ok(Value::Null),
        Ok(duration) => Ok(duration_value(duration)),
        Err(error) => {
            let suggestion = match error {
                UnitError::NoUnit => Some(format!("{}s", text.trim())),
                UnitError::UnknownUnit => time_unit(text),
                UnitError::NoNumber => fraction(text),
                _ => None,
            };
            let expected = match error {
                UnitError::TooLarge => format!("at most {}", units::duration_text(units::LONGEST)),
                _ => expected,
            };
            Err(Refusal::new(quoted(text, error), expected).or(suggestion))
        }
    }
}

/// `10 sec` → `10s`
fn time_unit(text: &str) -> Option<String> {
    let (number, unit) = text.trim().split_at(text.trim().find(|c: char| !c.is_ascii_digit())?);
    let unit = match unit.trim().to_lowercase().as_str() {
        "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => "ms",
        "s" | "sec" | "secs" | "second" | "seconds" => "s",
        "m" | "min" | "mins" | "minute" | "minutes" => "m",
        "h" | "hr" | "hrs" | "hour" | "hours" => "h",
        "d" | "day" | "days" => "d",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

/// `1.5s` → `1500ms`
fn fraction(text: &str) -> Option<String> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let scale = match unit {
        "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    let millis = number.trim().parse::<f64>().ok()? * scale;
    (1.0..1e12).contains(&millis).then(|| units::duration_text(Duration::from_millis(millis.round() as u64)))
}

fn size(text: &str, least: u64, most: u64) -> Result<Value, Refusal> {
    let expected = Scalar::Size(least, most).expectation();
    match units::size(text) {
        Ok(bytes) if bytes < least => Err(Refusal::new(format!("`{text}` is too small"), expected)),
        Ok(bytes) if bytes > most => Err(Refusal::new(format!("`{text}` is too large"), expected)),
        Ok(bytes) => Ok(bytes.into()),
        Err(error) => {
            let suggestion = match error {
                UnitError::NoUnit => {
                    text.trim().parse().ok().filter(|bytes| *bytes >= least).map(units::size_text)
                }
                UnitError::UnknownUnit => size_unit(text),
                _ => None,
            };
            Err(Refusal::new(quoted(text, error), expected).or(suggestion))
        }
    }
}

/// `16kb` → `16KiB`
fn size_unit(text: &str) -> Option<String> {
    let (number, unit) = text.trim().split_at(text.trim().find(|c: char| !c.is_ascii_digit())?);
    let unit = match unit.trim().to_lowercase().as_str() {
        "b" | "byte" | "bytes" => "B",
        "k" | "kb" | "ki" | "kib" => "KiB",
        "m" | "mb" | "mi" | "mib" => "MiB",
        "g" | "gb" | "gi" | "gib" => "GiB",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

fn percent(text: &str, most: u32) -> Result<Value, Refusal> {
    let expected = Scalar::Percent(most).expectation();
    match units::percent(text) {
        Ok(percent) if percent.basis_points() > most * 100 => {
            Err(Refusal::new(format!("`{text}` is too large"), expected))
        }
        Ok(percent) => Ok(percent.basis_points().into()),
        Err(error) => {
            let suggestion = (error == UnitError::NoUnit).then(|| format!("{}%", text.trim()));
            let valid = suggestion.filter(|meant| units::percent(meant).is_ok());
            Err(Refusal::new(quoted(text, error), expected).or(valid))
        }
    }
}

fn duration_value(duration: Duration) -> Value {
    let mut value = Mapping::new();
    value.insert("secs".into(), duration.as_secs().into());
    value.insert("nanos".into(), duration.subsec_nanos().into());
    value.into()
}

fn rate_value(rate: &units::Rate) -> Value {
    let mut value = Mapping::new();
    value.insert("count".into(), rate.count.into());
    value.insert("per".into(), duration_value(rate.per));
    value.into()
}
