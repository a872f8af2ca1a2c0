//! Owns W1: a new passthrough connection, its hello, one byte back, both ends closed in order.
//!
//! Never does cryptography: the hello is made once, and nobody but the target would have answered it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{LoadArguments, Shared, dial};
use crate::certificate;

pub(super) fn start(arguments: &Rc<LoadArguments>, shared: &Rc<Shared>) -> Result<()> {
    let hello: Rc<[u8]> = hello(arguments)?.into();
    for _ in 0..arguments.connections {
        let (arguments, hello, counts) = (arguments.clone(), hello.clone(), shared.clone());
        shared.worker(async move || {
            let start = Instant::now();
            exchange(&arguments, &hello).await?;
            counts.did(1.0);
            if arguments.latency {
                counts.took(start);
            }
            Ok(())
        });
    }
    Ok(())
}

async fn exchange(arguments: &LoadArguments, hello: &[u8]) -> Result<()> {
    let mut stream = dial(arguments.to).await?;
    stream.write_all(hello).await.context("sending the hello")?;
    let mut answer = [0; 8];
    let first = stream.read(&mut answer).await.context("reading the byte")?;
    ensure!(first == 1 && answer[0] == b'!', "{first} bytes came instead of one");
    let rest = stream.read(&mut answer).await.context("reading the end")?;
    ensure!(rest == 0, "more than one byte came");
    Ok(())
}

/// The ClientHello that asks for the name, as one record.
pub(crate) fn hello(arguments: &LoadArguments) -> Result<Vec<u8>> {
    let config = Arc::new(certificate::client(&arguments.cert, arguments.exchange, false)?);
    let name = ServerName::try_from(arguments.name.clone())?;
    let mut bytes = Vec::new();
    ClientConnection::new(config, name)?.write_tls(&mut bytes)?;
    Ok(bytes)
}
