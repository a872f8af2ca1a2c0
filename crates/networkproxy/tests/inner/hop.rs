//! P7, R-21: who comes in over the hop, and why everybody else is refused.

use std::sync::Arc;
use std::time::Duration;

use config::{InnerTable, Protocol};
use control::HopKey;
use ledger::{InstanceId, Reason};
use networkproxy::hop::{Hop, Known};
use runtime::Clock;
use runtime::preface::{HopClass, HopHeader, HopKey as Writer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::*;

const KEY: HopKey = HopKey { id: 7, secret: [9; 32] };

/// One smartproxy, one key, one table of generation 3.
struct Told {
    table: Arc<InnerTable>,
}

impl Known for Told {
    fn key(&self, id: u64) -> Option<(HopKey, InstanceId)> {
        (id == KEY.id).then_some((KEY, FRONT))
    }

    fn table(&self, front: InstanceId, generation: u64) -> Option<Arc<InnerTable>> {
        (front == FRONT && generation == 3).then(|| Arc::clone(&self.table))
    }
}

struct Door {
    hop: Hop<Told>,
    listener: TcpListener,
}

impl Door {
    async fn new() -> Self {
        let clear = entry("clear", Protocol::Http, vec![]);
        let tls = config::InnerEntry::new("tls".into(), Protocol::Http, true, vec![], [].into());
        let entries = [clear, tls].into_iter().map(|entry| (Arc::clone(entry.name()), entry)).collect();
        let table = Arc::new(InnerTable { generation: 3, entries });
        let clock = Clock::start(Duration::from_secs(1));
        Self {
            hop: Hop::new(Told { table }, clock, Duration::from_millis(300)),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    async fn pair(&self) -> (TcpStream, TcpStream) {
        let connecting = TcpStream::connect(self.listener.local_addr().unwrap());
        let (theirs, ours) = tokio::join!(connecting, self.listener.accept());
        (theirs.unwrap(), ours.unwrap().0)
    }

    /// What becomes of somebody who writes `parts`, one after the other, and then waits.
    async fn knock(&self, parts: &[&[u8]]) -> Result<Vec<u8>, Reason> {
        let (mut theirs, ours) = self.pair().await;
        theirs.set_nodelay(true).unwrap();
        let writing = async {
            for part in parts {
                theirs.write_all(part).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            admitted = within(self.hop.admit(&ours)) => admitted.map(|admitted| {
                assert_eq!((admitted.front, admitted.table.generation), (FRONT, 3));
                admitted.read_past
            }),
            () = writing => unreachable!(),
        }
    }
}

fn header(entry: &str, class: HopClass, generation: u64, counter: u64) -> Vec<u8> {
    written(entry, class, generation, counter, &Writer::new(KEY.id, &KEY.secret))
}

fn written(entry: &str, class: HopClass, generation: u64, counter: u64, key: &Writer) -> Vec<u8> {
    let header = HopHeader {
        client: "192.0.2.7:4711".parse().unwrap(),
        local: "192.0.2.1:443".parse().unwrap(),
        server_name: Some("a.example".to_owned()),
        connection_id: 5,
        entry: entry.to_owned(),
        generation,
        class,
    };
    let mut wire = Vec::new();
    header.encode(key, counter, &mut wire).unwrap();
    wire
}

#[tokio::test]
async fn a_good_header_is_admitted_however_it_is_cut_and_what_follows_is_the_client_s() {
    let door = Door::new().await;
    let length = header("tls", HopClass::Tls, 3, 1).len();
    for (counter, cut) in (1..).zip([1, 12, 13, 16, 17, length - 1, length]) {
        let mut wire = header("tls", HopClass::Tls, 3, counter);
        wire.extend(b"client hello");
        let read_past = door.knock(&[&wire[..cut], &wire[cut..]]).await.unwrap();
        assert!(b"client hello".starts_with(&read_past), "{read_past:?}");
    }
    assert_eq!(door.knock(&[&header("clear", HopClass::Clear, 3, 100)]).await, Ok(vec![]));
}

#[tokio::test]
async fn whoever_is_not_smartproxy_is_refused_by_reason() {
    let door = Door::new().await;
    let good = |counter| header("tls", HopClass::Tls, 3, counter);
    let other_secret = Writer::new(KEY.id, &[8; 32]);
    let other_key = Writer::new(8, &KEY.secret);
    for (bytes, reason) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Reason::HopHeaderMissing),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(), Reason::HopHeaderMissing),
        ([&good(1)[..12], &[0x20; 4]].concat(), Reason::HopHeaderInvalid),
        (good(1)[..20].to_vec(), Reason::HopHeaderTimeout),
        (vec![], Reason::HopHeaderTimeout),
        (written("tls", HopClass::Tls, 3, 1, &other_secret), Reason::HopAuthFailed),
        (written("tls", HopClass::Tls, 3, 1, &other_key), Reason::HopAuthFailed),
        (header("nothing", HopClass::Tls, 3, 1), Reason::HopRouteUnknown),
        (header("tls", HopClass::Tls, 4, 2), Reason::HopRouteUnknown),
        (header("tls", HopClass::Clear, 3, 3), Reason::HopRouteUnknown),
        (header("clear", HopClass::Tls, 3, 4), Reason::HopRouteUnknown),
    ] {
        assert_eq!(door.knock(&[&bytes]).await, Err(reason), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_header_is_admitted_once() {
    let door = Door::new().await;
    let wire = header("tls", HopClass::Tls, 3, 9);
    assert!(door.knock(&[&wire]).await.is_ok());
    assert_eq!(door.knock(&[&wire]).await, Err(Reason::HopReplayed));
    assert!(door.knock(&[&header("tls", HopClass::Tls, 3, 8)]).await.is_ok(), "out of order is not a replay");
}

#[tokio::test]
async fn a_header_with_any_bit_flipped_is_refused() {
    let door = Door::new().await;
    let good = header("tls", HopClass::Tls, 3, 9);
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        // A longer length field waits for bytes that do not come: that is refused too, but takes its time.
        if at == 14 || at == 15 {
            continue;
        }
        let refused = door.knock(&[&flipped]).await;
        let reason = refused.expect_err(&format!("byte {at}"));
        let known = [Reason::HopHeaderMissing, Reason::HopHeaderInvalid, Reason::HopAuthFailed];
        assert!(known.contains(&reason), "byte {at}: {reason}");
    }
    assert!(door.knock(&[&good]).await.is_ok(), "none of them used the counter up");
}

/// A socket that closes without a word.
#[tokio::test]
async fn a_probe_that_says_nothing_and_leaves_is_counted_as_missing() {
    let door = Door::new().await;
    let (theirs, ours) = door.pair().await;
    drop(theirs);
    assert_eq!(within(door.hop.admit(&ours)).await.unwrap_err(), Reason::HopHeaderMissing);
}
