//! The books: one connection, one record, one cause, whichever process is asked; who may ask, and who may close.

use anyhow::{Context as _, Result, ensure};
use e2e::client::http::Http;
use e2e::client::tls::Tls;
use e2e::client::{Ending, connect, echo, read_to_end};
use e2e::target::Target;
use e2e::target::http::HttpTarget;
use e2e::wait::SOON;
use e2e::{Address, Admin, Pair, Refused, Route, Setup, Which};
use serde_json::{Value, json};
use tonic::Code;

/// A pair with one relayed and one bridged connection.
struct Stage {
    pair: Pair,
    relayed: tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
    bridged: tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
    _targets: (Target, Target),
}

impl Stage {
    async fn start() -> Result<Self> {
        let address = Address::next();
        let through = Target::tls_echo(address, "pass.test").await?;
        let opaque = Target::echo(address).await?;
        let routes = [
            Route::passthrough("through", through.address()).domain("pass.test"),
            Route::terminate_tcp("ended", opaque.address()).domain("app.test"),
        ];
        let pair = Pair::start(address, Setup::new(routes)).await?;
        let mut relayed = Tls::to("pass.test").connect(pair.tls()).await?;
        echo(&mut relayed, b"relayed").await?;
        let mut bridged = Tls::to("app.test").connect(pair.tls()).await?;
        echo(&mut bridged, b"bridged").await?;
        Ok(Self { pair, relayed, bridged, _targets: (through, opaque) })
    }

    /// The ids of both, once both processes know of them: what one writes, the other is told a moment later.
    async fn ids(&self) -> Result<(String, String)> {
        let (relayed, bridged) =
            (self.relayed.get_ref().0.local_addr()?, self.bridged.get_ref().0.local_addr()?);
        for which in e2e::BOTH {
            self.pair.recorded(which, relayed, "is relayed", |record| !record["front"].is_null()).await?;
            self.pair
                .recorded(which, bridged, "is joined", |record| {
                    let attempt = &record["inner"]["attempt"];
                    !attempt.is_null() && record["front"]["hop"]["bridged_attempt"] == *attempt
                })
                .await?;
        }
        Ok((self.pair.id(relayed).await?, self.pair.id(bridged).await?))
    }

    async fn teardown(self) -> Result<()> {
        drop((self.relayed, self.bridged));
        self.pair.teardown().await
    }
}

fn refusal(error: &anyhow::Error) -> Result<&tonic::Status> {
    Ok(&error.downcast_ref::<Refused>().context("a refusal by the server")?.0)
}

/// P1: either process shows the whole connection, by its id or by the last digits of it, both halves joined.
#[tokio::test]
async fn either_process_shows_both_halves_by_the_end_of_the_id() -> Result<()> {
    let stage = Stage::start().await?;
    let (relayed, bridged) = stage.ids().await?;
    for which in e2e::BOTH {
        for id in [bridged.as_str(), &bridged[bridged.len() - 12..], &bridged[bridged.len() - 6..]] {
            let found = stage.pair.connections(which, "GetConnection", &json!({ "id": id })).await?;
            let record = &found["connection"];
            assert_eq!(record["id"], bridged.as_str());
            assert_eq!(record["front"]["role"], "ROLE_FRONT");
            assert_eq!(record["inner"]["role"], "ROLE_INNER");
            assert_eq!(record["front"]["hop"]["bridged_instance_id"], record["inner"]["instance_id"]);
            assert_eq!(record["inner"]["front_instance_id"], record["front"]["instance_id"]);
            assert_eq!(record["front"]["hop"]["bridged_attempt"], record["inner"]["attempt"]);
            assert_eq!(record["front"]["own"], which == Which::Smartproxy);
            assert_eq!(record["inner"]["own"], which == Which::Networkproxy);
            // The same two sockets, seen from both ends.
            assert_eq!(record["front"]["hop"]["local_address"], record["inner"]["hop"]["remote_address"]);
            let events = record["timeline"].as_array().context("timeline")?;
            ensure!(events.iter().any(|event| event["role"] == "ROLE_FRONT"), "{events:#?}");
            ensure!(events.iter().any(|event| event["role"] == "ROLE_INNER"), "{events:#?}");
        }
        let found = stage.pair.connections(which, "GetConnection", &json!({ "id": relayed })).await?;
        assert_eq!(found["connection"]["handled_by"], "HANDLED_BY_SMARTPROXY");
        assert!(found["connection"]["inner"].is_null());
    }
    for (id, code) in [
        ("00000", Code::InvalidArgument),
        ("nonsense!", Code::InvalidArgument),
        ("0123456789abcdef", Code::NotFound),
    ] {
        let error = stage.pair.connections(Which::Smartproxy, "GetConnection", &json!({ "id": id })).await;
        let error = error.err().context("refused")?;
        assert_eq!(refusal(&error)?.code(), code, "{id}: {error:#}");
    }
    stage.teardown().await
}

/// Lists are paged, filtered, and the same in both processes.
#[tokio::test]
async fn both_processes_list_the_same_connections() -> Result<()> {
    let address = Address::next();
    let target = HttpTarget::start(address).await?;
    let routes = [
        Route::terminate("app", target.address()).domain("app.test"),
        Route::http("clear", target.address()),
    ];
    let pair = Pair::start(address, Setup::new(routes)).await?;
    let mut clients = Vec::new();
    for number in 0..25 {
        let mut client = match number % 2 {
            0 => Http::tls2(pair.tls(), "app.test").await?,
            _ => Http::clear(pair.http()).await?,
        };
        assert_eq!(client.get("app.test", "/").await?.status, 200);
        clients.push(client);
    }
    for which in e2e::BOTH {
        pair.live_is(which, 25).await?;
        for (filter, expected) in [
            (json!({}), 25),
            (json!({ "route": "app" }), 13),
            (json!({ "route": "clear" }), 12),
            (json!({ "server_name": "APP.test" }), 13),
            (json!({ "handled_by": "HANDLED_BY_NETWORKPROXY" }), 25),
            (json!({ "handled_by": "HANDLED_BY_SMARTPROXY" }), 0),
            (json!({ "client_cidr": "127.0.0.0/8" }), 25),
            (json!({ "client_cidr": "10.0.0.0/8" }), 0),
            (json!({ "reasons": ["REASON_CLIENT_CLOSED"] }), 0),
        ] {
            let mut seen = Vec::new();
            let mut token = String::new();
            loop {
                let request = json!({ "filter": filter, "page_size": 7, "page_token": token });
                let page = pair.connections(which, "ListConnections", &request).await?;
                assert_eq!(page["total_size"], expected, "{which:?} {filter}");
                let rows = page["connections"].as_array().context("connections")?;
                ensure!(rows.len() <= 7);
                seen.extend(rows.iter().map(|row| row["id"].to_string()));
                page["next_page_token"].as_str().context("a token")?.clone_into(&mut token);
                if token.is_empty() {
                    break;
                }
            }
            let count = seen.len();
            seen.sort();
            seen.dedup();
            assert_eq!((count, seen.len()), (expected, expected), "{which:?} {filter}: each once");
        }
        for (request, field) in [
            (json!({ "page_token": "made up" }), "page_token"),
            (json!({ "filter": { "client_cidr": "not a network" } }), "client_cidr"),
        ] {
            let error =
                pair.connections(which, "ListConnections", &request).await.err().context("refused")?;
            let status = refusal(&error)?;
            assert_eq!(status.code(), Code::InvalidArgument);
            ensure!(status.message().contains(field), "the message names the field: {}", status.message());
        }
    }
    drop(clients);
    pair.teardown().await
}

/// An operator may close at either process; the books of both say who and why.
#[tokio::test]
async fn an_operator_closes_at_either_process_and_both_books_say_so() -> Result<()> {
    for which in e2e::BOTH {
        for (mode, ending) in [("CLOSE_MODE_GRACEFUL", Ending::Fin), ("CLOSE_MODE_ABORT", Ending::Reset)] {
            let mut stage = Stage::start().await?;
            let (_, id) = stage.ids().await?;
            let from = stage.bridged.get_ref().0.local_addr()?;
            let request = json!({ "id": &id[id.len() - 8..], "mode": mode, "note": "too long on the line" });
            let closed = stage.pair.connections(which, "CloseConnection", &request).await?;
            assert_eq!(closed, json!({ "id": id, "initiated": true }));
            let (_, ended) = read_to_end(&mut stage.bridged, SOON).await?;
            assert_eq!(ended, ending, "{which:?} {mode}");
            let record = stage.pair.ended_joined(from, "operator_closed", "operator").await?;
            let evidence = record["termination"]["evidence"].as_str().unwrap_or_default();
            ensure!(evidence.contains("too long on the line"), "{evidence}");
            echo(&mut stage.relayed, b"undisturbed").await?;
            // Closed is closed.
            let error =
                stage.pair.connections(which, "CloseConnection", &request).await.err().context("over")?;
            assert_eq!(refusal(&error)?.code(), Code::FailedPrecondition);
            stage.teardown().await?;
        }
    }
    Ok(())
}

/// A half that a process does not own: FAILED_PRECONDITION, with the address of the one that does.
#[tokio::test]
async fn closing_at_the_wrong_process_names_the_right_one() -> Result<()> {
    let mut stage = Stage::start().await?;
    let (relayed, _) = stage.ids().await?;
    let request = json!({ "id": relayed });
    let found = async || stage.pair.connections(Which::Networkproxy, "GetConnection", &request).await.ok();
    e2e::wait::until("networkproxy knows it", SOON, found).await?;
    let error = stage
        .pair
        .connections(Which::Networkproxy, "CloseConnection", &request)
        .await
        .err()
        .context("not its own")?;
    let status = refusal(&error)?;
    assert_eq!(status.code(), Code::FailedPrecondition);
    let owner = stage.pair.admin_address(Which::Smartproxy).to_string();
    ensure!(status.message().contains(&owner), "the owner's address is named: {}", status.message());
    echo(&mut stage.relayed, b"undisturbed").await?;
    stage.teardown().await
}

/// Reading on loopback is open; a mutating call needs the token, on either process; each leaves one audit line.
#[tokio::test]
async fn only_the_token_may_change_anything() -> Result<()> {
    let mut stage = Stage::start().await?;
    let (_, id) = stage.ids().await?;
    for which in e2e::BOTH {
        let address = stage.pair.admin_address(which);
        for token in [None, Some("wrong".to_owned()), Some(String::new())] {
            let stranger = Admin::new(address, token.clone())?;
            let request = json!({ "id": id });
            let method = "proxy.admin.v1.ConnectionService/CloseConnection";
            let error = stranger.call(method, &request).await.err().context("refused")?;
            assert_eq!(refusal(&error)?.code(), Code::Unauthenticated, "{which:?} {token:?}");
        }
        let reader = Admin::new(address, None)?;
        let counters = reader.call("proxy.admin.v1.ConnectionService/GetCounters", &json!({})).await?;
        assert_eq!(counters["own"]["connected_clients"], if which == Which::Smartproxy { 2 } else { 1 });
    }
    echo(&mut stage.bridged, b"undisturbed").await?;
    let request = json!({ "id": id, "note": "with the token" });
    stage.pair.connections(Which::Networkproxy, "CloseConnection", &request).await?;
    let log = stage.pair.process(Which::Networkproxy).log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("CloseConnection")).collect();
    ensure!(lines.iter().any(|line| line.contains(&id)), "an audit line names call and record: {lines:#?}");
    let token = stage.pair.token()?;
    ensure!(!log.contains(&token), "the token is in no log");
    stage.teardown().await
}

/// Reflection, v1 and v1alpha, lists every service on both ports, health included.
#[tokio::test]
async fn reflection_lists_every_service_on_both_ports() -> Result<()> {
    let stage = Stage::start().await?;
    for which in e2e::BOTH {
        let admin = Admin::new(stage.pair.admin_address(which), None)?;
        for services in [admin.services().await?, admin.services_v1alpha().await?] {
            for name in
                ["proxy.admin.v1.ConnectionService", "proxy.admin.v1.ProxyService", "grpc.health.v1.Health"]
            {
                ensure!(services.iter().any(|service| service == name), "{which:?}: {services:?}");
            }
        }
        let health = admin.call("grpc.health.v1.Health/Check", &json!({})).await?;
        assert_eq!(health["status"], "SERVING", "{which:?}");
    }
    stage.teardown().await
}

/// Counters: own numbers, and the same numbers in the peer's mirror.
#[tokio::test]
async fn counters_agree_between_the_processes() -> Result<()> {
    let stage = Stage::start().await?;
    let same = async || {
        let front = stage.pair.counters(Which::Smartproxy).await.ok()?;
        let inner = stage.pair.counters(Which::Networkproxy).await.ok()?;
        let agree = |own: &Value, mirror: &Value| {
            ["connected_clients", "port_proxy_connections", "tls_terminated_connections"]
                .iter()
                .all(|name| own[*name] == mirror[*name])
        };
        let both = agree(&front["own"], &inner["peers"][0]) && agree(&inner["own"], &front["peers"][0]);
        both.then_some((front, inner))
    };
    let (front, inner) = e2e::wait::until("both agree", SOON, same).await?;
    assert_eq!(front["own"]["connected_clients"], 2);
    assert_eq!(front["own"]["port_proxy_connections"], 1);
    assert_eq!(inner["own"]["connected_clients"], 1);
    assert_eq!(inner["own"]["port_proxy_connections"], 1);
    assert_eq!(inner["own"]["tls_terminated_connections"], 1);
    stage.teardown().await
}

/// A connection that just came is known to the other process within a moment, and its end too (idle adaptive timing).
#[tokio::test]
async fn an_opening_and_an_end_cross_within_a_moment() -> Result<()> {
    let address = Address::next();
    let target = Target::echo(address).await?;
    let pair = Pair::start(address, Setup::new([Route::tcp("echo", target.address())])).await?;
    for _ in 0..5 {
        let mut client = connect(pair.tcp()).await?;
        echo(&mut client, b"x").await?;
        let from = client.local_addr()?;
        pair.in_phase(Which::Networkproxy, from, "RELAYING").await?;
        drop(client);
        pair.settled(Which::Networkproxy, from).await?;
    }
    pair.teardown().await
}
