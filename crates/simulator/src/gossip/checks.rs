//! What must hold of members after every step, whatever goes wrong.
//!
//! - *what is known of a member never goes back*: in one life of whoever knows it, incarnations
//!   grow, and at one incarnation alive < suspect < dead, left (SWIM, section 4.2).
//! - *only a member raises its incarnation*: nobody knows a newer one than it has had itself
//!   (SWIM, section 4.2), and nobody knows members that there are not.
//! - *who has left stays gone* until it is started again.
//! - *nobody is buried before its time*: a member is dead only if somebody had suspected this very
//!   incarnation for as long as the shortest suspicion lasts (SWIM, section 4.2; Lifeguard, section
//!   3, says from where on it may be that short).
//! - *nobody is taken for dead without cause*: where every question of somebody who is there is
//!   answered in time, nobody who runs is dead for anybody (SWIM, section 4.2: suspicion is there
//!   for that).
//! - *strangers are refused for what they are*, and members for nothing; *clocks that agree are not
//!   reported*; nobody is told to be a copy, or to have another one's name.
//! - *packets fit*, *gossip comes to rest*, *a member never panics*.
//! - *gossip converges*, *who leaves is known to have left*: see [`super`].

use std::collections::BTreeMap;
use std::time::Duration;

use base::{Instant, NodeId};
use cluster::gossip::member::{Incarnation, State};
use cluster::gossip::{Event, Gossip};

use super::plan::Plan;
use crate::invariants::{Violation, violated};
use crate::marks::{Mark, Marks};

/// What a member is in truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its process does not run.
    #[default]
    Down,
    /// It is there.
    Up,
    /// It says goodbye.
    Leaving,
    /// It has said goodbye.
    Left,
}

/// What is true of a member.
#[derive(Clone, Debug, Default)]
pub(super) struct Truth {
    pub(super) fate: Fate,
    /// The number of its newest start.
    pub(super) start: u32,
    /// When that was.
    pub(super) started: Instant,
    /// When it last began to say goodbye, and in which start.
    pub(super) left: Option<(Instant, u32)>,
    /// The newest incarnation that it has had.
    pub(super) incarnation: Incarnation,
    /// By how much its wall clock has been ahead at any time: least and most, in milliseconds.
    pub(super) ahead: (i64, i64),
}

/// What the invariants remember.
#[derive(Debug)]
pub(super) struct Checks {
    pub(super) truths: Vec<Truth>,
    /// What each has last known of each.
    views: Vec<Vec<Option<(Incarnation, State)>>>,
    /// Since when an incarnation of a member has been suspected by anybody.
    suspected: BTreeMap<(usize, Incarnation), Instant>,
    shortest_suspicion: Duration,
    clock_tolerance: Duration,
    is_reliable: bool,
    /// All have agreed once, and nothing goes wrong any more.
    pub(super) is_settled: bool,
    pub(super) marks: Marks,
    /// How many were made.
    pub(super) count: u64,
}

impl Checks {
    pub(super) fn new(plan: &Plan) -> Checks {
        let truth = |ahead: &i64| Truth {
            ahead: (*ahead, *ahead),
            ..Truth::default()
        };
        Checks {
            truths: plan.ahead.iter().map(truth).collect(),
            views: vec![vec![None; plan.members]; plan.members],
            suspected: BTreeMap::new(),
            shortest_suspicion: (plan.config.probe_interval).mul_f64(plan.config.suspicion_factor),
            clock_tolerance: plan.config.clock_tolerance,
            is_reliable: plan.is_reliable(),
            is_settled: false,
            marks: Marks::default(),
            count: 0,
        }
    }

    /// A process begins, and knows nobody.
    pub(super) fn started(&mut self, member: usize, now: Instant) {
        self.views[member].fill(None);
        let truth = &mut self.truths[member];
        truth.fate = Fate::Up;
        truth.start += 1;
        truth.started = now;
    }

    /// Looks at all that a member knows.
    pub(super) fn look(
        &mut self,
        viewer: usize,
        gossip: &Gossip,
        now: Instant,
    ) -> Result<(), Violation> {
        self.count += 1;
        // What it says of itself is known before anybody can have heard of it.
        let own = gossip.member(NodeId(viewer as u64 + 1));
        let own = own.map_or(Incarnation::default(), |own| own.incarnation);
        self.truths[viewer].incarnation = self.truths[viewer].incarnation.max(own);
        for member in gossip.members() {
            let about = (member.node.0 as usize).wrapping_sub(1);
            if about >= self.truths.len() {
                let text = format!("n{} knows {}", viewer + 1, member.node);
                return violated("only who was started is a member", text);
            }
            let seen = (member.incarnation, member.state);
            let before = self.views[viewer][about].replace(seen);
            if before != Some(seen) {
                self.changed(viewer, about, before, seen, now)?;
            }
        }
        Ok(())
    }

    fn changed(
        &mut self,
        viewer: usize,
        about: usize,
        before: Option<(Incarnation, State)>,
        (incarnation, state): (Incarnation, State),
        now: Instant,
    ) -> Result<(), Violation> {
        let truth = &self.truths[about];
        let says = || {
            let (viewer, about) = (viewer + 1, about + 1);
            let before = before.map_or("nothing".to_owned(), |(incarnation, state)| {
                format!("{state} at {:x}", incarnation.0)
            });
            format!(
                "n{viewer} knew {before} of n{about}, and now {state} at {:x}; it is {truth:?}",
                incarnation.0
            )
        };
        if incarnation > truth.incarnation {
            return violated("only a member raises its incarnation", says());
        }
        if let Some((old, old_state)) = before {
            let rank = |state| match state {
                State::Alive => 0,
                State::Suspect => 1,
                State::Dead | State::Left => 2,
            };
            let is_of_same_start = incarnation.0 >> 32 == old.0 >> 32;
            if old_state == State::Left && is_of_same_start {
                return violated("who has left stays gone", says());
            }
            if (incarnation, rank(state)) <= (old, rank(old_state)) {
                return violated("what is known of a member never goes back", says());
            }
            if old_state == State::Dead && state == State::Alive {
                self.marks.reach(Mark::GossipReturned);
            }
        }
        match state {
            State::Suspect => {
                self.suspected.entry((about, incarnation)).or_insert(now);
            }
            State::Dead => {
                let since = self.suspected.get(&(about, incarnation));
                let long = since.map(|since| now.since(*since));
                if long.is_none_or(|long| long < self.shortest_suspicion) {
                    let text = format!("{}, suspected for {long:?}", says());
                    return violated("nobody is buried before its time", text);
                }
                let is_here =
                    truth.fate == Fate::Up && incarnation >= Incarnation::of_start(truth.start);
                if is_here && (self.is_reliable || self.is_settled) {
                    return violated("nobody is taken for dead without cause", says());
                }
                if is_here {
                    self.marks.reach(Mark::GossipWrongDeath);
                }
            }
            State::Alive | State::Left => {}
        }
        Ok(())
    }

    /// Looks at what a member says.
    pub(super) fn heard(
        &mut self,
        viewer: usize,
        event: &Event,
        may_refuse: impl Fn(&str) -> bool,
    ) -> Result<(), Violation> {
        self.count += 1;
        match event {
            Event::Denied { .. } => self.marks.reach(Mark::GossipDenied),
            Event::Slept(_) => self.marks.reach(Mark::GossipSlept),
            Event::Left(_) => self.marks.reach(Mark::GossipLeft),
            Event::Refused { reason, .. } => {
                if !may_refuse(reason.name()) {
                    let text = format!("n{}: {reason}", viewer + 1);
                    return violated("strangers are refused for what they are", text);
                }
                self.marks.reach(Mark::GossipRefused);
            }
            Event::ClockApart {
                node,
                ahead_milliseconds,
            } => {
                let (own, other) = (&self.truths[viewer], &self.truths[node.0 as usize - 1]);
                let most = (other.ahead.1 - own.ahead.0).max(own.ahead.1 - other.ahead.0);
                // Both are told in whole milliseconds.
                if most + 2 <= self.clock_tolerance.as_millis() as i64 {
                    let viewer = viewer + 1;
                    let text = format!(
                        "n{viewer} takes {node} to be ahead by {ahead_milliseconds} ms, and they \
                         were never further apart than {most} ms"
                    );
                    return violated("clocks that agree are not reported", text);
                }
                self.marks.reach(Mark::GossipClockApart);
            }
            Event::NameTaken { .. } | Event::TwoOfOne { .. } => {
                let text = format!("n{}: {event:?}", viewer + 1);
                return violated("nobody is told to be a copy", text);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether this member, which runs, sees of another what is so.
    pub(super) fn sees_truth(&self, viewer: usize, about: usize) -> bool {
        let truth = &self.truths[about];
        match (truth.fate, self.views[viewer][about]) {
            (Fate::Up, Some((incarnation, State::Alive))) => incarnation == truth.incarnation,
            (Fate::Down | Fate::Left, seen) => {
                matches!(seen, None | Some((_, State::Dead | State::Left)))
            }
            _ => false,
        }
    }

    /// Whether this member must have heard another one's goodbye, and has not: nothing gets lost,
    /// and it was there before.
    pub(super) fn missed_goodbye(&self, viewer: usize, about: usize, joins: Duration) -> bool {
        let (truth, own) = (&self.truths[about], &self.truths[viewer]);
        let Some((at, start)) = truth.left else {
            return false;
        };
        let was_there = own.started + joins < at && truth.started + joins < at;
        let is_left = matches!(self.views[viewer][about], Some((_, State::Left)));
        self.is_reliable
            && truth.fate == Fate::Left
            && start == truth.start
            && was_there
            && !is_left
    }
}
