//! Owns the HTTP clients: HTTP/1.1 and HTTP/2 over hyper, and raw bytes for what hyper would refuse to send.
//!
//! One client is one connection: nothing is pooled or retried, so that a test knows which connection a request went over.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;

use crate::client::tls::Tls;
use crate::client::{connect, read_to_end};
use crate::wait;

/// A request's body.
pub type Body = BoxBody<Bytes, Infallible>;

/// One connection that speaks HTTP.
#[derive(Debug)]
pub struct Http {
    sender: Sender,
    driver: JoinHandle<hyper::Result<()>>,
    local: SocketAddr,
    scheme: &'static str,
    line: Arc<Line>,
}

/// What a connection hangs on: cut, it ends without a word of HTTP, whatever tasks still hold it.
#[derive(Debug, Default)]
struct Line {
    cut: AtomicBool,
    reader: AtomicWaker,
}

/// A stream that hangs on a line.
#[derive(Debug)]
struct Hung<S> {
    stream: S,
    line: Arc<Line>,
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its header.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header as text; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Http {
    /// HTTP/1.1 over TLS.
    pub async fn tls1(to: SocketAddr, name: &str) -> Result<Self> {
        let stream = Tls::to(name).alpn(&["http/1.1"]).connect(to).await?;
        let local = stream.get_ref().0.local_addr()?;
        Self::one(stream, local, "https").await
    }

    /// HTTP/2 over TLS, by ALPN.
    pub async fn tls2(to: SocketAddr, name: &str) -> Result<Self> {
        let stream = Tls::to(name).alpn(&["h2"]).connect(to).await?;
        anyhow::ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "h2 was not negotiated");
        let local = stream.get_ref().0.local_addr()?;
        Self::two(stream, local).await
    }

    /// HTTP/1.1 in clear text.
    pub async fn clear(to: SocketAddr) -> Result<Self> {
        let stream = connect(to).await?;
        let local = stream.local_addr()?;
        Self::one(stream, local, "http").await
    }

    /// HTTP/1.1 over `stream`.
    pub async fn one(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        local: SocketAddr,
        scheme: &'static str,
    ) -> Result<Self> {
        let line = Arc::<Line>::default();
        let stream = Hung { stream, line: Arc::clone(&line) };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection.with_upgrades());
        Ok(Self { sender: Sender::One(sender), driver, local, scheme, line })
    }

    /// HTTP/2 over `stream`.
    pub async fn two(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        local: SocketAddr,
    ) -> Result<Self> {
        let line = Arc::<Line>::default();
        let stream = Hung { stream, line: Arc::clone(&line) };
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        Ok(Self { sender: Sender::Two(sender), driver, local, scheme: "https", line })
    }

    /// This end's address, by which the record is found.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// A request for `path` of `host`, in the form that the protocol wants.
    pub fn request(&self, method: &str, host: &str, path: &str, body: Body) -> Result<Request<Body>> {
        let builder = Request::builder().method(method);
        let builder = match self.sender {
            Sender::One(_) => builder.uri(path).header("host", host),
            Sender::Two(_) => builder.uri(format!("{}://{host}{path}", self.scheme)),
        };
        Ok(builder.body(body)?)
    }

    /// GET, read to its end.
    pub async fn get(&mut self, host: &str, path: &str) -> Result<Reply> {
        let request = self.request("GET", host, path, empty())?;
        self.send(request).await
    }

    /// Sends, and reads the response to its end.
    pub async fn send(&mut self, request: Request<Body>) -> Result<Reply> {
        whole(self.start(request).await?).await
    }

    /// Sends, and returns when the response's head is there.
    pub async fn start(&mut self, request: Request<Body>) -> Result<Response<Incoming>> {
        let response = self.begin(request).await?;
        wait::within("a response", wait::SOON * 2, response).await?
    }

    /// Sends, and returns at once; the future ends with the response's head.
    pub async fn begin(
        &mut self,
        request: Request<Body>,
    ) -> Result<impl Future<Output = Result<Response<Incoming>>> + Send + use<>> {
        let response: std::pin::Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>> =
            match &mut self.sender {
                Sender::One(sender) => {
                    wait::within("the connection is free", wait::SOON, sender.ready()).await??;
                    Box::pin(sender.send_request(request))
                }
                Sender::Two(sender) => {
                    wait::within("the connection is free", wait::SOON, sender.ready()).await??;
                    Box::pin(sender.send_request(request))
                }
            };
        Ok(async move { response.await.context("no response") })
    }

    /// Waits until the server ended the connection.
    pub async fn closed(&mut self) -> Result<hyper::Result<()>> {
        Ok(wait::within("the connection ends", wait::SOON * 2, &mut self.driver).await??)
    }

    /// Closes the socket without a word of HTTP or TLS.
    pub fn abandon(self) {
        self.line.cut.store(true, Ordering::SeqCst);
        self.line.reader.wake();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Hung<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.line.reader.register(context.waker());
        if self.line.cut.load(Ordering::SeqCst) {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Hung<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.line.cut.load(Ordering::SeqCst) {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.line.cut.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Reads a response to its end.
pub async fn whole(response: Response<Incoming>) -> Result<Reply> {
    let (parts, body) = response.into_parts();
    let body =
        wait::within("the whole body", wait::SOON * 3, body.collect()).await?.context("the body was cut")?;
    let trailers = body.trailers().cloned();
    Ok(Reply { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
}

/// No body.
pub fn empty() -> Body {
    Empty::new().boxed()
}

/// A body with its length.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

/// A body that the test sends piece by piece; it ends when the sender is dropped.
pub fn streamed() -> (mpsc::UnboundedSender<Frame<Bytes>>, Body) {
    let (send, receive) = mpsc::unbounded_channel();
    let frames = tokio_stream::wrappers::UnboundedReceiverStream::new(receive).map(Ok);
    let body = StreamBody::new(frames);
    debug_assert!(!body.is_end_stream());
    (send, BodyExt::boxed(body))
}

/// Writes `text`, as it is, and reads to the end of the connection.
pub async fn raw(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &str) -> Result<String> {
    stream.write_all(text.as_bytes()).await?;
    let (bytes, _) = read_to_end(stream, wait::SOON * 2).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// GET on a connection of its own, in clear text: status and body. For metrics and health.
pub async fn fetch(from: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = wait::within("connect", wait::SOON, TcpStream::connect(from)).await??;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {from}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    wait::within("an answer", wait::SOON, stream.read_to_string(&mut text)).await??;
    let (head, body) = text.split_once("\r\n\r\n").context("no head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let chunked = crate::target::http::header(head, "transfer-encoding").is_some();
    Ok((status, if chunked { dechunk(body) } else { body.to_owned() }))
}

fn dechunk(mut text: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let Ok(size @ 1..) = usize::from_str_radix(size, 16) else { break };
        whole.push_str(&rest[..size]);
        text = &rest[size + 2..];
    }
    whole
}
