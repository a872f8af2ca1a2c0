//! A TCP link between the processes that can be cut, stopped and slowed.
//!
//! *Owns* both sockets of every connection through it. *Never* changes a byte. *Invariant*: what it did not
//! forward when it was cut is lost, as on a real wire.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Forwards them.
    Open,
    /// Keeps connections open and forwards nothing.
    Stopped,
    /// Forwards each read after so long.
    Slow(Duration),
    /// Accepts nobody.
    Down,
}

/// A link to one address.
#[derive(Clone, Debug)]
pub(crate) struct Cutter {
    pub(crate) address: SocketAddr,
    link: Arc<watch::Sender<Link>>,
    generation: Arc<watch::Sender<u64>>,
}

impl Cutter {
    /// A link to `target`, on a port of its own.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cutter = Self {
            address: listener.local_addr().unwrap(),
            link: Arc::new(watch::Sender::new(Link::Open)),
            generation: Arc::new(watch::Sender::new(0)),
        };
        let accepting = cutter.clone();
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                if *accepting.link.borrow() == Link::Down {
                    continue;
                }
                let Ok(far) = TcpStream::connect(target).await else { continue };
                tokio::spawn(accepting.clone().carry(near, far));
            }
        });
        cutter
    }

    /// Resets every connection; new ones are carried.
    pub(crate) fn cut(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// From now on.
    pub(crate) fn set(&self, link: Link) {
        self.link.send_replace(link);
        if link == Link::Down {
            self.cut();
        }
    }

    async fn carry(self, near: TcpStream, far: TcpStream) {
        for socket in [&near, &far] {
            socket.set_nodelay(true).unwrap();
            socket.set_zero_linger().unwrap();
        }
        let mut generation = self.generation.subscribe();
        let (mut near_read, mut near_write) = near.into_split();
        let (mut far_read, mut far_write) = far.into_split();
        tokio::select! {
            () = forward(&mut near_read, &mut far_write, self.link.subscribe()) => {}
            () = forward(&mut far_read, &mut near_write, self.link.subscribe()) => {}
            _ = generation.changed() => {}
        }
    }
}

async fn forward(
    from: &mut tokio::net::tcp::OwnedReadHalf,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    mut link: watch::Receiver<Link>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let state = *link.wait_for(|link| *link != Link::Stopped).await.unwrap();
        if let Link::Slow(pause) = state {
            tokio::time::sleep(pause).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
