//! Owns the scripted targets that speak TCP or TLS: what stands behind the proxy.
//!
//! Each listens on a port of its own and counts what it accepts. A [`Target::manual`] one hands the sockets to the test;
//! the others do one thing to each. Never ends a connection otherwise than its script says.

pub mod http;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use crate::address::Address;
use crate::certificates::Authority;
use crate::{cutter, wait};

/// A target that accepts.
#[derive(Debug)]
pub struct Target {
    address: SocketAddr,
    accepted: Arc<AtomicU64>,
    sockets: Mutex<mpsc::UnboundedReceiver<TcpStream>>,
    accepting: JoinHandle<()>,
}

impl Target {
    /// Hands each accepted socket to the test, which takes it with [`Self::accept`].
    pub async fn manual(address: Address) -> Result<Self> {
        let (send, sockets) = mpsc::unbounded_channel();
        let mut target = Self::each(address, move |socket| {
            let sent = send.send(socket);
            async move { drop(sent) }
        })
        .await?;
        target.sockets = Mutex::new(sockets);
        Ok(target)
    }

    /// Runs `script` with each accepted socket.
    pub async fn each<S, F>(address: Address, script: S) -> Result<Self>
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address.port(0)).await?;
        let address = listener.local_addr()?;
        let accepted = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&accepted);
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                drop(socket.set_nodelay(true));
                tokio::spawn(script(socket));
            }
        });
        Ok(Self { address, accepted, sockets: Mutex::new(mpsc::unbounded_channel().1), accepting })
    }

    /// Sends back what it gets, FIN for FIN.
    pub async fn echo(address: Address) -> Result<Self> {
        Self::each(address, async |mut socket| {
            let (mut read, mut write) = socket.split();
            if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                drop(write.shutdown().await);
            }
        })
        .await
    }

    /// Sends `banner` first, then echoes.
    pub async fn banner(address: Address, banner: &'static str) -> Result<Self> {
        Self::each(address, move |mut socket: TcpStream| async move {
            let (mut read, mut write) = socket.split();
            if write.write_all(banner.as_bytes()).await.is_ok()
                && tokio::io::copy(&mut read, &mut write).await.is_ok()
            {
                drop(write.shutdown().await);
            }
        })
        .await
    }

    /// Reads to the end, then answers with the count of bytes in decimal and closes.
    pub async fn sink(address: Address) -> Result<Self> {
        Self::each(address, async |mut socket| {
            let mut count = 0_u64;
            let mut bytes = vec![0; 65_536];
            loop {
                match socket.read(&mut bytes).await {
                    Ok(0) => break,
                    Ok(more) => count += more as u64,
                    Err(_) => return,
                }
            }
            drop(socket.write_all(count.to_string().as_bytes()).await);
            drop(socket.shutdown().await);
        })
        .await
    }

    /// Sends `length` bytes of [`pattern`] at once, closes its side, then reads to the end.
    pub async fn source(address: Address, length: usize) -> Result<Self> {
        Self::each(address, move |mut socket: TcpStream| async move {
            if socket.write_all(&pattern(length)).await.is_ok() && socket.shutdown().await.is_ok() {
                drop(tokio::io::copy(&mut socket, &mut tokio::io::sink()).await);
            }
        })
        .await
    }

    /// Resets after the first byte.
    pub async fn resetter(address: Address) -> Result<Self> {
        Self::each(address, async |mut socket| {
            let mut byte = [0];
            drop(socket.read(&mut byte).await);
            cutter::reset(socket);
        })
        .await
    }

    /// Reads, and never says anything.
    pub async fn never_answers(address: Address) -> Result<Self> {
        Self::each(address, async |mut socket| {
            drop(tokio::io::copy(&mut socket, &mut tokio::io::sink()).await);
            std::future::pending::<()>().await;
        })
        .await
    }

    /// TLS with a certificate for `name`, echoing inside.
    pub async fn tls_echo(address: Address, name: &str) -> Result<Self> {
        let acceptor = tokio_rustls::TlsAcceptor::from(
            Authority::of_this_run().sign(&[name])?.server(&["h2", "http/1.1", "echo"])?,
        );
        Self::each(address, move |socket| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let (mut read, mut write) = tokio::io::split(stream);
                if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                    drop(write.shutdown().await);
                }
            }
        })
        .await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// The next socket of a [`Self::manual`] target.
    pub async fn accept(&self) -> Result<TcpStream> {
        let mut sockets = self.sockets.lock().await;
        wait::within("the target accepts", wait::SOON, sockets.recv()).await?.context("the target is manual")
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// An address that refuses: nobody listens there.
pub async fn refused(address: Address) -> Result<SocketAddr> {
    Ok(TcpListener::bind(address.port(0)).await?.local_addr()?)
}

/// A listener whose queue is full: it never answers a SYN.
#[derive(Debug)]
pub struct Full {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl Full {
    /// Fills its own queue.
    pub async fn start(address: Address) -> Result<Self> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&address.port(0).into())?;
        listener.listen(0)?;
        let address = listener.local_addr()?.as_socket().context("an IP address")?;
        let mut queued = Vec::new();
        // The kernel takes a few more than asked for; the first that hangs is one too many.
        while let Ok(connected) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            queued.push(connected?);
        }
        Ok(Self { address, _listener: listener, _queued: queued })
    }

    /// Where it does not answer.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// `length` bytes in which a loss, a doubling or an exchange of blocks shows.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index ^ (index >> 8) ^ (index >> 16).wrapping_mul(31)) as u8).collect()
}

/// Makes the kernel take few bytes that nobody reads, so that back-pressure shows early.
pub fn small_buffers(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    drop(socket.set_recv_buffer_size(4 * 1024));
    drop(socket.set_send_buffer_size(4 * 1024));
}
