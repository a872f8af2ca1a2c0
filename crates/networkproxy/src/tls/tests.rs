//! Handshakes with real clients: what is agreed on, what is refused, and what each failure is called.

use std::time::SystemTime;

use config::Certificates;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::TlsConnector;

use super::*;

const SETTINGS: config::Tls = config::Tls { min_version: TlsVersion::V1_2, session_tickets: true };

fn store(self_signed: bool) -> Arc<CertificateStore> {
    let settings = Certificates { files: vec![], directory: None, self_signed };
    Arc::new(CertificateStore::open(settings, SystemTime::now()).0)
}

/// What `store` would show.
fn roots(store: &CertificateStore) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    if let Some(key) = store.choose(Some("a.example")) {
        roots.add(CertificateDer::from(key.cert[0].to_vec())).unwrap();
    }
    roots
}

/// A client that trusts exactly what `store` would show it.
fn client(store: &CertificateStore, alpn: &[&str]) -> ClientConfig {
    let roots = roots(store);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

type Client = io::Result<tokio_rustls::client::TlsStream<DuplexStream>>;
type Server = Result<TlsStream<DuplexStream>, (TlsFailure, DuplexStream)>;

async fn shake(offer: &TlsOffer, protocol: Protocol, config: Arc<ClientConfig>) -> (Client, Server) {
    let (theirs, ours) = duplex(64 * 1024);
    let name = ServerName::try_from("a.example").unwrap();
    let connect = TlsConnector::from(config).connect(name, theirs);
    tokio::join!(connect, offer.accept(protocol, ours, |_| ()))
}

#[tokio::test]
async fn a_handshake_is_described_as_it_was_agreed_and_tickets_resume_it() {
    let store = store(true);
    let offer = TlsOffer::new(&SETTINGS, &store).unwrap();
    let config = Arc::new(client(&store, &["http/1.1", "h2"]));
    for resumed in [false, true] {
        let (theirs, ours) = shake(&offer, Protocol::Http, Arc::clone(&config)).await;
        let (mut theirs, mut ours) = (theirs.unwrap(), ours.unwrap());
        let tls = agreed(ours.get_ref().1);
        assert_eq!((&*tls.version, tls.alpn.as_deref(), tls.resumed), ("TLSv1.3", Some("h2"), resumed));
        assert!(tls.cipher.starts_with("TLS_AES_"), "{}", tls.cipher);
        // The ticket comes with the first bytes after the handshake.
        ours.write_all(b"x").await.unwrap();
        theirs.read_exact(&mut [0]).await.unwrap();
    }
}

/// AES-128 is chosen whatever a client's order, unless the client shows by its order that it lacks AES in hardware.
#[tokio::test]
async fn the_cheapest_cipher_is_chosen_for_both_ends() {
    use CipherSuite as C;
    let store = store(true);
    let offer = TlsOffer::new(&SETTINGS, &store).unwrap();
    let (aes_128, aes_256) = (C::TLS13_AES_128_GCM_SHA256, C::TLS13_AES_256_GCM_SHA384);
    let chacha20 = C::TLS13_CHACHA20_POLY1305_SHA256;
    for (theirs, chosen) in [
        (vec![aes_256, chacha20, aes_128], "TLS_AES_128_GCM_SHA256"),
        (vec![aes_256, chacha20], "TLS_AES_256_GCM_SHA384"),
        (vec![chacha20, aes_128, aes_256], "TLS_CHACHA20_POLY1305_SHA256"),
    ] {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| theirs.contains(&suite.suite()));
        provider.cipher_suites.sort_by_key(|suite| theirs.iter().position(|their| *their == suite.suite()));
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_root_certificates(roots(&store))
            .with_no_client_auth();
        let (_, ours) = shake(&offer, Protocol::Tcp, Arc::new(config)).await;
        assert_eq!(&*agreed(ours.unwrap().get_ref().1).cipher, chosen, "{theirs:?}");
    }
}

#[tokio::test]
async fn without_tickets_nothing_is_resumed() {
    let store = store(true);
    let settings = config::Tls { session_tickets: false, ..SETTINGS };
    let offer = TlsOffer::new(&settings, &store).unwrap();
    let config = Arc::new(client(&store, &[]));
    for _ in 0..2 {
        let (theirs, ours) = shake(&offer, Protocol::Http, Arc::clone(&config)).await;
        let (mut theirs, mut ours) = (theirs.unwrap(), ours.unwrap());
        assert!(!agreed(ours.get_ref().1).resumed);
        ours.write_all(b"x").await.unwrap();
        theirs.read_exact(&mut [0]).await.unwrap();
    }
}

#[tokio::test]
async fn an_older_version_is_refused_where_the_file_says_so() {
    let store = store(true);
    let settings = config::Tls { min_version: TlsVersion::V1_3, ..SETTINGS };
    let offer = TlsOffer::new(&settings, &store).unwrap();
    let old = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&version::TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let old = Arc::new(old);
    let (theirs, ours) = shake(&offer, Protocol::Http, Arc::clone(&old)).await;
    assert!(matches!(ours, Err((TlsFailure::Protocol(_), _))), "{ours:?}");
    assert!(theirs.unwrap_err().to_string().contains("ProtocolVersion"));

    let offer = TlsOffer::new(&SETTINGS, &store).unwrap();
    let (_, ours) = shake(&offer, Protocol::Http, old).await;
    assert!(matches!(ours, Err((TlsFailure::Alert(_), _))), "1.2 gets as far as the certificate: {ours:?}");
}

#[tokio::test]
async fn an_opaque_protocol_negotiates_nothing_and_refuses_no_offer() {
    let store = store(true);
    let offer = TlsOffer::new(&SETTINGS, &store).unwrap();
    let config = Arc::new(client(&store, &["imap"]));
    let (_, ours) = shake(&offer, Protocol::Tcp, Arc::clone(&config)).await;
    assert_eq!(agreed(ours.unwrap().get_ref().1).alpn, None);
    let (theirs, ours) = shake(&offer, Protocol::Http, config).await;
    assert!(matches!(ours, Err((TlsFailure::Protocol(_), _))));
    assert!(theirs.unwrap_err().to_string().contains("NoApplicationProtocol"));
}

/// a missing certificate is our fault and named so; a client that does not like ours says so itself.
#[tokio::test]
async fn a_missing_certificate_and_an_unliked_one_are_told_apart() {
    let none = store(false);
    let offer = TlsOffer::new(&SETTINGS, &none).unwrap();
    let (theirs, ours) = shake(&offer, Protocol::Http, Arc::new(client(&none, &[]))).await;
    assert!(matches!(ours, Err((TlsFailure::NoCertificate, _))), "{ours:?}");
    assert!(theirs.is_err());

    let offer = TlsOffer::new(&SETTINGS, &store(true)).unwrap();
    let (_, ours) = shake(&offer, Protocol::Http, Arc::new(client(&none, &[]))).await;
    let Err((TlsFailure::Alert(alert), _)) = ours else { panic!("{ours:?}") };
    assert_eq!(alert_name(alert), "unknown_ca");
}

#[tokio::test]
async fn garbage_and_a_vanished_client_are_told_apart() {
    let offer = TlsOffer::new(&SETTINGS, &store(true)).unwrap();
    for (bytes, is_protocol) in [(&b"GET / HTTP/1.1\r\n\r\n"[..], true), (b"\x16\x03\x01", false)] {
        let (mut theirs, ours) = duplex(1024);
        theirs.write_all(bytes).await.unwrap();
        drop(theirs);
        let failure = offer.accept(Protocol::Http, ours, |_| ()).await.unwrap_err().0;
        assert_eq!(matches!(failure, TlsFailure::Protocol(_)), is_protocol, "{failure}");
        assert_eq!(matches!(failure, TlsFailure::Socket(_)), !is_protocol, "{failure}");
    }
}

#[test]
fn an_alert_without_a_name_keeps_its_number() {
    assert_eq!(alert_name(AlertDescription::from(222)), "alert_222");
    assert_eq!(alert_name(AlertDescription::CertificateExpired), "certificate_expired");
}
