//! What the bytes before the traffic cost: ClientHello, PROXY headers, the hop header with its tag, names.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use runtime::preface::{
    CLIENT_HELLO_LIMIT, ClientHello, ClientHelloReader, HopClass, HopHeader, HopKey, PROXY_V2_LIMIT,
    Progress, ProxyV1, ProxyV2, ReplayWindow, canonical_name, classify,
};
use rustls::crypto::aws_lc_rs;

/// As a client's: one key share of X25519, or the post-quantum one beside it.
fn hellos() -> [(&'static str, Vec<u8>); 2] {
    let classic = {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        hello(provider)
    };
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
    [("classic", padded(classic, 517)), ("post-quantum", padded(hello(provider), 1_800))]
}

fn hello(provider: rustls::crypto::CryptoProvider) -> Vec<u8> {
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions that the provider has")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = "app.example.com".try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut wire = Vec::new();
    client.write_tls(&mut wire).expect("memory takes it");
    wire
}

/// With the padding extension (RFC 7685), as browsers send it, up to `size`.
fn padded(mut wire: Vec<u8>, size: usize) -> Vec<u8> {
    let Some(padding) = size.checked_sub(wire.len() + 4) else { return wire };
    // Record length, message length, and the length of the extensions: behind version, random, session id,
    // cipher suites and compression methods.
    let session = usize::from(wire[43]);
    let suites = usize::from(u16::from_be_bytes([wire[44 + session], wire[45 + session]]));
    let compressions = usize::from(wire[46 + session + suites]);
    for at in [3, 7, 47 + session + suites + compressions] {
        let length = u16::from_be_bytes([wire[at], wire[at + 1]]) + (padding + 4) as u16;
        wire[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
    wire.extend_from_slice(&[0, 21]);
    wire.extend_from_slice(&(padding as u16).to_be_bytes());
    wire.resize(size, 0);
    wire
}

fn client_hello(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("client_hello");
    for (kind, wire) in hellos() {
        let size = wire.len();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new(format!("{kind}, one piece"), size), |bencher| {
            bencher.iter(|| {
                let hello = ClientHello::parse(black_box(&wire), CLIENT_HELLO_LIMIT).expect("valid");
                assert!(matches!(hello, Progress::Complete(_)));
            });
        });
        group.bench_function(BenchmarkId::new(format!("{kind}, four pieces"), size), |bencher| {
            bencher.iter(|| {
                let mut reader = ClientHelloReader::new(CLIENT_HELLO_LIMIT);
                for quarter in 1..=4 {
                    black_box(reader.push(black_box(&wire[..size * quarter / 4])).expect("valid"));
                }
            });
        });
    }
    group.finish();
    criterion.bench_function("classify", |bencher| {
        bencher.iter(|| classify(black_box(b"GET / HTTP/1.1\r\n")));
    });
}

fn hop(criterion: &mut Criterion) {
    let header = HopHeader {
        client: ([192, 0, 2, 7], 40_000).into(),
        local: ([192, 0, 2, 1], 443).into(),
        server_name: Some("app.example.com".to_owned()),
        connection_id: 0x0192_f7a1_b2c3_7d4e_8f90_0123_4567_89ab,
        entry: "app".to_owned(),
        generation: 1,
        class: HopClass::Tls,
    };
    let key = HopKey::new(7, &[9; 32]);
    let mut group = criterion.benchmark_group("hop_header");
    let mut out = Vec::with_capacity(1_024);
    group.bench_function("encode and sign", |bencher| {
        bencher.iter(|| {
            out.clear();
            header.encode(&key, 1, &mut out).expect("it fits")
        });
    });
    group.bench_function("decode and verify", |bencher| {
        bencher.iter(|| {
            let Ok(Progress::Complete((unverified, _))) = HopHeader::decode(black_box(&out)) else {
                panic!("a whole header")
            };
            black_box(unverified.verify(|_| Some(&key)).expect("our key"))
        });
    });
    let mut window = ReplayWindow::new();
    let mut counter = 0;
    group.bench_function("replay window", |bencher| {
        bencher.iter(|| {
            counter += 1;
            window.accept(counter).expect("never used");
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("proxy_header");
    group.bench_function("v2, decode", |bencher| {
        bencher.iter(|| black_box(ProxyV2::parse(black_box(&out), PROXY_V2_LIMIT).expect("valid")));
    });
    group.bench_function("v1, decode", |bencher| {
        let line = b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 443\r\n";
        bencher.iter(|| black_box(ProxyV1::parse(black_box(line)).expect("valid")));
    });
    group.finish();
}

fn names(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("canonical_name");
    let longest = [[b'a'; 63].as_slice(); 4].join(&b'.')[..253].to_vec();
    for (kind, name) in [("usual", b"App.Example.com".as_slice()), ("longest", &longest)] {
        group.bench_function(kind, |bencher| {
            bencher.iter(|| canonical_name(black_box(name)).expect("a name").len());
        });
    }
    group.finish();
}

criterion_group!(benches, client_hello, hop, names);
criterion_main!(benches);
