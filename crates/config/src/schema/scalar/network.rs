//! Owns the reading of values that name places: addresses, networks, names, ports, targets, paths, locations.
//!
//! Never resolves a name or opens a socket. Every refusal suggests what was probably meant, where it can.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde_yaml::{Mapping, Value};

use super::{Refusal, integer, one_of};
use crate::problem::nearest;
use crate::routes::{DomainPattern, PortRange, RedirectTarget, TargetAddress};
use crate::schema::Scalar;
use crate::tree::Style;

pub(super) fn address(text: &str) -> Result<Value, Refusal> {
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

pub(super) fn network(text: &str) -> Result<Value, Refusal> {
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

pub(super) fn domain(text: &str) -> Result<Value, Refusal> {
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

pub(super) fn ports(text: &str) -> Result<Value, Refusal> {
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

pub(super) fn target(text: &str) -> Result<Value, Refusal> {
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

pub(super) fn url_path(text: &str) -> Result<&str, String> {
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

pub(super) fn location(text: &str) -> Result<Value, Refusal> {
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
