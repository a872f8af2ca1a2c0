//! The TLS alert with which a client is refused before any handshake.
//!
//! Owns the encoding of a fatal alert as a plaintext record (RFC 8446 §5.1, §6).
//! Never speaks TLS beyond that: smartproxy holds no keys, and after the alert the connection is closed.
//! Invariant: always one whole record of seven bytes, in one write.

/// The bytes of an alert record.
pub const ALERT_RECORD_LEN: usize = 7;

/// Why the client is refused, in TLS's own numbers (RFC 8446 §6.2, RFC 7301 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AlertDescription {
    /// An address rule, a limit or a `block` route refuses the client.
    AccessDenied = 49,
    /// The hello cannot be parsed.
    DecodeError = 50,
    /// What should serve the client is not there.
    InternalError = 80,
    /// No route for the server name, or no server name.
    UnrecognizedName = 112,
    /// No route for any of the offered protocols.
    NoApplicationProtocol = 120,
}

impl AlertDescription {
    /// The fatal alert as a record.
    ///
    /// The record's version is 0x0303, which RFC 8446 §5.1 prescribes for every record but the first
    /// ClientHello; clients that offer TLS 1.0 take it too (OpenSSL 3.0 tried).
    pub const fn record(self) -> [u8; ALERT_RECORD_LEN] {
        const ALERT: u8 = 21;
        const FATAL: u8 = 2;
        [ALERT, 3, 3, 0, 2, FATAL, self as u8]
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;

    use super::*;

    /// the alert is fatal (RFC 8446 §6.2: whatever its level says, but older clients look at it).
    #[test]
    fn the_alert_is_fatal_and_one_record() {
        assert_eq!(AlertDescription::UnrecognizedName.record(), [21, 3, 3, 0, 2, 2, 112]);
        assert_eq!(AlertDescription::AccessDenied.record(), [21, 3, 3, 0, 2, 2, 49]);
        assert_eq!(AlertDescription::InternalError.record(), [21, 3, 3, 0, 2, 2, 80]);
    }

    /// a refused client learns why, from an alert that a real TLS client understands.
    #[test]
    fn a_real_client_reads_each_alert_by_its_name() {
        use rustls::AlertDescription as Theirs;
        for (ours, theirs) in [
            (AlertDescription::AccessDenied, Theirs::AccessDenied),
            (AlertDescription::DecodeError, Theirs::DecodeError),
            (AlertDescription::InternalError, Theirs::InternalError),
            (AlertDescription::UnrecognizedName, Theirs::UnrecognisedName),
            (AlertDescription::NoApplicationProtocol, Theirs::NoApplicationProtocol),
        ] {
            let config = rustls::ClientConfig::builder()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            let name = "example.com".try_into().unwrap();
            let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
            client.writer().flush().unwrap();
            let record = ours.record();
            assert_eq!(client.read_tls(&mut record.as_slice()).unwrap(), ALERT_RECORD_LEN);
            assert_eq!(client.process_new_packets().unwrap_err(), rustls::Error::AlertReceived(theirs));
        }
    }
}
