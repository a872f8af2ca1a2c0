//! Owns what a test wants to be different: the two configuration files, as text, and what stands between the processes.
//!
//! Never reads a file of the repository: every key that a test relies on is written by it or by the few lines here.
//! Heartbeats are fast (200 ms, sessions stall after 600 ms), the log is at info, jitter is off so that "not before"
//! can be asserted, everything else is at its default.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::address::Address;
use crate::certificates::Authority;

/// Between two heartbeats unless a test says otherwise.
pub const HEARTBEAT: Duration = Duration::from_millis(200);

/// The fixed ports on a test's address.
pub mod port {
    /// smartproxy's public TLS port.
    pub const TLS: u16 = 8443;
    /// smartproxy's public clear-text HTTP port.
    pub const HTTP: u16 = 8080;
    /// smartproxy's public plain TCP port.
    pub const TCP: u16 = 9000;
    /// smartproxy's gRPC port.
    pub const CONTROL: u16 = 7800;
    /// smartproxy's metrics port.
    pub const METRICS: u16 = 7810;
    /// The hop.
    pub const HOP: u16 = 7443;
    /// networkproxy's gRPC port.
    pub const ADMIN: u16 = 7801;
    /// networkproxy's metrics port.
    pub const INNER_METRICS: u16 = 7811;
    /// Where the cutter listens in front of the gRPC port.
    pub const CUTTER: u16 = 7799;
    /// Where the hop tap listens in front of the hop.
    pub const TAP: u16 = 7442;
    /// Added to a port of networkproxy for a second one.
    pub const SECOND: u16 = 100;
}

/// What stands on the hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// smartproxy dials networkproxy.
    Direct,
    /// The hop leads through a [`crate::tap::HopTap`]. Implies a cutter, which rewrites the announced address.
    Tapped,
    /// The announced address is rewritten to one where nobody listens.
    Misdirected,
}

/// What stands on the control channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// networkproxy dials smartproxy.
    Direct,
    /// The channel leads through a [`crate::cutter::Cutter`].
    Cut,
}

/// What a test wants.
#[derive(Clone, Debug)]
#[must_use]
pub struct Setup {
    routes: Vec<Route>,
    front: BTreeMap<&'static str, BTreeMap<String, String>>,
    inner: BTreeMap<&'static str, BTreeMap<String, String>>,
    inner_workers: Option<u32>,
    names: Vec<Vec<&'static str>>,
    self_signed: bool,
    pub(crate) channel: Channel,
    pub(crate) hop: Hop,
    pub(crate) networkproxy: bool,
}

impl Setup {
    /// These routes, a certificate for `app.test` and one for `other.test` and `*.wild.test`.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        let mut setup = Self {
            routes: routes.into_iter().collect(),
            front: BTreeMap::new(),
            inner: BTreeMap::new(),
            inner_workers: None,
            names: vec![vec!["app.test"], vec!["other.test", "*.wild.test"]],
            self_signed: false,
            channel: Channel::Direct,
            hop: Hop::Direct,
            networkproxy: true,
        };
        setup = setup.front("timeouts", "jitter", "0%").front("control", "heartbeat", "200ms");
        setup.front("control", "stall_after", "600ms")
    }

    /// Sets a key of a section of smartproxy's file.
    pub fn front(mut self, section: &'static str, key: &str, value: &str) -> Self {
        self.front.entry(section).or_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets a key of a section of networkproxy's file.
    pub fn inner(mut self, section: &'static str, key: &str, value: &str) -> Self {
        self.inner.entry(section).or_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets `workers` of networkproxy's file: each has a pool of its own.
    pub fn inner_workers(mut self, workers: u32) -> Self {
        self.inner_workers = Some(workers);
        self
    }

    /// Sets `timeouts.KEY` of smartproxy's file.
    pub fn timeout(self, key: &str, value: &str) -> Self {
        self.front("timeouts", key, value)
    }

    /// Sets `limits.KEY` of smartproxy's file.
    pub fn limit(self, key: &str, value: &str) -> Self {
        self.front("limits", key, value)
    }

    /// Sets `timeouts.KEY` of networkproxy's file.
    pub fn inner_timeout(self, key: &str, value: &str) -> Self {
        self.inner("timeouts", key, value)
    }

    /// Replaces the certificates: one for each list of names, the first the default.
    pub fn certificates(mut self, names: &[&[&'static str]]) -> Self {
        self.names = names.iter().map(|names| names.to_vec()).collect();
        self
    }

    /// networkproxy makes certificates itself, and has no others.
    pub fn self_signed(mut self) -> Self {
        self.names.clear();
        self.self_signed = true;
        self
    }

    /// Puts a cutter on the control channel.
    pub fn cut(mut self) -> Self {
        self.channel = Channel::Cut;
        self
    }

    /// Puts a tap on the hop.
    pub fn tapped(mut self) -> Self {
        self.channel = Channel::Cut;
        self.hop = Hop::Tapped;
        self
    }

    /// Makes smartproxy dial a hop where nobody listens, though networkproxy is well and ready.
    pub fn misdirected(mut self) -> Self {
        self.channel = Channel::Cut;
        self.hop = Hop::Misdirected;
        self
    }

    /// Starts without a networkproxy; a test starts it later, or never.
    pub fn without_networkproxy(mut self) -> Self {
        self.networkproxy = false;
        self
    }

    /// smartproxy's file.
    pub(crate) fn smartproxy_yaml(&self, address: Address, directory: &Path) -> String {
        let mut sections = self.front.clone();
        let control = sections.entry("control").or_default();
        control.entry("listen".into()).or_insert_with(|| address.port(port::CONTROL).to_string());
        control.insert("token_file".into(), directory.join("control.token").display().to_string());
        let metrics = sections.entry("metrics").or_default();
        metrics.insert("listen".into(), address.port(port::METRICS).to_string());
        let mut text = format!("version: 1\nbind: [{address}]\n");
        write_sections(&mut text, &sections);
        text.push_str("routes:\n");
        for route in &self.routes {
            text.push_str(&route.yaml());
        }
        text
    }

    /// networkproxy's file. `shift` is added to every port.
    pub(crate) fn networkproxy_yaml(&self, address: Address, directory: &Path, shift: u16) -> Result<String> {
        let mut sections = self.inner.clone();
        let connect = match self.channel {
            Channel::Direct => port::CONTROL,
            Channel::Cut => port::CUTTER,
        };
        let mut set = |section, key: &str, value: String| {
            sections.entry(section).or_default().entry(key.into()).or_insert(value);
        };
        set("control", "connect", address.port(connect).to_string());
        set("control", "token_file", directory.join("control.token").display().to_string());
        set("hop", "listen", address.port(port::HOP + shift).to_string());
        set("admin", "listen", address.port(port::ADMIN + shift).to_string());
        set("metrics", "listen", address.port(port::INNER_METRICS + shift).to_string());
        let mut text = "version: 1\n".to_owned();
        if let Some(workers) = self.inner_workers {
            writeln!(text, "workers: {workers}")?;
        }
        write_sections(&mut text, &sections);
        write!(text, "certificates:\n  self_signed: {}\n  files:", self.self_signed)?;
        if self.names.is_empty() {
            text.push_str(" []");
        }
        for (index, names) in self.names.iter().enumerate() {
            let (cert, key) =
                Authority::of_this_run().sign(names)?.write(directory, &format!("certificate-{index}"))?;
            write!(text, "\n    - {{ cert_file: {}, key_file: {} }}", cert.display(), key.display())?;
        }
        text.push('\n');
        Ok(text)
    }
}

/// One route of smartproxy's file.
#[derive(Clone, Debug)]
#[must_use]
pub struct Route {
    name: String,
    ports: Vec<u16>,
    domains: Vec<String>,
    lines: Vec<String>,
    timeouts: BTreeMap<String, String>,
}

impl Route {
    fn new(name: &str, port: u16) -> Self {
        Self {
            name: name.to_owned(),
            ports: vec![port],
            domains: Vec::new(),
            lines: Vec::new(),
            timeouts: BTreeMap::new(),
        }
    }

    /// Plain TCP on [`port::TCP`] to `target`.
    pub fn tcp(name: &str, target: SocketAddr) -> Self {
        Self::new(name, port::TCP).forward(target)
    }

    /// Plain TCP on [`port::TCP`] to `target`, a name and a port.
    pub fn tcp_to(name: &str, target: &str) -> Self {
        Self::new(name, port::TCP).line(&format!("forward: {{ targets: [\"{target}\"] }}"))
    }

    /// TLS passthrough on [`port::TLS`] to `target`.
    pub fn passthrough(name: &str, target: SocketAddr) -> Self {
        Self::new(name, port::TLS).line("tls: passthrough").forward(target)
    }

    /// TLS ended by networkproxy on [`port::TLS`], HTTP to `target`.
    pub fn terminate(name: &str, target: SocketAddr) -> Self {
        Self::new(name, port::TLS).line("tls: terminate").forward(target)
    }

    /// TLS ended by networkproxy on [`port::TLS`], opaque bytes to `target`.
    pub fn terminate_tcp(name: &str, target: SocketAddr) -> Self {
        Self::terminate(name, target).line("protocol: tcp")
    }

    /// Clear-text HTTP on [`port::HTTP`] to `target`.
    pub fn http(name: &str, target: SocketAddr) -> Self {
        Self::new(name, port::HTTP).line("protocol: http").forward(target)
    }

    /// TLS ended by networkproxy on [`port::TLS`], answered as `answer` says, such as `respond: { status: 410 }`.
    pub fn terminate_answer(name: &str, answer: &str) -> Self {
        Self::new(name, port::TLS).line("tls: terminate").line(answer)
    }

    /// Clear-text HTTP on [`port::HTTP`], answered as `answer` says, such as `redirect: { to: "https://{host}" }`.
    pub fn http_answer(name: &str, answer: &str) -> Self {
        Self::new(name, port::HTTP).line(answer)
    }

    /// Refuses what comes to `port`.
    pub fn block(name: &str, port: u16) -> Self {
        Self::new(name, port).line("block: {}")
    }

    /// On another port.
    pub fn on(mut self, port: u16) -> Self {
        self.ports = vec![port];
        self
    }

    /// For this server name (or Host).
    pub fn domain(mut self, domain: &str) -> Self {
        self.domains.push(domain.to_owned());
        self
    }

    /// With a deadline of its own.
    pub fn timeout(mut self, key: &str, value: &str) -> Self {
        self.timeouts.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With one more line of YAML.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    fn forward(self, target: SocketAddr) -> Self {
        self.line(&format!("forward: {{ targets: [\"{target}\"] }}"))
    }

    fn yaml(&self) -> String {
        let quoted: Vec<String> = self.domains.iter().map(|domain| format!("\"{domain}\"")).collect();
        let mut text = format!("  - name: {}\n    match: {{ ports: {:?}", self.name, self.ports);
        if !quoted.is_empty() {
            text.push_str(&format!(", domains: [{}]", quoted.join(", ")));
        }
        text.push_str(" }\n");
        for line in &self.lines {
            text.push_str(&format!("    {line}\n"));
        }
        if !self.timeouts.is_empty() {
            let each: Vec<String> =
                self.timeouts.iter().map(|(key, value)| format!("{key}: {value}")).collect();
            text.push_str(&format!("    timeouts: {{ {} }}\n", each.join(", ")));
        }
        text
    }
}

fn write_sections(text: &mut String, sections: &BTreeMap<&'static str, BTreeMap<String, String>>) {
    for (section, keys) in sections {
        text.push_str(&format!("{section}:\n"));
        for (key, value) in keys {
            text.push_str(&format!("  {key}: {value}\n"));
        }
    }
}
