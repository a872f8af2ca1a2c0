//! The phases of a half, the legal steps between them, and the deadline that bounds each.
//!
//! *Owns* the one table of steps for both roles. *Never* moves a record: [`crate::Ledger`] does, and asks
//! here first. *Invariant*: every phase but `CLOSED` names at least one deadline that ends it, and an
//! illegal step is an error value, not a panic.

use std::fmt;

use crate::id::Role;
use crate::traffic::TrafficTotals;

/// Where a half is in its life. Numbers are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The record exists; nothing has been decided.
    Accepted,
    /// Reading an inbound PROXY protocol header.
    ProxyHeader,
    /// Reading the first bytes: ClientHello, HTTP or opaque.
    InitialData,
    /// An entry was chosen.
    Routed,
    /// Waiting for a networkproxy to come (back).
    Held,
    /// Dialling the target or the hop; a bridged TLS client stays here until the hop answers.
    Connecting,
    /// Copying bytes in both directions.
    Relaying,
    /// networkproxy shakes hands with the client.
    TlsHandshake,
    /// HTTP, no request in progress.
    HttpIdle,
    /// HTTP, at least one request in progress.
    HttpActive,
    /// An upgraded connection (WebSocket) carries opaque bytes.
    Tunnel,
    /// One side has sent its FIN; the other direction goes on under a deadline.
    HalfClosed,
    /// Saying goodbye: deliver, FIN, bounded wait.
    Closing,
    /// No socket is left.
    Closed,
    /// A number that a newer peer sent; kept and shown as such.
    Unknown(u8),
}

/// The deadlines that exist, by their configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeadlineName {
    /// Inbound PROXY protocol header.
    ProxyHeader,
    /// First bytes, from accept to the routing decision.
    InitialData,
    /// Wait for a networkproxy.
    Hold,
    /// Dial of the target or of the hop.
    Connect,
    /// The hop's first answer to a bridged TLS client: networkproxy's `tls_handshake` + 10 s.
    HopAnswer,
    /// No byte in either direction of a relay.
    Inactivity,
    /// One side closed, no progress on the other.
    HalfClose,
    /// A side does not take our bytes.
    WriteStall,
    /// Total age.
    MaxLifetime,
    /// Deliver and say goodbye.
    Close,
    /// A drain's end.
    Drain,
    /// The front's derived limit over a bridged connection; not configurable.
    Backstop,
    /// TLS handshake with the client.
    TlsHandshake,
    /// An HTTP/1 request head, or an HTTP/2 preface.
    RequestHeader,
    /// Idle time between requests.
    KeepAlive,
    /// A whole request.
    Request,
    /// A target's response head.
    Response,
    /// No byte of a stream in either direction.
    StreamIdle,
    /// No byte of a tunnel in either direction.
    TunnelIdle,
}

/// A step that the table does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IllegalStep {
    /// The half's role.
    pub role: Role,
    /// The phase it is in.
    pub from: Phase,
    /// The phase it was asked to enter.
    pub to: Phase,
}

impl Phase {
    /// Every phase this build knows, in the order of a life.
    pub const ALL: [Self; 14] = [
        Self::Accepted,
        Self::ProxyHeader,
        Self::InitialData,
        Self::Routed,
        Self::Held,
        Self::Connecting,
        Self::Relaying,
        Self::TlsHandshake,
        Self::HttpIdle,
        Self::HttpActive,
        Self::Tunnel,
        Self::HalfClosed,
        Self::Closing,
        Self::Closed,
    ];

    /// The stable wire number, 1 to 14; unknown numbers are kept.
    pub fn number(self) -> u8 {
        match self {
            Self::Unknown(number) => number,
            known => 1 + Self::ALL.iter().position(|p| *p == known).expect("ALL lists every phase") as u8,
        }
    }

    /// The phase of a wire number.
    pub fn from_number(number: u8) -> Self {
        match usize::from(number).checked_sub(1).and_then(|index| Self::ALL.get(index)) {
            Some(known) => *known,
            None => Self::Unknown(number),
        }
    }

    /// The lower-case name in logs and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::ProxyHeader => "proxy_header",
            Self::InitialData => "initial_data",
            Self::Routed => "routed",
            Self::Held => "held",
            Self::Connecting => "connecting",
            Self::Relaying => "relaying",
            Self::TlsHandshake => "tls_handshake",
            Self::HttpIdle => "http_idle",
            Self::HttpActive => "http_active",
            Self::Tunnel => "tunnel",
            Self::HalfClosed => "half_closed",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Unknown(_) => "unknown",
        }
    }

    /// The phase to show of a half with these counts: whether HTTP is idle or active follows from them.
    pub(crate) const fn shown_with(self, totals: &TrafficTotals) -> Self {
        match self {
            Self::HttpIdle | Self::HttpActive if totals.requests_open() > 0 => Self::HttpActive,
            Self::HttpActive => Self::HttpIdle,
            other => other,
        }
    }

    /// Is the half's life over?
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::Closed)
    }

    /// The one table of legal steps.
    ///
    /// `CLOSED` is legal from every live phase: a task may be dropped anywhere. `CLOSING` likewise.
    pub fn step(self, role: Role, to: Self) -> Result<(), IllegalStep> {
        use Phase::{
            Accepted, Closed, Closing, Connecting, HalfClosed, Held, HttpActive, HttpIdle, InitialData,
            ProxyHeader, Relaying, Routed, TlsHandshake, Tunnel,
        };
        let legal = match (role, self, to) {
            (_, Closed | Phase::Unknown(_), _) | (_, _, Phase::Unknown(_) | Accepted) => false,
            (_, from, Closing) => from != Closing,
            (_, _, Closed)
            | (Role::Front, Accepted, ProxyHeader | InitialData | Routed)
            | (Role::Front, ProxyHeader, InitialData | Routed)
            | (Role::Front, InitialData, Routed)
            | (Role::Front, Routed, Held | Connecting)
            | (Role::Front, Held, Connecting)
            | (Role::Front, Connecting, Held | Relaying)
            | (_, Relaying | Tunnel, HalfClosed)
            | (Role::Inner, Accepted, TlsHandshake | HttpIdle | Connecting)
            | (Role::Inner, TlsHandshake, HttpIdle | Connecting | HalfClosed)
            | (Role::Inner, HttpIdle, HttpActive | Tunnel | HalfClosed)
            | (Role::Inner, HttpActive, HttpIdle | Tunnel | HalfClosed)
            | (Role::Inner, Connecting, Relaying | HalfClosed) => true,
            _ => false,
        };
        if legal { Ok(()) } else { Err(IllegalStep { role, from: self, to }) }
    }

    /// The deadlines that bound this phase for `role`: at least one is armed while it lasts.
    pub const fn bounded_by(self, role: Role) -> &'static [DeadlineName] {
        use DeadlineName as D;
        match (role, self) {
            (Role::Front, Self::Accepted | Self::InitialData | Self::Routed) => &[D::InitialData],
            (_, Self::ProxyHeader) => &[D::ProxyHeader],
            (Role::Front, Self::Held) => &[D::Hold],
            (Role::Front, Self::Connecting) => &[D::Connect, D::HopAnswer],
            (Role::Front, Self::Relaying) => &[D::Inactivity, D::Backstop],
            (Role::Inner, Self::Accepted | Self::TlsHandshake) => &[D::TlsHandshake],
            (Role::Inner, Self::Connecting) => &[D::Connect],
            (Role::Inner, Self::HttpIdle) => &[D::RequestHeader, D::KeepAlive],
            (Role::Inner, Self::HttpActive) => {
                &[D::StreamIdle, D::Response, D::Request, D::RequestHeader, D::WriteStall]
            }
            (_, Self::Tunnel) | (Role::Inner, Self::Relaying) => &[D::TunnelIdle],
            (_, Self::HalfClosed) => &[D::HalfClose],
            (_, Self::Closing) => &[D::Close, D::WriteStall],
            _ => &[],
        }
    }
}

impl DeadlineName {
    /// The configuration key (or, for derived deadlines, the shown name).
    pub const fn name(self) -> &'static str {
        match self {
            Self::ProxyHeader => "proxy_header",
            Self::InitialData => "initial_data",
            Self::Hold => "hold",
            Self::Connect => "connect",
            Self::HopAnswer => "hop_answer",
            Self::Inactivity => "inactivity",
            Self::HalfClose => "half_close",
            Self::WriteStall => "write_stall",
            Self::MaxLifetime => "max_lifetime",
            Self::Close => "close",
            Self::Drain => "drain",
            Self::Backstop => "backstop",
            Self::TlsHandshake => "tls_handshake",
            Self::RequestHeader => "request_header",
            Self::KeepAlive => "keep_alive",
            Self::Request => "request",
            Self::Response => "response",
            Self::StreamIdle => "stream_idle",
            Self::TunnelIdle => "tunnel_idle",
        }
    }

    /// Every deadline, in the order above.
    pub const ALL: [Self; 19] = [
        Self::ProxyHeader,
        Self::InitialData,
        Self::Hold,
        Self::Connect,
        Self::HopAnswer,
        Self::Inactivity,
        Self::HalfClose,
        Self::WriteStall,
        Self::MaxLifetime,
        Self::Close,
        Self::Drain,
        Self::Backstop,
        Self::TlsHandshake,
        Self::RequestHeader,
        Self::KeepAlive,
        Self::Request,
        Self::Response,
        Self::StreamIdle,
        Self::TunnelIdle,
    ];
}

impl fmt::Display for IllegalStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} half cannot step from {} to {}", self.role, self.from.name(), self.to.name())
    }
}

impl std::error::Error for IllegalStep {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn reachable(role: Role) -> BTreeSet<Phase> {
        let mut seen = BTreeSet::from([Phase::Accepted]);
        loop {
            let next: Vec<Phase> = seen
                .iter()
                .flat_map(|from| Phase::ALL.into_iter().filter(|to| from.step(role, *to).is_ok()))
                .filter(|to| !seen.contains(to))
                .collect();
            if next.is_empty() {
                return seen;
            }
            seen.extend(next);
        }
    }

    /// P10 and acceptance idea (2): no phase without a deadline.
    #[test]
    fn every_phase_that_can_be_entered_names_a_deadline() {
        for role in [Role::Front, Role::Inner] {
            for phase in reachable(role) {
                assert_eq!(phase.bounded_by(role).is_empty(), phase.is_closed(), "{role:?} {phase:?}");
            }
        }
    }

    #[test]
    fn the_lives_of_both_roles_are_as_the_ledger_page_draws_them() {
        use Phase::*;
        for (role, life) in [
            (
                Role::Front,
                vec![
                    Accepted,
                    ProxyHeader,
                    InitialData,
                    Routed,
                    Held,
                    Connecting,
                    Held,
                    Connecting,
                    Relaying,
                    HalfClosed,
                    Closing,
                    Closed,
                ],
            ),
            (
                Role::Inner,
                vec![
                    Accepted,
                    TlsHandshake,
                    HttpIdle,
                    HttpActive,
                    HttpIdle,
                    HttpActive,
                    Tunnel,
                    Closing,
                    Closed,
                ],
            ),
            (Role::Inner, vec![Accepted, TlsHandshake, Connecting, Relaying, HalfClosed, Closing, Closed]),
        ] {
            for step in life.windows(2) {
                assert_eq!(step[0].step(role, step[1]), Ok(()));
            }
        }
        assert!(Closed.step(Role::Front, Closing).is_err());
        assert!(Relaying.step(Role::Front, Connecting).is_err(), "clear text is never bridged twice");
        assert!(Accepted.step(Role::Inner, Held).is_err());
        assert!(HalfClosed.step(Role::Front, Relaying).is_err());
        assert!(Closing.step(Role::Inner, Closing).is_err());
    }

    #[test]
    fn numbers_are_stable_and_unknown_ones_are_kept() {
        for (index, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(phase.number()), index + 1);
            assert_eq!(Phase::from_number(phase.number()), phase);
        }
        assert_eq!(Phase::from_number(200), Phase::Unknown(200));
        assert_eq!(Phase::Unknown(200).number(), 200);
    }
}
