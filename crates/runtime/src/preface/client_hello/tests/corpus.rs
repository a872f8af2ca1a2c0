//! Owns the hellos of the tests: captured from OpenSSL, made by rustls, and built by hand.
//! Never used outside of tests.
//! Invariant: every hello of `all` is valid, and is listed with what a router must find in it.

use std::sync::Arc;

use rustls::client::{EchGreaseConfig, EchMode};
use rustls::crypto::aws_lc_rs;

use super::super::{ClientHello, TlsVersion};

/// A valid hello and what is to be found in it.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) label: &'static str,
    pub(super) wire: Vec<u8>,
    pub(super) server_name: Option<&'static str>,
    pub(super) alpn: Vec<&'static [u8]>,
    pub(super) highest_version: u16,
    pub(super) has_ech: bool,
}

impl Sample {
    /// Asserts that `hello` is what the sample says.
    pub(super) fn assert_is(&self, hello: &ClientHello) {
        assert_eq!(hello.server_name.as_deref(), self.server_name, "{}", self.label);
        assert_eq!(hello.alpn.names().collect::<Vec<_>>(), self.alpn, "{}", self.label);
        assert_eq!(hello.highest_version, TlsVersion(self.highest_version), "{}", self.label);
        assert_eq!(hello.has_ech, self.has_ech, "{}", self.label);
        assert_eq!(hello.wire_len, self.wire.len(), "{}", self.label);
    }
}

/// Every hello that must be understood.
pub(super) fn all() -> Vec<Sample> {
    let openssl = |label, text, server_name, alpn, highest_version| Sample {
        label,
        wire: hex(text),
        server_name,
        alpn,
        highest_version,
        has_ech: false,
    };
    let mut samples = vec![
        openssl("openssl -tls1", OPENSSL_TLS10, Some("old.example.com"), vec![], 0x0301),
        openssl("openssl -tls1_1 -noservername", OPENSSL_TLS11, None, vec![], 0x0302),
        openssl(
            "openssl -tls1_2 -alpn h2,http/1.1",
            OPENSSL_TLS12,
            Some("twelve.example"),
            vec![b"h2", b"http/1.1"],
            0x0303,
        ),
        openssl("openssl -tls1_3 -alpn h2", OPENSSL_TLS13, Some("thirteen.example"), vec![b"h2"], 0x0304),
        openssl("openssl, all versions", OPENSSL_ANY, Some("any.example"), vec![], 0x0304),
        grease(),
        extensionless(),
    ];
    samples.extend(from_rustls());
    for fragment in [1, 7, 600] {
        let wire = in_records(&big(1000)[5..], fragment);
        samples.push(Sample { label: "built, in many records", wire, ..grease() });
    }
    let largest = big(super::CLIENT_HELLO_LIMIT);
    samples.push(Sample { label: "built, as large as may be", wire: largest, ..grease() });
    samples
}

/// The hellos of rustls: post-quantum key shares by default, GREASE ECH, no SNI, TLS 1.2 alone.
fn from_rustls() -> Vec<Sample> {
    let suite = aws_lc_rs::hpke::ALL_SUPPORTED_SUITES[0];
    let (public, _) = suite.generate_key_pair().unwrap();
    let ech = EchMode::Grease(EchGreaseConfig::new(suite, public));
    let builder = || rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let finish = |builder: rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier>| {
        builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
    };
    let wire = |config: rustls::ClientConfig| {
        let name = "rustls.example.com".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        wire
    };
    let sample = |label, wire: Vec<u8>| Sample {
        label,
        wire,
        server_name: Some("rustls.example.com"),
        alpn: vec![],
        highest_version: 0x0304,
        has_ech: false,
    };

    let post_quantum = wire(finish(builder().with_safe_default_protocol_versions().unwrap()));
    assert!(post_quantum.len() > 1200, "X25519MLKEM768 is the default: {} bytes", post_quantum.len());
    let mut config = finish(builder().with_safe_default_protocol_versions().unwrap());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let alpn = wire(config);
    let mut config = finish(builder().with_safe_default_protocol_versions().unwrap());
    config.enable_sni = false;
    let no_sni = wire(config);
    let tls12 = wire(finish(builder().with_protocol_versions(&[&rustls::version::TLS12]).unwrap()));
    let grease_ech = wire(finish(builder().with_ech(ech).unwrap()));
    vec![
        sample("rustls, post-quantum", post_quantum),
        Sample { alpn: vec![b"h2", b"http/1.1"], ..sample("rustls, ALPN", alpn) },
        Sample { server_name: None, ..sample("rustls, no SNI", no_sni) },
        Sample { highest_version: 0x0303, ..sample("rustls, TLS 1.2", tls12) },
        Sample { has_ech: true, ..sample("rustls, GREASE ECH", grease_ech) },
    ]
}

/// A hello with GREASE (RFC 8701) wherever a browser puts it.
fn grease() -> Sample {
    let extensions = [
        extension(0x3a3a, &[]),
        server_name("Grease.Example"),
        extension(43, &[6, 0x7a, 0x7a, 3, 4, 3, 3]),
        extension(16, &[0, 8, 2, 0xaa, 0xaa, 2, b'h', b'2', 1, b'x']),
        extension(51, &[0, 5, 0x9a, 0x9a, 0, 1, 0]),
        extension(0xcaca, &[0]),
    ];
    Sample {
        label: "built, GREASE",
        wire: record(&message(&extensions.concat())),
        server_name: Some("grease.example"),
        alpn: vec![b"\xaa\xaa", b"h2", b"x"],
        highest_version: 0x0304,
        has_ech: false,
    }
}

/// A hello as before RFC 3546, without even the length of the extensions.
fn extensionless() -> Sample {
    Sample {
        label: "built, no extensions",
        wire: record(&handshake(1, &body_before_extensions())),
        server_name: None,
        alpn: vec![],
        highest_version: 0x0303,
        has_ech: false,
    }
}

/// The hello of `grease` with padding (RFC 7685), `length` bytes long in one record.
pub(super) fn big(length: usize) -> Vec<u8> {
    let small = grease().wire;
    let padding = vec![0; length - small.len() - 4];
    let extensions =
        [&small[5 + 4 + body_before_extensions().len() + 2..], &extension(21, &padding)].concat();
    record(&message(&extensions))
}

/// A ClientHello message with these extensions.
pub(super) fn message(extensions: &[u8]) -> Vec<u8> {
    let length = u16::try_from(extensions.len()).unwrap().to_be_bytes();
    handshake(1, &[&body_before_extensions(), &length[..], extensions].concat())
}

/// Version 3.3, a random, no session id, two cipher suites (one GREASE), no compression.
pub(super) fn body_before_extensions() -> Vec<u8> {
    [&[3, 3][..], &[0x77; 32], &[0], &[0, 4, 0x8a, 0x8a, 0x13, 0x01], &[1, 0]].concat()
}

pub(super) fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], body].concat()
}

pub(super) fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    [&kind.to_be_bytes()[..], &length.to_be_bytes(), body].concat()
}

pub(super) fn server_name(name: &str) -> Vec<u8> {
    let length = u16::try_from(name.len()).unwrap();
    let list = (length + 3).to_be_bytes();
    extension(0, &[&list[..], &[0], &length.to_be_bytes(), name.as_bytes()].concat())
}

/// `message` in one handshake record.
pub(super) fn record(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    [&[22, 3, 1][..], &length, message].concat()
}

/// `message` in records of `fragment` bytes.
pub(super) fn in_records(message: &[u8], fragment: usize) -> Vec<u8> {
    message.chunks(fragment).flat_map(record).collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a hexadecimal digit") as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// OpenSSL 3.0: `s_client -tls1 -cipher DEFAULT@SECLEVEL=0 -servername Old.Example.com`.
const OPENSSL_TLS10: &str = "\
    160301007b01000077030174936ae169e928812d096b99a10cf4315ae614e1821e11d6e349784f35dffa8c000012c00a\
    c0140039c009c01300330035002f00ff0100003c00000014001200000f4f6c642e4578616d706c652e636f6d000b0004\
    03000102000a000c000a001d0017001e00190018002300000016000000170000";
/// OpenSSL 3.0: `s_client -tls1_1 -cipher DEFAULT@SECLEVEL=0 -noservername`.
const OPENSSL_TLS11: &str = "\
    16030100630100005f030224cd49a2622552fcb8174fcde44ab49ac0d6204a5a367de6e2d536b3e0896bb4000012c00a\
    c0140039c009c01300330035002f00ff01000024000b000403000102000a000c000a001d0017001e0019001800230000\
    0016000000170000";
/// OpenSSL 3.0: `s_client -tls1_2 -servername twelve.example -alpn h2,http/1.1`.
const OPENSSL_TLS12: &str = "\
    16030100e0010000dc03035f338da56d2136809d7769f811c954f544503f912168d182c3b24f549e028226000038c02c\
    c030009fcca9cca8ccaac02bc02f009ec024c028006bc023c0270067c00ac0140039c009c0130033009d009c003d003c\
    0035002f00ff0100007b00000013001100000e7477656c76652e6578616d706c65000b000403000102000a000c000a00\
    1d0017001e00190018002300000010000e000c02683208687474702f312e310016000000170000000d002a0028040305\
    030603080708080809080a080b080408050806040105010601030303010302040205020602";
/// OpenSSL 3.0: `s_client -tls1_3 -servername thirteen.example -alpn h2`.
const OPENSSL_TLS13: &str = "\
    16030100fe010000fa03034b84ad91aedd37e75d1bf1566119a5b69c579656eddcd06cd9042a8051db758620ae05d2ee\
    b92877fdf34d4edf88f7e4459ccdcdaf13236b69ed1fb3543086d6e3000813021303130100ff010000a9000000150013\
    000010746869727465656e2e6578616d706c65000b000403000102000a00160014001d0017001e001900180100010101\
    0201030104002300000010000500030268320016000000170000000d001e001c040305030603080708080809080a080b\
    080408050806040105010601002b0003020304002d00020101003300260024001d0020676f1bdfc2711bd49d13878e55\
    275c9476a2d07e2d1b2957c28fd161c2507f55";
/// OpenSSL 3.0: `s_client -servername any.example`.
const OPENSSL_ANY: &str = "\
    160301013801000134030325b5228a8dc1f8374316a29e7c312543f1de17707b0738d5c9d4285a99f56e4020bc878ca6\
    60946f991fcadc4c8c57edac5b215e34951ebb98b52db7f5a5e99d1d003e130213031301c02cc030009fcca9cca8ccaa\
    c02bc02f009ec024c028006bc023c0270067c00ac0140039c009c0130033009d009c003d003c0035002f00ff010000ad\
    00000010000e00000b616e792e6578616d706c65000b000403000102000a00160014001d0017001e0019001801000101\
    010201030104002300000016000000170000000d002a0028040305030603080708080809080a080b0804080508060401\
    05010601030303010302040205020602002b0009080304030303020301002d00020101003300260024001d0020069dd1\
    2ed3b6988b6c7721f4a132bd3180d4515d4135bf8ea62f21deef240f13";
