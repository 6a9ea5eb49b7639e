//! A group in which nothing happens falls asleep: no heartbeats, no timers, nothing looked at.
//!
//! ```text
//!   leader                                          follower
//!     │ nothing happened for `sleep_after`             │
//!     │ heartbeat, then Sleep(epoch, slot) ──────────▶ │ has the same log, owes nothing: asleep
//!     │ ◀──────────────────────── Asleep(epoch, slot)  │
//!   all who are there have said so: asleep             │
//!     │                                                │
//!     │ a call, a frame, the leader's node is silent   │ … wakes it, and who wakes says so:
//!     │ heartbeats ──────────────────────────────────▶ │   a leader by heartbeats,
//!     │ ◀──────────────────────────────────────── Wake │   a follower by this
//! ```
//!
//! Meanwhile the pulses of nodes say who is alive ([`crate::running::pulses`]). Rules that others
//! learned by their mistakes:
//!
//! - **Only what is equal sleeps.** A follower says *asleep* only if its log ends where the
//!   leader's does, durable, chosen and executed; a leader only if every member whose
//!   node is there has said so since its last heartbeat. Whose node is not there is not waited
//!   for, if the others are a quorum: one dead node must not keep ten thousand groups awake. Its
//!   pulse wakes them.
//! - **Sleep lengthens nobody's rights.** Reads and writes need a round of a quorum as ever; a
//!   leader that slept through an election learns of it by its first round.
//! - **No group with a lease sleeps**, nor one that owes anybody anything: its clock has to go on.
//! - **Whoever wakes, wakes all.** There is no state in which some count on heartbeats that others
//!   do not send, for longer than an election timeout.

use std::collections::BTreeSet;

use base::mutant::{self, Mutant};
use base::{Epoch, Instant, NodeId, Slot};
use bytes::Bytes;
use consensus::{Engine as _, Input, Rest};
use etcd::maintenance::alarm;

use super::{Group, META};
use crate::wire::GroupFrame;

/// So many heartbeats may be put off for the answers of those who are asked to sleep.
const HEARTBEATS_PUT_OFF: u32 = 2;

/// What a leader has asked the others.
#[derive(Debug)]
struct Asked {
    rest: Rest,
    /// Its next heartbeat. What was said before the last one does not count: that one woke them.
    heartbeat: Option<Instant>,
    confirmed: BTreeSet<NodeId>,
}

/// Whether a group sleeps, or is about to.
#[derive(Debug)]
pub(super) struct Sleep {
    is_asleep: bool,
    /// It has not been awake since it was opened.
    has_begun: bool,
    /// It woke only because of a node.
    is_brief: bool,
    /// Nothing has happened since.
    idle_since: Instant,
    /// What was there when it was looked at last.
    seen: (Epoch, Slot),
    asked: Option<Asked>,
    /// When the others may be asked (again).
    ask_at: Instant,
    /// So often they have not all answered before the next heartbeat.
    attempts: u32,
    /// What the leader has asked in this pass.
    proposed: Option<Rest>,
}

impl Sleep {
    pub(super) fn new(now: Instant) -> Sleep {
        Sleep {
            is_asleep: false,
            has_begun: true,
            is_brief: false,
            idle_since: now,
            seen: (Epoch(0), Slot(0)),
            asked: None,
            ask_at: now,
            attempts: 0,
            proposed: None,
        }
    }

    /// One that waits for its turn to begin.
    pub(super) fn before_the_beginning(now: Instant) -> Sleep {
        Sleep {
            is_asleep: true,
            has_begun: false,
            ..Sleep::new(now)
        }
    }
}

impl Group {
    /// Whether it sleeps: it must be woken before anything else is done with it.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.sleep.is_asleep
    }

    /// Whether it fell asleep, and does not only wait for its turn to begin.
    #[must_use]
    pub fn fell_asleep(&self) -> bool {
        self.sleep.is_asleep && self.sleep.has_begun
    }

    /// It has woken because of a node, and nobody has asked for anything: it need not stay awake
    /// for long.
    pub(crate) fn sleeps_again_soon(&mut self) {
        self.sleep.is_brief = true;
    }

    /// Something happens to a group that sleeps. `heard`: when the leader's node last gave a sign
    /// of life. Tells whom to wake as well.
    pub(crate) fn wake_up(&mut self, now: Instant, heard: Option<Instant>) -> Option<NodeId> {
        assert!(self.sleep.is_asleep, "only who sleeps is woken");
        self.metrics.groups_woken += u64::from(self.sleep.has_begun);
        self.sleep = Sleep::new(now);
        self.last_pass = now;
        self.next_facts = now + self.config.limits.facts_interval;
        self.doubt_digest(now, None);
        self.engine
            .step(now, Input::Woken { heard }, &mut self.outputs);
        self.leader.filter(|leader| *leader != self.own)
    }

    /// The leader asks whether this replica can sleep too; answered when its pass has ended. True
    /// if it sleeps there already.
    pub(crate) fn asked_to_sleep(&mut self, from: NodeId, epoch: Epoch, slot: Slot) -> bool {
        let rest = Rest {
            leader: from,
            epoch,
            slot,
        };
        if self.sleep.is_asleep {
            return self.engine.rest(&|_| false) == Some(rest);
        }
        self.sleep.proposed = Some(rest);
        false
    }

    /// A follower says that it sleeps.
    pub(crate) fn follower_sleeps(&mut self, from: NodeId, epoch: Epoch, slot: Slot) {
        if let Some(asked) = &mut self.sleep.asked
            && (asked.rest.epoch, asked.rest.slot) == (epoch, slot)
        {
            asked.confirmed.insert(from);
        }
    }

    /// Another follower says what it has where this replica sleeps. True if that is what is here as
    /// well: it is no reason to wake.
    pub(crate) fn agrees_in_sleep(&mut self, from: NodeId, slot: Slot, digest: u128) -> bool {
        self.sleep.is_asleep && self.leader != Some(from) && self.has_digest(from, slot, digest)
    }

    /// A follower says that it has woken: what it said before does not count.
    pub(crate) fn follower_woke(&mut self, from: NodeId) {
        if let Some(asked) = &mut self.sleep.asked {
            asked.confirmed.remove(&from);
        }
    }

    /// At the end of a pass: falls asleep, or asks the others, if nothing has happened for long
    /// enough. `is_there`: whether a node gives signs of life. What is to be said goes to `said`,
    /// behind what the engine says.
    pub(crate) fn consider_sleep(
        &mut self,
        now: Instant,
        is_there: &dyn Fn(NodeId) -> bool,
        said: &mut Vec<(NodeId, Bytes)>,
    ) {
        let proposed = self.sleep.proposed.take();
        let Some(after) = self.config.limits.sleep_after.filter(|_| self.id != META) else {
            return;
        };
        let after = match self.sleep.is_brief {
            true => after.min(self.config.limits.sleep_again_after),
            false => after,
        };
        let seen = (self.epoch, self.replica.applied());
        if self.calls.under_way() > 0 || self.sleep.seen != seen || self.leader.is_none() {
            self.sleep.seen = seen;
            self.sleep.idle_since = now;
            self.sleep.asked = None;
        } else if let Some(rest) = proposed {
            self.follow_into_sleep(rest, is_there, said);
        } else if self.leads() && now.since(self.sleep.idle_since) >= after {
            self.lead_into_sleep(now, is_there, said);
        }
    }

    fn follow_into_sleep(
        &mut self,
        rest: Rest,
        is_there: &dyn Fn(NodeId) -> bool,
        said: &mut Vec<(NodeId, Bytes)>,
    ) {
        let own = self.engine.rest(&|_| false);
        let is_equal = own == Some(rest);
        if !self.leads() && is_there(rest.leader) && is_equal && self.owes_nothing() {
            self.fall_asleep();
            let (epoch, slot) = (rest.epoch, rest.slot);
            let body = GroupFrame::Asleep { epoch, slot }.encode(self.id);
            said.push((rest.leader, body));
        }
    }

    fn lead_into_sleep(
        &mut self,
        now: Instant,
        is_there: &dyn Fn(NodeId) -> bool,
        said: &mut Vec<(NodeId, Bytes)>,
    ) {
        let rest = self.engine.rest(&|node| !is_there(node));
        let heartbeat = self.engine.deadline();
        let Some(rest) = rest.filter(|_| self.owes_nothing()) else {
            self.sleep.asked = None;
            return;
        };
        if !self.has_compared(now, is_there) {
            self.sleep.asked = None;
            return;
        }
        let members = self.membership.members.keys().copied();
        let mut others = members.filter(|id| *id != self.own && is_there(*id));
        if let Some(asked) = &self.sleep.asked
            && asked.rest == rest
            && asked.heartbeat == heartbeat
        {
            if others.all(|id| asked.confirmed.contains(&id)) {
                self.fall_asleep();
            }
            return;
        }
        // Right behind a heartbeat: the next one would wake them while they answer.
        let interval = self.config.timing.heartbeat_interval;
        let is_fresh = heartbeat.is_some_and(|at| at >= now + interval * 3 / 4);
        if !is_fresh || now < self.sleep.ask_at {
            return;
        }
        self.sleep.ask_at = now + interval * 5;
        // Where answers take longer than heartbeats are apart, those wait for them.
        let longer = self.sleep.attempts.min(HEARTBEATS_PUT_OFF);
        self.sleep.attempts += 1;
        let until = heartbeat.map_or(now, |at| at + interval * longer);
        let hush = Input::Hush { until };
        self.engine.step(now, hush, &mut self.outputs);
        let heartbeat = self.engine.deadline();
        let (epoch, slot) = (rest.epoch, rest.slot);
        let body = GroupFrame::Sleep { epoch, slot }.encode(self.id);
        let before = said.len();
        said.extend(others.map(|id| (id, body.clone())));
        let is_alone = said.len() == before;
        self.sleep.asked = Some(Asked {
            rest,
            heartbeat,
            confirmed: BTreeSet::new(),
        });
        // Nobody's answer would bring it back here before the next heartbeat.
        if is_alone {
            self.fall_asleep();
        }
    }

    /// Whether it has a reason to stay awake that time does not take away: else it is only slow to
    /// fall asleep. `is_there`: whether a node gives signs of life.
    pub(crate) fn stays_awake(&self, is_there: &dyn Fn(NodeId) -> bool) -> bool {
        let reader = self.replica.reader();
        let members = &self.membership;
        let has_quorum = members.commits(is_there) && members.elects(is_there);
        reader.no_lease_due_before().is_some()
            || alarm::raised(reader).no_space
            || self.calls.under_way() > 0
            || self.is_in_doubt
            || self.removed_at.is_some()
            || !has_quorum
    }

    /// Nothing is looked at any more. What was kept for the work goes.
    fn fall_asleep(&mut self) {
        self.sleep.is_asleep = true;
        self.sleep.asked = None;
        self.metrics.groups_slept += 1;
        self.outputs = Vec::new();
        self.executed = Vec::new();
        self.unexecuted.shrink_to_fit();
        self.held.shrink_to_fit();
    }

    /// Whether nobody waits for anything here, and nothing is to be done by time.
    fn owes_nothing(&self) -> bool {
        let reader = self.replica.reader();
        let has_lease = reader.no_lease_due_before().is_some();
        let replica_rests = (!has_lease || mutant::is_on(Mutant::SleepWithLease))
            && !self.replica.compaction_pending()
            && !alarm::raised(reader).no_space;
        let nothing_waits = self.calls.deadline(true).is_none()
            && self.operators.deadline().is_none()
            && (self.lease_deadline().is_none() || mutant::is_on(Mutant::SleepWithLease))
            && !self.has_uncompared()
            && self.members.deadline(self.last_pass).is_none()
            && !self.has_wishes()
            && self.queue.is_empty()
            && self.proposals.is_empty()
            && self.to_journal.is_empty()
            && self.held.is_empty()
            && self.outputs.is_empty()
            && self.unexecuted.is_empty()
            && self.compacting.is_empty();
        let is_sound = !self.is_in_doubt
            && self.published
            && self.removed_at.is_none()
            && !self.is_pinning
            && self.damaged_until.is_none()
            && !self.is_taking_checkpoint();
        replica_rests && nothing_waits && is_sound
    }

    /// When a group that sleeps wakes by itself: to let go of history.
    pub(super) fn nap_deadline(&self) -> Option<Instant> {
        let reader = self.replica.reader();
        let has_history = reader.revision() > reader.compacted();
        let limits = &self.config.limits.space;
        (self.leads() && has_history)
            .then(|| self.space.nap_deadline(limits))
            .flatten()
    }
}
