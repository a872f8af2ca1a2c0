//! The control channel of two real control threads under short connections: how many messages travel, and what
//! the control threads cost. Then what an operator waits for, with `LIVE` (100,000) connections open.
//!
//! Not a criterion benchmark: the load is a rate. `RATE=5000 SECONDS=5 cargo bench -p control --bench channel`.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

#[allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "shared with the tests of the channel")]
#[path = "../tests/channel/harness.rs"]
mod harness;
#[allow(dead_code, unreachable_pub, reason = "shared with the ledger's benchmarks")]
#[path = "../../ledger/benches/pair/mod.rs"]
mod pair;

use std::time::{Duration, Instant};

use ledger::{Attempt, ConnectionId, HalfKey, Role};

use harness::{Front, Inner, Place, ready};
use pair::{Facts, close, open_front_to, open_inner_of};

/// Connections per second.
const RATES: [u64; 3] = [10, 200, 2_000];

fn main() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rates = number("RATE").map_or(RATES.to_vec(), |rate| vec![rate]);
    let seconds = number("SECONDS").unwrap_or(3);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    println!(
        "| connections/s | batches/s to each side | halves/batch | control threads, CPU % of one core | µs/connection | wake-ups/s |"
    );
    println!("|---:|---:|---:|---:|---:|---:|");
    let place = Place::new();
    let (front, inner) = runtime.block_on(async {
        let front = Front::start(&place);
        let inner = Inner::start(&place, front.address);
        ready(&front, &inner).await;
        (front, inner)
    });
    let mut next = 0;
    for rate in rates {
        measure(&front, &inner, rate, Duration::from_secs(seconds), &mut next);
    }
    runtime.block_on(async {
        operator(&front, &inner, number("LIVE").unwrap_or(100_000), &mut next).await;
        inner.leave().await;
        front.leave().await;
    });
}

fn measure(front: &Front, inner: &Inner, rate: u64, time: Duration, next: &mut u64) {
    let told = || {
        let of = |node: &harness::Node| {
            let peers = node.ledger.peer_status(control::Process::now(node));
            peers.iter().fold((0, 0), |(b, a), peer| (b + peer.batches, a + peer.applied))
        };
        let ((b1, a1), (b2, a2)) = (of(&front.node), of(&inner.node));
        (b1 + b2, a1 + a2)
    };
    let facts = Facts::new();
    let (before, cpu, started) = (told(), control_threads(), Instant::now());
    let from = *next;
    while started.elapsed() < time {
        let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
        while *next - from < due {
            *next += 1;
            one(front, inner, *next, &facts);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    let (after, spent, elapsed) = (told(), control_threads(), started.elapsed().as_secs_f64());
    let connections = (*next - from).max(1) as f64;
    let batches = (after.0 - before.0) as f64;
    let ticks = (spent.0 - cpu.0) as f64 / 1e9;
    // A half travels at most once per batch; positions count every change.
    println!(
        "| {rate} | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} |",
        batches / 2.0 / elapsed,
        connections * 2.0 / batches.max(1.0),
        ticks / elapsed * 100.0,
        ticks * 1e6 / connections,
        (spent.1 - cpu.1) as f64 / elapsed,
    );
    front.node.ledger.take_settled(usize::MAX);
    inner.node.ledger.take_settled(usize::MAX);
}

/// What an operator waits for: each call's median and longest of several.
async fn operator(front: &Front, inner: &Inner, live: u64, next: &mut u64) {
    let facts = Facts::new();
    for _ in 0..live {
        *next += 1;
        open(front, inner, *next, &facts);
        if next.is_multiple_of(1_000) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let calm = |node: &harness::Node| {
        node.ledger.peer_status(control::Process::now(node)).iter().all(|peer| peer.lag == 0)
    };
    harness::until("the other side", || calm(&front.node) && calm(&inner.node), String::new).await;
    println!("\n{live} live connections, asked over gRPC; milliseconds");
    println!("| call | smartproxy, median | longest | networkproxy, median | longest |");
    println!("|---|---:|---:|---:|---:|");
    let mut rows = [const { Vec::new() }; CALLS.len()];
    for address in [front.address, inner.address] {
        let admin = control::api::connect(&address.to_string(), None, Duration::from_secs(5)).await;
        let mut client = admin.expect("it listens").connections();
        for (row, (_, call)) in rows.iter_mut().zip(CALLS) {
            let mut took = Vec::new();
            for _ in 0..5 {
                let started = Instant::now();
                ask(&mut client, call).await;
                took.push(started.elapsed());
            }
            took.sort_unstable();
            row.extend([took[2], took[4]].map(|took| format!("{:.1}", took.as_secs_f64() * 1e3)));
        }
    }
    for ((name, _), row) in CALLS.iter().zip(rows) {
        println!("| {name} | {} |", row.join(" | "));
    }
}

#[derive(Clone, Copy)]
enum Call {
    Page(u32),
    Filtered,
    Everything,
    Audit,
    Counters,
}

const CALLS: [(&str, Call); 6] = [
    ("ListConnections, first page of 100", Call::Page(100)),
    ("ListConnections, first page of 1,000", Call::Page(1_000)),
    ("ListConnections, first page of 100 of one route", Call::Filtered),
    ("ListConnections, every page of 1,000", Call::Everything),
    ("Audit", Call::Audit),
    ("GetCounters", Call::Counters),
];

async fn ask(client: &mut control::api::Connections, call: Call) {
    use control::api::messages as wire;
    let page = |page_size| wire::ListConnectionsRequest { page_size, ..Default::default() };
    match call {
        Call::Page(size) => drop(client.list_connections(page(size)).await.expect("a page")),
        Call::Filtered => {
            let filter = Some(wire::ConnectionFilter { route: "app".to_owned(), ..Default::default() });
            let request = wire::ListConnectionsRequest { filter, ..Default::default() };
            drop(client.list_connections(request).await.expect("a page"));
        }
        Call::Everything => {
            let mut request = page(1_000);
            loop {
                let answer = client.list_connections(request.clone()).await.expect("a page").into_inner();
                if answer.next_page_token.is_empty() {
                    return;
                }
                request.page_token = answer.next_page_token;
            }
        }
        Call::Audit => {
            let answer = client.audit(wire::AuditRequest::default()).await.expect("an audit").into_inner();
            assert!(answer.balanced, "{answer:#?}");
        }
        Call::Counters => drop(client.get_counters(wire::GetCountersRequest {}).await.expect("counters")),
    }
}

fn one(front: &Front, inner: &Inner, number: u64, facts: &Facts) {
    let (outer, within) = open(front, inner, number, facts);
    let now = control::Process::now(&*front.node);
    close(&front.node.ledger, outer, Role::Front, now);
    close(&inner.node.ledger, within, Role::Inner, now);
}

fn open(front: &Front, inner: &Inner, number: u64, facts: &Facts) -> (HalfKey, HalfKey) {
    let now = control::Process::now(&*front.node);
    let id = ConnectionId(0x0192_f7a1_b2c3_7d4e_8f94_0000_0000_0000 + u128::from(number));
    let (at_front, at_inner) = (front.instance(), inner.instance());
    let (outer, within) = (HalfKey::front(id, at_front), HalfKey::inner(id, at_inner, Attempt(number)));
    open_front_to(&front.node.ledger, outer, (at_inner, within.attempt), facts, now);
    open_inner_of(&inner.node.ledger, within, at_front, facts, now);
    (outer, within)
}

/// Nanoseconds on a processor, and voluntary switches, of the threads named `control`.
fn control_threads() -> (u64, u64) {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux").flatten();
    let named = threads
        .map(|thread| thread.path())
        .filter(|path| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "control"));
    named.fold((0, 0), |(cpu, switches), path| {
        let schedstat = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        let ran = schedstat.split(' ').next().and_then(|ran| ran.parse::<u64>().ok()).unwrap_or(0);
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        (cpu + ran, switches + line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0))
    })
}
