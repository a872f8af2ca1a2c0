//! The hop believes nobody: being on 127.0.0.1 proves nothing (P7).
//!
//! Each refusal is counted by its reason, opens no record, and never touches the connection whose id it claims.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::client::tls::Tls;
use e2e::client::{Ending, connect, echo, read_to_end};
use e2e::cutter::Way;
use e2e::tap::header_length;
use e2e::target::Target;
use e2e::wait::{SOON, until};
use e2e::{Address, Expected, Pair, Route, Setup, Which};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// A pair with one bridged connection whose hop header was recorded.
struct Stage {
    pair: Pair,
    client: tokio_rustls::client::TlsStream<TcpStream>,
    from: std::net::SocketAddr,
    /// Header and hello, as smartproxy wrote them.
    start: Vec<u8>,
    _target: Target,
}

impl Stage {
    async fn start() -> Result<Self> {
        let address = Address::next();
        let target = Target::echo(address).await?;
        let route = Route::terminate_tcp("app", target.address()).domain("app.test");
        let setup = Setup::new([route]).inner_timeout("hop_header", "600ms").tapped();
        let pair = Pair::start(address, setup).await?;
        let mut client = Tls::to("app.test").connect(pair.tls()).await?;
        echo(&mut client, b"before").await?;
        let from = client.get_ref().0.local_addr()?;
        let start = pair.tap().starts().into_iter().next().context("a hop connection was made")?;
        Ok(Self { pair, client, from, start, _target: target })
    }

    fn header(&self) -> &[u8] {
        &self.start[..header_length(&self.start)]
    }

    /// Sends `bytes` to the hop from a stranger, expects RST and one more refusal for `reason`.
    async fn refused(&self, bytes: &[u8], reason: &str) -> Result<()> {
        let before = self.pair.hop_refused(reason).await?;
        let mut stranger = connect(self.pair.hop()).await?;
        drop(stranger.write_all(bytes).await);
        let (got, ending) = read_to_end(&mut stranger, SOON).await?;
        ensure!(got.is_empty() && ending == Ending::Reset, "{reason}: a stranger got {got:?}, {ending:?}");
        until(&format!("{reason} is counted"), SOON, async || {
            (self.pair.hop_refused(reason).await.ok()? == before + 1).then_some(())
        })
        .await
    }

    /// The real connection goes on, its record is as it was, and only it was ever verified.
    async fn undisturbed(mut self) -> Result<()> {
        echo(&mut self.client, b"after").await?;
        for which in e2e::BOTH {
            assert_eq!(self.pair.live(which).await?, 1, "{which:?}");
            let record = self.pair.record(which, self.from).await?.context("its record")?;
            assert!(record["superseded"].as_array().is_some_and(Vec::is_empty), "{record:#}");
            assert_eq!(record["phase"], "PHASE_RELAYING");
        }
        let counters = self.pair.counters(Which::Networkproxy).await?;
        let arrivals = &counters["own"]["hop_arrivals"];
        assert_eq!(arrivals["verified"], 1, "{arrivals:#}");
        drop(self.client);
        self.pair.ended_joined(self.from, "client_closed", "client").await?;
        self.pair.teardown().await
    }
}

/// a local client without a header is refused, whatever it says instead.
#[tokio::test]
async fn a_hop_without_a_header_is_refused() -> Result<()> {
    let stage = Stage::start().await?;
    stage.refused(b"GET / HTTP/1.1\r\nhost: app.test\r\n\r\n", "hop_header_missing").await?;
    stage.refused(&Tls::to("app.test").hello()?, "hop_header_missing").await?;
    stage.undisturbed().await
}

/// a header that is none of ours.
#[tokio::test]
async fn a_malformed_hop_header_is_refused() -> Result<()> {
    let stage = Stage::start().await?;
    let mut version = stage.header().to_vec();
    version[12] = 0x31;
    stage.refused(&version, "hop_header_invalid").await?;
    // No TLVs at all: the header of some other proxy.
    let mut foreign = stage.header()[..28].to_vec();
    foreign[14..16].copy_from_slice(&12_u16.to_be_bytes());
    stage.refused(&foreign, "hop_auth_failed").await?;
    stage.undisturbed().await
}

/// A header that does not come, or only half of it, is waited for `hop_header` and no longer.
#[tokio::test]
async fn a_late_hop_header_is_refused_and_not_before_its_time() -> Result<()> {
    let stage = Stage::start().await?;
    for sent in [0, 5, stage.header().len() - 1] {
        let start = std::time::Instant::now();
        stage.refused(&stage.header()[..sent], "hop_header_timeout").await?;
        assert!(start.elapsed() >= Duration::from_millis(590), "after {sent} bytes: {:?}", start.elapsed());
    }
    stage.undisturbed().await
}

/// P7: any flipped bit after the fixed part makes the tag wrong; nothing is believed before it was checked.
#[tokio::test]
async fn a_forged_hop_header_is_refused_wherever_it_was_forged() -> Result<()> {
    let stage = Stage::start().await?;
    let header = stage.header().to_vec();
    let before = stage.pair.counters(Which::Networkproxy).await?;
    let refused = |counters: &serde_json::Value| {
        let rows = counters["own"]["hop_arrivals"]["refused"].as_array().cloned().unwrap_or_default();
        rows.iter().filter_map(|row| row["count"].as_u64()).sum::<u64>()
    };
    let mut forged = 0;
    for at in (16..header.len()).step_by(3).chain([header.len() - 1]) {
        let mut bytes = header.clone();
        bytes[at] ^= 0x01;
        let mut stranger = connect(stage.pair.hop()).await?;
        drop(stranger.write_all(&bytes).await);
        let (got, ending) = read_to_end(&mut stranger, SOON).await?;
        ensure!(got.is_empty() && ending == Ending::Reset, "byte {at}: {got:?}, {ending:?}");
        forged += 1;
    }
    until("each forgery is counted", SOON, async || {
        let now = stage.pair.counters(Which::Networkproxy).await.ok()?;
        (refused(&now) == refused(&before) + forged).then_some(())
    })
    .await?;
    // Most of the bytes are covered by nothing but the tag.
    assert!(stage.pair.hop_refused("hop_auth_failed").await? > forged / 2);
    stage.undisturbed().await
}

/// P7: the header of a live connection, sent again, is a replay, and the live connection does not notice.
#[tokio::test]
async fn a_replayed_hop_header_is_refused_while_its_connection_lives() -> Result<()> {
    let stage = Stage::start().await?;
    let whole = stage.start.clone();
    stage.refused(&whole, "hop_replayed").await?;
    stage.refused(stage.header(), "hop_replayed").await?;
    stage.undisturbed().await
}

/// P7: nor is it believed after its connection ended, nor by the next life of networkproxy.
#[tokio::test]
async fn an_old_hop_header_is_never_believed_again() -> Result<()> {
    let Stage { mut pair, client, from, start, _target } = Stage::start().await?;
    drop(client);
    pair.ended_joined(from, "client_closed", "client").await?;
    for reason in ["hop_replayed", "hop_auth_failed"] {
        let mut stranger = connect(pair.hop()).await?;
        drop(stranger.write_all(&start).await);
        assert_eq!(read_to_end(&mut stranger, SOON).await?, (Vec::new(), Ending::Reset), "{reason}");
        until(&format!("{reason} is counted"), SOON, async || {
            (pair.hop_refused(reason).await.ok()? == 1).then_some(())
        })
        .await?;
        // The second time to a new life, which has a key of its own.
        if reason == "hop_replayed" {
            pair.kill9(Which::Networkproxy)?;
            pair.restart(Which::Networkproxy).await?;
        }
    }
    pair.teardown().await
}

/// P4: a hop that is reset between the processes ends both halves, with nobody else to blame, and as a reset on both
/// sides.
#[tokio::test]
async fn a_reset_hop_is_a_reset_for_client_and_target() -> Result<()> {
    let address = Address::next();
    let target = Target::manual(address).await?;
    let route = Route::terminate_tcp("app", target.address()).domain("app.test");
    let pair = Pair::start(address, Setup::new([route]).tapped()).await?;
    let mut client = Tls::to("app.test").connect(pair.tls()).await?;
    let from = client.get_ref().0.local_addr()?;
    let mut behind = target.accept().await?;
    pair.tap().reset_all();
    assert_eq!(read_to_end(&mut client, SOON).await?, (Vec::new(), Ending::Reset));
    assert_eq!(read_to_end(&mut behind, SOON).await?, (Vec::new(), Ending::Reset));
    // Nobody holds better evidence: then, and only then, the hop itself is the cause.
    pair.ended_joined(from, "hop_reset", "peer_loss").await?;
    pair.teardown().await
}

/// A hop that breaks before it answered anything is bridged again: the client does not notice.
#[tokio::test]
async fn an_unanswered_hop_is_bridged_again() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let route = Route::terminate_tcp("app", target.address()).domain("app.test");
    let pair = Pair::start(address, Setup::new([route]).tapped()).await?;
    pair.tap().set(Way::Freeze);
    let stream = connect(pair.tls()).await?;
    let from = stream.local_addr()?;
    let waiting = tokio::spawn(async move { Tls::to("app.test").over(stream).await });
    pair.in_phase(Which::Smartproxy, from, "CONNECTING").await?;
    pair.recorded(Which::Smartproxy, from, "is bridged", |record| {
        record["front"]["hop"]["attempts"].as_u64().is_some_and(|attempts| attempts > 0)
    })
    .await?;
    pair.tap().reset_all();
    pair.tap().set(Way::Pass);
    let mut client = waiting.await?.context("the client is served after all")?;
    echo(&mut client, b"served").await?;
    let record = pair.in_phase(Which::Smartproxy, from, "RELAYING").await?;
    assert!(record["front"]["hop"]["attempts"].as_u64().is_some_and(|attempts| attempts >= 2), "{record:#}");
    let metrics = pair.metrics(Which::Smartproxy).await?;
    assert!(metrics.count("proxy_hop_rebridged_total").is_some_and(|count| count >= 1), "{metrics:?}");
    drop(client);
    pair.ended_joined(from, "client_closed", "client").await?;
    pair.teardown_expecting(&Expected::nothing()).await
}
