//! HAProxy from the distribution: once, and in front of itself over PROXY protocol version 2.

use std::fmt::Write as _;

use super::Terms;
use crate::certificate::Certificate;
use crate::layout::{HOP, PASSTHROUGH, Service, TERMINATED};

type File = (&'static str, String, Vec<String>);

pub(super) fn one_hop(terms: &Terms, certificate: &Certificate) -> Vec<File> {
    let both = global(terms) + &passthrough() + &web(terms, certificate, TERMINATED, "");
    vec![("haproxy.cfg", both, command())]
}

pub(super) fn two_hops(terms: &Terms, certificate: &Certificate) -> Vec<File> {
    let front = format!(
        "
frontend front
  mode tcp
  bind {TERMINATED}
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req.ssl_hello_type 1 }}
  use_backend hop if {{ req.ssl_sni -m found }}

backend hop
  mode tcp
  server inner {HOP} send-proxy-v2
"
    );
    vec![
        ("haproxy-front.cfg", global(terms) + &front, command()),
        ("haproxy-inner.cfg", global(terms) + &web(terms, certificate, HOP, " accept-proxy"), command()),
    ]
}

fn command() -> Vec<String> {
    ["haproxy", "-db", "-f"].map(str::to_owned).to_vec()
}

fn global(terms: &Terms) -> String {
    format!(
        "global
  nbthread {}
  maxconn 9500
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256

defaults
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 10m
",
        terms.threads
    )
}

fn passthrough() -> String {
    let mut text = format!(
        "
frontend passthrough
  mode tcp
  bind {PASSTHROUGH}
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req.ssl_hello_type 1 }}
"
    );
    for service in Service::PASSED {
        let name = service.name();
        let _ = writeln!(text, "  use_backend {name} if {{ req.ssl_sni -i {name} }}");
    }
    for service in Service::PASSED {
        let (name, address) = (service.name(), service.address());
        let _ = write!(text, "\nbackend {name}\n  mode tcp\n  server target {address}\n");
    }
    text
}

fn web(terms: &Terms, certificate: &Certificate, listen: std::net::SocketAddr, more: &str) -> String {
    let tickets = if terms.tickets { "" } else { " no-tls-tickets" };
    format!(
        "
frontend web
  mode http
  option forwardfor
  bind {listen}{more} ssl crt {} alpn h2,http/1.1{tickets}
  default_backend app

backend app
  mode http
  http-reuse always
  server target {}
",
        certificate.both.display(),
        Service::Http.address(),
    )
}
