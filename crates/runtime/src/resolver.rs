//! Names of targets into addresses, without blocking.
//!
//! *Owns* the answers: kept for their TTL, and beyond it while DNS fails (the last good one). One question
//! at a time per name: whoever comes meanwhile gets the older answer, if there is one.
//! *Never* asks DNS about an IP address or `localhost` (RFC 6761 §6.3); `/etc/hosts` comes first, as read at
//! start. *Invariant*: names come from the configuration, so the table is bounded by it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

/// How long an old answer serves after DNS failed, before DNS is asked again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The shortest time an answer is kept: a TTL of zero would ask for every connection.
const SHORTEST_TTL: Duration = Duration::from_secs(1);
/// How long one DNS server may take; it is asked twice.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Resolves target names. Shared by the workers of a process.
#[derive(Debug)]
pub struct Resolver {
    dns: TokioResolver,
    answers: Mutex<HashMap<Box<str>, Answer>>,
}

#[derive(Clone, Debug)]
struct Answer {
    addresses: Arc<[IpAddr]>,
    /// Ask again after this.
    until: Instant,
    /// Somebody is asking.
    asked: bool,
}

/// Why a name has no address.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the name {name} could not be resolved")]
pub struct ResolveError {
    /// The name.
    pub name: Box<str>,
    /// What DNS said; `None` where it answered without an address.
    #[source]
    pub source: Option<NetError>,
}

impl Resolver {
    /// The system's DNS servers and hosts file. Without a readable `/etc/resolv.conf` only the hosts file is
    /// left, which is logged.
    pub fn from_system() -> Self {
        let (config, options) = hickory_resolver::system_conf::read_system_conf().unwrap_or_else(|error| {
            tracing::warn!(%error, "no DNS server is known: only /etc/hosts resolves target names");
            (ResolverConfig::default(), ResolverOpts::default())
        });
        Self::of(config, options)
    }

    /// Given DNS servers.
    pub fn of(config: ResolverConfig, mut options: ResolverOpts) -> Self {
        options.use_hosts_file = ResolveHosts::Always;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.timeout = SERVER_TIMEOUT;
        options.attempts = 2;
        // Ours keeps what counts, and the last good answer beyond its TTL.
        options.cache_size = 0;
        let provider = TokioRuntimeProvider::default();
        let dns = TokioResolver::builder_with_config(config, provider).with_options(options).build();
        let dns = dns.expect("without TLS to DNS servers there is nothing to fail");
        Self { dns, answers: Mutex::default() }
    }

    /// Every address of `host`, with `port`.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        let with_port =
            |addresses: &[IpAddr]| addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        if let Ok(address) = host.parse() {
            return Ok(with_port(&[address]));
        }
        if is_localhost(host) {
            return Ok(with_port(&[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]));
        }
        if let Some(addresses) = self.known(host) {
            return Ok(with_port(&addresses));
        }
        self.ask(host).await.map(|addresses| with_port(&addresses))
    }

    /// An answer that serves. One caller gets `None` once it has expired: to ask again.
    fn known(&self, host: &str) -> Option<Arc<[IpAddr]>> {
        let mut answers = self.answers();
        let answer = answers.get_mut(host)?;
        if answer.until <= Instant::now() && !answer.asked {
            answer.asked = true;
            return None;
        }
        Some(Arc::clone(&answer.addresses))
    }

    async fn ask(&self, host: &str) -> Result<Arc<[IpAddr]>, ResolveError> {
        let mut asking = Asking { resolver: self, host, answered: false };
        let looked_up = self.dns.lookup_ip(host).await;
        asking.answered = true;
        let unresolved = |source| ResolveError { name: host.into(), source };
        let fresh = match looked_up {
            Ok(found) => {
                let addresses: Arc<[IpAddr]> = found.iter().collect();
                if addresses.is_empty() {
                    Err(unresolved(None))
                } else {
                    Ok((addresses, found.valid_until()))
                }
            }
            Err(error) => Err(unresolved(Some(error))),
        };
        let mut answers = self.answers();
        match (fresh, answers.get_mut(host)) {
            (Ok((addresses, until)), _) => {
                let until = until.max(Instant::now() + SHORTEST_TTL);
                let answer = Answer { addresses: Arc::clone(&addresses), until, asked: false };
                answers.insert(host.into(), answer);
                Ok(addresses)
            }
            (Err(error), Some(older)) => {
                tracing::warn!(name = host, error = ?error.source, "DNS failed: the last good answer serves on");
                older.until = Instant::now() + RETRY_AFTER;
                older.asked = false;
                Ok(Arc::clone(&older.addresses))
            }
            (Err(error), None) => Err(error),
        }
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<Box<str>, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question on its way. Dropped before the answer (the client left), it lets the next caller ask.
struct Asking<'a> {
    resolver: &'a Resolver,
    host: &'a str,
    answered: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.answered
            && let Some(answer) = self.resolver.answers().get_mut(self.host)
        {
            answer.asked = false;
        }
    }
}

fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host == "localhost" || host.ends_with(".localhost")
}
