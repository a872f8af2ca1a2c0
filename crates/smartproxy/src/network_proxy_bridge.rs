//! `NetworkProxyBridge`: from a routed connection to one that is relayed over the hop.
//!
//! *Owns* the wait for a networkproxy, the attempts, and the promise that a TLS client which has not been
//! answered is bridged again and not refused. *Never* forwards a byte beyond the `initial_chunk` before the
//! hop has answered, never bridges clear text twice. *Invariant*: the attempt is on the record before its
//! header is on the wire, so an inner half never appears that the front has not heard of.

use std::io::{self, IoSlice};
use std::time::Duration;

use control::server::{NetworkProxy, Pick};
use ledger::{Armed, Attempt, Change, DeadlineName, InstanceId, LegName, Phase, Reason, Restart, Rule};
use runtime::preface::{HopClass, HopHeader, HopKey};
use runtime::{CloseOrder, Goodbye, InHand, Leg, Origin, Parting, TrackedConnection};
use tokio::sync::SemaphorePermit;

use crate::app::{App, EntryState};
use crate::bounds::hop_answer;
use crate::connection::{
    Ends, Pair, Partings, alert_for, arm_max_lifetime, end, expired, left, left_before_connect, ordered,
};
use crate::first_bytes::InitialData;

/// How one attempt went.
enum Attempted {
    /// The hop answered, or carries clear text: relay.
    Through(Leg),
    /// Nothing came back: hold, and try again. Says what the dial said, where that was it.
    Failed(Option<Failed>),
    /// The connection is over; the hop's socket, where there was one.
    Over(Over, Option<Leg>),
}

/// Why a connection is over before anything was relayed.
enum Over {
    ClientLeft,
    Expired(Armed),
    Ordered(CloseOrder),
}

/// A hop that could not be dialled.
struct Failed {
    reason: Reason,
    detail: String,
}

/// A place among the held connections, and since when.
struct Held<'a> {
    since: Duration,
    place: Option<SemaphorePermit<'a>>,
}

/// Before the networkproxy that just failed is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// Bridges a routed connection to a networkproxy: until bytes can be relayed, or it is over.
pub(crate) async fn forward_to_network_proxy(
    app: &App,
    tracked: &mut TrackedConnection,
    client: Leg,
    ends: Ends,
    state: &EntryState,
    initial: InitialData,
    mut in_hand: Option<InHand>,
) -> Result<Pair, Partings> {
    let limits = &state.bounds.farewell;
    tracked.deadlines_mut().keep_only(&[]);
    arm_max_lifetime(tracked, state);
    let mut held: Option<Held<'_>> = None;
    let mut last_failure: Option<Failed> = None;
    let mut last_tried: Option<ledger::InstanceId> = None;
    let over = loop {
        let full = match app.peers.pick_other_than(last_tried) {
            Pick::Ready(proxy) => {
                if let Some(in_hand) = &mut in_hand {
                    in_hand.take_up();
                }
                match Box::pin(attempt(app, tracked, &client, ends, state, &initial, &proxy)).await {
                    Attempted::Through(hop) => {
                        drop(in_hand);
                        if let Some(held) = held {
                            app.counts.held_for(tracked.clock().active().saturating_sub(held.since));
                        }
                        return Ok(to_relay(tracked, client, hop, &proxy, state));
                    }
                    Attempted::Over(over, hop) => break (over, hop),
                    Attempted::Failed(failed) => {
                        last_failure = failed;
                        last_tried = Some(proxy.instance);
                        app.counts.rebridge();
                        false
                    }
                }
            }
            Pick::Full => true,
            Pick::None => false,
        };
        if let Some(in_hand) = &mut in_hand {
            in_hand.set_aside();
        }
        if let Err(reason) = hold(app, tracked, state, &mut held) {
            let rule = match reason {
                Reason::HoldFull => app.limit_behind(reason),
                _ => Some((
                    state.bounds.hold.rule(DeadlineName::Hold),
                    format!("{:?}", state.bounds.hold.value),
                )),
            };
            let seen = (full, last_failure, rule);
            return Err(no_network_proxy(tracked, client, &initial, state, reason, seen));
        }
        match wait(app, tracked, &client, &initial).await {
            Ok(()) => {}
            Err(Over::Expired(armed)) if armed.name == DeadlineName::Hold => {
                let seen = (full, last_failure, Some((armed.rule(), format!("{:?}", armed.limit))));
                return Err(no_network_proxy(tracked, client, &initial, state, Reason::HoldExpired, seen));
            }
            Err(over) => break (over, None),
        }
    };
    Err(match over {
        (Over::ClientLeft, hop) => left_before_connect(tracked, client, hop, limits),
        (Over::Expired(armed), hop) => {
            expired(tracked, client, hop, &armed, Reason::HopConnectFailed, limits)
        }
        (Over::Ordered(order), hop) => ordered(tracked, client, hop, order, limits),
    })
}

/// Enters HELD, for what is left of the entry's `hold`.
fn hold<'a>(
    app: &'a App,
    tracked: &mut TrackedConnection,
    state: &EntryState,
    held: &mut Option<Held<'a>>,
) -> Result<(), Reason> {
    let limit = &state.bounds.hold;
    if limit.value.is_zero() {
        return Err(Reason::NetworkProxyUnavailable);
    }
    let now = tracked.clock().active();
    let held = held.get_or_insert(Held { since: now, place: None });
    if held.place.is_none() {
        held.place = Some(app.holding.try_acquire().map_err(|_| Reason::HoldFull)?);
    }
    // What bounded the failed attempt must not end the wait for the next one.
    tracked.deadlines_mut().disarm(DeadlineName::Connect);
    tracked.deadlines_mut().disarm(DeadlineName::HopAnswer);
    tracked.deadlines_mut().resume(DeadlineName::Hold, limit, held.since);
    if tracked.current_phase() != Phase::Held {
        tracked.record([Change::GiveUp, Change::Phase(Phase::Held, None)]);
    }
    Ok(())
}

/// Waits in HELD until it is worth trying again.
async fn wait(
    app: &App,
    tracked: &mut TrackedConnection,
    client: &Leg,
    initial: &InitialData,
) -> Result<(), Over> {
    let mut changed = app.peers.changed();
    changed.mark_unchanged();
    if app.peers.has_ready() {
        // One is there, but the last attempt failed: its session may be about to go down.
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => return Ok(()),
            over = interrupted(tracked, client, initial) => return Err(over),
        }
    }
    tokio::select! {
        _ = changed.changed() => Ok(()),
        over = interrupted(tracked, client, initial) => Err(over),
    }
}

/// What ends any wait of a connection that has not been relayed yet.
async fn interrupted(tracked: &TrackedConnection, client: &Leg, initial: &InitialData) -> Over {
    tokio::select! {
        () = left(client, initial) => Over::ClientLeft,
        armed = tracked.expired() => Over::Expired(armed),
        order = tracked.closing() => Over::Ordered(order),
    }
}

/// One attempt: dial, header and initial chunk in one write, and for TLS the wait for the first byte back.
async fn attempt(
    app: &App,
    tracked: &mut TrackedConnection,
    client: &Leg,
    ends: Ends,
    state: &EntryState,
    initial: &InitialData,
    proxy: &NetworkProxy,
) -> Attempted {
    tracked.deadlines_mut().disarm(DeadlineName::Hold);
    tracked.arm(DeadlineName::Connect, &state.bounds.connect, Restart::Never);
    tracked.phase(Phase::Connecting);
    let until = tracked.next_expiry().unwrap_or(Duration::MAX);
    let dialled = tokio::select! {
        dialled = app.dial_hop(proxy.hop, until) => dialled,
        over = interrupted(tracked, client, initial) => {
            return match over {
                Over::Expired(armed) if armed.name == DeadlineName::Connect => {
                    let detail = format!("{} did not accept within {:?}", proxy.hop, armed.limit);
                    Attempted::Failed(Some(Failed { reason: Reason::HopConnectFailed, detail }))
                }
                over => Attempted::Over(over, None),
            };
        }
    };
    let (hop, local) = match dialled {
        Ok(dialled) => (tracked.leg(dialled.socket, LegName::Hop, Origin::Dialled), dialled.local),
        Err(error) => {
            let reason = error.reason(LegName::Hop);
            return Attempted::Failed(Some(Failed { reason, detail: format!("{}: {error}", proxy.hop) }));
        }
    };

    let number = app.next_attempt();
    tracked.deadlines_mut().disarm(DeadlineName::Connect);
    tracked.arm(DeadlineName::HopAnswer, &hop_answer(proxy.tls_handshake), Restart::Never);
    let bridge = Change::Bridge(proxy.instance, Attempt(number));
    tracked.record([bridge, Change::HopAddresses(Some(local), Some(proxy.hop))]);
    let header = match header(app, tracked, ends, state, initial, proxy, number) {
        Ok(header) => header,
        Err(detail) => return Attempted::Failed(Some(Failed { reason: Reason::HopConnectFailed, detail })),
    };
    hop.exclude_header(header.len());
    tokio::select! {
        written = write_all(&hop, &header, &initial.chunk) => {
            if written.is_err() {
                return Attempted::Failed(None);
            }
        }
        over = interrupted(tracked, client, initial) => return interrupted_attempt(over, hop),
    }
    if !initial.kind.is_tls() {
        return Attempted::Through(hop);
    }
    tokio::select! {
        answered = hop.answered() => {
            if answered { Attempted::Through(hop) } else { Attempted::Failed(None) }
        }
        () = suspect(app, proxy.instance) => Attempted::Failed(None),
        over = interrupted(tracked, client, initial) => interrupted_attempt(over, hop),
    }
}

/// Returns once the instance's heartbeats have been older than two intervals for one interval.
async fn suspect(app: &App, instance: InstanceId) {
    let clock = app.manager.clock();
    let mut stale_since = None;
    loop {
        let now = clock.active();
        let fresh = app.peers.heartbeat_age(instance).is_some_and(|age| age <= app.heartbeat * 2);
        match (fresh, stale_since) {
            (true, _) => stale_since = None,
            (false, None) => stale_since = Some(now),
            (false, Some(since)) if now.saturating_sub(since) >= app.heartbeat => return,
            (false, Some(_)) => {}
        }
        clock.sleep_until(now + app.heartbeat / 4).await;
    }
}

/// The hop was there, but unanswered, when something else happened.
fn interrupted_attempt(over: Over, hop: Leg) -> Attempted {
    match over {
        Over::Expired(armed) if armed.name == DeadlineName::HopAnswer => {
            let detail = format!("the hop did not answer within {:?}", armed.limit);
            Attempted::Failed(Some(Failed { reason: Reason::HopConnectFailed, detail }))
        }
        over => Attempted::Over(over, Some(hop)),
    }
}

fn header(
    app: &App,
    tracked: &TrackedConnection,
    ends: Ends,
    state: &EntryState,
    initial: &InitialData,
    proxy: &NetworkProxy,
    attempt: u64,
) -> Result<Vec<u8>, String> {
    let header = HopHeader {
        client: ends.client,
        local: ends.local,
        server_name: initial.kind.server_name().map(str::to_owned),
        connection_id: tracked.id().0,
        entry: state.entry.name.to_string(),
        generation: app.generation,
        class: if initial.kind.is_tls() { HopClass::Tls } else { HopClass::Clear },
    };
    let mut bytes = Vec::with_capacity(256);
    let key = HopKey::new(proxy.key.id, &proxy.key.secret);
    header.encode(&key, attempt, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Header and initial chunk in one write; what a full socket leaves is written when it takes more.
async fn write_all(hop: &Leg, header: &[u8], chunk: &[u8]) -> io::Result<()> {
    let total = header.len() + chunk.len();
    let mut written = 0;
    while written < total {
        let outcome = if written < header.len() {
            hop.try_write_vectored(&[IoSlice::new(&header[written..]), IoSlice::new(chunk)])
        } else {
            hop.try_write(&chunk[written - header.len()..])
        };
        match outcome {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => hop.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The hop answered: the connection is relayed from here on. What was read first has been passed on.
fn to_relay(
    tracked: &mut TrackedConnection,
    client: Leg,
    hop: Leg,
    proxy: &NetworkProxy,
    state: &EntryState,
) -> Pair {
    tracked.deadlines_mut().keep_only(&[DeadlineName::MaxLifetime]);
    tracked.arm(DeadlineName::Backstop, &state.bounds.bridged_idle(proxy.largest_idle), Restart::OnBytes);
    tracked.phase(Phase::Relaying);
    let (options, limits) = (state.bounds.bridged(proxy.half_close), state.bounds.farewell.clone());
    Pair { client, other: hop, chunk: Vec::new(), options, limits }
}

/// The wait was in vain: tells the client and says why.
fn no_network_proxy(
    tracked: &mut TrackedConnection,
    client: Leg,
    initial: &InitialData,
    state: &EntryState,
    reason: Reason,
    (full, last_failure, rule): (bool, Option<Failed>, Option<(Rule, String)>),
) -> Partings {
    let limits = &state.bounds.farewell;
    tracked.record([Change::GiveUp]);
    let (reason, detail) = match (full, last_failure) {
        _ if reason == Reason::HoldFull => (reason, None),
        (true, _) => (Reason::NetworkProxyFull, None),
        (false, Some(failed)) => (failed.reason, Some(failed.detail)),
        (false, None) => (reason, None),
    };
    let mut seen = tracked.observation(reason, None);
    if let Some((rule, observed)) = rule {
        seen = seen.by_rule(rule, observed);
    }
    if let Some(detail) = detail {
        seen = seen.with_detail(detail);
    }
    match (alert_for(reason, initial), state.is_http()) {
        (Some(alert), _) => end(tracked, client, seen, Goodbye::Orderly, alert.record().to_vec(), limits),
        (None, true) => {
            let answer = unavailable(&tracked.id().to_string(), reason);
            end(tracked, client, seen, Goodbye::Orderly, answer, limits)
        }
        (None, false) => {
            tracked.observe(seen);
            refuse_silently(client, limits)
        }
    }
}

fn refuse_silently(client: Leg, limits: &runtime::FarewellLimits) -> Partings {
    Partings {
        client: Parting { leg: client, goodbye: Goodbye::Abort, rest: Vec::new() },
        other: None,
        undelivered: 0,
        limits: limits.clone(),
    }
}

/// The fixed answer on clear-text HTTP.
fn unavailable(id: &str, reason: Reason) -> Vec<u8> {
    let body = format!("503 Service Unavailable\nreason: {reason}\nconnection: {id}\n");
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\
         x-connection-id: {id}\r\nretry-after: 1\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
