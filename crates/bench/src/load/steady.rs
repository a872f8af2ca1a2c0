//! Owns the open loops: W8's requests and arrivals of connections at a fixed rate, whatever the answers do.
//!
//! Never waits for an answer before the next unit is due, and counts latency from the moment it was due: a stall shows
//! in every unit that it delayed. The clock is a timerfd (timerfd_create(2)): tokio's rounds to a millisecond.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::tls::{Opener, request};
use super::{LoadArguments, Shared};
use crate::outcome::Outcome;

/// How long what is late at the end may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Fires at a fixed rate.
struct Metronome {
    timer: Receiver,
    start: Instant,
    period: Duration,
    fired: u64,
}

impl Metronome {
    fn start(rate: f64) -> Result<Self> {
        // Several at once where a millisecond has several: one wake-up each would be the generator's whole time.
        let period = Duration::from_secs_f64(1.0 / rate);
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let tick = period.max(Duration::from_millis(1));
        let spec = Timespec { tv_sec: tick.as_secs().cast_signed(), tv_nsec: tick.subsec_nanos().into() };
        let spec = Itimerspec { it_interval: spec, it_value: spec };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec)?;
        // Not a pipe, but what tokio does with one fits: wait until it is readable, read.
        let timer = Receiver::from_owned_fd_unchecked(timer)?;
        Ok(Self { timer, start: Instant::now(), period, fired: 0 })
    }

    /// The moments that have become due since the last call, at least one.
    async fn due(&mut self) -> Result<Vec<Instant>> {
        loop {
            self.timer.read_exact(&mut [0; 8]).await?;
            let until = (self.start.elapsed().as_secs_f64() / self.period.as_secs_f64()) as u64;
            let due = (self.fired + 1..=until).map(|n| self.start + self.period.mul_f64(n as f64)).collect();
            self.fired = self.fired.max(until);
            if until > 0 {
                return Ok(due);
            }
        }
    }
}

/// W8: requests in turn over connections that stay.
pub(super) async fn requests(arguments: &Rc<LoadArguments>, shared: &Rc<Shared>) -> Result<Outcome> {
    let opener = Rc::new(Opener::new(arguments)?);
    let bytes: Rc<[u8]> = request(arguments).into();
    let patience = Duration::from_secs_f64(arguments.patience);
    let late = Rc::new(RefCell::new(0));
    let mut senders = Vec::new();
    let mut tasks = JoinSet::new();
    for _ in 0..arguments.connections {
        let (sender, mut due) = mpsc::unbounded_channel::<Instant>();
        senders.push(sender);
        let (mut connection, _) = opener.open().await?;
        connection.get(&bytes, |_| ()).await?;
        let (opener, bytes, counts, late) = (opener.clone(), bytes.clone(), shared.clone(), late.clone());
        tasks.spawn_local(async move {
            while let Some(moment) = due.recv().await {
                if moment.elapsed() > patience {
                    *late.borrow_mut() += 1;
                    continue;
                }
                match connection.get(&bytes, |_| ()).await {
                    Ok(_) => {
                        counts.did(1.0);
                        counts.took(moment);
                    }
                    Err(error) => {
                        counts.lose(&error);
                        match opener.open().await {
                            Ok((again, _)) => connection = again,
                            Err(_) => return,
                        }
                    }
                }
            }
        });
    }
    sleep(Duration::from_secs_f64(arguments.warm_up)).await;
    let window = shared.open(&arguments.watch)?;
    let mut metronome = Metronome::start(arguments.rate)?;
    let end = Instant::now() + Duration::from_secs_f64(arguments.seconds);
    let mut offered = 0;
    while Instant::now() < end {
        for moment in metronome.due().await? {
            let turn = offered as usize % senders.len();
            offered += 1;
            if senders[turn].send(moment).is_err() {
                shared.lose(&Error::msg("a connection could not be opened again"));
            }
        }
    }
    drop(senders);
    let finished = timeout(PATIENCE, async { while tasks.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        shared.lose(&Error::msg(format!("{} connections did not answer within {PATIENCE:?}", tasks.len())));
    }
    let outcome = shared.close(window)?;
    let late = late.take();
    let refusals = (late > 0).then(|| ("the client lost patience".to_owned(), late)).into_iter().collect();
    Ok(Outcome { offered, refusals, ..shared.add_to(outcome) })
}

/// Connections as they become due, one request each, with a client's patience. A refusal is an answer here, not a loss.
pub(super) async fn arrivals(arguments: &Rc<LoadArguments>, shared: &Rc<Shared>) -> Result<Outcome> {
    let opener = Rc::new(Opener::new(arguments)?);
    let bytes: Rc<[u8]> = request(arguments).into();
    let patience = Duration::from_secs_f64(arguments.patience);
    let refusals = Rc::new(RefCell::new(BTreeMap::<String, u64>::new()));
    let mut clients = JoinSet::new();
    let mut window = None;
    let mut metronome = Metronome::start(arguments.rate)?;
    let begin = Instant::now() + Duration::from_secs_f64(arguments.warm_up);
    let end = begin + Duration::from_secs_f64(arguments.seconds);
    let mut offered = 0;
    while Instant::now() < end {
        if window.is_none() && Instant::now() >= begin {
            window = Some(shared.open(&arguments.watch)?);
            offered = 0;
            refusals.borrow_mut().clear();
        }
        for moment in metronome.due().await? {
            offered += 1;
            // What a generator cannot hold is not offered: its own limit would be measured.
            if clients.len() >= arguments.connections {
                *refusals.borrow_mut().entry("not offered: the generator is full".to_owned()).or_default() +=
                    1;
                continue;
            }
            let (opener, bytes, counts, refusals) =
                (opener.clone(), bytes.clone(), shared.clone(), refusals.clone());
            clients.spawn_local(async move {
                let story = async {
                    let (mut connection, kind) = opener.open().await?;
                    connection.get(&bytes, |_| ()).await?;
                    counts.shook_hands(kind);
                    connection.close().await
                };
                let left = patience.saturating_sub(moment.elapsed());
                let refusal = match timeout(left, story).await {
                    Ok(Ok(())) => {
                        counts.did(1.0);
                        counts.took(moment);
                        return;
                    }
                    Ok(Err(error)) => format!("{error:#}"),
                    Err(_) => "the client lost patience".to_owned(),
                };
                *refusals.borrow_mut().entry(refusal).or_default() += 1;
            });
        }
        while clients.try_join_next().is_some() {}
    }
    let outcome = shared.close(window.context("the window was never opened")?)?;
    while clients.join_next().await.is_some() {}
    let refusals = refusals.take();
    Ok(Outcome { offered, refusals, ..shared.add_to(outcome) })
}
