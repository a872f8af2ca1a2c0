//! Owns the targets of passthrough: they read one ClientHello and then speak raw bytes, for nobody looks into it.
//!
//! Never answers before the whole hello is there, so that what is measured is a proxy that read it too.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const CHUNK: usize = 256 * 1024;

/// One byte, then the end.
pub(super) async fn one(stream: &mut TcpStream) -> io::Result<()> {
    hello(stream).await?;
    stream.write_all(b"!").await?;
    stream.shutdown().await?;
    gone(stream).await
}

/// One byte, then nothing until the client leaves.
pub(super) async fn hold(stream: &mut TcpStream) -> io::Result<()> {
    hello(stream).await?;
    stream.write_all(b"!").await?;
    gone(stream).await
}

/// As many bytes as the eight after the hello say, then the end.
pub(super) async fn source(stream: &mut TcpStream) -> io::Result<()> {
    hello(stream).await?;
    let mut left = stream.read_u64().await?;
    let zeros = vec![0; CHUNK];
    while left > 0 {
        let size = left.min(CHUNK as u64) as usize;
        left -= stream.write(&zeros[..size]).await? as u64;
    }
    stream.shutdown().await?;
    gone(stream).await
}

/// Counts until the client's end, answers with the count.
pub(super) async fn sink(stream: &mut TcpStream) -> io::Result<()> {
    hello(stream).await?;
    let mut buffer = vec![0; CHUNK];
    let mut count = 0;
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        count += read as u64;
    }
    stream.write_u64(count).await?;
    stream.shutdown().await
}

/// Reads one TLS record (RFC 8446 section 5.1) and nothing behind it.
async fn hello(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    stream.read_exact(&mut buffer[..5]).await?;
    let length = usize::from(u16::from_be_bytes([buffer[3], buffer[4]]));
    if buffer[0] != 22 || length > buffer.len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    stream.read_exact(&mut buffer[..length]).await.map(drop)
}

/// Waits for the end of the stream.
async fn gone(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 64];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}
