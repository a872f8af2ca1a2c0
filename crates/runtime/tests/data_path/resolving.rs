//! Names of targets: a DNS server of our own answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use runtime::Resolver;
use tokio::net::UdpSocket;

use crate::rig::within;

/// A DNS server with one answer; 0.0.0.0 is "server failure".
struct Dns {
    answer: Arc<AtomicU32>,
    asked: Arc<AtomicUsize>,
    resolver: Resolver,
}

impl Dns {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (answer, asked) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicUsize::new(0)));
        let (current, count) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            let mut buffer = [0; 1_500];
            loop {
                let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let address = Ipv4Addr::from_bits(current.load(Ordering::SeqCst));
                socket.send_to(&reply(&buffer[..len], address), from).await.unwrap();
            }
        });
        let mut server = NameServerConfig::udp(address.ip());
        server.connections[0].port = address.port();
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let resolver = Resolver::of(config, ResolverOpts::default());
        Self { answer, asked, resolver }
    }

    fn answer(&self, address: Ipv4Addr) {
        self.answer.store(address.to_bits(), Ordering::SeqCst);
    }

    async fn resolve(&self, name: &str) -> Vec<SocketAddr> {
        within(self.resolver.resolve(name, 80)).await.unwrap()
    }
}

fn reply(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let mut message = Message::from_vec(query).unwrap();
    message.metadata.message_type = MessageType::Response;
    if address.is_unspecified() {
        message.metadata.response_code = ResponseCode::ServFail;
    } else if message.queries[0].query_type() == RecordType::A {
        let name = message.queries[0].name().clone();
        message.add_answer(Record::from_rdata(name, 1, RData::A(A(address))));
    }
    message.to_vec().unwrap()
}

fn socket(address: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(address.into(), 80)
}

/// Configuration page: literals and localhost never reach DNS.
#[tokio::test]
async fn literals_and_localhost_never_ask() {
    let dns = Dns::start().await;
    assert_eq!(dns.resolve("10.1.2.3").await, [socket([10, 1, 2, 3])]);
    assert_eq!(dns.resolve("::1").await, [socket(std::net::Ipv6Addr::LOCALHOST)]);
    assert_eq!(dns.resolve("localhost").await[0], socket([127, 0, 0, 1]));
    assert_eq!(dns.resolve("a.localhost.").await[0], socket([127, 0, 0, 1]));
    assert_eq!(dns.asked.load(Ordering::SeqCst), 0);
}

/// Configuration page: cached by TTL; the last good answer is kept when DNS fails.
#[tokio::test]
async fn the_last_good_answer_serves_while_dns_fails() {
    let dns = Dns::start().await;
    let unknown = within(dns.resolver.resolve("app.test", 80)).await.unwrap_err();
    assert_eq!(&*unknown.name, "app.test");
    dns.answer(Ipv4Addr::new(10, 0, 0, 1));
    assert_eq!(dns.resolve("app.test").await, [socket([10, 0, 0, 1])]);
    let asked = dns.asked.load(Ordering::SeqCst);
    dns.answer(Ipv4Addr::new(10, 0, 0, 2));
    assert_eq!(dns.resolve("app.test").await, [socket([10, 0, 0, 1])], "within its TTL");
    assert_eq!(dns.asked.load(Ordering::SeqCst), asked);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(dns.resolve("app.test").await, [socket([10, 0, 0, 2])], "after its TTL");
    dns.answer(Ipv4Addr::UNSPECIFIED);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(dns.resolve("app.test").await, [socket([10, 0, 0, 2])], "DNS fails");
    let asked = dns.asked.load(Ordering::SeqCst);
    assert_eq!(dns.resolve("app.test").await, [socket([10, 0, 0, 2])]);
    assert_eq!(dns.asked.load(Ordering::SeqCst), asked, "and is left alone for a while");
}
