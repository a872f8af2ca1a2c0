//! HTTP through both processes: bodies, headers, answers of our own, and what a failing target turns into.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::client::http::{Http, Reply, full, raw, streamed, whole};
use e2e::client::{Ending, connect, read_to_end};
use e2e::target::http::{HttpTarget, header, headers};
use e2e::target::{Full, Target, pattern, refused};
use e2e::wait::{SOON, until, within};
use e2e::{Address, Pair, Route, Setup, Which};
use hyper::HeaderMap;
use hyper::body::Frame;
use tokio::io::AsyncWriteExt as _;

/// The ways in which a client can speak HTTP.
pub(crate) const WAYS: [Way; 3] = [Way::Clear, Way::Tls1, Way::Tls2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Clear,
    Tls1,
    Tls2,
}

impl Way {
    pub(crate) async fn connect(self, pair: &Pair) -> Result<Http> {
        match self {
            Self::Clear => Http::clear(pair.http()).await,
            Self::Tls1 => Http::tls1(pair.tls(), "app.test").await,
            Self::Tls2 => Http::tls2(pair.tls(), "app.test").await,
        }
    }

    fn protocol(self) -> &'static str {
        match self {
            Self::Clear | Self::Tls1 => "http/1.1",
            Self::Tls2 => "h2",
        }
    }
}

/// A pair with one HTTP target, reached over TLS as `app.test` and in clear text.
pub(crate) async fn stage(change: impl FnOnce(Setup) -> Setup) -> Result<(Pair, HttpTarget)> {
    let address = Address::next();
    let target = HttpTarget::start(address).await?;
    let routes = [
        Route::terminate("app", target.address()).domain("app.test"),
        Route::http("clear", target.address()),
    ];
    let pair = Pair::start(address, change(Setup::new(routes))).await?;
    Ok((pair, target))
}

/// P1: the target gets the connection's id, the client's own is replaced; so are the forwarding headers, and
/// hop-by-hop headers stay on their hop.
#[tokio::test]
async fn the_target_is_told_who_asks_and_believes_no_client() -> Result<()> {
    let (pair, target) = stage(|setup| setup).await?;
    for way in WAYS {
        let mut client = way.connect(&pair).await?;
        let mut request = client.request("GET", "app.test", "/who?a=b", e2e::client::http::empty())?;
        let lies = [
            ("x-connection-id", "forged"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-host", "evil.test"),
            ("forwarded", "for=6.6.6.6"),
            ("x-own", "kept"),
        ];
        for (name, value) in lies {
            request.headers_mut().append(name, value.parse()?);
        }
        if way != Way::Tls2 {
            request.headers_mut().append("connection", "x-secret, keep-alive".parse()?);
            request.headers_mut().append("x-secret", "for this hop".parse()?);
            request.headers_mut().append("keep-alive", "timeout=5".parse()?);
        }
        let reply = client.send(request).await?;
        assert_eq!(reply.status, 200, "{way:?}");
        let head = reply.text();
        let id = pair.id(client.local()).await?;
        assert_eq!(headers(&head, "x-connection-id"), [id.as_str()], "{way:?}: {head}");
        let ip = client.local().ip().to_string();
        assert_eq!(headers(&head, "x-forwarded-for"), [ip.as_str()], "{way:?}: {head}");
        let proto = if way == Way::Clear { "http" } else { "https" };
        assert_eq!(headers(&head, "x-forwarded-proto"), [proto], "{way:?}: {head}");
        assert_eq!(headers(&head, "x-forwarded-host"), ["app.test"], "{way:?}: {head}");
        let forwarded = headers(&head, "forwarded");
        ensure!(forwarded.len() == 1, "{way:?}: {head}");
        for part in [format!("for={ip}"), format!("proto={proto}"), "host=app.test".to_owned()] {
            let quoted = part.replacen('=', "=\"", 1) + "\"";
            ensure!(forwarded[0].contains(&part) || forwarded[0].contains(&quoted), "{way:?}: {forwarded:?}");
        }
        assert_eq!(header(&head, "host"), Some("app.test"), "{way:?}: {head}");
        assert_eq!(header(&head, "x-own"), Some("kept"));
        assert_eq!(header(&head, "x-secret"), None, "{way:?}: {head}");
        assert_eq!(header(&head, "keep-alive"), None, "{way:?}: {head}");
        assert!(head.starts_with("GET /who?a=b HTTP/1.1\r\n"), "{head}");
        let record = pair
            .recorded(Which::Networkproxy, client.local(), "has its request", |record| {
                record["inner"]["requests_finished"] == 1
            })
            .await?;
        assert_eq!(record["inner"]["routing"]["protocol"], way.protocol());
        client.abandon();
    }
    assert_eq!(target.heads().len(), WAYS.len());
    pair.teardown().await
}

/// Bodies stream both ways at once, with trailers, over every way in: nothing waits for an end.
#[tokio::test]
async fn bodies_and_trailers_stream_both_ways() -> Result<()> {
    let (pair, _target) = stage(|setup| setup).await?;
    for way in WAYS {
        let mut client = way.connect(&pair).await?;
        let (send, body) = streamed();
        let mut request = client.request("POST", "app.test", "/echo", body)?;
        request.headers_mut().insert("te", "trailers".parse()?);
        request.headers_mut().insert("trailer", "x-end".parse()?);
        let response = client.begin(request).await?;
        send.send(Frame::data(Bytes::from_static(b"first")))?;
        let response = within("the head comes while the body is open", SOON, response).await??;
        let mut parts = response.into_body();
        let mut got = Vec::new();
        // The first piece is back before the second is sent.
        while got.len() < 5 {
            got.extend(next_data(&mut parts).await?.context("a piece")?);
        }
        assert_eq!(got, b"first");
        send.send(Frame::data(pattern(200_000).into()))?;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", "of the request".parse()?);
        send.send(Frame::trailers(trailers))?;
        drop(send);
        let rest = within("the rest", SOON, http_body_util::BodyExt::collect(parts)).await??;
        let trailers = rest.trailers().cloned();
        assert!(rest.to_bytes() == pattern(200_000), "{way:?}");
        let trailers = trailers.with_context(|| format!("{way:?}: the trailers came through"))?;
        assert_eq!(
            trailers.get("x-end").map(hyper::http::HeaderValue::as_bytes),
            Some(b"of the request".as_slice())
        );
        client.abandon();
    }
    pair.teardown().await
}

async fn next_data(body: &mut hyper::body::Incoming) -> Result<Option<Bytes>> {
    use http_body_util::BodyExt as _;
    match within("a piece of the body", SOON, body.frame()).await? {
        Some(frame) => Ok(Some(frame?.into_data().map_err(|_| anyhow::anyhow!("trailers came early"))?)),
        None => Ok(None),
    }
}

/// The trailers of a response reach the client; `103 Early Hints` does not break anything.
#[tokio::test]
async fn a_responses_trailers_and_hints_pass() -> Result<()> {
    let (pair, _target) = stage(|setup| setup).await?;
    for way in WAYS {
        let mut client = way.connect(&pair).await?;
        let mut request = client.request("GET", "app.test", "/trailers", e2e::client::http::empty())?;
        request.headers_mut().insert("te", "trailers".parse()?);
        let reply = client.send(request).await?;
        assert_eq!(reply.text(), "with trailers", "{way:?}");
        let trailers = reply.trailers.with_context(|| format!("{way:?}: no trailers"))?;
        assert_eq!(trailers.get("x-sum").map(hyper::http::HeaderValue::as_bytes), Some(b"13".as_slice()));
        let reply = client.get("app.test", "/early").await?;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "after hints"), "{way:?}");
        let reply = client.get("app.test", "/until-close").await?;
        assert_eq!(reply.text(), "until close", "{way:?}");
        client.abandon();
    }
    pair.teardown().await
}

/// P4: large bodies arrive whole, and the bytes on the hop agree.
#[tokio::test]
async fn large_bodies_arrive_whole_in_both_directions() -> Result<()> {
    const SIZE: usize = 3 << 20;
    let (pair, _target) = stage(|setup| setup).await?;
    for way in WAYS {
        let mut client = way.connect(&pair).await?;
        let reply = client.get("app.test", &format!("/bytes/{SIZE}")).await?;
        assert!(reply.body == pattern(SIZE), "{way:?}: {} bytes", reply.body.len());
        let request = client.request("PUT", "app.test", "/echo", full(pattern(SIZE)))?;
        let reply = client.send(request).await?;
        assert!(reply.body == pattern(SIZE), "{way:?}: {} bytes came back", reply.body.len());
        let from = client.local();
        client.abandon();
        let record = pair.ended_joined(from, "client_closed", "client").await?;
        let (front, inner) = (&record["front"], &record["inner"]);
        assert_eq!(front["end"]["hop"]["sent_bytes"], inner["end"]["hop"]["received_bytes"], "{way:?}");
        assert_eq!(
            front["bytes"]["hop_out"], front["bytes"]["client_in"],
            "{way:?}: nothing is added to the stream"
        );
        assert_eq!(inner["requests_finished"], 2);
    }
    pair.teardown().await
}

/// Many requests over one HTTP/2 connection at a time, each with its own answer.
#[tokio::test]
async fn streams_of_one_connection_do_not_wait_for_each_other() -> Result<()> {
    let (pair, target) = stage(|setup| setup).await?;
    let mut client = Way::Tls2.connect(&pair).await?;
    let held = client.request("GET", "app.test", "/held", e2e::client::http::empty())?;
    let held = client.begin(held).await?;
    let mut answers = Vec::new();
    for number in 0..50 {
        let request = client.request("POST", "app.test", "/echo", full(format!("number {number}")))?;
        answers.push(client.begin(request).await?);
    }
    for (number, answer) in answers.into_iter().enumerate() {
        let reply: Reply = whole(within("an answer", SOON, answer).await??).await?;
        assert_eq!(reply.text(), format!("number {number}"));
    }
    let record = pair
        .recorded(Which::Networkproxy, client.local(), "has its requests", |record| {
            record["inner"]["requests_finished"] == 50
        })
        .await?;
    assert_eq!(record["inner"]["requests_started"], 51);
    pair.in_phase(Which::Networkproxy, client.local(), "HTTP_ACTIVE").await?;
    target.release();
    assert_eq!(whole(within("the held one", SOON, held).await??).await?.text(), "released");
    pair.in_phase(Which::Networkproxy, client.local(), "HTTP_IDLE").await?;
    client.abandon();
    pair.teardown().await
}

/// `redirect`, `respond` and the status page are answered without a target.
#[tokio::test]
async fn fixed_answers_need_no_target() -> Result<()> {
    let address = Address::next();
    let routes = [
        Route::terminate_answer("gone", "respond: { status: 410, body: moved }").domain("app.test"),
        Route::terminate_answer("page", "respond: { status_page: true }").domain("other.test"),
        Route::http_answer("to-https", "redirect: { to: \"https://{host}{path_and_query}\", status: 308 }"),
    ];
    let pair = Pair::start(address, Setup::new(routes)).await?;
    let mut client = Http::clear(pair.http()).await?;
    let reply = client.get("app.test:8080", "/a/b?c=d").await?;
    assert_eq!((reply.status.as_u16(), reply.header("location")), (308, "https://app.test/a/b?c=d"));
    client.abandon();
    for way in [Way::Tls1, Way::Tls2] {
        let mut client = way.connect(&pair).await?;
        let reply = client.get("app.test", "/").await?;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (410, "moved"));
        client.abandon();
    }
    let mut client = Http::tls2(pair.tls(), "other.test").await?;
    let reply = client.get("other.test", "/").await?;
    assert_eq!(reply.status, 200);
    let id = pair.id(client.local()).await?;
    ensure!(reply.text().contains(&id), "the status page shows the connection's id: {}", reply.text());
    drop(client);
    pair.teardown().await
}

/// an authority that the connection was not admitted for gets 421, and the connection lives on.
#[tokio::test]
async fn another_entrys_name_is_misdirected() -> Result<()> {
    let address = Address::next();
    let target = HttpTarget::start(address).await?;
    let routes = [
        Route::terminate("app", target.address()).domain("app.test"),
        Route::terminate("other", target.address()).domain("other.test"),
    ];
    let pair = Pair::start(address, Setup::new(routes)).await?;
    for way in [Way::Tls1, Way::Tls2] {
        let mut client = way.connect(&pair).await?;
        for name in ["other.test", "unheard-of.test"] {
            assert_eq!(client.get(name, "/").await?.status, 421, "{way:?} {name}");
        }
        assert_eq!(client.get("app.test", "/").await?.status, 200, "{way:?}");
        client.abandon();
    }
    assert_eq!(target.heads().len(), 2, "a misdirected request reaches no target");
    pair.teardown().await
}

/// 502, 503 and 504 by cause, with the connection's id and the reason in a short body; the connection lives on.
#[tokio::test]
async fn a_failing_target_is_an_answer_with_id_and_reason() -> Result<()> {
    let address = Address::next();
    let target = HttpTarget::start(address).await?;
    let nobody = refused(address).await?;
    let full_queue = Full::start(address).await?;
    let routes = [
        Route::http("works", target.address()).domain("works.test"),
        Route::http("down", nobody).domain("down.test"),
        Route::http("full", full_queue.address()).domain("full.test").timeout("connect", "500ms"),
        Route::http("nowhere", "224.0.0.1:9".parse()?).domain("nowhere.test"),
    ];
    let setup = Setup::new(routes).inner_timeout("response", "500ms");
    let pair = Pair::start(address, setup).await?;
    for (host, path, status, reason) in [
        ("down.test", "/", 502, "target_refused"),
        ("nowhere.test", "/", 502, "target_unreachable"),
        ("works.test", "/reset", 502, "target_reset"),
        ("works.test", "/close", 502, "target_closed"),
        ("works.test", "/garbage", 502, "target_protocol_error"),
        ("works.test", "/close-head", 502, "target_protocol_error"),
        ("full.test", "/", 504, "target_connect_timeout"),
        ("works.test", "/held", 504, "target_response_timeout"),
    ] {
        let mut client = Http::clear(pair.http()).await?;
        let reply = client.get(host, path).await.with_context(|| format!("{host}{path}"))?;
        assert_eq!(reply.status.as_u16(), status, "{host}{path}: {}", reply.text());
        let id = pair.id(client.local()).await?;
        let text = reply.text();
        ensure!(text.contains(&id) && text.contains(reason), "{host}{path}: {text}");
        ensure!(text.len() < 512 && !text.contains("224.0.0.1"), "short, and nothing about targets: {text}");
        // The failure was the request's, not the connection's.
        assert_eq!(client.get("works.test", "/").await?.status, 200, "after {host}{path}");
        let from = client.local();
        client.abandon();
        pair.ended_joined(from, "client_closed", "client").await?;
    }
    pair.teardown().await
}

/// P4: a response that is cut in the middle never looks complete, however the client speaks.
#[tokio::test]
async fn a_truncated_response_does_not_look_complete() -> Result<()> {
    let (pair, target) = stage(|setup| setup).await?;
    target.release();
    for way in WAYS {
        for path in ["/close-body", "/reset-body"] {
            let mut client = way.connect(&pair).await?;
            let request = client.request("GET", "app.test", path, e2e::client::http::empty())?;
            let response = client.start(request).await?;
            assert_eq!(response.status(), 200);
            ensure!(whole(response).await.is_err(), "{way:?} {path}: half a body looked whole");
            client.abandon();
        }
    }
    pair.teardown().await
}

/// A response that stands still ends at `stream_idle`, as a cut, not as an end.
#[tokio::test]
async fn a_response_that_stands_still_ends_at_stream_idle() -> Result<()> {
    let (pair, _target) = stage(|setup| setup.inner_timeout("stream_idle", "600ms")).await?;
    let mut client = Http::tls1(pair.tls(), "app.test").await?;
    let from = client.local();
    let request = client.request("GET", "app.test", "/half", e2e::client::http::empty())?;
    let response = client.start(request).await?;
    let start = Instant::now();
    ensure!(whole(response).await.is_err(), "half a body looked whole");
    assert!(start.elapsed() >= Duration::from_millis(500));
    pair.ended_joined(from, "inactivity_timeout", "networkproxy").await?;
    pair.teardown().await
}

/// a client that half-closes after its request still gets the response, and counts until then.
#[tokio::test]
async fn a_half_closed_http_client_still_gets_its_response() -> Result<()> {
    let (pair, target) = stage(|setup| setup).await?;
    let mut client = connect(pair.http()).await?;
    let from = client.local_addr()?;
    client.write_all(b"GET /held HTTP/1.1\r\nhost: app.test\r\n\r\n").await?;
    pair.in_phase(Which::Networkproxy, from, "HTTP_ACTIVE").await?;
    client.shutdown().await?;
    pair.recorded(Which::Smartproxy, from, "is half closed", |record| {
        record["front"]["half_closed"] == "LEG_CLIENT"
    })
    .await?;
    assert_eq!(pair.live(Which::Networkproxy).await?, 1);
    target.release();
    let (bytes, ending) = read_to_end(&mut client, SOON).await?;
    let text = String::from_utf8_lossy(&bytes);
    ensure!(text.ends_with("released") && ending == Ending::Fin, "{text} {ending:?}");
    pair.ended_joined(from, "client_closed", "client").await?;
    pair.teardown().await
}

/// a target that answers before the whole request came, and closes, is heard.
#[tokio::test]
async fn an_early_answer_reaches_the_client() -> Result<()> {
    let (pair, _target) = stage(|setup| setup).await?;
    for way in WAYS {
        let mut client = way.connect(&pair).await?;
        let (send, body) = streamed();
        let request = client.request("POST", "app.test", "/early-answer", body)?;
        let response = client.begin(request).await?;
        send.send(Frame::data(pattern(100_000).into()))?;
        let reply = whole(within("the early answer", SOON, response).await??).await?;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (413, "too much"), "{way:?}");
        drop(send);
        client.abandon();
    }
    pair.teardown().await
}

/// A client that resets in the middle of a response ends its request, and nobody else's connection.
#[tokio::test]
async fn a_client_that_resets_within_a_response_is_the_cause() -> Result<()> {
    let (pair, target) = stage(|setup| setup).await?;
    let mut client = connect(pair.http()).await?;
    let from = client.local_addr()?;
    client.write_all(b"GET /half HTTP/1.1\r\nhost: app.test\r\n\r\n").await?;
    until("the response began", SOON, async || {
        let record = pair.record(Which::Smartproxy, from).await.ok()??;
        record["bytes_to_client"].as_u64().filter(|bytes| *bytes > 0)
    })
    .await?;
    e2e::client::will_reset(&client)?;
    drop(client);
    pair.ended_joined(from, "client_reset", "client").await?;
    target.release();
    pair.teardown().await
}

/// requests that two readers could understand differently are refused, and no target sees them.
#[tokio::test]
async fn an_ambiguous_request_is_refused() -> Result<()> {
    let (pair, target) = stage(|setup| setup).await?;
    for request in [
        "POST / HTTP/1.1\r\nhost: app.test\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
        "POST / HTTP/1.1\r\nhost: app.test\r\ncontent-length: +4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nhost: app.test\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: app.test\r\nhost: other.test\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : app.test\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: app.test\r\nx-folded: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nx-none: of a host\r\n\r\n",
    ] {
        let text = raw_closing(&pair, request).await?;
        ensure!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{request:?} got {text}");
    }
    assert_eq!(target.heads(), Vec::<String>::new());
    // Both a length and chunks: chunks win (RFC 9112, 6.3), and the target is told of them alone.
    let both = "POST /echo HTTP/1.1\r\nhost: app.test\r\ncontent-length: 4\r\n\
        transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let text = raw_closing(&pair, both).await?;
    for head in target.heads() {
        ensure!(header(&head, "content-length").is_none(), "the target was told two lengths: {head}");
    }
    ensure!(target.heads().len() == 1 || text.starts_with("HTTP/1.1 4"), "{text}");
    pair.teardown().await
}

/// Sends a request in clear text, with `connection: close` added, and returns everything that came back.
async fn raw_closing(pair: &Pair, request: &str) -> Result<String> {
    let mut client = connect(pair.http()).await?;
    raw(&mut client, &request.replacen("\r\n", "\r\nconnection: close\r\n", 1)).await
}

/// A target route's opaque neighbour: `protocol: tcp` behind TLS carries any protocol.
#[tokio::test]
async fn opaque_bytes_behind_tls_are_relayed() -> Result<()> {
    let address = Address::next();
    let target = Target::banner(address, "* OK ready\r\n").await?;
    let route = Route::terminate_tcp("imap", target.address()).domain("app.test");
    let pair = Pair::start(address, Setup::new([route])).await?;
    let mut client = e2e::client::tls::Tls::to("app.test").connect(pair.tls()).await?;
    let from = client.get_ref().0.local_addr()?;
    assert_eq!(e2e::client::read(&mut client, 12).await?, b"* OK ready\r\n");
    e2e::client::echo(&mut client, &pattern(100_000)[..50_000]).await?;
    client.shutdown().await?;
    assert_eq!(read_to_end(&mut client, SOON).await?.1, Ending::Fin);
    pair.ended_joined(from, "client_closed", "client").await?;
    pair.teardown().await
}
