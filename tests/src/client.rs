//! Owns the scripted clients: raw TCP, TLS, HTTP/1.1 and HTTP/2, WebSocket, and the third-party ones.
//!
//! A client says how a stream ended in the two words that matter, FIN or RST, because the proxy promises never to turn
//! one into the other.

pub mod http;
pub mod tls;
pub mod tools;
pub mod web_socket;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::wait;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order.
    Fin,
    /// With a reset.
    Reset,
}

/// Connects, from any address.
pub async fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = wait::within("a client connects", wait::SOON, TcpStream::connect(to)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects from this address.
pub async fn connect_from(from: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let stream = wait::within("a client connects", wait::SOON, socket.connect(to)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects to what is expected to refuse at once, perhaps before the client knows that it was connected: from where,
/// what came, and how it ended.
pub async fn connect_refused(to: SocketAddr) -> Result<(SocketAddr, Vec<u8>, Ending)> {
    connect_refused_from(IpAddr::V4(Ipv4Addr::LOCALHOST), to).await
}

/// As [`connect_refused`], for what refuses once it was told something.
pub async fn connect_refused_with(to: SocketAddr, words: &[u8]) -> Result<(SocketAddr, Vec<u8>, Ending)> {
    let mut stream = connect(to).await?;
    let from = stream.local_addr()?;
    drop(stream.write_all(words).await);
    let (bytes, ending) = read_to_end(&mut stream, wait::SOON).await?;
    Ok((from, bytes, ending))
}

/// As [`connect_refused`], from this address.
pub async fn connect_refused_from(from: IpAddr, to: SocketAddr) -> Result<(SocketAddr, Vec<u8>, Ending)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let from = socket.local_addr()?;
    match wait::within("a client connects", wait::SOON, socket.connect(to)).await? {
        Ok(mut stream) => {
            let (bytes, ending) = read_to_end(&mut stream, wait::SOON).await?;
            Ok((from, bytes, ending))
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok((from, Vec::new(), Ending::Reset)),
        Err(error) => Err(error).context("connecting"),
    }
}

/// Reads to the end, at most `bound`: what came, and how it ended.
pub async fn read_to_end(
    stream: &mut (impl AsyncRead + Unpin),
    bound: Duration,
) -> Result<(Vec<u8>, Ending)> {
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(bound, stream.read_to_end(&mut bytes)).await;
    match ended
        .with_context(|| format!("the stream did not end within {bound:?}; {} bytes came", bytes.len()))?
    {
        Ok(_) => Ok((bytes, Ending::Fin)),
        // rustls: the TCP stream ended in order, TLS did not; to a TLS client that is a cut.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok((bytes, Ending::Fin)),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            Ok((bytes, Ending::Reset))
        }
        Err(error) => Err(error).context("a stream ended with what is neither FIN nor RST"),
    }
}

/// Reads exactly `count` bytes, soon.
pub async fn read(stream: &mut (impl AsyncRead + Unpin), count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    wait::within(&format!("{count} bytes come"), wait::SOON, stream.read_exact(&mut bytes)).await??;
    Ok(bytes)
}

/// Writes `bytes` and reads as many back.
pub async fn echo(stream: &mut (impl AsyncRead + tokio::io::AsyncWrite + Unpin), bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await?;
    let back = read(stream, bytes.len()).await?;
    anyhow::ensure!(back == bytes, "an echo gives back what it got");
    Ok(())
}

/// Makes the stream end with RST when it is dropped, however.
pub fn will_reset(stream: &TcpStream) -> Result<()> {
    Ok(SockRef::from(stream).set_linger(Some(Duration::ZERO))?)
}

/// Loses every packet that arrives for this socket from now on, so that its kernel acknowledges nothing: a filter that
/// passes no byte (socket(7)).
pub fn lose_packets(stream: &TcpStream) -> Result<()> {
    // BPF_RET | BPF_K (linux/bpf_common.h).
    let pass_nothing = socket2::SockFilter::new(0x06, 0, 0, 0);
    Ok(socket2::SockRef::from(stream).attach_filter(&[pass_nothing])?)
}

/// Packets arrive again.
pub fn find_packets(stream: &TcpStream) -> Result<()> {
    Ok(socket2::SockRef::from(stream).detach_filter()?)
}
