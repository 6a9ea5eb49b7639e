//! What each group asks of its leader, and leaders spread by that.
//!
//! ```text
//!   a pass of a group ─▶ what it did, smoothed ─┐ of all that this node leads
//!                                               ├─▶ sum ──▶ facts, once a second ──▶ the others
//!   facts of the others ─▶ what they do ────────┴─▶ leaders::relieve ─▶ hand one group over
//! ```
//!
//! Work is commands executed, their bytes, and read rounds, counted in a pass and smoothed over
//! some seconds ([`Load`]). Every replica executes the same, so that the figure of a group is the
//! same on all of them and does not begin anew where its leader is another one.
//!
//! Who has nothing to do is led by number ([`super::leading`]), who has is left where its load
//! puts it. The busiest node gives one leadership away at a time: only after it has been the
//! busiest for two looks on end, and it counts what it has just given away as the other node's
//! until that one has had time to say so itself. Idle groups cost nothing here: those that have
//! worked stand in a list.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{GroupId, Instant, NodeId};
use cluster::placement::leaders::{self, Burden, Led, Transfer};
use consensus::Message;

use super::{Opened, Running};
use crate::group::{Group, META, Moment};
use crate::interface::Output;
use crate::peers::Peers;

/// Work counts for less by a sixteenth each second: what happened a minute ago hardly counts.
const SMOOTHED_OVER: u64 = 16;
/// For so long after a start nothing counts: what was chosen before is executed again.
const WARM_UP: Duration = Duration::from_secs(10);
/// So many bytes are as much work as one command more.
const BYTES_PER_UNIT: u64 = 1024;
/// No figure that counts is made of more seconds.
const SECONDS_MAX: u64 = 1024;
/// What has been given away counts for the other node until it has said so.
const GIVEN_FOR: Duration = Duration::from_secs(10);

/// What a group has had to do lately.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// The work of all time, as it was counted last.
    counted: u64,
    /// What is left of it.
    sum: u64,
    /// The second up to which it has been smoothed.
    at: Instant,
    begins: Instant,
    /// Read rounds that other replicas have asked this one for.
    rounds_for_others: u64,
}

impl Load {
    pub(super) fn new(now: Instant) -> Load {
        Load {
            counted: 0,
            sum: 0,
            at: now,
            begins: now + WARM_UP,
            rounds_for_others: 0,
        }
    }

    /// `work`: what was done since the beginning. Tells whether that is more than before.
    fn count(&mut self, now: Instant, work: u64) -> bool {
        let more = work.saturating_sub(self.counted);
        self.counted = work;
        if more == 0 || now < self.begins {
            return false;
        }
        self.smooth(now);
        self.sum = self.sum.saturating_add(more);
        true
    }

    fn smooth(&mut self, now: Instant) {
        let seconds = now.since(self.at).as_secs();
        self.at = self.at + Duration::from_secs(seconds);
        for _ in 0..seconds.min(SECONDS_MAX) {
            self.sum -= self.sum.div_ceil(SMOOTHED_OVER);
        }
    }

    /// How much a second; 0 if it is hardly anything.
    pub(super) fn figure(&self, now: Instant) -> u64 {
        let mut smoothed = *self;
        smoothed.smooth(now);
        smoothed.sum / SMOOTHED_OVER
    }
}

/// What a node keeps of loads.
#[derive(Debug, Default)]
pub(super) struct Loading {
    /// Groups that have had something to do.
    loaded: BTreeSet<GroupId>,
    /// What was given away to whom, lately.
    given: Vec<(Instant, NodeId, u64)>,
    /// At the last look there was something to give away.
    is_pressed: bool,
    next_look: Instant,
}

/// All that a group has done, in the unit of loads.
fn work_of(group: &Group) -> u64 {
    let counted = group.metrics();
    counted.commands_executed + counted.bytes_executed / BYTES_PER_UNIT + counted.read_rounds
}

impl Running {
    /// Another replica says something that may be a question for a read round.
    pub(super) fn count_round(&mut self, id: GroupId, message: &Message) {
        if let Some(opened) = self.groups.get_mut(&id)
            && message.asks_for_read()
        {
            opened.load.rounds_for_others += 1;
        }
    }

    /// A group has ended a pass.
    pub(super) fn count_load(&mut self, id: GroupId, now: Instant) {
        let Some(opened) = self.groups.get_mut(&id) else {
            return;
        };
        let work = work_of(&opened.group) + opened.load.rounds_for_others;
        if opened.load.count(now, work) {
            self.loading.loaded.insert(id);
        }
    }

    /// What a group asks of its leader, a second.
    pub(super) fn load_of(&self, id: GroupId, now: Instant) -> u64 {
        let opened = self.groups.get(&id);
        opened.map_or(0, |opened| opened.load.figure(now))
    }

    /// The groups that have something to do, and how much; those that have not are forgotten.
    fn loads(&mut self, now: Instant) -> Vec<(GroupId, u64)> {
        let loaded = std::mem::take(&mut self.loading.loaded).into_iter();
        let loads: Vec<(GroupId, u64)> = loaded
            .map(|id| (id, self.load_of(id, now)))
            .filter(|(_, load)| *load > 0)
            .collect();
        self.loading.loaded = loads.iter().map(|(id, _)| *id).collect();
        loads
    }

    /// Says to the others what this node does for the groups that it leads.
    fn tell_load(&mut self, loads: &[(GroupId, u64)]) -> u64 {
        let leads = |id: &GroupId| self.groups.get(id).is_some_and(|each| each.group.leads());
        let led = loads.iter().filter(|(id, _)| leads(id));
        let sum = led.map(|(_, load)| *load).sum();
        let own = self.own;
        if let Some(opened) = self.groups.get_mut(&META)
            && let Some(facts) = opened.group.facts.get_mut(&own)
        {
            facts.load = sum;
        }
        sum
    }

    /// Gives one leadership away if this node is the busiest by far, and that helps.
    pub(super) fn relieve(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        let now = moment.now;
        let loads = self.loads(now);
        let own_load = self.tell_load(&loads);
        let limits = self.config.limits.moving;
        if now < self.loading.next_look {
            return;
        }
        self.loading.next_look = now + limits.load_interval;
        self.loading.given.retain(|(at, ..)| *at + GIVEN_FOR > now);
        let was_pressed = std::mem::take(&mut self.loading.is_pressed);
        if own_load <= limits.load_least || !self.tending().rebalances {
            return;
        }
        let Some(transfer) = self.what_relieves(now, &loads, own_load, peers) else {
            return;
        };
        // What lasts for one look may be over at the next.
        if !was_pressed {
            self.loading.is_pressed = true;
            return;
        }
        let load = self.load_of(transfer.group, now);
        self.loading.given.push((now, transfer.to, load));
        self.leading.gave(transfer.group, now);
        self.with(transfer.group, out, |group, out| {
            group.hand_over_to(moment, Some(transfer.to), peers, out);
        });
    }

    fn what_relieves(
        &self,
        now: Instant,
        loads: &[(GroupId, u64)],
        own_load: u64,
        peers: &Peers,
    ) -> Option<Transfer> {
        let reached = |node: &NodeId| peers.route_to(*node).is_some();
        let others = self.meta().facts.iter().filter(|(node, _)| reached(node));
        let mut nodes: BTreeMap<NodeId, u64> =
            others.map(|(node, facts)| (*node, facts.load)).collect();
        nodes.insert(self.own, own_load);
        for (_, node, load) in &self.loading.given {
            if let Some(sum) = nodes.get_mut(node) {
                *sum = sum.saturating_add(*load);
            }
        }
        let limits = self.config.limits.moving;
        let may_go = |id: &GroupId, opened: &Opened| {
            let seen = opened.group.observed();
            *id != META
                && opened.group.leads()
                && !seen.is_changing
                && self.leading.may_give(*id, now, limits)
        };
        let groups = loads.iter().filter_map(|(id, load)| {
            let opened = self.groups.get(id).filter(|each| may_go(id, each))?;
            let voters = &opened.group.membership.voters;
            let candidates = self.leading.candidates.get(id)?.iter().copied();
            let led = Led {
                leader: Some(self.own),
                candidates: candidates.filter(|node| voters.contains(node)).collect(),
                load: *load,
            };
            Some((*id, led))
        });
        let burden = Burden {
            groups: groups.collect(),
            nodes,
            least: limits.load_least,
        };
        leaders::relieve(self.own, &self.leading.sites, &burden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    #[test]
    fn a_figure_comes_near_what_is_done_and_ends_when_nothing_is() {
        let mut load = Load::new(at(0));
        assert!(!load.count(at(1), 5000), "executed again after a start");
        let mut work = 5000;
        for second in 10..100 {
            work += 320;
            assert!(load.count(at(second), work));
        }
        let steady = load.figure(at(99));
        assert!((300..=340).contains(&steady), "{steady}");
        assert!(!load.count(at(100), work), "nothing new");
        // Eleven seconds leave (15/16)^11 of it, a little less than half.
        let left = load.figure(at(99 + 11));
        assert!(
            (left * 2..=left * 2 + 10).contains(&steady),
            "{left} of {steady}"
        );
        assert_eq!(load.figure(at(400)), 0);
        assert_eq!(load.figure(at(1_000_000)), 0);
    }
}
