//! Round trips, hostile input, sizes, and the enumerations against the ledger's.

use std::sync::Arc;
use std::time::Duration;

use ledger::{
    Accept, Ack, AddressSource, Armed, Attempt, Batch, Class, ConnectionId, DeadlineName, Digest, End,
    HalfKey, HalfUpdate, Hop, HopCount, Initiator, InstanceId, LegName, LogEntry, Message, MeterTotal, Nanos,
    Observation, Phase, Reason, Restart, Role, Routing, Rule, SettledFrom, Settlement, SnapshotChunk, Tally,
    Target, Termination, Tls, TrafficTotals, Wall,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

use super::known::Known;
use super::message::{Inbound, LARGEST_MESSAGE, Reader, encode};
use super::{Fault, Malformed};
use crate::proto::admin::v1 as admin;
use crate::proto::control::v1 as wire;
use crate::wire::{Fields, Writer};

mod hostile;
mod reference;
mod sizes;

const SENDER: InstanceId = InstanceId(0x0192_f7a1_b2c3_7d4e_8f90_0123_4567_89ab);

fn decode(message: wire::SyncMessage, sender: InstanceId) -> Result<Inbound, Malformed> {
    Reader::of(sender).read(message)
}

fn read_update(bytes: &[u8]) -> Result<HalfUpdate, Malformed> {
    super::update::read_update(bytes, SENDER, &mut Known::default())
}

fn written(update: &HalfUpdate) -> Vec<u8> {
    let mut writer = Writer::default();
    super::update::write_update(&mut writer, update);
    writer.into_bytes()
}

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9 é:._-]{0,40}"
}

fn boxed() -> impl Strategy<Value = Box<str>> {
    text().prop_map(Into::into)
}

fn shared() -> impl Strategy<Value = Arc<str>> {
    text().prop_map(Into::into)
}

fn duration() -> impl Strategy<Value = Duration> {
    (0..10_000_000_000_u64, 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

fn wall() -> impl Strategy<Value = Wall> {
    (0..250_000_000_000_000_000_u64).prop_map(Wall)
}

fn address() -> impl Strategy<Value = std::net::SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(Into::into),
        (any::<[u16; 8]>(), any::<u16>()).prop_map(Into::into),
    ]
}

fn phase() -> impl Strategy<Value = Phase> {
    (1..=u8::MAX).prop_map(Phase::from_number)
}

fn reason() -> impl Strategy<Value = Reason> {
    prop_oneof![(1..=u16::MAX).prop_map(Reason::from_number), proptest::sample::select(Reason::ALL)]
}

fn class() -> impl Strategy<Value = Class> {
    (1..=6_u8).prop_map(Class::from_number)
}

fn initiator() -> impl Strategy<Value = Initiator> {
    (1..=7_u8).prop_map(Initiator::from_number)
}

fn leg() -> impl Strategy<Value = Option<LegName>> {
    (0..=3_u8).prop_map(LegName::from_number)
}

fn rule() -> impl Strategy<Value = Rule> {
    (boxed(), boxed(), boxed()).prop_map(|(name, limit, source)| Rule { name, limit, source })
}

fn observation() -> impl Strategy<Value = Observation> {
    let what = (reason(), class(), initiator(), leg(), duration());
    (what, option::of(rule()), option::of(boxed()), option::of(boxed())).prop_map(
        |((reason, class, initiator, leg, after), rule, observed, detail)| Observation {
            reason,
            class,
            initiator,
            leg,
            after,
            rule,
            observed,
            detail,
        },
    )
}

fn count() -> impl Strategy<Value = u64> {
    0..=super::scalar::LARGEST_COUNT
}

fn end() -> impl Strategy<Value = End> {
    let hop = (count(), count(), any::<bool>());
    let seen = vec(observation(), 0..=End::MAX_OBSERVATIONS);
    (phase(), seen, duration(), hop, count(), wall(), duration()).prop_map(
        |(phase, observations, suspended, (sent, received, read_to_eof), undelivered, at, age)| End {
            phase,
            observations,
            suspended,
            hop: HopCount { sent, received, read_to_eof },
            undelivered,
            at,
            age,
        },
    )
}

fn settlement() -> impl Strategy<Value = Settlement> {
    let from = proptest::sample::select(vec![SettledFrom::Both, SettledFrom::Alone, SettledFrom::Only]);
    let cause = (observation(), phase(), boxed(), vec(boxed(), 0..20));
    (cause, from, vec(boxed(), 0..8)).prop_map(|((seen, phase, sentence, chain), from, late)| Settlement {
        cause: Termination {
            reason: seen.reason,
            class: seen.class,
            initiator: seen.initiator,
            phase,
            side: seen.leg,
            rule: seen.rule,
            observed: seen.observed,
            evidence: seen.detail,
            sentence,
            chain,
        },
        from,
        late,
    })
}

fn accept() -> impl Strategy<Value = Accept> {
    let source =
        proptest::sample::select(vec![AddressSource::Socket, AddressSource::ProxyV1, AddressSource::ProxyV2]);
    (shared(), address(), address(), address(), source, wall()).prop_map(
        |(listener, client, remote, local, source, at)| Accept {
            listener,
            client,
            remote,
            local,
            source,
            at,
        },
    )
}

fn routing() -> impl Strategy<Value = Routing> {
    let names = (option::of(shared()), option::of(shared()), option::of(shared()));
    let alpn = vec("[a-z0-9/.]{0,32}".prop_map(Into::into), 0..=8);
    (names, any::<u64>(), alpn, option::of(shared()), option::of(shared())).prop_map(
        |((entry, route, server_name), generation, alpn_offered, trace, protocol)| Routing {
            entry,
            route,
            generation,
            server_name,
            alpn_offered,
            trace,
            protocol,
        },
    )
}

fn hop() -> impl Strategy<Value = Hop> {
    let bridged = option::of((any::<u128>(), any::<u64>()));
    (bridged, option::of(any::<u64>()), any::<u32>(), option::of(address()), option::of(address())).prop_map(
        |(bridged, given_up, attempts, local, remote)| Hop {
            bridged: bridged.map(|(instance, attempt)| (InstanceId(instance), Attempt(attempt))),
            given_up: given_up.map(Attempt),
            attempts,
            local,
            remote,
        },
    )
}

fn tls() -> impl Strategy<Value = Tls> {
    (boxed(), boxed(), option::of(boxed()), any::<bool>()).prop_map(|(version, cipher, alpn, resumed)| Tls {
        version,
        cipher,
        alpn,
        resumed,
    })
}

fn target() -> impl Strategy<Value = Target> {
    (shared(), option::of(address()), any::<bool>(), option::of(duration()))
        .prop_map(|(name, address, reused, connect)| Target { name, address, reused, connect })
}

fn traffic() -> impl Strategy<Value = TrafficTotals> {
    let meter = (count(), any::<u64>()).prop_map(|(bytes, last)| MeterTotal { bytes, last: Nanos(last) });
    let meters = proptest::array::uniform3(proptest::array::uniform2(meter));
    (meters, count(), count()).prop_map(|(meters, requests_started, requests_finished)| TrafficTotals {
        meters,
        requests_started,
        requests_finished,
    })
}

fn armed() -> impl Strategy<Value = Armed> {
    let name = proptest::sample::select(DeadlineName::ALL.to_vec());
    let restart = proptest::sample::select(vec![Restart::Never, Restart::OnBytes]);
    (name, duration(), shared(), duration(), restart)
        .prop_map(|(name, limit, source, since, restart)| Armed { name, limit, source, since, restart })
}

fn log() -> impl Strategy<Value = Vec<LogEntry>> {
    vec(
        (any::<u64>(), phase(), any::<u64>()).prop_map(|(seq, phase, after)| LogEntry {
            seq,
            phase,
            after: Nanos(after),
        }),
        0..24,
    )
}

fn half_update() -> impl Strategy<Value = HalfUpdate> {
    let who = (any::<u64>(), any::<u128>(), any::<u64>(), option::of(any::<u128>()), any::<u64>());
    let groups = (
        option::of(accept()),
        option::of(routing()),
        option::of(hop()),
        option::of(tls()),
        option::of(target()),
        option::of(end()),
        option::of(settlement()),
    );
    let always = (phase(), leg(), log(), any::<u32>(), vec(armed(), 0..8), traffic());
    (who, groups, always).prop_map(|(who, groups, always)| {
        let (seq, connection, attempt, front, opened_seq) = who;
        let (accept, routing, hop, tls, target, end, settlement) = groups;
        let (phase, half_closed, log, log_dropped, armed, traffic) = always;
        HalfUpdate {
            seq,
            key: HalfKey {
                connection: ConnectionId(connection),
                instance: SENDER,
                attempt: Attempt(attempt),
            },
            role: if front.is_some() { Role::Inner } else { Role::Front },
            front_instance: front.map_or(SENDER, InstanceId),
            opened_seq,
            accept: accept.map(Arc::new),
            routing: routing.map(Arc::new),
            hop: hop.map(Arc::new),
            tls: tls.map(Arc::new),
            target: target.map(Arc::new),
            phase,
            half_closed,
            log,
            log_dropped,
            armed: armed.into(),
            traffic,
            end: end.map(Arc::new),
            settlement: settlement.map(Arc::new),
        }
    })
}

fn tally() -> impl Strategy<Value = Tally> {
    let settled = btree_map((reason(), initiator()), 0..1_000_u64, 0..12);
    let sums = proptest::array::uniform3(proptest::array::uniform2(count()));
    let counts = (proptest::array::uniform3(count()), count(), count(), count(), count());
    (settled, sums, counts, 0..1_000_u64, 0..1_000_u64).prop_map(
        |(settled, bytes, counts, open, settling)| {
            let closed = settled.values().sum::<u64>() + settling;
            let (settled_from, bridged, tls_terminated, late_evidence, requests) = counts;
            Tally {
                opened: closed + open,
                closed,
                settled,
                settled_from,
                bridged,
                tls_terminated,
                late_evidence,
                requests,
                bytes,
            }
        },
    )
}

fn digest() -> impl Strategy<Value = Digest> {
    (0..1_u64 << 50, 0..1_u64 << 50, any::<u64>(), any::<u64>()).prop_map(|(closed, live, sum, xor)| Digest {
        opened: closed + live,
        closed,
        sum,
        xor,
    })
}

fn message() -> impl Strategy<Value = Message> {
    let halves = || vec(half_update(), 0..4);
    let positions = (any::<u64>(), any::<u64>(), any::<u64>());
    prop_oneof![
        (positions, halves(), option::of(digest())).prop_map(
            |((after, through, horizon), halves, digest)| {
                Message::Batch(Batch { after, through, horizon, halves, digest })
            }
        ),
        (any::<u64>(), any::<u64>(), option::of(tally()), halves(), option::of(digest())).prop_map(
            |(index, through, base, halves, digest)| {
                Message::Snapshot(SnapshotChunk { index, through, base, halves, digest })
            }
        ),
        (any::<u64>(), any::<u64>()).prop_map(|(applied, chunks)| Message::Ack(Ack { applied, chunks })),
        any::<u64>().prop_map(|position| Message::Heartbeat { position }),
        vec((any::<u128>(), any::<u64>(), traffic()), 0..6).prop_map(|halves| {
            let key = |id, attempt| HalfKey {
                connection: ConnectionId(id),
                instance: SENDER,
                attempt: Attempt(attempt),
            };
            Message::Progress(
                halves.into_iter().map(|(id, attempt, totals)| (key(id, attempt), totals)).collect(),
            )
        }),
        any::<u64>().prop_map(|through| Message::Bye { through }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// what travels is what was said, field by field.
    #[test]
    fn a_half_is_read_back_as_it_was_written(original in half_update()) {
        let read = read_update(&written(&original));
        prop_assert_eq!(format!("{:?}", read.unwrap()), format!("{:?}", original));
    }

    /// what we write is what the proto says, byte by byte, as any other program would write it.
    #[test]
    fn a_half_is_written_as_prost_writes_it(original in half_update()) {
        prop_assert_eq!(written(&original), reference::update(&original).encode_to_vec());
    }

    /// the same for the counts between changes.
    #[test]
    fn progress_is_written_as_prost_writes_it(id in any::<u128>(), attempt in any::<u64>(), totals in traffic()) {
        let key = HalfKey { connection: ConnectionId(id), instance: SENDER, attempt: Attempt(attempt) };
        let mut writer = Writer::default();
        super::update::write_progress(&mut writer, &(key, totals));
        let reference = wire::HalfProgress {
            connection_id: key.connection.to_string(),
            attempt,
            traffic: Some(reference::traffic(&totals)),
        };
        prop_assert_eq!(writer.into_bytes(), reference.encode_to_vec());
    }

    /// what was read before changes nothing in what is read now.
    #[test]
    fn what_a_session_knows_changes_nothing(halves in vec(half_update(), 1..8)) {
        let mut known = Known::default();
        for original in halves.iter().chain(&halves) {
            let read = super::update::read_update(&written(original), SENDER, &mut known);
            prop_assert_eq!(format!("{:?}", read.unwrap()), format!("{:?}", original));
        }
    }

    /// every message of the ledger.
    #[test]
    fn a_message_is_read_back_as_it_was_written(original in message(), active in duration()) {
        let bytes = encode(&original, active).encode_to_vec();
        match decode(wire::SyncMessage::decode(&*bytes).unwrap(), SENDER).unwrap() {
            Inbound::Ledger(read, clock) => {
                let heartbeat = matches!(read, Message::Heartbeat { .. });
                prop_assert_eq!(clock, heartbeat.then_some(active));
                prop_assert_eq!(format!("{read:?}"), format!("{original:?}"));
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    /// an older build skips what it does not know, and understands the rest.
    #[test]
    fn unknown_fields_are_skipped(original in message(), number in 100_u32..1_000, value in any::<u64>()) {
        let mut bytes = encode(&original, Duration::ZERO).encode_to_vec();
        prost::encoding::uint64::encode(number, &value, &mut bytes);
        let read = decode(wire::SyncMessage::decode(&*bytes).unwrap(), SENDER).unwrap();
        match read {
            Inbound::Ledger(read, _) => prop_assert_eq!(format!("{read:?}"), format!("{original:?}")),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

/// the reasons of the proto are the ledger's, by name and number, and no others.
#[test]
fn reasons_have_the_ledgers_names_and_numbers() {
    for reason in Reason::ALL {
        let shown = admin::Reason::try_from(i32::from(reason.number())).expect("the proto has this number");
        assert_eq!(shown.as_str_name(), format!("REASON_{}", reason.name().to_uppercase()));
    }
    let known = (1..=i32::from(u16::MAX)).filter(|number| admin::Reason::try_from(*number).is_ok()).count();
    assert_eq!(known, Reason::ALL.len(), "the proto has no others");
}

#[test]
fn phases_have_the_ledgers_names_and_numbers() {
    for phase in Phase::ALL {
        let shown = admin::Phase::try_from(i32::from(phase.number())).expect("the proto has this number");
        assert_eq!(shown.as_str_name(), format!("PHASE_{}", phase.name().to_uppercase()));
    }
    let known = (1..=i32::from(u8::MAX)).filter(|number| admin::Phase::try_from(*number).is_ok()).count();
    assert_eq!(known, Phase::ALL.len());
}

#[test]
fn the_other_enumerations_have_the_ledgers_numbers() {
    for number in 1..=7_u8 {
        let initiator = admin::Initiator::try_from(i32::from(number)).expect("the proto has this number");
        let name = Initiator::from_number(number).name().to_uppercase();
        assert_eq!(initiator.as_str_name(), format!("INITIATOR_{name}"));
    }
    for number in 1..=6_u8 {
        let class = admin::EvidenceClass::try_from(i32::from(number)).expect("the proto has this number");
        let name = format!("{:?}", Class::from_number(number)).to_uppercase();
        assert_eq!(class.as_str_name(), format!("EVIDENCE_CLASS_{name}"));
    }
    for leg in [LegName::Client, LegName::Hop, LegName::Target] {
        let shown = admin::Leg::try_from(leg as i32).expect("the proto has this number");
        assert_eq!(shown.as_str_name(), format!("LEG_{}", leg.name().to_uppercase()));
    }
    for source in [AddressSource::Socket, AddressSource::ProxyV1, AddressSource::ProxyV2] {
        assert!(admin::AddressSource::try_from(source as i32).is_ok());
    }
}

/// An enum number that this build does not know is kept, shown as such, and sent on.
#[test]
fn unknown_reasons_and_phases_survive_a_round_trip() {
    let observation = Observation {
        reason: Reason::Unknown(60_000),
        class: Class::Timer,
        ..Observation::new(Role::Front, Reason::Finished, None, Duration::ZERO)
    };
    let end = End {
        phase: Phase::Unknown(200),
        observations: vec![observation],
        suspended: Duration::ZERO,
        hop: HopCount::default(),
        undelivered: 0,
        at: Wall(1),
        age: Duration::ZERO,
    };
    let bytes = super::ends::end(&end).encode_to_vec();
    let read = super::ends::read_end(Fields::of(&bytes, "end")).unwrap();
    assert_eq!(read, end);
    assert_eq!(
        read.key().map(|(seen, _)| seen.class),
        Some(Class::Timer),
        "it ranks by what travelled with it"
    );
}
