//! The whole story of a connection.

use super::*;
use crate::fake::{Answers, Fake, ID, closed, connection, shown};

/// P5: a live record lists its armed deadlines, the time left and where the value came from.
#[test]
fn a_live_connection_lists_both_halves_with_their_deadlines() {
    let expected = "\
01948a1e-7c00-7abc-8def-0123456789ab  http_active, 12m04s old
  client        192.0.2.7:51234
  listener      0.0.0.0:443
  accepted      2025-01-31T12:00:00.000Z
  server name   app.example.com
  entry         app
  route         app-api
  handled by    networkproxy
  bytes         1.2KiB from the client, 3.3MiB to the client

front half  smartproxy 01948a00-0000-7000-8000-00000000f001 (this process's own)
  phase         relaying for 12m03s
  socket        10.0.0.1:4000 → 198.51.100.1:443
  client        192.0.2.7:51234 (from proxy_v2)
  route         entry app, configuration generation 3
  alpn offered  h2, http/1.1
  trace         legacy: server name differs
                app: taken
  hop           127.0.0.2:40000 → 127.0.0.1:7443
                bridged to 01948a00-0000-7000-8000-00000000e001 by attempt 9, 1 in all
  bytes         client: 1.2KiB read, 3.3MiB written
                hop: 3.3MiB read, 1.2KiB written
  idle          2.5s
  DEADLINE   LEFT  LIMIT  FROM                                STARTS ANEW
  backstop  1h06m  1h06m  derived from networkproxy's limits  with every byte

inner half  networkproxy 01948a00-0000-7000-8000-00000000e001 (as the peer told)
  phase         http_active for 11m02s
  route         app-api (entry app), configuration generation 3
  protocol      h2
  tls           TLSv1.3 TLS13_AES_128_GCM_SHA256, alpn h2, resumed
  target        api.internal:8080 at 10.0.0.5:8080, connected in 3ms
  requests      5 started, 4 finished
  DEADLINE      LEFT  LIMIT  FROM                  STARTS ANEW
  stream_idle  4m57s  5m00s  networkproxy.yaml:14  with every byte
  response       due  1m00s  default               never

TIMELINE (UTC)             AFTER  PROCESS       WHAT
2025-01-31T12:00:00.000Z    +0ms  smartproxy    accepted
2025-01-31T12:00:00.012Z   +12ms  smartproxy    relaying
2025-01-31T12:00:00.014Z   +14ms  networkproxy  saw hop_closed
2025-01-31T12:01:01.250Z  +1m01s  networkproxy  http active
";
    assert_eq!(shown(|screen| show(&connection(), screen)), expected);
}

/// P3: one cause, an initiator, the phase, a sentence, the chain; and what to do about it.
#[test]
fn a_closed_connection_says_why_and_what_to_do() {
    let expected = "\
01948a1e-7c00-7abc-8def-0123456789ab  closed after 12m04s
  client        192.0.2.7:51234
  listener      0.0.0.0:443
  accepted      2025-01-31T12:00:00.000Z
  ended         2025-01-31T12:12:04.000Z
  server name   app.example.com
  entry         app
  route         app-api
  handled by    networkproxy
  bytes         1.2KiB from the client, 3.3MiB to the client

cause  client_reset
  sentence      The client reset the connection.
  initiator     client
  in phase      http_active
  seen on       the client leg
  evidence      ECONNRESET
  chain         smartproxy: client_reset (ECONNRESET)
                networkproxy: hop_reset
  advice        nothing, unless frequent: look for clients that time out

front half  smartproxy 01948a00-0000-7000-8000-00000000f001 (this process's own)
  phase         closed
  socket        10.0.0.1:4000 → 198.51.100.1:443
  client        192.0.2.7:51234 (from proxy_v2)
  route         entry app, configuration generation 3
  alpn offered  h2, http/1.1
  trace         legacy: server name differs
                app: taken
  hop           127.0.0.2:40000 → 127.0.0.1:7443
                bridged to 01948a00-0000-7000-8000-00000000e001 by attempt 9, 1 in all
  bytes         client: 1.2KiB read, 3.3MiB written
                hop: 3.3MiB read, 1.2KiB written
  settled       client_reset (from both halves' ends)
  ended         2025-01-31T12:12:04.000Z after 12m04s
  saw           +12m04s client_reset on the client leg: ECONNRESET
  hop bytes     1280 sent, 3565158 received, not read to its end
  undelivered   17 bytes

TIMELINE (UTC)             AFTER  PROCESS       WHAT
2025-01-31T12:00:00.000Z    +0ms  smartproxy    accepted
2025-01-31T12:00:00.012Z   +12ms  smartproxy    relaying
2025-01-31T12:00:00.014Z   +14ms  networkproxy  saw hop_closed
2025-01-31T12:01:01.250Z  +1m01s  networkproxy  http active
";
    assert_eq!(shown(|screen| show(&closed(), screen)), expected);
}

#[test]
fn a_rule_shows_its_value_what_was_observed_and_where_it_was_written() {
    let mut connection = closed();
    let cause = connection.termination.as_mut().unwrap();
    cause.reason = pb::Reason::HalfCloseTimeout.into();
    cause.rule = Some(pb::Rule {
        name: "half_close".into(),
        limit: "60s".into(),
        source: "smartproxy.yaml:21".into(),
    });
    cause.observed = Some("60.001s".into());
    let text = shown(|screen| show(&connection, screen));
    assert!(text.contains("half_close = 60s (smartproxy.yaml:21), observed 60.001s"), "{text}");
    assert!(text.contains("raise timeouts.half_close"), "{text}");
}

#[test]
fn a_provisional_cause_is_called_so() {
    let connection = pb::Connection { termination: None, provisional: true, ..closed() };
    let text = shown(|screen| show(&connection, screen));
    assert!(text.contains("over; its cause is provisional"), "{text}");
    let settled = shown(|screen| show(&closed(), screen));
    assert!(!settled.contains("provisional"), "{settled}");
}

#[test]
fn given_up_halves_are_shown_and_attempts_told_apart() {
    let mut connection = connection();
    let mut given_up = connection.inner.clone().unwrap();
    given_up.attempt = 8;
    connection.superseded = vec![given_up];
    let text = shown(|screen| show(&connection, screen));
    assert!(text.contains("inner half given up (attempt 8)"), "{text}");
    assert!(text.contains("networkproxy #9"), "{text}");
}

#[test]
fn a_reason_of_a_newer_version_is_shown_by_its_number() {
    let mut connection = closed();
    connection.termination.as_mut().unwrap().reason = 9_999;
    let text = shown(|screen| show(&connection, screen));
    assert!(text.contains("cause  unknown_9999") && !text.contains("advice"), "{text}");
}

#[tokio::test]
async fn json_is_the_answer_of_the_api() {
    let fake = Fake::start(Answers { connections: vec![connection()], ..Answers::default() }).await;
    let value: serde_json::Value = serde_json::from_str(&fake.text("get 456789ab -o json").await).unwrap();
    assert_eq!(value["connection"]["id"], ID);
    assert_eq!(value["connection"]["inner"]["deadlines"][0]["time_left"], "297.500s");
    assert_eq!(value["connection"]["bytes_to_client"], "3565158");
    let text = fake.text("get 456789ab").await;
    assert!(text.starts_with(ID), "{text}");
}
