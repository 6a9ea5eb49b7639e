//! What clients ask of this node, and what they are told.

use std::sync::Arc;

use base::NodeId;
use base::mutant::{self, Mutant};
use consensus::Engine as _;
use etcd::auth::{AuthRequest, Caller};
use etcd::maintenance::alarm;
use etcd::proto::etcdserverpb::ResponseHeader;
use state::LeaseId;

use super::keyspaces::Wanted;
use super::{Group, Moment};
use crate::calls::{Admittance, CallKind, Late, PendingRead, ReadKind, Waiter};
use crate::interface::{Answer, Call, CallId, Job, MemberStatus, Output, Status};
use crate::leases;
use crate::operator::{Asker, Request, translate};
use crate::peers::Peers;
use crate::replica::ETCD;
use crate::system::{self, SystemCommand};
use crate::wire::{GroupFrame, Operation};

/// What every answer to an etcd client says about who answers.
#[derive(Clone, Copy)]
pub(super) struct Header {
    cluster: u64,
    member: u64,
    term: u64,
}

impl Header {
    pub(super) fn fill(self, header: &mut ResponseHeader) {
        header.cluster_id = self.cluster;
        header.member_id = self.member;
        header.raft_term = self.term;
    }

    pub(super) fn filled(self, result: Result<etcd::Response, etcd::Error>) -> Answer {
        Answer::Etcd(result.map(|mut response| {
            self.fill(response.header_mut());
            response
        }))
    }
}

impl Group {
    /// A client asks for something that it may ask for.
    pub(super) fn call_for(
        &mut self,
        moment: Moment,
        id: CallId,
        caller: Option<Arc<Caller>>,
        call: Call,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        match call {
            Call::Etcd(request) => self.call_etcd(moment, id, caller, request, out),
            Call::As { .. } => self.call(moment, id, call, peers, out),
            Call::RenewLeases { leases, refused } => {
                self.call_renew(moment, id, caller.as_deref(), (leases, refused), out);
            }
            Call::ParentLeases(leases) => {
                self.open(moment, id, CallKind::ParentLeases);
                let read = ReadKind::ParentLeases(caller, leases);
                self.calls.add_read(id, read);
            }
            Call::FollowParents(parents) => self.call_follow_parents(moment, id, parents, out),
            Call::TiedLeases {
                leases,
                linearizable: true,
            } => {
                self.open(moment, id, CallKind::TiedLeases);
                self.calls.add_read(id, ReadKind::TiedLeases(leases));
            }
            Call::TiedLeases {
                leases,
                linearizable: false,
            } => {
                let tied = leases::tied(self.replica.reader(), leases);
                let answer = Answer::TiedLeases(Ok(tied));
                out.push(Output::Answer { id, answer });
            }
            Call::EtcdMemberList { linearizable: true } => {
                self.open(moment, id, CallKind::EtcdMemberList);
                self.calls.add_read(id, ReadKind::EtcdMemberList);
            }
            Call::EtcdMemberList {
                linearizable: false,
            } => {
                let answer = Answer::EtcdMemberList(Ok(self.etcd_members()));
                out.push(Output::Answer { id, answer });
            }
            Call::EtcdStatus => {
                let answer = Answer::EtcdStatus(Ok(self.etcd_status()));
                out.push(Output::Answer { id, answer });
            }
            Call::EtcdCluster(request) => self.call_cluster(moment, id, request, out),
            Call::EtcdMaintenance(request) => {
                self.call_maintenance(moment, id, request, peers, out);
            }
            Call::Snapshot => {
                let answer = Answer::Snapshot(Ok(self.snapshot_source()));
                out.push(Output::Answer { id, answer });
            }
            Call::Status => {
                let answer = Answer::Status(Box::new(self.status()));
                out.push(Output::Answer { id, answer });
            }
            Call::Ready => {
                self.open(moment, id, CallKind::Ready);
                self.calls.add_read(id, ReadKind::Ready);
            }
            Call::MemberAdd {
                name,
                peer_address,
                is_witness,
            } => {
                let node = NodeId(self.random.next_u64().max(1));
                let operation = Operation::MemberAdd {
                    id: node,
                    name,
                    address: peer_address,
                    is_witness,
                };
                self.call_operator(moment, id, operation, peers, out);
            }
            Call::MemberPromote { member } => {
                self.call_operator(moment, id, Operation::MemberPromote { member }, peers, out);
            }
            Call::MemberGrow { name } => {
                self.open(moment, id, CallKind::Operator);
                let waiter = Waiter::Call {
                    call: id,
                    until_compacted: false,
                };
                self.add_system_command(moment.now, &SystemCommand::GrowBy { name }, waiter);
            }
            Call::MemberRemove { member } => {
                self.call_operator(moment, id, Operation::MemberRemove { member }, peers, out);
            }
            Call::KeyspaceCreate {
                names,
                replicas,
                engine,
                quorums,
            } => {
                let wanted = Wanted {
                    names,
                    replicas,
                    engine,
                    quorums,
                };
                self.create_keyspace(moment, id, wanted, out);
            }
            Call::KeyspaceDrop { name } => self.drop_keyspace(moment, id, name, out),
            // Where a node has more than one group, it adds what it knows of the others.
            Call::Keyspaces => {
                let answer = Answer::Keyspaces(self.keyspaces());
                out.push(Output::Answer { id, answer });
            }
            // The node answers for all its groups.
            Call::Groups | Call::GroupRecover(_) => {
                let answer = Answer::Groups(Vec::new());
                out.push(Output::Answer { id, answer });
            }
            Call::Placement(placement) => self.call_placement(moment, id, placement, out),
            // A group is told what concerns it, without the name of its keyspace.
            Call::In { call, .. } => self.call(moment, id, *call, peers, out),
            Call::TransferLeadership { to } => {
                self.call_operator(moment, id, Operation::TransferLeadership { to }, peers, out);
            }
        }
    }

    pub(super) fn open(&mut self, moment: Moment, id: CallId, kind: CallKind) {
        self.calls
            .open(id, kind, moment.now + self.config.timing.request_timeout);
    }

    fn call_etcd(
        &mut self,
        moment: Moment,
        id: CallId,
        caller: Option<Arc<Caller>>,
        mut request: etcd::Request,
        out: &mut Vec<Output>,
    ) {
        if let etcd::Request::LeaseGrant(grant) = &mut request
            && grant.id == 0
        {
            grant.id = self.choose_lease_id();
        }
        if let etcd::Request::LeaseKeepAlive(renewal) = &request
            && let Err(error) = self.may_renew(caller.as_deref(), LeaseId(renewal.id))
        {
            let answer = Answer::Etcd(Err(error));
            return out.push(Output::Answer { id, answer });
        }
        let until_compacted =
            matches!(&request, etcd::Request::Compact(compact) if compact.physical);
        let without_round = mutant::is_on(Mutant::ListWithoutRound)
            && matches!(&request, etcd::Request::LeaseLeases);
        let admittance = match &request {
            etcd::Request::DeleteRange(_)
            | etcd::Request::Compact(_)
            | etcd::Request::LeaseRevoke(_) => Admittance::Reserved,
            _ => Admittance::Ordinary,
        };
        match etcd::plan_for(caller, request, &self.config.limits.etcd) {
            Err(error) => out.push(Output::Answer {
                id,
                answer: Answer::Etcd(Err(error)),
            }),
            Ok(etcd::Plan::Read(read)) => {
                self.open(moment, id, CallKind::Etcd);
                // Who has just been started does not know yet who may read. And in doubt, less is
                // here than was before, perhaps nothing: a leader has to vouch for every read.
                let speaks_for_itself = self.is_restored() && !self.is_in_doubt;
                if (read.serializable() && speaks_for_itself) || without_round {
                    self.read_etcd(id, read, out);
                } else {
                    self.calls.set_late(id, late(read.request()));
                    self.calls.add_read(id, ReadKind::Etcd(read));
                }
            }
            Ok(etcd::Plan::Renew(lease)) => {
                self.open(moment, id, CallKind::Etcd);
                self.calls.set_late(id, Late::ForLeader);
                self.renew(moment, id, vec![lease], Vec::new());
            }
            Ok(etcd::Plan::Command(command)) => {
                self.open(moment, id, CallKind::Etcd);
                let waiter = Waiter::Call {
                    call: id,
                    until_compacted,
                };
                let deadline = moment.now + self.config.timing.request_timeout;
                if self
                    .calls
                    .add_command(ETCD, command, waiter, deadline, admittance)
                    .is_err()
                {
                    self.metrics.calls_refused += 1;
                    self.answer_etcd(id, Err(etcd::Error::TooManyRequests), out);
                }
            }
        }
    }

    /// Answers an etcd read from the state as it is now, here or elsewhere.
    fn read_etcd(&mut self, id: CallId, mut read: etcd::Read, out: &mut Vec<Output>) {
        self.metrics.reads += 1;
        let limits = &self.config.limits.leases;
        read.set_clock(self.leases.estimate(self.last_pass, limits));
        // A prefix may have been given away since the read was sent on its way.
        if self.replica.has_moved(read.request()) {
            return self.answer_etcd(id, Err(etcd::Error::KeysMoved), out);
        }
        let small = self.config.limits.small_read.clone();
        match etcd::read(self.replica.reader(), &read, small) {
            etcd::ReadOutcome::Done(result) => self.answer_etcd(id, result, out),
            etcd::ReadOutcome::TooLarge => {
                let (snapshot, header) = (self.replica.snapshot(), self.header());
                let job = Job::new(move |wanted| {
                    let budget = etcd::ReadBudget::UNLIMITED.while_wanted(wanted);
                    match etcd::read(&snapshot, &read, budget) {
                        etcd::ReadOutcome::Done(result) => header.filled(result),
                        etcd::ReadOutcome::TooLarge => header.filled(Err(etcd::Error::Internal(
                            "quorate: an unlimited read was too large",
                        ))),
                    }
                });
                self.metrics.reads_offloaded += 1;
                self.offload(id, job, out);
            }
        }
    }

    /// Has a read run elsewhere. What it waited for before is over, and with it its time: as in
    /// etcd it may take as long as its client waits.
    pub(super) fn offload(&mut self, id: CallId, job: Job, out: &mut Vec<Output>) {
        self.calls.take_time(id);
        out.push(Output::Offload { id, job });
    }

    /// Answers the reads whose slot has been executed.
    pub(super) fn answer_reads(&mut self, out: &mut Vec<Output>) {
        let ready = self.calls.take_ready(self.replica.applied());
        if ready.is_empty() {
            return;
        }
        for PendingRead { call, kind } in ready {
            match (call, kind) {
                (_, ReadKind::Join(join)) => self.answer_join(join, out),
                (_, ReadKind::Current) => self.was_current = true,
                (Some(call), kind) if self.calls.is_open(call) => match kind {
                    ReadKind::Etcd(read) => self.read_etcd(call, read, out),
                    ReadKind::ParentLeases(caller, leases) => {
                        let may = self.replica.check_leases(caller.as_deref(), &leases);
                        let parents = may.map(|()| leases::parents(self.replica.reader(), leases));
                        self.answer(call, Answer::ParentLeases(parents), out);
                    }
                    ReadKind::TiedLeases(leases) => {
                        let tied = leases::tied(self.replica.reader(), leases);
                        self.answer(call, Answer::TiedLeases(Ok(tied)), out);
                    }
                    ReadKind::EtcdMemberList => {
                        let answer = Answer::EtcdMemberList(Ok(self.etcd_members()));
                        self.answer(call, answer, out);
                    }
                    ReadKind::EtcdCluster => self.answer_change(call, out),
                    ReadKind::EtcdMaintenance(request) => {
                        self.read_maintenance(call, &request, out);
                    }
                    ReadKind::Ready => self.answer(call, Answer::Ready(Ok(())), out),
                    ReadKind::Join(_) | ReadKind::Current => {}
                },
                _ => {}
            }
        }
    }

    pub(super) fn header(&self) -> Header {
        Header {
            cluster: self.cluster.0,
            member: self.own.0,
            term: self.epoch.0,
        }
    }

    pub(super) fn answer_etcd(
        &mut self,
        id: CallId,
        result: Result<etcd::Response, etcd::Error>,
        out: &mut Vec<Output>,
    ) {
        let answer = self.header().filled(result);
        self.answer(id, answer, out);
    }

    /// Answers a call, if somebody still waits for it.
    pub(crate) fn answer(&mut self, id: CallId, answer: Answer, out: &mut Vec<Output>) {
        if self.calls.close(id).is_some() {
            out.push(Output::Answer { id, answer });
        }
    }

    /// Answers a call with an error, whatever kind of call it is.
    pub(super) fn fail(&mut self, id: CallId, error: etcd::Error, out: &mut Vec<Output>) {
        if let Some(kind) = self.calls.close(id) {
            let answer = kind.failure(error);
            out.push(Output::Answer { id, answer });
        }
    }

    /// The leader was asked for something, and has not answered in time.
    pub(super) fn leader_silent(&mut self, id: CallId, out: &mut Vec<Output>) {
        let text = "the leader did not answer in time; look at `quorate status` and ask again";
        let answer = match self.calls.close(id) {
            None => return,
            Some(CallKind::Operator) => Answer::Operator(Err(text.to_owned())),
            Some(kind) => kind.failure(etcd::Error::Timeout),
        };
        out.push(Output::Answer { id, answer });
    }

    // --- operators

    fn call_operator(
        &mut self,
        moment: Moment,
        id: CallId,
        operation: Operation,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let is_reached = self.config.peer_address.is_some() || self.config.place_is_logged;
        if matches!(operation, Operation::MemberAdd { .. }) && !is_reached {
            let text = "this node has no peer listener, so no other node could reach it; start it \
                        again with --listen-peer HOST:PORT, then add members";
            let answer = Answer::Operator(Err(text.to_owned()));
            out.push(Output::Answer { id, answer });
            return;
        }
        let patience = self.config.limits.operator_patience;
        self.calls
            .open(id, CallKind::Operator, moment.now + patience);
        match self.leader {
            Some(leader) if leader == self.own => {
                self.operate(moment, Asker::Call(id), operation, peers, out);
            }
            Some(leader) => {
                let number = self.operators.asked_leader(id, moment.now, patience);
                let body = GroupFrame::Operate {
                    id: number,
                    operation,
                }
                .encode(self.id);
                if !peers.send(leader, body, out) {
                    let name = self.name_of(leader);
                    let text = format!("{name} leads, but there is no connection to it; ask again");
                    self.answer(id, Answer::Operator(Err(text)), out);
                }
            }
            None => {
                let text = "nobody leads just now, so nothing can be changed; ask again, and if \
                            this stays, see how many members are up with `quorate status`";
                self.answer(id, Answer::Operator(Err(text.to_owned())), out);
            }
        }
    }

    /// Asks this node's engine for what an operator wants.
    pub(crate) fn operate(
        &mut self,
        moment: Moment,
        asker: Asker,
        operation: Operation,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        if !self.leads() {
            let refusal = crate::operator::explain(&consensus::Refusal::NotLeader);
            return self.operated(asker, Err(refusal), peers, out);
        }
        if let Operation::Introduce { id } = operation {
            return self.introduce(moment.now, asker, id, peers, out);
        }
        if let Operation::MemberPromote { member } = &operation
            && let Ok(id) = crate::operator::find(&self.membership, member)
            && self.membership.is_voter(id)
        {
            return self.operated(
                asker,
                Ok(format!("{member} has a vote already")),
                peers,
                out,
            );
        }
        let asked = translate(&operation, &self.membership);
        let asked = asked.and_then(|asked| {
            let against = match &asked.0 {
                Request::Change(consensus::Change::Remove(id)) => self.needs_member(*id),
                Request::Change(consensus::Change::Promote(id)) => self.why_no_vote(*id),
                _ => None,
            };
            against.map_or(Ok(asked), Err)
        });
        match asked {
            Err(reason) => self.operated(asker, Err(reason), peers, out),
            Ok((request, success)) => {
                let ticket = self.calls.next_ticket();
                self.operators.asked_engine(ticket, asker, success);
                let input = match request {
                    Request::Change(change) => consensus::Input::Reconfigure { ticket, change },
                    Request::Transfer(to) => consensus::Input::Transfer { ticket, to },
                };
                self.drive(moment, input, peers, out);
            }
        }
    }

    /// Makes the engine go on without those who are not named, and tells the caller.
    pub(crate) fn recover(
        &mut self,
        moment: Moment,
        id: CallId,
        learners: Vec<NodeId>,
        success: String,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let patience = self.config.limits.operator_patience;
        self.calls
            .open(id, CallKind::Operator, moment.now + patience);
        let ticket = self.calls.next_ticket();
        self.operators
            .asked_engine(ticket, Asker::Call(id), success);
        let input = consensus::Input::Recover { ticket, learners };
        self.drive(moment, input, peers, out);
    }

    /// A node that stops hands over what it leads; again, if an attempt came to nothing.
    pub(crate) fn hand_over(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        let alone = self.membership.voters.len() <= 1;
        if self.leads() && !alone && !self.operators.is_asked_by_itself() {
            let operation = Operation::TransferLeadership { to: None };
            self.operate(moment, Asker::Itself, operation, peers, out);
        }
    }

    /// Tells whoever asked what came of it.
    pub(crate) fn operated(
        &mut self,
        asker: Asker,
        result: Result<String, String>,
        peers: &Peers,
        out: &mut Vec<Output>,
    ) {
        match asker {
            Asker::Call(call) => self.answer(call, Answer::Operator(result), out),
            Asker::Node { node, id } => {
                let body = GroupFrame::Operated { id, result }.encode(self.id);
                peers.send(node, body, out);
            }
            Asker::Client(_) | Asker::ClientOf { .. } => {
                // Errors of theirs have gone another way: see `change_refused`.
                let result = result.map(drop).map_err(|_| etcd::Error::Timeout);
                self.changed(asker, result, peers, out);
            }
            Asker::Itself => {}
        }
    }

    // --- status

    /// What this node sees.
    #[must_use]
    pub fn status(&self) -> Status {
        let (reader, view) = (self.replica.reader(), self.engine.view());
        let membership = self.replica.membership();
        let has_witnesses = !membership.witnesses.is_empty();
        let members = membership.members.iter().map(|(id, member)| {
            let progress = view.progress.iter().find(|progress| progress.id == *id);
            let matched = progress.map(|progress| progress.matched);
            let counted = match *id == self.own {
                true => Some(true),
                false => progress.map(|progress| progress.is_counted_on),
            };
            let is_copy = has_witnesses && !membership.is_witness(*id);
            let matched = if *id == self.own {
                Some(view.durable)
            } else {
                matched
            };
            MemberStatus {
                id: *id,
                name: member.name.clone(),
                peer_address: member.peer_address.clone(),
                client_urls: system::published(reader, *id).map_or_else(Vec::new, |(_, u)| u),
                voter: membership.is_voter(*id),
                is_witness: membership.is_witness(*id),
                is_counted_on: counted.filter(|_| is_copy && self.leads()),
                lag: matched.map(|matched| view.last.0.saturating_sub(matched.0)),
                data_bytes: self.facts.get(id).map(|facts| facts.data_bytes),
            }
        });
        Status {
            name: self.config.name.clone(),
            id: self.own,
            cluster: Some(self.cluster),
            role: view.role,
            phase: "serving",
            leader: self.leader.map(|leader| self.name_of(leader)),
            term: self.epoch,
            chosen: view.chosen,
            applied: reader.applied(),
            revision: reader.revision().0,
            compacted: reader.compacted().0,
            level: reader.level(),
            digest: self.replica.digest(),
            held_bytes: reader.held_bytes(),
            live_bytes: reader.live_bytes(),
            quota_bytes: reader.quota_bytes(),
            alarms: alarm::messages(reader, None)
                .iter()
                .map(|alarm| alarm.alarm().as_str_name().to_owned())
                .collect(),
            quorums: membership.quorum_sizes(),
            copies: membership.copies(),
            members: members.collect(),
        }
    }
}

/// What a read is told that has not been made in its time: in etcd some are proposals, and one goes
/// to the leader by a way of its own.
fn late(request: &etcd::Request) -> Late {
    match request {
        etcd::Request::LeaseTimeToLive(_) => Late::ForLeader,
        // A step of signing in.
        etcd::Request::Auth(AuthRequest::Credentials { .. }) => Late::Read,
        etcd::Request::Auth(_) => Late::Proposal,
        _ => Late::Read,
    }
}
