//! One certificate chain with its private key, as files hold them.
//!
//! *Owns* reading and judging a pair: PEM, the names and validity of the leaf, whether key and certificate
//! belong together. *Never* decides which pair is served. *Invariant*: a [`Pair`] that exists can sign.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::DomainPattern;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A certificate chain and its key, ready to sign.
#[derive(Debug)]
pub struct Pair {
    /// What rustls signs with.
    pub key: Arc<CertifiedKey>,
    /// The DNS names that the leaf covers; where it has no subjectAltName, its common name.
    pub names: Vec<DomainPattern>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Pair {
    /// Reads and checks both files.
    pub(super) fn read(source: &Source) -> Result<Self, CertificateFault> {
        let path = || source.cert_file.clone();
        let text = contents(&source.cert_file)?;
        let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let chain = chain.map_err(|error| CertificateFault::Pem { path: path(), error })?;
        let Some(leaf) = chain.first() else { return Err(CertificateFault::NoCertificate { path: path() }) };
        let (_, leaf) =
            X509Certificate::from_der(leaf).map_err(|_| CertificateFault::NotX509 { path: path() })?;
        let names = names_of(&leaf);
        let (not_before, not_after) =
            (instant(leaf.validity().not_before.timestamp()), instant(leaf.validity().not_after.timestamp()));

        let key_path = || source.key_file.clone();
        let text = contents(&source.key_file)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
            pem::Error::NoItemsFound => CertificateFault::NoKey { path: key_path() },
            error => CertificateFault::Pem { path: key_path(), error },
        })?;
        let key = CertifiedKey::from_der(chain, key, &default_provider()).map_err(|error| match error {
            TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                CertificateFault::KeyMismatch { cert_file: path(), key_file: key_path() }
            }
            error => CertificateFault::Unusable { path: key_path(), error },
        })?;
        Ok(Self { key: Arc::new(key), names, not_before, not_after })
    }

    /// Whether a client's clock that shows `now` accepts it.
    pub(super) fn validity_at(&self, now: SystemTime) -> Validity {
        if now < self.not_before {
            Validity::NotYet
        } else if now > self.not_after {
            Validity::Expired
        } else {
            Validity::Valid
        }
    }

    /// The names for people, comma-separated.
    pub(super) fn names_text(&self) -> String {
        let names: Vec<String> = self.names.iter().map(ToString::to_string).collect();
        names.join(", ")
    }
}

/// Two files that belong together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    pub(super) cert_file: PathBuf,
    pub(super) key_file: PathBuf,
    /// Named in the configuration, not found in the directory.
    pub(super) named: bool,
}

/// Whether a certificate's validity covers the present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Validity {
    Valid,
    NotYet,
    Expired,
}

/// What tells one version of two files from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp([Option<(SystemTime, u64, u64)>; 2]);

impl Stamp {
    /// Modification time, length and inode of both; none where a file is away.
    pub(super) fn of(source: &Source) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self([&source.cert_file, &source.key_file].map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
        }))
    }
}

/// Why a pair cannot be served.
#[derive(Debug, Error)]
pub enum CertificateFault {
    /// The file (or directory) cannot be read.
    #[error("{}: cannot be read: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Not PEM (RFC 7468).
    #[error("{}: not PEM: {error}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        error: pem::Error,
    },
    /// PEM, but no certificate in it.
    #[error("{}: contains no certificate", path.display())]
    NoCertificate {
        /// Which.
        path: PathBuf,
    },
    /// The leaf is not an X.509 certificate (RFC 5280).
    #[error("{}: the first certificate is not X.509", path.display())]
    NotX509 {
        /// Which.
        path: PathBuf,
    },
    /// PEM, but no private key in it.
    #[error("{}: contains no private key", path.display())]
    NoKey {
        /// Which.
        path: PathBuf,
    },
    /// Each is fine, together they are not.
    #[error("{}: the key in {} does not belong to this certificate", cert_file.display(), key_file.display())]
    KeyMismatch {
        /// The certificate.
        cert_file: PathBuf,
        /// The key.
        key_file: PathBuf,
    },
    /// A kind of key that cannot sign for TLS.
    #[error("{}: the key cannot be used: {error}", path.display())]
    Unusable {
        /// The key.
        path: PathBuf,
        /// Why.
        error: TlsError,
    },
}

impl CertificateFault {
    /// The file (or directory) at fault; of a mismatch, the certificate.
    pub fn path(&self) -> &Path {
        match self {
            Self::Unreadable { path, .. }
            | Self::Pem { path, .. }
            | Self::NoCertificate { path }
            | Self::NotX509 { path }
            | Self::NoKey { path }
            | Self::Unusable { path, .. }
            | Self::KeyMismatch { cert_file: path, .. } => path,
        }
    }
}

fn contents(path: &Path) -> Result<Vec<u8>, CertificateFault> {
    std::fs::read(path).map_err(|error| CertificateFault::Unreadable { path: path.to_owned(), error })
}

/// Names that DNS cannot carry are left out: no client can ask for them.
fn names_of(leaf: &X509Certificate<'_>) -> Vec<DomainPattern> {
    if let Ok(Some(alternatives)) = leaf.subject_alternative_name() {
        let names = alternatives.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => name.parse().ok(),
            _ => None,
        });
        return names.collect();
    }
    let common = leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok()?.parse().ok());
    common.collect()
}

fn instant(unix_seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(unix_seconds.unsigned_abs());
    let moved =
        if unix_seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    moved.unwrap_or(UNIX_EPOCH)
}
