//! Faults that the simulation plants to prove that it would catch them.
//!
//! *Owns* the list. *Never* present in a build without the feature `planted-faults`, which only this crate's
//! own tests switch on: there [`Ledger::planted`](crate::Ledger::planted) is a constant `false`.
//! *Invariant*: each fault removes exactly one guard.

/// A guard to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-faults"), expect(unreachable_pub, reason = "public to the tests only"))]
pub enum Fault {
    /// A half's end never reaches the journal's readers.
    DropEnd,
    /// A batch is applied although it does not start where the mirror stands.
    ApplyAcrossGap,
    /// A given-up inner half is joined like the current one.
    JoinSuperseded,
    /// Messages of an ended session are applied in the current one.
    AcceptOldSession,
    /// A half of another instance is taken for one of the current instance.
    MatchOldInstance,
    /// Retention evicts a settling half without settling it.
    EvictUnsettled,
    /// A differing digest is ignored.
    IgnoreDrift,
    /// The root cause prefers the half that asks.
    PreferOwnEvidence,
    /// A half that waits is not looked at again when its time has come.
    ForgetToLook,
}

impl crate::Ledger {
    /// Was this fault planted?
    #[cfg(feature = "planted-faults")]
    pub(crate) fn planted(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Was this fault planted? Never, in this build.
    #[cfg(not(feature = "planted-faults"))]
    #[expect(clippy::unused_self, reason = "the same call in both builds")]
    pub(crate) const fn planted(&self, _fault: Fault) -> bool {
        false
    }

    /// What is remembered beside the tables for halves that are not settled: nothing, when all are. A peer
    /// that is away is remembered as it was.
    #[cfg(feature = "planted-faults")]
    pub fn residue(&self) -> usize {
        let here = self.peers.values().filter(|peer| peer.session.is_some());
        let in_flight: usize = here.map(|peer| peer.in_flight.len()).sum();
        self.waiting.len() + self.unseen.len() + self.keepsakes.len() + in_flight
    }

    /// Plants a fault.
    #[cfg(feature = "planted-faults")]
    pub fn plant(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }
}
