//! Owns the scripted HTTP/1.1 target, written by hand so that it can break the protocol wherever a test wants it to.
//!
//! A request's path picks what is done with it; see `Script`. Heads are kept as they came, so that a test can read what
//! the proxy really sent. Never parses more of HTTP than it needs to find the end of a request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::address::Address;
use crate::cutter;
use crate::target::Target;

/// What a path does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// `/head`: answers with the request's head as the body.
    Head,
    /// `/echo`: answers with the request's body, chunk by chunk as it comes, and its trailers.
    Echo,
    /// `/bytes/N`: `N` bytes of [`crate::target::pattern`] with a content-length.
    Bytes(usize),
    /// `/trailers`: a chunked body `with trailers` and the trailer `x-sum: 13`.
    Trailers,
    /// `/early`: `103 Early Hints` first, then 200.
    Early,
    /// `/until-close`: a body that ends with the connection.
    UntilClose,
    /// `/held`: answers when the test says so.
    Held,
    /// `/half`: sends a head and half a body, and the rest when the test says so.
    Half,
    /// `/close`: closes without an answer.
    Close,
    /// `/close-idle`: answers; closes without an answer as soon as the next request on this connection begins.
    CloseIdle,
    /// `/close-head`: closes in the middle of the response's head.
    CloseHead,
    /// `/close-body`: closes in the middle of a body with a content-length.
    CloseBody,
    /// `/reset`: resets without an answer.
    Reset,
    /// `/reset-body`: resets in the middle of a body.
    ResetBody,
    /// `/garbage`: answers with what is no HTTP.
    Garbage,
    /// `/ws`: upgrades to a WebSocket that echoes messages.
    WebSocket,
    /// `/early-answer`: answers before the request's body came, and closes.
    EarlyAnswer,
}

/// The target.
#[derive(Debug)]
pub struct HttpTarget {
    target: Target,
    seen: Arc<Seen>,
}

#[derive(Debug)]
struct Seen {
    heads: Mutex<Vec<String>>,
    released: watch::Sender<bool>,
}

impl HttpTarget {
    /// Starts it.
    pub async fn start(address: Address) -> Result<Self> {
        let seen = Arc::new(Seen { heads: Mutex::default(), released: watch::channel(false).0 });
        let shared = Arc::clone(&seen);
        let target = Target::each(address, move |socket| {
            let seen = Arc::clone(&shared);
            async move {
                // An error here is the proxy's end of the connection; what it means the test asserts elsewhere.
                drop(serve(socket, &seen).await);
            }
        })
        .await?;
        Ok(Self { target, seen })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.target.address()
    }

    /// How many connections it accepted.
    pub fn accepted(&self) -> u64 {
        self.target.accepted()
    }

    /// The heads of all requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets every request that waits for it go on, now and later.
    pub fn release(&self) {
        self.seen.released.send_replace(true);
    }
}

async fn serve(socket: TcpStream, seen: &Seen) -> Result<()> {
    let mut stream = BufReader::new(socket);
    let mut close_next = false;
    loop {
        if close_next && !stream.fill_buf().await?.is_empty() {
            return Ok(());
        }
        let Some(head) = read_head(&mut stream).await? else { return goodbye(stream).await };
        seen.heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
        let script = script(&head);
        let (mut body, mut trailers) = (Vec::new(), String::new());
        if !matches!(script, Script::Echo | Script::WebSocket | Script::EarlyAnswer) {
            (body, trailers) = read_body(&mut stream, &head, None).await?;
        }
        drop((body, trailers));
        match script {
            Script::Head => answer(&mut stream, head.as_bytes()).await?,
            Script::Echo => {
                // A trailer that was not announced may be dropped on the way (RFC 9110, 6.5.2).
                let announced = header(&head, "trailer");
                let announced = announced.map(|names| format!("trailer: {names}\r\n")).unwrap_or_default();
                let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{announced}\r\n");
                stream.write_all(answer.as_bytes()).await?;
                let (_, trailers) = read_body(&mut stream, &head, Some(())).await?;
                stream.write_all(format!("0\r\n{trailers}\r\n").as_bytes()).await?;
            }
            Script::Bytes(count) => answer(&mut stream, &super::pattern(count)).await?,
            Script::Trailers => {
                let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                    5\r\nwith \r\n8\r\ntrailers\r\n0\r\nx-sum: 13\r\n\r\n";
                stream.write_all(text.as_bytes()).await?;
            }
            Script::Early => {
                let hints = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n";
                stream.write_all(hints.as_bytes()).await?;
                answer(&mut stream, b"after hints").await?;
            }
            Script::UntilClose => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil close").await?;
                return goodbye(stream).await;
            }
            Script::Held => {
                released(seen).await;
                answer(&mut stream, b"released").await?;
            }
            Script::Half => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234").await?;
                released(seen).await;
                stream.write_all(b"56789").await?;
            }
            Script::Close => return goodbye(stream).await,
            Script::CloseIdle => {
                answer(&mut stream, b"once").await?;
                close_next = true;
            }
            Script::CloseHead => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await?;
                return goodbye(stream).await;
            }
            Script::CloseBody => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234").await?;
                return goodbye(stream).await;
            }
            Script::Reset => {
                cutter::reset(stream.into_inner());
                return Ok(());
            }
            Script::ResetBody => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234").await?;
                released(seen).await;
                cutter::reset(stream.into_inner());
                return Ok(());
            }
            Script::Garbage => {
                stream.write_all(b"SSH-2.0-not-http\r\n").await?;
                return goodbye(stream).await;
            }
            Script::EarlyAnswer => {
                stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\n").await?;
                stream.write_all(b"content-length: 8\r\n\r\ntoo much").await?;
                return goodbye(stream).await;
            }
            Script::WebSocket => return web_socket(stream, &head).await,
        }
    }
}

/// The head up to and with its empty line; none where the connection ended before a request.
async fn read_head(stream: &mut BufReader<TcpStream>) -> Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut head).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// Reads the body and the trailers; with `echo`, sends each piece back as a chunk.
async fn read_body(
    stream: &mut BufReader<TcpStream>,
    head: &str,
    echo: Option<()>,
) -> Result<(Vec<u8>, String)> {
    let (mut body, mut trailers) = (Vec::new(), String::new());
    if header(head, "transfer-encoding").is_some_and(|value| value.ends_with("chunked")) {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let size = usize::from_str_radix(line.trim().split(';').next().unwrap_or_default(), 16)?;
            if size == 0 {
                break;
            }
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).await?;
            chunk.truncate(size);
            piece(stream, &chunk, echo).await?;
            body.extend(chunk);
        }
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            if line.trim().is_empty() {
                break;
            }
            trailers.push_str(&line);
        }
    } else {
        let mut left: usize = header(head, "content-length").map_or(Ok(0), str::parse)?;
        while left > 0 {
            let mut chunk = vec![0; left.min(65_536)];
            let count = stream.read(&mut chunk).await?;
            anyhow::ensure!(count > 0, "the body was cut");
            chunk.truncate(count);
            left -= count;
            piece(stream, &chunk, echo).await?;
            body.extend(chunk);
        }
    }
    Ok((body, trailers))
}

async fn piece(stream: &mut BufReader<TcpStream>, chunk: &[u8], echo: Option<()>) -> Result<()> {
    if echo.is_some() {
        stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
        stream.write_all(chunk).await?;
        stream.write_all(b"\r\n").await?;
    }
    Ok(())
}

async fn answer(stream: &mut BufReader<TcpStream>, body: &[u8]) -> Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    Ok(stream.write_all(body).await?)
}

/// FIN, then reads to the end, so that nothing that was sent is lost to a RST.
async fn goodbye(mut stream: BufReader<TcpStream>) -> Result<()> {
    stream.get_mut().shutdown().await?;
    let mut nowhere = tokio::io::sink();
    let discarded = tokio::io::copy(&mut stream, &mut nowhere);
    drop(tokio::time::timeout(Duration::from_secs(10), discarded).await);
    Ok(())
}

async fn released(seen: &Seen) {
    drop(seen.released.subscribe().wait_for(|released| *released).await);
}

async fn web_socket(mut stream: BufReader<TcpStream>, head: &str) -> Result<()> {
    use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
    let key = header(head, "sec-websocket-key").unwrap_or_default();
    let reply = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_all(reply.as_bytes()).await?;
    let mut socket =
        tokio_tungstenite::WebSocketStream::from_raw_socket(stream.into_inner(), Role::Server, None).await;
    crate::client::web_socket::echo(&mut socket).await
}

fn script(head: &str) -> Script {
    let path = head.split(' ').nth(1).unwrap_or("/");
    let path = path.split('?').next().unwrap_or(path);
    match path {
        "/echo" => Script::Echo,
        "/trailers" => Script::Trailers,
        "/early" => Script::Early,
        "/until-close" => Script::UntilClose,
        "/held" => Script::Held,
        "/half" => Script::Half,
        "/close" => Script::Close,
        "/close-idle" => Script::CloseIdle,
        "/close-head" => Script::CloseHead,
        "/close-body" => Script::CloseBody,
        "/reset" => Script::Reset,
        "/reset-body" => Script::ResetBody,
        "/garbage" => Script::Garbage,
        "/ws" => Script::WebSocket,
        "/early-answer" => Script::EarlyAnswer,
        path => match path.strip_prefix("/bytes/").and_then(|count| count.parse().ok()) {
            Some(count) => Script::Bytes(count),
            None => Script::Head,
        },
    }
}

/// The value of a header (any case), of the first line that has it.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Every value of a header (any case).
pub fn headers<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}
