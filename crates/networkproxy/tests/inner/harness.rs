//! A networkproxy without its process: what carries connections, with the test as smartproxy and as targets.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use config::{
    Certificates, InnerAction, InnerEntry, InnerRoute, InnerTable, InnerTimeoutOverrides, NetworkproxyConfig,
    Protocol, Surroundings, check_networkproxy,
};
use ledger::{
    Attempt, ConnectionId, Direction, End, HalfKey, InstanceId, LedgerLimits, LegName, Observation, Reason,
    Rhythm, Role, SharedLedger,
};
use networkproxy::certificates::CertificateStore;
use networkproxy::connection::{Inside, Opened, carry, open};
use networkproxy::gateway::{Gateway, HandshakeCounts, RequestCounts, Turns};
use networkproxy::hop::Admitted;
use networkproxy::pool::Pool;
use networkproxy::settings::{HttpLimits, PoolSettings, Timeouts};
use networkproxy::tls::TlsOffer;
use networkproxy::wind_down::WindDown;
use runtime::preface::{HopClass, HopHeader, HopKey, Progress, VerifiedHopHeader};
use runtime::{Bound, Clock, ConnectionManager, Resolver, Sharing};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Nothing that a test waits for may take longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const FRONT: InstanceId = InstanceId(0xf0);

/// Everything behind the hop's header.
pub(crate) struct World {
    pub(crate) inside: Inside,
    pub(crate) ledger: SharedLedger,
    pub(crate) clock: Clock,
    hop: TcpListener,
    table: Arc<InnerTable>,
    key: HopKey,
    counter: AtomicU64,
}

/// A connection as smartproxy has it: the hop's other end.
pub(crate) struct Front {
    pub(crate) hop: TcpStream,
    pub(crate) id: ConnectionId,
    pub(crate) key: HalfKey,
    task: JoinHandle<()>,
}

impl World {
    /// `settings` are lines of networkproxy.yaml.
    pub(crate) fn new(settings: &str, entries: Vec<InnerEntry>) -> Self {
        let yaml = format!("version: 1\n{settings}");
        let report = check_networkproxy("test.yaml", &yaml, &Surroundings::ideal());
        let config = report.config.unwrap_or_else(|| panic!("{:?}", report.errors));
        Self::of(&config, entries)
    }

    fn of(config: &NetworkproxyConfig, entries: Vec<InnerEntry>) -> Self {
        let clock = Clock::start(Duration::from_secs(1));
        let books =
            ledger::Ledger::new(InstanceId(0x1), Role::Inner, LedgerLimits::default(), Rhythm::default());
        let ledger = SharedLedger::new(books);
        let settings = Certificates { files: vec![], directory: None, self_signed: true };
        let settings = if config.certificates.self_signed {
            settings
        } else {
            Certificates { self_signed: false, ..settings }
        };
        let certificates = Arc::new(CertificateStore::open(settings, SystemTime::now()).0);
        let timeouts = Timeouts::new(config);
        let pool = Pool::new(PoolSettings::new(config, &timeouts, 1), clock.clone());
        let gateway = Gateway {
            manager: ConnectionManager::new(ledger.clone(), clock.clone()),
            limits: HttpLimits::new(config),
            tls: TlsOffer::new(&config.tls, &certificates).unwrap(),
            certificates,
            resolver: Resolver::from_system(),
            turns: Turns::default(),
            requests: RequestCounts::default(),
            request_durations: Arc::default(),
            handshakes: HandshakeCounts::default(),
            timeouts,
        };
        let inside = Inside {
            gateway: Arc::new(gateway),
            pool,
            wind_down: WindDown::default(),
            listener: "hop".into(),
        };
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap(), Sharing::Exclusive, None).unwrap().unwrap();
        let entries = entries.into_iter().map(|entry| (Arc::clone(entry.name()), entry)).collect();
        Self {
            inside,
            ledger,
            clock,
            hop: bound.listen().unwrap(),
            table: Arc::new(InnerTable { generation: 1, entries }),
            key: HopKey::new(7, &[7; 32]),
            counter: AtomicU64::new(0),
        }
    }

    /// A connection of `entry` whose hop header has verified.
    pub(crate) async fn open(&self, entry: &str, class: HopClass, server_name: Option<&str>) -> Front {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed) + 1;
        let id = ConnectionId(0xc000 + u128::from(counter));
        let header = HopHeader {
            client: "192.0.2.7:4711".parse().unwrap(),
            local: "192.0.2.1:443".parse().unwrap(),
            server_name: server_name.map(str::to_owned),
            connection_id: id.0,
            entry: entry.to_owned(),
            generation: 1,
            class,
        };
        let admitted = Admitted {
            header: self.verified(&header, counter),
            front: FRONT,
            table: Arc::clone(&self.table),
            read_past: Vec::new(),
        };
        let (hop, accepted) =
            tokio::join!(TcpStream::connect(self.hop.local_addr().unwrap()), self.hop.accept());
        let (socket, remote) = accepted.unwrap();
        let arrival = self.ledger.arrive();
        let inside = self.inside.clone();
        let opened = open(&inside, socket, remote, arrival, admitted).unwrap();
        let task = tokio::spawn(async move { carry(&inside, opened).await });
        let key = HalfKey::inner(id, InstanceId(0x1), Attempt(counter));
        until("the record is open", || self.ledger.half(key).is_some()).await;
        Front { hop: hop.unwrap(), id, key, task }
    }

    /// A connection whose record has just opened, and nothing more.
    pub(crate) async fn opened(&self) -> (Opened, HalfKey) {
        let header = HopHeader {
            client: "192.0.2.7:4711".parse().unwrap(),
            local: "192.0.2.1:443".parse().unwrap(),
            server_name: None,
            connection_id: 1,
            entry: "site".to_owned(),
            generation: 1,
            class: HopClass::Clear,
        };
        let header = self.verified(&header, 1);
        let table = Arc::clone(&self.table);
        let admitted = Admitted { header, front: FRONT, table, read_past: Vec::new() };
        let connecting = TcpStream::connect(self.hop.local_addr().unwrap());
        let (socket, accepted) = tokio::join!(connecting, self.hop.accept());
        drop(socket);
        let (socket, remote) = accepted.unwrap();
        let opened = open(&self.inside, socket, remote, self.ledger.arrive(), admitted).unwrap();
        (opened, HalfKey::inner(ConnectionId(1), InstanceId(0x1), Attempt(1)))
    }

    /// How large the future of a connection is.
    pub(crate) async fn size_of_life(&self) -> usize {
        size_of_val(&carry(&self.inside, self.opened().await.0))
    }

    /// A clear-text HTTP connection of the entry `site`.
    pub(crate) async fn http(&self) -> Front {
        self.open("site", HopClass::Clear, None).await
    }

    /// A TLS connection of the entry `site`, after its handshake.
    pub(crate) async fn tls(&self, alpn: &[&str]) -> (TlsStream<TcpStream>, Conn) {
        self.tls_of("site", alpn).await
    }

    pub(crate) async fn tls_of(&self, entry: &str, alpn: &[&str]) -> (TlsStream<TcpStream>, Conn) {
        let front = self.open(entry, HopClass::Tls, Some("a.example")).await;
        let name = ServerName::try_from("a.example").unwrap();
        let connect = TlsConnector::from(Arc::new(self.client_config(alpn))).connect(name, front.hop);
        (within(connect).await.unwrap(), Conn { key: front.key, task: front.task })
    }

    /// A client that trusts our certificates.
    pub(crate) fn client_config(&self, alpn: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        if let Some(key) = self.inside.gateway.certificates.choose(Some("a.example")) {
            roots.add(CertificateDer::from(key.cert[0].to_vec())).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// Waits for `conn`'s end and returns its own account of it.
    pub(crate) async fn end(&self, conn: Conn) -> Arc<End> {
        within(conn.task).await.expect("the connection's task does not panic");
        let half = self.ledger.half(conn.key).expect("closed halves are retained");
        let totals = half.traffic;
        assert_eq!(totals.requests_open(), 0, "every request is finished once");
        Arc::clone(&half.end.as_ref().expect("the task is over, so the record is closed").value)
    }

    /// As [`World::end`]: the reasons that were observed, in order.
    pub(crate) async fn reasons(&self, conn: Conn) -> Vec<Reason> {
        self.end(conn).await.observations.iter().map(|seen| seen.reason).collect()
    }

    /// As [`World::end`]: the observation that counts.
    pub(crate) async fn cause(&self, conn: Conn) -> Observation {
        self.end(conn).await.key().expect("something but the hop was seen").0.clone()
    }

    /// Bytes that a half has counted so far.
    pub(crate) fn bytes(&self, key: HalfKey, leg: LegName, direction: Direction) -> u64 {
        let live = self.ledger.totals(key);
        let totals = live.unwrap_or_else(|| self.ledger.half(key).unwrap().traffic);
        totals.meter(leg, direction).bytes
    }

    fn verified(&self, header: &HopHeader, counter: u64) -> VerifiedHopHeader {
        let mut wire = Vec::new();
        header.encode(&self.key, counter, &mut wire).unwrap();
        let Progress::Complete((header, _)) = HopHeader::decode(&wire).unwrap() else { panic!() };
        header.verify(|_| Some(self.key.clone())).unwrap()
    }
}

/// What is left of a front whose socket went elsewhere.
pub(crate) struct Conn {
    pub(crate) key: HalfKey,
    task: JoinHandle<()>,
}

impl Conn {
    /// Its task is dropped in the middle of whatever it does.
    pub(crate) async fn abort(self) {
        self.task.abort();
        assert!(within(self.task).await.is_err_and(|error| error.is_cancelled()));
    }
}

impl Front {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.hop.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads a head and the body that its Content-Length announces.
    pub(crate) async fn response(&mut self) -> Response {
        response(&mut self.hop).await
    }

    /// The hop's end is the test's business from here on.
    pub(crate) fn split(self) -> (TcpStream, Conn) {
        (self.hop, Conn { key: self.key, task: self.task })
    }

    /// Hangs up in order.
    pub(crate) fn hang_up(self) -> Conn {
        let (hop, conn) = self.split();
        drop(hop);
        conn
    }

    /// Dies.
    pub(crate) fn reset(self) -> Conn {
        let (hop, conn) = self.split();
        reset(hop);
        conn
    }
}

/// Closes a socket with RST.
pub(crate) fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
}

/// A head and a body, as read.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// One header of a raw head.
pub(crate) fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let lines = head.split("\r\n").filter_map(|line| line.split_once(": "));
    lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Reads a head, up to and with its empty line.
pub(crate) async fn head(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        let count = within(socket.read(&mut byte)).await;
        assert_eq!(count.ok(), Some(1), "ended within a head: {:?}", String::from_utf8_lossy(&read));
        read.extend(byte);
    }
    String::from_utf8(read).unwrap()
}

pub(crate) async fn response(socket: &mut (impl AsyncRead + Unpin)) -> Response {
    let head = head(socket).await;
    let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    within(socket.read_exact(&mut body)).await.unwrap();
    Response { head, body }
}

/// A scripted backend.
pub(crate) struct Target {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Target {
    pub(crate) async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    pub(crate) async fn accept(&self) -> TcpStream {
        let socket = within(self.listener.accept()).await.unwrap().0;
        socket.set_nodelay(true).unwrap();
        socket
    }

    /// Accepts and reads a request's head.
    pub(crate) async fn request(&self) -> (TcpStream, String) {
        let mut socket = self.accept().await;
        let head = head(&mut socket).await;
        (socket, head)
    }

    /// Answers every request on every connection alike, for ever.
    pub(crate) fn answering(self, answer: &'static str) -> SocketAddr {
        let address = self.address;
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = self.listener.accept().await {
                tokio::spawn(async move {
                    let mut read = Vec::new();
                    let mut chunk = [0; 4096];
                    while let Ok(count @ 1..) = socket.read(&mut chunk).await {
                        read.extend_from_slice(&chunk[..count]);
                        while let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") {
                            read.drain(..end + 4);
                            if socket.write_all(answer.as_bytes()).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        address
    }

    /// Has nobody connected by now?
    pub(crate) fn is_untouched(&self) -> bool {
        use std::task::{Context, Poll, Waker};
        matches!(self.listener.poll_accept(&mut Context::from_waker(Waker::noop())), Poll::Pending)
    }
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// The entry `site`, for any name, forwarding to `targets`.
pub(crate) fn site(targets: &[SocketAddr]) -> Vec<InnerEntry> {
    vec![entry("site", Protocol::Http, vec![route("site", "", forward(targets))])]
}

/// As [`site`], with TLS.
pub(crate) fn tls_site(targets: &[SocketAddr]) -> Vec<InnerEntry> {
    let routes = vec![route("site", "", forward(targets))];
    vec![InnerEntry::new("site".into(), Protocol::Http, true, routes, BTreeSet::new())]
}

pub(crate) fn entry(name: &str, protocol: Protocol, routes: Vec<InnerRoute>) -> InnerEntry {
    InnerEntry::new(name.into(), protocol, false, routes, BTreeSet::new())
}

/// A route for `domain`, or for any where that is empty.
pub(crate) fn route(name: &str, domain: &str, action: InnerAction) -> InnerRoute {
    let domains = if domain.is_empty() { vec![] } else { vec![domain.parse().unwrap()] };
    InnerRoute {
        name: name.into(),
        domains,
        path: None,
        priority: 0,
        order: 0,
        action,
        timeouts: InnerTimeoutOverrides::default(),
    }
}

pub(crate) fn forward(targets: &[SocketAddr]) -> InnerAction {
    InnerAction::Forward(config::Forward {
        targets: targets.iter().map(|target| target.to_string().parse().unwrap()).collect(),
        balance: config::Balance::RoundRobin,
    })
}

pub(crate) const GET: &str = "GET /x HTTP/1.1\r\nhost: a.example\r\n\r\n";

/// Bounds a wait.
pub(crate) async fn within<F: std::future::Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it comes within the test's patience")
}

/// Waits for a state.
pub(crate) async fn until(what: &str, mut state: impl FnMut() -> bool) {
    let waiting = async {
        while !state() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

/// Reads to the end: the bytes, and whether it was an orderly one.
pub(crate) async fn rest(socket: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, bool) {
    let mut read = Vec::new();
    let ended = within(socket.read_to_end(&mut read)).await;
    (read, ended.is_ok())
}
