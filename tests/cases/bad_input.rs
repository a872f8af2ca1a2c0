//! What no well-behaved client sends: each gets its own reason, leaves nothing behind, and disturbs nobody.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::client::tls::Tls;
use e2e::client::{Ending, connect, echo, read_to_end, will_reset};
use e2e::target::Target;
use e2e::wait::SOON;
use e2e::{Address, Pair, Route, Setup, Which};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// A pair with a TLS port, a clear-text HTTP port, and a TLS client on it that must not notice anything.
struct Stage {
    pair: Pair,
    bystander: tokio_rustls::client::TlsStream<TcpStream>,
    target: Target,
}

impl Stage {
    async fn start() -> Result<Self> {
        let address = Address::next();
        let target = Target::tls_echo(address, "app.test").await?;
        let routes = [
            Route::passthrough("app", target.address()).domain("app.test"),
            Route::terminate_answer("status", "respond: { status_page: true }").domain("ended.test"),
            Route::http_answer("clear", "respond: { status: 200, body: hello }"),
        ];
        let setup =
            Setup::new(routes).timeout("initial_data", "700ms").inner_timeout("request_header", "700ms");
        let pair = Pair::start(address, setup).await?;
        let mut bystander = Tls::to("app.test").connect(pair.tls()).await?;
        echo(&mut bystander, b"before").await?;
        Ok(Self { pair, bystander, target })
    }

    /// Sends `bytes` to the TLS port and expects RST and this reason.
    async fn refused(&self, bytes: &[u8], reason: &str, initiator: &str) -> Result<()> {
        let mut client = connect(self.pair.tls()).await?;
        let from = client.local_addr()?;
        // The proxy may have seen enough before all is sent.
        drop(client.write_all(bytes).await);
        let (got, ending) = read_to_end(&mut client, SOON).await.with_context(|| reason.to_owned())?;
        assert_eq!((got.len(), ending), (0, Ending::Reset), "{reason}");
        self.pair.ended_with(from, reason, initiator).await?;
        Ok(())
    }

    async fn undisturbed(mut self) -> Result<()> {
        echo(&mut self.bystander, b"after").await?;
        assert_eq!(self.target.accepted(), 1, "nothing but the bystander reached the target");
        drop(self.bystander);
        self.pair.teardown().await
    }
}

/// garbage on a TLS port.
#[tokio::test]
async fn garbage_is_not_tls() -> Result<()> {
    let stage = Stage::start().await?;
    stage.refused(b"\x00\x01\x02garbage\xff\xfe", "not_tls", "client").await?;
    stage.refused(b"SSH-2.0-OpenSSH_9.2\r\n", "not_tls", "client").await?;
    stage.undisturbed().await
}

/// 64 KiB without a newline, on the TLS port.
#[tokio::test]
async fn a_long_line_without_an_end_is_not_tls() -> Result<()> {
    let stage = Stage::start().await?;
    stage.refused(&vec![b'a'; 65_536], "not_tls", "client").await?;
    stage.undisturbed().await
}

/// HTTP in clear text on a TLS port has a reason of its own.
#[tokio::test]
async fn plain_http_on_a_tls_port_is_named_so() -> Result<()> {
    let stage = Stage::start().await?;
    let reason = "plain_http_on_tls_port";
    stage.refused(b"GET / HTTP/1.1\r\nhost: app.test\r\n\r\n", reason, "client").await?;
    stage.refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", reason, "client").await?;
    stage.undisturbed().await
}

/// what begins like TLS and is no hello.
#[tokio::test]
async fn a_broken_hello_is_named_so() -> Result<()> {
    let stage = Stage::start().await?;
    let hello = Tls::to("app.test").hello()?;
    // A handshake message of another type (2, a ServerHello).
    let mut other = hello.clone();
    other[5] = 2;
    stage.refused(&other, "client_hello_invalid", "client").await?;
    // An extension block that is longer than the message.
    let mut long = hello.clone();
    let session = usize::from(long[43]);
    let ciphers = 44 + session;
    let extensions = ciphers + 2 + usize::from(u16::from_be_bytes([long[ciphers], long[ciphers + 1]])) + 2;
    long[extensions] = 0xff;
    stage.refused(&long, "client_hello_invalid", "client").await?;
    // A message of more than the 16 KiB that a hello may have.
    let mut huge = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    huge.resize(5 + 0x4000, 0);
    stage.refused(&huge, "client_hello_invalid", "client").await?;
    stage.undisturbed().await
}

/// half a hello, and nothing more, ends at `initial_data` and not before.
#[tokio::test]
async fn half_a_hello_ends_at_its_deadline_and_not_before() -> Result<()> {
    let stage = Stage::start().await?;
    let hello = Tls::to("app.test").hello()?;
    let start = Instant::now();
    stage.refused(&hello[..hello.len() / 2], "initial_data_timeout", "smartproxy").await?;
    assert!(start.elapsed() >= Duration::from_millis(690));
    stage.refused(b"", "initial_data_timeout", "smartproxy").await?;
    stage.undisturbed().await
}

/// one byte at a time does not put the deadline off.
#[tokio::test]
async fn one_byte_at_a_time_does_not_put_the_deadline_off() -> Result<()> {
    let stage = Stage::start().await?;
    let hello = Tls::to("app.test").hello()?;
    let mut client = connect(stage.pair.tls()).await?;
    let from = client.local_addr()?;
    let start = Instant::now();
    let mut beat = tokio::time::interval(Duration::from_millis(50));
    for byte in &hello {
        beat.tick().await;
        if client.write_all(&[*byte]).await.is_err() {
            break;
        }
        assert!(start.elapsed() < SOON, "it goes on for ever");
    }
    let record = stage.pair.ended_with(from, "initial_data_timeout", "smartproxy").await?;
    assert_eq!(record["termination"]["rule"]["limit"], "700ms");
    let age = e2e::books::duration(&record["age"]).context("age")?;
    assert!(age >= Duration::from_millis(690) && age < Duration::from_millis(1_700), "{age:?}");
    stage.undisturbed().await
}

/// A client that leaves in the middle of its hello, in order or not, left before it was routed.
#[tokio::test]
async fn leaving_within_the_hello_is_the_clients_own_doing() -> Result<()> {
    let stage = Stage::start().await?;
    let hello = Tls::to("app.test").hello()?;
    let mut client = connect(stage.pair.tls()).await?;
    let from = client.local_addr()?;
    client.write_all(&hello[..100]).await?;
    client.shutdown().await?;
    read_to_end(&mut client, SOON).await?;
    stage.pair.ended_with(from, "client_left_before_route", "client").await?;
    for sent in [0, 100] {
        let mut client = connect(stage.pair.tls()).await?;
        let from = client.local_addr()?;
        client.write_all(&hello[..sent]).await?;
        stage
            .pair
            .recorded(Which::Smartproxy, from, "has these bytes", |record| {
                record["bytes_from_client"] == sent
            })
            .await?;
        will_reset(&client)?;
        drop(client);
        stage.pair.ended_with(from, "client_left_before_route", "client").await?;
    }
    stage.undisturbed().await
}

/// TLS on a port that has only clear text.
#[tokio::test]
async fn tls_on_a_clear_text_port_finds_no_route() -> Result<()> {
    let stage = Stage::start().await?;
    let stream = connect(stage.pair.http()).await?;
    let from = stream.local_addr()?;
    let (_, ending) = Tls::to("app.test").refused_bytes(stream).await?;
    assert_eq!(ending, Ending::Fin);
    stage.pair.ended_with(from, "no_route", "smartproxy").await?;
    stage.undisturbed().await
}

/// 64 KiB without a newline on the clear-text HTTP port: an answer or an end, with a reason, and no growth.
#[tokio::test]
async fn a_request_line_without_an_end_is_refused() -> Result<()> {
    let stage = Stage::start().await?;
    let mut client = connect(stage.pair.http()).await?;
    let from = client.local_addr()?;
    let mut line = b"GET /".to_vec();
    line.resize(5 + 128 * 1024, b'a');
    drop(client.write_all(&line).await);
    let (got, _) = read_to_end(&mut client, SOON).await?;
    let text = String::from_utf8_lossy(&got);
    assert!(
        got.is_empty() || text.starts_with("HTTP/1.1 431 ") || text.starts_with("HTTP/1.1 414 "),
        "{text}"
    );
    stage.pair.ended_with(from, "http_header_too_large", "client").await?;
    stage.undisturbed().await
}

/// Garbage on the clear-text HTTP port.
#[tokio::test]
async fn garbage_on_the_clear_text_port_is_an_http_error() -> Result<()> {
    let stage = Stage::start().await?;
    for garbage in [b"\x00\x01garbage\r\n\r\n".as_slice(), b"GET / HTTP/9.9\r\n\r\n"] {
        let mut client = connect(stage.pair.http()).await?;
        let from = client.local_addr()?;
        client.write_all(garbage).await?;
        let (got, _) = read_to_end(&mut client, SOON).await?;
        let text = String::from_utf8_lossy(&got);
        assert!(got.is_empty() || text.starts_with("HTTP/1.1 400 "), "{text}");
        stage.pair.ended_with(from, "http_protocol_error", "client").await?;
    }
    stage.undisturbed().await
}

/// A terminated route: a hello that is fine, then bytes that are no TLS.
#[tokio::test]
async fn garbage_after_the_hello_is_a_tls_error() -> Result<()> {
    let stage = Stage::start().await?;
    let hello = Tls::to("ended.test").hello()?;
    let garbage = [0x17; 512];
    // In one packet with the hello, and behind it.
    for words in [vec![[&hello, &garbage[..]].concat()], vec![hello.clone(), garbage.to_vec()]] {
        let mut client = connect(stage.pair.tls()).await?;
        let from = client.local_addr()?;
        for packet in words {
            client.write_all(&packet).await?;
        }
        let start = Instant::now();
        read_to_end(&mut client, SOON).await?;
        assert!(start.elapsed() < SOON / 2, "it need not wait for `tls_handshake`: {:?}", start.elapsed());
        drop(client);
        stage.pair.ended_with(from, "tls_protocol_error", "client").await?;
    }
    stage.undisturbed().await
}
