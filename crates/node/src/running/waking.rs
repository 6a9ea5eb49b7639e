//! Groups wake a few at a time, when a node starts, is lost, or is found.
//!
//! ```text
//!   start, a node is lost or found ──▶ queue: each group once, this node's own share first
//!                                        │ while fewer than `woken_together` are on their way
//!                                        ▼
//!                             wakes, elects, is brought up, sleeps ──▶ the next
//! ```
//!
//! Ten thousand groups that elect at once take so long that each of them runs out of time and
//! begins again: on a busy machine without end. A bound on what is under way at a time makes that
//! impossible, whatever the machine gives: the next ones begin as those before them end. So a group
//! that begins is asleep until it has its turn, or until something happens to it, and one that
//! woke only because of a node falls asleep again soon ([`crate::Limits::sleep_again_after`]).
//!
//! The nodes of a group do not all begin with the same ones: each has its turn with a share of its
//! own first, so that they work on different groups, and few elections meet another one.
//!
//! One that does not come to rest (it has leases, clients, or no majority) does not hold its place
//! for ever.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use base::{GroupId, Instant, NodeId};

use super::Running;
use crate::group::Moment;
use crate::interface::Output;
use crate::peers::Peers;

/// When a group has its turn, compared with others: lower ones first.
type Turn = usize;

/// The turn of a group with these members (ascending) on one of them: on one of its nodes it is
/// among the first, on the next one among the second.
pub(super) fn turn<'a>(
    id: GroupId,
    own: NodeId,
    members: impl ExactSizeIterator<Item = &'a NodeId>,
) -> Turn {
    let count = members.len().max(1);
    let place = members.take_while(|node| **node < own).count();
    let shift = usize::try_from(id.0 % count as u64).expect("less than how many members there are");
    (place + shift) % count
}

/// Groups that are to wake, and those that have and are not at rest yet.
#[derive(Debug, Default)]
pub(super) struct Waking {
    /// In the order in which they wake.
    queue: BTreeSet<(Turn, u64, GroupId)>,
    /// Where each stands there, and whose process has just ended, if that is why.
    places: BTreeMap<GroupId, (Turn, u64, Option<NodeId>)>,
    pushed: u64,
    /// Have woken from here, and neither slept since nor lost their place by time.
    under_way: BTreeSet<GroupId>,
    /// When each loses its place; ascending. It may have slept, or woken again, before.
    places_end: VecDeque<(Instant, GroupId)>,
    /// As many are under way as may be.
    is_full: bool,
}

impl Waking {
    /// A group is to wake; it may wait for that already.
    pub(super) fn push(&mut self, id: GroupId, turn: Turn, ended: Option<NodeId>) {
        if let Some((_, _, known)) = self.places.get_mut(&id) {
            *known = ended.or(*known);
            return;
        }
        self.pushed += 1;
        self.queue.insert((turn, self.pushed, id));
        self.places.insert(id, (turn, self.pushed, ended));
    }

    fn pop(&mut self) -> Option<(GroupId, Option<NodeId>)> {
        let (_, _, id) = self.queue.pop_first()?;
        let place = self.places.remove(&id);
        let (_, _, ended) = place.expect("what stands in the queue has a place");
        Some((id, ended))
    }

    /// A group is asleep: another one may wake.
    pub(super) fn slept(&mut self, id: GroupId) {
        if self.under_way.remove(&id) {
            self.is_full = false;
        }
    }

    /// A group is closed.
    pub(super) fn forget(&mut self, id: GroupId) {
        self.slept(id);
        if let Some((turn, number, _)) = self.places.remove(&id) {
            self.queue.remove(&(turn, number, id));
        }
    }

    /// When something is to be done here.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.queue.is_empty() {
            return None;
        }
        match self.is_full {
            false => Some(now),
            true => self.places_end.front().map(|(at, _)| *at),
        }
    }

    /// Whether one more may wake. `most`: how many may be under way at a time.
    fn has_room(&mut self, now: Instant, most: usize) -> bool {
        while let Some((at, id)) = self.places_end.front().copied()
            && (at <= now || !self.under_way.contains(&id))
        {
            self.places_end.pop_front();
            self.under_way.remove(&id);
        }
        self.is_full = self.under_way.len() >= most;
        !self.is_full
    }

    fn begins(&mut self, id: GroupId, until: Instant) {
        if self.under_way.insert(id) {
            self.places_end.push_back((until, id));
        }
    }
}

impl Running {
    /// Wakes some of the groups that are to wake.
    pub(super) fn wake_some(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        let limits = &self.config.limits;
        // Who never sleeps would keep its place until that ends.
        let most = match limits.sleep_after {
            Some(_) => limits.woken_together,
            None => usize::MAX,
        };
        let until = moment.now + self.patience_with_waking();
        for _ in 0..limits.woken_at_once {
            if !self.pulses.waking.has_room(moment.now, most) {
                return;
            }
            let Some((id, ended)) = self.pulses.waking.pop() else {
                return;
            };
            if self.group(id).is_some_and(crate::group::Group::is_asleep) {
                self.pulses.waking.begins(id, until);
                self.wake(id);
                if let Some(opened) = self.groups.get_mut(&id) {
                    opened.group.sleeps_again_soon();
                }
            }
            // One that has woken by itself meanwhile has not heard of it either.
            if let Some(node) = ended.filter(|node| peers.route_to(*node).is_none()) {
                self.with(id, out, |group, out| {
                    group.peer_lost(moment, node, true, peers, out);
                });
            }
        }
    }

    /// So long a group that wakes may keep others from it: an election, and a second one.
    fn patience_with_waking(&self) -> Duration {
        self.config.timing.election_timeout * 6
    }

    /// A replica has said something: if it slept under this node, it does so no longer.
    pub(super) fn is_awake_below(&mut self, id: GroupId, node: NodeId) {
        if let Some(opened) = self.groups.get_mut(&id) {
            opened.asleep_below.remove(&node);
        }
    }
}
