//! Who belongs to a group, and in which part.
//!
//! A [`Membership`] is part of the log: each change is an entry, and the membership in force is a
//! pure function of snapshot and log. Changing voters goes through a *joint* membership (Raft
//! thesis, section 4.3): while [`Membership::outgoing`] is not empty, elections and commits need
//! enough of the new voters **and** enough of the outgoing ones. How many are enough stands here
//! too (`quorum.rs`), so that all who have the same log count alike.
//!
//! ```text
//! offset  size  field
//!      0     1  version: 1
//!      1     2  sizes of quorums were chosen for this many voters; 0: majorities
//!      3     2  how many of them elect (0 for majorities)
//!      5     2  how many of them commit (0 for majorities)
//!      7     2  copies that were chosen; 0: as many as commit
//!      9     4  number of members
//!     13     -  members, by ascending id:
//!               8 id | 1 flags (bit 0 voter, bit 1 outgoing, bit 2 witness)
//!               | 2 length, name | 2 length, address
//! ```
//!
//! A *witness* votes and keeps headers of entries, and none of the entries: it breaks ties between
//! two sites that do. What its acknowledgement counts for, and what not, stands in
//! `docs/decisions/0018-witnesses.md`. Once a witness, always one: an id is never used again.

use std::collections::{BTreeMap, BTreeSet};

use base::NodeId;
use bytes::{BufMut, Bytes};

use crate::decode::{self, DecodeError};
use crate::limits::Limits;
use crate::quorum::{QuorumRule, QuorumSizes};

const VERSION: u8 = 1;
const FLAG_VOTER: u8 = 1;
const FLAG_OUTGOING: u8 = 2;
const FLAG_WITNESS: u8 = 4;
/// Version, sizes of quorums, copies and number of members.
const HEAD_BYTES: usize = 13;
/// Id, flags and the lengths of both texts.
const MEMBER_HEAD_BYTES: usize = 13;

/// What the group knows of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name its operator gave it; unique in the cluster.
    pub name: String,
    /// Where its peers reach it: `host:port`.
    pub peer_address: String,
}

/// The members of a group, and which of them vote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Every member, voter or learner.
    pub members: BTreeMap<NodeId, Member>,
    /// Those who elect and commit. A subset of `members`.
    pub voters: BTreeSet<NodeId>,
    /// The voters that are being replaced, while a change is under way; empty otherwise. A subset
    /// of `members`.
    pub outgoing: BTreeSet<NodeId>,
    /// The members, with a vote or without one yet, that keep headers instead of entries. A subset
    /// of `members`.
    pub witnesses: BTreeSet<NodeId>,
    /// How many voters elect, and how many commit.
    pub quorums: QuorumRule,
}

/// One step that an operator or the placement asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add a member that receives the log but has no vote.
    AddLearner {
        /// The new member's id; never used before in this group.
        id: NodeId,
        /// Its name and address.
        member: Member,
    },
    /// The same for a member that is to keep headers only.
    AddWitness {
        /// The new member's id; never used before in this group.
        id: NodeId,
        /// Its name and address.
        member: Member,
    },
    /// Give a learner a vote. Refused until it has nearly caught up.
    Promote(NodeId),
    /// Remove a member, voter or learner.
    Remove(NodeId),
    /// Change a member's name or address.
    Update {
        /// Whose.
        id: NodeId,
        /// The new name and address.
        member: Member,
    },
}

impl Membership {
    /// A voter change is under way: two quorums are needed.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `id` votes, in the new set or in the outgoing one.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Whether `id` keeps headers instead of entries.
    #[must_use]
    pub fn is_witness(&self, id: NodeId) -> bool {
        self.witnesses.contains(&id)
    }

    /// The voters that hold entries; while voters change, of those that stay.
    pub fn holders(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.difference(&self.witnesses).copied()
    }

    /// The membership that follows from `change`: joint if it changes voters, otherwise final.
    ///
    /// # Errors
    /// If the change makes no sense, and why.
    pub fn changed(&self, change: &Change, limits: &Limits) -> Result<Membership, String> {
        assert!(!self.is_joint(), "one change at a time");
        let mut next = self.clone();
        match change {
            Change::AddLearner { id, member } | Change::AddWitness { id, member } => {
                if self.members.contains_key(id) {
                    return Err(format!("{id} is a member already"));
                }
                if self.members.len() >= limits.members {
                    return Err(format!("the group has {} members already", limits.members));
                }
                self.check_texts(*id, member, limits)?;
                next.members.insert(*id, member.clone());
                if matches!(change, Change::AddWitness { .. }) {
                    next.witnesses.insert(*id);
                }
            }
            Change::Promote(id) => {
                if !self.members.contains_key(id) {
                    return Err(format!("{id} is not a member"));
                }
                if self.voters.contains(id) {
                    return Err(format!("{id} has a vote already"));
                }
                next.outgoing.clone_from(&self.voters);
                next.voters.insert(*id);
            }
            Change::Remove(id) => {
                if !self.members.contains_key(id) {
                    return Err(format!("{id} is not a member"));
                }
                if self.voters.contains(id) {
                    if self.voters.len() == 1 {
                        return Err(format!("{id} is the last voter"));
                    }
                    // It stays a member until the joint phase is over: its vote still counts.
                    next.outgoing.clone_from(&self.voters);
                    next.voters.remove(id);
                    next.check_copies()?;
                } else {
                    next.members.remove(id);
                    next.witnesses.remove(id);
                }
            }
            Change::Update { id, member } => {
                self.check_texts(*id, member, limits)?;
                match next.members.get_mut(id) {
                    Some(present) => *present = member.clone(),
                    None => return Err(format!("{id} is not a member")),
                }
            }
        }
        Ok(next)
    }

    /// The membership after the joint phase: who was voted out is no member any more.
    #[must_use]
    pub fn after_joint(&self) -> Membership {
        let mut next = self.clone();
        for id in &self.outgoing {
            if !self.voters.contains(id) {
                next.members.remove(id);
                next.witnesses.remove(id);
            }
        }
        next.outgoing.clear();
        next
    }

    /// What is left once the others are given up: `survivor` alone votes, and `learners`, as far as
    /// they are members that hold entries, stay without a vote.
    pub(crate) fn survived_by(&self, survivor: NodeId, learners: &[NodeId]) -> Membership {
        let stays = |id: &NodeId| {
            *id == survivor || (learners.contains(id) && !self.witnesses.contains(id))
        };
        let members = self.members.iter().filter(|(id, _)| stays(id));
        Membership {
            members: members.map(|(id, member)| (*id, member.clone())).collect(),
            voters: BTreeSet::from([survivor]),
            quorums: self.quorums,
            ..Membership::default()
        }
    }

    /// Why a replica cannot be the one that goes on alone.
    pub(crate) fn flaw_of_survivor(&self, id: NodeId) -> Option<String> {
        if !self.is_voter(id) {
            return Some(format!("{id} has no vote in this group"));
        }
        if self.all_voters().count() == 1 {
            return Some(format!("{id} has the only vote already"));
        }
        let is_witness = self.is_witness(id);
        is_witness.then(|| format!("{id} is a witness, and holds no entries"))
    }

    /// Whether so many voters hold entries as there are to be copies of each.
    ///
    /// # Errors
    /// If there are fewer, with the arithmetic.
    pub fn check_copies(&self) -> Result<(), String> {
        let (voters, holders) = (self.voters.len(), self.holders().count());
        let copies = self.quorums.copies().unwrap_or(1);
        if copies <= holders {
            return Ok(());
        }
        Err(format!(
            "{copies} copies of each entry are asked for, and {voters} voters without {} \
             witnesses: {voters} - {} = {holders} hold entries",
            voters - holders,
            voters - holders
        ))
    }

    fn check_texts(&self, id: NodeId, member: &Member, limits: &Limits) -> Result<(), String> {
        let longest = limits.member_text_bytes.min(usize::from(u16::MAX));
        if member.name.len() > longest || member.peer_address.len() > longest {
            return Err(format!("name and address may have {longest} bytes"));
        }
        let same_name = |(other, present): (&NodeId, &Member)| {
            *other != id && !member.name.is_empty() && present.name == member.name
        };
        if self.members.iter().any(same_name) {
            return Err(format!("another member is called {}", member.name));
        }
        Ok(())
    }

    /// How many bytes [`Membership::encode`] writes.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        let member =
            |member: &Member| MEMBER_HEAD_BYTES + member.name.len() + member.peer_address.len();
        HEAD_BYTES + self.members.values().map(member).sum::<usize>()
    }

    /// Appends the membership to a message, an entry or a checkpoint.
    ///
    /// # Panics
    /// If a voter is no member or a text is longer than 65,535 bytes; [`Membership::changed`]
    /// makes neither.
    pub fn encode(&self, buffer: &mut impl BufMut) {
        assert!(
            self.voters
                .iter()
                .chain(&self.outgoing)
                .all(|id| self.members.contains_key(id)),
            "every voter is a member"
        );
        buffer.put_u8(VERSION);
        let (voters, elect, commit) = match self.quorums.chosen() {
            Some((voters, sizes)) => (voters, sizes.elect, sizes.commit),
            None => (0, 0, 0),
        };
        let copies = self.quorums.copies().unwrap_or(0);
        for number in [voters, elect, commit, copies] {
            buffer.put_u16_le(u16::try_from(number).expect("voters are few"));
        }
        buffer.put_u32_le(u32::try_from(self.members.len()).expect("members are few"));
        for (id, member) in &self.members {
            let mut flags = 0;
            if self.voters.contains(id) {
                flags |= FLAG_VOTER;
            }
            if self.outgoing.contains(id) {
                flags |= FLAG_OUTGOING;
            }
            if self.witnesses.contains(id) {
                flags |= FLAG_WITNESS;
            }
            buffer.put_u64_le(id.0);
            buffer.put_u8(flags);
            for text in [&member.name, &member.peer_address] {
                buffer.put_u16_le(u16::try_from(text.len()).expect("texts are short"));
                buffer.put_slice(text.as_bytes());
            }
        }
    }

    /// Reads what [`Membership::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are anything else.
    pub fn decode(mut bytes: Bytes) -> Result<Membership, DecodeError> {
        let version = decode::byte(&mut bytes)?;
        if version != VERSION {
            return Err(DecodeError::UnknownKind(version));
        }
        let [voters, elect, commit, copies] = [
            usize::from(decode::number_u16(&mut bytes)?),
            usize::from(decode::number_u16(&mut bytes)?),
            usize::from(decode::number_u16(&mut bytes)?),
            usize::from(decode::number_u16(&mut bytes)?),
        ];
        let mut membership = Membership::default();
        if (voters, elect, commit) != (0, 0, 0) {
            let rule = QuorumRule::new(voters, QuorumSizes { elect, commit });
            membership.quorums = rule.map_err(|_| DecodeError::Invalid("quorum sizes"))?;
        }
        if copies != 0 {
            let rule = membership.quorums.with_copies(copies);
            membership.quorums = rule.map_err(|_| DecodeError::Invalid("copies"))?;
        }
        for _ in 0..decode::number_u32(&mut bytes)? {
            let id = decode::node(&mut bytes)?;
            let flags = decode::byte(&mut bytes)?;
            if flags & !(FLAG_VOTER | FLAG_OUTGOING | FLAG_WITNESS) != 0 {
                return Err(DecodeError::Invalid("member flags"));
            }
            if membership
                .members
                .last_key_value()
                .is_some_and(|(last, _)| *last >= id)
            {
                return Err(DecodeError::Invalid("order of members"));
            }
            let name = decode::text(&mut bytes)?;
            let peer_address = decode::text(&mut bytes)?;
            membership.members.insert(id, Member { name, peer_address });
            if flags & FLAG_VOTER != 0 {
                membership.voters.insert(id);
            }
            if flags & FLAG_OUTGOING != 0 {
                membership.outgoing.insert(id);
            }
            if flags & FLAG_WITNESS != 0 {
                membership.witnesses.insert(id);
            }
        }
        decode::end(&bytes)?;
        Ok(membership)
    }
}
