//! `bench backend`: the targets of every workload, one thread, as little work per unit as can be.
//!
//! Never shares a process with a proxy or a generator, so that its CPU time is nobody else's. Says `ready` on stdout
//! when every port listens.

mod http;
mod raw;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

use crate::layout::Service;
use crate::{certificate, output};

/// `bench backend`.
#[derive(Debug, clap::Args)]
pub(crate) struct BackendArguments {
    /// The certificate of the `direct` port.
    #[arg(long)]
    cert: PathBuf,
    /// Its key.
    #[arg(long)]
    key: PathBuf,
}

/// Serves until it is killed.
pub(crate) fn run(arguments: &BackendArguments) -> Result<()> {
    let tls = TlsAcceptor::from(Arc::new(certificate::server(&arguments.cert, &arguments.key)?));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut accepting = Vec::new();
        for service in Service::ALL {
            let listener = listen(service)?;
            accepting.push(tokio::task::spawn_local(accept(listener, service, tls.clone())));
        }
        output::line("ready");
        for task in accepting {
            task.await??;
        }
        Ok(())
    })
}

fn listen(service: Service) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    // Inherited by what is accepted.
    socket.set_nodelay(true)?;
    socket.bind(service.address()).with_context(|| format!("the backend's {}", service.address()))?;
    Ok(socket.listen(8192)?)
}

async fn accept(listener: TcpListener, service: Service, tls: TlsAcceptor) -> Result<()> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::task::spawn_local(serve(stream, service, tls.clone()))),
            // Out of descriptors: those that are open will end.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// One connection. Whatever ends it early is for the generator to notice.
async fn serve(mut stream: TcpStream, service: Service, tls: TlsAcceptor) {
    let served = match service {
        Service::Http => http::serve(&mut stream).await,
        Service::HttpTls => match tls.accept(stream).await {
            Ok(mut stream) => http::serve(&mut stream).await,
            Err(error) => Err(error),
        },
        Service::One => raw::one(&mut stream).await,
        Service::Source => raw::source(&mut stream).await,
        Service::Sink => raw::sink(&mut stream).await,
        Service::Hold => raw::hold(&mut stream).await,
    };
    drop(served);
}
