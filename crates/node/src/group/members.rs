//! etcd's Cluster service: members changed as etcd's clients do it.
//!
//! ```text
//!  client ─▶ any node ──(a voter: first a WishVote command)──▶ leader ─▶ judged ─▶ engine
//!                ▲                                                                   │ complete
//!                └── read round: the members as they are now ◀── Changed ◀───────────┘
//! ```
//!
//! The leader judges a change by the rules of etcd's `strict-reconfig-check`: enough members have
//! started, and enough voters have been connected for a while. What stands in the way for a moment
//! only (another change, an election just over) is waited for. Where nobody leads, the node that
//! was asked says what it can tell by itself against the change; the rest waits for a leader.
//!
//! **A new member never has a vote before it holds the data**, whatever was asked for: a vote
//! without data weakens the cluster while its node is not there yet. One that was added as a voter
//! is a learner that the leader promotes by itself; clients see a voter, as they do in etcd, whose
//! new voter counts before it has started.

use std::collections::BTreeMap;
use std::time::Duration;

use base::{Instant, NodeId, Slot};
use consensus::{Change, Engine as _, Membership, Refusal};
use etcd::proto::etcdserverpb::{Member, MemberListResponse, MoveLeaderResponse};
use etcd::{ClusterRequest, Error, MaintenanceResponse};

use super::{Group, Moment};
use crate::calls::{Admittance, CallKind, Late, ReadKind, Waiter};
use crate::interface::{Answer, CallId, Output};
use crate::operator::{Asker, check_address};
use crate::peers::Peers;
use crate::system::{self, SystemCommand};
use crate::wire::{GroupFrame, MemberChange};

/// What bounds changes of members.
#[derive(Clone, Copy, Debug)]
pub struct MemberLimits {
    /// Learners that etcd's clients may add; those that get a vote by themselves do not count.
    pub learners: usize,
    /// Refuse what could leave too few members at work (etcd's `strict-reconfig-check`).
    pub strict: bool,
    /// A member is at work once it has been connected for so long.
    pub healthy_after: Duration,
    /// How often what waits is tried again, and how often learners that wish for a vote are
    /// looked at.
    pub retry_interval: Duration,
    /// How far a learner must be for a vote, in percent of the leader's log.
    pub ready_percent: u64,
}

impl Default for MemberLimits {
    fn default() -> MemberLimits {
        MemberLimits {
            learners: 1,
            strict: true,
            healthy_after: Duration::from_secs(5),
            retry_interval: Duration::from_millis(50),
            ready_percent: 90,
        }
    }
}

/// What a client of this node waits for.
#[derive(Debug)]
enum Asked {
    /// A change of the members; with the id of a new one.
    Change(ClusterRequest, NodeId),
    /// Another leader.
    MoveLeader,
}

/// A change that the leader has not made yet.
#[derive(Debug)]
struct Waiting {
    asker: Asker,
    change: MemberChange,
    until: Instant,
}

/// Changes of members under way.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// By clients of this node.
    asked: BTreeMap<CallId, Asked>,
    /// Asked for here, and not handed to a leader yet.
    unsent: Vec<(CallId, MemberChange)>,
    /// Handed to this node's engine.
    under_way: BTreeMap<Asker, Waiting>,
    /// To be handed to it again.
    put_off: Vec<Waiting>,
    /// Since when each peer has been connected.
    connected: BTreeMap<NodeId, Instant>,
    /// Since when the last leader that is known has been known.
    led_since: Option<Instant>,
    /// When to try again.
    next_try: Instant,
    /// Who belongs to the group since which slot, where what led there is lost here.
    helpers: Option<(Slot, Membership)>,
}

impl Members {
    /// Nothing is asked for; `helpers` are looked for.
    pub(super) fn new(helpers: Option<(Slot, Membership)>) -> Members {
        Members {
            helpers,
            ..Members::default()
        }
    }

    /// Whom else to look for than the members in force, who may have been replaced since.
    pub(super) fn helpers(&self, in_force: (Slot, &Membership)) -> Option<&Membership> {
        let (since, helpers) = self.helpers.as_ref()?;
        let is_behind = in_force.0 < *since && in_force.1 != helpers;
        is_behind.then_some(helpers)
    }

    /// A peer is connected.
    pub(super) fn found(&mut self, node: NodeId, now: Instant) {
        self.connected.entry(node).or_insert(now);
    }

    /// A peer is not connected any more.
    pub(super) fn lost(&mut self, node: NodeId) {
        self.connected.remove(&node);
    }

    /// Whether a peer has been connected all the time since then.
    pub(super) fn is_connected(&self, node: NodeId, since: Instant) -> bool {
        self.connected.get(&node).is_some_and(|at| *at <= since)
    }

    /// Somebody leads from now on.
    pub(super) fn led(&mut self, now: Instant) {
        self.led_since = Some(now);
    }

    /// Since when the leader has been known, or the last one was.
    pub(super) fn led_since(&self) -> Option<Instant> {
        self.led_since
    }

    /// Whether a change has not been handed to a leader.
    pub(super) fn is_unsent(&self, call: CallId) -> bool {
        self.unsent.iter().any(|(unsent, _)| *unsent == call)
    }

    /// A new member may be added now: it can be told apart from the others.
    pub(super) fn wish_granted(&mut self, call: CallId, change: MemberChange) {
        self.unsent.push((call, change));
    }

    /// When what waits, and learners that wish for a vote, are looked at again.
    pub(super) fn next_try(&self) -> Instant {
        self.next_try
    }

    /// When there is something to do.
    pub(super) fn deadline(&self, last_pass: Instant) -> Option<Instant> {
        if !self.unsent.is_empty() {
            return Some(last_pass.max(self.next_try));
        }
        (!self.put_off.is_empty()).then_some(self.next_try)
    }
}

impl Group {
    /// A client of etcd's asks for a change of the members.
    pub(super) fn call_cluster(
        &mut self,
        moment: Moment,
        id: CallId,
        request: ClusterRequest,
        out: &mut Vec<Output>,
    ) {
        self.open(moment, id, CallKind::EtcdCluster);
        let change = match self.change_of(&request) {
            Ok(change) => change,
            Err(error) => return self.fail(id, error, out),
        };
        if let Err(error) = self.judge_alone(moment.now, &change) {
            return self.fail(id, error, out);
        }
        self.calls.set_late(id, late(&change));
        let added = match &change {
            MemberChange::Add { id, .. } => *id,
            _ => NodeId(0),
        };
        let wish = matches!(&change, MemberChange::Add { learner: false, .. });
        self.members.asked.insert(id, Asked::Change(request, added));
        if !wish {
            return self.members.unsent.push((id, change));
        }
        let command = SystemCommand::WishVote { member: added }.encode();
        let waiter = Waiter::Wish { call: id, change };
        let deadline = moment.now + self.config.timing.request_timeout;
        let added = self.calls.add_command(
            system::PROTOCOL,
            command,
            waiter,
            deadline,
            Admittance::Reserved,
        );
        if added.is_err() {
            self.metrics.calls_refused += 1;
            self.fail(id, Error::TooManyRequests, out);
        }
    }

    fn change_of(&mut self, request: &ClusterRequest) -> Result<MemberChange, Error> {
        Ok(match request {
            ClusterRequest::Add(add) => MemberChange::Add {
                address: etcd::peer_address(&add.peer_ur_ls)?,
                id: NodeId(self.random.next_u64().max(1)),
                learner: add.is_learner,
            },
            ClusterRequest::Remove(remove) => MemberChange::Remove(NodeId(remove.id)),
            ClusterRequest::Update(update) => MemberChange::Update {
                address: etcd::peer_address(&update.peer_ur_ls)?,
                id: NodeId(update.id),
            },
            ClusterRequest::Promote(promote) => MemberChange::Promote(NodeId(promote.id)),
        })
    }

    /// A client of etcd's wants another member to lead. As in etcd, only the leader is told so.
    pub(super) fn move_leader(
        &mut self,
        moment: Moment,
        id: CallId,
        target: NodeId,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        self.open(moment, id, CallKind::EtcdMaintenance);
        if !self.leads() {
            return self.fail(id, Error::NotLeader, out);
        }
        if !self.membership.voters.contains(&target) {
            return self.fail(id, Error::BadLeaderTransferee, out);
        }
        if target == self.own {
            let response = MaintenanceResponse::MoveLeader(MoveLeaderResponse::default());
            return self.answer(id, Answer::EtcdMaintenance(Ok(response)), out);
        }
        self.members.asked.insert(id, Asked::MoveLeader);
        let ticket = self.calls.next_ticket();
        self.operators
            .asked_engine(ticket, Asker::Client(id), String::new());
        let to = Some(target);
        self.drive(
            moment,
            consensus::Input::Transfer { ticket, to },
            peers,
            out,
        );
    }

    /// Tries again what waits, and gives votes to those who are ready for them.
    pub(super) fn change_members(
        &mut self,
        moment: Moment,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        if self.members.next_try > moment.now {
            return;
        }
        // Those who were there before this node had come so far.
        for node in peers.reachable() {
            self.members.found(node, moment.now);
        }
        let unsent = std::mem::take(&mut self.members.unsent);
        for (call, change) in unsent {
            if self.calls.is_open(call) {
                self.send_change(moment, call, change, peers, out);
            } else {
                self.forget_wish(moment.now, &change);
            }
        }
        for waiting in std::mem::take(&mut self.members.put_off) {
            if waiting.until > moment.now {
                self.change(moment, waiting, peers, out);
            } else {
                // It was not done, and whoever asked has been told that nobody knows.
                self.forget_wish(moment.now, &waiting.change);
                self.changed(waiting.asker, Err(Error::Timeout), peers, out);
            }
        }
        let calls = &self.calls;
        self.members.asked.retain(|call, _| calls.is_open(*call));
        self.members.next_try = moment.now + self.config.limits.members.retry_interval;
        self.promote_wishes(moment, peers, out);
    }

    fn send_change(
        &mut self,
        moment: Moment,
        call: CallId,
        change: MemberChange,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let patience = self.config.timing.request_timeout;
        match self.leader {
            Some(leader) if leader == self.own => {
                let waiting = Waiting {
                    asker: Asker::Client(call),
                    change,
                    until: moment.now + patience,
                };
                self.change(moment, waiting, peers, out);
            }
            Some(leader) => {
                let id = self.operators.asked_leader(call, moment.now, patience);
                let body = GroupFrame::Change {
                    id,
                    change: change.clone(),
                };
                if !peers.send(leader, body.encode(self.id), out) {
                    self.operators.leader_answered(id);
                    self.members.unsent.push((call, change));
                }
            }
            // The call's own time bounds the wait.
            None => self.members.unsent.push((call, change)),
        }
    }

    /// A client of another node asks for a change.
    pub(super) fn change_for(
        &mut self,
        moment: Moment,
        asker: Asker,
        change: MemberChange,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let until = moment.now + self.config.timing.request_timeout;
        let waiting = Waiting {
            asker,
            change,
            until,
        };
        self.change(moment, waiting, peers, out);
    }

    /// On the leader: makes a change, if nothing speaks against it.
    fn change(
        &mut self,
        moment: Moment,
        waiting: Waiting,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let asker = waiting.asker;
        if !self.leads() {
            self.forget_wish(moment.now, &waiting.change);
            return self.changed(asker, Err(Error::NoLeader), peers, out);
        }
        match self.judge(moment.now, &waiting.change) {
            Err(error) => {
                self.forget_wish(moment.now, &waiting.change);
                self.changed(asker, Err(error), peers, out);
            }
            Ok(change) => {
                let ticket = self.calls.next_ticket();
                self.operators.asked_engine(ticket, asker, String::new());
                self.members.under_way.insert(asker, waiting);
                let input = consensus::Input::Reconfigure { ticket, change };
                self.drive(moment, input, peers, out);
            }
        }
    }

    /// The engine has refused a change or a transfer.
    pub(super) fn change_refused(
        &mut self,
        asker: Asker,
        reason: &Refusal,
        peers: &Peers,
        out: &mut Vec<Output>,
    ) {
        let waiting = self.members.under_way.remove(&asker);
        let is_transfer = waiting.is_none();
        // An abandoned one may still come about.
        let change = waiting.as_ref().map(|waiting| waiting.change.clone());
        let change = change.filter(|_| *reason != Refusal::Abandoned);
        let error = match reason {
            Refusal::ChangeInProgress | Refusal::Transferring | Refusal::WindowFull => {
                if let Some(waiting) = waiting {
                    return self.members.put_off.push(waiting);
                }
                Error::TimeoutLeaderTransfer
            }
            Refusal::NotLeader if is_transfer => Error::NotLeader,
            Refusal::NotLeader => Error::NoLeader,
            Refusal::NotCaughtUp { .. } => Error::LearnerNotReady,
            Refusal::Abandoned if is_transfer => Error::TimeoutLeaderTransfer,
            Refusal::Abandoned => Error::Timeout,
            // What etcd would say was found out before; what is left would leave nobody.
            Refusal::InvalidChange(_) | Refusal::LacksCopies { .. } => {
                Error::NotEnoughStartedMembers
            }
        };
        if let Some(change) = change {
            self.forget_wish(self.last_pass, &change);
        }
        self.changed(asker, Err(error), peers, out);
    }

    /// A member is certainly not added: nothing is left of its wish for a vote.
    fn forget_wish(&mut self, now: Instant, change: &MemberChange) {
        if let MemberChange::Add {
            id, learner: false, ..
        } = change
        {
            let command = SystemCommand::ForgetWish { member: *id };
            self.add_system_command(now, &command, Waiter::Nobody);
        }
    }

    /// Tells whoever asked what came of a change or a transfer.
    pub(super) fn changed(
        &mut self,
        asker: Asker,
        result: Result<(), Error>,
        peers: &Peers,
        out: &mut Vec<Output>,
    ) {
        self.members.under_way.remove(&asker);
        match asker {
            Asker::Client(call) => self.told_of_change(call, result, out),
            Asker::ClientOf { node, id } => {
                let body = GroupFrame::Changed { id, result }.encode(self.id);
                peers.send(node, body, out);
            }
            Asker::Call(_) | Asker::Node { .. } | Asker::Itself => {}
        }
    }

    /// The leader has made a change, or refused it.
    pub(super) fn told_of_change(
        &mut self,
        call: CallId,
        result: Result<(), Error>,
        out: &mut Vec<Output>,
    ) {
        if let Err(error) = result {
            self.members.asked.remove(&call);
            return self.fail(call, error, out);
        }
        let removed = match self.members.asked.get(&call) {
            Some(Asked::Change(ClusterRequest::Remove(remove), _)) => Some(NodeId(remove.id)),
            Some(Asked::Change(..)) => None,
            Some(Asked::MoveLeader) => {
                self.members.asked.remove(&call);
                let response = MaintenanceResponse::MoveLeader(MoveLeaderResponse::default());
                return self.answer(call, Answer::EtcdMaintenance(Ok(response)), out);
            }
            None => return,
        };
        if removed == Some(self.own) {
            // Nobody would lead a read round for a node that is no member any more.
            return self.answer_change(call, out);
        }
        self.calls.add_read(call, ReadKind::EtcdCluster);
    }

    /// This node is no member any more. The others may have completed that without it, so that its
    /// engine will not say so.
    pub(crate) fn answer_own_removal(&mut self, out: &mut Vec<Output>) {
        let own = self.own.0;
        let is_own = |asked: &Asked| match asked {
            Asked::Change(ClusterRequest::Remove(remove), _) => remove.id == own,
            Asked::Change(..) | Asked::MoveLeader => false,
        };
        let asked = self.members.asked.iter().filter(|(_, asked)| is_own(asked));
        let calls: Vec<CallId> = asked.map(|(call, _)| *call).collect();
        for call in calls {
            self.answer_change(call, out);
        }
    }

    /// The members are as current as the change.
    pub(super) fn answer_change(&mut self, call: CallId, out: &mut Vec<Output>) {
        let Some(Asked::Change(request, added)) = self.members.asked.remove(&call) else {
            return;
        };
        let mut list = self.etcd_members();
        if let ClusterRequest::Remove(remove) = &request {
            list.members.retain(|member| member.id != remove.id);
        }
        let header = list.header.unwrap_or_default();
        let answer = request.answer(header, list.members, added.0);
        self.answer(call, Answer::EtcdCluster(Ok(answer)), out);
    }

    // --- etcd's rules

    /// What speaks against a change where nobody leads, so that it need not wait for a leader to
    /// hear it. What is left is asked of the leader.
    fn judge_alone(&self, now: Instant, change: &MemberChange) -> Result<(), Error> {
        match change {
            _ if self.leader.is_some() => Ok(()),
            MemberChange::Add { learner, .. } => self.may_add(now, *learner),
            MemberChange::Remove(id) => self.may_remove(now, *id),
            MemberChange::Update { .. } | MemberChange::Promote(_) => Ok(()),
        }
    }

    /// What to ask the engine for, or etcd's reason against it.
    fn judge(&self, now: Instant, change: &MemberChange) -> Result<Change, Error> {
        let members = &self.membership.members;
        let known = |id: &NodeId| members.get(id).ok_or(Error::MemberNotFound);
        let is_taken = |address: &str, by_other_than: NodeId| {
            let mut others = members.iter().filter(|(id, _)| **id != by_other_than);
            others.any(|(_, member)| member.peer_address == address)
        };
        match change {
            MemberChange::Add {
                id,
                learner,
                address,
            } => {
                check_address(address).map_err(|_| Error::InvalidMemberUrls)?;
                self.may_add(now, *learner)?;
                if is_taken(address, *id) {
                    return Err(Error::PeerUrlExists);
                }
                if *learner && self.learners() >= self.config.limits.members.learners {
                    return Err(Error::TooManyLearners);
                }
                let member = consensus::Member {
                    name: String::new(),
                    peer_address: address.clone(),
                };
                Ok(Change::AddLearner { id: *id, member })
            }
            MemberChange::Remove(id) => {
                self.may_remove(now, *id)?;
                known(id)?;
                match self.needs_member(*id) {
                    Some(_) => Err(Error::MemberIsNeeded),
                    None => Ok(Change::Remove(*id)),
                }
            }
            MemberChange::Update { id, address } => {
                check_address(address).map_err(|_| Error::InvalidMemberUrls)?;
                let mut member = known(id)?.clone();
                if is_taken(address, *id) {
                    return Err(Error::PeerUrlExists);
                }
                member.peer_address.clone_from(address);
                Ok(Change::Update { id: *id, member })
            }
            MemberChange::Promote(id) => {
                known(id)?;
                if self.counts_as_voter(*id) {
                    return Err(Error::NotLearner);
                }
                if !self.is_ready_for_vote(*id) {
                    return Err(Error::LearnerNotReady);
                }
                let (voters, started) = self.voters_and_started(None);
                if self.config.limits.members.strict && started + 1 < self.quorum(voters + 1) {
                    return Err(Error::NotEnoughStartedMembers);
                }
                Ok(Change::Promote(*id))
            }
        }
    }

    /// Whether clients see a voter: one that has a vote, or will have one by itself.
    fn counts_as_voter(&self, id: NodeId) -> bool {
        self.membership.is_voter(id) || system::wishes_vote(self.replica.reader(), id)
    }

    fn learners(&self) -> usize {
        let members = self.membership.members.keys();
        members.filter(|id| !self.counts_as_voter(**id)).count()
    }

    /// How many voters there are, and how many of them have ever started; `without` one.
    fn voters_and_started(&self, without: Option<NodeId>) -> (usize, usize) {
        let members = self.membership.members.keys();
        let voters = members.filter(|id| self.counts_as_voter(**id) && Some(**id) != without);
        let mut counts = (0, 0);
        for id in voters {
            counts.0 += 1;
            counts.1 += usize::from(system::published(self.replica.reader(), *id).is_some());
        }
        counts
    }

    /// How many of so many voters a group needs, to elect and to commit.
    pub(super) fn quorum(&self, voters: usize) -> usize {
        let sizes = self.membership.quorums.of(voters);
        sizes.elect.max(sizes.commit)
    }

    /// Whether a voter has been at work for a while, as far as its connection tells.
    fn is_healthy(&self, now: Instant, id: NodeId) -> bool {
        let after = self.config.limits.members.healthy_after;
        let since = Instant(now.0.saturating_sub(after.as_nanos() as u64));
        id == self.own || self.members.is_connected(id, since)
    }

    fn may_add(&self, now: Instant, learner: bool) -> Result<(), Error> {
        if !self.config.limits.members.strict {
            return Ok(());
        }
        let (voters, started) = self.voters_and_started(None);
        // A single member may get a second one, or no cluster could ever grow.
        let is_first = started == 1 && voters == 1;
        if !learner && !is_first && started < self.quorum(voters + 1) {
            return Err(Error::NotEnoughStartedMembers);
        }
        // Enough have to be at work even if the new one never is.
        match voters == 1 || self.healthy_voters(now) >= self.quorum(voters + 1) {
            true => Ok(()),
            false => Err(Error::Unhealthy),
        }
    }

    fn healthy_voters(&self, now: Instant) -> usize {
        let members = self.membership.members.keys();
        let is_at_work = |id: &&NodeId| self.counts_as_voter(**id) && self.is_healthy(now, **id);
        members.filter(is_at_work).count()
    }

    fn may_remove(&self, now: Instant, id: NodeId) -> Result<(), Error> {
        let is_member = self.membership.members.contains_key(&id);
        let is_learner = is_member && !self.counts_as_voter(id);
        if !self.config.limits.members.strict || is_learner {
            return Ok(());
        }
        let (left, started) = self.voters_and_started(Some(id));
        if left == 0 || started < self.quorum(left) {
            return Err(Error::NotEnoughStartedMembers);
        }
        // One that is away takes nothing with it.
        if id != self.own && !self.members.is_connected(id, now) {
            return Ok(());
        }
        match self.healthy_voters(now) > self.quorum(left) {
            true => Ok(()),
            false => Err(Error::Unhealthy),
        }
    }

    /// Whether a learner holds nearly everything, and has told where its clients reach it.
    pub(super) fn is_ready_for_vote(&self, id: NodeId) -> bool {
        let last = self.engine.view().last;
        let matched = u128::from(self.matched(id).0);
        let percent = u128::from(self.config.limits.members.ready_percent);
        let has_run = system::published(self.replica.reader(), id).is_some();
        has_run && matched * 100 >= u128::from(last.0) * percent
    }

    /// How far a member's log is known to go.
    fn matched(&self, id: NodeId) -> Slot {
        let view = self.engine.view();
        let progress = view.progress.iter().find(|progress| progress.id == id);
        progress.map_or(Slot(0), |progress| progress.matched)
    }

    /// Why an operator cannot give a member its vote yet: one that is not there, or has nothing,
    /// would count for the majority and could not be part of it.
    pub(super) fn why_no_vote(&self, id: NodeId) -> Option<String> {
        let is_learner = self.membership.members.contains_key(&id) && !self.membership.is_voter(id);
        if !is_learner || self.is_ready_for_vote(id) {
            return None;
        }
        let name = self.name_of(id);
        let view = self.engine.view();
        let progress = view.progress.iter().find(|progress| progress.id == id);
        let matched = progress.map_or(0, |progress| progress.matched.0);
        if system::published(self.replica.reader(), id).is_none() {
            return Some(format!(
                "{name} has not joined yet, so its vote could only be missed: start it with --name \
                 {name} and --join, and promote it once `quorate status` shows it"
            ));
        }
        Some(format!(
            "{name} holds {matched} of {} entries of the log: ask again when it has caught up",
            view.last.0
        ))
    }

    /// The leader gives their vote to learners that shall have it by themselves.
    fn promote_wishes(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        if !self.leads() || self.operators.is_asked_by_itself() {
            return;
        }
        let Some(id) = self.next_vote() else {
            return;
        };
        let ticket = self.calls.next_ticket();
        self.operators
            .asked_engine(ticket, Asker::Itself, String::new());
        let change = Change::Promote(id);
        let input = consensus::Input::Reconfigure { ticket, change };
        self.drive(moment, input, peers, out);
    }

    /// Who gets a vote by itself now. Two votes need both nodes, as four need three: so where
    /// nobody has asked for an even number, it is passed through, and not stopped at. Who holds the
    /// most comes first: one that stays behind keeps nobody else waiting.
    fn next_vote(&self) -> Option<NodeId> {
        let reader = self.replica.reader();
        let members = self.membership.members.keys().copied();
        let mut learners: Vec<NodeId> = members
            .filter(|id| !self.membership.is_voter(*id) && self.is_ready_for_vote(*id))
            .collect();
        learners.sort_by_key(|id| std::cmp::Reverse(self.matched(*id)));
        let mut wishing = learners.iter();
        if let Some(id) = wishing.find(|id| system::wishes_vote(reader, **id)) {
            return Some(*id);
        }
        let growing = learners.iter().filter(|id| system::grows_by(reader, **id));
        let growing: Vec<NodeId> = growing.copied().collect();
        let makes_odd = self.membership.voters.len().is_multiple_of(2);
        growing
            .first()
            .copied()
            .filter(|_| makes_odd || growing.len() > 1)
    }

    /// Whether a learner shall get its vote by itself, one day.
    fn shall_vote(&self, id: NodeId) -> bool {
        let reader = self.replica.reader();
        system::wishes_vote(reader, id) || system::grows_by(reader, id)
    }

    /// Whether the leader has to look after a learner.
    pub(super) fn has_wishes(&self) -> bool {
        let learners = self.membership.members.len() > self.membership.voters.len();
        if !learners || !self.leads() {
            return false;
        }
        let mut members = self.membership.members.keys();
        members.any(|id| !self.membership.is_voter(*id) && self.shall_vote(*id))
    }

    /// The members, as etcd's clients know them.
    pub(super) fn etcd_members(&self) -> MemberListResponse {
        let reader = self.replica.reader();
        // What the leader has only proposed may never be so.
        let membership = self.replica.membership();
        let scheme = if self.config.peers_are_encrypted {
            "https"
        } else {
            "http"
        };
        let members = membership.members.iter().map(|(id, member)| {
            let published = system::published(reader, *id);
            Member {
                id: id.0,
                // As in etcd, a member has a name from when it has started.
                name: published
                    .as_ref()
                    .map_or_else(String::new, |_| member.name.clone()),
                peer_ur_ls: vec![format!("{scheme}://{}", member.peer_address)],
                client_ur_ls: published.map_or_else(Vec::new, |(_, urls)| urls),
                is_learner: !membership.is_voter(*id) && !system::wishes_vote(reader, *id),
            }
        });
        MemberListResponse {
            header: Some(self.etcd_header(0)),
            members: members.collect(),
        }
    }
}

/// What a change is told that has not been made in its time.
fn late(change: &MemberChange) -> Late {
    match change {
        MemberChange::Promote(_) => Late::ForLeader,
        MemberChange::Add { .. } | MemberChange::Remove(_) | MemberChange::Update { .. } => {
            Late::Proposal
        }
    }
}
