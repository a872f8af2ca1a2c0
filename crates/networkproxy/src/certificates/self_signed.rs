//! Certificates made up for names that have none (`certificates.self_signed`, for development).
//!
//! *Owns* one key pair, made at start, and the certificates signed with it, each when its name is first
//! asked for. *Never* keeps more than [`SelfSigned::CAPACITY`] of them: names come from clients.
//! *Invariant*: a name that is asked for again gets the same certificate until the oldest had to go.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The made-up certificates of one process.
#[derive(Default)]
pub(super) struct SelfSigned {
    key: OnceLock<Option<KeyPair>>,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    by_name: HashMap<Box<str>, Arc<CertifiedKey>>,
    oldest_first: VecDeque<Box<str>>,
}

impl SelfSigned {
    /// At most so many are kept (about 2 KiB each).
    pub(super) const CAPACITY: usize = 1024;

    /// What is shown to a client that names no server: it reached us by an address of this machine.
    pub(super) const NAMELESS: &'static str = "localhost";

    /// The certificate for `name` (in normal form); none where no certificate can carry it.
    pub(super) fn of(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.by_name.get(name) {
            return Some(Arc::clone(known));
        }
        let certificate = Arc::new(self.make(name)?);
        if made.oldest_first.len() >= Self::CAPACITY
            && let Some(oldest) = made.oldest_first.pop_front()
        {
            made.by_name.remove(&oldest);
        }
        made.oldest_first.push_back(name.into());
        made.by_name.insert(name.into(), Arc::clone(&certificate));
        Some(certificate)
    }

    fn make(&self, name: &str) -> Option<CertifiedKey> {
        let key = self.key.get_or_init(|| KeyPair::generate().ok()).as_ref()?;
        let mut names = vec![name.to_owned()];
        if name == Self::NAMELESS {
            names.extend(["127.0.0.1".to_owned(), "::1".to_owned()]);
        }
        let mut params = CertificateParams::new(names).ok()?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "networkproxy, self-signed");
        let certificate = params.self_signed(key).ok()?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        CertifiedKey::from_der(vec![certificate.der().clone()], key, &default_provider()).ok()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(made.by_name.len(), made.oldest_first.len());
        made.by_name.len()
    }
}

impl std::fmt::Debug for SelfSigned {
    /// The key stays out of every log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfSigned").finish_non_exhaustive()
    }
}
