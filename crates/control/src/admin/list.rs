//! Listing and finding records.
//!
//! *Owns* filters, pages and their tokens, and the look-up by id or suffix. *Never* holds the ledger's lock
//! for longer than a short stretch of the walk, however long the list. *Invariant*: a page goes on behind the
//! last id of the page before, whatever came and went meanwhile.

use std::fmt;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use ipnet::IpNet;
use ledger::{ConnectionId, Heading, IdSuffix, Now, Phase, Reason, SharedLedger, Stretch, Wall};
use prost::Message as _;
use tonic::Status;

use super::record::{HandledBy, Record};
use crate::convert::Malformed;
use crate::convert::ends::{read_phase, read_reason};
use crate::convert::scalar::{optional_duration, read_timestamp};
use crate::proto::admin::v1 as wire;

/// Halves of each process per stretch of the walk.
const STRETCH: usize = 256;
/// Records of a page where the request says nothing.
const USUAL_PAGE: usize = 100;
/// The most records of a page.
const LARGEST_PAGE: usize = 1_000;
/// A page ends before it grows beyond this many encoded bytes: clients take 4 MiB.
const LARGEST_BYTES: usize = 2 * 1024 * 1024;

/// A filter, read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    phases: Vec<Phase>,
    route: Option<String>,
    clients: Option<IpNet>,
    server_name: Option<String>,
    handled_by: Option<HandledBy>,
    reasons: Vec<Reason>,
    older_than: Option<Duration>,
    closed_since: Option<Wall>,
    include_closed: bool,
}

/// Which page, read.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    heading: Heading,
    size: usize,
    after: Option<ConnectionId>,
    /// Of the filter: a token is good for one filter.
    fingerprint: u64,
}

/// A page's records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listed {
    pub(crate) connections: Vec<wire::Connection>,
    pub(crate) next_page_token: String,
    pub(crate) total: u64,
}

/// Why a look-up has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotFound {
    /// No record ends in these digits.
    None,
    /// So many do.
    Several(usize),
}

impl Filter {
    pub(crate) fn read(filter: wire::ConnectionFilter) -> Result<Self, Status> {
        let malformed = |malformed: Malformed| Status::invalid_argument(malformed.to_string());
        let phase = |number: i32| read_phase(number, "filter.phases").map_err(malformed);
        let reason = |number: i32| read_reason(number, "filter.reasons").map_err(malformed);
        let some = |text: String| (!text.is_empty()).then_some(text);
        let closed_since = match filter.closed_since {
            None => None,
            since => Some(read_timestamp(since, "filter.closed_since").map_err(malformed)?),
        };
        Ok(Self {
            phases: filter.phases.into_iter().map(phase).collect::<Result<_, _>>()?,
            route: some(filter.route),
            clients: some(filter.client_cidr).map(|text| network(&text)).transpose()?,
            server_name: some(filter.server_name).map(|name| name.trim_end_matches('.').to_ascii_lowercase()),
            handled_by: match wire::HandledBy::try_from(filter.handled_by) {
                Ok(wire::HandledBy::Unspecified) => None,
                Ok(wire::HandledBy::Smartproxy) => Some(HandledBy::Smartproxy),
                Ok(wire::HandledBy::Networkproxy) => Some(HandledBy::Networkproxy),
                Err(_) => return Err(Status::invalid_argument("filter.handled_by is not a process")),
            },
            include_closed: filter.include_closed || closed_since.is_some() || !filter.reasons.is_empty(),
            reasons: filter.reasons.into_iter().map(reason).collect::<Result<_, _>>()?,
            older_than: optional_duration(filter.older_than, "filter.older_than").map_err(malformed)?,
            closed_since,
        })
    }

    /// Does it admit every live record, and no other?
    fn is_of_the_live(&self) -> bool {
        let Self {
            phases, route, clients, server_name, handled_by, reasons, older_than, closed_since, ..
        } = self;
        !self.include_closed
            && phases.is_empty()
            && route.is_none()
            && clients.is_none()
            && server_name.is_none()
            && handled_by.is_none()
            && reasons.is_empty()
            && older_than.is_none()
            && closed_since.is_none()
    }

    fn admits(&self, record: &Record, now: Now) -> bool {
        let live = record.is_live();
        let client = || record.first().map(|known| known.half.accept.value.client.ip().to_canonical());
        let route = || record.routing(|r| r.route.as_ref()).or_else(|| record.routing(|r| r.entry.as_ref()));
        let name = || record.routing(|routing| routing.server_name.as_ref());
        (live || self.include_closed)
            && (self.phases.is_empty() || self.phases.contains(&record.phase()))
            && self.route.as_ref().is_none_or(|wanted| route().is_some_and(|route| **route == **wanted))
            && self.clients.is_none_or(|clients| client().is_some_and(|client| clients.contains(&client)))
            && self.server_name.as_ref().is_none_or(|wanted| name().is_some_and(|name| **name == **wanted))
            && (self.handled_by.is_none() || self.handled_by == record.handled_by())
            && (self.reasons.is_empty()
                || record.termination().is_some_and(|cause| self.reasons.contains(&cause.reason)))
            && self.older_than.is_none_or(|least| record.age(now) >= least)
            && self.closed_since.is_none_or(|since| record.ended_at().is_some_and(|at| at >= since))
    }
}

impl Page {
    pub(crate) fn read(request: &wire::ListConnectionsRequest) -> Result<Self, Status> {
        let heading = match wire::Order::try_from(request.order) {
            Ok(wire::Order::Unspecified | wire::Order::NewestFirst) => Heading::Older,
            Ok(wire::Order::OldestFirst) => Heading::Newer,
            Err(_) => return Err(Status::invalid_argument("order is not an order")),
        };
        let fingerprint = fingerprint(&request.filter.clone().unwrap_or_default().encode_to_vec());
        let size = match request.page_size as usize {
            0 => USUAL_PAGE,
            size => size.min(LARGEST_PAGE),
        };
        let page = Self { heading, size, after: None, fingerprint };
        if request.page_token.is_empty() {
            return Ok(page);
        }
        let token = request.page_token.as_str();
        let after = token.get(..32).and_then(|id| u128::from_str_radix(id, 16).ok()).map(ConnectionId);
        match after {
            Some(after) if page.token(after) == token => Ok(Self { after: Some(after), ..page }),
            Some(_) => Err(Status::invalid_argument("page_token belongs to another filter or order")),
            None => Err(Status::invalid_argument("page_token is not one that ListConnections returned")),
        }
    }

    fn token(&self, after: ConnectionId) -> String {
        let heading = u64::from(self.heading == Heading::Newer);
        format!("{:032x}{:016x}", after.0, self.fingerprint ^ heading)
    }

    /// Shows what belongs on the page, and counts what matches. What a filter matches is only known when
    /// everything was walked over; the live ones are counted without that, and the walk ends with the page.
    pub(crate) fn list(
        &self,
        filter: &Filter,
        ledger: &SharedLedger,
        now: impl Fn() -> Now,
        show: impl Fn(&Record, Now) -> wire::Connection,
    ) -> Listed {
        let counted =
            Some(ledger).filter(|_| filter.is_of_the_live()).and_then(SharedLedger::live_connections);
        let mut listed = Listed { total: counted.unwrap_or(0), ..Listed::default() };
        let mut bytes = 0;
        let mut last = None;
        let mut more = false;
        let from = self.after.filter(|_| counted.is_some());
        for_each_record(ledger, from, self.heading, now, |record, now| {
            if !filter.admits(record, now) {
                return ControlFlow::Continue(());
            }
            listed.total += u64::from(counted.is_none());
            let beyond = self.after.is_none_or(|after| match self.heading {
                Heading::Newer => record.id > after,
                Heading::Older => record.id < after,
            });
            if !beyond || more {
                return ControlFlow::Continue(());
            }
            if listed.connections.len() >= self.size || bytes >= LARGEST_BYTES {
                more = true;
                return if counted.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            }
            let connection = show(record, now);
            bytes += connection.encoded_len();
            last = Some(record.id);
            listed.connections.push(connection);
            ControlFlow::Continue(())
        });
        if let Some(last) = last.filter(|_| more) {
            listed.next_page_token = self.token(last);
        }
        listed
    }
}

/// The one record whose id ends in `suffix`.
pub(crate) fn find(
    ledger: &SharedLedger,
    suffix: IdSuffix,
    whole: Option<ConnectionId>,
    now: Now,
) -> Result<Record, NotFound> {
    if let Some(id) = whole {
        let before = id.0.checked_sub(1).map(ConnectionId);
        let stretch = ledger.walk(before, Heading::Newer, 1, now);
        let found = records(ledger, stretch, now).into_iter().find(|record| record.id == id);
        return found.ok_or(NotFound::None);
    }
    let mut found = Vec::new();
    for_each_record(
        ledger,
        None,
        Heading::Older,
        || now,
        |record, _| {
            if suffix.matches(record.id) {
                found.push(record.clone());
            }
            ControlFlow::Continue(())
        },
    );
    match found.len() {
        0 => Err(NotFound::None),
        1 => Ok(found.remove(0)),
        several => Err(NotFound::Several(several)),
    }
}

fn for_each_record(
    ledger: &SharedLedger,
    mut from: Option<ConnectionId>,
    heading: Heading,
    now: impl Fn() -> Now,
    mut each: impl FnMut(&Record, Now) -> ControlFlow<()>,
) {
    loop {
        let at = now();
        let stretch = ledger.walk(from, heading, STRETCH, at);
        let next = stretch.next;
        let mut records = records(ledger, stretch, at);
        if heading == Heading::Older {
            records.reverse();
        }
        for record in &records {
            if each(record, at).is_break() {
                return;
            }
        }
        match next {
            Some(next) => from = Some(next),
            None => return,
        }
    }
}

fn records(ledger: &SharedLedger, stretch: Stretch, now: Now) -> Vec<Record> {
    Record::all_of(stretch, ledger.instance(), |peer| {
        ledger.standing(peer, now).is_some_and(|standing| standing.in_step)
    })
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, Status> {
    let one = |text: &str| text.parse::<IpAddr>().ok().map(|address| IpNet::from(address.to_canonical()));
    let parsed = text.parse::<IpNet>().ok().or_else(|| one(text));
    parsed.ok_or_else(|| {
        Status::invalid_argument("filter.client_cidr is not a network such as 10.0.0.0/8, nor an address")
    })
}

/// FNV-1a: not secret, only to notice a token that is used with another filter.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => {
                f.write_str("no connection has this id; closed ones are retained for a bounded time")
            }
            Self::Several(count) => write!(f, "{count} connections end in these digits: give more of them"),
        }
    }
}
