//! A client and a target with a relay between them, and the record of their connection.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ledger::{
    Accept, AddressSource, DeadlineName, Direction, Half, HalfKey, Ledger, LedgerLimits, LegName, Limit,
    Phase, Reason, Restart, Rhythm, Role, SharedLedger, Traffic,
};
use runtime::{
    Bound, Clock, ConnectionManager, DialOptions, FarewellLimits, Goodbye, Keepalive, Leg, Mode, Origin,
    Parting, PipePool, RelayEnd, RelayOptions, Sharing, Splicing, TrackedConnection, cleanup_connection,
    dial, mint, relay,
};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Nothing on loopback takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// `TCP_USER_TIMEOUT` of accepted sockets.
pub(crate) const USER_TIMEOUT: Duration = Duration::from_millis(2_500);

/// The books and clocks of a process.
pub(crate) struct Process {
    pub(crate) manager: ConnectionManager,
    /// How its relays move bytes.
    pub(crate) mode: Mode,
}

/// The bounds of one relay.
pub(crate) struct Bounds {
    pub(crate) inactivity: Duration,
    pub(crate) half_close: Duration,
    pub(crate) write_stall: Duration,
    pub(crate) close: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            inactivity: PATIENCE * 6,
            half_close: PATIENCE * 6,
            write_stall: PATIENCE * 6,
            close: PATIENCE * 6,
        }
    }
}

/// A relayed connection, seen from both ends.
pub(crate) struct Rig {
    pub(crate) client: TcpStream,
    pub(crate) target: TcpStream,
    pub(crate) key: HalfKey,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) manager: ConnectionManager,
    pub(crate) connection: JoinHandle<()>,
}

impl Process {
    pub(crate) fn start(role: Role) -> Self {
        Self::moving(Mode::Copy, role)
    }

    /// A process whose relays move bytes in this way.
    pub(crate) fn moving(mode: Mode, role: Role) -> Self {
        let rhythm = Rhythm::default();
        let ledger = Ledger::new(mint::instance_id(), role, LedgerLimits::default(), rhythm);
        let manager = ConnectionManager::new(SharedLedger::new(ledger), Clock::start(Duration::from_secs(1)));
        Self { manager, mode }
    }

    /// A record with its client's leg, and the client's end.
    pub(crate) async fn accept(&self) -> (TrackedConnection, Leg, TcpStream) {
        let keepalive = Keepalive { idle: Duration::from_mins(1), user_timeout: USER_TIMEOUT };
        let listener = listener_with(Some(keepalive));
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (socket, remote) = accepted.unwrap();
        let accept = accept(address, remote, self.manager.clock());
        let (tracked, leg) = self.manager.create_connection(socket, accept);
        (tracked, leg, client.unwrap())
    }

    /// A record that was opened past the manager: the bug that a sweep is for.
    pub(crate) fn open_without_owner(&self) -> HalfKey {
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let (id, clock) = (mint::connection_id(), self.manager.clock());
        let accept = Arc::new(accept(nobody, nobody, clock));
        let _traffic = self.manager.ledger().open_front(id, accept, clock.now()).unwrap();
        HalfKey::front(id, self.manager.ledger().instance())
    }

    /// A target's leg, and the target's end.
    pub(crate) async fn target(&self, tracked: &TrackedConnection) -> (Leg, TcpStream) {
        self.outgoing(tracked, LegName::Target).await
    }

    /// A dialled leg of any name, and the far end.
    pub(crate) async fn outgoing(&self, tracked: &TrackedConnection, name: LegName) -> (Leg, TcpStream) {
        let listener = listener();
        let address = [listener.local_addr().unwrap()];
        let clock = self.manager.clock();
        let until = clock.active() + PATIENCE;
        let dialled = dial(&address, until, DialOptions::default(), clock);
        let (dialled, accepted) = tokio::join!(dialled, listener.accept());
        (tracked.leg(dialled.unwrap().socket, name, Origin::Dialled), accepted.unwrap().0)
    }

    /// A client and a target, relayed.
    pub(crate) async fn relay(&self, bounds: Bounds) -> Rig {
        let (mut tracked, first, client) = self.accept().await;
        let (second, target) = self.target(&tracked).await;
        let (key, traffic) = (tracked.key(), Arc::clone(tracked.traffic()));
        tracked.phase(Phase::Routed);
        tracked.phase(Phase::Connecting);
        tracked.arm(DeadlineName::Inactivity, &limit(bounds.inactivity), Restart::OnBytes);
        tracked.phase(Phase::Relaying);
        let connection = tokio::spawn(carry(tracked, first, second, bounds, self.mode.clone()));
        Rig { client, target, key, traffic, manager: self.manager.clone(), connection }
    }
}

impl Rig {
    /// Waits until the record is settled.
    pub(crate) async fn settled(self) -> Arc<Half> {
        within(self.connection).await.unwrap();
        let half = self.manager.ledger().half(self.key).unwrap();
        assert!(half.settlement.is_some(), "a connection that was never bridged settles at once");
        assert!(self.manager.ledger().audit(self.manager.clock().now()).balanced);
        half
    }

    pub(crate) async fn wait_for_bytes(&self, leg: LegName, direction: Direction, count: u64) {
        until("bytes", || self.traffic.bytes(leg, direction) >= count).await;
    }

    pub(crate) async fn wait_for_phase(&self, phase: Phase) -> Arc<Half> {
        until("a phase", || self.half().phase == phase).await;
        self.half()
    }

    pub(crate) fn half(&self) -> Arc<Half> {
        self.manager.ledger().half(self.key).unwrap()
    }
}

/// The life of a relayed connection.
async fn carry(mut tracked: TrackedConnection, first: Leg, second: Leg, bounds: Bounds, mode: Mode) {
    let (half_close, write_stall) = (limit(bounds.half_close), limit(bounds.write_stall));
    let options = RelayOptions { mode, half_close, write_stall, keepalive: None };
    let end = relay(&first, &second, Vec::new(), &mut tracked, &options).await;
    let limits = FarewellLimits { write_stall: limit(bounds.write_stall), close: limit(bounds.close) };
    let RelayEnd { first: to_first, second: to_second, undelivered } = end;
    let farewell =
        cleanup_connection(&mut tracked, parting(first, to_first), Some(parting(second, to_second)), &limits)
            .await;
    tracked.finish(farewell.hop, farewell.undelivered + undelivered);
}

pub(crate) fn parting(leg: Leg, (goodbye, rest): (Goodbye, Vec<u8>)) -> Parting {
    Parting { leg, goodbye, rest }
}

pub(crate) fn limit(value: Duration) -> Limit {
    Limit { value, source: "test:1".into() }
}

/// An address that no other test uses, on a port that is free there.
pub(crate) fn listener() -> TcpListener {
    listener_with(None)
}

fn listener_with(keepalive: Option<Keepalive>) -> TcpListener {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let host = Ipv4Addr::from_bits(0x7f40_0000 + NEXT.fetch_add(1, Ordering::Relaxed));
    let address = SocketAddr::new(IpAddr::V4(host), 0);
    Bound::bind(address, Sharing::Exclusive, keepalive).unwrap().unwrap().listen().unwrap()
}

pub(crate) fn accept(local: SocketAddr, remote: SocketAddr, clock: &Clock) -> Accept {
    Accept {
        listener: local.to_string().into(),
        client: remote,
        remote,
        local,
        source: AddressSource::Socket,
        at: clock.now().wall,
    }
}

/// Through pipes: after so many bytes, 0 is from the first one on.
pub(crate) fn spliced(pool: &PipePool, after: usize) -> Mode {
    Mode::Splice(Splicing { pool: pool.clone(), after })
}

/// Bytes that show where they were cut or doubled.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// Closes with RST.
pub(crate) fn reset(socket: TcpStream) {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
}

/// Everything up to the end of the stream or an error.
pub(crate) async fn read_all(socket: &mut TcpStream) -> (Vec<u8>, std::io::Result<()>) {
    let mut bytes = Vec::new();
    let end = within(socket.read_to_end(&mut bytes)).await;
    (bytes, end.map(drop))
}

pub(crate) async fn write_all(socket: &mut TcpStream, bytes: &[u8]) {
    within(socket.write_all(bytes)).await.unwrap();
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("took longer than anything here may take")
}

/// Waits for a state.
pub(crate) async fn until(what: &str, mut state: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !state() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} did not come"));
}

pub(crate) fn reason(half: &Half) -> Reason {
    half.settlement.as_ref().unwrap().value.cause.reason
}

pub(crate) fn observed(half: &Half) -> Vec<Reason> {
    half.end.as_ref().unwrap().value.observations.iter().map(|o| o.reason).collect()
}

pub(crate) fn bytes(half: &Half, leg: LegName, direction: Direction) -> u64 {
    half.traffic.meter(leg, direction).bytes
}
