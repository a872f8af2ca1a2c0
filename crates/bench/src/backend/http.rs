//! Owns the HTTP/1.1 target: `GET /` is a small answer, `GET /bytes/N` one of N bytes, a body is counted and answered
//! with the count.
//!
//! Never chunked, neither way: every proxy that is measured passes `content-length` on, and one that does not is told so
//! with 411.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const CHUNK: usize = 64 * 1024;
static ZEROS: [u8; CHUNK] = [0; CHUNK];
const SMALL: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";

/// One request, as far as it matters here.
enum Wanted {
    Small,
    Bytes(u64),
    Count(u64),
    Nothing,
}

/// Serves requests until the peer closes.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut buffer = vec![0; 4096];
    let mut filled = 0;
    loop {
        if let Some((wanted, end)) = parse(&buffer[..filled])? {
            let body = filled - end;
            match wanted {
                Wanted::Small => stream.write_all(SMALL).await?,
                Wanted::Bytes(count) => send(stream, count).await?,
                Wanted::Count(count) => receive(stream, count, body as u64).await?,
                Wanted::Nothing => {
                    stream.write_all(b"HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\n\r\n").await?;
                }
            }
            // A body is read to its end, and nobody here pipelines: what is left over is the next request or nothing.
            let next = if matches!(wanted, Wanted::Count(_)) { filled } else { end };
            buffer.copy_within(next..filled, 0);
            filled -= next;
            continue;
        }
        if filled == buffer.len() {
            buffer.resize(buffer.len() * 2, 0);
        }
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
    }
}

/// The request at the start of `bytes` and where its head ends; `None` while it is not complete.
fn parse(bytes: &[u8]) -> io::Result<Option<(Wanted, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 48];
    let mut request = httparse::Request::new(&mut headers);
    let end = match request.parse(bytes).map_err(io::Error::other)? {
        httparse::Status::Complete(end) => end,
        httparse::Status::Partial => return Ok(None),
    };
    let length = request
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    let count = request.path.and_then(|path| path.strip_prefix("/bytes/")?.parse().ok());
    let wanted = match (request.method, length, count) {
        (Some("POST"), Some(length), _) => Wanted::Count(length),
        (Some("POST"), None, _) => Wanted::Nothing,
        (_, _, Some(count)) => Wanted::Bytes(count),
        _ => Wanted::Small,
    };
    Ok(Some((wanted, end)))
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, count: u64) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {count}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut left = count;
    while left > 0 {
        let size = left.min(CHUNK as u64);
        stream.write_all(&ZEROS[..size as usize]).await?;
        left -= size;
    }
    stream.flush().await
}

async fn receive<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, count: u64, had: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut left = count.saturating_sub(had);
    while left > 0 {
        let size = left.min(CHUNK as u64) as usize;
        let read = stream.read(&mut buffer[..size]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= read as u64;
    }
    let body = count.to_string();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_connection_serves_small_large_and_counting() {
        let (mut client, mut server) = tokio::io::duplex(1 << 20);
        let serving = tokio::spawn(async move { serve(&mut server).await });
        client.write_all(b"GET / HTTP/1.1\r\n\r\nGET /bytes/100000 HTTP/1.1\r\n\r\n").await.unwrap();
        client.write_all(b"POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).await.unwrap();
        assert!(answers.starts_with(SMALL));
        assert!(answers.ends_with(b"content-length: 1\r\n\r\n5"));
        assert!(answers.len() > 100_000 + SMALL.len());
        serving.await.unwrap().unwrap();
    }
}
