//! Who ends a stream, how, and with what still on its way: the same matrix for every kind of route that relays bytes.
//!
//! FIN stays FIN and RST stays RST, in both directions and over both processes; what was sent before an end arrives; and
//! the books of both processes name the one cause.

use anyhow::{Result, ensure};
use e2e::client::tls::Tls;
use e2e::client::{Ending, connect, read, read_to_end, will_reset};
use e2e::target::{Target, pattern};
use e2e::wait::SOON;
use e2e::{Address, Pair, Route, Setup};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The kinds of routes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Relayed by smartproxy, clear text.
    Tcp,
    /// Relayed by smartproxy, TLS that it does not end.
    Passthrough,
    /// Bridged; networkproxy ends TLS.
    Terminated,
}

const KINDS: [Kind; 3] = [Kind::Tcp, Kind::Passthrough, Kind::Terminated];

/// What is on its way when a side ends.
const PENDING: usize = 1 << 20;

/// What a client holds: bytes inside, and the TCP stream below.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for tokio_rustls::client::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A connection through the proxy: both ends of it in the test's hands.
struct Through {
    pair: Pair,
    client: Box<dyn Stream>,
    target: TcpStream,
    from: std::net::SocketAddr,
}

impl Through {
    async fn start(kind: Kind) -> Result<Self> {
        let address = Address::next();
        let manual = Target::manual(address).await?;
        let route = match kind {
            Kind::Tcp => Route::tcp("opaque", manual.address()),
            Kind::Passthrough => Route::passthrough("opaque", manual.address()).domain("app.test"),
            Kind::Terminated => Route::terminate_tcp("opaque", manual.address()).domain("app.test"),
        };
        let pair = Pair::start(address, Setup::new([route])).await?;
        let (client, target): (Box<dyn Stream>, TcpStream) = match kind {
            Kind::Tcp => {
                let client = connect(pair.tcp()).await?;
                let target = manual.accept().await?;
                (Box::new(client), target)
            }
            // What follows a hello is nobody's business: the rest of the stream need not be TLS.
            Kind::Passthrough => {
                let mut client = connect(pair.tls()).await?;
                let hello = Tls::to("app.test").hello()?;
                client.write_all(&hello).await?;
                let mut target = manual.accept().await?;
                ensure!(read(&mut target, hello.len()).await? == hello, "the hello arrives as it was sent");
                (Box::new(client), target)
            }
            Kind::Terminated => {
                let client = Tls::to("app.test").connect(pair.tls()).await?;
                let target = manual.accept().await?;
                (Box::new(client), target)
            }
        };
        let from = client.tcp().local_addr()?;
        let mut through = Self { pair, client, target, from };
        through.client.write_all(b"ping").await?;
        through.client.flush().await?;
        ensure!(read(&mut through.target, 4).await? == b"ping");
        through.target.write_all(b"pong").await?;
        ensure!(read(&mut through.client, 4).await? == b"pong");
        Ok(through)
    }

    /// Both ends are gone; the books name this cause, in both processes, and nothing is left.
    async fn ended(self, reason: &str, initiator: &str) -> Result<()> {
        drop(self.client);
        drop(self.target);
        self.pair.ended_with(self.from, reason, initiator).await?;
        self.pair.teardown().await
    }
}

/// a client that half-closes still gets the whole answer, which is sent after its FIN arrived.
#[tokio::test]
async fn a_client_that_closes_its_side_still_gets_the_whole_answer() -> Result<()> {
    for kind in KINDS {
        let mut through = Through::start(kind).await?;
        let sent = pattern(PENDING);
        let (client, target) = (&mut through.client, &mut through.target);
        let asking = async {
            client.write_all(&sent).await?;
            client.shutdown().await?;
            read_to_end(client, SOON).await
        };
        let answering = async {
            let (got, ending) = read_to_end(target, SOON).await?;
            ensure!(got == sent && ending == Ending::Fin, "{} bytes, {ending:?}", got.len());
            target.write_all(&sent).await?;
            Ok(target.shutdown().await?)
        };
        let ((got, ending), ()) = tokio::try_join!(asking, answering)?;
        assert!(got == sent, "{} of {} bytes came back", got.len(), sent.len());
        assert_eq!(ending, Ending::Fin);
        through.ended("client_closed", "client").await?;
    }
    Ok(())
}

/// a target that half-closes still gets what the client sends.
#[tokio::test]
async fn a_target_that_closes_its_side_still_gets_what_the_client_sends() -> Result<()> {
    // (TLS of version 1.3 closes its two directions apart, RFC 8446, 6.1.)
    for kind in KINDS {
        let mut through = Through::start(kind).await?;
        let sent = pattern(PENDING);
        through.target.write_all(b"bye").await?;
        through.target.shutdown().await?;
        let (got, ending) = read_to_end(&mut through.client, SOON).await?;
        assert_eq!((got.as_slice(), ending), (b"bye".as_slice(), Ending::Fin));
        let (client, target) = (&mut through.client, &mut through.target);
        let sending = async {
            client.write_all(&sent).await?;
            Ok(client.shutdown().await?)
        };
        let ((), (got, ending)) = tokio::try_join!(sending, read_to_end(target, SOON))?;
        assert!(got == sent, "{} of {} bytes arrived", got.len(), sent.len());
        assert_eq!(ending, Ending::Fin);
        through.ended("target_closed", "target").await?;
    }
    Ok(())
}

/// what a target sent before it closed altogether arrives, though the client goes on sending.
#[tokio::test]
async fn an_answer_is_not_lost_when_the_target_closes_while_the_client_sends() -> Result<()> {
    for kind in KINDS {
        let mut through = Through::start(kind).await?;
        let sent = pattern(PENDING);
        through.target.write_all(&sent).await?;
        through.target.shutdown().await?;
        // The client has something on its way that the target will never read.
        through.client.write_all(b"more").await?;
        through.client.flush().await?;
        let (got, ending) = read_to_end(&mut through.client, SOON).await?;
        assert!(got == sent, "{} of {} bytes came", got.len(), sent.len());
        assert_eq!(ending, Ending::Fin);
        through.client.shutdown().await?;
        assert_eq!(read_to_end(&mut through.target, SOON).await?, (b"more".to_vec(), Ending::Fin));
        through.ended("target_closed", "target").await?;
    }
    Ok(())
}

/// a client's reset arrives at the target as a reset, after what was sent before it.
#[tokio::test]
async fn a_reset_client_is_counted_once_and_seen_as_a_reset() -> Result<()> {
    for kind in KINDS {
        let mut through = Through::start(kind).await?;
        through.client.write_all(b"last words").await?;
        through.client.flush().await?;
        assert_eq!(read(&mut through.target, 10).await?, b"last words");
        will_reset(through.client.tcp())?;
        drop(std::mem::replace(
            &mut through.client,
            Box::new(connect(through.pair.metrics_address(e2e::Which::Smartproxy)).await?),
        ));
        let (got, ending) = read_to_end(&mut through.target, SOON).await?;
        assert_eq!((got.len(), ending), (0, Ending::Reset));
        through.ended("client_reset", "client").await?;
    }
    Ok(())
}

/// a target's reset arrives at the client as a reset.
#[tokio::test]
async fn a_reset_target_is_counted_once_and_seen_as_a_reset() -> Result<()> {
    for kind in KINDS {
        let Through { pair, mut client, target, from } = Through::start(kind).await?;
        e2e::cutter::reset(target);
        let (got, ending) = read_to_end(&mut client, SOON).await?;
        assert_eq!((got.len(), ending), (0, Ending::Reset));
        drop(client);
        pair.ended_with(from, "target_reset", "target").await?;
        pair.teardown().await?;
    }
    Ok(())
}

/// what a target sent before its reset is delivered first, and the end is still a reset. R-37: what is on the
/// record is what was on the wire, although nothing ended in order.
#[tokio::test]
async fn bytes_before_a_reset_are_delivered_and_the_reset_is_passed_on() -> Result<()> {
    for kind in KINDS {
        let Through { pair, mut client, mut target, from } = Through::start(kind).await?;
        target.write_all(&pattern(4096)).await?;
        // Linger of zero throws away what the kernel still holds: it must have left before.
        e2e::wait::until("the bytes left the target", SOON, async || (nothing_queued(&target)).then_some(()))
            .await?;
        e2e::cutter::reset(target);
        let (got, ending) = read_to_end(&mut client, SOON).await?;
        assert!(got == pattern(4096), "{} of 4096 bytes came", got.len());
        assert_eq!(ending, Ending::Reset);
        drop(client);
        let record = pair.ended_with(from, "target_reset", "target").await?;
        let inner = matches!(kind, Kind::Terminated);
        let bytes = &record[if inner { "inner" } else { "front" }]["bytes"];
        let sent = b"pong".len() + 4096;
        assert_eq!(bytes["target_in"], sent, "{bytes:#}");
        ensure!(inner || bytes["client_out"] == sent, "{bytes:#}");
        pair.teardown().await?;
    }
    Ok(())
}

/// after a client's half-close, a target's reset is the cause, and the client sees it.
#[tokio::test]
async fn a_reset_after_the_clients_half_close_is_still_the_targets() -> Result<()> {
    for kind in KINDS {
        let Through { pair, mut client, mut target, from } = Through::start(kind).await?;
        client.shutdown().await?;
        assert_eq!(read_to_end(&mut target, SOON).await?, (Vec::new(), Ending::Fin));
        e2e::cutter::reset(target);
        let (got, ending) = read_to_end(&mut client, SOON).await?;
        assert_eq!((got.len(), ending), (0, Ending::Reset));
        drop(client);
        pair.ended_with(from, "target_reset", "target").await?;
        pair.teardown().await?;
    }
    Ok(())
}

/// after a target's half-close, a client's reset is the cause, and the target sees it.
#[tokio::test]
async fn a_reset_after_the_targets_half_close_is_still_the_clients() -> Result<()> {
    for kind in KINDS {
        let Through { pair, mut client, mut target, from } = Through::start(kind).await?;
        target.shutdown().await?;
        assert_eq!(read_to_end(&mut client, SOON).await?, (Vec::new(), Ending::Fin));
        will_reset(client.tcp())?;
        drop(client);
        let (got, ending) = read_to_end(&mut target, SOON).await?;
        assert_eq!((got.len(), ending), (0, Ending::Reset));
        drop(target);
        pair.ended_with(from, "client_reset", "client").await?;
        pair.teardown().await?;
    }
    Ok(())
}

/// eight mebibytes and a FIN, through both processes, to a client that lets them wait.
#[tokio::test]
async fn eight_mebibytes_reach_a_slow_reader() -> Result<()> {
    const SIZE: usize = 8 << 20;
    for kind in KINDS {
        let mut through = Through::start(kind).await?;
        let sent = pattern(SIZE);
        let (client, target) = (&mut through.client, &mut through.target);
        let sending = async {
            target.write_all(&sent).await?;
            Ok::<_, anyhow::Error>(target.shutdown().await?)
        };
        let from = through.from;
        let pair = &through.pair;
        let reading = async {
            // Nothing is read before the way is full of bytes.
            pair.recorded(e2e::Which::Smartproxy, from, "has bytes under way", |record| {
                record["bytes_to_client"].as_u64().is_some_and(|bytes| bytes > 100_000)
            })
            .await?;
            let mut got = Vec::with_capacity(SIZE);
            let mut piece = vec![0; 7_000];
            loop {
                match client.read(&mut piece).await? {
                    0 => return Ok(got),
                    count => got.extend_from_slice(&piece[..count]),
                }
                tokio::task::yield_now().await;
            }
        };
        let ((), got) = tokio::try_join!(sending, reading)?;
        assert!(got == sent, "{} of {SIZE} bytes came, or in another order", got.len());
        through.client.shutdown().await?;
        through.ended("target_closed", "target").await?;
    }
    Ok(())
}

/// The kernel has sent everything and got it acknowledged (`SIOCOUTQ`, tcp(7)).
fn nothing_queued(stream: &TcpStream) -> bool {
    let Ok(local) = stream.local_addr() else { return false };
    let Ok(peer) = stream.peer_addr() else { return false };
    // rustix has no SIOCOUTQ; /proc/net/tcp says the same: `tx_queue:rx_queue`, addresses in hexadecimal.
    let hex = |address: std::net::SocketAddr| match address {
        std::net::SocketAddr::V4(v4) => {
            format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())
        }
        std::net::SocketAddr::V6(_) => String::new(),
    };
    let pair = format!("{} {}", hex(local), hex(peer));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().find(|line| line.contains(&pair)).is_some_and(|line| line.contains(" 00000000:"))
}
