//! Certificates from files: which one is chosen, which are refused, and how they are reloaded.

use std::fs;
use std::time::Duration;

use config::CertificateFile;
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;

/// A directory of certificates, changed by the test between reloads.
struct Disk {
    dir: TempDir,
}

impl Disk {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a fresh pair for `names`, valid in `years`.
    fn issue(&self, cert: &str, key: &str, names: &[&str], years: std::ops::Range<i32>) {
        let key_pair = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        fs::create_dir_all(self.path(cert).parent().unwrap()).unwrap();
        fs::write(self.path(cert), params.self_signed(&key_pair).unwrap().pem()).unwrap();
        fs::write(self.path(key), key_pair.serialize_pem()).unwrap();
    }

    fn file(&self, cert: &str, key: &str) -> CertificateFile {
        CertificateFile { cert_file: self.path(cert), key_file: self.path(key) }
    }

    fn open(&self, files: Vec<CertificateFile>, directory: Option<&str>) -> (CertificateStore, Vec<Notice>) {
        let directory = directory.map(|name| self.path(name));
        CertificateStore::open(Certificates { files, directory, self_signed: false }, now())
    }
}

/// 2026, whatever the machine's clock says.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

/// The leaf that the store chooses, to be compared.
fn leaf(store: &CertificateStore, name: Option<&str>) -> Option<Vec<u8>> {
    store.choose(name).map(|key| key.cert[0].to_vec())
}

fn leaf_in(path: &Path) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject as _;
    rustls_pki_types::CertificateDer::from_pem_file(path).unwrap().to_vec()
}

fn is_fault(notices: &[Notice]) -> Vec<bool> {
    notices.iter().map(|notice| notice.event.is_fault()).collect()
}

#[test]
fn a_certificate_is_chosen_by_exact_name_then_wildcard_then_default() {
    let disk = Disk::new();
    disk.issue("a.pem", "a.key", &["first.example"], 2020..2030);
    disk.issue("w.pem", "w.key", &["*.w.example"], 2020..2030);
    disk.issue("x.pem", "x.key", &["x.w.example"], 2020..2030);
    let files = vec![disk.file("a.pem", "a.key"), disk.file("w.pem", "w.key"), disk.file("x.pem", "x.key")];
    let (store, notices) = disk.open(files, None);
    assert_eq!(is_fault(&notices), [false, false, false]);
    for (name, file) in [
        (Some("x.w.example"), "x.pem"),
        (Some("X.W.Example."), "x.pem"),
        (Some("y.w.example"), "w.pem"),
        (Some("w.example"), "a.pem"),
        (Some("a.b.w.example"), "a.pem"),
        (Some("unknown.test"), "a.pem"),
        (None, "a.pem"),
    ] {
        assert_eq!(leaf(&store, name), Some(leaf_in(&disk.path(file))), "{name:?}");
    }
}

#[test]
fn a_directory_holds_pairs_in_both_forms_and_gives_no_default() {
    let disk = Disk::new();
    disk.issue("live/a.example.pem", "live/a.example.key", &["a.example"], 2020..2030);
    disk.issue("live/b.example/fullchain.pem", "live/b.example/privkey.pem", &["b.example"], 2020..2030);
    fs::write(disk.path("live/half.pem"), "no key beside it").unwrap();
    fs::write(disk.path("live/README"), "text").unwrap();
    let (store, notices) = disk.open(vec![], Some("live"));
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert_eq!(leaf(&store, Some("a.example")), Some(leaf_in(&disk.path("live/a.example.pem"))));
    assert_eq!(leaf(&store, Some("b.example")), Some(leaf_in(&disk.path("live/b.example/fullchain.pem"))));
    assert_eq!(leaf(&store, Some("c.example")), None);
    assert_eq!(leaf(&store, None), None);

    disk.issue("live/c.example.pem", "live/c.example.key", &["c.example"], 2020..2030);
    fs::remove_file(disk.path("live/a.example.key")).unwrap();
    let notices = store.reload(now());
    assert!(matches!(notices[0].event, Event::Loaded(_)), "{notices:?}");
    assert!(matches!(notices[1].event, Event::Removed), "{notices:?}");
    assert!(leaf(&store, Some("c.example")).is_some());
    assert_eq!(leaf(&store, Some("a.example")), None);

    fs::rename(disk.path("live"), disk.path("elsewhere")).unwrap();
    assert_eq!(is_fault(&store.reload(now())), [true, true, true], "the directory and what was in it");
    assert!(leaf(&store, Some("c.example")).is_some(), "an unreadable directory takes nothing away");
    assert!(store.reload(now()).is_empty(), "said once");
    assert_eq!(store.faults().len(), 3);
}

#[test]
fn a_changed_file_is_picked_up_and_a_broken_one_keeps_the_last_good_one_and_says_so() {
    let disk = Disk::new();
    disk.issue("a.pem", "a.key", &["a.example"], 2020..2030);
    let (store, _) = disk.open(vec![disk.file("a.pem", "a.key")], None);
    let first = leaf(&store, Some("a.example")).unwrap();
    assert!(store.reload(now()).is_empty(), "nothing changed, nothing said");

    disk.issue("a.pem", "a.key", &["a.example", "more.example"], 2020..2030);
    let notices = store.reload(now());
    assert!(matches!(&notices[..], [Notice { event: Event::Loaded(_), .. }]), "{notices:?}");
    let second = leaf(&store, Some("more.example")).unwrap();
    assert_ne!(first, second);

    fs::write(disk.path("a.pem"), "-----BEGIN CERTIFICATE-----\nbroken").unwrap();
    let notices = store.reload(now());
    assert!(matches!(&notices[..], [Notice { event: Event::Kept(_), .. }]), "{notices:?}");
    assert!(notices[0].to_string().contains("still served"), "{}", notices[0]);
    assert_eq!(leaf(&store, Some("a.example")), Some(second.clone()));
    assert_eq!(store.faults().len(), 1);
    assert!(store.reload(now()).is_empty(), "said once");

    fs::remove_file(disk.path("a.pem")).unwrap();
    assert!(matches!(&store.reload(now())[..], [Notice { event: Event::Kept(_), .. }]));
    assert_eq!(leaf(&store, Some("a.example")), Some(second), "a named file that is away is served on");

    disk.issue("a.pem", "a.key", &["a.example"], 2020..2030);
    assert!(matches!(&store.reload(now())[..], [Notice { event: Event::Loaded(_), .. }]));
    assert!(store.faults().is_empty());
}

#[test]
fn each_fault_of_a_pair_is_told_apart() {
    let disk = Disk::new();
    disk.issue("good.pem", "good.key", &["a.example"], 2020..2030);
    disk.issue("other.pem", "other.key", &["b.example"], 2020..2030);
    fs::write(disk.path("empty"), "").unwrap();
    let not_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(disk.path("not_x509"), not_x509).unwrap();
    fs::write(disk.path("not_pem"), "-----BEGIN CERTIFICATE-----\n$$$$\n-----END CERTIFICATE-----\n")
        .unwrap();
    let garbage_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    fs::write(disk.path("garbage.key"), garbage_key).unwrap();
    for (cert, key, words) in [
        ("good.pem", "other.key", "does not belong"),
        ("absent", "good.key", "cannot be read"),
        ("empty", "good.key", "contains no certificate"),
        ("not_x509", "good.key", "not X.509"),
        ("not_pem", "good.key", "not PEM"),
        ("good.pem", "empty", "contains no private key"),
        ("good.pem", "garbage.key", "cannot be used"),
    ] {
        let (store, notices) = disk.open(vec![disk.file(cert, key)], None);
        let [Notice { event: Event::Refused(fault), .. }] = &notices[..] else { panic!("{notices:?}") };
        assert!(fault.to_string().contains(words), "{fault}");
        assert_eq!(store.faults(), [fault.to_string()]);
        assert!(leaf(&store, None).is_none());
    }
}

#[test]
fn expiry_is_said_at_the_start_and_when_it_comes() {
    let disk = Disk::new();
    disk.issue("old.pem", "old.key", &["old.example"], 2000..2010);
    disk.issue("new.pem", "new.key", &["new.example"], 2040..2050);
    disk.issue("now.pem", "now.key", &["now.example"], 2020..2030);
    let files = ["old", "new", "now"].map(|n| disk.file(&format!("{n}.pem"), &format!("{n}.key"))).to_vec();
    let (store, notices) = disk.open(files, None);
    assert!(
        matches!(
            notices.iter().map(|n| &n.event).collect::<Vec<_>>()[..],
            [Event::Loaded(_), Event::Expired, Event::Loaded(_), Event::NotYetValid, Event::Loaded(_)]
        ),
        "{notices:?}"
    );
    let later = now() + Duration::from_hours(5 * 365 * 24);
    let notices = store.reload(later);
    assert!(matches!(&notices[..], [Notice { event: Event::Expired, .. }]), "{notices:?}");
    assert!(store.reload(later).is_empty(), "said once");
    assert!(leaf(&store, Some("now.example")).is_some(), "an expired certificate is better than none");
}

#[test]
fn names_without_a_certificate_are_told() {
    let disk = Disk::new();
    disk.issue("a.pem", "a.key", &["a.example", "*.w.example"], 2020..2030);
    let (store, _) = disk.open(vec![disk.file("a.pem", "a.key")], None);
    let wanted: BTreeSet<DomainPattern> =
        ["a.example", "x.w.example", "*.w.example", "b.example", "*.b.example"]
            .map(|name| name.parse().unwrap())
            .into();
    let uncovered: Vec<String> = store.uncovered(&wanted).iter().map(ToString::to_string).collect();
    assert_eq!(uncovered, ["b.example", "*.b.example"]);
}

#[test]
fn made_up_certificates_are_made_once_per_name_and_bounded() {
    let settings = Certificates { files: vec![], directory: None, self_signed: true };
    let (store, _) = CertificateStore::open(settings, now());
    let first = leaf(&store, Some("dev.example")).unwrap();
    assert_eq!(leaf(&store, Some("DEV.example")), Some(first.clone()));
    assert_ne!(leaf(&store, Some("other.example")), Some(first.clone()));
    assert!(leaf(&store, None).is_some(), "a client may come by address");
    for n in 0..SelfSigned::CAPACITY {
        assert!(leaf(&store, Some(&format!("n{n}.example"))).is_some());
    }
    assert_eq!(store.self_signed.as_ref().unwrap().len(), SelfSigned::CAPACITY);
    assert_ne!(leaf(&store, Some("dev.example")), Some(first), "the oldest had to go");
    assert!(store.uncovered(&BTreeSet::from(["z.example".parse().unwrap()])).is_empty());
}

#[test]
fn a_file_goes_before_a_made_up_certificate_but_does_not_answer_for_other_names() {
    let disk = Disk::new();
    disk.issue("a.pem", "a.key", &["a.example"], 2020..2030);
    let settings =
        Certificates { files: vec![disk.file("a.pem", "a.key")], directory: None, self_signed: true };
    let (store, _) = CertificateStore::open(settings, now());
    let own = leaf_in(&disk.path("a.pem"));
    assert_eq!(leaf(&store, Some("a.example")), Some(own.clone()));
    assert_eq!(leaf(&store, None), Some(own.clone()));
    assert_ne!(leaf(&store, Some("b.example")), Some(own));
}
