//! The certificates that clients are shown, and the keys that belong to them.
//!
//! *Owns* what was read from the named files and the watched directory, which certificate answers which
//! server name, and the certificates made up for names that have none. *Never* writes a key, to disk or to
//! the log, and never touches a file while a client waits: [`CertificateStore::reload`] does, on its own
//! thread. *Invariant*: once a pair was good it is served until a good one replaces it or it is taken away
//! from the directory; a broken new file changes nothing but what [`CertificateStore::faults`] says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use config::{Certificates, DomainPattern, normal_name};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

mod pair;
mod self_signed;

pub use pair::{CertificateFault, Pair};
use pair::{Source, Stamp, Validity};
use self_signed::SelfSigned;

/// Every certificate of the process, shared by its workers.
#[derive(Debug)]
pub struct CertificateStore {
    settings: Certificates,
    read: Mutex<Read>,
    table: ArcSwap<Table>,
    self_signed: Option<SelfSigned>,
}

impl CertificateStore {
    /// Reads everything that `settings` name. What could not be read is in the notices; the store is usable
    /// either way.
    pub fn open(settings: Certificates, now: SystemTime) -> (Self, Vec<Notice>) {
        let self_signed = settings.self_signed.then(SelfSigned::default);
        let store = Self { settings, read: Mutex::default(), table: ArcSwap::default(), self_signed };
        let notices = store.reload(now);
        (store, notices)
    }

    /// Reads what changed on disk since the last call, and says what came of it. Blocks on files.
    pub fn reload(&self, now: SystemTime) -> Vec<Notice> {
        let mut inner = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut notices = Vec::new();
        let (mut sources, unreadable) = self.sources();
        if let Some(fault) = unreadable {
            // The directory as a whole cannot be read: everything in it stays as it was.
            if inner.directory_fault.is_none() {
                let fault = Arc::new(fault);
                notices.push(Notice {
                    cert_file: fault.path().to_owned(),
                    event: Event::Kept(Arc::clone(&fault)),
                });
                inner.directory_fault = Some(fault);
            }
            let known = inner.slots.iter().map(|slot| slot.source.clone()).filter(|source| !source.named);
            sources.extend(known.collect::<Vec<_>>());
        } else {
            inner.directory_fault = None;
        }
        let mut old: BTreeMap<Source, Slot> =
            inner.slots.drain(..).map(|slot| (slot.source.clone(), slot)).collect();
        for source in sources {
            let mut slot = old.remove(&source).unwrap_or_else(|| Slot::new(source));
            let cert_file = slot.source.cert_file.clone();
            notices.extend(
                slot.refresh(now).into_iter().map(|event| Notice { cert_file: cert_file.clone(), event }),
            );
            inner.slots.push(slot);
        }
        let gone =
            old.into_keys().map(|source| Notice { cert_file: source.cert_file, event: Event::Removed });
        notices.extend(gone);
        self.table.store(Arc::new(Table::new(&inner.slots)));
        notices
    }

    /// The certificate for `name`: its own, a wildcard of its parent, a made-up one where that is allowed,
    /// else the default (the first of `files`).
    pub fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let table = self.table.load();
        let name = name.map(normal_name);
        let own = name.as_deref().and_then(|name| table.of(name)).cloned();
        own.or_else(|| match (&self.self_signed, name) {
            (Some(made), Some(name)) => made.of(&name),
            (Some(made), None) => table.default.clone().or_else(|| made.of(SelfSigned::NAMELESS)),
            (None, _) => None,
        })
        .or_else(|| table.default.clone())
    }

    /// Which of the `wanted` names no certificate covers; where certificates are made up, none.
    pub fn uncovered<'w>(&self, wanted: &'w BTreeSet<DomainPattern>) -> Vec<&'w DomainPattern> {
        let table = self.table.load();
        let covered = |pattern: &DomainPattern| match pattern {
            DomainPattern::Exact(name) => table.of(name).is_some(),
            DomainPattern::Wildcard(parent) => table.wildcard.contains_key(parent),
        };
        wanted.iter().filter(|pattern| self.self_signed.is_none() && !covered(pattern)).collect()
    }

    /// What is wrong with files at the moment, one text each: for `GetStatus` and `--check`.
    pub fn faults(&self) -> Vec<String> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let of_pairs = read.slots.iter().filter_map(|slot| slot.fault.as_ref());
        read.directory_fault.iter().chain(of_pairs).map(ToString::to_string).collect()
    }

    /// What there is to read, in order of precedence; and the directory's own fault.
    fn sources(&self) -> (Vec<Source>, Option<CertificateFault>) {
        let named = self.settings.files.iter().map(|file| Source {
            cert_file: file.cert_file.clone(),
            key_file: file.key_file.clone(),
            named: true,
        });
        let mut sources: Vec<Source> = named.collect();
        let Some(directory) = &self.settings.directory else { return (sources, None) };
        match pairs_in(directory) {
            Ok(found) => sources.extend(found),
            Err(error) => {
                return (sources, Some(CertificateFault::Unreadable { path: directory.clone(), error }));
            }
        }
        (sources, None)
    }
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}

/// What became of a certificate at a [`CertificateStore::reload`].
#[derive(Debug)]
pub struct Notice {
    /// The certificate's file (or the directory's path).
    pub cert_file: PathBuf,
    /// What became of it.
    pub event: Event,
}

/// One thing that happened to a certificate.
#[derive(Debug)]
pub enum Event {
    /// It is served from now on.
    Loaded(Arc<Pair>),
    /// It is broken, and none was good before.
    Refused(Arc<CertificateFault>),
    /// It is broken; the one read before is still served.
    Kept(Arc<CertificateFault>),
    /// It is gone from the directory.
    Removed,
    /// It is served, and clients will refuse it: its validity has ended.
    Expired,
    /// It is served, and clients will refuse it: its validity has not begun.
    NotYetValid,
}

impl Event {
    /// Does this need an operator? (Loading and removing do not.)
    pub const fn is_fault(&self) -> bool {
        !matches!(self, Self::Loaded(_) | Self::Removed)
    }
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.cert_file.display();
        match &self.event {
            Event::Loaded(pair) => write!(f, "{file}: serving {}", pair.names_text()),
            Event::Refused(fault) => write!(f, "{fault}; nothing is served for it"),
            Event::Kept(fault) => write!(f, "{fault}; the certificate read before is still served"),
            Event::Removed => write!(f, "{file}: removed"),
            Event::Expired => write!(f, "{file}: the certificate has expired"),
            Event::NotYetValid => write!(f, "{file}: the certificate is not valid yet"),
        }
    }
}

/// What was read from disk.
#[derive(Debug, Default)]
struct Read {
    /// In order of precedence.
    slots: Vec<Slot>,
    directory_fault: Option<Arc<CertificateFault>>,
}

/// Which certificate answers which name, rebuilt at each reload.
#[derive(Debug, Default)]
struct Table {
    exact: HashMap<Arc<str>, Arc<CertifiedKey>>,
    /// By what follows `*.`.
    wildcard: HashMap<Arc<str>, Arc<CertifiedKey>>,
    /// The first of `files`, if it was ever good.
    default: Option<Arc<CertifiedKey>>,
}

impl Table {
    fn new(slots: &[Slot]) -> Self {
        let mut table = Self::default();
        for pair in slots.iter().filter_map(|slot| slot.good.as_ref()) {
            for name in &pair.names {
                let (map, name) = match name {
                    DomainPattern::Exact(name) => (&mut table.exact, name),
                    DomainPattern::Wildcard(parent) => (&mut table.wildcard, parent),
                };
                map.entry(Arc::clone(name)).or_insert_with(|| Arc::clone(&pair.key));
            }
        }
        let first = slots.first().filter(|slot| slot.source.named);
        table.default = first.and_then(|slot| slot.good.as_ref()).map(|pair| Arc::clone(&pair.key));
        table
    }

    /// `name` is in normal form. `*.` covers exactly one label (RFC 6125 section 6.4.3).
    fn of(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let parent = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(name).or_else(parent)
    }
}

/// One certificate and key on disk, and what was last read from them.
#[derive(Debug)]
struct Slot {
    source: Source,
    /// Of the files that were read last; none before the first time.
    stamp: Option<Stamp>,
    good: Option<Arc<Pair>>,
    fault: Option<Arc<CertificateFault>>,
    /// The validity that was last said.
    validity: Validity,
}

impl Slot {
    const fn new(source: Source) -> Self {
        Self { source, stamp: None, good: None, fault: None, validity: Validity::Valid }
    }

    /// Reads the files if they are not the ones read last, and says what changed.
    fn refresh(&mut self, now: SystemTime) -> Vec<Event> {
        let mut events = Vec::new();
        // The stamp is taken before the contents: a change in between shows at the next reload.
        let stamp = Stamp::of(&self.source);
        if self.stamp != Some(stamp) {
            self.stamp = Some(stamp);
            match Pair::read(&self.source) {
                Ok(pair) => {
                    let pair = Arc::new(pair);
                    self.good = Some(Arc::clone(&pair));
                    self.fault = None;
                    self.validity = Validity::Valid;
                    events.push(Event::Loaded(pair));
                }
                Err(fault) => {
                    let fault = Arc::new(fault);
                    self.fault = Some(Arc::clone(&fault));
                    events.push(if self.good.is_some() { Event::Kept(fault) } else { Event::Refused(fault) });
                }
            }
        }
        let validity = self.good.as_ref().map_or(Validity::Valid, |pair| pair.validity_at(now));
        if validity != self.validity {
            self.validity = validity;
            events.extend(match validity {
                Validity::Valid => None,
                Validity::Expired => Some(Event::Expired),
                Validity::NotYet => Some(Event::NotYetValid),
            });
        }
        events
    }
}

/// The pairs of a watched directory, by name: every `NAME.pem` that has its `NAME.key`, and every
/// `NAME/fullchain.pem` with its `NAME/privkey.pem`.
fn pairs_in(directory: &Path) -> std::io::Result<Vec<Source>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let (cert_file, key_file) = if path.is_dir() {
            (path.join("fullchain.pem"), path.join("privkey.pem"))
        } else if path.extension().is_some_and(|extension| extension == "pem") {
            (path.clone(), path.with_extension("key"))
        } else {
            continue;
        };
        // Half a pair is one being written, or a chain without its key: not ours to serve.
        if cert_file.is_file() && key_file.is_file() {
            found.push(Source { cert_file, key_file, named: false });
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
