//! The judgement of a queue, the room in hand, and both on a real listener.

use std::time::Instant;

use tokio::time::timeout;

use super::*;
use crate::accept::{AcceptErrors, accept_loop};
use crate::listener::{Bound, Sharing};

const CAPACITY: u32 = 1_024;
/// Windows of a spell.
const WINDOWS: usize = 8;

fn clock() -> Clock {
    Clock::start(Duration::from_secs(1))
}

fn intake(at_once: usize) -> Intake {
    Intake::limited(1, at_once, &clock()).remove(0)
}

/// Windows in turn: how many are taken and refused in each, and how many wait at its end.
fn judged(windows: impl IntoIterator<Item = (u32, u32, u32)>) -> Vec<bool> {
    let mut trend = Trend::default();
    let mut now = Duration::from_secs(10);
    trend.note(now, ListenQueue { waiting: 0, capacity: CAPACITY });
    let judge = |(taken, refused, waiting)| {
        assert!(!trend.is_due(now), "a window lasts");
        now += WINDOW;
        assert!(trend.is_due(now));
        (0..taken).for_each(|_| trend.popped(true));
        (0..refused).for_each(|_| trend.popped(false));
        trend.note(now, ListenQueue { waiting, capacity: CAPACITY });
        trend.is_overload(now)
    };
    windows.into_iter().map(judge).collect()
}

/// More come than are served, for two seconds: an overload. It ends with the first window in which it is not so.
#[test]
fn a_queue_that_grows_for_a_spell_is_an_overload() {
    let grows = (1..=10).map(|n| (100, 0, n * 50));
    let verdicts = judged(grows.chain([(100, 0, 500), (100, 0, 550)]));
    assert_eq!(verdicts.iter().filter(|overload| **overload).count(), 3);
    assert_eq!(verdicts.iter().position(|overload| *overload), Some(WINDOWS - 1));
    assert_eq!(verdicts[10..], [false, false], "it kept its length");
}

/// Nobody had to wait for a while, so nobody looked: what was an overload is none any more.
#[test]
fn an_overload_that_nobody_waits_in_any_more_is_over() {
    let mut trend = Trend::default();
    let mut now = Duration::from_secs(10);
    for _ in 0..=WINDOWS {
        trend.note(now, ListenQueue { waiting: CAPACITY, capacity: CAPACITY });
        now += WINDOW;
    }
    assert!(trend.is_overload(now));
    assert!(!trend.is_overload(now + WINDOW * 4));
}

/// Whom we turn away came all the same: refusing does not end the spell that it is for.
#[test]
fn the_refused_count_among_those_who_came() {
    let verdicts = judged((0..20).map(|n| (100, 200, if n < 4 { n * 100 } else { 300 })));
    assert!(verdicts[WINDOWS..].iter().all(|overload| *overload), "{verdicts:?}");
}

/// The kernel drops what a full queue cannot take: such a queue cannot grow, and is an overload all the same.
#[test]
fn a_full_queue_is_an_overload_although_it_cannot_grow() {
    let verdicts = judged([(100, 0, CAPACITY + 1); 9]);
    assert_eq!(verdicts[WINDOWS - 1..], [true, true]);
}

/// A crowd that came once gets shorter from then on, however long it takes; so does one that keeps its length.
#[test]
fn a_crowd_that_came_once_is_no_overload() {
    let verdicts = judged((0..9).map(|n| (100, 0, 1_000 - n * 100)));
    assert!(verdicts.iter().all(|overload| !overload));
    let verdicts = judged((0..40).map(|n| (100, 0, 500 + n % 2 * 20)));
    assert!(verdicts.iter().all(|overload| !overload), "clients that come again when they were served");
}

/// Room comes back in batches, and to those who wait for it.
#[tokio::test]
async fn so_many_are_in_hand_and_no_more() {
    let intake = intake(4);
    let mut taken: Vec<InHand> = (0..4).map(|_| intake.take()).collect();
    let waits = tokio::spawn({
        let intake = intake.clone();
        async move { intake.room().await }
    });
    tokio::task::yield_now().await;
    assert!(!waits.is_finished());
    let aside = taken.last_mut().unwrap();
    aside.set_aside();
    aside.set_aside();
    assert!(timeout(STALLED, waits).await.unwrap().unwrap(), "it had to wait");
    assert!(!intake.room().await, "nobody has to wait now");
    aside.take_up();
    aside.take_up();
    assert_eq!(intake.in_hand(), 4);
    drop(taken);
    assert_eq!(intake.in_hand(), 0);
}

/// What does not get on at all waits for somebody else, and holds nobody up: at first for a moment, then not at all.
#[tokio::test]
async fn who_gets_no_answer_at_all_holds_nobody_up() {
    let intake = intake(2);
    let mut taken = vec![intake.take(), intake.take()];
    let start = Instant::now();
    assert!(intake.room().await);
    assert!(start.elapsed() >= STALLED / 2, "{:?}", start.elapsed());
    let start = Instant::now();
    for _ in 0..50 {
        taken.push(intake.take());
        assert!(intake.room().await);
    }
    assert!(start.elapsed() < STALLED * 10, "{:?}", start.elapsed());
}

/// They wait for the same networkproxy: that it answers another worker's clients is a sign of life.
#[tokio::test]
async fn an_answer_to_another_worker_is_a_sign_of_life() {
    let [one, other] = <[Intake; 2]>::try_from(Intake::limited(2, 2, &clock())).unwrap();
    let _taken = [one.take(), one.take()];
    let start = Instant::now();
    while start.elapsed() < STALLED * 3 {
        drop(other.take());
        let waited = timeout(STALLED / 4, one.room()).await;
        assert!(waited.is_err(), "its clients are not forgotten, only late");
    }
    assert!(timeout(STALLED * 3, one.room()).await.unwrap());
}

/// A worker that gets on with its clients at a rate of its own.
struct Slow {
    address: SocketAddr,
    looping: tokio::task::JoinHandle<()>,
    served: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

fn slow_worker(longest: Option<Duration>) -> Slow {
    let bound = Bound::bind("127.0.0.1:0".parse().unwrap(), Sharing::Exclusive, None).unwrap().unwrap();
    let (address, listener) = (bound.address(), bound.listen().unwrap());
    let clock = clock();
    let intake = Intake::limited(1, 4, &clock).remove(0);
    let (served, refused) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (serves, refuses) = (Arc::clone(&served), Arc::clone(&refused));
    let (hand, mut in_hand) = tokio::sync::mpsc::unbounded_channel::<(TcpStream, InHand)>();
    tokio::spawn(async move {
        while let Some(one) = in_hand.recv().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
            drop(one);
            serves.fetch_add(1, Relaxed);
        }
    });
    let looping = tokio::spawn(async move {
        let turn_away = move |_, _, waited| {
            assert!(waited > longest.unwrap());
            refuses.fetch_add(1, Relaxed);
        };
        let (queue, errors) = (intake.from_queue(longest, turn_away), AcceptErrors::default());
        let on_accept = |socket, _| drop(hand.send((socket, intake.take())));
        accept_loop(listener, Some(queue), &clock, &errors, std::future::pending(), on_accept).await;
    });
    Slow { address, looping, served, refused }
}

/// A crowd of 300 comes at once and waits for one and a half seconds: each is served, none turned away.
#[tokio::test]
async fn a_crowd_is_served_to_the_last() {
    let slow = slow_worker(Some(Duration::from_millis(20)));
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(TcpStream::connect(slow.address).await.unwrap());
    }
    let all = async {
        while slow.served.load(Relaxed) < clients.len() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), all).await.unwrap();
    assert_eq!(slow.refused.load(Relaxed), 0);
    slow.looping.abort();
}

/// For as long as more come than are served, those who waited too long are turned away, and others are served
/// meanwhile; without a limit nobody is turned away.
#[tokio::test]
async fn a_flood_is_refused_in_part() {
    for longest in [Some(Duration::from_millis(20)), None] {
        let slow = slow_worker(longest);
        let (start, mut clients) = (Instant::now(), std::collections::VecDeque::new());
        while start.elapsed() < Duration::from_secs(4) && slow.refused.load(Relaxed) < 30 {
            clients.push_back(TcpStream::connect(slow.address).await.unwrap());
            if clients.len() > 1_500 {
                clients.pop_front();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(slow.refused.load(Relaxed) >= 30, longest.is_some());
        assert!(slow.served.load(Relaxed) > 100, "{}", slow.served.load(Relaxed));
        slow.looping.abort();
    }
}
