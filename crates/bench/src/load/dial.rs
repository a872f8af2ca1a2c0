//! Owns how a generator connects: from several source addresses, without delay.
//!
//! Never takes a source port before the destination is known (`IP_BIND_ADDRESS_NO_PORT`, ip(7)): otherwise those of
//! ended connections would run out.

use std::cell::Cell;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream};

use crate::layout::CLIENTS;

thread_local! {
    static NEXT: Cell<usize> = const { Cell::new(0) };
}

/// A new connection.
pub(crate) async fn dial(to: SocketAddr) -> Result<TcpStream> {
    let turn = NEXT.get();
    NEXT.set(turn.wrapping_add(1));
    let socket = TcpSocket::new_v4()?;
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(SocketAddr::new(CLIENTS[turn % CLIENTS.len()].into(), 0))?;
    socket.set_nodelay(true)?;
    socket.connect(to).await.context("connecting")
}
