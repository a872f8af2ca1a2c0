//! What must hold: at every step, and when everything is quiet again.
//!
//! *Owns* the judgement. *Never* changes the world. *Invariant*: each violation names the law it broke.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ledger::{Attempt, ConnectionId, Half, Heading, Ledger, Now, Role, SettledFrom, Termination};

use crate::Channel;
use crate::world::{FRONT, INNERS, World};

impl World {
    /// After a step of process `at`.
    pub(crate) fn check_step(&mut self, at: usize) {
        let now = self.processes[at].now(self.time);
        let limits = self.scenario.limits;
        let Some(ledger) = &self.processes[at].ledger else { return };
        let audit = ledger.audit(now);
        // The laws of a pair presume that news arrives within two heartbeats.
        let slow = self
            .links
            .iter()
            .any(|(inner, link)| (at == FRONT || at == *inner) && (link.slow || self.time < link.slow_until));
        let hiccup = self.processes.iter().any(|process| self.time < process.hiccup_until);
        let timely = self.scenario.channel == Channel::Honest && !slow && !hiccup;
        let broken: Vec<String> = audit
            .laws
            .iter()
            .filter(|law| !law.holds && (law.peer.is_none() || timely))
            .map(|law| format!("process {at}: {} ({:?} {:?})", law.name, law.left, law.right))
            .collect();
        if let Some(law) = broken.into_iter().next() {
            let unexcused: Vec<_> = audit.in_flight.iter().filter(|f| f.excuse.is_none()).collect();
            return self.fail(format!("{law} {unexcused:?}"));
        }
        if audit.alarms.drift_detected > 0 && self.scenario.channel != Channel::Corrupt {
            return self.fail(format!("process {at}: drift"));
        }
        let walked = live_connections(ledger, now);
        if let Some(counted) = ledger.live_connections().filter(|counted| *counted != walked) {
            return self
                .fail(format!("process {at}: {counted} live connections counted, {walked} walked over"));
        }
        if ledger.closed_records() > limits.closed_records {
            self.fail(format!("process {at}: retains {} closed halves", ledger.closed_records()));
        }
    }

    /// Runs until everything is quiet, then judges.
    pub(crate) fn check_quiet(&mut self) {
        let deadline = self.time + Duration::from_mins(1);
        while self.violation.is_none() && self.time < deadline && !self.is_quiet() {
            let next = self.time + Duration::from_millis(500);
            self.run_until(next);
        }
        if self.violation.is_some() {
            return;
        }
        if !self.is_quiet() {
            return self.fail(self.describe_unrest());
        }
        // Two more heartbeats: everything told, every digest compared.
        self.run_until(self.time + self.rhythm.heartbeat * 4);
        for at in 0..3 {
            self.check_process(at);
        }
        self.check_causes();
        let (altered, noticed) = (self.altered, self.processes.iter().map(|p| p.drifts).sum::<u64>());
        if altered > 3 && noticed == 0 {
            self.fail(format!("{altered} halves were altered on their way and no drift was counted"));
        }
    }

    fn is_quiet(&self) -> bool {
        (0..3).all(|at| {
            let Some(ledger) = &self.processes[at].ledger else { return false };
            let counters = ledger.counters(self.processes[at].now(self.time));
            let peers = if at == FRONT { 2 } else { 1 };
            let up = counters.mirrors.iter().filter(|m| m.status.connected && !m.stale).count();
            counters.connected_clients == 0 && counters.settling == 0 && up == peers
        })
    }

    fn describe_unrest(&self) -> String {
        let mut text = String::from("not quiet after 60 s:");
        for at in 0..3 {
            let Some(ledger) = &self.processes[at].ledger else { continue };
            let now = self.processes[at].now(self.time);
            let counters = ledger.counters(now);
            text += &format!(
                "\n  {at}: live {} settling {} phases {:?}",
                counters.connected_clients, counters.settling, counters.phases
            );
            for mirror in counters.mirrors {
                text += &format!("\n    {:?}", mirror.status);
            }
            for flight in ledger.audit(now).in_flight {
                text += &format!("\n    {flight:?}");
            }
        }
        text
    }

    fn check_process(&mut self, at: usize) {
        let now = self.processes[at].now(self.time);
        let Some(ledger) = &self.processes[at].ledger else { return };
        let audit = ledger.audit(now);
        if !audit.balanced || !audit.in_flight.is_empty() {
            let laws: Vec<_> = audit.laws.iter().filter(|law| !law.holds).collect();
            return self.fail(format!("process {at} unbalanced: {laws:?} {:?}", audit.in_flight));
        }
        let alarms = audit.alarms;
        if alarms.repairs + alarms.hop_contradictions > 0 {
            return self.fail(format!("process {at}: {alarms:?}"));
        }
        if ledger.residue() > 0 {
            return self.fail(format!("process {at} remembers {} things of what is over", ledger.residue()));
        }
        let mine = ledger.counters(now);
        if mine.tally.opened != mine.tally.settled_total() {
            return self.fail(format!(
                "process {at}: opened {} settled {}",
                mine.tally.opened,
                mine.tally.settled_total()
            ));
        }
        let settled_here = self.processes[at].settled.keys().filter(|k| k.instance == mine.instance).count();
        if settled_here as u64 != mine.tally.opened {
            return self
                .fail(format!("process {at}: {settled_here} log lines for {} halves", mine.tally.opened));
        }
        // The mirror of the peer = the peer's own books, to the last counter.
        let others: Vec<usize> = if at == FRONT { INNERS.to_vec() } else { vec![FRONT] };
        for other in others {
            let Some(theirs) = &self.processes[other].ledger else { continue };
            let theirs = theirs.counters(self.processes[other].now(self.time));
            let mirrored = mine.mirrors.iter().find(|m| m.status.instance == theirs.instance);
            if mirrored.map(|m| &m.tally) != Some(&theirs.tally) {
                return self.fail(format!(
                    "process {at} mirrors {other} as {:?}, which has {:?}",
                    mirrored.map(|m| &m.tally),
                    theirs.tally
                ));
            }
            if let Err(why) = self.compare_halves(at, other) {
                return self.fail(why);
            }
        }
    }

    /// The halves that `at` mirrors of `other` are those that `other` has, to the last fact.
    fn compare_halves(&self, at: usize, other: usize) -> Result<(), String> {
        let of = |process: usize| {
            let instance = self.processes[other].instance;
            let now = self.processes[process].now(self.time);
            let ledger = self.processes[process].ledger.as_ref();
            let known = ledger.map(|ledger| ledger.walk(None, Heading::Newer, usize::MAX, now).halves);
            let halves = known.unwrap_or_default().into_iter().map(|known| known.half);
            halves.filter(|half| half.key.instance == instance).map(|half| (half.key, half)).collect()
        };
        let (mirrored, truth): (BTreeMap<_, _>, BTreeMap<_, _>) = (of(at), of(other));
        if !mirrored.keys().eq(truth.keys()) {
            return Err(format!("process {at} mirrors {} halves of {}", mirrored.len(), truth.len()));
        }
        for (key, truth) in truth {
            let (copy, truth) = (facts(&mirrored[&key]), facts(&truth));
            if copy != truth {
                return Err(format!("process {at} mirrors of {other}\n  {copy}\n  which is\n  {truth}"));
            }
        }
        Ok(())
    }

    /// Every pair that both settled from both halves has one cause; superseded halves are never joined.
    fn check_causes(&mut self) {
        let mut fronts: BTreeMap<ConnectionId, (SettledFrom, Termination)> = BTreeMap::new();
        let mut inners: BTreeMap<ConnectionId, Vec<(Attempt, SettledFrom, Termination)>> = BTreeMap::new();
        for process in &self.processes {
            for (key, (from, cause)) in &process.settled {
                match process.role {
                    Role::Front => {
                        fronts.insert(key.connection, (*from, cause.clone()));
                    }
                    Role::Inner => {
                        inners.entry(key.connection).or_default().push((key.attempt, *from, cause.clone()));
                    }
                }
            }
        }
        let mut both = 0;
        for (connection, halves) in inners {
            let last = self.connections.get(&connection).and_then(|c| c.hops.keys().max().copied());
            for (attempt, from, cause) in halves {
                if from != SettledFrom::Both {
                    continue;
                }
                if Some(attempt.0) != last {
                    return self.fail(format!("{connection}: given-up attempt {} was joined", attempt.0));
                }
                let Some((SettledFrom::Both, front)) = fronts.get(&connection) else { continue };
                both += 1;
                if *front != cause {
                    return self.fail(format!("{connection}: two causes\n  {front:?}\n  {cause:?}"));
                }
            }
        }
        self.scenario.pairs_compared += both;
    }
}

/// Everything that a half says, positions apart: a mirror knows of a group only the update that brought it.
fn facts(half: &Half) -> String {
    let Half { key, role, front_instance, accept, routing, hop, tls, target, .. } = half;
    let Half { phase, half_closed, log, log_dropped, traffic, end, settlement, opened_seq, .. } = half;
    let groups = (
        &accept.value,
        routing.as_ref().map(|group| &group.value),
        hop.as_ref().map(|group| &group.value),
        tls.as_ref().map(|group| &group.value),
        target.as_ref().map(|group| &group.value),
    );
    let end = (end.as_ref().map(|end| &end.value), settlement.as_ref().map(|cause| &cause.value));
    format!(
        "{key:?} {role:?} {front_instance} {opened_seq} {phase:?} {half_closed:?} {log:?} {log_dropped} {traffic:?} {groups:?} {end:?}"
    )
}

/// Connections with a live half, as a list shows them: half by half.
fn live_connections(ledger: &Ledger, now: Now) -> u64 {
    let halves = ledger.walk(None, Heading::Newer, usize::MAX, now).halves;
    let told = |instance| ledger.standing(instance, now).is_some_and(|standing| standing.in_step);
    let live = halves
        .iter()
        .map(|known| &known.half)
        .filter(|half| half.is_live() && (half.key.instance == ledger.instance() || told(half.key.instance)));
    live.map(|half| half.key.connection).collect::<BTreeSet<_>>().len() as u64
}
