//! Owns a TLS connection of a generator.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::http1::Http1;
use super::{LoadArguments, dial};
use crate::certificate;

/// Opens TLS connections to one place.
pub(super) struct Opener {
    connector: TlsConnector,
    name: ServerName<'static>,
    to: std::net::SocketAddr,
}

impl Opener {
    /// As the arguments say, with a memory for tickets of its own.
    pub(super) fn new(arguments: &LoadArguments) -> Result<Self> {
        let config: Arc<ClientConfig> =
            Arc::new(certificate::client(&arguments.cert, arguments.exchange, arguments.resume)?);
        let name = ServerName::try_from(arguments.name.clone())?;
        Ok(Self { connector: TlsConnector::from(config), name, to: arguments.to })
    }

    /// A connection after its handshake, and what kind that was.
    pub(super) async fn open(&self) -> Result<(Http1<TlsStream<TcpStream>>, Option<HandshakeKind>)> {
        let stream = dial(self.to).await?;
        let stream = self.connector.connect(self.name.clone(), stream).await.context("handshake")?;
        let kind = stream.get_ref().1.handshake_kind();
        Ok((Http1::new(stream), kind))
    }
}

/// The bytes of a request's head.
pub(super) fn request(arguments: &LoadArguments) -> Vec<u8> {
    let (name, path) = (&arguments.name, &arguments.path);
    match arguments.direction {
        super::Direction::Up => {
            let length = arguments.bytes;
            format!("POST {path} HTTP/1.1\r\nhost: {name}\r\ncontent-length: {length}\r\n\r\n").into_bytes()
        }
        super::Direction::Down => format!("GET {path} HTTP/1.1\r\nhost: {name}\r\n\r\n").into_bytes(),
    }
}
