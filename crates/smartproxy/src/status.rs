//! What smartproxy exports over HTTP: metrics, health, readiness.
//!
//! *Owns* the metrics that only the front has. *Never* counts: it reads the books. *Invariant*: `/readyz`
//! says what `grpc.health.v1` says.

use std::sync::Arc;

use control::{Process as _, ProcessPhase};
use runtime::{AcceptErrors, BuildInfo, Exposition, Intake, SettledTotals, Status, common_metrics};

use crate::app::App;
use crate::process::Front;

/// What smartproxy exports over HTTP.
#[derive(Debug)]
pub(crate) struct FrontStatus {
    pub(crate) app: Arc<App>,
    pub(crate) front: Arc<Front>,
    pub(crate) settled: Arc<SettledTotals>,
    pub(crate) accept_errors: Arc<AcceptErrors>,
    /// One for each worker.
    pub(crate) intakes: Arc<[Intake]>,
}

/// Which build this is.
pub(crate) const BUILD: BuildInfo = BuildInfo {
    version: env!("CARGO_PKG_VERSION"),
    revision: match option_env!("SMARTPROXY_REVISION") {
        Some(revision) => revision,
        None => "",
    },
};

impl Status for FrontStatus {
    fn metrics(&self) -> String {
        let mut page = Exposition::default();
        let since_sweep = self.app.manager.ledger().since_tick(self.front.now());
        let app = &self.app;
        common_metrics(&mut page, BUILD, &app.manager, &self.settled, &self.accept_errors, since_sweep);
        page.counter("proxy_hop_rebridged_total", "Attempts that came to nothing and were made again.")
            .value(app.counts.rebridged());
        page.histogram(
            "proxy_hold_duration_seconds",
            "How long clients were held that were served after all.",
            app.counts.held(),
        );
        page.gauge("proxy_hop_ports_in_use", "Source ports in use on the hop: live bridged connections.")
            .value(app.manager.ledger().joined_total());
        page.gauge(
            "proxy_connections_in_hand",
            "New connections whose next step is ours; what a worker cannot take in hand waits to be accepted.",
        )
        .value(self.intakes.iter().map(Intake::in_hand).sum::<usize>());
        page.finish()
    }

    fn readiness(&self) -> Result<(), &'static str> {
        match self.front.phase() {
            ProcessPhase::Ready => Ok(()),
            ProcessPhase::Starting => Err("starting"),
            ProcessPhase::Draining => Err("draining"),
        }
    }
}
