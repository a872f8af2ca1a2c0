//! Owns the load that crashes, drains and chaos are let loose on: one pair with every kind of route, and its clients.
//!
//! The targets say how each of their connections ended, so that a truncated stream that looks complete is seen. Never
//! decides what an ending means: that is the test's business. Invariant: every client that a load starts is accounted
//! for when the load is finished.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::client::tls::Tls;
use e2e::client::{Ending, connect, echo};
use e2e::setup::HEARTBEAT;
use e2e::target::Target;
use e2e::target::http::HttpTarget;
use e2e::wait::{SOON, until};
use e2e::{Address, Pair, Route, Setup, Which};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

/// How long a client that is held may wait in these tests.
pub(crate) const HOLD: &str = "20s";

/// A pair with one route of each kind.
pub(crate) struct Stage {
    pub(crate) pair: Pair,
    /// Behind passthrough (`pass.test`). Echoes the hello as well: what follows it need not be TLS.
    pub(crate) pass: Watched,
    /// Behind plain TCP.
    pub(crate) plain: Watched,
    /// Behind TLS that networkproxy ends (`app.test`).
    pub(crate) opaque: Watched,
    /// Behind HTTP (`other.test`, and in clear text).
    pub(crate) web: HttpTarget,
}

impl Stage {
    pub(crate) async fn start(change: impl FnOnce(Setup) -> Setup) -> Result<Self> {
        let address = Address::next();
        let pass = Watched::start(address).await?;
        let plain = Watched::start(address).await?;
        let opaque = Watched::start(address).await?;
        let web = HttpTarget::start(address).await?;
        let routes = [
            Route::passthrough("pass", pass.target.address()).domain("pass.test"),
            Route::tcp("plain", plain.target.address()),
            Route::terminate_tcp("opaque", opaque.target.address()).domain("app.test"),
            Route::terminate("web", web.address()).domain("other.test"),
            Route::http("clear", web.address()),
        ];
        let pair = Pair::start(address, change(Setup::new(routes).timeout("hold", HOLD))).await?;
        Ok(Self { pair, pass, plain, opaque, web })
    }

    /// A client that smartproxy relays without ending its TLS.
    pub(crate) async fn pass_client(&self) -> Result<TcpStream> {
        pass_client(self.pair.tls()).await
    }

    /// A plain TCP client.
    pub(crate) async fn plain_client(&self) -> Result<TcpStream> {
        let mut client = connect(self.pair.tcp()).await?;
        echo(&mut client, b"first").await?;
        Ok(client)
    }

    /// A client whose TLS networkproxy ends.
    pub(crate) async fn opaque_client(&self) -> Result<TlsStream<TcpStream>> {
        opaque_client(self.pair.tls()).await
    }

    /// The books balance two heartbeats after the processes found each other again, and then come to rest.
    pub(crate) async fn balances_soon(&self) -> Result<()> {
        let request = json!({ "wait": format!("{}s", (HEARTBEAT * 2).as_secs_f64()) });
        for which in self.pair.running() {
            let audit = self.pair.connections(which, "Audit", &request).await?;
            ensure!(audit["balanced"] == true, "{which:?} is not balanced: {audit:#}");
        }
        for which in self.pair.running() {
            self.pair.settled_and_balanced(which, &e2e::Expected::nothing()).await?;
        }
        Ok(())
    }
}

/// As [`Stage::pass_client`], by address.
pub(crate) async fn pass_client(to: SocketAddr) -> Result<TcpStream> {
    let mut client = connect(to).await?;
    echo(&mut client, &Tls::to("pass.test").hello()?).await?;
    Ok(client)
}

/// As [`Stage::opaque_client`], by address.
pub(crate) async fn opaque_client(to: SocketAddr) -> Result<TlsStream<TcpStream>> {
    let mut client = Tls::to("app.test").connect(to).await?;
    echo(&mut client, b"first").await?;
    Ok(client)
}

/// A target that echoes, and counts how its connections ended.
pub(crate) struct Watched {
    pub(crate) target: Target,
    ends: Arc<Ends>,
}

#[derive(Default)]
struct Ends {
    fin: AtomicU64,
    reset: AtomicU64,
}

impl Watched {
    async fn start(address: Address) -> Result<Self> {
        let ends = Arc::new(Ends::default());
        let counted = Arc::clone(&ends);
        let target = Target::each(address, move |socket| {
            let ends = Arc::clone(&counted);
            async move {
                let count = match echo_to_the_end(socket).await {
                    Ending::Fin => &ends.fin,
                    Ending::Reset => &ends.reset,
                };
                count.fetch_add(1, Ordering::Relaxed);
            }
        })
        .await?;
        Ok(Self { target, ends })
    }

    /// How many of its connections ended like this.
    pub(crate) fn ended(&self, ending: Ending) -> u64 {
        match ending {
            Ending::Fin => self.ends.fin.load(Ordering::Relaxed),
            Ending::Reset => self.ends.reset.load(Ordering::Relaxed),
        }
    }

    /// Waits until `count` of its connections ended with a reset, and expects that none ended otherwise.
    pub(crate) async fn all_reset(&self, count: u64) -> Result<()> {
        until("each target's connection ended", SOON, async || {
            (self.ended(Ending::Reset) + self.ended(Ending::Fin) >= count).then_some(())
        })
        .await?;
        ensure!(self.ended(Ending::Fin) == 0, "{} targets saw an orderly end", self.ended(Ending::Fin));
        Ok(())
    }
}

async fn echo_to_the_end(mut socket: TcpStream) -> Ending {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let count = match socket.read(&mut bytes).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(_) => return Ending::Reset,
        };
        if socket.write_all(&bytes[..count]).await.is_err() {
            return Ending::Reset;
        }
    }
    drop(socket.shutdown().await);
    Ending::Fin
}

/// Connections that carry data all the time.
pub(crate) struct Steady {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<u64>>,
}

impl Steady {
    /// Echoes over each of `streams` until told to stop.
    pub(crate) fn start(streams: Vec<TcpStream>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for mut stream in streams {
            let stopped = stopped.clone();
            tasks.spawn(async move {
                let mut beat = tokio::time::interval(Duration::from_millis(20));
                beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                let mut rounds = 0_u64;
                while !*stopped.borrow() {
                    let piece: Vec<u8> =
                        (0..64).flat_map(|word: u64| (rounds ^ word).to_be_bytes()).collect();
                    echo(&mut stream, &piece).await.with_context(|| format!("round {rounds}"))?;
                    rounds += 1;
                    beat.tick().await;
                }
                Ok(rounds)
            });
        }
        Self { stop, tasks }
    }

    /// Stops, and expects that none of them ever noticed anything. Returns the fewest rounds that one made.
    pub(crate) async fn undisturbed(mut self) -> Result<u64> {
        self.stop.send_replace(true);
        let mut fewest = u64::MAX;
        while let Some(done) = self.tasks.join_next().await {
            fewest = fewest.min(done?.context("a connection that had to go on")?);
        }
        Ok(fewest)
    }
}

/// New TLS clients, one after the other, whatever happens; each says a word and leaves.
pub(crate) struct Arrivals {
    stop: watch::Sender<bool>,
    tasks: tokio::task::JoinHandle<Vec<(SocketAddr, Result<()>)>>,
}

impl Arrivals {
    pub(crate) fn start(to: SocketAddr, every: Duration) -> Self {
        let (stop, stopped) = watch::channel(false);
        let tasks = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            let mut beat = tokio::time::interval(every);
            while !*stopped.borrow() {
                beat.tick().await;
                clients.spawn(async move {
                    let stream = connect(to).await.expect("smartproxy accepts");
                    let from = stream.local_addr().expect("a connected socket has an address");
                    let said = async {
                        let mut client =
                            Tls::to("app.test").over_within(stream, Duration::from_secs(25)).await?;
                        echo(&mut client, b"a word").await
                    };
                    (from, said.await)
                });
            }
            clients.join_all().await
        });
        Self { stop, tasks }
    }

    /// Stops, and expects that each client was served, but for those that networkproxy had answered before it was killed.
    /// Returns how many were served and how many were lost after an answer.
    pub(crate) async fn none_refused(self, pair: &Pair) -> Result<(usize, usize)> {
        self.stop.send_replace(true);
        let (mut served, mut lost) = (0, 0);
        for (from, said) in self.tasks.await? {
            let Err(error) = said else {
                served += 1;
                continue;
            };
            lost += 1;
            let record = pair.settled(Which::Smartproxy, from).await?;
            ensure!(
                was_answered(&record) && record["termination"]["reason"] == "REASON_PEER_LOST",
                "a client without an answer was not served: {error:#}; {record:#}"
            );
        }
        Ok((served, lost))
    }
}

/// Stops a process, and waits until none of its threads runs any more: a signal is sent before it is obeyed.
pub(crate) async fn freeze(pair: &Pair, which: Which) -> Result<()> {
    pair.stop(which)?;
    let tasks = format!("/proc/{}/task", pair.process(which).pid()?);
    until(&format!("{which:?} stands still"), SOON, async || {
        let mut threads = std::fs::read_dir(&tasks).ok()?.map_while(std::result::Result::ok);
        // proc_pid_stat(5): the state follows the name, which ends with the last parenthesis.
        let stopped = |stat: &str| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        threads
            .all(|thread| {
                std::fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| stopped(&stat))
            })
            .then_some(())
    })
    .await
}

/// The client got at least a byte before its end.
pub(crate) fn was_answered(record: &Value) -> bool {
    record["bytes_to_client"].as_u64().is_some_and(|bytes| bytes > 0)
}
