//! Nothing that is sent may be larger than a receiver takes.

use ledger::{Change, Ending, Ledger, LedgerLimits, Next, Now, Rhythm, SessionKey};

use super::*;
use crate::convert::message::Notice;

/// A text that clients or errors may choose, as long as they like.
fn long() -> String {
    "é".repeat(20_000)
}

fn seen(reason: Reason) -> Observation {
    let rule = Rule { name: long().into(), limit: long().into(), source: long().into() };
    Observation::new(Role::Front, reason, Some(LegName::Client), Duration::from_secs(1))
        .by_rule(rule, long())
        .with_detail(long())
}

/// 2,000 halves as large as they get, at every stage of their life: every batch fits.
#[test]
fn the_largest_halves_travel_in_messages_that_fit() {
    let (front_at, inner_at) = (InstanceId(u128::MAX), InstanceId(u128::MAX - 1));
    let limits =
        LedgerLimits { closed_records: 100_000, closed_bytes: usize::MAX, ..LedgerLimits::default() };
    let mut ledger = Ledger::new(front_at, Role::Front, limits, Rhythm::default());
    let far = Duration::from_secs(100_000_000);
    let now = Now { mono: far, active: far, wall: Wall(2_000_000_000_000_000) };
    let address = ([u16::MAX; 8], u16::MAX).into();
    let accept = Arc::new(Accept {
        listener: long().into(),
        client: address,
        remote: address,
        local: address,
        source: AddressSource::ProxyV2,
        at: now.wall,
    });
    let routing = Arc::new(Routing {
        entry: Some(long().into()),
        route: Some(long().into()),
        generation: u64::MAX,
        server_name: Some(long().into()),
        alpn_offered: vec![long().into(); 100],
        trace: Some("t".repeat(3_000).into()),
        protocol: Some(long().into()),
    });
    let armed: Arc<[Armed]> = DeadlineName::ALL
        .into_iter()
        .map(|name| Armed { name, limit: far, source: long().into(), since: far, restart: Restart::OnBytes })
        .collect();
    let target =
        Arc::new(Target { name: long().into(), address: Some(address), reused: true, connect: Some(far) });
    let tls = Arc::new(Tls {
        version: long().into(),
        cipher: long().into(),
        alpn: Some(long().into()),
        resumed: true,
    });
    for id in 1..=2_000_u64 {
        let key = HalfKey::front(ConnectionId(u128::MAX - u128::from(id)), front_at);
        ledger.open_front(key.connection, Arc::clone(&accept), now).unwrap();
        let changes = [
            Change::Routing(Arc::clone(&routing)),
            Change::Armed(Arc::clone(&armed)),
            Change::Target(Arc::clone(&target)),
            Change::Tls(Arc::clone(&tls)),
            Change::HopAddresses(Some(address), Some(address)),
        ];
        let few = if id % 4 == 0 { 5 } else { (id % 4) as usize };
        ledger.record(key, changes.into_iter().take(few), now).unwrap();
        if id % 3 == 0 {
            let observations =
                vec![seen(Reason::ClientReset); if id % 2 == 0 { End::MAX_OBSERVATIONS } else { 1 }];
            ledger.close(key, Ending { observations, ..Ending::default() }, now).unwrap();
        }
    }
    let hello =
        ledger::Hello { instance: inner_at, role: Role::Inner, session: 1, max_live: 1, resume: None };
    let (at, _) = ledger.answer(&hello, now).unwrap();
    let mut largest = 0;
    let mut halves = 0;
    let mut through = 0;
    let mut chunks = 0;
    while halves < 2_000 {
        match ledger.next(at, now) {
            Next::Send(message) => {
                largest = largest.max(encode(&message, far).encoded_len());
                match message {
                    Message::Batch(batch) => {
                        halves += batch.halves.len();
                        through = batch.through;
                    }
                    Message::Snapshot(chunk) => {
                        halves += chunk.halves.len();
                        chunks += 1;
                    }
                    _ => {}
                }
            }
            Next::Wait(_) => acknowledge(&mut ledger, at, through, chunks, now),
            Next::End(why) => panic!("{why:?}"),
        }
    }
    assert!(largest <= LARGEST_MESSAGE, "{largest} bytes");
    assert!(largest > 48 * 1024, "the test fills messages: {largest} bytes");
}

fn acknowledge(ledger: &mut Ledger, at: SessionKey, applied: u64, chunks: u64, now: Now) {
    ledger.receive(at, Message::Ack(Ack { applied, chunks }), now).unwrap();
}

#[test]
fn the_largest_notices_fit() {
    let names = Notice::NamesWithoutCertificate(vec![long(); 5_000]);
    assert!(names.encode().encoded_len() <= LARGEST_MESSAGE);
    let error = crate::convert::message::Acknowledged { table_error: Some(long()), ..Default::default() };
    assert!(Notice::Acknowledged(error).encode().encoded_len() < 1_000);
}

/// A text is cut at a character, so it stays UTF-8.
#[test]
fn clipping_never_splits_a_character() {
    for limit in 0..10 {
        let clipped = super::super::scalar::clip("aéé€€", limit);
        assert!(clipped.len() <= limit && "aéé€€".starts_with(&clipped));
    }
}
