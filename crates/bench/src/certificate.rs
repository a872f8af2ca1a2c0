//! Owns the certificate of a run, and what a generator and the `direct` backend make of it.
//!
//! ECDSA P-256, signed by itself, for every name. Never checks a signature on the client's side: a generator must cost
//! less than what it measures, and it recognises the certificate by its bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};

use crate::layout::APP;

/// The files of a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    /// PEM, the certificate.
    pub cert: PathBuf,
    /// PEM, its key.
    pub key: PathBuf,
    /// PEM, both: what HAProxy wants.
    pub both: PathBuf,
}

impl Certificate {
    /// Makes one in `directory`.
    pub(crate) fn make(directory: &Path) -> Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([APP.to_owned()])?;
        let files = Self {
            cert: directory.join("app.pem"),
            key: directory.join("app.key"),
            both: directory.join("app.both"),
        };
        std::fs::write(&files.cert, cert.pem())?;
        std::fs::write(&files.key, signing_key.serialize_pem())?;
        std::fs::write(&files.both, cert.pem() + &signing_key.serialize_pem())?;
        Ok(files)
    }
}

/// Which key exchange a client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Exchange {
    /// X25519 alone.
    X25519,
    /// X25519MLKEM768 first.
    PostQuantum,
}

fn provider(exchange: Exchange) -> Arc<CryptoProvider> {
    let groups = match exchange {
        Exchange::X25519 => vec![kx_group::X25519],
        Exchange::PostQuantum => vec![kx_group::X25519MLKEM768, kx_group::X25519],
    };
    Arc::new(CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: groups,
        ..default_provider()
    })
}

/// A client that expects this certificate; with room for tickets if it may resume.
pub(crate) fn client(cert: &Path, exchange: Exchange, resume: bool) -> Result<ClientConfig> {
    let expected = CertificateDer::from_pem_file(cert).context("the certificate")?;
    let mut config = ClientConfig::builder_with_provider(provider(exchange))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ThisOne(expected)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = if resume { Resumption::in_memory_sessions(4) } else { Resumption::disabled() };
    Ok(config)
}

/// The server of the `direct` row.
pub(crate) fn server(cert: &Path, key: &Path) -> Result<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(cert)?];
    let mut config = ServerConfig::builder_with_provider(provider(Exchange::PostQuantum))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

#[derive(Debug)]
struct ThisOne(CertificateDer<'static>);

impl ServerCertVerifier for ThisOne {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.0 {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("another certificate was shown".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
