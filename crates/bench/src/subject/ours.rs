//! Our two processes: ledger, control channel and metrics on. smartproxy alone, where its share is asked for.

use std::fmt::Write as _;
use std::path::Path;

use super::Terms;
use crate::certificate::Certificate;
use crate::layout::{ADMIN, APP, CONTROL, HOP, INNER_METRICS, METRICS, PASSTHROUGH, Service};

pub(super) fn files(
    terms: &Terms,
    certificate: &Certificate,
    directory: &Path,
) -> Vec<(&'static str, String, Vec<String>)> {
    let command =
        |program: &str| vec![terms.binaries.join(program).display().to_string(), "--config".to_owned()];
    let mut files = vec![("smartproxy.yaml", smartproxy(terms, directory), command("smartproxy"))];
    if !terms.alone {
        files.push((
            "networkproxy.yaml",
            networkproxy(terms, certificate, directory),
            command("networkproxy"),
        ));
    }
    files
}

fn smartproxy(terms: &Terms, directory: &Path) -> String {
    let (threads, log, token) = (terms.threads, &terms.log, directory.join("token"));
    let (bind, port) = (PASSTHROUGH.ip(), PASSTHROUGH.port());
    let mut text = format!(
        "version: 1
workers: {threads}
bind: [{bind}]
control: {{ listen: {CONTROL}, token_file: {token} }}
metrics: {{ listen: {METRICS} }}
log: {{ level: {log} }}
routes:
  - name: app
    match: {{ ports: [{port}], domains: [{APP}] }}
    tls: terminate
    forward: {{ targets: [\"{target}\"] }}
",
        token = token.display(),
        target = Service::Http.address(),
    );
    for service in Service::PASSED {
        let (name, target) = (service.name(), service.address());
        let short = name.split('.').next().unwrap_or(name);
        // Infallible: a String takes everything.
        let _ = write!(
            text,
            "  - name: {short}
    match: {{ ports: [{port}], domains: [{name}] }}
    tls: passthrough
    forward: {{ targets: [\"{target}\"] }}
"
        );
    }
    text
}

fn networkproxy(terms: &Terms, certificate: &Certificate, directory: &Path) -> String {
    let (threads, log, tickets) = (terms.threads, &terms.log, terms.tickets);
    format!(
        "version: 1
workers: {threads}
control: {{ connect: {CONTROL}, token_file: {token} }}
hop: {{ listen: {HOP} }}
admin: {{ listen: {ADMIN} }}
metrics: {{ listen: {INNER_METRICS} }}
log: {{ level: {log} }}
tls: {{ min_version: \"1.3\", session_tickets: {tickets} }}
timeouts: {{ keep_alive: 10m }}
certificates:
  files: [{{ cert_file: {cert}, key_file: {key} }}]
",
        token = directory.join("token").display(),
        cert = certificate.cert.display(),
        key = certificate.key.display(),
    )
}
