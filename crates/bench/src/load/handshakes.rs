//! Owns W4: a TLS connection for each request, full or resumed, closed in order by the client.
//!
//! Never shares tickets between tasks: each has its own memory, and its first connection is a full one before the window.

use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;

use super::tls::{Opener, request};
use super::{LoadArguments, Shared};

pub(super) fn start(arguments: &Rc<LoadArguments>, shared: &Rc<Shared>) -> Result<()> {
    let request: Rc<[u8]> = request(arguments).into();
    for _ in 0..arguments.connections {
        let (arguments, request, counts) = (arguments.clone(), request.clone(), shared.clone());
        let opener = Opener::new(&arguments)?;
        shared.worker(async move || {
            let start = Instant::now();
            let (mut connection, kind) = opener.open().await?;
            connection.get(&request, |_| ()).await?;
            counts.did(1.0);
            counts.shook_hands(kind);
            if arguments.latency {
                counts.took(start);
            }
            connection.close().await
        });
    }
    Ok(())
}
