//! What only a relay with pipes can get wrong: whose bytes are in one, who holds one, and when there is none.

use std::time::Duration;

use ledger::{Direction, LegName, Observation, Reason, Role};
use runtime::{CloseMode, CloseOrder, Mode, PipePool, Splicing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::rig::{
    self, Bounds, PATIENCE, Process, bytes, pattern, read_all, reason, reset, until, within, write_all,
};

const PIPE: u64 = 64 * 1024;

fn splicing(pool: &PipePool, after: usize) -> Process {
    Process::moving(rig::spliced(pool, after), Role::Front)
}

/// A seeded sequence (splitmix64): the same test every time, without a pattern that buffers would like.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// Mostly small, at times larger than every buffer on the way.
    fn chunk(&mut self) -> usize {
        let magnitude = self.below(20);
        self.below(1 << magnitude) as usize + 1
    }

    async fn dawdle(&mut self) {
        match self.below(16) {
            0 => tokio::time::sleep(Duration::from_millis(self.below(12))).await,
            1..4 => tokio::task::yield_now().await,
            _ => {}
        }
    }
}

async fn send(mut sink: OwnedWriteHalf, bytes: Vec<u8>, mut seeded: Seeded) -> OwnedWriteHalf {
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(seeded.chunk().min(rest.len()));
        sink.write_all(now).await.unwrap();
        rest = later;
        seeded.dawdle().await;
    }
    sink.shutdown().await.unwrap();
    sink
}

async fn receive(mut source: OwnedReadHalf, mut seeded: Seeded) -> Vec<u8> {
    let (mut got, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        match source.read(&mut buffer[..seeded.chunk()]).await.unwrap() {
            0 => return got,
            count => got.extend_from_slice(&buffer[..count]),
        }
        seeded.dawdle().await;
    }
}

/// whatever the chunks and pauses of both ends, both ways at once, every byte arrives in its
/// place, and at every moment what was received less what was delivered is what a pipe or buffer can hold.
#[tokio::test]
async fn counts_are_exact_at_every_moment_however_bytes_come() {
    let pool = PipePool::default();
    let modes = [Mode::Copy, rig::spliced(&pool, 0), rig::spliced(&pool, Splicing::AFTER)];
    for (seed, mode) in (0_u64..12).map(|seed| (seed, modes[seed as usize % 3].clone())) {
        let process = Process::moving(mode, Role::Front);
        let rig = process.relay(Bounds::default()).await;
        let (up, down) = (pattern(3_000_001 + seed as usize), pattern(1_777_777));
        let (client, target) = (rig.client.into_split(), rig.target.into_split());
        let seeded = |of: u64| Seeded(seed * 4 + of);
        let traffic = rig.traffic;
        let watch = async {
            loop {
                for (from, to) in [(LegName::Client, LegName::Target), (LegName::Target, LegName::Client)] {
                    let (read, written) =
                        (traffic.bytes(from, Direction::In), traffic.bytes(to, Direction::Out));
                    assert!(written <= read && read <= written + PIPE, "seed {seed}: {read} {written}");
                }
                tokio::task::yield_now().await;
            }
        };
        let both = async {
            tokio::join!(
                send(client.1, up.clone(), seeded(0)),
                receive(target.0, seeded(1)),
                send(target.1, down.clone(), seeded(2)),
                receive(client.0, seeded(3)),
            )
        };
        let (_to_client, got_up, _to_target, got_down) = tokio::select! {
            all = within(both) => all,
            () = watch => unreachable!("it watches for ever"),
        };
        assert!(got_up == up && got_down == down, "seed {seed}: bytes lost, doubled or moved");
        within(rig.connection).await.unwrap();
        let half = process.manager.ledger().half(rig.key).unwrap();
        for (leg, direction, sent) in [
            (LegName::Client, Direction::In, &up),
            (LegName::Target, Direction::Out, &up),
            (LegName::Target, Direction::In, &down),
            (LegName::Client, Direction::Out, &down),
        ] {
            assert_eq!(bytes(&half, leg, direction), sent.len() as u64, "seed {seed}: {leg:?} {direction:?}");
        }
        assert_eq!(half.end.as_ref().unwrap().value.undelivered, 0);
    }
    assert!(pool.lent() == 0 && pool.idle() > 0);
}

/// relays that are idle hold no pipe, however much went through them: a few serve them all.
#[tokio::test]
async fn idle_relays_hold_no_pipe() {
    let pool = PipePool::default();
    let process = splicing(&pool, 0);
    let sent = pattern(300_000);
    let mut rigs = Vec::new();
    for _ in 0..20 {
        let mut rig = process.relay(Bounds::default()).await;
        let mut got = vec![0; sent.len()];
        let (_, received) =
            within(async { tokio::join!(rig.client.write_all(&sent), rig.target.read_exact(&mut got)) })
                .await;
        received.unwrap();
        assert!(got == sent);
        until("the pipe to be given back", || pool.lent() == 0).await;
        rigs.push(rig);
    }
    assert_eq!((pool.lent(), pool.idle()), (0, 1), "one at a time: one pipe");
    for rig in &mut rigs {
        write_all(&mut rig.target, b"still there").await;
        let mut got = [0; 11];
        within(rig.client.read_exact(&mut got)).await.unwrap();
        assert_eq!(&got, b"still there");
    }
    assert_eq!(pool.lent(), 0);
}

/// A short exchange never takes a pipe: new connections do not pay for bulk.
#[tokio::test]
async fn short_exchanges_take_no_pipe() {
    let pool = PipePool::default();
    let process = splicing(&pool, Splicing::AFTER);
    let mut rig = process.relay(Bounds::default()).await;
    for _ in 0..100 {
        write_all(&mut rig.client, &pattern(10_000)).await;
        within(rig.target.read_exact(&mut [0; 10_000])).await.unwrap();
    }
    assert_eq!((pool.lent(), pool.idle()), (0, 0), "a megabyte in small pieces");
}

/// Fills every buffer on the way, until the relay holds bytes that the reader does not take; how many bytes.
async fn clog(writer: &mut TcpStream, pool: &PipePool) -> Vec<u8> {
    let (chunk, mut sent) = (pattern(65_536), Vec::new());
    while let Ok(count) = tokio::time::timeout(Duration::from_millis(200), writer.write(&chunk)).await {
        sent.extend_from_slice(&chunk[..count.unwrap()]);
    }
    assert_eq!(pool.lent(), 1, "bytes wait in a pipe");
    sent
}

/// A connection's bytes are never seen by another: a pipe with bytes in it is not lent again, whichever way
/// its connection ended.
#[tokio::test]
async fn a_pipe_with_bytes_in_it_is_never_lent_to_another_connection() {
    let order = |mode| CloseOrder {
        observation: Observation::new(Role::Front, Reason::OperatorClosed, None, Duration::ZERO),
        mode,
    };
    for end in [Some(CloseMode::Abort), Some(CloseMode::Graceful), None] {
        let pool = PipePool::new(1);
        let process = splicing(&pool, 0);
        let bounds = || Bounds { write_stall: Duration::from_millis(900), ..Bounds::default() };
        let mut secret = process.relay(bounds()).await;
        clog(&mut secret.client, &pool).await;
        match end {
            Some(mode) => drop(process.manager.initiate_cleanup_once(secret.key, order(mode))),
            // As a panic does.
            None => secret.connection.abort(),
        }
        until("the pipe to be free", || pool.lent() == 0).await;
        let mut other = process.relay(Bounds::default()).await;
        let sent = pattern(200_000);
        let mut got = vec![0; sent.len()];
        within(async { tokio::join!(other.client.write_all(&sent), other.target.read_exact(&mut got)) })
            .await
            .1
            .unwrap();
        assert!(got == sent, "{end:?}: bytes of another connection");
        assert_eq!(within(async { pool.idle() }).await, 1, "{end:?}");
    }
}

/// a FIN behind bytes that wait in a pipe is passed on after them.
#[tokio::test]
async fn a_half_close_waits_for_what_is_in_the_pipe() {
    let pool = PipePool::default();
    let process = splicing(&pool, 0);
    let mut rig = process.relay(Bounds::default()).await;
    let sent = clog(&mut rig.client, &pool).await;
    rig.client.shutdown().await.unwrap();
    let (got, end) = read_all(&mut rig.target).await;
    assert!(end.is_ok() && got == sent, "{} of {}", got.len(), sent.len());
    write_all(&mut rig.target, b"thanks").await;
    rig.target.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.client).await.0, b"thanks");
    let half = rig.settled().await;
    assert_eq!(reason(&half), Reason::ClientClosed);
    assert_eq!(bytes(&half, LegName::Target, Direction::Out), sent.len() as u64);
}

/// a write stall with bytes in a pipe: what was received is what arrived and what is reported as
/// undelivered, to the byte. A stall of a second gives the pipe to others, which changes nothing.
#[tokio::test]
async fn what_a_stalled_reader_did_not_get_is_reported_to_the_byte() {
    for (write_stall, pipes_at_the_end) in [(800, 1), (2_500, 0)] {
        let pool = PipePool::default();
        let process = splicing(&pool, 0);
        let bounds = Bounds { write_stall: Duration::from_millis(write_stall), ..Bounds::default() };
        let mut rig = process.relay(bounds).await;
        clog(&mut rig.target, &pool).await;
        until("the pipe's place", || pool.lent() == pipes_at_the_end).await;
        within(rig.connection).await.unwrap();
        let (got, end) = read_all(&mut rig.client).await;
        assert!(end.is_err(), "a reset");
        let half = process.manager.ledger().half(rig.key).unwrap();
        assert_eq!(reason(&half), Reason::WriteStallTimeout);
        let read = bytes(&half, LegName::Target, Direction::In);
        let undelivered = half.end.as_ref().unwrap().value.undelivered;
        assert_eq!(got.len() as u64 + undelivered, read, "{write_stall} ms");
        assert!(undelivered >= read - bytes(&half, LegName::Client, Direction::Out));
        assert_eq!(pool.lent(), 0);
    }
}

/// with no pipe to be had, relays copy; with one for two, one of them does.
#[tokio::test]
async fn without_a_pipe_a_relay_copies() {
    for pipes in [0, 1] {
        let pool = PipePool::new(pipes);
        let process = splicing(&pool, 0);
        let mut clogged = process.relay(Bounds::default()).await;
        if pipes > 0 {
            clog(&mut clogged.client, &pool).await;
        }
        let mut rig = process.relay(Bounds::default()).await;
        let sent = pattern(5 << 20);
        let mut got = vec![0; sent.len()];
        let both = async { tokio::join!(rig.client.write_all(&sent), rig.target.read_exact(&mut got)) };
        within(both).await.1.unwrap();
        assert!(got == sent);
        assert_eq!(rig.traffic.bytes(LegName::Target, Direction::Out), sent.len() as u64);
        for socket in [clogged.target, clogged.client, rig.client] {
            reset(socket);
        }
        within(clogged.connection).await.unwrap();
        within(rig.connection).await.unwrap();
        until("the end", || pool.lent() == 0).await;
    }
}

/// a process that may open nothing more copies, and splices again once it may. In a process of its own:
/// the limit is the process's.
#[test]
fn a_process_without_descriptors_copies() {
    const ALONE: &str = "SPLICING_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "splicing::a_process_without_descriptors_copies";
        let test = std::env::current_exe().unwrap();
        let ran = std::process::Command::new(test).args(["--exact", name]).env(ALONE, "1").output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = PipePool::default();
        let process = splicing(&pool, 0);
        let mut rig = process.relay(Bounds::default()).await;
        let sent = pattern(1 << 20);
        let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        for (descriptors, pipes) in [(Some(3), 0), (hard, 1)] {
            let limit = rustix::process::Rlimit { current: descriptors, maximum: hard };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
            let mut got = vec![0; sent.len()];
            let both = async { tokio::join!(rig.client.write_all(&sent), rig.target.read_exact(&mut got)) };
            tokio::time::timeout(PATIENCE, both).await.unwrap().1.unwrap();
            assert!(got == sent);
            until("the pipe to be given back", || pool.lent() == 0).await;
            assert_eq!(pool.idle(), pipes);
        }
    });
}
