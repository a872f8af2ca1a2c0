//! Settlement: when a closed half's cause is decided, and from what.
//!
//! *Owns* the rules of waiting: for the other half's end, for how long, and what speaks for not waiting.
//! *Never* changes a settled cause: what comes later is late evidence. *Invariant*: every closed half
//! settles exactly once, within bounded active time, whatever the peer does.

use std::sync::Arc;

use crate::causes::Grounds;
use crate::evidence::{End, HopCount};
use crate::half::{Half, Settlement, Stamped};
use crate::id::{Attempt, ConnectionId, HalfKey, InstanceId, Role};
use crate::ledger::Ledger;
use crate::mirror::Changes;
use crate::termination::{AloneBecause, SettledFrom, only};
use crate::time::Now;

/// Pieces of late evidence kept per half.
const MAX_LATE: usize = 8;
/// A peer that has been down this long and is joined to nothing live is folded.
const DEAD_AFTER: std::time::Duration = std::time::Duration::from_mins(1);

/// What is to be done about a closed half.
enum Verdict {
    Wait,
    Settle(Grounds),
}

impl Ledger {
    /// Settles `key` if it is closed and nothing is left to wait for.
    pub(crate) fn reconsider(&mut self, key: HalfKey, now: Now) {
        let Some(half) = self.own.half(key).filter(|half| half.is_settling()) else { return };
        let half = Arc::clone(half);
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
        let verdict = self.verdict(&half, now);
        // Shared, it would be copied to be changed.
        drop(half);
        if let Verdict::Settle(grounds) = verdict {
            self.settle(key, grounds);
        }
    }

    fn verdict(&self, half: &Half, now: Now) -> Verdict {
        let Some(end) = half.end.as_ref().map(|end| &end.value) else { return Verdict::Wait };
        let settle_alone = |because| Verdict::Settle(Grounds::Alone(Arc::clone(end), because));
        let Some(joined_key) = half.joined_key() else {
            return Verdict::Settle(Grounds::Only(Arc::clone(end)));
        };
        let joined = self.joined(joined_key);
        if half.role == Role::Inner && joined.is_some_and(|front| self.is_superseded(front, half)) {
            return settle_alone(AloneBecause::Superseded);
        }
        let joined_end =
            joined.filter(|other| self.is_joined(other, half)).and_then(|other| other.end.as_ref());
        if let Some(other) = joined_end.map(|end| &end.value) {
            let (front, inner) = if half.role == Role::Front { (end, other) } else { (other, end) };
            let (front, inner) = (Arc::clone(front), Arc::clone(inner));
            return Verdict::Settle(Grounds::Both { front, inner });
        }
        if self.unseen.contains(&half.key) {
            return settle_alone(AloneBecause::Unseen);
        }
        let waiting = self.waiting.entry(half.key);
        let peer = self.peers.get(&joined_key.instance);
        let down = match (peer, waiting) {
            (Some(peer), _) => peer.is_down(&self.rhythm, now.active),
            (None, Some(waiting)) => now.active.saturating_sub(waiting.ended) >= self.rhythm.heartbeat * 2,
            (None, None) => true,
        };
        if down {
            return settle_alone(AloneBecause::SessionDown(joined_key.instance));
        }
        let patience = self.patience();
        let acked = waiting.and_then(|waiting| waiting.acked);
        let never_seen = joined.is_none_or(|other| !self.is_joined(other, half));
        if never_seen && acked.is_some_and(|acked| now.active.saturating_sub(acked) >= patience) {
            return settle_alone(AloneBecause::Unseen);
        }
        Verdict::Wait
    }

    /// How long after the acknowledgement of a half's end its joined half may take to be seen.
    fn patience(&self) -> std::time::Duration {
        self.rhythm.heartbeat * 2 + self.limits.hop_header
    }

    /// Settles what time alone decides: the halves whose patience ends, and those of a peer whose session
    /// has by now been down for two heartbeats. Everything else is settled by the event that decides it. Looks at
    /// about `limit` halves; are there more?
    pub(crate) fn settle_what_is_due(&mut self, limit: usize, now: Now) -> bool {
        let mut keys = self.waiting.take_due(limit, now.active);
        if self.planted(crate::fault::Fault::ForgetToLook) {
            keys.clear();
        }
        let mut more = keys.len() >= limit;
        for (instance, peer) in &mut self.peers {
            if !peer.down_noticed && peer.is_down(&self.rhythm, now.active) {
                let (waiting, looked) = self.waiting.of_peer(*instance, peer.noticed, limit);
                keys.extend(waiting);
                peer.noticed = looked;
                peer.down_noticed = looked.is_none();
                more |= !peer.down_noticed;
            }
        }
        for key in keys {
            self.reconsider(key, now);
            self.look_again(key, now);
        }
        more
    }

    /// Notes when time alone might settle a half that still waits.
    pub(crate) fn look_again(&mut self, key: HalfKey, now: Now) {
        let Some(waiting) = self.waiting.entry(key) else { return };
        let known = self.own.half(key).and_then(|half| half.joined_key()).map(|joined| joined.instance);
        let at = match waiting.acked {
            Some(acked) => acked + self.patience(),
            None if known.is_some_and(|peer| self.peers.contains_key(&peer)) => return,
            None => waiting.ended + self.rhythm.heartbeat * 2,
        };
        if at > now.active {
            self.waiting.look_again(key, at);
        }
    }

    /// The other half of a pair, from the peer's mirror or from what was kept of it.
    fn joined(&self, key: HalfKey) -> Option<&Half> {
        let mirrored = self.peers.get(&key.instance).and_then(|peer| peer.half(key));
        mirrored.or_else(|| self.keepsakes.get(&key)).map(|half| &**half)
    }

    /// Does `front`, as known, say that it gave this inner half up?
    fn is_superseded(&self, front: &Half, inner: &Half) -> bool {
        if self.planted(crate::fault::Fault::JoinSuperseded) {
            return false;
        }
        let current = front.bridged();
        current != Some((inner.key.instance, inner.key.attempt)) && front.gave_up(inner.key.attempt)
    }

    /// Are these two halves one pair?
    fn is_joined(&self, other: &Half, own: &Half) -> bool {
        let (front, inner) = if own.role == Role::Front { (own, other) } else { (other, own) };
        if self.planted(crate::fault::Fault::JoinSuperseded) {
            return true;
        }
        front.bridged() == Some((inner.key.instance, inner.key.attempt))
            && inner.front_instance == front.key.instance
    }

    fn settle(&mut self, key: HalfKey, grounds: Grounds) {
        if matches!(grounds, Grounds::Both { .. }) {
            self.compare_hop(key);
        }
        let settlement = if self.planted(crate::fault::Fault::PreferOwnEvidence) {
            self.own_evidence(grounds)
        } else {
            self.causes.settle(grounds)
        };
        self.own.amend(key, |half, seq| half.settlement = Some(Stamped { seq, value: settlement }));
        self.waiting.remove(key);
        self.unseen.remove(&key);
        self.drop_keepsake(key);
        self.hand_out(key);
        self.debug_check();
    }

    /// The planted fault: a pair's cause is what its own half saw.
    fn own_evidence(&mut self, grounds: Grounds) -> Arc<Settlement> {
        let Grounds::Both { front, inner } = grounds else { return self.causes.settle(grounds) };
        let own = if self.role == Role::Front { front } else { inner };
        Arc::new(Settlement { cause: only(&own, self.role), from: SettledFrom::Both, late: Vec::new() })
    }

    /// A half has settled: to be logged, once.
    pub(crate) fn hand_out(&mut self, key: HalfKey) {
        let Some(half) = self.own.half(key) else { return };
        if self.settled_out.len() < self.limits.unlogged {
            self.settled_out.push_back(Arc::clone(half));
        } else {
            self.alarms.unlogged += 1;
        }
    }

    /// Compares what one half sent on the hop with what the other received.
    fn compare_hop(&mut self, key: HalfKey) {
        let Some(own) = self.own.half(key) else { return };
        let other = own.joined_key().and_then(|joined| self.joined(joined)).and_then(|o| o.end.as_ref());
        let (Some(mine), Some(theirs)) = (own.end.as_ref(), other) else { return };
        let balances = [
            HopBalance::of(&mine.value.hop, &theirs.value.hop),
            HopBalance::of(&theirs.value.hop, &mine.value.hop),
        ];
        for balance in balances {
            match balance {
                HopBalance::Exact => {}
                HopBalance::Gap(bytes) => {
                    self.alarms.hop_gaps += 1;
                    // A peer's word: it may be any number.
                    self.alarms.hop_gap_bytes = self.alarms.hop_gap_bytes.saturating_add(bytes);
                }
                HopBalance::Contradiction => self.alarms.hop_contradictions += 1,
            }
        }
    }

    /// What a mirror's changes mean for our own halves.
    pub(crate) fn consider(&mut self, peer: InstanceId, changes: Changes, now: Now) {
        for (before, after) in changes {
            let Some(half) = after.as_ref().or(before.as_ref()) else { continue };
            let key = half.key;
            if after.is_some() && before.as_ref().is_some_and(|before| before.end.is_some()) {
                // It had ended before: what is new is its own cause, which says nothing about ours.
                continue;
            }
            if after.is_none() {
                self.half_went_away(peer, before.as_deref(), &key);
            }
            match self.role {
                Role::Front => {
                    self.refresh_flight(key.connection, peer, key.attempt, now);
                    self.consider_front(key, before.as_deref(), after.as_deref(), now);
                }
                Role::Inner => self.consider_inner(key, before.as_deref(), after.as_deref(), now),
            }
        }
    }

    /// An inner half of the peer changed: what does it mean for our front?
    fn consider_front(&mut self, key: HalfKey, before: Option<&Half>, after: Option<&Half>, now: Now) {
        let own = HalfKey::front(key.connection, self.instance);
        let Some(front) = self.own.half(own) else {
            let ours = after.is_some_and(|half| half.front_instance == self.instance);
            self.alarms.unjoined += u64::from(before.is_none() && ours);
            return;
        };
        if front.joined_key() == Some(key) {
            self.reconsider(own, now);
            self.late_evidence(own, before, after);
        }
    }

    /// A front of the peer changed: what does it mean for our inner halves of that connection?
    fn consider_inner(&mut self, key: HalfKey, before: Option<&Half>, after: Option<&Half>, now: Now) {
        let ours: Vec<HalfKey> = self.own.keys_of_connection(key.connection, self.instance).collect();
        // An attempt that we have no half of may have been in flight: the front's word alone.
        for front in [before, after].into_iter().flatten() {
            let bridged = front.bridged().filter(|(inner, _)| *inner == self.instance);
            if let Some((_, attempt)) = bridged.filter(|(_, at)| ours.iter().all(|own| own.attempt != *at)) {
                self.refresh_flight(key.connection, key.instance, attempt, now);
            }
        }
        for own in ours {
            self.refresh_flight(key.connection, key.instance, own.attempt, now);
            self.reconsider(own, now);
            let joined = after.is_some_and(|front| front.bridged() == Some((own.instance, own.attempt)));
            if joined {
                self.late_evidence(own, before, after);
            }
        }
    }

    /// The other half's end came after ours had settled without it.
    fn late_evidence(&mut self, own: HalfKey, before: Option<&Half>, after: Option<&Half>) {
        let news = after.filter(|_| before.is_none_or(Half::is_live)).and_then(|half| half.end.as_ref());
        let Some(end) = news.map(|end| &end.value) else { return };
        let settled = self.own.half(own).and_then(|half| half.settlement.as_ref());
        let Some(settlement) = settled.map(|s| Arc::clone(&s.value)) else { return };
        if settlement.from == SettledFrom::Both || settlement.late.len() >= MAX_LATE {
            return;
        }
        let seen = end.key().map_or("nothing but the hop".to_owned(), |(o, _)| o.reason.to_string());
        let text = format!("{}: {seen}", self.role.peer().process());
        self.own.amend(own, |half, seq| {
            let mut settlement = (*settlement).clone();
            settlement.late.push(text.into());
            half.settlement = Some(Stamped { seq, value: Arc::new(settlement) });
        });
    }

    /// A half left the mirror: folded after its end, or missing from a snapshot.
    fn half_went_away(&mut self, peer: InstanceId, before: Option<&Half>, key: &HalfKey) {
        let Some(before) = before else { return };
        let waiting: Vec<HalfKey> = match self.role {
            Role::Front => vec![HalfKey::front(key.connection, self.instance)],
            Role::Inner => self.own.keys_of_connection(key.connection, self.instance).collect(),
        };
        let unsettled = waiting.into_iter().filter(|own| {
            self.own.half(*own).is_some_and(|own| own.settlement.is_none() && own.joined_key() == Some(*key))
        });
        if before.end.is_some() {
            if unsettled.count() > 0 {
                self.keepsakes.insert(*key, Arc::new(before.clone()));
            }
            return;
        }
        self.unseen.extend(unsettled.collect::<Vec<_>>());
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.closed_unseen += 1;
        }
    }

    /// A front gave an attempt up, or took the next: what was kept of the earlier one's inner half, and what
    /// was concluded from its absence, says nothing about the next one.
    pub(crate) fn forget_attempt(&mut self, front: HalfKey, (instance, attempt): (InstanceId, Attempt)) {
        self.unseen.remove(&front);
        self.keepsakes.remove(&HalfKey::inner(front.connection, instance, attempt));
    }

    /// Lets a keepsake go once nothing unsettled is joined to it.
    fn drop_keepsake(&mut self, settled: HalfKey) {
        if self.keepsakes.is_empty() {
            return;
        }
        let Some(joined) = self.own.half(settled).and_then(|half| half.joined_key()) else { return };
        let wanted = self
            .own
            .of_connection(settled.connection, self.instance)
            .any(|half| half.settlement.is_none() && half.joined_key() == Some(joined));
        if !wanted {
            self.keepsakes.remove(&joined);
        }
    }

    /// Keeps the retained halves within count and memory. A half that is still settling is settled first.
    pub(crate) fn retain(&mut self, now: Now) {
        while self.own.closed_len() > self.limits.closed_records
            || self.own.closed_weight() > self.limits.closed_bytes
        {
            let Some((key, half)) = self.own.eviction_candidate() else { return };
            if half.is_settling() && !self.planted(crate::fault::Fault::EvictUnsettled) {
                let half = Arc::clone(half);
                let grounds = match (self.verdict(&half, now), &half.end) {
                    (Verdict::Settle(grounds), _) => grounds,
                    (Verdict::Wait, Some(end)) => {
                        Grounds::Alone(Arc::clone(&end.value), AloneBecause::Evicted)
                    }
                    (Verdict::Wait, None) => return,
                };
                self.settle(key, grounds);
            }
            self.own.evict(key);
            self.waiting.remove(key);
        }
    }

    /// Peers that are gone for good become one row.
    pub(crate) fn fold_dead_peers(&mut self, now: Now) {
        let dead: Vec<InstanceId> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                peer.session.is_none() && now.active.saturating_sub(peer.down_since) >= DEAD_AFTER
            })
            .map(|(instance, _)| *instance)
            .filter(|instance| self.joined_live(*instance) == 0)
            .collect();
        for instance in dead {
            if let Some(peer) = self.peers.remove(&instance) {
                self.departed.instances += 1;
                self.departed.tally.add(peer.mirror.tally());
            }
            for key in self.waiting.of_peer(instance, None, usize::MAX).0 {
                self.reconsider(key, now);
                self.look_again(key, now);
            }
        }
    }

    /// Recomputes whether one (connection, attempt) is live on one side only.
    pub(crate) fn refresh_flight(
        &mut self,
        connection: ConnectionId,
        peer: InstanceId,
        attempt: Attempt,
        now: Now,
    ) {
        let (front_at, inner_at) = match self.role {
            Role::Front => (self.instance, peer),
            Role::Inner => (peer, self.instance),
        };
        let Some(other) = self.peers.get(&peer) else { return };
        let find = |key: HalfKey| {
            let half = if key.instance == self.instance { self.own.half(key) } else { other.half(key) };
            half.filter(|half| half.is_live())
        };
        let front = find(HalfKey::front(connection, front_at))
            .is_some_and(|half| half.bridged() == Some((inner_at, attempt)));
        let inner = find(HalfKey::inner(connection, inner_at, attempt))
            .is_some_and(|half| half.front_instance == front_at);
        if let Some(other) = self.peers.get_mut(&peer) {
            other.fly((connection, attempt), front, inner, now.active);
        }
    }

    /// A peer appears: whatever is joined to it already is live on one side only, as far as is known.
    pub(crate) fn refresh_flights_with(&mut self, peer: InstanceId, now: Now) {
        if self.joined_live(peer) == 0 {
            return;
        }
        let joined = |key: &&HalfKey| {
            let other = self.own.half(**key).and_then(|half| half.joined_key());
            other.is_some_and(|other| other.instance == peer)
        };
        let keys: Vec<HalfKey> = self.live.keys().filter(joined).copied().collect();
        for key in keys {
            self.refresh_flights_of(key, now);
        }
    }

    /// As [`Ledger::refresh_flight`], for whatever an own half is joined to.
    pub(crate) fn refresh_flights_of(&mut self, key: HalfKey, now: Now) {
        let Some(half) = self.own.half(key) else { return };
        let joined = match half.role {
            Role::Front => half.bridged(),
            Role::Inner => Some((half.front_instance, key.attempt)),
        };
        if let Some((peer, attempt)) = joined {
            self.refresh_flight(key.connection, peer, attempt, now);
        }
    }
}

/// One direction of a pair's hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopBalance {
    /// Received = sent.
    Exact,
    /// Fewer bytes were received than sent, and the receiver did not read to EOF.
    Gap(u64),
    /// More received than sent, or read to EOF and not all there: a bug of ours.
    Contradiction,
}

impl HopBalance {
    /// Compares a sender's and a receiver's count of one direction.
    pub const fn of(sender: &HopCount, receiver: &HopCount) -> Self {
        match (sender.sent, receiver.received) {
            (sent, received) if sent == received => Self::Exact,
            (sent, received) if sent > received && !receiver.read_to_eof => Self::Gap(sent - received),
            _ => Self::Contradiction,
        }
    }

    /// Both directions of a pair: front to inner, inner to front.
    pub const fn pair(front: &End, inner: &End) -> [Self; 2] {
        [Self::of(&front.hop, &inner.hop), Self::of(&inner.hop, &front.hop)]
    }
}

#[cfg(test)]
mod tests;
