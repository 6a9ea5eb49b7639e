//! Everybody that a member has heard of, and whose turn it is to be probed.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use base::{NodeId, Random};

use super::member::{Member, State};

/// The members by id, and an order of probing that is shuffled each round: so each is probed within
/// two rounds (SWIM, section 4.3), and nobody can foresee when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster {
    members: BTreeMap<NodeId, Member>,
    order: Vec<NodeId>,
    next: usize,
    /// Members that are alive or suspect, by name: no two share one.
    names: BTreeMap<String, NodeId>,
}

impl Roster {
    pub(crate) fn get(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// Whether `node` is known, and is where `from` is: a packet that says so came from a member,
    /// or from somebody who could put its address on it; an answer goes to a member either way.
    pub(crate) fn is_at(&self, node: NodeId, from: SocketAddr) -> bool {
        let known = self.members.get(&node).map(|member| member.address);
        known.is_some_and(|known| {
            known.port() == from.port() && known.ip().to_canonical() == from.ip().to_canonical()
        })
    }

    pub(crate) fn get_mut(&mut self, node: NodeId) -> Option<&mut Member> {
        self.members.get_mut(&node)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Alive and suspect members, without counting anybody.
    pub(crate) fn present(&self) -> usize {
        self.names.len()
    }

    /// Who is present under this name.
    pub(crate) fn named(&self, name: &str) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    /// Puts a member in, or in the place of what was known of it. A new one gets a random turn.
    pub(crate) fn put(&mut self, member: Member, random: &mut Random) {
        let node = member.node;
        if let Some(before) = self.members.get(&node) {
            if is_present(before.state) {
                self.names.remove(&before.name);
            }
        } else {
            let at = random.below(self.order.len() as u64 + 1) as usize;
            self.order.insert(at, node);
            self.next += usize::from(at < self.next);
        }
        if is_present(member.state) {
            self.names.insert(member.name.clone(), node);
        }
        self.members.insert(node, member);
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        if let Some(member) = self.members.remove(&node) {
            if is_present(member.state) {
                self.names.remove(&member.name);
            }
            let at = self.order.iter().position(|other| *other == node);
            let at = at.expect("every member has a turn");
            self.order.remove(at);
            self.next -= usize::from(at < self.next);
        }
    }

    /// Whose turn it is: somebody present who is not `me`.
    pub(crate) fn next_to_probe(&mut self, me: NodeId, random: &mut Random) -> Option<NodeId> {
        // What is left of this round, then a whole one.
        for _ in 0..=self.order.len() * 2 {
            if self.next >= self.order.len() {
                shuffle(&mut self.order, random);
                self.next = 0;
            }
            let node = *self.order.get(self.next)?;
            self.next += 1;
            if node != me && is_present(self.members[&node].state) {
                return Some(node);
            }
        }
        None
    }

    /// At most `count` different members that `fits`, drawn at random.
    pub(crate) fn draw(
        &self,
        count: usize,
        random: &mut Random,
        fits: impl Fn(&Member) -> bool,
    ) -> Vec<NodeId> {
        let mut drawn = Vec::with_capacity(count);
        if self.order.is_empty() {
            return drawn;
        }
        // Random tries find most; where few fit, all are looked through from a random place.
        for _ in 0..count * 3 {
            let node = self.order[random.below(self.order.len() as u64) as usize];
            if drawn.len() < count && !drawn.contains(&node) && fits(&self.members[&node]) {
                drawn.push(node);
            }
        }
        if drawn.len() < count {
            let start = random.below(self.order.len() as u64) as usize;
            let (before, after) = self.order.split_at(start);
            for node in after.iter().chain(before) {
                if drawn.len() == count {
                    break;
                }
                if !drawn.contains(node) && fits(&self.members[node]) {
                    drawn.push(*node);
                }
            }
        }
        drawn
    }
}

pub(crate) fn is_present(state: State) -> bool {
    matches!(state, State::Alive | State::Suspect)
}

fn shuffle(order: &mut [NodeId], random: &mut Random) {
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last as u64 + 1) as usize);
    }
}
