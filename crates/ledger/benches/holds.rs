//! How long the books are held, at 100,000 live connections, and what a data path sees of it.
//!
//! Not a criterion benchmark: the worst case counts, not the mean. Each row runs one operation several times
//! while another thread opens, changes and closes a connection without pause. `call` is the longest call (one
//! hold of the lock, where the operation is one); `worst` and `p99` are what the other thread waited for one
//! call of its own; `worst` is the median over the rounds of each round's worst, and the largest in brackets, which
//! a thread that lost its processor makes large. The first row has no operation: that is this machine's noise.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

#[allow(dead_code, unreachable_pub, reason = "two benchmarks share it")]
mod pair;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ledger::{Attempt, ConnectionId, HalfKey, Heading, Role, SharedLedger};

use pair::{FRONT, Facts, INNER, Pair, close, now};

/// Live connections: `LIVE=90000 cargo bench --bench holds` for another number.
const LIVE: u64 = 100_000;
const ROUNDS: usize = 5;
/// As a page and the sweep take them.
const STRETCH: usize = 256;
const SWEEP: usize = 1_024;

/// No id is used twice.
static NEXT: AtomicU64 = AtomicU64::new(0);

fn main() {
    let live = std::env::var("LIVE").ok().and_then(|live| live.parse().ok()).unwrap_or(LIVE);
    println!("{live} live connections, both books in one process; microseconds");
    println!("| operation | calls | call, longest | call, median | other thread, worst | p99 |");
    println!("|---|---:|---:|---:|---:|---:|");
    let pair = Pair::with(live);
    let Pair { front, inner, now: at, .. } = &pair;
    row("nothing", front, |_| std::thread::sleep(Duration::from_millis(100)));
    row("walk, one stretch", front, |timed| {
        timed.call(|| front.walk(None, Heading::Older, STRETCH, *at));
    });
    row("walk, all stretches", front, |timed| {
        let mut from = None;
        loop {
            let stretch = timed.call(|| front.walk(from, Heading::Older, STRETCH, *at));
            let Some(next) = stretch.next else { break };
            from = Some(next);
        }
    });
    row("audit", front, |timed| drop(timed.call(|| front.audit(*at))));
    row("audit (networkproxy)", inner, |timed| drop(timed.call(|| inner.audit(*at))));
    row("counters", front, |timed| drop(timed.call(|| front.counters(*at))));
    row("peer status", front, |timed| drop(timed.call(|| front.peer_status(*at))));
    row("sweep, all live keys", front, |timed| {
        let mut from = None;
        while let Some(last) = timed.call(|| front.live(from, SWEEP)).last() {
            from = Some(*last);
        }
    });
    row("tick", front, |timed| timed.call(|| front.tick(*at)));
    let mut pair = pair;
    row("next, idle and digest", &pair.front.clone(), |timed| {
        for _ in 0..20 {
            pair.pass(Duration::from_millis(50));
            while let Some(message) = timed.call(|| pair.next_of_front()) {
                pair.inner.receive(pair.at_inner, message, pair.now).expect("applied");
            }
            while let Some(message) = pair.next_of_inner() {
                pair.front.receive(pair.at_front, message, pair.now).expect("applied");
            }
        }
    });
    drop(pair);
    snapshots(live);
    peer_lost(live);
}

/// Two processes that have never met, each with everything to tell.
fn snapshots(live: u64) {
    let mut told = BTreeMap::new();
    for _ in 0..3 {
        for watched in [Role::Front, Role::Inner] {
            let mut pair = Pair::strangers(live);
            pair.connect();
            pair.pass(Duration::from_millis(25));
            let book = if watched == Role::Front { pair.front.clone() } else { pair.inner.clone() };
            let mut sent = Timed::default();
            let mut received = Timed::default();
            let waits = beside(&book, || {
                while let Some(message) = sent.call(|| pair.next_of_front()) {
                    received.call(|| pair.inner.receive(pair.at_inner, message, pair.now)).expect("applied");
                    while let Some(message) = pair.next_of_inner() {
                        pair.front.receive(pair.at_front, message, pair.now).expect("applied");
                    }
                }
            });
            let (name, timed) = match watched {
                Role::Front => ("snapshot, sent: `next`", sent),
                Role::Inner => ("snapshot, taken: `receive`", received),
            };
            let (all, worst) = told.entry(name).or_insert_with(|| (Timed::default(), Vec::new()));
            all.0.extend(timed.0);
            worst.push(waits);
        }
    }
    for (name, (timed, waits)) in told {
        print_row(name, timed, waits);
    }
}

/// networkproxy is killed: every front ends, waits for two heartbeats, and is settled alone.
fn peer_lost(live: u64) {
    let mut pair = Pair::with(live);
    pair.front.end_session(pair.at_front, ledger::SessionEnd::Lost, pair.now);
    for number in 1..=live {
        close(&pair.front, client(number), Role::Front, pair.now);
    }
    pair.pass(Duration::from_secs(3));
    let mut timed = Timed::default();
    let waits = beside(&pair.front.clone(), || timed.call(|| pair.front.tick(pair.now)));
    print_row("tick, a peer was lost", timed, vec![waits]);
    drop(pair.front.take_settled(usize::MAX));
}

fn row(name: &str, book: &SharedLedger, mut operation: impl FnMut(&mut Timed)) {
    let mut timed = Timed::default();
    let rounds: Vec<_> = (0..ROUNDS).map(|_| beside(book, || operation(&mut timed))).collect();
    print_row(name, timed, rounds);
}

/// `rounds`: what the other thread waited, call by call.
fn print_row(name: &str, timed: Timed, rounds: Vec<Vec<Duration>>) {
    let sorted = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times
    };
    let worst = sorted(rounds.iter().filter_map(|round| round.iter().max().copied()).collect());
    let (calls, waits) = (sorted(timed.0), sorted(rounds.into_iter().flatten().collect()));
    let us = |time: Option<&Duration>| time.map_or(0, Duration::as_micros);
    println!(
        "| {name} | {} | {} | {} | {} ({}) | {} |",
        calls.len(),
        us(calls.last()),
        us(calls.get(calls.len() / 2)),
        us(worst.get(worst.len() / 2)),
        us(worst.last()),
        us(waits.get(waits.len() * 99 / 100)),
    );
}

/// How long each call took.
#[derive(Default)]
struct Timed(Vec<Duration>);

impl Timed {
    fn call<R>(&mut self, call: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = call();
        self.0.push(start.elapsed());
        result
    }
}

/// Runs `work` while another thread opens, changes and closes a connection in `book`; how long each of that
/// thread's calls took.
fn beside(book: &SharedLedger, work: impl FnOnce()) -> Vec<Duration> {
    let stop = Arc::new(AtomicBool::new(false));
    let (book, stopped) = (book.clone(), Arc::clone(&stop));
    let other = std::thread::spawn(move || {
        let facts = Facts::new();
        let mut timed = Timed::default();
        while !stopped.load(Ordering::Relaxed) {
            one_connection(&book, NEXT.fetch_add(1, Ordering::Relaxed), &facts, &mut timed);
            std::thread::sleep(Duration::from_micros(20));
        }
        timed.0
    });
    std::thread::sleep(Duration::from_millis(20));
    work();
    stop.store(true, Ordering::Relaxed);
    other.join().expect("it does not panic")
}

/// Not bridged: of a bridged one the other process would have to hear.
fn one_connection(book: &SharedLedger, number: u64, facts: &Facts, timed: &mut Timed) {
    let id = ConnectionId(0x0192_f7a1_b2c3_7d4e_8f93_0000_0000_0000 + u128::from(number));
    let at = now(Duration::from_secs(10));
    let key = if book.role() == Role::Front {
        timed.call(|| book.open_front(id, facts.accept(), at)).ok();
        HalfKey::front(id, FRONT)
    } else {
        let arrival = timed.call(|| book.arrive());
        let attempt = Attempt((1 << 40) + number);
        timed.call(|| book.open_inner(arrival, id, attempt, FRONT, facts.accept().into(), at)).ok();
        HalfKey::inner(id, INNER, attempt)
    };
    timed.call(|| book.record(key, [facts.armed()], at)).ok();
    timed.call(|| close(book, key, book.role(), at));
}

fn client(number: u64) -> HalfKey {
    HalfKey::front(ConnectionId(0x0192_f7a1_b2c3_7d4e_8f91_0000_0000_0000 + u128::from(number)), FRONT)
}
