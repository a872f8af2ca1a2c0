//! Owns a listener on the hop that keeps what smartproxy sends, and may hold, slow down or reset it.
//!
//! networkproxy announces its own hop address; the cutter on the control channel replaces it by the tap's, which has as
//! many digits. Never changes a byte of the hop.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;

use crate::cutter::{Cutter, Record, Way};

/// The tap.
#[derive(Debug)]
pub struct HopTap {
    cutter: Cutter,
    record: Arc<Record>,
}

impl HopTap {
    pub(crate) async fn start(listen: SocketAddr, to: SocketAddr) -> Result<Self> {
        let record = Arc::new(Record::default());
        let cutter = Cutter::watched(listen, to, Arc::clone(&record) as _).await?;
        Ok(Self { cutter, record })
    }

    /// What smartproxy wrote first on each hop connection so far: header and what followed, up to 32 KiB.
    pub fn starts(&self) -> Vec<Vec<u8>> {
        self.record.starts()
    }

    /// From now on, for every hop connection.
    pub fn set(&self, way: Way) {
        self.cutter.set(way);
    }

    /// Resets every open hop connection once.
    pub fn reset_all(&self) {
        self.cutter.reset_all();
    }
}

/// How long the PROXY v2 header at the start of `bytes` is.
///
/// Source: "The PROXY protocol", 2.2: 12 bytes of signature, version and command, family, then the length of the rest.
pub fn header_length(bytes: &[u8]) -> usize {
    assert!(bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n"), "a PROXY v2 header: {bytes:?}");
    16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]))
}
