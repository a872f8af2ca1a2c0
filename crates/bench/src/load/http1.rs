//! Owns one HTTP/1.1 exchange at a time on a connection that stays.
//!
//! Never accepts less than a 200 with the whole body that its length announces.

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const CHUNK: usize = 64 * 1024;

/// A connection.
pub(super) struct Http1<S> {
    stream: S,
    buffer: Vec<u8>,
    /// How much of it the latest read with the head has filled.
    filled: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new(), filled: 0 }
    }

    /// Sends a request without a body; returns the length of the answer's body. `progress` is told of each part of it.
    pub(super) async fn get(&mut self, request: &[u8], progress: impl FnMut(usize)) -> Result<u64> {
        self.stream.write_all(request).await.context("sending a request")?;
        self.stream.flush().await?;
        self.answer(progress).await
    }

    /// Sends a request with a body of `bytes`; the answer must be their count.
    pub(super) async fn post(
        &mut self,
        request: &[u8],
        bytes: u64,
        mut progress: impl FnMut(usize),
    ) -> Result<()> {
        static ZEROS: [u8; CHUNK] = [0; CHUNK];
        self.stream.write_all(request).await.context("sending a request")?;
        let mut left = bytes;
        while left > 0 {
            let size = left.min(CHUNK as u64) as usize;
            self.stream.write_all(&ZEROS[..size]).await.context("sending a body")?;
            progress(size);
            left -= size as u64;
        }
        self.stream.flush().await?;
        let length = self.answer(|_| ()).await?;
        let body = self.filled.checked_sub(length as usize).context("a count in two parts")?;
        let count: u64 = std::str::from_utf8(&self.buffer[body..self.filled])?.parse()?;
        ensure!(count == bytes, "{count} of {bytes} bytes arrived");
        Ok(())
    }

    /// What carries it.
    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// Holds no buffer until the next request.
    pub(super) fn rest(&mut self) {
        self.buffer = Vec::new();
    }

    /// Says goodbye in order: close_notify, then the end of the stream.
    pub(super) async fn close(mut self) -> Result<()> {
        self.stream.shutdown().await.context("closing")
    }

    async fn answer(&mut self, mut progress: impl FnMut(usize)) -> Result<u64> {
        self.buffer.resize(CHUNK, 0);
        let mut filled = 0;
        let (head, length) = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await.context("reading an answer")?;
            ensure!(read > 0, "the connection ended before an answer");
            filled += read;
            if let Some(head) = parse(&self.buffer[..filled])? {
                break head;
            }
            ensure!(filled < self.buffer.len(), "the head of an answer is too long");
        };
        let mut have = (filled - head) as u64;
        progress(have as usize);
        while have < length {
            let read = self.stream.read(&mut self.buffer).await.context("reading a body")?;
            ensure!(read > 0, "a body ended after {have} of {length} bytes");
            have += read as u64;
            progress(read);
        }
        ensure!(have == length, "{have} bytes came instead of {length}");
        self.filled = filled;
        Ok(length)
    }
}

/// Where the head ends and how long the body is; `None` while it is not complete.
fn parse(bytes: &[u8]) -> Result<Option<(usize, u64)>> {
    let mut headers = [httparse::EMPTY_HEADER; 48];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) = response.parse(bytes)? else { return Ok(None) };
    let status = response.code.unwrap_or(0);
    if status != 200 {
        bail!("status {status}");
    }
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.context("an answer without content-length")?;
    Ok(Some((end, std::str::from_utf8(length.value)?.parse()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_head_with_200_and_a_length_is_an_answer() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        for end in 0..38 {
            assert_eq!(parse(&answer[..end]).unwrap(), None, "{end}");
        }
        assert_eq!(parse(answer).unwrap(), Some((38, 2)));
        assert!(parse(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[tokio::test]
    async fn a_short_body_is_a_loss() {
        let (client, mut server) = tokio::io::duplex(1024);
        server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok").await.unwrap();
        server.shutdown().await.unwrap();
        let error = Http1::new(client).get(b"GET / HTTP/1.1\r\n\r\n", |_| ()).await.unwrap_err();
        assert_eq!(error.to_string(), "a body ended after 2 of 3 bytes");
    }
}
