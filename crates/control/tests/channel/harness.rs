//! The two processes: real ledgers, real control threads, no data path.
//!
//! *Owns* starting, killing and restarting them, and what it means that they agree. *Never* reaches into the
//! crate: everything goes through its public API.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use config::InnerTable;
use control::admin::Endpoint;
use control::client::{Upstream, UpstreamSettings};
use control::server::Peers;
use control::thread::ControlThread;
use control::{
    Access, CloseRequest, Directory, InnerTerms, Plaintext, Process, ProcessPhase, ProcessStatus, Reading,
    Time, TokenFile,
};
use ledger::{
    Ending, Half, HalfKey, InstanceId, Ledger, LedgerLimits, Now, Rhythm, Role, SharedLedger, Wall,
};
use tokio_util::sync::CancellationToken;

/// Fast enough for tests, slow enough for a busy machine.
pub(crate) const RHYTHM: Rhythm =
    Rhythm { heartbeat: Duration::from_millis(200), stall_after: Duration::from_millis(1_500) };
/// No wait of a test is longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

static NEXT_INSTANCE: AtomicU64 = AtomicU64::new(1);

/// A new life of a process.
pub(crate) fn instance() -> InstanceId {
    let next = NEXT_INSTANCE.fetch_add(1, Ordering::Relaxed);
    InstanceId(0x0192_f7a1_b2c3_7d4e_8f90_0000_0000_0000 + u128::from(next))
}

/// The clocks of one process.
pub(crate) fn clock() -> Time {
    let started = Instant::now();
    Time::new(move || {
        let mono = started.elapsed();
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Now { mono, active: mono, wall: Wall(wall.as_micros() as u64) }
    })
}

/// A directory with a token file, for the processes of one test.
pub(crate) struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn token_path(&self) -> PathBuf {
        self.directory.path().join("control.token")
    }

    pub(crate) fn token(&self) -> TokenFile {
        TokenFile::new(self.token_path())
    }
}

/// Either process behind its admin services.
pub(crate) struct Node {
    pub(crate) ledger: SharedLedger,
    pub(crate) time: Time,
    pub(crate) phase: Mutex<ProcessPhase>,
    pub(crate) closed: Mutex<Vec<(HalfKey, CloseRequest)>>,
    directory: Directory,
    peers: Option<Peers>,
}

impl Process for Node {
    fn ledger(&self) -> &SharedLedger {
        &self.ledger
    }

    fn now(&self) -> Now {
        self.time.now()
    }

    fn phase(&self) -> ProcessPhase {
        *self.phase.lock().unwrap()
    }

    fn status(&self) -> ProcessStatus {
        ProcessStatus {
            version: "1.2.3-test".to_owned(),
            revision: String::new(),
            started_at: Wall(1),
            suspended: Duration::ZERO,
            configuration_generation: 7,
            configuration_file: "(default)".to_owned(),
            listeners: Vec::new(),
            open_fds: 10,
            max_fds: 1_000,
            worker_threads: 2,
            alive_tasks: 3,
            pooled_pipes: 0,
            pooled_target_connections: 0,
            names_without_certificate: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn close(&self, key: HalfKey, order: CloseRequest) -> bool {
        let observation = order.observation(self.ledger.role(), Duration::from_millis(5));
        self.closed.lock().unwrap().push((key, order));
        let ending = Ending { observations: vec![observation], ..Ending::default() };
        self.ledger.close(key, ending, self.now()).is_ok()
    }

    fn directory(&self) -> &Directory {
        &self.directory
    }

    fn peers(&self) -> Option<&Peers> {
        self.peers.as_ref()
    }
}

/// A running smartproxy.
pub(crate) struct Front {
    pub(crate) node: Arc<Node>,
    pub(crate) peers: Peers,
    pub(crate) address: SocketAddr,
    life: Life,
}

/// A running networkproxy.
pub(crate) struct Inner {
    pub(crate) node: Arc<Node>,
    pub(crate) upstream: Upstream,
    pub(crate) address: SocketAddr,
    life: Life,
}

/// A control thread that can leave in order, or be killed.
struct Life {
    thread: ControlThread,
    leaving: CancellationToken,
    kill: CancellationToken,
}

impl Life {
    fn start<F: Future<Output = ()>>(work: impl FnOnce(CancellationToken) -> F + Send + 'static) -> Self {
        let (leaving, kill) = (CancellationToken::new(), CancellationToken::new());
        let (left, killed) = (leaving.clone(), kill.clone());
        let thread = control::thread::start("control", move || async move {
            tokio::select! {
                () = work(left) => {}
                () = killed.cancelled() => {}
            }
        });
        Self { thread: thread.unwrap(), leaving, kill }
    }

    async fn end(self, how: &CancellationToken) {
        how.cancel();
        bounded("the control thread's end", self.thread.ended()).await;
        self.thread.join().unwrap();
    }
}

pub(crate) fn listen(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).unwrap()
}

impl Front {
    /// A new smartproxy on a port of its own.
    pub(crate) fn start(place: &Place) -> Self {
        Self::start_on(place, ([127, 0, 0, 1], 0).into(), LedgerLimits::default(), Reading::Open)
    }

    /// A new smartproxy on a port of its own, which announces `rhythm`.
    pub(crate) fn start_in_rhythm(place: &Place, rhythm: Rhythm) -> Self {
        Self::start_as(place, ([127, 0, 0, 1], 0).into(), LedgerLimits::default(), Reading::Open, rhythm)
    }

    pub(crate) fn start_on(
        place: &Place,
        address: SocketAddr,
        limits: LedgerLimits,
        reading: Reading,
    ) -> Self {
        Self::start_as(place, address, limits, reading, RHYTHM)
    }

    fn start_as(
        place: &Place,
        address: SocketAddr,
        limits: LedgerLimits,
        reading: Reading,
        rhythm: Rhythm,
    ) -> Self {
        let token = place.token();
        token.create_if_missing().unwrap();
        let time = clock();
        let ledger = SharedLedger::new(Ledger::new(instance(), Role::Front, limits, rhythm));
        let peers = Peers::new(ledger.clone(), time.clone(), rhythm);
        peers.publish(&InnerTable { generation: 1, ..InnerTable::default() }).unwrap();
        let node = Arc::new(Node {
            ledger,
            time,
            phase: Mutex::new(ProcessPhase::Ready),
            closed: Mutex::default(),
            directory: peers.directory().clone(),
            peers: Some(peers.clone()),
        });
        let listener = listen(address);
        let address = listener.local_addr().unwrap();
        let access = Access::new(address, token, reading, Plaintext::Refused).unwrap();
        let endpoint = Endpoint { listener, process: Arc::clone(&node), access };
        let served = peers.clone();
        let life = Life::start(move |leaving| async move {
            control::server::serve(endpoint, served, leaving).await.unwrap();
        });
        Self { node, peers, address, life }
    }

    pub(crate) fn instance(&self) -> InstanceId {
        self.node.ledger.instance()
    }

    /// As SIGKILL: nothing is said.
    pub(crate) async fn kill(self) {
        let kill = self.life.kill.clone();
        self.life.end(&kill).await;
    }

    /// In order.
    pub(crate) async fn leave(self) -> Arc<Node> {
        let leaving = self.life.leaving.clone();
        self.life.end(&leaving).await;
        self.node
    }
}

/// What networkproxies of tests announce.
pub(crate) fn terms(capacity: u64) -> InnerTerms {
    InnerTerms {
        hop: ([127, 0, 0, 1], 7443).into(),
        capacity,
        tls_handshake: Duration::from_secs(10),
        largest_idle: Duration::from_secs(3600),
        half_close: Duration::from_secs(60),
    }
}

impl Inner {
    /// A new networkproxy that dials `connect`.
    pub(crate) fn start(place: &Place, connect: SocketAddr) -> Self {
        Self::start_with(place, connect, terms(1_000_000), LedgerLimits::default())
    }

    pub(crate) fn start_with(
        place: &Place,
        connect: SocketAddr,
        terms: InnerTerms,
        limits: LedgerLimits,
    ) -> Self {
        let time = clock();
        let ledger = SharedLedger::new(Ledger::new(instance(), Role::Inner, limits, RHYTHM));
        let listener = listen(([127, 0, 0, 1], 0).into());
        let address = listener.local_addr().unwrap();
        let settings = UpstreamSettings {
            connect,
            token: place.token(),
            version: "1.2.3-test".to_owned(),
            admin_address: address,
            terms,
        };
        let upstream = Upstream::new(ledger.clone(), time.clone(), settings);
        let node = Arc::new(Node {
            ledger,
            time,
            phase: Mutex::new(ProcessPhase::Ready),
            closed: Mutex::default(),
            directory: upstream.directory().clone(),
            peers: None,
        });
        let access = Access::new(address, place.token(), Reading::Open, Plaintext::Refused).unwrap();
        let endpoint = Endpoint { listener, process: Arc::clone(&node), access };
        let running = upstream.clone();
        let life = Life::start(move |leaving| async move {
            let done = CancellationToken::new();
            let (served, ()) = tokio::join!(control::admin::serve(endpoint, done.clone()), async {
                running.run(leaving).await;
                done.cancel();
            });
            served.unwrap();
        });
        Self { node, upstream, address, life }
    }

    pub(crate) fn instance(&self) -> InstanceId {
        self.node.ledger.instance()
    }

    /// As SIGKILL: nothing is said.
    pub(crate) async fn kill(self) {
        let kill = self.life.kill.clone();
        self.life.end(&kill).await;
    }

    /// In order.
    pub(crate) async fn leave(self) -> Arc<Node> {
        let leaving = self.life.leaving.clone();
        self.life.end(&leaving).await;
        self.node
    }
}

/// Waits for `future`, but not for ever.
pub(crate) async fn bounded<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Waits until `reached` says so; prints `show` when it does not come.
pub(crate) async fn until(what: &str, mut reached: impl FnMut() -> bool, show: impl Fn() -> String) {
    let started = Instant::now();
    while !reached() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}\n{}", show());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until `front` gives connections to `inner`.
pub(crate) async fn ready(front: &Front, inner: &Inner) {
    let show = || format!("{:?}, {:?}", front.peers.readiness(inner.instance()), inner.upstream.state());
    until("readiness", || front.peers.is_ready(inner.instance()), show).await;
}

/// What a half is compared by: everything that both processes should say alike.
fn essence(half: &Half) -> String {
    let settled =
        half.settlement.as_ref().map(|settlement| (&settlement.value.cause.reason, settlement.value.from));
    let end = half.end.as_ref().map(|end| &end.value.observations);
    let hop = half.hop.as_ref().map(|hop| &hop.value);
    let log: Vec<_> = half.log.iter().map(|entry| (entry.seq, entry.phase)).collect();
    format!(
        "{:?} {:?} {:?} {hop:?} {log:?} {end:?} {settled:?}",
        half.role,
        half.shown_phase(),
        half.accept.value.client
    )
}

fn table<'a>(halves: impl IntoIterator<Item = &'a Arc<Half>>) -> BTreeMap<HalfKey, String> {
    halves.into_iter().map(|half| (half.key, essence(half))).collect()
}

/// Is `mirror` all that `owner` has?
pub(crate) fn mirrors(owner: &Node, mirror: &Node) -> Result<(), String> {
    let own = table(&owner.ledger.view().own);
    let seen = mirror.ledger.view().mirrored;
    let mirrored = table(seen.iter().filter(|half| half.key.instance == owner.ledger.instance()));
    if own == mirrored {
        return Ok(());
    }
    let missing = own.iter().filter(|(key, half)| mirrored.get(*key) != Some(half)).take(3);
    let wrong: Vec<String> = missing
        .map(|(key, half)| format!("{key:?}\n  own  {half}\n  seen {:?}", mirrored.get(key)))
        .collect();
    let extra = mirrored.keys().filter(|key| !own.contains_key(key)).count();
    Err(format!("{} own, {} mirrored, {extra} extra\n{}", own.len(), mirrored.len(), wrong.join("\n")))
}

/// Waits until both agree on everything, nothing is in flight and every half is settled; then asserts that
/// no drift was seen.
pub(crate) async fn agree(nodes: &[(&Node, &Node)]) {
    let verdict = || -> Result<(), String> {
        for (a, b) in nodes {
            mirrors(a, b)?;
            mirrors(b, a)?;
            for node in [a, b] {
                let audit = node.ledger.audit(node.now());
                let settling = node.ledger.counters(node.now()).settling;
                if !audit.balanced || !audit.in_flight.is_empty() || settling > 0 {
                    return Err(format!("settling {settling}, {audit:#?}"));
                }
            }
        }
        Ok(())
    };
    until("agreement", || verdict().is_ok(), || verdict().err().unwrap_or_default()).await;
    for node in nodes.iter().flat_map(|(a, b)| [a, b]) {
        let alarms = node.ledger.audit(node.now()).alarms;
        assert_eq!(
            (alarms.drift_detected, alarms.repairs, alarms.hop_contradictions),
            (0, 0, 0),
            "{alarms:?}"
        );
    }
}
