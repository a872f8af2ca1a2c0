//! Owns W2: many bytes one way through passthrough connections, counted at both ends.
//!
//! Never stops in the middle: a transfer that began is finished and its count compared, also after the window.

use std::rc::Rc;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{LoadArguments, Shared, client_hello, dial};

const CHUNK: usize = 256 * 1024;
const MEGABYTE: f64 = 1e6;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Direction {
    /// To the client.
    Down,
    /// To the target.
    Up,
}

pub(super) fn start(arguments: &Rc<LoadArguments>, shared: &Rc<Shared>) -> Result<()> {
    let hello: Rc<[u8]> = client_hello(arguments)?.into();
    for _ in 0..arguments.connections {
        let (arguments, hello, counts) = (arguments.clone(), hello.clone(), shared.clone());
        let mut buffer = vec![0; CHUNK];
        // The first transfer is short, and makes the task warm; what follows fills the window.
        let mut bytes = CHUNK as u64;
        shared.worker(async move || {
            match arguments.direction {
                Direction::Down => down(&arguments, &hello, &mut buffer, bytes, &counts).await?,
                Direction::Up => up(&arguments, &hello, &buffer, bytes, &counts).await?,
            }
            bytes = arguments.bytes;
            Ok(())
        });
    }
    Ok(())
}

async fn down(
    arguments: &LoadArguments,
    hello: &[u8],
    buffer: &mut [u8],
    bytes: u64,
    counts: &Shared,
) -> Result<()> {
    let mut stream = dial(arguments.to).await?;
    stream.write_all(hello).await?;
    stream.write_u64(bytes).await?;
    let mut received = 0;
    loop {
        let read = stream.read(buffer).await?;
        if read == 0 {
            break;
        }
        received += read as u64;
        counts.did(read as f64 / MEGABYTE);
    }
    ensure!(received == bytes, "{received} of {bytes} bytes came");
    Ok(())
}

async fn up(
    arguments: &LoadArguments,
    hello: &[u8],
    buffer: &[u8],
    bytes: u64,
    counts: &Shared,
) -> Result<()> {
    let mut stream = dial(arguments.to).await?;
    stream.write_all(hello).await?;
    let mut left = bytes;
    while left > 0 {
        let size = left.min(CHUNK as u64) as usize;
        let written = stream.write(&buffer[..size]).await?;
        left -= written as u64;
        counts.did(written as f64 / MEGABYTE);
    }
    stream.shutdown().await?;
    let received = stream.read_u64().await?;
    ensure!(received == bytes, "{received} of {bytes} bytes arrived");
    Ok(())
}
