//! The replicas' digests compared, all the time: whoever differs from a majority is wrong.
//!
//! ```text
//!  leader, once a second:  Digest(slot, own) ──▶ all
//!  everybody:              Digest(slot, own) ──▶ all, once that slot is executed
//!
//!  a majority of the voters has one digest, and this node another ──▶ it gives its state up,
//!                                                     starts again, and has that of the others
//!  every voter has said its digest, and no majority agrees         ──▶ CORRUPT: no more changes
//! ```
//!
//! All compare at one slot, so that what is compared are facts. A node remembers the digests of its
//! last slots, which cost some nanoseconds an entry, because it may be past the slot that the
//! leader names. A comparison that was not completed is given up for the next. Where there is no
//! next one, since nothing is written, the leader has all say the same slot again every now and
//! then, as long as a node that it reaches has not: one that was away, or has been started anew.
//! No group sleeps before all who are there have said what they have.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use base::{Instant, NodeId, Slot};
use consensus::Membership;
use etcd::maintenance::alarm::{Alarm, AlarmKind, raised};
use etcd::maintenance::command::{self, MaintenanceCommand};

use super::Group;
use crate::calls::{Admittance, Waiter, earlier};
use crate::interface::{Halt, Output};
use crate::notes::Note;
use crate::peers::Peers;
use crate::wire::GroupFrame;

/// What bounds the comparison.
#[derive(Clone, Copy, Debug)]
pub struct DigestLimits {
    /// The time between two comparisons.
    pub interval: Duration,
    /// Of so many slots a node remembers its digest.
    pub remembered: usize,
    /// How long to wait before all are asked again about the same slot.
    pub again: Duration,
}

impl Default for DigestLimits {
    fn default() -> DigestLimits {
        DigestLimits {
            interval: Duration::from_secs(1),
            remembered: 8192,
            again: Duration::from_secs(10),
        }
    }
}

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Not enough is known.
    Open,
    /// A majority agrees, and this node with it.
    Sound,
    /// A majority agrees on something else.
    Wrong,
    /// All have spoken, and no majority agrees.
    Divided,
}

/// The digests of this node's last slots, and the comparison under way.
#[derive(Debug, Default)]
pub(super) struct Digests {
    /// Ascending by slot, without gaps.
    own: VecDeque<(Slot, u128)>,
    /// The slot that is compared, and what each node has there.
    slot: Slot,
    said: BTreeMap<NodeId, u128>,
    /// What was said of slots that the leader has not named yet, as far as is known here.
    early: BTreeMap<NodeId, (Slot, u128)>,
    /// This node has told the others what it has there.
    told: bool,
    next: Instant,
    /// On the leader: when to see whether somebody has not said what it has there.
    again_at: Option<Instant>,
    /// On the leader: when to ask those who have not said what they have, if that is all that keeps
    /// the group from its sleep.
    ask_at: Option<Instant>,
    /// The slot at which the state was found to be wrong.
    given_up: Option<Slot>,
}

impl Digests {
    /// An entry was executed.
    pub(super) fn executed(&mut self, slot: Slot, digest: u128, most: usize) {
        self.own.push_back((slot, digest));
        if self.own.len() > most {
            self.own.pop_front();
        }
    }

    /// The state was replaced: what was before does not connect to it.
    pub(super) fn forget(&mut self) {
        self.own.clear();
    }

    fn own_at(&self, slot: Slot) -> Option<u128> {
        let first = self.own.front()?.0;
        let place = usize::try_from(slot.0.checked_sub(first.0)?).ok()?;
        self.own.get(place).map(|(_, digest)| *digest)
    }

    /// Begins to compare at a slot.
    fn begin(&mut self, slot: Slot) {
        self.slot = slot;
        self.said.clear();
        self.told = false;
        self.ask_at = None;
        let early = std::mem::take(&mut self.early).into_iter();
        let now = early.filter(|(_, (said, _))| *said == slot);
        self.said
            .extend(now.map(|(node, (_, digest))| (node, digest)));
    }

    /// All are to say once more what they have at the slot.
    fn begin_again(&mut self) {
        self.said.clear();
        self.told = false;
        self.ask_at = None;
    }

    /// `mine`: what this node, `own`, has at the slot.
    fn verdict(&self, (own, mine): (NodeId, u128), membership: &Membership) -> Verdict {
        // A witness has no state that could be compared.
        let voters: Vec<NodeId> = membership.holders().collect();
        let digest_of = |node: &NodeId| match *node == own {
            true => Some(mine),
            false => self.said.get(node).copied(),
        };
        let mut counts: BTreeMap<u128, usize> = BTreeMap::new();
        let digests: Vec<u128> = voters.iter().filter_map(digest_of).collect();
        for digest in &digests {
            *counts.entry(*digest).or_default() += 1;
        }
        let majority = counts.iter().find(|(_, count)| **count > voters.len() / 2);
        match majority {
            Some((digest, _)) if *digest == mine => Verdict::Sound,
            Some(_) => Verdict::Wrong,
            None if digests.len() == voters.len() => Verdict::Divided,
            None => Verdict::Open,
        }
    }
}

impl Group {
    /// On the leader: begins a comparison when it is time. Elsewhere: takes part, once the slot is
    /// executed.
    pub(super) fn compare_digests(&mut self, now: Instant, peers: &Peers, out: &mut Vec<Output>) {
        if self.leads() && self.digests.next <= now {
            self.digests.next = now + self.config.limits.digests.interval;
            let applied = self.replica.applied();
            if applied > self.digests.slot {
                self.digests.begin(applied);
                self.digests.again_at = Some(now + self.config.limits.digests.again);
                // An answer may be lost.
                self.digests.ask_at = Some(self.digests.next);
            }
        }
        if self.leads() && self.digests.again_at.is_some_and(|at| at <= now) {
            self.compare_again(now, peers);
        }
        self.tell_digest(now, peers, out);
    }

    /// The last slot is compared again if somebody who can be reached has not said what it has.
    fn compare_again(&mut self, now: Instant, peers: &Peers) {
        let membership = self.replica.membership();
        let has_state = |id: &NodeId| *id != self.own && !membership.is_witness(*id);
        let is_silent = |id: &NodeId| has_state(id) && !self.digests.said.contains_key(id);
        let members = membership.members.keys();
        let mut silent = members.copied().filter(is_silent).peekable();
        let again = self.config.limits.digests.again;
        let again_at = silent.peek().is_some().then(|| now + again);
        if silent.any(|id| peers.route_to(id).is_some()) {
            self.digests.begin_again();
        }
        self.digests.again_at = again_at;
    }

    /// A node is back, or all have slept, or this one leads anew: what was said before counts no
    /// more.
    pub(crate) fn doubt_digest(&mut self, now: Instant, of: Option<NodeId>) {
        if !self.leads() {
            return;
        }
        match of {
            Some(node) => {
                self.digests.said.remove(&node);
            }
            None => self.digests.said.clear(),
        }
        self.digests.ask_at = Some(now);
        self.digests.again_at = Some(now + self.config.limits.digests.interval);
    }

    /// On the leader, once there is nothing else to do: whether all who are there have said what
    /// they have, since they were away or slept. Whoever has not is asked at once.
    pub(super) fn has_compared(&mut self, now: Instant, is_there: &dyn Fn(NodeId) -> bool) -> bool {
        let membership = self.replica.membership();
        let has_state = |id: &NodeId| *id != self.own && !membership.is_witness(*id);
        let mut others = membership.members.keys().filter(|id| has_state(id));
        let has_said = |id: &NodeId| !is_there(*id) || self.digests.said.contains_key(id);
        let has_compared = self.is_witness() || others.all(has_said);
        if !has_compared && let Some(at) = self.digests.ask_at.take() {
            self.digests.again_at = Some(at.max(now));
        }
        has_compared
    }

    /// Whether something has been executed that is not compared.
    pub(super) fn has_uncompared(&self) -> bool {
        self.leads() && self.replica.applied() > self.digests.slot
    }

    /// When the next comparison is due.
    pub(super) fn digests_deadline(&self) -> Option<Instant> {
        if !self.leads() {
            return None;
        }
        let next = self.has_uncompared().then_some(self.digests.next);
        earlier(next, self.digests.again_at)
    }

    /// What this node has at the slot that is compared. Right after a start nothing has been
    /// executed, but what was recovered stands at a slot as well.
    fn own_digest(&self) -> Option<u128> {
        let slot = self.digests.slot;
        let here = (self.replica.applied() == slot).then(|| self.replica.digest());
        self.digests.own_at(slot).or(here)
    }

    /// Takes what another node says of the slot that is compared, if it says what is here, and
    /// this node has told it. Else nothing is done.
    pub(super) fn has_digest(&mut self, from: NodeId, slot: Slot, digest: u128) -> bool {
        let is_same = self.digests.told
            && slot == self.digests.slot
            && self.own_digest().is_some_and(|own| own == digest);
        if is_same {
            self.digests.said.insert(from, digest);
        }
        is_same
    }

    fn tell_digest(&mut self, now: Instant, peers: &Peers, out: &mut Vec<Output>) {
        let slot = self.digests.slot;
        if self.digests.told || self.is_witness() {
            return;
        }
        let Some(digest) = self.own_digest() else {
            return;
        };
        self.digests.told = true;
        let body = GroupFrame::Digest { slot, digest }.encode(self.id);
        for node in self.replica.membership().members.keys() {
            peers.send(*node, body.clone(), out);
        }
        self.judge_digests(now, out);
    }

    /// Another node says what it has at a slot.
    pub(super) fn digest_said(
        &mut self,
        now: Instant,
        from: NodeId,
        slot: Slot,
        digest: u128,
        peers: &Peers,
        out: &mut Vec<Output>,
    ) {
        // Only the leader says which slot; what others say of a later one is for later.
        if slot > self.digests.slot {
            if self.leader != Some(from) {
                self.digests.early.insert(from, (slot, digest));
                return;
            }
            self.digests.begin(slot);
        }
        if slot != self.digests.slot {
            return;
        }
        if self.is_witness() {
            return;
        }
        // The leader has everybody say it again. What others have said meanwhile is true.
        if self.leader == Some(from) {
            self.digests.told = false;
        }
        self.digests.said.insert(from, digest);
        self.tell_digest(now, peers, out);
        self.judge_digests(now, out);
    }

    fn judge_digests(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(mine) = self.own_digest() else {
            return;
        };
        let membership = self.replica.membership();
        match self.digests.verdict((self.own, mine), membership) {
            Verdict::Open => {}
            Verdict::Sound => self.note_the_wrong(mine, out),
            Verdict::Wrong => {
                let slot = self.digests.slot;
                out.push(Output::Note(Note::StateWrong { slot }));
                self.give_up_state(out);
            }
            Verdict::Divided => self.raise_corrupt(now, out),
        }
    }

    /// The state here is not what the log makes of it elsewhere. Nobody knows since when, so that
    /// every checkpoint goes; then the next start has the state from the others, or makes it anew
    /// from a log that is whole. The promises stay: nobody forgets a vote. From now on this group
    /// does nothing else, and answers nothing from this state.
    fn give_up_state(&mut self, out: &mut Vec<Output>) {
        if self.digests.given_up.is_none() {
            self.digests.given_up = Some(self.digests.slot);
            self.checkpoints.give_up(out);
        }
    }

    /// Whether the state is wrong, and about to be replaced.
    pub(crate) fn is_given_up(&self) -> bool {
        self.digests.given_up.is_some()
    }

    /// The files of the wrong state are gone.
    pub(super) fn start_again(&self, out: &mut Vec<Output>) {
        let slot = self.digests.given_up.unwrap_or_default();
        out.push(Output::Halt(Halt::Again(format!(
            "the state of group {} on this node differs from that of the majority at slot {slot}: \
             it is wrong. Its checkpoints are deleted, and this node starts again to learn it \
             from the others",
            self.id
        ))));
    }

    /// Somebody else is wrong, and will find out by itself.
    fn note_the_wrong(&mut self, mine: u128, out: &mut Vec<Output>) {
        let slot = self.digests.slot;
        let said = std::mem::take(&mut self.digests.said);
        for (node, _) in said.iter().filter(|(_, digest)| **digest != mine) {
            let name = self.name_of(*node);
            out.push(Output::Note(Note::StateDiffers { name, slot }));
        }
        self.digests.said = said;
    }

    fn raise_corrupt(&mut self, now: Instant, out: &mut Vec<Output>) {
        if raised(self.replica.reader()).corrupt {
            return;
        }
        let slot = self.digests.slot;
        out.push(Output::Note(Note::StateDivided { slot }));
        let alarm = Alarm {
            kind: AlarmKind::Corrupt,
            member: self.own.0,
        };
        let command = MaintenanceCommand::Raise(alarm).encode();
        let deadline = now + self.config.timing.request_timeout;
        let added = self.calls.add_command(
            command::PROTOCOL,
            command,
            Waiter::Nobody,
            deadline,
            Admittance::Reserved,
        );
        self.metrics.calls_refused += u64::from(added.is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(voters: u64) -> Membership {
        Membership {
            voters: (1..=voters).map(NodeId).collect(),
            ..Membership::default()
        }
    }

    fn verdict(voters: u64, mine: u128, said: &[(u64, u128)]) -> Verdict {
        let mut digests = Digests::default();
        digests.executed(Slot(7), 0, 10);
        digests.executed(Slot(8), mine, 10);
        digests.begin(Slot(8));
        digests.said = said
            .iter()
            .map(|(node, said)| (NodeId(*node), *said))
            .collect();
        digests.verdict((NodeId(1), mine), &membership(voters))
    }

    #[test]
    fn a_majority_of_the_voters_is_right() {
        assert_eq!(verdict(3, 5, &[]), Verdict::Open);
        assert_eq!(verdict(3, 5, &[(2, 5)]), Verdict::Sound);
        assert_eq!(
            verdict(3, 5, &[(2, 6)]),
            Verdict::Open,
            "it may be the other"
        );
        assert_eq!(verdict(3, 5, &[(2, 6), (3, 6)]), Verdict::Wrong);
        assert_eq!(verdict(3, 5, &[(2, 6), (3, 5)]), Verdict::Sound);
        assert_eq!(verdict(3, 5, &[(2, 6), (3, 7)]), Verdict::Divided);
        assert_eq!(verdict(2, 5, &[(2, 6)]), Verdict::Divided);
        assert_eq!(verdict(1, 5, &[]), Verdict::Sound);
        // A witness has none, and is not waited for.
        let mut witnessed = membership(3);
        witnessed.witnesses.insert(NodeId(3));
        let among_holders = |said: u128| {
            let mut digests = Digests::default();
            digests.begin(Slot(8));
            digests.said.insert(NodeId(2), said);
            digests.verdict((NodeId(1), 5), &witnessed)
        };
        assert_eq!(among_holders(5), Verdict::Sound);
        assert_eq!(among_holders(6), Verdict::Divided);
        // Learners have no say.
        assert_eq!(verdict(3, 5, &[(4, 6), (5, 6), (6, 6)]), Verdict::Open);
    }

    #[test]
    fn only_the_last_slots_are_remembered() {
        let mut digests = Digests::default();
        for slot in 1..=10 {
            digests.executed(Slot(slot), u128::from(slot) * 3, 4);
        }
        assert_eq!(digests.own_at(Slot(6)), None);
        assert_eq!(digests.own_at(Slot(7)), Some(21));
        assert_eq!(digests.own_at(Slot(10)), Some(30));
        assert_eq!(digests.own_at(Slot(11)), None);
    }
}
