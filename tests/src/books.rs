//! Owns what a test asks of the books: a connection's record in both processes, its cause, the counters, the metrics.
//!
//! Waits for settlement before it looks at a cause, and compares what both processes say; a test that passes has seen both
//! agree. Never reads a log where the API gives the answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::client::http::fetch;
use crate::pair::{Pair, Which};
use crate::wait::{SOON, until};

const SERVICE: &str = "proxy.admin.v1.ConnectionService";

impl Pair {
    /// `ConnectionService/METHOD`.
    pub async fn connections(&self, which: Which, method: &str, request: &Value) -> Result<Value> {
        self.call(which, &format!("{SERVICE}/{method}"), request).await
    }

    /// Every record that a process holds, closed ones included, page by page.
    pub async fn records(&self, which: Which) -> Result<Vec<Value>> {
        let admin = Admin::new(self.admin_address(which), Some(self.token()?))?;
        list(&admin).await
    }

    /// The record of the connection that comes from `client`, if the process has one.
    pub async fn record(&self, which: Which, client: SocketAddr) -> Result<Option<Value>> {
        let client = client.to_string();
        let mut token = String::new();
        loop {
            let filter = json!({ "include_closed": true });
            let request = json!({ "filter": filter, "page_size": 1000, "page_token": token });
            let page = self.connections(which, "ListConnections", &request).await?;
            for record in page["connections"].as_array().context("connections")? {
                if record["client_address"] == client.as_str() {
                    return Ok(Some(record.clone()));
                }
            }
            page["next_page_token"].as_str().context("next_page_token")?.clone_into(&mut token);
            if token.is_empty() {
                return Ok(None);
            }
        }
    }

    /// The id of the connection that comes from `client`.
    pub async fn id(&self, client: SocketAddr) -> Result<String> {
        let record = self.recorded(Which::Smartproxy, client, "exists", |_| true).await?;
        Ok(record["id"].as_str().context("an id")?.to_owned())
    }

    /// Waits until the record of `client` is as `look` wants it; `what` names that.
    pub async fn recorded(
        &self,
        which: Which,
        client: SocketAddr,
        what: &str,
        look: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        self.recorded_within(which, client, what, SOON, look).await
    }

    /// As [`Self::recorded`], with another bound.
    pub async fn recorded_within(
        &self,
        which: Which,
        client: SocketAddr,
        what: &str,
        bound: Duration,
        look: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let found = until(&format!("the record of {client} at {which:?} {what}"), bound, async || {
            let record = self.record(which, client).await.ok()??;
            last = record.clone();
            look(&record).then_some(record)
        })
        .await;
        found.with_context(|| format!("the last one seen was {last:#}"))
    }

    /// Waits until the record of `client` is in this phase, such as `RELAYING`.
    pub async fn in_phase(&self, which: Which, client: SocketAddr, phase: &str) -> Result<Value> {
        let name = format!("PHASE_{phase}");
        self.recorded(which, client, &format!("is {phase}"), |record| record["phase"] == name.as_str()).await
    }

    /// Waits until the record of `client` is settled at a process.
    pub async fn settled(&self, which: Which, client: SocketAddr) -> Result<Value> {
        self.recorded(which, client, "is settled", |record| {
            record["phase"] == "PHASE_CLOSED"
                && record["provisional"] == false
                && !record["termination"].is_null()
        })
        .await
    }

    /// Waits until the connection from `client` is over and settled in every running process, and expects this cause, such
    /// as `client_reset` by `client`, in each. Returns smartproxy's record (or the one there is).
    pub async fn ended_with(&self, client: SocketAddr, reason: &str, initiator: &str) -> Result<Value> {
        let expected = cause_names(reason, initiator);
        let mut first = None;
        for which in self.running() {
            let record = self.settled(which, client).await?;
            let cause = &record["termination"];
            ensure!(
                cause["reason"] == expected.0.as_str() && cause["initiator"] == expected.1.as_str(),
                "{which:?} gives another cause than {reason} by {initiator} for {client}: {record:#}"
            );
            ensure!(
                cause["sentence"].as_str().is_some_and(|sentence| sentence.contains(' ')),
                "a cause has a sentence: {cause:#}"
            );
            first.get_or_insert(record);
        }
        first.context("a process runs")
    }

    /// As [`Self::ended_with`], and the cause was settled from both halves, with the bytes on the hop agreeing.
    pub async fn ended_joined(&self, client: SocketAddr, reason: &str, initiator: &str) -> Result<Value> {
        let record = self.ended_with(client, reason, initiator).await?;
        for which in self.running() {
            // The other process's settlement is told by it, a moment later.
            self.recorded(which, client, "is settled from both halves, in both", |record| {
                ["front", "inner"]
                    .iter()
                    .all(|half| record[*half]["settlement"]["settled_from"] == "SETTLED_FROM_BOTH")
            })
            .await?;
            let again = self.settled(which, client).await?;
            for half in ["front", "inner"] {
                let cause = &again[half]["settlement"]["cause"];
                let expected = cause_names(reason, initiator);
                ensure!(
                    cause["reason"] == expected.0.as_str() && cause["initiator"] == expected.1.as_str(),
                    "{which:?}: the {half} half was settled with another cause: {again:#}"
                );
            }
        }
        Ok(record)
    }

    /// `GetCounters`.
    pub async fn counters(&self, which: Which) -> Result<Value> {
        self.connections(which, "GetCounters", &json!({})).await
    }

    /// How many sockets on the hop networkproxy refused for this reason.
    pub async fn hop_refused(&self, reason: &str) -> Result<u64> {
        let counters = self.counters(Which::Networkproxy).await?;
        let name = format!("REASON_{}", reason.to_uppercase());
        let refused = counters["own"]["hop_arrivals"]["refused"].as_array().context("refused")?;
        Ok(refused
            .iter()
            .find(|row| row["reason"] == name.as_str())
            .map_or(0, |row| row["count"].as_u64().unwrap_or_default()))
    }

    /// Live records of a process.
    pub async fn live(&self, which: Which) -> Result<u64> {
        let counters = self.counters(which).await?;
        counters["own"]["connected_clients"].as_u64().context("connected_clients")
    }

    /// Waits until a process has this many live records.
    pub async fn live_is(&self, which: Which, count: u64) -> Result<()> {
        until(&format!("{which:?} has {count} live records"), SOON, async || {
            (self.live(which).await.ok()? == count).then_some(())
        })
        .await
    }

    /// The metrics of a process: name with labels, as exported, to value.
    pub async fn metrics(&self, which: Which) -> Result<Metrics> {
        let (status, text) = fetch(self.metrics_address(which), "/metrics").await?;
        ensure!(status == 200, "/metrics answered {status}");
        Metrics::parse(&text)
    }

    /// The lines of a process's log that tell a connection's end.
    pub fn settlement_lines(&self, which: Which, id: &str) -> Vec<String> {
        let log = self.process(which).log();
        log.lines().filter(|line| line.contains(id) && line.contains("INFO")).map(str::to_owned).collect()
    }
}

/// The names in the API of a reason and an initiator as logs and metrics write them.
pub fn cause_names(reason: &str, initiator: &str) -> (String, String) {
    (format!("REASON_{}", reason.to_uppercase()), format!("INITIATOR_{}", initiator.to_uppercase()))
}

/// A Prometheus text exposition: name with labels, as exported, to value.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads one; a metric that is exported twice is an error.
    pub fn parse(text: &str) -> Result<Self> {
        let mut metrics = BTreeMap::new();
        let mut told = std::collections::BTreeSet::new();
        for line in text.lines().filter(|line| line.starts_with('#')) {
            let head: Vec<&str> = line.split(' ').take(3).collect();
            ensure!(told.insert(head.clone()), "told twice: {head:?}");
        }
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').with_context(|| format!("a metric: {line}"))?;
            let value = value.parse().with_context(|| format!("a value: {line}"))?;
            ensure!(metrics.insert(name.to_owned(), value).is_none(), "exported twice: {name}");
        }
        Ok(Self(metrics))
    }

    /// A count: metrics are floating point by format, counts are whole.
    pub fn count(&self, name: &str) -> Option<u64> {
        self.0.get(name).map(|value| *value as u64)
    }

    /// The sum over every metric whose name with labels begins so.
    pub fn sum(&self, start: &str) -> u64 {
        self.0.iter().filter(|(name, _)| name.starts_with(start)).map(|(_, value)| *value as u64).sum()
    }

    /// Names with labels.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// A duration of the API in JSON, such as `1.500s`.
pub fn duration(value: &Value) -> Option<Duration> {
    let seconds: f64 = value.as_str()?.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

async fn list(admin: &Admin) -> Result<Vec<Value>> {
    let mut records = Vec::new();
    let mut token = String::new();
    loop {
        let request = json!({ "filter": { "include_closed": true }, "page_size": 1000, "page_token": token });
        let page = admin.call(&format!("{SERVICE}/ListConnections"), &request).await?;
        records.extend(page["connections"].as_array().context("connections")?.iter().cloned());
        page["next_page_token"].as_str().context("next_page_token")?.clone_into(&mut token);
        if token.is_empty() {
            return Ok(records);
        }
    }
}

/// What every process says of every connection, one line each, beside one another.
pub(crate) async fn side_by_side(processes: &[(Which, SocketAddr)], token: Option<String>) -> Result<String> {
    const MOST: usize = 60;
    let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut head = "---- both ledgers\n".to_owned();
    for (column, (which, address)) in processes.iter().enumerate() {
        head.push_str(&format!("{}{which:?} ({address})", if column == 0 { "" } else { " | " }));
        let records = match Admin::new(*address, token.clone()) {
            Ok(admin) => list(&admin).await,
            Err(error) => Err(error),
        };
        match records {
            Ok(records) => {
                for record in records {
                    let id = record["id"].as_str().unwrap_or_default().to_owned();
                    let row = rows.entry(id).or_default();
                    row.resize(column, "-".to_owned());
                    row.push(one_line(&record));
                }
            }
            Err(error) => head.push_str(&format!(": {error:#}")),
        }
    }
    head.push('\n');
    let more = rows.len().saturating_sub(MOST);
    for (id, row) in rows.iter().rev().take(MOST) {
        head.push_str(&format!("{id}\n    {}\n", row.join("\n    ")));
    }
    if more > 0 {
        head.push_str(&format!("and {more} more\n"));
    }
    Ok(head)
}

fn one_line(record: &Value) -> String {
    let word = |value: &Value| {
        let text = value.as_str().unwrap_or("-");
        text.split_once('_').map_or(text, |(_, rest)| rest).to_lowercase()
    };
    let half = |name: &str| {
        let half = &record[name];
        if half.is_null() {
            return format!("{name} -");
        }
        let cause = &half["settlement"]["cause"];
        let seen: Vec<String> = half["end"]["observations"]
            .as_array()
            .map(|seen| {
                seen.iter().map(|one| format!("{}@{}", word(&one["reason"]), word(&one["leg"]))).collect()
            })
            .unwrap_or_default();
        format!("{name} {} {} saw {seen:?}", word(&half["phase"]), word(&cause["reason"]))
    };
    format!(
        "{} {} {}: {}; {}; {} superseded",
        record["client_address"].as_str().unwrap_or("?"),
        word(&record["phase"]),
        word(&record["termination"]["reason"]),
        half("front"),
        half("inner"),
        record["superseded"].as_array().map_or(0, Vec::len)
    )
}
