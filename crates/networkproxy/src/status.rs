//! What networkproxy exports over HTTP: metrics, health, readiness.
//!
//! *Owns* the metrics that only the inner side has. *Never* counts: it reads the books, the pool's table and
//! the gateway's sums. *Invariant*: `/readyz` says what `grpc.health.v1` says.

use std::sync::Arc;

use control::{Process as _, ProcessPhase};
use runtime::{AcceptErrors, BuildInfo, Exposition, SettledTotals, Status, common_metrics};

use crate::process::Inner;

/// What networkproxy exports over HTTP.
#[derive(Debug)]
pub struct InnerStatus {
    /// The process.
    pub inner: Arc<Inner>,
    /// Sums over settled halves.
    pub settled: Arc<SettledTotals>,
    /// Failed accepts on the hop.
    pub accept_errors: Arc<AcceptErrors>,
}

/// Which build this is.
pub const BUILD: BuildInfo = BuildInfo {
    version: env!("CARGO_PKG_VERSION"),
    revision: match option_env!("SMARTPROXY_REVISION") {
        Some(revision) => revision,
        None => "",
    },
};

impl Status for InnerStatus {
    fn metrics(&self) -> String {
        let mut page = Exposition::default();
        let gateway = &self.inner.gateway;
        let since_sweep = gateway.manager.ledger().since_tick(self.inner.now());
        common_metrics(&mut page, BUILD, &gateway.manager, &self.settled, &self.accept_errors, since_sweep);
        let counts = self.inner.pooled();
        let mut pooled =
            page.gauge("proxy_pool_connections", "Connections to targets that speak HTTP, by state.");
        pooled.labelled(&[("state", "idle")], counts.idle);
        pooled.labelled(&[("state", "in_use")], counts.open - counts.idle);
        let mut handshakes = page.counter("proxy_tls_handshakes_total", "TLS handshakes with clients.");
        for (result, version, resumed, count) in gateway.handshakes.all() {
            let resumed = if resumed { "true" } else { "false" };
            handshakes.labelled(&[("result", result), ("version", version), ("resumed", resumed)], count);
        }
        let mut requests =
            page.counter("proxy_http_requests_total", "Requests answered, by entry and class of status.");
        for (entry, classes) in gateway.requests.all() {
            for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(classes) {
                if count > 0 {
                    requests.labelled(&[("entry", &entry), ("code_class", class)], count);
                }
            }
        }
        page.histogram(
            "proxy_http_request_duration_seconds",
            "From a request's head to the end of its response.",
            &gateway.request_durations,
        );
        page.finish()
    }

    fn readiness(&self) -> Result<(), &'static str> {
        match self.inner.phase() {
            ProcessPhase::Ready => Ok(()),
            ProcessPhase::Starting => Err("starting: no routes from smartproxy yet"),
            ProcessPhase::Draining => Err("draining"),
        }
    }
}
