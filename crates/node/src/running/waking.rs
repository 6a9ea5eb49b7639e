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
//! own first, so that they work on different groups, and few elections meet another one. Whoever
//! has woken and slept before its turn needs none.
//!
//! **Slow or awake for a reason.** A group with leases, clients or no majority does not come to
//! rest, and must not hold its place for ever: after some election timeouts it loses it. One that
//! has no such reason is only slow, since the machine is. It keeps its place, for ten times as
//! long; were it to make room, all would be awake in the end, each of them slower than before. And
//! where groups are that slow, fewer are under way at a time: the bound is halved, and grows by one
//! with each group that comes to rest in time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{GroupId, Instant, NodeId};

use super::Running;
use crate::group::Moment;
use crate::interface::Output;
use crate::peers::Peers;

/// However slow the machine is, so many may be under way at a time, if the limit allows as many.
const SLOWEST_TOGETHER: usize = 4;
/// So many times as long as others a group that is only slow may keep its place.
const LATE_FACTOR: u32 = 10;

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

/// Why a group is to wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The process of a node has ended, and with it its leadership, if it had one.
    Ended(NodeId),
    /// A node is silent.
    Silent(NodeId),
    /// A start, or a node that is back.
    Other,
}

/// A group that is under way.
#[derive(Debug)]
struct Place {
    number: u64,
    /// When it loses its place, however slow it is.
    ends: Instant,
    /// It has not come to rest when others would have.
    is_late: bool,
}

/// Groups that are to wake, and those that have and are not at rest yet.
#[derive(Debug, Default)]
pub(super) struct Waking {
    /// In the order in which they wake.
    queue: BTreeSet<(Turn, u64, GroupId)>,
    /// Where each stands there, and why.
    waiting: BTreeMap<GroupId, (Turn, u64, Cause)>,
    pushed: u64,
    /// Have woken from here, and neither slept since nor lost their place by time.
    under_way: BTreeMap<GroupId, Place>,
    /// When each place is looked at next, by its number; ascending. It may be free by then.
    looks: BTreeSet<(Instant, u64, GroupId)>,
    begun: u64,
    /// So many fewer may be under way than the limit says, since the machine is slow.
    withheld: usize,
    /// When more may be withheld.
    withhold_again: Instant,
    /// As many are under way as may be.
    is_full: bool,
}

impl Waking {
    /// A group is to wake; it may wait for that already.
    pub(super) fn push(&mut self, id: GroupId, turn: Turn, cause: Cause) {
        if let Some((_, _, known)) = self.waiting.get_mut(&id) {
            *known = match (*known, cause) {
                // That a process has ended is told to the engine.
                (_, Cause::Ended(_)) => cause,
                // What is silent may be heard again, and then the other cause is left.
                (Cause::Silent(before), _) if cause != Cause::Silent(before) => Cause::Other,
                (known, _) => known,
            };
            return;
        }
        self.pushed += 1;
        self.queue.insert((turn, self.pushed, id));
        self.waiting.insert(id, (turn, self.pushed, cause));
    }

    fn pop(&mut self) -> Option<(GroupId, Cause)> {
        let (_, _, id) = self.queue.pop_first()?;
        let place = self.waiting.remove(&id);
        let (_, _, cause) = place.expect("what stands in the queue has a place");
        Some((id, cause))
    }

    /// A group is asleep: it need not wake any more, and another one may.
    pub(super) fn slept(&mut self, id: GroupId) {
        if let Some(place) = self.under_way.remove(&id) {
            self.is_full = false;
            if !place.is_late {
                self.withheld = self.withheld.saturating_sub(1);
            }
        }
        self.no_longer_waits(id);
    }

    /// A group is closed.
    pub(super) fn forget(&mut self, id: GroupId) {
        self.under_way.remove(&id);
        self.is_full = false;
        self.no_longer_waits(id);
    }

    fn no_longer_waits(&mut self, id: GroupId) {
        if let Some((turn, number, _)) = self.waiting.remove(&id) {
            self.queue.remove(&(turn, number, id));
        }
    }

    /// A node that was silent is heard again: whoever waits only because of that wakes no more.
    pub(super) fn forget_silence(&mut self, node: NodeId) {
        let is_moot = |cause: &Cause| *cause == Cause::Silent(node);
        let waiting = self.waiting.iter();
        let moot: Vec<GroupId> = waiting
            .filter(|(_, (_, _, cause))| is_moot(cause))
            .map(|(id, _)| *id)
            .collect();
        moot.into_iter().for_each(|id| self.no_longer_waits(id));
    }

    /// When something is to be done here.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.queue.is_empty() {
            return None;
        }
        match self.is_full {
            false => Some(now),
            true => self.looks.first().map(|(at, _, _)| *at),
        }
    }

    /// Whether nothing is to wake, and nothing is under way.
    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_empty() && self.looks.is_empty()
    }

    /// Whether one more may wake. `most`: how many may be under way at a time.
    fn has_room(&mut self, most: usize) -> bool {
        let least = most.min(SLOWEST_TOGETHER);
        let may = most.saturating_sub(self.withheld).max(least);
        self.is_full = self.under_way.len() >= may;
        !self.is_full
    }

    fn begins(&mut self, id: GroupId, now: Instant, patience: Duration) {
        self.begun += 1;
        let number = self.begun;
        self.looks.insert((now + patience, number, id));
        let place = Place {
            number,
            ends: now + patience * LATE_FACTOR,
            is_late: false,
        };
        self.under_way.insert(id, place);
    }

    /// The groups whose time is up, of those that are still under way since they began.
    fn overdue(&mut self, now: Instant) -> Vec<GroupId> {
        let mut overdue = Vec::new();
        while let Some((at, number, id)) = self.looks.first().copied()
            && at <= now
        {
            self.looks.pop_first();
            // It may have slept and woken again since: then it has another number.
            let place = self.under_way.get(&id);
            overdue.extend(place.filter(|place| place.number == number).map(|_| id));
        }
        overdue
    }

    /// A group has not come to rest in time. It keeps its place if it is only slow.
    fn is_late(&mut self, id: GroupId, now: Instant, patience: Duration, most: usize) {
        let Some(place) = self.under_way.get_mut(&id) else {
            return;
        };
        if place.ends <= now {
            self.under_way.remove(&id);
            return;
        }
        place.is_late = true;
        self.looks.insert((now + patience, place.number, id));
        if self.withhold_again <= now {
            self.withhold_again = now + patience;
            let may = most.saturating_sub(self.withheld);
            let less = (may / 2).max(SLOWEST_TOGETHER).min(most);
            self.withheld = most - less;
        }
    }

    /// A group gives its place to others.
    fn makes_room(&mut self, id: GroupId) {
        self.under_way.remove(&id);
    }
}

impl Running {
    /// Wakes some of the groups that are to wake.
    pub(super) fn wake_some(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        if self.pulses.waking.is_idle() {
            return;
        }
        let limits = &self.config.limits;
        // Who never sleeps would keep its place until that ends.
        let most = match limits.sleep_after {
            Some(_) => limits.woken_together,
            None => usize::MAX,
        };
        let at_once = limits.woken_at_once;
        let patience = self.patience_with_waking();
        self.look_after_places(moment.now, most);
        for _ in 0..at_once {
            if !self.pulses.waking.has_room(most) {
                return;
            }
            let Some((id, cause)) = self.pulses.waking.pop() else {
                return;
            };
            if self.group(id).is_some_and(crate::group::Group::is_asleep) {
                self.wake(id);
                self.pulses.waking.begins(id, moment.now, patience);
                if let Some(opened) = self.groups.get_mut(&id) {
                    opened.group.sleeps_again_soon();
                }
            }
            // One that has woken by itself meanwhile has not heard of it either.
            if let Cause::Ended(node) = cause
                && peers.route_to(node).is_none()
            {
                self.with(id, out, |group, out| {
                    group.peer_lost(moment, node, true, peers, out);
                });
            }
        }
    }

    /// Who has not come to rest in time makes room for others if it has a reason to stay awake.
    fn look_after_places(&mut self, now: Instant, most: usize) {
        let patience = self.patience_with_waking();
        for id in self.pulses.waking.overdue(now) {
            let is_there = |node| node == self.own || self.pulses.is_there(node);
            let is_moving = self.under_way.has(id);
            let group = self.group(id);
            let stays = group.is_none_or(|group| is_moving || group.stays_awake(&is_there));
            match stays {
                true => self.pulses.waking.makes_room(id),
                false => self.pulses.waking.is_late(id, now, patience, most),
            }
        }
    }

    /// A group that was to wake has been woken by another node: it has its turn now.
    pub(super) fn woken_before_its_turn(&mut self, id: GroupId, by: Option<NodeId>) {
        if by.is_none() || !self.pulses.waking.waiting.contains_key(&id) {
            return;
        }
        let now = self.moment.now;
        let patience = self.patience_with_waking();
        self.pulses.waking.begins(id, now, patience);
        if let Some(opened) = self.groups.get_mut(&id) {
            opened.group.sleeps_again_soon();
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

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    /// So many groups that wait, and a limit of so many under way.
    fn waiting(groups: u64) -> Waking {
        let mut waking = Waking::default();
        (0..groups).for_each(|id| waking.push(GroupId(id), 0, Cause::Other));
        waking
    }

    /// As many as may begin.
    fn begin(waking: &mut Waking, now: Instant, most: usize) -> Vec<u64> {
        let mut begun = Vec::new();
        while waking.has_room(most)
            && let Some((id, _)) = waking.pop()
        {
            waking.begins(id, now, PATIENCE);
            begun.push(id.0);
        }
        begun
    }

    #[test]
    fn who_is_only_slow_keeps_its_place_and_fewer_are_under_way_until_it_sleeps() {
        let mut waking = waiting(100);
        assert_eq!(begin(&mut waking, at(0), 16).len(), 16);
        let overdue = waking.overdue(at(3));
        assert_eq!(overdue.len(), 16);
        for id in overdue {
            waking.is_late(id, at(3), PATIENCE, 16);
        }
        assert_eq!(
            begin(&mut waking, at(3), 16),
            [] as [u64; 0],
            "all are slow"
        );
        // Half as many: the ninth that sleeps makes room for one more.
        (0..8).for_each(|id| waking.slept(GroupId(id)));
        assert_eq!(begin(&mut waking, at(4), 16), [] as [u64; 0]);
        waking.slept(GroupId(8));
        assert_eq!(begin(&mut waking, at(4), 16), [16]);
        // One that sleeps in time makes room for one more than itself.
        waking.slept(GroupId(16));
        assert_eq!(begin(&mut waking, at(5), 16), [17, 18]);
        // Nobody holds a place for ever.
        for second in 6..=30 {
            for id in waking.overdue(at(second)) {
                waking.is_late(id, at(second), PATIENCE, 16);
            }
        }
        assert_eq!(waking.under_way.len(), 2, "those that began last");
    }

    #[test]
    fn the_end_of_an_earlier_place_ends_no_later_one() {
        let mut waking = waiting(1);
        assert_eq!(begin(&mut waking, at(0), 1), [0]);
        waking.slept(GroupId(0));
        waking.push(GroupId(0), 0, Cause::Other);
        assert_eq!(begin(&mut waking, at(2), 1), [0]);
        assert_eq!(waking.overdue(at(3)), []);
        assert_eq!(waking.overdue(at(5)), [GroupId(0)]);
    }

    #[test]
    fn who_waits_only_for_a_node_that_was_silent_wakes_no_more_when_it_is_heard() {
        let (silent, other) = (NodeId(7), NodeId(8));
        let mut waking = Waking::default();
        waking.push(GroupId(1), 0, Cause::Silent(silent));
        waking.push(GroupId(2), 0, Cause::Silent(silent));
        waking.push(GroupId(2), 0, Cause::Ended(silent));
        waking.push(GroupId(3), 0, Cause::Silent(silent));
        waking.push(GroupId(3), 0, Cause::Silent(other));
        waking.push(GroupId(4), 0, Cause::Other);
        waking.push(GroupId(4), 0, Cause::Silent(silent));
        waking.forget_silence(silent);
        assert_eq!(waking.waiting.len(), 3);
        assert_eq!(waking.pop(), Some((GroupId(2), Cause::Ended(silent))));
        assert_eq!(waking.pop(), Some((GroupId(3), Cause::Other)));
        assert_eq!(waking.pop(), Some((GroupId(4), Cause::Other)));
        assert_eq!(waking.pop(), None);
    }
}
