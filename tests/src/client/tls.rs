//! Owns the TLS client: what it offers, and the alert that it got.
//!
//! Trusts the authority of the run and nobody else, so that a handshake that succeeds has checked the certificate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, ClientConnection, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::{Authority, provider};
use crate::client::{Ending, connect};
use crate::wait;

/// What a client offers.
#[derive(Clone, Debug)]
#[must_use]
pub struct Tls {
    name: Option<String>,
    alpn: Vec<Vec<u8>>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Tls {
    /// TLS 1.2 and 1.3, no ALPN, this server name.
    pub fn to(name: &str) -> Self {
        let versions = vec![&rustls::version::TLS13, &rustls::version::TLS12];
        Self { name: Some(name.to_owned()), alpn: Vec::new(), versions }
    }

    /// Without a server name. (The certificate is then not checked against a name: see [`Self::connect`].)
    pub fn nameless() -> Self {
        Self { name: None, ..Self::to("unused.test") }
    }

    /// Offers these protocols.
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// Offers this version alone.
    pub fn only(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    fn config(&self) -> Result<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&self.versions)?
            .with_root_certificates(Authority::of_this_run().roots())
            .with_no_client_auth();
        config.alpn_protocols.clone_from(&self.alpn);
        Ok(config)
    }

    /// A connector that keeps its session tickets from one connection to the next.
    pub fn connector(&self) -> Result<TlsConnector> {
        Ok(TlsConnector::from(Arc::new(self.config()?)))
    }

    fn server_name(&self) -> Result<ServerName<'static>> {
        Ok(match &self.name {
            Some(name) => ServerName::try_from(name.clone())?,
            // An address is never sent as SNI.
            None => ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into()),
        })
    }

    /// Connects and shakes hands.
    pub async fn connect(&self, to: SocketAddr) -> Result<TlsStream<TcpStream>> {
        self.over(connect(to).await?).await
    }

    /// Shakes hands on `stream`.
    pub async fn over(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        self.over_within(stream, wait::SOON).await
    }

    /// Shakes hands on `stream`, at most so long.
    pub async fn over_within(&self, stream: TcpStream, bound: Duration) -> Result<TlsStream<TcpStream>> {
        let connector = self.connector()?;
        let handshake = connector.connect(self.server_name()?, stream);
        wait::within("a TLS handshake", bound, handshake).await?.context("a TLS handshake")
    }

    /// The alert that refuses the handshake, and how the stream ended after it.
    pub async fn refused(&self, stream: TcpStream) -> Result<(AlertDescription, Ending)> {
        let (read, ending) = self.refused_bytes(stream).await?;
        // RFC 8446, 5.1 and 6: content type 21, version, length 2, level, description.
        match read.as_slice() {
            [21, 3, _, 0, 2, 2, description] => Ok((AlertDescription::from(*description), ending)),
            other => bail!("one fatal alert was expected, not {other:02x?}"),
        }
    }

    /// Sends a ClientHello and reads to the end.
    pub async fn refused_bytes(&self, mut stream: TcpStream) -> Result<(Vec<u8>, Ending)> {
        let hello = self.hello()?;
        wait::within("a hello is sent", wait::SOON, stream.write_all(&hello)).await??;
        crate::client::read_to_end(&mut stream, wait::SOON).await
    }

    /// A ClientHello as it goes over the wire.
    pub fn hello(&self) -> Result<Vec<u8>> {
        let mut connection = ClientConnection::new(Arc::new(self.config()?), self.server_name()?)?;
        let mut hello = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut hello)?;
        }
        Ok(hello)
    }

    /// Shakes hands by hand, sending the first flight in the pieces that end at `cuts`, each only after `arrived` says
    /// that the proxy has read everything before it. Returns the connection, ready for application data.
    pub async fn in_pieces(
        &self,
        stream: &mut TcpStream,
        cuts: &[usize],
        mut arrived: impl AsyncFnMut(usize) -> Result<()>,
    ) -> Result<ClientConnection> {
        let mut connection = ClientConnection::new(Arc::new(self.config()?), self.server_name()?)?;
        let mut hello = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut hello)?;
        }
        let mut sent = 0;
        for cut in cuts.iter().copied().filter(|cut| *cut < hello.len()) {
            stream.write_all(&hello[sent..cut]).await?;
            sent = cut;
            arrived(sent).await?;
        }
        stream.write_all(&hello[sent..]).await?;
        while connection.is_handshaking() {
            let mut bytes = vec![0; 16 * 1024];
            let count = wait::within("the handshake goes on", wait::SOON, stream.read(&mut bytes)).await??;
            anyhow::ensure!(count > 0, "the handshake was cut");
            let mut bytes = &bytes[..count];
            while !bytes.is_empty() {
                connection.read_tls(&mut bytes)?;
                connection.process_new_packets()?;
            }
            let mut flight = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut flight)?;
            }
            stream.write_all(&flight).await?;
        }
        Ok(connection)
    }
}

/// The alert in the error of a handshake or a read, if that is what it was.
pub fn alert(error: &anyhow::Error) -> Option<AlertDescription> {
    error.chain().find_map(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref)?;
        match cause.downcast_ref::<rustls::Error>()? {
            rustls::Error::AlertReceived(alert) => Some(*alert),
            _ => None,
        }
    })
}
