//! TLS with clients: what is offered, the handshake, and what its failures mean.
//!
//! *Owns* the `ServerConfig`s of the process (HTTP negotiates h2 and http/1.1; opaque protocols negotiate
//! nothing, so that a client may offer whatever it speaks), whose order of ciphers counts, and the kinds of
//! failure.
//! *Never* accepts early data, writes a key log, or looks at a client's certificate.
//! *Invariant*: a `close_notify` is an orderly end and no [`TlsFailure`].

use std::io;
use std::sync::Arc;

use config::{Protocol, TlsVersion};
use rustls::crypto::aws_lc_rs;
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage, ServerConnection};
use rustls::{AlertDescription, CipherSuite, HandshakeKind, ServerConfig, version};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificates::CertificateStore;
use crate::hop_io::HopIo;

/// What TLS the process offers to clients.
#[derive(Clone)]
pub struct TlsOffer {
    http: Offer,
    opaque: Offer,
}

/// What is offered for one kind of protocol.
///
/// Most clients have AES in hardware, as we have, and gain nothing from its longer keys: AES-128 comes first,
/// whatever their order. One that begins its list with ChaCha20 has no such hardware, and is served by its own
/// order.
#[derive(Clone)]
struct Offer {
    by_our_order: Arc<ServerConfig>,
    by_theirs: Arc<ServerConfig>,
}

impl Offer {
    fn to(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        let first = hello.cipher_suites().iter().find(|suite| cost(**suite) < UNKNOWN);
        if first.is_some_and(|suite| cost(*suite) == CHACHA20) { &self.by_theirs } else { &self.by_our_order }
    }
}

impl TlsOffer {
    /// The offer of `settings`, with certificates from `store`.
    pub fn new(settings: &config::Tls, store: &Arc<CertificateStore>) -> Result<Self, rustls::Error> {
        Ok(Self {
            http: server_config(settings, store, &[b"h2", b"http/1.1"])?,
            opaque: server_config(settings, store, &[])?,
        })
    }

    /// Shakes hands. The socket comes back with the failure, whose alert was sent already. `end_input` makes a
    /// socket that has nothing more to read.
    pub async fn accept<S>(
        &self,
        protocol: Protocol,
        socket: S,
        end_input: impl FnOnce(&mut S),
    ) -> Result<TlsStream<S>, (TlsFailure, S)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let offer = match protocol {
            Protocol::Http => &self.http,
            Protocol::Tcp => &self.opaque,
        };
        let mut hello = LazyConfigAcceptor::new(Acceptor::default(), socket);
        let begun = match (&mut hello).await {
            Ok(begun) => begun,
            Err(error) => return Err((error.into(), hello.take_io().expect("it accepted nothing"))),
        };
        let config = Arc::clone(offer.to(&begun.client_hello()));
        // What came behind the hello in one read is looked at now: afterwards it would be with the next bytes,
        // for which a client that broke the protocol does not have to hurry.
        let mut behind = Ok(());
        let look = |session: &mut ServerConnection| behind = session.process_new_packets().map(drop);
        let mut handshake = begun.into_stream_with(config, look);
        if behind.is_err()
            && let Some(socket) = handshake.get_mut()
        {
            end_input(socket);
        }
        handshake.into_fallible().await.map_err(|(error, socket)| match behind {
            Ok(()) => (error.into(), socket),
            Err(broken) => (io::Error::new(io::ErrorKind::InvalidData, broken).into(), socket),
        })
    }

    /// Shakes hands over the hop, in as few packets as the client's progress allows.
    pub async fn accept_hop(
        &self,
        protocol: Protocol,
        mut socket: HopIo,
    ) -> Result<TlsStream<HopIo>, TlsFailure> {
        socket.begin_handshake();
        match self.accept(protocol, socket, HopIo::end_input).await {
            Ok(mut stream) => {
                let (socket, session) = stream.get_mut();
                socket.end_handshake();
                // What TLS 1.2 ends with is our Finished, for which the client waits.
                if session.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
                    socket.release().await.map_err(TlsFailure::Socket)?;
                }
                Ok(stream)
            }
            Err((failure, mut socket)) => {
                // The alert. Where it cannot be delivered the socket is broken, which its leg knows.
                let _told = socket.release().await.is_ok();
                Err(failure)
            }
        }
    }
}

/// What ended TLS against the client's or our will.
#[derive(Debug, Error)]
pub enum TlsFailure {
    /// `tls_no_certificate`: none for the server name, and no default.
    #[error("no certificate for the server name")]
    NoCertificate,
    /// `tls_alert_received`: the client said why it does not go on.
    #[error("the client sent the alert {}", alert_name(*.0))]
    Alert(AlertDescription),
    /// `tls_protocol_error`: no common version or cipher, or a message that breaks the protocol.
    #[error("{0}")]
    Protocol(rustls::Error),
    /// The socket below ended or failed; its leg knows how.
    #[error("the socket ended")]
    Socket(#[source] io::Error),
}

/// Sorts what an I/O error of a TLS stream was: rustls hides its own inside.
impl From<io::Error> for TlsFailure {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            None => Self::Socket(error),
            Some(rustls::Error::AlertReceived(alert)) => Self::Alert(*alert),
            // rustls has no variant of its own for this; a test holds on to the words.
            Some(rustls::Error::General(text)) if text == "no server certificate chain resolved" => {
                Self::NoCertificate
            }
            Some(other) => Self::Protocol(other.clone()),
        }
    }
}

/// What a completed handshake agreed on, for the record.
pub fn agreed(connection: &ServerConnection) -> ledger::Tls {
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2".into(),
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3".into(),
        other => format!("{other:?}").into(),
    };
    let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
    // rustls spells TLS 1.3 suites `TLS13_…`; IANA's name has no version in it.
    let cipher = suite.and_then(|suite| suite.as_str()).unwrap_or("unknown").replacen("TLS13_", "TLS_", 1);
    ledger::Tls {
        version,
        cipher: cipher.into(),
        alpn: connection.alpn_protocol().map(|name| String::from_utf8_lossy(name).into()),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}

/// The alert's name as RFC 8446 section 6 spells it.
pub fn alert_name(alert: AlertDescription) -> String {
    use AlertDescription as A;
    let name = match alert {
        A::CloseNotify => "close_notify",
        A::UnexpectedMessage => "unexpected_message",
        A::BadRecordMac => "bad_record_mac",
        A::RecordOverflow => "record_overflow",
        A::HandshakeFailure => "handshake_failure",
        A::NoCertificate => "no_certificate",
        A::BadCertificate => "bad_certificate",
        A::UnsupportedCertificate => "unsupported_certificate",
        A::CertificateRevoked => "certificate_revoked",
        A::CertificateExpired => "certificate_expired",
        A::CertificateUnknown => "certificate_unknown",
        A::IllegalParameter => "illegal_parameter",
        A::UnknownCA => "unknown_ca",
        A::AccessDenied => "access_denied",
        A::DecodeError => "decode_error",
        A::DecryptError => "decrypt_error",
        A::ProtocolVersion => "protocol_version",
        A::InsufficientSecurity => "insufficient_security",
        A::InternalError => "internal_error",
        A::InappropriateFallback => "inappropriate_fallback",
        A::UserCanceled => "user_canceled",
        A::NoRenegotiation => "no_renegotiation",
        A::MissingExtension => "missing_extension",
        A::UnsupportedExtension => "unsupported_extension",
        A::UnrecognisedName => "unrecognized_name",
        A::BadCertificateStatusResponse => "bad_certificate_status_response",
        A::UnknownPSKIdentity => "unknown_psk_identity",
        A::CertificateRequired => "certificate_required",
        A::NoApplicationProtocol => "no_application_protocol",
        other => return format!("alert_{}", u8::from(other)),
    };
    name.to_owned()
}

fn server_config(
    settings: &config::Tls,
    store: &Arc<CertificateStore>,
    alpn: &[&[u8]],
) -> Result<Offer, rustls::Error> {
    let versions: &[_] = match settings.min_version {
        TlsVersion::V1_2 => &[&version::TLS13, &version::TLS12],
        TlsVersion::V1_3 => &[&version::TLS13],
    };
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| cost(suite.suite()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(store) as Arc<_>);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // Tickets keep no state here; a session cache would.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if settings.session_tickets {
        config.ticketer = aws_lc_rs::Ticketer::new()?;
    } else {
        config.send_tls13_tickets = 0;
    }
    let by_theirs = Arc::new(config.clone());
    config.ignore_client_order = true;
    Ok(Offer { by_our_order: Arc::new(config), by_theirs })
}

/// Ciphers by what they cost where AES is in hardware.
const fn cost(suite: CipherSuite) -> u8 {
    use CipherSuite as C;
    match suite {
        C::TLS13_AES_128_GCM_SHA256
        | C::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | C::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
        C::TLS13_AES_256_GCM_SHA384
        | C::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | C::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => 1,
        C::TLS13_CHACHA20_POLY1305_SHA256
        | C::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | C::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => CHACHA20,
        _ => UNKNOWN,
    }
}

const CHACHA20: u8 = 2;
/// A suite that we do not have.
const UNKNOWN: u8 = 3;

#[cfg(test)]
mod tests;
