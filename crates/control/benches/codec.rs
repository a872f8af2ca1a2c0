//! What a batch of short connections costs to say and to understand, and what one whole connection costs with
//! both books, both ways, and the wire between them.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

#[allow(dead_code, unreachable_pub, reason = "shared with the ledger's benchmarks")]
#[path = "../../ledger/benches/pair/mod.rs"]
mod pair;

use std::hint::black_box;
use std::time::{Duration, Instant};

use control::codec::{Decoder, encode};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ledger::Message;

use pair::{FRONT, INNER, Pair};

/// Connections between two exchanges.
const AT_ONCE: u64 = 40;
/// Longer than changes are gathered for.
const GATHERED: Duration = Duration::from_millis(125);

fn batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch_of_40");
    for (kind, ended) in [("opened", false), ("opened and ended", true)] {
        let mut pair = Pair::with(0);
        for _ in 0..AT_ONCE {
            let (front, inner) = pair.open();
            if ended {
                pair.close(front, inner);
            }
        }
        pair.pass(GATHERED);
        let message = std::iter::from_fn(|| pair.next_of_front())
            .find(|message| matches!(message, Message::Batch(batch) if !batch.halves.is_empty()))
            .expect("there is something to tell");
        let bytes = encode(&message);
        let mut decoder = Decoder::of(FRONT);
        group.throughput(Throughput::Elements(AT_ONCE));
        println!("{kind}: {} bytes per half", bytes.len() / AT_ONCE as usize);
        group.bench_function(format!("{kind}, encode"), |bencher| {
            bencher.iter(|| black_box(encode(black_box(&message))));
        });
        group.bench_function(format!("{kind}, decode"), |bencher| {
            bencher.iter(|| black_box(decoder.decode(black_box(bytes.clone())).expect("ours")));
        });
    }
    group.finish();
}

fn whole(criterion: &mut Criterion) {
    let mut pair = Pair::with(1_000);
    let mut decoders = [Decoder::of(FRONT), Decoder::of(INNER)];
    criterion.bench_function("connection/books_and_wire_both_ways", |bencher| {
        bencher.iter_custom(|rounds| {
            let start = Instant::now();
            let mut left = rounds;
            while left > 0 {
                let batch = left.min(AT_ONCE);
                for _ in 0..batch {
                    let (front, inner) = pair.open();
                    pair.close(front, inner);
                }
                exchange(&mut pair, &mut decoders);
                exchange(&mut pair, &mut decoders);
                pair.front.take_settled(1_000);
                pair.inner.take_settled(1_000);
                left -= batch;
            }
            start.elapsed()
        });
    });
}

/// Both sides tell everything, over the wire.
fn exchange(pair: &mut Pair, [of_front, of_inner]: &mut [Decoder; 2]) {
    pair.pass(GATHERED);
    loop {
        let mut quiet = true;
        while let Some(message) = pair.next_of_front() {
            let message = of_front.decode(encode(&message)).expect("ours");
            pair.inner.receive(pair.at_inner, message, pair.now).expect("applied");
            quiet = false;
        }
        while let Some(message) = pair.next_of_inner() {
            let message = of_inner.decode(encode(&message)).expect("ours");
            pair.front.receive(pair.at_front, message, pair.now).expect("applied");
            quiet = false;
        }
        if quiet {
            return;
        }
    }
}

criterion_group!(benches, batch, whole);
criterion_main!(benches);
