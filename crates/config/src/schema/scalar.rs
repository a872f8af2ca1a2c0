//! Owns the reading of single values: from the text in the file to the value that serde takes.
//!
//! Never knows which key it reads for. Every refusal says what was expected and, where one is near, what was
//! probably meant.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde_yaml::{Mapping, Value};

use super::{Scalar, Zero};
use crate::problem::nearest;
use crate::routes::{DomainPattern, PortRange, RedirectTarget, TargetAddress};
use crate::tree::Style;
use crate::units::{self, UnitError};

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
            Self::Address => address(text),
            Self::Ip => match text.parse::<IpAddr>() {
                Ok(ip) => Ok(ip.to_string().into()),
                Err(_) => Err(refuse(format!("`{text}` is no IP address"))),
            },
            Self::Network => network(text),
            Self::Domain => domain(text),
            Self::Ports => ports(text),
            Self::Target => target(text),
            Self::UrlPath => url_path(text).map(Into::into).map_err(refuse),
            Self::Location => location(text),
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

fn address(text: &str) -> Result<Value, Refusal> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address.to_string().into());
    }
    let expected = Scalar::Address.expectation();
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Err(Refusal::new(format!("`{ip}` has no port"), expected));
    }
    let (what, suggestion) = match text.rsplit_once(':') {
        Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
            (format!("`{text}` has no IP address"), Some(format!("0.0.0.0:{port}")))
        }
        Some(("localhost", port)) if port.parse::<u16>().is_ok() => {
            (format!("`{text}` has a name, not an IP address"), Some(format!("127.0.0.1:{port}")))
        }
        _ if text.parse::<u16>().is_ok() => {
            (format!("`{text}` is a port alone"), Some(format!("127.0.0.1:{text}")))
        }
        _ => (format!("`{text}` is no address"), None),
    };
    Err(Refusal::new(what, expected).or(suggestion))
}

fn network(text: &str) -> Result<Value, Refusal> {
    let expected = Scalar::Network.expectation();
    match text.parse::<IpNet>() {
        Ok(net) if net.addr() == net.network() => Ok(net.to_string().into()),
        Ok(net) => {
            let what = format!("`{text}` has bits set behind its prefix");
            Err(Refusal::new(what, expected).or(Some(net.trunc().to_string())))
        }
        Err(_) => {
            let alone = text.parse::<IpAddr>().ok().map(|ip| IpNet::from(ip).to_string());
            Err(Refusal::new(format!("`{text}` is no network"), expected).or(alone))
        }
    }
}

fn domain(text: &str) -> Result<Value, Refusal> {
    let expected = Scalar::Domain.expectation();
    match text.parse::<DomainPattern>() {
        Ok(pattern) => Ok(pattern.to_string().into()),
        Err(error) => {
            let host = text.split_once("://").map_or(text, |(_, rest)| rest);
            let host = host.split(['/', ':']).next().unwrap_or_default();
            let meant = host.parse::<DomainPattern>().ok().map(|pattern| pattern.to_string());
            Err(Refusal::new(format!("`{text}`: {error}"), expected).or(meant))
        }
    }
}

fn ports(text: &str) -> Result<Value, Refusal> {
    let refuse = |what: String| Refusal::new(what, Scalar::Ports.expectation());
    let port = |text: &str| -> Result<u16, String> {
        let number = integer(text.trim(), Style::Plain, 0, 65_535)?;
        Ok(number as u16)
    };
    let range = match text.split_once('-').filter(|(first, _)| !first.is_empty()) {
        None => {
            let port = port(text).map_err(refuse)?;
            PortRange { first: port, last: port }
        }
        Some((first, last)) => {
            PortRange { first: port(first).map_err(refuse)?, last: port(last).map_err(refuse)? }
        }
    };
    if range.first > range.last {
        let swapped = PortRange { first: range.last, last: range.first };
        return Err(refuse(format!("the range `{text}` is empty")).or(Some(swapped.to_string())));
    }
    if range.first == 0 && range.last != 0 {
        return Err(refuse(format!("the range `{text}` contains port 0")));
    }
    let mut value = Mapping::new();
    value.insert("first".into(), range.first.into());
    value.insert("last".into(), range.last.into());
    Ok(value.into())
}

fn target(text: &str) -> Result<Value, Refusal> {
    match text.parse::<TargetAddress>() {
        Ok(target) => Ok(target.to_string().into()),
        Err(error) => {
            let rest = text.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or_default());
            let meant =
                rest.and_then(|rest| rest.parse::<TargetAddress>().ok()).map(|target| target.to_string());
            Err(Refusal::new(format!("`{text}`: {error}"), Scalar::Target.expectation()).or(meant))
        }
    }
}

fn url_path(text: &str) -> Result<&str, String> {
    let star = text.find('*').is_some_and(|at| at + 1 != text.len());
    match text {
        _ if !text.starts_with('/') => Err(format!("`{text}` does not start with `/`")),
        _ if star => Err(format!("`{text}` has a `*` that is not at the end")),
        _ if text.contains(['?', '#']) => Err(format!("`{text}` has a query or a fragment")),
        _ if text.bytes().any(|b| !(0x21..0x7f).contains(&b)) => {
            Err(format!("`{text}` has characters that a path cannot have"))
        }
        _ => Ok(text),
    }
}

fn location(text: &str) -> Result<Value, Refusal> {
    let refuse = |what: String| Refusal::new(what, Scalar::Location.expectation());
    if !(text.starts_with("https://") || text.starts_with("http://") || text.starts_with('/')) {
        return Err(refuse(format!("`{text}` starts neither with `https://` or `http://` nor with `/`")));
    }
    if text.bytes().any(|b| !(0x21..0x7f).contains(&b)) {
        return Err(refuse(format!("`{text}` has characters that a location cannot have")));
    }
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((word, after)) = after.split_once('}').filter(|_| !before.contains('}')) else {
            return Err(refuse(format!("`{text}` has a brace without its partner")));
        };
        if !RedirectTarget::WORDS.contains(&word) {
            let expected = one_of(&RedirectTarget::WORDS.map(|word| format!("{{{word}}}")));
            let meant = nearest(word, RedirectTarget::WORDS).map(|word| format!("{{{word}}}"));
            return Err(Refusal::new(format!("`{{{word}}}` cannot be filled in"), expected).or(meant));
        }
        rest = after;
    }
    if rest.contains('}') {
        return Err(refuse(format!("`{text}` has a brace without its partner")));
    }
    Ok(text.into())
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
