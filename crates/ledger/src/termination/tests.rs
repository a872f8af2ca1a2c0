//! Tables and properties of the root-cause rules.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::evidence::HopCount;
use crate::time::Wall;

fn end(role: Role, reasons: &[Reason]) -> End {
    let observe = |reason: &Reason| {
        let leg = match reason {
            Reason::HopReset | Reason::HopClosed => Some(LegName::Hop),
            Reason::ClientReset | Reason::ClientClosed => Some(LegName::Client),
            Reason::TargetReset | Reason::TargetClosed => Some(LegName::Target),
            _ => None,
        };
        Observation::new(role, *reason, leg, Duration::ZERO)
    };
    End {
        phase: Phase::Relaying,
        observations: reasons.iter().map(observe).collect(),
        suspended: Duration::ZERO,
        hop: HopCount::default(),
        undelivered: 0,
        at: Wall(0),
        age: Duration::ZERO,
    }
}

fn joined(front: &[Reason], inner: &[Reason]) -> Reason {
    root_cause(&end(Role::Front, front), &end(Role::Inner, inner)).reason
}

/// The rows of the ledger page's table that both halves settle.
#[test]
fn the_table_of_cases() {
    use Reason::*;
    let table: &[(&[Reason], &[Reason], Reason)] = &[
        (&[ClientClosed, HopClosed], &[HopClosed], ClientClosed),
        (&[ClientClosed, HopClosed], &[HopClosed, TargetClosed], ClientClosed),
        (&[ClientReset], &[HopReset], ClientReset),
        (&[HopReset], &[TargetReset], TargetReset),
        (&[ClientClosed, HopReset], &[HopClosed, TargetReset], TargetReset),
        (&[HopClosed, ClientClosed], &[InactivityTimeout], InactivityTimeout),
        (&[ClientClosed, HopReset], &[HopClosed, InactivityTimeout], InactivityTimeout),
        (&[OperatorClosed], &[HopReset], OperatorClosed),
        (&[HopReset], &[OperatorClosed], OperatorClosed),
        (&[HopClosed, ClientClosed], &[Finished], Finished),
        (&[HopClosed, ClientClosed], &[Finished, HopClosed], Finished),
        (&[ClientLeftBeforeConnect], &[HopReset], ClientLeftBeforeConnect),
        (&[HopClosed, ClientClosed], &[TlsAlertReceived], TlsAlertReceived),
        (&[WriteStallTimeout], &[HopReset, TargetReset], WriteStallTimeout),
        (&[HopReset], &[HopReset], HopReset),
        (&[HopClosed], &[HopReset], HopClosed),
    ];
    for (front, inner, cause) in table {
        assert_eq!(joined(front, inner), *cause, "{front:?} + {inner:?}");
    }
}

#[test]
fn ties_go_by_class_and_then_to_the_front() {
    use Reason::*;
    assert_eq!(joined(&[ClientReset], &[OperatorClosed]), OperatorClosed);
    assert_eq!(joined(&[MaxLifetime], &[HttpProtocolError]), HttpProtocolError);
    assert_eq!(joined(&[ClientReset], &[InactivityTimeout]), InactivityTimeout);
    assert_eq!(joined(&[ClientReset], &[TargetReset]), ClientReset);
    assert_eq!(joined(&[ClientClosed], &[TargetClosed]), ClientClosed);
    // the answer to our goodbye does not become the cause because it was read before the hop's FIN.
    assert_eq!(joined(&[ClientClosed, HopClosed], &[Drained, HopClosed]), Drained);
    assert_eq!(joined(&[ClientClosed, HopClosed], &[Finished, HopClosed]), Finished);
    assert_eq!(joined(&[ClientClosed], &[HopClosed, Finished]), ClientClosed);
}

#[test]
fn alone_a_half_says_only_what_it_saw() {
    use Reason::*;
    let lost = AloneBecause::SessionDown(InstanceId(7));
    let cause = |reasons: &[Reason], because| alone(&end(Role::Front, reasons), Role::Front, because).reason;
    assert_eq!(cause(&[HopReset], lost), PeerLost);
    assert_eq!(cause(&[HopReset], AloneBecause::Unseen), HopReset);
    assert_eq!(cause(&[HopReset, ClientReset], lost), PeerLost);
    assert_eq!(cause(&[ClientReset], lost), ClientReset);
    assert_eq!(cause(&[HopClosed, ClientReset], lost), ClientReset);
    assert_eq!(cause(&[ClientClosed, HopClosed], lost), ClientClosed);
    assert_eq!(cause(&[HopClosed, ClientClosed], lost), HopClosed);
    assert_eq!(cause(&[ClientClosed, HopReset], lost), PeerLost);
    assert_eq!(cause(&[ClientReset], AloneBecause::Superseded), Superseded);
    assert!(alone(&end(Role::Front, &[HopReset]), Role::Front, lost).sentence.contains("instance"));
}

/// P3: the unknown reason of a newer peer ranks by the class that travels with it.
#[test]
fn an_unknown_reason_ranks_by_its_class() {
    let mut inner = end(Role::Inner, &[Reason::Unknown(900)]);
    inner.observations[0].class = Class::Operator;
    let cause = root_cause(&end(Role::Front, &[Reason::ClientReset]), &inner);
    assert_eq!(cause.reason, Reason::Unknown(900));
}

#[test]
fn the_sentence_names_rule_value_source_and_measure() {
    let mut front = end(Role::Front, &[]);
    let rule = Rule { name: "half_close".into(), limit: "1m".into(), source: "proxy.yaml:12".into() };
    let timer =
        Observation::new(Role::Front, Reason::HalfCloseTimeout, Some(LegName::Client), Duration::ZERO);
    front.observations.push(timer.by_rule(rule, "60.002s"));
    let cause = only(&front, Role::Front);
    assert_eq!(
        &*cause.sentence,
        "one side had closed and the other made no progress; rule half_close=1m (proxy.yaml:12), \
         observed 60.002s; in phase relaying"
    );
}

#[test]
fn an_end_without_any_observation_is_our_own_bug() {
    assert_eq!(only(&end(Role::Front, &[]), Role::Front).reason, Reason::Abandoned);
}

fn observed() -> impl Strategy<Value = Vec<Reason>> {
    let any = prop::sample::select(Reason::ALL);
    let hop = prop::sample::select(vec![Reason::HopClosed, Reason::HopReset]);
    prop::collection::vec(prop_oneof![any, hop], 0..6)
}

proptest! {
    /// P3: a consequence on the hop is never the cause while either half holds better evidence, and the
    /// chain keeps everything that either saw.
    #[test]
    fn the_hop_is_never_blamed_while_there_is_evidence(front in observed(), inner in observed()) {
        let (f, i) = (end(Role::Front, &front), end(Role::Inner, &inner));
        let cause = root_cause(&f, &i);
        let evidence = [&f, &i].into_iter().filter_map(End::key).any(|(_, hop)| hop != HopState::Reset);
        if evidence {
            prop_assert_ne!(cause.class, Class::Consequence);
        }
        prop_assert_eq!(cause.chain.len(), front.len() + inner.len());
        prop_assert_eq!(root_cause(&f, &i), cause);
    }
}
