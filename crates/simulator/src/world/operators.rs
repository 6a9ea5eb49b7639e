//! Operators: they replace nodes whose disks are lost, and take members out and back in.
//!
//! ```text
//! Replace: wipe ─▶ remove ─▶ add ─▶ start with --join ─▶ promote
//! Rejoin:          remove ─▶ (it stops) wipe ─▶ add ─▶ start with --join ─▶ promote
//! ```
//!
//! Each step is asked of whichever node runs, again and again until it is done, as a person would.

use std::time::Duration;

use node::{Answer, Call, CallId};

use super::World;
use super::event::World as Happening;
use super::host::{address, name};
use crate::disk::Crash;
use crate::invariants::refusals::Injuries;
use crate::marks::Mark;

/// How often operators look.
const LOOK: Duration = Duration::from_millis(150);

/// What operators set out to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Replace,
    Rejoin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Remove,
    Add,
    Start,
    Promote,
}

#[derive(Debug)]
struct Job {
    host: usize,
    step: Step,
    asked: Option<(CallId, usize)>,
}

/// Operators and what they are at.
#[derive(Debug, Default)]
pub(crate) struct Operators {
    job: Option<Job>,
    /// After so many seconds the dead shall be replaced; what has been asked for that, and has no
    /// answer.
    pub(crate) tending: Option<(Option<CallId>, u64)>,
    turn: usize,
}

impl Operators {
    pub(crate) fn is_busy_with(&self, host: usize) -> bool {
        self.job.as_ref().is_some_and(|job| job.host == host)
    }

    /// Nothing more is begun or gone on with.
    pub(crate) fn stop(&mut self) {
        self.job = None;
    }
}

impl World {
    /// Operators begin something, if they are not busy.
    pub(crate) fn begin_task(&mut self, task: Task, host: usize) {
        if self.operators.job.is_some() || !self.may_wipe(host) {
            return;
        }
        if task == Task::Replace {
            self.wipe(host);
        }
        self.hosts[host].reasons.removed = true;
        self.operators.job = Some(Job {
            host,
            step: Step::Remove,
            asked: None,
        });
        self.schedule(LOOK, Happening::Operators);
    }

    /// Operators look at what they do.
    pub(crate) fn operate(&mut self) {
        let Some(mut job) = self.operators.job.take() else {
            return;
        };
        let answer = job.asked.and_then(|(id, _)| self.own_answers.remove(&id));
        let is_lost = job
            .asked
            .is_some_and(|(_, through)| self.hosts[through].node.is_none());
        if let Some(Answer::Operator(result)) = answer {
            job.asked = None;
            self.answered_operator(&mut job, &result);
        } else if is_lost {
            job.asked = None;
        }
        if job.step == Step::Start {
            self.start_joiner(&mut job);
        }
        if job.asked.is_none() {
            self.ask_operator(&mut job);
        }
        let done = job.step == Step::Promote && self.is_voter(job.host);
        if done {
            self.marks.reach(Mark::MemberReplaced);
            return;
        }
        self.operators.job = Some(job);
        self.schedule(LOOK, Happening::Operators);
    }

    fn answered_operator(&mut self, job: &mut Job, result: &Result<String, String>) {
        let is_absent = |text: &String| text.contains("no member");
        match (job.step, result) {
            (Step::Remove, Ok(_)) => self.removed(job),
            (Step::Remove, Err(text)) if is_absent(text) => self.removed(job),
            (Step::Add, Ok(_)) => job.step = Step::Start,
            (Step::Add, Err(text)) if text.contains("exists already") => job.step = Step::Start,
            _ => {}
        }
    }

    fn removed(&mut self, job: &mut Job) {
        if !self.hosts[job.host].reasons.wiped {
            self.kill(job.host, Crash::Process);
            self.wipe(job.host);
        }
        job.step = Step::Add;
    }

    fn start_joiner(&mut self, job: &mut Job) {
        let others = (0..self.hosts.len()).filter(|other| *other != job.host);
        let config = &mut self.hosts[job.host].config;
        config.cluster.clear();
        config.join = others.map(address).collect();
        // The members tell it how they agree.
        config.engine = None;
        self.kill(job.host, Crash::Power);
        self.hosts[job.host].disk = crate::disk::Disk::default();
        self.hosts[job.host].injuries = Injuries::default();
        let reasons = &mut self.hosts[job.host].reasons;
        (reasons.damaged, reasons.mended, reasons.wiped) = (false, false, false);
        self.start(job.host);
        job.step = Step::Promote;
    }

    fn ask_operator(&mut self, job: &mut Job) {
        self.operators.turn += 1;
        let through = self.operators.turn % self.hosts.len();
        if through == job.host || self.hosts[through].node.is_none() {
            return;
        }
        let member = name(job.host);
        let call = match job.step {
            Step::Remove => Call::MemberRemove { member },
            Step::Add => Call::MemberAdd {
                name: member,
                peer_address: address(job.host),
                is_witness: false,
            },
            Step::Promote => Call::MemberPromote { member },
            Step::Start => return,
        };
        job.asked = Some((self.call(through, call), through));
    }

    /// Whether the node of this host has a vote, as it sees it itself.
    fn is_voter(&self, host: usize) -> bool {
        let running = self.hosts[host].node.as_ref().and_then(node::Node::running);
        running.is_some_and(|running| {
            let (_, membership) = running.engine().membership_in_force();
            membership.is_voter(running.id()) && !membership.is_joint()
        })
    }
}
