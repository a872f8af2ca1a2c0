//! Owns what a test can do to a TCP connection that is not its own: pass it on, delay it, slow it down, freeze it, cut it.
//!
//! Stands between networkproxy and smartproxy's control port, and (see `tap`) on the hop. An end is passed on as what it
//! was, FIN or RST: a middle that launders one into the other would prove nothing.
//!
//! Invariant: bytes are never reordered, and lost only by a cut.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They pass.
    Pass,
    /// They pass this much later.
    Delay(Duration),
    /// So many pass in a second, each way.
    Slow(usize),
    /// They stay where they are; connections stay open.
    Freeze,
    /// Connections are reset, and new ones too.
    Cut,
}

/// What is in force, and how often everything was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    way: Way,
    resets: u64,
}

/// A middle that listens on one address and dials another.
#[derive(Debug)]
pub struct Cutter {
    order: watch::Sender<Order>,
    accepting: JoinHandle<()>,
}

/// What is done to the bytes on their way, besides their timing.
pub(crate) trait Watch: Send + Sync + 'static {
    /// Bytes from the side that dialled, in the order in which they came, of connection number `connection`.
    fn dialler(&self, connection: u64, bytes: &mut Vec<u8>);
}

/// Replaces one byte string by another of the same length: how a test changes an address in a message.
#[derive(Debug)]
pub(crate) struct Rewrite {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Rewrite {
    pub(crate) fn new(from: &str, to: &str) -> Self {
        assert_eq!(from.len(), to.len(), "messages keep their length");
        Self { from: from.into(), to: to.into() }
    }
}

impl Watch for Rewrite {
    fn dialler(&self, _: u64, bytes: &mut Vec<u8>) {
        let mut at = 0;
        while at + self.from.len() <= bytes.len() {
            if bytes[at..].starts_with(&self.from) {
                bytes[at..at + self.to.len()].copy_from_slice(&self.to);
            }
            at += 1;
        }
    }
}

/// Changes nothing.
#[derive(Debug)]
pub(crate) struct Unwatched;

impl Watch for Unwatched {
    fn dialler(&self, _: u64, _: &mut Vec<u8>) {}
}

impl Cutter {
    /// Listens on `listen` and passes on to `to`.
    pub async fn start(listen: SocketAddr, to: SocketAddr) -> Result<Self> {
        Self::watched(listen, to, Arc::new(Unwatched)).await
    }

    pub(crate) async fn watched(listen: SocketAddr, to: SocketAddr, watch: Arc<dyn Watch>) -> Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let (order, orders) = watch::channel(Order { way: Way::Pass, resets: 0 });
        let accepting = tokio::spawn(accept(listener, to, orders, watch));
        Ok(Self { order, accepting })
    }

    /// From now on, for every connection, open ones too.
    pub fn set(&self, way: Way) {
        self.order.send_modify(|order| order.way = way);
    }

    /// Resets every open connection once; new ones pass.
    pub fn reset_all(&self) {
        self.order.send_modify(|order| order.resets += 1);
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    to: SocketAddr,
    orders: watch::Receiver<Order>,
    watch: Arc<dyn Watch>,
) {
    let mut connection = 0;
    loop {
        let Ok((near, _)) = listener.accept().await else { return };
        connection += 1;
        if orders.borrow().way == Way::Cut {
            reset(near);
            continue;
        }
        tokio::spawn(middle(connection, near, to, orders.clone(), Arc::clone(&watch)));
    }
}

async fn middle(
    connection: u64,
    near: TcpStream,
    to: SocketAddr,
    orders: watch::Receiver<Order>,
    watch: Arc<dyn Watch>,
) {
    let Ok(far) = TcpStream::connect(to).await else { return reset(near) };
    for stream in [&near, &far] {
        // A middle adds no delay of its own, and whatever ends it ends both sides with RST.
        drop(stream.set_nodelay(true));
        drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
    }
    // (Not `into_split`: a write half of that kind says FIN when it is dropped, which a reset must not.)
    let (near_in, near_out) = tokio::io::split(near);
    let (far_in, far_out) = tokio::io::split(far);
    let there = copy(near_in, far_out, orders.clone(), Some((connection, watch)));
    let back = copy(far_in, near_out, orders.clone(), None);
    let both = async {
        // An error on one way ends both, at once: it was a reset.
        let (there, back) = tokio::try_join!(there, back)?;
        Ok::<_, std::io::Error>((there, back))
    };
    tokio::select! {
        () = cut(orders.clone()) => {}
        ended = both => if let Ok(((near_in, far_out), (far_in, near_out))) = ended {
            // Both ways ended with FIN: say goodbye likewise.
            for stream in [near_in.unsplit(near_out), far_in.unsplit(far_out)] {
                drop(SockRef::from(&stream).set_linger(None));
            }
        },
    }
}

/// Ends when connections are cut, even if only for a moment.
async fn cut(mut orders: watch::Receiver<Order>) {
    let resets = orders.borrow().resets;
    let cut = orders.wait_for(|order| order.way == Way::Cut || order.resets != resets).await.is_ok();
    if !cut {
        std::future::pending::<()>().await;
    }
}

async fn copy(
    mut from: ReadHalf<TcpStream>,
    mut to: WriteHalf<TcpStream>,
    mut orders: watch::Receiver<Order>,
    watch: Option<(u64, Arc<dyn Watch>)>,
) -> std::io::Result<(ReadHalf<TcpStream>, WriteHalf<TcpStream>)> {
    loop {
        let current = orders.borrow_and_update().way;
        let most = match current {
            Way::Freeze | Way::Cut => {
                if orders.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                continue;
            }
            Way::Slow(rate) => (rate / 20).clamp(1, 65_536),
            Way::Pass | Way::Delay(_) => 65_536,
        };
        let mut bytes = vec![0; most];
        let count = tokio::select! {
            read = from.read(&mut bytes) => read?,
            _ = orders.changed() => continue,
        };
        match current {
            Way::Slow(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Way::Delay(delay) => tokio::time::sleep(delay).await,
            Way::Pass | Way::Freeze | Way::Cut => {}
        }
        if count == 0 {
            to.shutdown().await?;
            return Ok((from, to));
        }
        bytes.truncate(count);
        if let Some((connection, watch)) = &watch {
            watch.dialler(*connection, &mut bytes);
        }
        to.write_all(&bytes).await?;
    }
}

/// Closes with RST.
pub fn reset(stream: TcpStream) {
    drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
    drop(stream);
}

/// What came through a middle, by connection.
#[derive(Debug, Default)]
pub(crate) struct Record(Mutex<Vec<(u64, Vec<u8>)>>);

impl Record {
    /// The first `MOST` bytes of every connection, in the order in which connections were made.
    pub(crate) fn starts(&self) -> Vec<Vec<u8>> {
        let record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        record.iter().map(|(_, bytes)| bytes.clone()).collect()
    }
}

impl Watch for Record {
    fn dialler(&self, connection: u64, bytes: &mut Vec<u8>) {
        const MOST: usize = 32 * 1024;
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match record.iter_mut().find(|(number, _)| *number == connection) {
            Some((_, start)) if start.len() < MOST => start.extend_from_slice(bytes),
            Some(_) => {}
            None => record.push((connection, bytes.clone())),
        }
    }
}
