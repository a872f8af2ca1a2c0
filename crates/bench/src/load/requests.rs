//! Owns W3 and W5: requests one after the other on TLS connections that stay, with small or large bodies.
//!
//! Never opens a connection again without counting a loss.

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::tls::{Opener, request};
use super::{Direction, LoadArguments, Shared};

const MEGABYTE: f64 = 1e6;

pub(super) fn start(arguments: &Rc<LoadArguments>, shared: &Rc<Shared>) -> Result<()> {
    let opener = Rc::new(Opener::new(arguments)?);
    let request: Rc<[u8]> = request(arguments).into();
    for _ in 0..arguments.connections {
        let (arguments, opener, request, counts) =
            (arguments.clone(), opener.clone(), request.clone(), shared.clone());
        let mut open = None;
        shared.worker(async move || {
            // Taken out while it is used: a connection that failed is not used again.
            let mut connection = match open.take() {
                Some(connection) => connection,
                None => opener.open().await?.0,
            };
            let start = Instant::now();
            let progress = |bytes: usize| {
                if arguments.megabytes {
                    counts.did(bytes as f64 / MEGABYTE);
                }
            };
            match arguments.direction {
                Direction::Up => connection.post(&request, arguments.bytes, progress).await?,
                Direction::Down => {
                    let length = connection.get(&request, progress).await?;
                    ensure!(
                        arguments.bytes == 0 || length == arguments.bytes,
                        "a body of {length} bytes came instead of {}",
                        arguments.bytes
                    );
                }
            }
            if !arguments.megabytes {
                counts.did(1.0);
            }
            if arguments.latency {
                counts.took(start);
            }
            if counts.over() {
                return connection.close().await;
            }
            open = Some(connection);
            Ok(())
        });
    }
    Ok(())
}
