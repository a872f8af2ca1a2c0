//! Random histories of a journal, read by a mirror that is often away.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::evidence::{End, HopCount, Observation};
use crate::half::{Accept, AddressSource, Hop, LogEntry, Settlement, Stamped, Tls};
use crate::mirror::{Changes, Mirror};
use crate::phase::Phase;
use crate::reason::Reason;
use crate::termination::{SettledFrom, only};
use crate::time::{Nanos, Wall};
use crate::{Attempt, Role};

const OWNER: InstanceId = InstanceId(9);

fn key(id: u8) -> HalfKey {
    HalfKey::front(ConnectionId(u128::from(id)), OWNER)
}

fn half(id: u8) -> Half {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let source = AddressSource::Socket;
    let accept = Accept {
        listener: "t".into(),
        client: address,
        remote: address,
        local: address,
        source,
        at: Wall(0),
    };
    let log = vec![LogEntry { seq: 0, phase: Phase::Accepted, after: Nanos::default() }];
    Half::new(key(id), Role::Front, OWNER, Arc::new(accept).into(), log)
}

/// One thing that happens to a half, or to the reader.
#[derive(Clone, Copy, Debug)]
enum Op {
    Open(u8),
    /// It ended and settled in the step that opened it.
    TurnAway(u8),
    Phase(u8, Phase),
    Bridge(u8, u64),
    Tls(u8),
    End(u8),
    Settle(u8),
    Evict,
    Read,
    /// The reader applies only part of a pull, then starts over.
    ReadPart(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let id = 0_u8..24;
    prop_oneof![
        3 => id.clone().prop_map(Op::Open),
        1 => id.clone().prop_map(Op::TurnAway),
        3 => (id.clone(), prop::sample::select(&Phase::ALL[..13])).prop_map(|(id, phase)| Op::Phase(id, phase)),
        2 => (id.clone(), 1_u64..50).prop_map(|(id, attempt)| Op::Bridge(id, attempt)),
        1 => id.clone().prop_map(Op::Tls),
        2 => id.clone().prop_map(Op::End),
        2 => id.prop_map(Op::Settle),
        1 => Just(Op::Evict),
        2 => Just(Op::Read),
        1 => (0_usize..4).prop_map(Op::ReadPart),
    ]
}

fn apply(journal: &mut Journal, op: Op) {
    match op {
        Op::Open(id) => {
            journal.open(half(id));
        }
        Op::TurnAway(id) => {
            let mut half = half(id);
            half.phase = Phase::Closed;
            half.end = Some(Stamped { seq: 0, value: Arc::new(end_of(&half)) });
            half.settlement = Some(Stamped { seq: 0, value: Arc::new(settlement_of(&half)) });
            journal.open(half);
        }
        Op::Phase(id, phase) => amend_live(journal, id, |half, seq| {
            half.phase = phase;
            half.log(LogEntry { seq, phase, after: Nanos::default() });
        }),
        Op::Bridge(id, attempt) => amend_live(journal, id, |half, seq| {
            let bridged = Some((InstanceId(3), Attempt(attempt)));
            let hop = Hop { bridged, attempts: 1, ..Hop::default() };
            half.hop = Some(Stamped { seq, value: Arc::new(hop) });
        }),
        Op::Tls(id) => amend_live(journal, id, |half, seq| {
            let tls = Tls { version: "TLSv1.3".into(), cipher: "x".into(), alpn: None, resumed: false };
            half.tls = Some(Stamped { seq, value: Arc::new(tls) });
        }),
        Op::End(id) => amend_live(journal, id, |half, seq| {
            let end = end_of(half);
            half.phase = Phase::Closed;
            half.traffic.meters[0][0].bytes += 7;
            half.end = Some(Stamped { seq, value: Arc::new(end) });
        }),
        Op::Settle(id) => {
            if journal.half(key(id)).is_some_and(|half| half.is_settling()) {
                journal.amend(key(id), |half, seq| {
                    half.settlement = Some(Stamped { seq, value: Arc::new(settlement_of(half)) });
                });
            }
        }
        Op::Evict => {
            // As the ledger does: what is evicted was settled before.
            if let Some((key, _)) = journal.eviction_candidate().filter(|(_, half)| !half.is_settling()) {
                journal.evict(key);
            }
        }
        Op::Read | Op::ReadPart(_) => {}
    }
}

fn end_of(half: &Half) -> End {
    End {
        phase: half.phase,
        observations: vec![Observation::new(Role::Front, Reason::ClientReset, None, Duration::ZERO)],
        suspended: Duration::ZERO,
        hop: HopCount::default(),
        undelivered: 0,
        at: Wall(0),
        age: Duration::ZERO,
    }
}

fn settlement_of(half: &Half) -> Settlement {
    let cause = only(&half.end.as_ref().expect("ended").value, Role::Front);
    Settlement { cause, from: SettledFrom::Only, late: Vec::new() }
}

fn amend_live(journal: &mut Journal, id: u8, change: impl FnOnce(&mut Half, u64)) {
    if journal.half(key(id)).is_some_and(|half| half.is_live()) {
        journal.amend(key(id), change);
    }
}

/// Reads a pull in batches of one half; `part` stops after so many, as a broken stream does.
fn read(journal: &mut Journal, mirror: &mut Mirror, part: Option<usize>) {
    let cursor = mirror.rewind();
    let pull = journal.pull(cursor);
    let mut changes = Changes::new();
    let halves = finish(journal, pull.reading);
    let count = halves.len();
    if let Some(base) = pull.snapshot {
        let updates = halves.iter().map(|(seq, half)| half.update_since(0, *seq)).collect();
        if part.is_none() {
            let staged = mirror.stage(0, pull.through, Some(base), updates, Some(&pull.digest));
            assert!(staged.is_ok(), "{staged:?}");
        }
        return;
    }
    let mut after = pull.from;
    for (index, (seq, half)) in halves.iter().enumerate() {
        if part == Some(index) {
            return;
        }
        let last = index + 1 == count;
        let through = if last { pull.through } else { *seq };
        let update = half.update_since(pull.from, *seq);
        let digest = last.then_some(&pull.digest);
        let applied = mirror.apply(after, through, pull.horizon, vec![update], digest, &mut changes);
        assert_eq!(applied, Ok(()), "half {index} of {count}");
        after = through;
    }
    if count == 0 {
        let digest = Some(&pull.digest);
        assert_eq!(mirror.apply(after, pull.through, pull.horizon, Vec::new(), digest, &mut changes), Ok(()));
    }
}

/// Reads on to the end.
fn finish(journal: &mut Journal, reading: ReadingId) -> Vec<(u64, Arc<Half>)> {
    let mut halves = Vec::new();
    let more = journal.read_on(reading, |seq, half| {
        halves.push((seq, Arc::clone(half)));
        true
    });
    assert!(!more, "it was read to the end");
    journal.end_reading(reading);
    halves
}

fn recount(journal: &Journal) -> (Tally, Digest) {
    let mut tally = journal.base().clone();
    let mut digest =
        Digest { opened: journal.tally().opened, closed: journal.tally().closed, ..Digest::default() };
    for half in journal.halves() {
        tally.fold(half);
        if half.is_live() {
            digest.add(half.key, half.phase);
        }
    }
    (tally, digest)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// running counts are folds; a reader that is away, or is cut off in the middle of a pull,
    /// ends with exactly the journal's halves, groups, phase logs and counters.
    #[test]
    fn a_mirror_equals_the_journal_whatever_was_cut(ops in prop::collection::vec(op(), 1..160)) {
        let mut journal = Journal::default();
        let mut mirror = Mirror::new(OWNER, Role::Front, InstanceId(3));
        let mut opened = BTreeSet::new();
        for op in ops {
            if let Op::Open(id) | Op::TurnAway(id) = op && !opened.insert(id) {
                continue; // An id is never used again.
            }
            apply(&mut journal, op);
            let (tally, digest) = recount(&journal);
            prop_assert_eq!(journal.tally(), &tally);
            prop_assert_eq!(journal.digest(), &digest);
            prop_assert_eq!(tally.opened, journal.live_len() as u64 + journal.settling_len() as u64 + tally.settled_total());
            match op {
                Op::Read => read(&mut journal, &mut mirror, None),
                Op::ReadPart(part) => read(&mut journal, &mut mirror, Some(part)),
                _ => {}
            }
        }
        read(&mut journal, &mut mirror, None);
        prop_assert_eq!(mirror.tally(), journal.tally());
        prop_assert_eq!(mirror.digest(), journal.digest());
        prop_assert_eq!(mirror.live_len(), journal.live_len() as u64);
        mirror.check();
        for half in journal.halves() {
            let copy = mirror.half(half.key).expect("mirrored");
            prop_assert_eq!(copy.phase, half.phase);
            prop_assert_eq!(&copy.log, &half.log);
            prop_assert_eq!(copy.bridged(), half.bridged());
            prop_assert_eq!(copy.tls.as_ref().map(|t| &t.value), half.tls.as_ref().map(|t| &t.value));
            prop_assert_eq!(copy.end.as_ref().map(|e| &e.value), half.end.as_ref().map(|e| &e.value));
            prop_assert_eq!(copy.traffic, half.traffic);
        }
    }

    /// A reading that is taken up now and then yields what the feed held when it began, whatever opened,
    /// changed and was evicted meanwhile; and nothing is kept once it is over.
    #[test]
    fn a_reading_is_of_the_instant_it_began(
        before in prop::collection::vec(op(), 1..80),
        meanwhile in prop::collection::vec(op(), 1..80),
        stretch in 1_usize..6,
        from in 0_u64..40,
    ) {
        let mut journal = Journal::default();
        let mut opened = BTreeSet::new();
        let mut step = |journal: &mut Journal, op| match op {
            Op::Open(id) if !opened.insert(id) => {}
            op => apply(journal, op),
        };
        for op in before {
            step(&mut journal, op);
        }
        let expected: Vec<(u64, Half)> =
            journal.feed.range(from + 1..).map(|(seq, half)| (*seq, Half::clone(half))).collect();
        let reading = journal.begin_reading(from);
        let mut read = Vec::new();
        let mut take = |journal: &mut Journal| {
            let mut left = stretch;
            journal.read_on(reading, |seq, half| {
                read.push((seq, Half::clone(half)));
                left -= 1;
                left > 0
            })
        };
        for op in meanwhile {
            take(&mut journal);
            step(&mut journal, op);
        }
        while take(&mut journal) {}
        journal.end_reading(reading);
        prop_assert_eq!(journal.readings(), 0);
        let shown = |halves: &[(u64, Half)]| format!("{halves:?}");
        prop_assert_eq!(shown(&read), shown(&expected));
    }
}
