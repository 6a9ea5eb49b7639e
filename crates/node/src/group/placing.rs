//! Where keyspaces shall be, as operators and the mover say it to the table; and what a group that
//! moves is asked to do next.
//!
//! ```text
//!   operator: move, cancel, drain, plan, apply, explain ─▶ the first group: a command, or a report
//!   mover, on the leader of a group: what is ─▶ observed ─▶ next step ─▶ take_step ─▶ engine
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use base::{Instant, NodeId};
use cluster::meta::{self, MetaCommand, Picture, Replica, Tending};
use cluster::placement::mover::{Observed, Step};
use cluster::placement::plan::{Scope, TableEpoch};
use cluster::placement::site::Standing;
use consensus::{Change, Engine as _, Member};

use super::{Group, Moment};
use crate::calls::{Admittance, Waiter};
use crate::interface::{Answer, CallId, Output, Placement};
use crate::operator::Asker;
use crate::peers::Peers;
use crate::system::{self, SystemCommand};
use crate::wire::Facts;

/// What comes of an operator's question.
enum Verdict {
    /// The table is to be changed.
    Change(MetaCommand),
    /// A text for people.
    Say(String),
}

impl Group {
    /// An operator asks where keyspaces are, or says where they shall be.
    pub(super) fn call_placement(
        &mut self,
        moment: Moment,
        id: CallId,
        placement: Placement,
        out: &mut Vec<Output>,
    ) {
        match self.judge_placement(placement) {
            Ok(Verdict::Change(command)) => self.change_table(moment, id, &command, out),
            Ok(Verdict::Say(text)) => {
                let answer = Answer::Operator(Ok(text));
                out.push(Output::Answer { id, answer });
            }
            Err(reason) => {
                let answer = Answer::Operator(Err(reason));
                out.push(Output::Answer { id, answer });
            }
        }
    }

    fn judge_placement(&self, placement: Placement) -> Result<Verdict, String> {
        let reader = self.replica.reader();
        let membership = self.replica.membership();
        let seen = meta::epoch(reader);
        Ok(match placement {
            Placement::Move { name, from, to } => {
                let target = self.target_of(&name, from.as_deref(), &to)?;
                let moves = vec![(name, target)];
                Verdict::Change(MetaCommand::Move { seen, moves })
            }
            Placement::Cancel { name } => {
                meta::check_name(&name)?;
                Verdict::Change(MetaCommand::Cancel { name })
            }
            Placement::Drain { node, is_draining } => self.judge_drain(&node, is_draining)?,
            Placement::Plan => Verdict::Say(meta::plan_report(
                &Picture::new(reader, membership),
                membership,
            )),
            Placement::Apply { epoch } => {
                check_epoch(seen, epoch)?;
                let picture = Picture::new(reader, membership);
                let proposal = picture.propose(membership, Scope::Everything);
                let (seen, moves) = (proposal.seen, proposal.moves);
                match moves.is_empty() {
                    true => Verdict::Say("nothing has to move".to_owned()),
                    false => Verdict::Change(MetaCommand::Move { seen, moves }),
                }
            }
            Placement::Explain { name } => {
                let picture = Picture::new(reader, membership);
                let report = meta::explain_report(&picture, &name);
                let report = report.ok_or_else(|| match name == meta::DEFAULT {
                    true => format!("{name} is on all nodes of the cluster: nothing places it"),
                    false => format!("there is no keyspace called {name}"),
                })?;
                Verdict::Say(report + &self.loads_shown())
            }
            Placement::Observe {
                name,
                node,
                observes,
            } => {
                meta::check_name(&name)?;
                if name == meta::DEFAULT {
                    return Err(format!(
                        "all members hold {name}: those without a vote observe it already"
                    ));
                }
                let node = crate::operator::find(membership, &node)?;
                Verdict::Change(MetaCommand::Observe {
                    name,
                    node,
                    observes,
                })
            }
            Placement::Route { prefix, name } => {
                meta::check_name(&name)?;
                check_prefix(&prefix)?;
                Verdict::Change(MetaCommand::Route { prefix, name })
            }
            Placement::Unroute { prefix } => {
                check_prefix(&prefix)?;
                Verdict::Change(MetaCommand::Unroute { prefix })
            }
            Placement::Routes => Verdict::Say(shown_routes(&meta::routes(reader))),
            Placement::Tend {
                replace_after,
                rebalances,
            } => {
                let now = meta::tending(reader).unwrap_or(self.config.tending);
                let after = replace_after.map(|after| (after > Duration::ZERO).then_some(after));
                Verdict::Change(MetaCommand::Tend(Tending {
                    replace_after: after.unwrap_or(now.replace_after),
                    rebalances: rebalances.unwrap_or(now.rebalances),
                }))
            }
        })
    }

    /// Who shall hold a keyspace: those who are named, or those who do with one in place of
    /// another.
    fn target_of(
        &self,
        name: &str,
        from: Option<&str>,
        to: &[String],
    ) -> Result<Vec<Replica>, String> {
        let named: Result<Vec<Replica>, String> =
            to.iter().map(|node| self.replica_on(node)).collect();
        let named = named?;
        let Some(from) = from else {
            return Ok(named);
        };
        let from = self.replica_on(from)?;
        let keyspace = meta::keyspace(self.replica.reader(), name);
        let keyspace = keyspace
            .ok_or_else(|| format!("there is no keyspace called {name} that could be moved"))?;
        let mut target = keyspace.target().to_vec();
        let Some(place) = target.iter_mut().find(|each| each.node == from.node) else {
            let holders: Vec<&str> = keyspace
                .target()
                .iter()
                .map(|each| &each.name[..])
                .collect();
            return Err(format!(
                "{} holds no replica of {name}; {} do",
                from.name,
                holders.join(", ")
            ));
        };
        match &named[..] {
            [one] => *place = one.clone(),
            _ => return Err("name one node with --to for the one with --from".to_owned()),
        }
        Ok(target)
    }

    fn judge_drain(&self, node: &str, is_draining: bool) -> Result<Verdict, String> {
        let reader = self.replica.reader();
        let membership = self.replica.membership();
        let replica = self.replica_on(node)?;
        let was = meta::standing(reader, replica.node);
        if !is_draining {
            return match was {
                Standing::Draining => Ok(stand(replica.node, was, Standing::Serving)),
                other => Err(format!(
                    "{} is not being emptied: it is {other}",
                    replica.name
                )),
            };
        }
        let picture = Picture::new(reader, membership);
        let stays = meta::cannot_be_emptied(&picture, replica.node);
        if let Some((_, name)) = stays.first() {
            return Err(format!(
                "{} cannot be emptied: {} of its keyspaces, such as {name}, have as many replicas \
                 as there are nodes to take them; add a node first",
                replica.name,
                stays.len()
            ));
        }
        Ok(stand(replica.node, was, Standing::Draining))
    }

    /// A member as the table names it, by its name or its id in hexadecimal.
    fn replica_on(&self, node: &str) -> Result<Replica, String> {
        let membership = self.replica.membership();
        let is_meant = |id: &NodeId, name: &str| name == node || id.to_string() == node;
        let mut members = membership.members.iter();
        let found = members.find(|(id, member)| is_meant(id, &member.name));
        let found = found.and_then(|(id, _)| meta::replica_of(membership, *id));
        found.ok_or_else(|| {
            let names: Vec<&str> = membership
                .members
                .values()
                .map(|each| &each.name[..])
                .collect();
            format!(
                "no member is called {node} or has that id; there are {}",
                names.join(", ")
            )
        })
    }

    /// Says something to the table; whoever does looks at what came of it.
    pub(crate) fn tell_table(&mut self, now: Instant, command: &MetaCommand) {
        let deadline = now + self.config.timing.request_timeout;
        let record = command.encode();
        let added = self.calls.add_command(
            meta::PROTOCOL,
            record,
            Waiter::Nobody,
            deadline,
            Admittance::Reserved,
        );
        self.metrics.calls_refused += u64::from(added.is_err());
    }

    /// What the others cannot see.
    pub(super) fn own_facts(&self) -> Facts {
        let reader = self.replica.reader();
        Facts {
            data_bytes: reader.held_bytes(),
            applied: reader.applied(),
            table: self.followed,
            calls: u32::try_from(self.calls.under_way()).unwrap_or(u32::MAX),
            // The node keeps it there: it is about all groups.
            load: self.facts.get(&self.own).map_or(0, |facts| facts.load),
        }
    }

    /// What each node does for what it leads, for people.
    fn loads_shown(&self) -> String {
        let members = self.replica.membership().members.keys();
        let loads: Vec<String> = members
            .filter_map(|node| {
                let facts = self.facts.get(node)?;
                Some(format!("{} {}", self.name_of(*node), facts.load))
            })
            .collect();
        format!(
            "\nwhat nodes do for what they lead, in commands, KiB and read rounds a second: {}",
            loads.join(", ")
        )
    }

    /// The others are told at once what this node says of itself every now and then.
    pub(crate) fn tell_facts_now(&mut self, now: Instant) {
        self.next_facts = now;
    }

    /// On the leader: whether its group is on this move, and has heard so from this leader. A group
    /// never goes back to an earlier move, so whoever leads by a table of long ago finds out here:
    /// all that the group agreed on before stands in front of what it was told by this leader.
    ///
    /// `false`: not yet, or never; see [`Group::follow_move`].
    pub(crate) fn follows_move(&self, begun: TableEpoch) -> bool {
        let reader = self.replica.reader();
        let has_caught_up = reader.epoch() == self.engine.glance().epoch;
        has_caught_up && system::followed_move(reader) == Some(begun)
    }

    /// On the leader: the group shall be on this move, unless it is on a later one.
    pub(crate) fn follow_move(&mut self, now: Instant, begun: TableEpoch) {
        if system::followed_move(self.replica.reader()) <= Some(begun) {
            let command = SystemCommand::FollowMove { begun };
            self.add_system_command(now, &command, Waiter::Nobody);
        }
    }

    /// What this group's membership is, for the mover. Only the leader knows enough.
    pub(crate) fn observed(&self) -> Observed {
        let membership = &self.membership;
        let learners = membership.members.keys();
        // Witnesses are no copies: they are neither missing nor in the way.
        let is_copy = |id: &NodeId| !membership.is_witness(*id);
        let learners = learners.filter(|id| !membership.is_voter(**id) && is_copy(id));
        // What has been proposed and is not executed here may still not be.
        let is_settled = membership == self.replica.membership();
        Observed {
            voters: membership.voters.iter().copied().filter(is_copy).collect(),
            learners: learners
                .map(|id| (*id, self.is_ready_for_vote(*id)))
                .collect(),
            unready: BTreeSet::new(),
            observers: BTreeSet::new(),
            leader: self.leader,
            is_changing: !is_settled
                || membership.is_joint()
                || !self.engine.keeps_membership()
                || self.operators.is_asked_by_itself(),
        }
    }

    /// Takes a step of the mover's. What comes of it shows in the membership.
    pub(crate) fn take_step(
        &mut self,
        moment: Moment,
        step: Step,
        member: Option<Member>,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let ticket = self.calls.next_ticket();
        let change = match (step, member) {
            (Step::AddLearner(id), Some(member)) => Change::AddLearner { id, member },
            // Nobody knows where it is.
            (Step::AddLearner(_), None) => return,
            (Step::Promote(id), _) => Change::Promote(id),
            (Step::Remove(id), _) => Change::Remove(id),
            (Step::HandOver, _) => return self.hand_over_to(moment, None, peers, out),
        };
        self.operators
            .asked_engine(ticket, Asker::Itself, String::new());
        let input = consensus::Input::Reconfigure { ticket, change };
        self.drive(moment, input, peers, out);
    }

    /// On the leader: another replica shall lead, or whichever is the fittest.
    pub(crate) fn hand_over_to(
        &mut self,
        moment: Moment,
        to: Option<NodeId>,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let ticket = self.calls.next_ticket();
        self.operators
            .asked_engine(ticket, Asker::Itself, String::new());
        let input = consensus::Input::Transfer { ticket, to };
        self.drive(moment, input, peers, out);
    }

    /// How much of the log a replica has executed, in percent, as it last said.
    pub(crate) fn filled(&self, node: NodeId) -> u8 {
        let applied = match node == self.own {
            true => self.replica.applied(),
            false => self
                .facts
                .get(&node)
                .map_or(base::Slot(0), |facts| facts.applied),
        };
        let whole = u128::from(self.engine.glance().chosen.0).max(1);
        let percent = (u128::from(applied.0) * 100 / whole).min(100);
        u8::try_from(percent).expect("it is at most a hundred")
    }
}

fn stand(node: NodeId, was: Standing, standing: Standing) -> Verdict {
    Verdict::Change(MetaCommand::Stand {
        node,
        was,
        standing,
    })
}

fn check_prefix(prefix: &[u8]) -> Result<(), String> {
    match prefix.len() {
        1..=meta::PREFIX_BYTES_MAX => Ok(()),
        length => Err(format!(
            "a prefix has 1 to {} bytes, not {length}",
            meta::PREFIX_BYTES_MAX
        )),
    }
}

fn shown_routes(routes: &[meta::Route]) -> String {
    let lines: Vec<String> = routes
        .iter()
        .map(|route| format!("{} {}", meta::shown(&route.prefix), route.keyspace))
        .collect();
    match lines.is_empty() {
        true => "no prefix leads to a keyspace".to_owned(),
        false => lines.join("\n"),
    }
}

fn check_epoch(seen: TableEpoch, asked: Option<u64>) -> Result<(), String> {
    match asked.filter(|asked| *asked != seen.0) {
        None => Ok(()),
        Some(asked) => Err(format!(
            "the plan was made on the table of epoch {asked}, and it is of epoch {} by now; look \
             at `quorate placement plan` again",
            seen.0
        )),
    }
}
