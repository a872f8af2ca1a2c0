//! Owns connections that are opened, used once and kept, until stdin ends.
//!
//! Says `open` on stdout when all are. A connection that the other side ended meanwhile is a loss.

use std::rc::Rc;

use anyhow::{Context as _, Error, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use super::http1::Http1;
use super::tls::{Opener, request};
use super::{LoadArguments, Shared, client_hello, dial};
use crate::outcome::Outcome;
use crate::output;

/// Handshakes at once.
const AT_ONCE: usize = 32;

enum Held {
    Passthrough(TcpStream),
    Tls(Box<Http1<TlsStream<TcpStream>>>),
}

/// What every connection sends first.
struct First {
    hello: Vec<u8>,
    request: Vec<u8>,
    opener: Opener,
}

pub(super) async fn hold(arguments: &Rc<LoadArguments>, shared: &Rc<Shared>) -> Result<Outcome> {
    let opener = Opener::new(arguments)?;
    let first = Rc::new(First { hello: client_hello(arguments)?, request: request(arguments), opener });
    let mut held = Vec::with_capacity(arguments.connections);
    let mut opening = JoinSet::new();
    for _ in 0..arguments.connections {
        if opening.len() == AT_ONCE {
            keep(&mut held, opening.join_next().await, shared);
        }
        let (arguments, first) = (arguments.clone(), first.clone());
        opening.spawn_local(async move { open(&arguments, &first).await });
    }
    while let Some(opened) = opening.join_next().await {
        keep(&mut held, Some(opened), shared);
    }
    let window = shared.open(&arguments.watch)?;
    output::line("open");
    tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())).await??;
    for connection in &mut held {
        if let Err(error) = still_there(connection) {
            shared.lose(&error);
        }
    }
    shared.did(held.len() as f64);
    let outcome = shared.close(window)?;
    Ok(shared.add_to(outcome))
}

fn keep(held: &mut Vec<Held>, opened: Option<Result<Result<Held>, tokio::task::JoinError>>, shared: &Shared) {
    match opened {
        Some(Ok(Ok(connection))) => held.push(connection),
        Some(Ok(Err(error))) => shared.lose(&error),
        Some(Err(error)) => shared.lose(&Error::new(error)),
        None => {}
    }
}

async fn open(arguments: &LoadArguments, first: &First) -> Result<Held> {
    if !arguments.passthrough {
        let (mut connection, _) = first.opener.open().await?;
        connection.get(&first.request, |_| ()).await?;
        connection.rest();
        return Ok(Held::Tls(Box::new(connection)));
    }
    let mut stream = dial(arguments.to).await?;
    stream.write_all(&first.hello).await?;
    let byte = stream.read_u8().await.context("reading the byte")?;
    ensure!(byte == b'!', "another byte came");
    Ok(Held::Passthrough(stream))
}

fn still_there(held: &mut Held) -> Result<()> {
    let stream = match held {
        Held::Passthrough(stream) => stream,
        Held::Tls(connection) => connection.stream().get_ref().0,
    };
    // Tickets may have come; only an end is a loss.
    match stream.try_read(&mut [0; 1]) {
        Ok(0) => Err(Error::msg("an idle connection was closed")),
        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => Err(error.into()),
        _ => Ok(()),
    }
}
