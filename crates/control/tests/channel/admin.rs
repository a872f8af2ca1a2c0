//! The admin services of both processes, as a client sees them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use control::api::{self, messages};
use control::{CloseMode, ProcessPhase, Reading};
use ledger::LedgerLimits;
use messages::{
    AuditRequest, CloseConnectionRequest, ConnectionFilter, GetConnectionRequest, GetCountersRequest,
    GetStatusRequest, HandledBy, ListConnectionsRequest, Order, Phase, Reason,
};
use tonic::Code;

use crate::harness::{Front, Inner, Node, Place, agree, ready, until};
use crate::traffic::{open_bridged, open_front, open_relayed};

async fn admin(address: std::net::SocketAddr, place: Option<&Place>) -> api::Admin {
    let token = place.map(|place| place.token().read().unwrap());
    api::connect(&address.to_string(), token.as_ref(), Duration::from_secs(5)).await.unwrap()
}

async fn pair(place: &Place) -> (Front, Inner) {
    let front = Front::start(place);
    let inner = Inner::start(place, front.address);
    ready(&front, &inner).await;
    (front, inner)
}

fn get(id: impl std::fmt::Display) -> GetConnectionRequest {
    GetConnectionRequest { id: id.to_string() }
}

/// P1: one connection, one record: both processes answer alike, with both halves.
#[tokio::test]
async fn both_processes_show_one_record_of_a_connection() {
    let place = Place::new();
    let (front, inner) = pair(&place).await;
    let bridged = open_bridged(&front.node, &inner.node);
    bridged.exchange(&front.node, &inner.node);
    agree(&[(&front.node, &inner.node)]).await;
    for (address, own) in [(front.address, bridged.front), (inner.address, bridged.inner)] {
        let mut client = admin(address, None).await.connections();
        let record = client.get_connection(get(bridged.id)).await.unwrap().into_inner().connection.unwrap();
        assert_eq!(record.id, bridged.id.to_string());
        assert_eq!(record.phase(), Phase::HttpIdle);
        assert_eq!(record.handled_by(), HandledBy::Networkproxy);
        assert_eq!(record.entry.as_deref(), Some("app"));
        let (front_half, inner_half) = (record.front.unwrap(), record.inner.unwrap());
        assert_ne!(front_half.own, inner_half.own);
        assert_eq!(front_half.own, own == bridged.front);
        assert_eq!(inner_half.tls.unwrap().version, "TLSv1.3");
        assert_eq!(front_half.routing.unwrap().trace.as_deref(), Some("app: chosen by its name"));
        assert!(record.timeline.iter().any(|event| event.text == "networkproxy: http_idle"));
        assert!(record.timeline.iter().any(|event| event.text == "smartproxy: relaying"));
        let times: Vec<_> =
            record.timeline.iter().map(|event| event.at.map(|at| (at.seconds, at.nanos))).collect();
        assert!(times.is_sorted(), "{times:?}");
    }
    let suffix = bridged.id.to_string()[20..].to_owned();
    bridged.end(&front.node, &inner.node, 3);
    agree(&[(&front.node, &inner.node)]).await;
    for address in [front.address, inner.address] {
        let mut client = admin(address, None).await.connections();
        let record = client.get_connection(get(&suffix)).await.unwrap().into_inner().connection.unwrap();
        assert_eq!(record.phase(), Phase::Closed);
        let cause = record.termination.unwrap();
        assert_eq!((cause.reason(), record.provisional), (Reason::ClientReset, false));
        assert!(record.ended_at.is_some());
    }
}

#[tokio::test]
async fn a_look_up_that_fails_says_why() {
    let place = Place::new();
    let front = Front::start(&place);
    let mut client = admin(front.address, None).await.connections();
    let mut code = async |id: &str| client.get_connection(get(id)).await.unwrap_err();
    let missing = code("0192f7a1-b2c3-7d4e-8f90-0123456789ab").await;
    assert_eq!(missing.code(), Code::NotFound);
    for id in ["", "abc", "nonsense-nonsense", &"f".repeat(40)] {
        let invalid = code(id).await;
        assert_eq!(invalid.code(), Code::InvalidArgument);
        assert!(invalid.message().starts_with("id is "), "{invalid}");
    }
    // All ids of these tests end in the same digits.
    open_front(&front.node);
    open_front(&front.node);
    let several = code("00abcdef").await;
    assert_eq!(several.code(), Code::FailedPrecondition);
    assert!(several.message().starts_with("2 connections"), "{several}");
}

async fn list(client: &mut api::Connections, request: ListConnectionsRequest) -> (Vec<String>, String, u64) {
    let answer = client.list_connections(request).await.unwrap().into_inner();
    let ids = answer.connections.into_iter().map(|connection| connection.id).collect();
    (ids, answer.next_page_token, answer.total_size)
}

/// Pages follow the id: what comes and goes meanwhile neither repeats nor hides what stays.
#[tokio::test]
async fn pages_are_stable_while_connections_come_and_go() {
    let place = Place::new();
    let front = Front::start(&place);
    let mut client = admin(front.address, None).await.connections();
    for order in [Order::NewestFirst, Order::OldestFirst] {
        let mut stay = BTreeSet::new();
        let mut go = Vec::new();
        for number in 0..950 {
            let (key, ..) = open_front(&front.node);
            if number % 2 == 0 {
                stay.insert(key.connection.to_string());
            } else {
                go.push(key);
            }
        }
        let mut seen = Vec::new();
        let mut request = ListConnectionsRequest { page_size: 77, order: order.into(), ..Default::default() };
        loop {
            let (ids, token, total) = list(&mut client, request.clone()).await;
            assert!(ids.len() <= 77 && total >= stay.len() as u64);
            seen.extend(ids);
            for key in go.drain(..go.len().min(40)) {
                front.node.ledger.close(key, ledger::Ending::default(), front.node.time.now()).unwrap();
                open_front(&front.node);
            }
            if token.is_empty() {
                break;
            }
            request.page_token = token;
        }
        let mut once = seen.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), seen.len(), "a record came twice");
        assert!(stay.is_subset(&once.into_iter().collect()), "a record was hidden");
        let sorted =
            if order == Order::NewestFirst { seen.is_sorted_by(|a, b| a > b) } else { seen.is_sorted() };
        assert!(sorted, "{order:?}");
    }
}

#[tokio::test]
async fn page_tokens_and_sizes_are_checked() {
    let place = Place::new();
    let front = Front::start(&place);
    for _ in 0..1_200 {
        open_front(&front.node);
    }
    let mut client = admin(front.address, None).await.connections();
    let (usual, token, total) = list(&mut client, ListConnectionsRequest::default()).await;
    assert_eq!((usual.len(), total), (100, 1_200));
    let (most, ..) =
        list(&mut client, ListConnectionsRequest { page_size: 5_000, ..Default::default() }).await;
    assert_eq!(most.len(), 1_000);
    let filter = Some(ConnectionFilter { route: "app".to_owned(), ..Default::default() });
    let wrong = [
        ListConnectionsRequest { page_token: "nonsense".to_owned(), ..Default::default() },
        ListConnectionsRequest { page_token: format!("{token}0"), ..Default::default() },
        ListConnectionsRequest {
            page_token: token.clone(),
            order: Order::OldestFirst.into(),
            ..Default::default()
        },
        ListConnectionsRequest { page_token: token, filter, ..Default::default() },
    ];
    for request in wrong {
        let status = client.list_connections(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("page_token"), "{status}");
    }
}

#[tokio::test]
async fn filters_pick_what_they_say() {
    let place = Place::new();
    let (front, inner) = pair(&place).await;
    let waiting = open_front(&front.node).0.connection;
    let relayed = open_relayed(&front.node).connection;
    let bridged = open_bridged(&front.node, &inner.node);
    let ended = open_bridged(&front.node, &inner.node);
    let over = ended.id;
    ended.end(&front.node, &inner.node, 3);
    agree(&[(&front.node, &inner.node)]).await;
    let mut client = admin(inner.address, None).await.connections();
    let all: BTreeSet<String> = [waiting, relayed, bridged.id].iter().map(ToString::to_string).collect();
    let mut ids = async |filter: ConnectionFilter| -> BTreeSet<String> {
        let request = ListConnectionsRequest { filter: Some(filter), ..Default::default() };
        list(&mut client, request).await.0.into_iter().collect()
    };
    let only = |id: ledger::ConnectionId| BTreeSet::from([id.to_string()]);
    let none = ConnectionFilter::default;
    assert_eq!(ids(none()).await, all, "live ones, of both processes");
    assert_eq!(ids(ConnectionFilter { include_closed: true, ..none() }).await.len(), 4);
    assert_eq!(
        ids(ConnectionFilter { phases: vec![Phase::HttpIdle.into()], ..none() }).await,
        only(bridged.id)
    );
    let handled = |by: HandledBy| ConnectionFilter { handled_by: by.into(), ..none() };
    assert_eq!(ids(handled(HandledBy::Smartproxy)).await, only(relayed));
    assert_eq!(ids(handled(HandledBy::Networkproxy)).await, only(bridged.id));
    let reasons = ConnectionFilter { reasons: vec![Reason::ClientReset.into()], ..none() };
    assert_eq!(ids(reasons).await, only(over));
    assert_eq!(ids(ConnectionFilter { route: "app".to_owned(), ..none() }).await, all);
    assert!(ids(ConnectionFilter { route: "other".to_owned(), ..none() }).await.is_empty());
    assert_eq!(ids(ConnectionFilter { client_cidr: "198.51.100.0/24".to_owned(), ..none() }).await, all);
    assert!(ids(ConnectionFilter { client_cidr: "10.0.0.1".to_owned(), ..none() }).await.is_empty());
    let hour = Some(prost_types::Duration { seconds: 3_600, nanos: 0 });
    assert!(ids(ConnectionFilter { older_than: hour, ..none() }).await.is_empty());
    let zero = Some(prost_types::Duration::default());
    assert_eq!(ids(ConnectionFilter { older_than: zero, ..none() }).await, all);
    let since = |seconds| ConnectionFilter {
        closed_since: Some(prost_types::Timestamp { seconds, nanos: 0 }),
        ..none()
    };
    assert_eq!(ids(since(1)).await, only(over));
    assert!(ids(since(4_000_000_000)).await.is_empty());
    let record = client.get_connection(get(relayed)).await.unwrap().into_inner().connection.unwrap();
    let name = record.server_name.unwrap();
    let request = |server_name: String| ListConnectionsRequest {
        filter: Some(ConnectionFilter { server_name, include_closed: true, ..none() }),
        ..Default::default()
    };
    let named = list(&mut client, request(name.to_uppercase())).await.0;
    assert!(named.contains(&relayed.to_string()));
    for (filter, field) in [
        (ConnectionFilter { client_cidr: "10.0.0.0/40".to_owned(), ..none() }, "filter.client_cidr"),
        (ConnectionFilter { phases: vec![0], ..none() }, "filter.phases"),
        (ConnectionFilter { reasons: vec![-1], ..none() }, "filter.reasons"),
        (ConnectionFilter { handled_by: 9, ..none() }, "filter.handled_by"),
    ] {
        let request = ListConnectionsRequest { filter: Some(filter), ..Default::default() };
        let status = client.list_connections(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status}");
    }
}

/// A process that was killed never tells: its half counts as live exactly as long as the one it is joined to.
#[tokio::test]
async fn a_killed_process_leaves_no_record_live_behind() {
    let place = Place::new();
    let (front, inner) = pair(&place).await;
    let lost = open_bridged(&front.node, &inner.node);
    let stays = open_bridged(&front.node, &inner.node);
    agree(&[(&front.node, &inner.node)]).await;
    let old = inner.instance();
    inner.kill().await;
    lost.lose_front(&front.node);
    until("the channel's end", || !front.peers.session_is_up(old), String::new).await;
    let mut client = admin(front.address, None).await.connections();
    let (live, _, total) = list(&mut client, ListConnectionsRequest::default()).await;
    assert_eq!((live, total), (vec![stays.id.to_string()], 1));
    let record = client.get_connection(get(lost.id)).await.unwrap().into_inner().connection.unwrap();
    assert_eq!(record.phase(), Phase::Closed);
    assert_eq!(record.provisional, record.termination.is_none());
    let record = client.get_connection(get(stays.id)).await.unwrap().into_inner().connection.unwrap();
    assert_eq!(record.phase(), Phase::HttpIdle, "as it was told last, while its own half lives");
    let mut operator = admin(front.address, Some(&place)).await.connections();
    let request = CloseConnectionRequest { id: lost.id.to_string(), ..Default::default() };
    let refused = operator.close_connection(request).await.unwrap_err();
    assert!(refused.message().contains("over already"), "{refused}");
}

/// An operator's close: needs the token, ends up in the record, at either process.
#[tokio::test]
async fn an_operator_closes_a_connection_at_either_process() {
    let place = Place::new();
    let (front, inner) = pair(&place).await;
    let request = |id: ledger::ConnectionId, mode: messages::CloseMode| CloseConnectionRequest {
        id: id.to_string(),
        mode: mode.into(),
        note: "ticket 42".to_owned(),
    };
    let graceful = messages::CloseMode::Graceful;
    for by_front in [true, false] {
        let bridged = open_bridged(&front.node, &inner.node);
        agree(&[(&front.node, &inner.node)]).await;
        let (address, node) =
            if by_front { (front.address, &front.node) } else { (inner.address, &inner.node) };
        let mut stranger = admin(address, None).await.connections();
        let refused = stranger.close_connection(request(bridged.id, graceful)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        let mut operator = admin(address, Some(&place)).await.connections();
        let answer =
            operator.close_connection(request(bridged.id, messages::CloseMode::Abort)).await.unwrap();
        assert!(answer.into_inner().initiated);
        let (key, order) = node.closed.lock().unwrap().pop().unwrap();
        assert_eq!((key == bridged.front, order.mode), (by_front, CloseMode::Abort));
        // The hop ends, and the other half with it.
        if by_front {
            bridged.lose_inner(&inner.node);
        } else {
            bridged.lose_front(&front.node);
        }
        agree(&[(&front.node, &inner.node)]).await;
        for address in [front.address, inner.address] {
            let mut client = admin(address, None).await.connections();
            let record =
                client.get_connection(get(bridged.id)).await.unwrap().into_inner().connection.unwrap();
            let cause = record.termination.unwrap();
            assert_eq!(cause.reason(), Reason::OperatorClosed);
            assert!(cause.evidence.unwrap().contains("ticket 42"));
        }
        let again = operator.close_connection(request(bridged.id, graceful)).await.unwrap_err();
        assert_eq!(again.code(), Code::FailedPrecondition);
        assert!(again.message().contains("over already: operator_closed"), "{again}");
    }
    let relayed = open_relayed(&front.node).connection;
    agree(&[(&front.node, &inner.node)]).await;
    let mut elsewhere = admin(inner.address, Some(&place)).await.connections();
    let refused = elsewhere.close_connection(request(relayed, graceful)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&front.address.to_string()), "it names the owner: {refused}");
    assert!(refused.message().contains("smartproxy"), "{refused}");
}

/// P2: counters of both processes, own and mirrored, are one set of numbers.
#[tokio::test]
async fn counters_agree_across_processes() {
    let place = Place::new();
    let (front, inner) = pair(&place).await;
    let mut open: Vec<_> = (0..30).map(|_| open_bridged(&front.node, &inner.node)).collect();
    open_relayed(&front.node);
    for bridged in open.drain(..10) {
        bridged.end(&front.node, &inner.node, 3);
    }
    agree(&[(&front.node, &inner.node)]).await;
    // Each settles by itself and tells so, after all that its settlement rests on.
    let told = |by: &Node, of: &Node| {
        by.ledger.counters(by.time.now()).mirrors[0].tally.settled
            == of.ledger.counters(of.time.now()).tally.settled
    };
    let both = || told(&front.node, &inner.node) && told(&inner.node, &front.node);
    until("the tallies of both", both, String::new).await;
    let mut at_front = admin(front.address, None).await.connections();
    let mut at_inner = admin(inner.address, None).await.connections();
    let front_says = at_front.get_counters(GetCountersRequest {}).await.unwrap().into_inner();
    let inner_says = at_inner.get_counters(GetCountersRequest {}).await.unwrap().into_inner();
    let (f, i) = (front_says.own.unwrap(), inner_says.own.unwrap());
    assert_eq!((f.connected_clients, f.port_proxy_connections, f.opened, f.settled), (21, 20, 31, 10));
    assert_eq!((i.connected_clients, i.port_proxy_connections, i.opened, i.settled), (20, 20, 30, 10));
    assert_eq!((i.tls_terminated_connections, i.hop_arrivals.unwrap().verified), (30, 30));
    let (of_inner, of_front) = (&front_says.peers[0], &inner_says.peers[0]);
    assert_eq!((of_inner.connected_clients, of_inner.tls_terminated_connections), (20, 30));
    assert_eq!((of_front.connected_clients, of_front.port_proxy_connections), (21, 20));
    assert_eq!(of_inner.tally.as_ref().unwrap().settled, i.tally.unwrap().settled);
    assert_eq!(of_front.tally.as_ref().unwrap().settled, f.tally.unwrap().settled);
}

/// `wait` waits until there is nothing to wait for, and not longer than it may.
#[tokio::test]
async fn an_audit_waits_for_quiet_within_its_bound() {
    let place = Place::new();
    let (front, inner) = pair(&place).await;
    let mut client = admin(front.address, None).await.connections();
    let bridged = open_bridged(&front.node, &inner.node);
    let wait = |seconds| AuditRequest { wait: Some(prost_types::Duration { seconds, nanos: 0 }) };
    let answer = client.audit(wait(10)).await.unwrap().into_inner();
    assert!(answer.balanced && answer.quiet, "{answer:#?}");
    assert!(answer.laws.iter().all(|law| law.holds) && answer.laws.len() >= 7);
    bridged.end_front(&front.node, 1);
    let answer = client.audit(AuditRequest { wait: None }).await.unwrap().into_inner();
    assert!(!answer.quiet, "its cause is not settled yet");
    bridged.end_inner(&inner.node, ledger::Reason::HopClosed);
    let answer = client.audit(wait(10)).await.unwrap().into_inner();
    assert!(answer.balanced && answer.quiet && answer.in_flight.is_empty(), "{answer:#?}");
    let negative = AuditRequest { wait: Some(prost_types::Duration { seconds: -1, nanos: 0 }) };
    assert_eq!(client.audit(negative).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_status_shows_both_sides_of_the_channel() {
    let place = Place::new();
    let (front, inner) = pair(&place).await;
    open_bridged(&front.node, &inner.node);
    agree(&[(&front.node, &inner.node)]).await;
    let of =
        async |address| admin(address, None).await.proxy().get_status(GetStatusRequest {}).await.unwrap();
    let status = of(front.address).await.into_inner();
    assert_eq!((status.version.as_str(), status.connected_clients), ("1.2.3-test", 1));
    let peer = &status.peers[0];
    assert_eq!(peer.instance_id, inner.instance().to_string());
    assert!(peer.connected && peer.ready && peer.heartbeats_fresh && peer.not_ready_because.is_empty());
    assert_eq!((peer.bridged, peer.capacity, peer.route_generation), (1, 1_000_000, 1));
    assert_eq!(peer.admin_address, inner.address.to_string());
    assert_eq!(peer.hop_address, "127.0.0.1:7443");
    let status = of(inner.address).await.into_inner();
    let peer = &status.peers[0];
    assert_eq!((peer.admin_address.as_str(), peer.route_generation), (front.address.to_string().as_str(), 1));
    inner.upstream.announce_draining();
    inner.upstream.drain_acknowledged().await;
    let status = of(front.address).await.into_inner();
    assert_eq!(
        (status.peers[0].ready, status.peers[0].not_ready_because.as_str()),
        (false, "it is draining")
    );
}

/// health follows readiness, so that whoever sends traffic stops before a drain begins.
#[tokio::test]
async fn health_follows_readiness() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    let place = Place::new();
    let front = Front::start(&place);
    let mut health = HealthClient::new(admin(front.address, None).await.channel());
    let mut check = async |service: &str| {
        health
            .check(HealthCheckRequest { service: service.to_owned() })
            .await
            .map(|answer| answer.into_inner().status())
    };
    for (phase, expected) in [
        (ProcessPhase::Ready, ServingStatus::Serving),
        (ProcessPhase::Draining, ServingStatus::NotServing),
        (ProcessPhase::Ready, ServingStatus::Serving),
        (ProcessPhase::Starting, ServingStatus::NotServing),
    ] {
        *front.node.phase.lock().unwrap() = phase;
        for service in ["", "proxy.admin.v1.ConnectionService", "proxy.control.v1.ControlService"] {
            let started = std::time::Instant::now();
            while check(service).await.ok() != Some(expected) {
                assert!(started.elapsed() < Duration::from_secs(10), "{service} is not {expected:?}");
            }
        }
    }
    assert_eq!(check("unknown.Service").await.unwrap_err().code(), Code::NotFound);
}

/// grpcurl without proto files: both versions of reflection list and describe every service.
#[tokio::test]
async fn reflection_is_served_in_both_versions() {
    use tokio_stream::StreamExt as _;
    let place = Place::new();
    let (front, inner) = pair(&place).await;
    macro_rules! services {
        ($version:ident, $address:expr) => {{
            use tonic_reflection::pb::$version::ServerReflectionRequest;
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            let mut client = ServerReflectionClient::new(admin($address, None).await.channel());
            let ask = |what| ServerReflectionRequest { host: String::new(), message_request: Some(what) };
            let asked = tokio_stream::iter([
                ask(MessageRequest::ListServices(String::new())),
                ask(MessageRequest::FileContainingSymbol("proxy.admin.v1.Connection".to_owned())),
            ]);
            let mut answers = client.server_reflection_info(asked).await.unwrap().into_inner();
            let Some(Ok(first)) = answers.next().await else { panic!("no answer") };
            let Some(MessageResponse::ListServicesResponse(list)) = first.message_response else {
                panic!("no list")
            };
            let Some(Ok(second)) = answers.next().await else { panic!("no answer") };
            assert!(matches!(second.message_response, Some(MessageResponse::FileDescriptorResponse(_))));
            list.service.into_iter().map(|service| service.name).collect::<BTreeSet<_>>()
        }};
    }
    for address in [front.address, inner.address] {
        for services in [services!(v1, address), services!(v1alpha, address)] {
            for name in ["proxy.admin.v1.ConnectionService", "proxy.admin.v1.ProxyService"] {
                assert!(services.contains(name), "{services:?}");
            }
        }
    }
}

/// `read_requires_token`: nothing but health answers without the token.
#[tokio::test]
async fn reading_can_be_made_to_need_the_token() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    let place = Place::new();
    let front =
        Front::start_on(&place, ([127, 0, 0, 1], 0).into(), LedgerLimits::default(), Reading::NeedsToken);
    let stranger = admin(front.address, None).await;
    let (mut connections, mut proxy) = (stranger.connections(), stranger.proxy());
    let refusals = [
        connections.list_connections(ListConnectionsRequest::default()).await.unwrap_err(),
        connections.get_connection(get("abcdef")).await.unwrap_err(),
        connections.get_counters(GetCountersRequest {}).await.unwrap_err(),
        connections.audit(AuditRequest::default()).await.unwrap_err(),
        proxy.get_status(GetStatusRequest {}).await.unwrap_err(),
        ServerReflectionClient::new(stranger.channel())
            .server_reflection_info(tokio_stream::iter([ServerReflectionRequest::default()]))
            .await
            .unwrap_err(),
    ];
    for refused in refusals {
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    let operator = admin(front.address, Some(&place)).await;
    assert!(operator.connections().get_counters(GetCountersRequest {}).await.is_ok());
    let inner = Inner::start(&place, front.address);
    ready(&front, &inner).await;
}

/// A deadline is shown with what is left of it, on a peer's half as well.
#[tokio::test]
async fn armed_deadlines_are_shown_with_what_is_left() {
    let place = Place::new();
    let (front, inner) = pair(&place).await;
    let bridged = open_bridged(&front.node, &inner.node);
    let armed = ledger::Armed {
        name: ledger::DeadlineName::KeepAlive,
        limit: Duration::from_secs(75),
        source: "networkproxy.yaml:12".into(),
        since: inner.node.time.now().active,
        restart: ledger::Restart::Never,
    };
    let armed = ledger::Change::Armed(Arc::from([armed]));
    inner.node.ledger.record(bridged.inner, [armed], inner.node.time.now()).unwrap();
    agree(&[(&front.node, &inner.node)]).await;
    for address in [front.address, inner.address] {
        let shown = || async {
            let mut client = admin(address, None).await.connections();
            let record =
                client.get_connection(get(bridged.id)).await.unwrap().into_inner().connection.unwrap();
            record.inner.unwrap().deadlines
        };
        let deadlines = shown().await;
        assert_eq!(deadlines.len(), 1);
        assert_eq!(
            (deadlines[0].name.as_str(), deadlines[0].source.as_str()),
            ("keep_alive", "networkproxy.yaml:12")
        );
        let left = deadlines[0].time_left.unwrap().seconds;
        assert!((50..=75).contains(&left), "{left} s are left");
    }
}

/// 100,000 live connections are listed without holding the books up: while pages are read, records
/// open and close as usual.
#[tokio::test]
async fn listing_very_many_does_not_hold_the_books_up() {
    let place = Place::new();
    let front = Front::start(&place);
    for _ in 0..100_000 {
        open_front(&front.node);
    }
    let node = front.node.clone();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let probe = std::thread::spawn(move || {
        let mut waits = Vec::new();
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let started = std::time::Instant::now();
            let (key, ..) = open_front(&node);
            waits.push(started.elapsed());
            node.ledger.close(key, ledger::Ending::default(), node.time.now()).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        waits
    });
    let mut client = admin(front.address, None).await.connections();
    for _ in 0..5 {
        let (ids, _, total) =
            list(&mut client, ListConnectionsRequest { page_size: 1_000, ..Default::default() }).await;
        assert_eq!(ids.len(), 1_000);
        assert!(total >= 100_000);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut waits = probe.join().unwrap();
    waits.sort();
    let high = waits[waits.len() * 95 / 100];
    assert!(high < Duration::from_millis(20), "95 % of {} openings took up to {high:?}", waits.len());
}
