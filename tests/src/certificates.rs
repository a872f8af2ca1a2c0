//! Owns the certificate authority of a test run and what it signs.
//!
//! One authority per run, trusted by every scripted client, so that a client that connects has checked that it was
//! shown the right certificate. Never uses a fixed key: everything is made when it is first asked for.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What signs every certificate of a run.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    root: CertificateDer<'static>,
}

/// A certificate with its key, both PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The chain, leaf first.
    pub cert: String,
    /// The leaf's private key.
    pub key: String,
}

impl Authority {
    /// The authority of this run.
    pub fn of_this_run() -> &'static Self {
        static AUTHORITY: OnceLock<Authority> = OnceLock::new();
        AUTHORITY.get_or_init(|| Self::make().expect("a certificate authority can be made"))
    }

    fn make() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the authority of one test run");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let (pem, root) = (certificate.pem(), certificate.der().clone());
        Ok(Self { issuer: Issuer::new(params, key), pem, root })
    }

    /// A certificate for `names`.
    pub fn sign(&self, names: &[&str]) -> Result<Certificate> {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("nameless"));
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let mut cert = params.signed_by(&key, &self.issuer)?.pem();
        write!(cert, "{}", self.pem)?;
        Ok(Certificate { cert, key: key.serialize_pem() })
    }

    /// Its own certificate, PEM, for third-party clients.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What a client that trusts it trusts.
    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("our own root can be parsed");
        Arc::new(roots)
    }
}

impl Certificate {
    /// Writes `NAME.pem` and `NAME.key` into `directory`; returns their paths.
    pub fn write(&self, directory: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
        let (cert, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        std::fs::write(&cert, &self.cert).context("writing a certificate")?;
        std::fs::write(&key, &self.key).context("writing a key")?;
        Ok((cert, key))
    }

    /// A rustls server that shows it and speaks `alpn`.
    pub fn server(&self, alpn: &[&str]) -> Result<Arc<rustls::ServerConfig>> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.cert.as_bytes())
            .collect::<Result<_, _>>()
            .context("the chain")?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context("the key")?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// The crypto of every scripted client and target.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
