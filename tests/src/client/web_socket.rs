//! Owns the WebSocket client, and the echo that both its ends use.
//!
//! Frames and masking are tungstenite's; the TLS or TCP stream below is the test's.

use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::wait;

/// Upgrades `stream` for `url`, such as `wss://app.test/ws`.
pub async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(url: &str, stream: S) -> Result<WebSocketStream<S>> {
    // Boxed: it is large, and so would every future around it be.
    let upgraded = Box::pin(tokio_tungstenite::client_async(url, stream));
    Ok(wait::within("a WebSocket upgrade", wait::SOON, upgraded).await?.context("a WebSocket upgrade")?.0)
}

/// Sends a text and expects it back.
pub async fn say<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    text: &str,
) -> Result<()> {
    socket.send(Message::text(text)).await?;
    match wait::within("the echo", wait::SOON, socket.next()).await? {
        Some(Ok(Message::Text(back))) if back.as_str() == text => Ok(()),
        other => bail!("{text:?} came back as {other:?}"),
    }
}

/// Sends everything back until the other side closes.
pub(crate) async fn echo<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> Result<()> {
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

/// Closes in order: a close frame each way.
pub async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>) -> Result<()> {
    socket.close(None).await?;
    while let Some(message) = wait::within("the goodbye", wait::SOON, socket.next()).await? {
        if message.is_err() {
            break;
        }
    }
    Ok(())
}
