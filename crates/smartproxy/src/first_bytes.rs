//! What a client says first, read under a deadline.
//!
//! *Owns* the buffer of the first bytes until they are passed on: the `initial_chunk`. *Never* reads more
//! than `limits.initial_data_bytes`, never guesses: what cannot be a ClientHello is told apart from what is
//! not complete. *Invariant*: every byte read here is in the chunk, in order.

use ledger::{LegName, Reason};
use runtime::preface::{ClientHello, ClientHelloError, ClientHelloReader, FirstBytes, Progress, classify};
use runtime::{CloseOrder, InHand, Leg, TrackedConnection};

/// What was read first.
#[derive(Debug)]
pub(crate) struct InitialData {
    /// Everything that was read.
    pub(crate) chunk: Vec<u8>,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What the first bytes are.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A complete TLS ClientHello.
    Tls(Box<ClientHello>),
    /// Looks like an HTTP/1 request or an HTTP/2 preface.
    PlainHttp,
    /// Anything else, or nothing was read because the server speaks first.
    Opaque,
}

/// Why there are no first bytes to route.
#[derive(Debug)]
pub(crate) enum NoInitialData {
    /// The reason, and what a parser said.
    Refused(Reason, Option<String>),
    /// A deadline of the record fired.
    Expired(Box<ledger::Armed>),
    /// The operator, a drain or another authority.
    Ordered(Box<CloseOrder>),
}

/// Room for a usual hello; post-quantum ones grow it once.
const USUAL: usize = 2_048;

/// Reads until the first bytes can be routed. The first read is tried at once: they are often there already. Who
/// has not sent them is not in hand.
pub(crate) async fn read_initial_data(
    client: &Leg,
    tracked: &TrackedConnection,
    limit: usize,
    mut in_hand: Option<&mut InHand>,
) -> Result<InitialData, NoInitialData> {
    let mut chunk: Vec<u8> = Vec::new();
    let mut hello = ClientHelloReader::new(limit);
    loop {
        let start = chunk.len();
        chunk.resize((start.max(USUAL / 2) * 2).min(limit.max(1)), 0);
        let outcome = client.try_read(&mut chunk[start..]);
        chunk.truncate(start + *outcome.as_ref().unwrap_or(&0));
        match outcome {
            Ok(0) => return Err(NoInitialData::Refused(Reason::ClientLeftBeforeRoute, None)),
            Ok(_) => {
                if let Some(kind) = judge(&mut hello, &chunk)? {
                    return Ok(InitialData { chunk, kind });
                }
                if chunk.len() >= limit {
                    let detail = format!("no complete ClientHello within {limit} bytes");
                    return Err(NoInitialData::Refused(Reason::ClientHelloInvalid, Some(detail)));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if let Some(in_hand) = in_hand.as_deref_mut() {
                    in_hand.set_aside();
                }
                tokio::select! {
                    // An error shows in the next read.
                    _ = client.readable() => {}
                    armed = tracked.expired() => return Err(NoInitialData::Expired(Box::new(armed))),
                    order = tracked.closing() => return Err(NoInitialData::Ordered(Box::new(order))),
                }
            }
            Err(error) => {
                return Err(NoInitialData::Refused(Reason::ClientLeftBeforeRoute, Some(error.to_string())));
            }
        }
    }
}

/// `None` while more is needed.
fn judge(hello: &mut ClientHelloReader, chunk: &[u8]) -> Result<Option<Kind>, NoInitialData> {
    match classify(chunk) {
        FirstBytes::NeedMore => Ok(None),
        FirstBytes::PlainHttp => Ok(Some(Kind::PlainHttp)),
        FirstBytes::Opaque => Ok(Some(Kind::Opaque)),
        FirstBytes::Tls => match hello.push(chunk) {
            Ok(Progress::Complete(hello)) => Ok(Some(Kind::Tls(Box::new(hello)))),
            Ok(Progress::Incomplete { .. }) => Ok(None),
            Err(error) => Err(NoInitialData::Refused(reason_of(&error), Some(error.to_string()))),
        },
    }
}

fn reason_of(error: &ClientHelloError) -> Reason {
    match error {
        ClientHelloError::NotTls => Reason::NotTls,
        ClientHelloError::PlainHttp => Reason::PlainHttpOnTlsPort,
        ClientHelloError::Invalid(_) => Reason::ClientHelloInvalid,
    }
}

impl Kind {
    /// The server name of a hello.
    pub(crate) fn server_name(&self) -> Option<&str> {
        match self {
            Self::Tls(hello) => hello.server_name.as_deref(),
            Self::PlainHttp | Self::Opaque => None,
        }
    }

    /// Is it TLS?
    pub(crate) const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

/// Where the client's behaviour is observed.
pub(crate) const CLIENT: Option<LegName> = Some(LegName::Client);
