//! Why a half ended: the closed enum of termination reasons.
//!
//! *Owns* the one table that gives each reason its wire number, name, class, usual initiator, sentence and
//! advice. *Never* holds a free text: what varies (an errno, an alert, an actor) travels as
//! [`crate::Observation::detail`]. *Invariant*: numbers are never reused or renumbered; a number that a
//! newer peer sent is kept as [`Reason::Unknown`] and ranks by the class that travels with it.

use std::fmt;

/// How strong evidence is, weakest first. Numbers are the wire's.
///
/// The order is the tie-break of [`crate::root_cause`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Seen on the hop only, or a loss: never a root cause while other evidence exists.
    Consequence = 1,
    /// An orderly end (FIN, close_notify, our own completion).
    Orderly = 2,
    /// A reset or another socket error.
    Reset = 3,
    /// A deadline fired.
    Timer = 4,
    /// A refusal: protocol error, TLS alert, limit, routing.
    Refusal = 5,
    /// An operator's decision.
    Operator = 6,
}

/// Who began the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Initiator {
    /// The client.
    Client = 1,
    /// The target.
    Target = 2,
    /// smartproxy by its own rule.
    Smartproxy = 3,
    /// networkproxy by its own rule.
    Networkproxy = 4,
    /// An operator's call.
    Operator = 5,
    /// The kernel.
    Kernel = 6,
    /// The loss of the other process.
    PeerLoss = 7,
}

/// Whose doing a reason is, before the process that observed it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Client,
    Target,
    /// The process that observed it.
    Us,
    Inner,
    Operator,
    Kernel,
    Peer,
}

macro_rules! reasons {
    ($($variant:ident = $number:literal, $name:literal, $class:ident, $by:ident, $sentence:literal, $advice:literal;)+) => {
        /// Why a half ended. The same in proto, logs and metric labels.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(#[doc = $sentence] $variant,)+
            /// A number that a newer peer sent.
            Unknown(u16),
        }

        impl Reason {
            /// Every reason this build knows.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable wire number.
            pub const fn number(self) -> u16 {
                match self {
                    $(Self::$variant => $number,)+
                    Self::Unknown(number) => number,
                }
            }

            /// The reason of a wire number; unknown ones are kept.
            pub const fn from_number(number: u16) -> Self {
                match number {
                    $($number => Self::$variant,)+
                    other => Self::Unknown(other),
                }
            }

            /// The snake_case name in proto, logs and metric labels.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                    Self::Unknown(_) => "unknown",
                }
            }

            /// How strong this evidence is.
            pub const fn class(self) -> Class {
                match self {
                    $(Self::$variant => Class::$class,)+
                    Self::Unknown(_) => Class::Consequence,
                }
            }

            const fn by(self) -> By {
                match self {
                    $(Self::$variant => By::$by,)+
                    Self::Unknown(_) => By::Peer,
                }
            }

            /// What happened, in English, without values.
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$variant => $sentence,)+
                    Self::Unknown(_) => "a reason that this version does not know",
                }
            }

            /// What an operator should do about it.
            pub const fn advice(self) -> &'static str {
                match self {
                    $(Self::$variant => $advice,)+
                    Self::Unknown(_) => "ask the newer of the two processes",
                }
            }
        }
    };
}

reasons! {
    // Ended well.
    Finished = 1, "finished", Orderly, Inner, "the last HTTP exchange was complete and we closed", "nothing";
    ClientClosed = 2, "client_closed", Orderly, Client, "the client closed its side first", "nothing";
    TargetClosed = 3, "target_closed", Orderly, Target, "the target closed its side first", "nothing";
    Drained = 4, "drained", Orderly, Us, "closed in order while draining", "nothing: a restart or an operator's drain";
    // Client.
    ClientReset = 10, "client_reset", Reset, Client, "the client reset the connection", "nothing, unless frequent: look for clients that time out";
    ClientVanished = 11, "client_vanished", Reset, Client, "the client stopped answering at the network level", "check the network path; keepalive found it";
    ClientLeftBeforeRoute = 12, "client_left_before_route", Reset, Client, "the client left before a route was chosen", "nothing: scanners and preconnects do this";
    ClientLeftBeforeConnect = 13, "client_left_before_connect", Reset, Client, "the client left before the target or the hop answered", "look at connect times if frequent";
    // First bytes.
    InitialDataTimeout = 20, "initial_data_timeout", Timer, Us, "the first bytes did not come in time", "raise timeouts.initial_data for slow clients; otherwise nothing";
    ProxyHeaderInvalid = 21, "proxy_header_invalid", Refusal, Client, "the PROXY protocol header was malformed", "check that the load balancer in front sends PROXY v1 or v2";
    ProxyHeaderUntrusted = 22, "proxy_header_untrusted", Refusal, Client, "the sender may not speak for others on this port", "add its network to proxy_protocol.accept_from, if it may";
    ProxyHeaderTimeout = 23, "proxy_header_timeout", Timer, Us, "the PROXY protocol header did not come in time", "check that the load balancer in front sends one";
    ClientHelloInvalid = 24, "client_hello_invalid", Refusal, Client, "the first bytes were not a valid TLS ClientHello", "nothing: garbage or a broken client";
    NotTls = 25, "not_tls", Refusal, Client, "the client did not speak TLS on a TLS port", "add a clear-text route, if that is meant to work";
    PlainHttpOnTlsPort = 26, "plain_http_on_tls_port", Refusal, Client, "the client spoke plain HTTP on a TLS port", "point the client at https, or redirect on a clear-text port";
    // Routing and admission.
    NoRoute = 30, "no_route", Refusal, Us, "no route matches this connection", "ask ExplainRoute which clause failed";
    RouteBlocked = 31, "route_blocked", Refusal, Us, "the route blocks", "nothing: the configuration says so";
    SniMissing = 32, "sni_missing", Refusal, Us, "the client named no server and every route here needs a name", "add a route without domains to serve such clients";
    SniUnknown = 33, "sni_unknown", Refusal, Us, "no route lists the server name that the client asked for", "add the name to a route, if it is yours";
    DeniedIp = 34, "denied_ip", Refusal, Us, "an address rule refused the client", "see the route's security.allow and security.block";
    LimitGlobal = 35, "limit_global", Refusal, Us, "limits.max_connections was reached", "raise the descriptor limit and limits.max_connections";
    LimitRoute = 36, "limit_route", Refusal, Us, "the route's max_connections was reached", "raise security.max_connections";
    LimitPerIp = 37, "limit_per_ip", Refusal, Us, "too many connections from one address", "raise max_connections_per_ip, or look at that client";
    RatePerIp = 38, "rate_per_ip", Refusal, Us, "too many new connections from one address", "raise new_connections_per_ip, or look at that client";
    BlockedByScore = 39, "blocked_by_score", Refusal, Us, "the address was blocked by evidence of abuse", "see the evidence; unblock it if wrong";
    Overloaded = 40, "overloaded", Refusal, Us, "more new connections came than could be served, and this one had waited too long", "add workers, cores or hosts; timeouts.accept_queue is how long one may wait";
    // Hop, seen by the front.
    NetworkProxyUnavailable = 50, "network_proxy_unavailable", Refusal, Us, "no networkproxy was ready and hold is 0s", "start networkproxy, or set timeouts.hold";
    NetworkProxyFull = 51, "network_proxy_full", Refusal, Us, "every networkproxy was full when hold ended", "raise networkproxy's limits.max_connections or start another";
    HoldExpired = 52, "hold_expired", Timer, Us, "no networkproxy came within hold", "find out why networkproxy is away";
    HoldFull = 53, "hold_full", Refusal, Us, "limits.max_held connections were waiting already", "find out why networkproxy is away; raise limits.max_held";
    HopConnectFailed = 54, "hop_connect_failed", Reset, Us, "the hop could not be dialled and no hold was left", "check that networkproxy's hop address is reachable";
    HopClosed = 55, "hop_closed", Consequence, Peer, "the other process closed the hop", "look at the other half";
    HopReset = 56, "hop_reset", Consequence, Peer, "the hop was reset", "look at the other half";
    // Hop, refusals of the inner side (arrivals table only).
    HopHeaderMissing = 60, "hop_header_missing", Refusal, Peer, "a hop connection did not start with a header", "something other than smartproxy dials the hop port";
    HopHeaderInvalid = 61, "hop_header_invalid", Refusal, Peer, "a hop header was malformed", "something other than smartproxy dials the hop port";
    HopHeaderTimeout = 62, "hop_header_timeout", Timer, Us, "a hop header did not come in time", "something other than smartproxy dials the hop port";
    HopAuthFailed = 63, "hop_auth_failed", Refusal, Peer, "a hop header's tag did not verify", "a forgery, or a smartproxy whose session ended";
    HopReplayed = 64, "hop_replayed", Refusal, Peer, "a hop header was used before", "a replay: find out who reads loopback traffic";
    HopRouteUnknown = 65, "hop_route_unknown", Refusal, Peer, "a hop header named an entry that is not in the table", "wait for the new route table, or look at its acknowledgement";
    // TLS.
    TlsHandshakeTimeout = 70, "tls_handshake_timeout", Timer, Us, "the TLS handshake did not finish in time", "raise timeouts.tls_handshake for slow clients";
    TlsAlertReceived = 71, "tls_alert_received", Refusal, Client, "the client ended TLS with an alert", "the alert says why: unknown_ca and bad_certificate mean our certificate";
    TlsProtocolError = 72, "tls_protocol_error", Refusal, Client, "the client broke the TLS protocol or shares no version or cipher", "see the detail; old clients need tls.min_version";
    TlsNoCertificate = 73, "tls_no_certificate", Refusal, Us, "there is no certificate for the server name", "add one to certificates";
    TlsClientCertificate = 74, "tls_client_certificate", Refusal, Client, "the client's certificate was missing or not accepted", "check the client certificate policy";
    // Target.
    TargetRefused = 80, "target_refused", Reset, Target, "the target refused the connection", "start the target or correct its address";
    TargetUnreachable = 81, "target_unreachable", Reset, Target, "the target could not be reached", "check routing and firewall to the target";
    TargetConnectTimeout = 82, "target_connect_timeout", Timer, Us, "the target did not accept in time", "the target is overloaded or dropped our SYN";
    TargetResponseTimeout = 83, "target_response_timeout", Timer, Us, "the target did not answer in time", "the target is slow; raise timeouts.response if that is normal";
    TargetReset = 84, "target_reset", Reset, Target, "the target reset the connection", "look at the target's log at this time";
    TargetProtocolError = 85, "target_protocol_error", Refusal, Target, "the target broke the HTTP protocol", "see the detail";
    TargetTlsFailed = 86, "target_tls_failed", Refusal, Target, "TLS with the target failed", "see the detail; check target_tls";
    NoHealthyTarget = 87, "no_healthy_target", Refusal, Us, "no target is healthy", "see the health checks";
    TargetResolveFailed = 88, "target_resolve_failed", Refusal, Target, "the target's name could not be resolved", "check the name and the resolver";
    TargetVanished = 89, "target_vanished", Reset, Target, "the target stopped answering at the network level", "check the network path; keepalive found it";
    // HTTP.
    HttpHeaderTimeout = 100, "http_header_timeout", Timer, Us, "a request head did not come in time", "slow client; raise timeouts.request_header if it is legitimate";
    HttpProtocolError = 101, "http_protocol_error", Refusal, Client, "the client broke the HTTP protocol", "see the detail";
    HttpHeaderTooLarge = 102, "http_header_too_large", Refusal, Client, "a request head was too large", "raise limits.max_header_bytes or max_headers";
    HttpBodyTooLarge = 103, "http_body_too_large", Refusal, Client, "a request body was too large", "raise http.max_body of the route";
    HttpRequestTimeout = 104, "http_request_timeout", Timer, Us, "a request took too long", "raise timeouts.request";
    Http2Flood = 105, "http2_flood", Refusal, Client, "the client abused HTTP/2", "an attack or a broken client: the detail names the kind";
    AuthorityMismatch = 106, "authority_mismatch", Refusal, Client, "the request's authority is not on the connection's entry", "nothing: clients that coalesce retry on their own connection";
    KeepAliveTimeout = 107, "keep_alive_timeout", Timer, Us, "no further request came within keep_alive", "nothing";
    UpgradeFailed = 108, "upgrade_failed", Refusal, Target, "the target did not complete the upgrade", "see the target's log";
    // Time.
    InactivityTimeout = 120, "inactivity_timeout", Timer, Us, "no byte moved in either direction within the idle limit", "raise the idle limit, or enable the application's keepalive";
    MaxLifetime = 121, "max_lifetime", Timer, Us, "the connection reached its maximum age", "nothing: the configuration says so";
    HalfCloseTimeout = 122, "half_close_timeout", Timer, Us, "one side had closed and the other made no progress", "raise timeouts.half_close if the protocol needs it";
    WriteStallTimeout = 123, "write_stall_timeout", Timer, Us, "a side did not take our bytes", "a stuck or very slow reader";
    CloseTimeout = 124, "close_timeout", Timer, Us, "the goodbye was not answered in time", "nothing";
    DrainDeadline = 125, "drain_deadline", Timer, Us, "the drain's deadline cut the connection", "raise timeouts.drain if these should finish";
    // Operator.
    OperatorClosed = 140, "operator_closed", Operator, Operator, "an operator closed the connection", "the detail names who and why";
    RouteRemoved = 141, "route_removed", Operator, Operator, "the route was removed", "a configuration change";
    ListenerRemoved = 142, "listener_removed", Operator, Operator, "the listener was removed", "a configuration change";
    TargetRemoved = 143, "target_removed", Operator, Operator, "the target was removed", "a configuration change";
    // Processes.
    PeerLost = 160, "peer_lost", Consequence, Peer, "the other process was lost", "see why it died";
    Superseded = 161, "superseded", Consequence, Peer, "the connection had been bridged again elsewhere", "nothing";
    Shutdown = 162, "shutdown", Operator, Us, "the process was told to stop at once", "nothing";
    Abandoned = 163, "abandoned", Refusal, Us, "our task ended without saying why: a bug", "report it, with the log";
    Panicked = 164, "panicked", Refusal, Us, "our task panicked: a bug", "report it, with the log";
    // Resources and the kernel.
    OutOfFileDescriptors = 180, "out_of_file_descriptors", Refusal, Kernel, "the process had no file descriptor left", "raise its descriptor limit";
    OutOfMemory = 181, "out_of_memory", Refusal, Kernel, "the kernel had no memory for a socket", "find out who uses the memory";
    OutOfPorts = 182, "out_of_ports", Refusal, Kernel, "no source port was left", "widen ip_local_port_range, or use more hop addresses";
    NftablesHandled = 183, "nftables_handled", Orderly, Kernel, "the kernel took the flow over", "nothing";
    KernelFlowEnded = 184, "kernel_flow_ended", Orderly, Kernel, "the kernel's flow ended", "nothing";
}

impl Reason {
    /// Who begins an end with this reason when `observer` is the process that saw it.
    pub const fn initiator(self, observer: crate::Role) -> Initiator {
        match (self.by(), observer) {
            (By::Client, _) => Initiator::Client,
            (By::Target, _) => Initiator::Target,
            (By::Us, crate::Role::Front) => Initiator::Smartproxy,
            (By::Us, crate::Role::Inner) | (By::Inner, _) => Initiator::Networkproxy,
            (By::Operator, _) => Initiator::Operator,
            (By::Kernel, _) => Initiator::Kernel,
            (By::Peer, _) => Initiator::PeerLoss,
        }
    }

    /// The reason of a snake_case name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}

impl Class {
    /// The class of a wire number; an unknown one ranks lowest.
    pub const fn from_number(number: u8) -> Self {
        match number {
            2 => Self::Orderly,
            3 => Self::Reset,
            4 => Self::Timer,
            5 => Self::Refusal,
            6 => Self::Operator,
            _ => Self::Consequence,
        }
    }

    /// Hard evidence ends a connection by itself; an orderly end leaves the other direction open.
    pub const fn is_hard(self) -> bool {
        !matches!(self, Self::Consequence | Self::Orderly)
    }
}

impl Initiator {
    /// The initiator of a wire number; an unknown one is shown as the peer's loss.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Client,
            2 => Self::Target,
            3 => Self::Smartproxy,
            4 => Self::Networkproxy,
            5 => Self::Operator,
            6 => Self::Kernel,
            _ => Self::PeerLoss,
        }
    }

    /// The lower-case name in logs and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Target => "target",
            Self::Smartproxy => "smartproxy",
            Self::Networkproxy => "networkproxy",
            Self::Operator => "operator",
            Self::Kernel => "kernel",
            Self::PeerLoss => "peer_loss",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(number) => write!(f, "unknown_{number}"),
            known => f.write_str(known.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// one value per cause, each with its own number, name, sentence and advice.
    #[test]
    fn numbers_names_and_sentences_are_unique() {
        let all = Reason::ALL;
        assert_eq!(all.iter().map(|r| r.number()).collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(all.iter().map(|r| r.name()).collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(all.iter().map(|r| r.sentence()).collect::<BTreeSet<_>>().len(), all.len());
        for reason in all {
            assert_eq!(Reason::from_number(reason.number()), *reason);
            assert_eq!(Reason::from_name(reason.name()), Some(*reason));
            assert!(!reason.advice().is_empty());
            assert_ne!(reason.name(), "other");
        }
    }

    #[test]
    fn an_unknown_number_is_kept_and_shown() {
        assert_eq!(Reason::from_number(9_999), Reason::Unknown(9_999));
        assert_eq!(Reason::Unknown(9_999).number(), 9_999);
        assert_eq!(Reason::Unknown(9_999).to_string(), "unknown_9999");
    }

    #[test]
    fn a_rule_of_ours_is_blamed_on_the_process_that_applied_it() {
        use crate::Role;
        assert_eq!(Reason::InactivityTimeout.initiator(Role::Front), Initiator::Smartproxy);
        assert_eq!(Reason::InactivityTimeout.initiator(Role::Inner), Initiator::Networkproxy);
        assert_eq!(Reason::ClientReset.initiator(Role::Inner), Initiator::Client);
        assert_eq!(Reason::HopReset.initiator(Role::Front), Initiator::PeerLoss);
    }

    #[test]
    fn classes_rank_as_the_tie_break_says() {
        assert!(Class::Operator > Class::Refusal);
        assert!(Class::Refusal > Class::Timer);
        assert!(Class::Timer > Class::Reset);
        assert!(Class::Reset > Class::Orderly);
        assert!(!Reason::HopReset.class().is_hard() && !Reason::ClientClosed.class().is_hard());
        for number in 1..=6 {
            assert_eq!(Class::from_number(number) as u8, number);
        }
    }
}
