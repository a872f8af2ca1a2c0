//! nginx from the distribution: stream for passthrough, http for the rest; and stream in front of http over PROXY
//! protocol (version 1: this version sends no other).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::Terms;
use crate::certificate::Certificate;
use crate::layout::{HOP, PASSTHROUGH, Service, TERMINATED};

type File = (&'static str, String, Vec<String>);

pub(super) fn one_hop(terms: &Terms, certificate: &Certificate, directory: &Path) -> Vec<File> {
    let text = global(terms, directory, "nginx")
        + &passthrough()
        + &web(terms, certificate, directory, TERMINATED, "");
    vec![("nginx.conf", text, command())]
}

pub(super) fn two_hops(terms: &Terms, certificate: &Certificate, directory: &Path) -> Vec<File> {
    let front = format!(
        "stream {{
  server {{
    listen {TERMINATED} backlog=4096;
    ssl_preread on;
    proxy_protocol on;
    proxy_timeout 1h;
    proxy_half_close on;
    proxy_pass {HOP};
  }}
}}
"
    );
    let inner = web(terms, certificate, directory, HOP, " proxy_protocol");
    vec![
        ("nginx-front.conf", global(terms, directory, "front") + &front, command()),
        ("nginx-inner.conf", global(terms, directory, "inner") + &inner, command()),
    ]
}

fn command() -> Vec<String> {
    ["nginx", "-c"].map(str::to_owned).to_vec()
}

fn global(terms: &Terms, directory: &Path, name: &str) -> String {
    let pid = directory.join(format!("{name}.pid"));
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
worker_processes {};
pid {};
error_log stderr error;
events {{ worker_connections 19000; }}
",
        terms.threads,
        pid.display(),
    )
}

fn passthrough() -> String {
    let mut text = "stream {\n  map $ssl_preread_server_name $target {\n".to_owned();
    for service in Service::PASSED {
        let _ = writeln!(text, "    {} {};", service.name(), service.address());
    }
    let _ = write!(
        text,
        "  }}
  server {{
    listen {PASSTHROUGH} backlog=4096;
    ssl_preread on;
    proxy_timeout 1h;
    proxy_half_close on;
    proxy_pass $target;
  }}
}}
"
    );
    text
}

fn web(terms: &Terms, certificate: &Certificate, directory: &Path, listen: SocketAddr, more: &str) -> String {
    let tickets = if terms.tickets { "on" } else { "off" };
    let temporary = directory.join("nginx-tmp");
    format!(
        "http {{
  access_log off;
  client_body_temp_path {temporary};
  proxy_temp_path {temporary};
  fastcgi_temp_path {temporary};
  uwsgi_temp_path {temporary};
  scgi_temp_path {temporary};
  keepalive_timeout 10m;
  keepalive_requests 1000000000;
  client_max_body_size 0;
  upstream target {{
    server {target};
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen {listen} ssl http2 backlog=4096{more};
    ssl_certificate {cert};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    ssl_session_tickets {tickets};
    location / {{
      proxy_pass http://target;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
    }}
  }}
}}
",
        temporary = temporary.display(),
        target = Service::Http.address(),
        cert = certificate.cert.display(),
        key = certificate.key.display(),
    )
}
