//! What Paxos replicas have told each other, written down as it stood in their frames.
//!
//! ```text
//!  candidate ──Prepare(b)──▶ acceptor ──Promise(b, accepted)──▶     told[b]
//!  leader ────Accept(b, s, v)──────▶ acceptor                       proposals[s] = (b, v) …
//!             ◀──AcceptReply(b, durable)──                          accepts[acceptor, b]
//! ```
//!
//! Nothing here comes from an engine's own books: a message counts from the moment at which its
//! sender let it go. The other files ask their questions of it, in the words of "Paxos Made Simple"
//! (Lamport, 2001): P1a in `elections`, P1b in `durability`, P2 in `chosen`, P2c in `completeness`.

use std::collections::{BTreeMap, BTreeSet};

use base::{Epoch, NodeId, Slot};
use consensus::{Entry, Membership, Payload, Slots};

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Ballots {
    /// By acceptor and ballot: what it said that it has accepted, durably.
    accepts: BTreeMap<(NodeId, Epoch), Slots>,
    /// What leaders that are gone may have accepted of their own proposals.
    credited: BTreeMap<(NodeId, Epoch), Slots>,
    /// What was said, as far as it must still be known.
    owed: BTreeMap<(NodeId, Epoch), Slots>,
    /// By ballot: who has promised it and told everything that it had accepted before.
    told: BTreeMap<Epoch, BTreeSet<NodeId>>,
    /// By slot: under which ballots something was proposed there, and the epoch of what it was.
    proposals: Vec<Vec<(Epoch, Epoch)>>,
    /// Memberships that were proposed, by slot and epoch.
    memberships: BTreeMap<(Slot, Epoch), Membership>,
    /// By ballot: the last slot at which a membership was proposed.
    stop_signs: BTreeMap<Epoch, Slot>,
}

impl Ballots {
    /// An acceptor has promised a ballot and told all that it had accepted.
    pub fn has_told(&mut self, acceptor: NodeId, ballot: Epoch) {
        self.told.entry(ballot).or_default().insert(acceptor);
    }

    /// Whether a quorum has promised a ballot and told everything, its candidate included.
    #[must_use]
    pub fn is_prepared(&self, ballot: Epoch, candidate: NodeId, membership: &Membership) -> bool {
        let told = self.told.get(&ballot);
        let has = |id| id == candidate || told.is_some_and(|told| told.contains(&id));
        membership.elects(has)
    }

    /// Who has promised a ballot and told everything.
    #[must_use]
    pub fn tellers(&self, ballot: Epoch) -> Vec<NodeId> {
        let told = self.told.get(&ballot);
        told.map_or_else(Vec::new, |told| told.iter().copied().collect())
    }

    /// An acceptor says what it has accepted under a ballot, durably; whether that is news.
    pub fn accepted(&mut self, acceptor: NodeId, ballot: Epoch, durable: &Slots) -> bool {
        let known = self.accepts.entry((acceptor, ballot)).or_default();
        let before = known.clone();
        known.merge(durable);
        let is_news = *known != before;
        if is_news {
            let owed = self.owed.entry((acceptor, ballot)).or_default();
            owed.merge(durable);
        }
        is_news
    }

    /// A leader is gone, and with it what it knew of its own acceptances, of which nobody was told:
    /// they may have counted.
    pub fn credit(&mut self, leader: NodeId, ballot: Epoch, proposed: &Slots) {
        let known = self.credited.entry((leader, ballot)).or_default();
        known.merge(proposed);
    }

    /// Whether an acceptor has said so, or was the leader and may have told itself.
    #[must_use]
    pub fn may_have_accepted(&self, acceptor: NodeId, ballot: Epoch, slot: Slot) -> bool {
        let credited = self.credited.get(&(acceptor, ballot));
        self.has_accepted(acceptor, ballot, slot)
            || credited.is_some_and(|known| known.contains(slot))
    }

    /// Whether an acceptor has said that it accepted this slot under this ballot.
    #[must_use]
    pub fn has_accepted(&self, acceptor: NodeId, ballot: Epoch, slot: Slot) -> bool {
        let known = self.accepts.get(&(acceptor, ballot));
        known.is_some_and(|known| known.contains(slot))
    }

    /// What an acceptor has said that it accepted, by ballot, and must still know.
    pub fn owed(&self, acceptor: NodeId) -> impl Iterator<Item = (Epoch, &Slots)> {
        let all = (acceptor, Epoch(0))..=(acceptor, Epoch(u64::MAX));
        let owed = self.owed.range(all);
        owed.map(|((_, ballot), slots)| (*ballot, slots))
    }

    /// With the atlas' leave, what this acceptor had may be gone.
    pub fn excuse(&mut self, acceptor: NodeId) {
        self.owed.retain(|(of, _), _| *of != acceptor);
    }

    /// An entry was proposed under a ballot, or somebody says that it was; the epoch of another
    /// entry that is known for the same slot and ballot.
    pub fn proposed(&mut self, ballot: Epoch, entry: &Entry) -> Option<Epoch> {
        let index = entry.slot.0 as usize;
        if self.proposals.len() <= index {
            self.proposals.resize(index + 1, Vec::new());
        }
        let here = &mut self.proposals[index];
        let at = here.partition_point(|(known, _)| *known < ballot);
        match here.get(at) {
            Some((known, epoch)) if *known == ballot => {
                return (*epoch != entry.epoch).then_some(*epoch);
            }
            _ => here.insert(at, (ballot, entry.epoch)),
        }
        if let Payload::Membership(membership) = &entry.payload {
            let key = (entry.slot, entry.epoch);
            self.memberships.insert(key, membership.as_ref().clone());
        }
        None
    }

    /// Under which ballots something was proposed at a slot, ascending, and the epoch of what.
    #[must_use]
    pub fn proposals(&self, slot: Slot) -> &[(Epoch, Epoch)] {
        self.proposals
            .get(slot.0 as usize)
            .map_or(&[], Vec::as_slice)
    }

    /// The membership in the entry of this slot and epoch, if it holds one.
    #[must_use]
    pub fn membership(&self, slot: Slot, epoch: Epoch) -> Option<&Membership> {
        self.memberships.get(&(slot, epoch))
    }

    /// A leader proposes a membership at this slot.
    pub fn stops(&mut self, ballot: Epoch, slot: Slot) {
        let last = self.stop_signs.entry(ballot).or_default();
        *last = slot.max(*last);
    }

    /// The last slot at which a leader has proposed a membership; 0 if it has not.
    #[must_use]
    pub fn last_stop_sign(&self, ballot: Epoch) -> Slot {
        self.stop_signs.get(&ballot).copied().unwrap_or_default()
    }
}
