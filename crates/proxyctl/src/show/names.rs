//! The names of enum values, as logs and metrics spell them.
//!
//! *Owns* the way from a wire number to a word. *Never* loses a number that this build does not know: it is
//! shown as `unknown_N`. *Invariant*: a reason and a phase have here the name that [`ledger`] gives them.

use control::api::messages as pb;
use ledger::{Phase, Reason};

use super::screen::Tint;

/// A phase; `-` where it is unspecified.
pub(crate) fn phase(number: i32) -> String {
    match u8::try_from(number).map(Phase::from_number) {
        Ok(Phase::Unknown(0)) => "-".to_owned(),
        Ok(Phase::Unknown(_)) | Err(_) => unknown(number),
        Ok(known) => known.name().to_owned(),
    }
}

/// A reason as this build knows it.
pub(crate) fn reason_of(number: i32) -> Option<Reason> {
    let reason = Reason::from_number(u16::try_from(number).ok()?);
    (!matches!(reason, Reason::Unknown(_))).then_some(reason)
}

/// A reason; `-` where it is unspecified.
pub(crate) fn reason(number: i32) -> String {
    match reason_of(number) {
        Some(reason) => reason.name().to_owned(),
        None if number == 0 => "-".to_owned(),
        None => unknown(number),
    }
}

/// What a reason says about how well things went.
pub(crate) fn reason_tint(number: i32) -> Tint {
    match reason_of(number) {
        Some(Reason::Abandoned | Reason::Panicked) => Tint::Bad,
        Some(reason) if reason.class() == ledger::Class::Orderly => Tint::Plain,
        _ => Tint::Odd,
    }
}

/// Who began an end.
pub(crate) fn initiator(number: i32) -> String {
    of(number, "INITIATOR_", pb::Initiator::try_from(number).map(|known| known.as_str_name()).ok())
}

/// A process, by the role of its halves.
pub(crate) fn process(role: i32) -> String {
    match pb::Role::try_from(role) {
        Ok(pb::Role::Front) => "smartproxy".to_owned(),
        Ok(pb::Role::Inner) => "networkproxy".to_owned(),
        Ok(pb::Role::Unspecified) => "-".to_owned(),
        Err(_) => unknown(role),
    }
}

/// A process that carries bytes to a target.
pub(crate) fn handled_by(number: i32) -> String {
    of(number, "HANDLED_BY_", pb::HandledBy::try_from(number).map(|known| known.as_str_name()).ok())
}

/// One of a half's sockets.
pub(crate) fn leg(number: i32) -> String {
    of(number, "LEG_", pb::Leg::try_from(number).map(|known| known.as_str_name()).ok())
}

/// What a cause was settled from.
pub(crate) fn settled_from(number: i32) -> String {
    of(number, "SETTLED_FROM_", pb::SettledFrom::try_from(number).map(|known| known.as_str_name()).ok())
}

/// Where a client's address was learned.
pub(crate) fn address_source(number: i32) -> String {
    of(number, "ADDRESS_SOURCE_", pb::AddressSource::try_from(number).map(|known| known.as_str_name()).ok())
}

/// Why a connection may be live on one side only; none is a fault.
pub(crate) fn excuse(number: i32) -> String {
    match number {
        0 => "none".to_owned(),
        _ => of(number, "EXCUSE_", pb::Excuse::try_from(number).map(|known| known.as_str_name()).ok()),
    }
}

/// Where a process is in its life.
pub(crate) fn process_phase(number: i32) -> String {
    of(number, "PROCESS_PHASE_", pb::ProcessPhase::try_from(number).map(|known| known.as_str_name()).ok())
}

fn of(number: i32, prefix: &str, name: Option<&'static str>) -> String {
    match name.and_then(|name| name.strip_prefix(prefix)) {
        Some("UNSPECIFIED") => "-".to_owned(),
        Some(name) => name.to_ascii_lowercase(),
        None => unknown(number),
    }
}

fn unknown(number: i32) -> String {
    format!("unknown_{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// the same names everywhere, and a newer peer's reason is not lost.
    #[test]
    fn names_are_those_of_the_ledger_and_the_protos() {
        for known in Reason::ALL {
            let wire = pb::Reason::try_from(i32::from(known.number())).unwrap();
            assert_eq!(reason(wire as i32), known.name());
            assert_eq!(wire.as_str_name(), format!("REASON_{}", known.name().to_ascii_uppercase()));
        }
        for known in Phase::ALL {
            let wire = pb::Phase::try_from(i32::from(known.number())).unwrap();
            assert_eq!(phase(wire as i32), known.name());
            assert_eq!(wire.as_str_name(), format!("PHASE_{}", known.name().to_ascii_uppercase()));
        }
        assert_eq!(
            (reason(0), reason(9_999), reason(-1)),
            ("-".into(), "unknown_9999".into(), "unknown_-1".into())
        );
        assert_eq!(
            (phase(0), phase(99), phase(300)),
            ("-".into(), "unknown_99".into(), "unknown_300".into())
        );
    }

    #[test]
    fn words_lose_their_prefix_and_unknown_numbers_stay() {
        assert_eq!(initiator(pb::Initiator::PeerLoss as i32), "peer_loss");
        assert_eq!(leg(pb::Leg::Target as i32), "target");
        assert_eq!(settled_from(pb::SettledFrom::Both as i32), "both");
        assert_eq!(address_source(pb::AddressSource::ProxyV2 as i32), "proxy_v2");
        assert_eq!(process_phase(pb::ProcessPhase::Draining as i32), "draining");
        assert_eq!(handled_by(pb::HandledBy::Networkproxy as i32), "networkproxy");
        assert_eq!((handled_by(0), handled_by(7)), ("-".into(), "unknown_7".into()));
        assert_eq!((excuse(0), excuse(2)), ("none".into(), "peer_stale".into()));
        assert_eq!(
            (process(1), process(2), process(0), process(9)),
            ("smartproxy".into(), "networkproxy".into(), "-".into(), "unknown_9".into())
        );
    }
}
