//! What the books cost a data path and the control thread, with 0, 1,000 and 100,000 other connections live.

#[allow(dead_code, unreachable_pub, reason = "two benchmarks share it")]
mod pair;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ledger::{Attempt, ConnectionId, HalfKey, Next, Role};

use pair::{FRONT, Facts, Pair, close, open_front};

const OTHERS: [u64; 3] = [0, 1_000, 100_000];
/// Connections between two exchanges of both processes: 2,000 a second, told every 20 ms.
const AT_ONCE: u64 = 40;

/// One front half: accept, five steps, close. Nobody is told: a change waits in the journal, and costs nothing.
fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("half");
    for others in OTHERS {
        let pair = Pair::with(others);
        let facts = Facts::new();
        let mut next = 1 << 40;
        group.bench_function(BenchmarkId::new("open_phases_close", others), |bencher| {
            bencher.iter(|| {
                next += 1;
                let key = key(next);
                open_front(&pair.front, key, Attempt(next), &facts, pair.now);
                close(&pair.front, key, Role::Front, pair.now);
            });
        });
        let key = key(1 << 50);
        open_front(&pair.front, key, Attempt(1 << 50), &facts, pair.now);
        group.bench_function(BenchmarkId::new("record", others), |bencher| {
            bencher.iter(|| pair.front.record(key, [facts.armed()], pair.now));
        });
        group.bench_function(BenchmarkId::new("live_totals", others), |bencher| {
            bencher.iter(|| black_box(pair.front.totals(key)));
        });
    }
    group.finish();
}

/// What the control thread asks for most: nothing to say; and a full batch to say.
fn pulls(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    for others in OTHERS {
        let mut pair = Pair::with(others);
        group.bench_function(BenchmarkId::new("next_with_nothing_to_say", others), |bencher| {
            bencher.iter(|| black_box(pair.front.next(pair.at_front, pair.now)));
        });
        group.bench_function(BenchmarkId::new("pull_of_40", others), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let open: Vec<_> = (0..AT_ONCE).map(|_| pair.open()).collect();
                    pair.pass(Duration::from_millis(25));
                    let start = Instant::now();
                    let message = pair.front.next(pair.at_front, pair.now);
                    spent += start.elapsed();
                    let Next::Send(message) = message else { panic!("{message:?}") };
                    pair.inner.receive(pair.at_inner, message, pair.now).expect("applied");
                    for (front, inner) in open {
                        pair.close(front, inner);
                    }
                    pair.sync();
                }
                spent
            });
        });
    }
    group.finish();
}

/// One whole connection through both books: opened, closed, told in both directions, settled from both ends.
fn whole(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("connection");
    for others in OTHERS {
        let mut pair = Pair::with(others);
        group.bench_function(BenchmarkId::new("both_books_both_ways", others), |bencher| {
            bencher.iter_custom(|rounds| {
                let start = Instant::now();
                let mut left = rounds;
                while left > 0 {
                    let batch = left.min(AT_ONCE);
                    for _ in 0..batch {
                        let (front, inner) = pair.open();
                        pair.close(front, inner);
                    }
                    pair.sync();
                    pair.sync();
                    pair.front.take_settled(1_000);
                    pair.inner.take_settled(1_000);
                    left -= batch;
                }
                start.elapsed()
            });
        });
    }
    group.finish();
}

fn key(number: u64) -> HalfKey {
    HalfKey::front(ConnectionId(0x0192_f7a1_b2c3_7d4e_8f92_0000_0000_0000 + u128::from(number)), FRONT)
}

criterion_group!(benches, steps, pulls, whole);
criterion_main!(benches);
