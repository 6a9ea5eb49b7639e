//! How a cluster forms once, and how a node gets into one that exists.
//!
//! Forming takes two steps, so that no two clusters can come out of one `--cluster` list, and no
//! vote is ever cast twice:
//!
//! ```text
//! every node answers and none is a member
//!   └▶ the node whose name sorts first draws a cluster id and sends Form{cluster, members}
//!        └▶ each node writes "Forming" to its identity file, then answers FormPromised
//!             └▶ all have promised: the first node writes "Member" and sends Formed
//!                  └▶ each writes "Member"; whoever missed Formed learns it from a member's Hello
//! ```
//!
//! Node ids are drawn per data folder, so a folder that was lost comes back as a stranger: it is
//! not in the membership, and its old vote cannot be cast again. An empty node that finds a member
//! among the nodes of its list therefore stops, and says how to replace it.
//!
//! Joining: an operator adds the member by name and address; the new node asks every member it
//! reaches to be let in under its name, until it is, and the first folder to ask gets the place.
//!
//! How a cluster agrees, and how many of its nodes elect and commit, is decided by the node whose
//! name sorts first, and told with `Form` and with the welcome of those who join: a node that would
//! speak by another engine would be heard by nobody, so it refuses to begin, and one that is told
//! other sizes of quorums as well.

use std::collections::{BTreeMap, BTreeSet};

use base::{ClusterId, Instant, NodeId, Random};
use consensus::{EngineKind, Member, Membership};
use std::time::Duration;

use crate::config::Config;
use crate::interface::{ConnectionId, Identity, Output, Standing};
use crate::notes::Note;
use crate::peers::Peers;
use crate::wire::{Frame, HelloStanding, JoinReply};

/// How often an unanswered request is repeated, and how often the log says what is missing.
const REPEAT: Duration = Duration::from_millis(200);
const REMIND: Duration = Duration::from_secs(5);

/// What forming or joining has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing yet.
    Waiting,
    /// Write this standing (and id) to the identity file, then call [`Formation::persisted`].
    Persist(Standing, NodeId),
    /// It cannot be done; for the operator.
    Refused(String),
}

/// A node on its way into a cluster.
#[derive(Debug)]
pub struct Formation {
    config: Config,
    own: NodeId,
    is_witness: bool,
    standing: Standing,
    random: Random,
    promised: BTreeSet<NodeId>,
    persisting: bool,
    next_repeat: Instant,
    next_reminder: Instant,
}

impl Formation {
    /// A node that is not a member yet. Starts dialing.
    pub fn new(
        config: Config,
        identity: &Identity,
        random: Random,
        now: Instant,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) -> Formation {
        let addresses: Vec<String> = if config.join.is_empty() {
            let others = config
                .cluster
                .iter()
                .filter(|(name, _)| *name != config.name);
            others.map(|(_, address)| address.clone()).collect()
        } else {
            config.join.clone()
        };
        peers.dial_only(&addresses, out);
        // Peers take their time to start; that nobody has added this node is news at once.
        let next_reminder = match config.join.is_empty() {
            true => now + REMIND,
            false => now,
        };
        Formation {
            config,
            own: identity.node,
            is_witness: identity.is_witness,
            standing: identity.standing.clone(),
            random,
            promised: BTreeSet::new(),
            persisting: false,
            next_repeat: now,
            next_reminder,
        }
    }

    /// When to call [`Formation::step`] next if nothing happens; not while it waits for the disk.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        (!self.persisting).then_some(self.next_repeat)
    }

    /// The identity file holds what was asked for last.
    pub fn persisted(&mut self, standing: Standing, peers: &Peers, out: &mut Vec<Output>) {
        self.persisting = false;
        self.standing = standing;
        if let Standing::Forming { cluster, .. } = &self.standing
            && let Some((connection, _)) = self.coordinator(peers)
        {
            out.push(Output::Frame {
                connection,
                body: Frame::FormPromised(*cluster).encode(),
            });
        }
    }

    /// Something was said, or time has passed.
    pub fn step(&mut self, now: Instant, peers: &Peers, out: &mut Vec<Output>) -> Progress {
        if self.persisting {
            return Progress::Waiting;
        }
        let repeat = now >= self.next_repeat;
        if repeat {
            self.next_repeat = now + REPEAT;
        }
        if let Some(progress) = self.meet_members(peers) {
            return progress;
        }
        if !self.config.join.is_empty() {
            if repeat {
                self.ask_to_join(peers, out);
            }
            return Progress::Waiting;
        }
        if self.remind(now, peers, out) || !self.coordinates() {
            return Progress::Waiting;
        }
        self.coordinate(repeat, peers, out)
    }

    /// Whether this node's name sorts first.
    fn coordinates(&self) -> bool {
        self.config
            .cluster
            .iter()
            .all(|(name, _)| *name >= self.config.name)
    }

    fn coordinator<'a>(&self, peers: &'a Peers) -> Option<(ConnectionId, &'a crate::wire::Hello)> {
        let (_, address) = self.config.cluster.iter().min()?;
        peers.at_address(address)
    }

    /// What it means that a node of the list already belongs to a cluster.
    fn meet_members(&mut self, peers: &Peers) -> Option<Progress> {
        if !self.config.join.is_empty() {
            return None;
        }
        for (_, address) in &self.config.cluster {
            let Some((_, hello)) = peers.at_address(address) else {
                continue;
            };
            let HelloStanding::Member(cluster) = hello.standing else {
                continue;
            };
            if let Standing::Forming {
                cluster: promised,
                genesis,
                engine,
            } = &self.standing
                && *promised == cluster
            {
                let member = Standing::Member {
                    cluster,
                    genesis: genesis.clone(),
                    engine: *engine,
                };
                return Some(self.persist(&hello.name, member, self.own));
            }
            return Some(Progress::Refused(
                self.explain_replacement(&hello.name, cluster),
            ));
        }
        None
    }

    fn explain_replacement(&self, witness: &str, cluster: ClusterId) -> String {
        let name = &self.config.name;
        let address = self.config.peer_address.as_deref().unwrap_or("HOST:PORT");
        format!(
            "the data folder of {name} is empty, but {witness} already belongs to cluster \
             {cluster}. What {name} had promised to that cluster is lost with its data, so it may \
             not vote under its old id again. To replace it: run `quorate member remove {name}` \
             and `quorate member add {name} {address}` against a node of the cluster, then start \
             this node with --join instead of --cluster"
        )
    }

    /// Takes on a standing of which `witness` has told, unless this node is to agree otherwise.
    fn persist(&mut self, witness: &str, standing: Standing, node: NodeId) -> Progress {
        if let Standing::Forming { engine, .. } | Standing::Member { engine, .. } = &standing
            && let Some(asked) = self.config.engine.filter(|asked| asked != engine)
        {
            return Progress::Refused(other_engine(
                &format!("the cluster of {witness}"),
                *engine,
                asked,
            ));
        }
        if let Standing::Forming { genesis, .. } | Standing::Member { genesis, .. } = &standing
            && !genesis.voters.is_empty()
            && let Some(other) = self.config.counts_otherwise(genesis)
        {
            let what = format!("the cluster of {witness}");
            return Progress::Refused(other.explain(&what));
        }
        if let Standing::Forming { genesis, .. } | Standing::Member { genesis, .. } = &standing
            && genesis.members.contains_key(&node)
            && genesis.is_witness(node) != self.is_witness
        {
            return Progress::Refused(other_kind(&self.config.name, self.is_witness));
        }
        self.persisting = true;
        Progress::Persist(standing, node)
    }

    /// Says now and then what is missing; tells whether something is.
    fn remind(&mut self, now: Instant, peers: &Peers, out: &mut Vec<Output>) -> bool {
        let mut missing = Vec::new();
        let mut wrong = Vec::new();
        for (name, address) in &self.config.cluster {
            if *name == self.config.name {
                continue;
            }
            match peers.at_address(address) {
                None => missing.push(format!("{name} ({address})")),
                Some((_, hello)) if hello.name != *name => {
                    wrong.push((name.clone(), address.clone(), hello.name.clone()));
                }
                Some(_) => {}
            }
        }
        let incomplete = !missing.is_empty() || !wrong.is_empty();
        if incomplete && now >= self.next_reminder {
            self.next_reminder = now + REMIND;
            if !missing.is_empty() {
                out.push(Output::Note(Note::WaitingForPeers { missing }));
            }
            for (name, address, found) in wrong {
                let explanation = format!(
                    "--cluster says that {name} is at {address}, but the node there is called \
                     {found}; correct --cluster or that node's --name"
                );
                out.push(Output::Note(Note::ClusterMismatch {
                    peer: address,
                    explanation,
                }));
            }
        }
        incomplete
    }

    /// All nodes answer, and none is a member: ask for promises, and form once all have come.
    fn coordinate(&mut self, repeat: bool, peers: &Peers, out: &mut Vec<Output>) -> Progress {
        let (members, witnesses) = self.members_as_seen(peers);
        let engine = self.config.engine.unwrap_or_default();
        let quorums = self.config.quorum_rule(members.len());
        let current = match &self.standing {
            Standing::Forming {
                cluster,
                genesis,
                engine: promised,
            } if genesis.members == members
                && genesis.witnesses == witnesses
                && *promised == engine
                && genesis.quorums == quorums =>
            {
                Some((*cluster, genesis.clone()))
            }
            _ => None,
        };
        let own = self.config.name.clone();
        let Some((cluster, genesis)) = current else {
            self.promised.clear();
            let cluster = self.next_cluster();
            let voters = members.keys().copied().collect();
            let genesis = Membership {
                members,
                voters,
                outgoing: BTreeSet::new(),
                witnesses,
                quorums,
            };
            if let Err(flaw) = genesis.check_copies() {
                return Progress::Refused(format!("these nodes cannot be a cluster: {flaw}"));
            }
            let forming = Standing::Forming {
                cluster,
                genesis,
                engine,
            };
            return self.persist(&own, forming, self.own);
        };
        let others: BTreeSet<NodeId> = genesis
            .voters
            .iter()
            .copied()
            .filter(|node| *node != self.own)
            .collect();
        if self.promised.is_superset(&others) {
            let member = Standing::Member {
                cluster,
                genesis,
                engine,
            };
            return self.persist(&own, member, self.own);
        }
        if repeat {
            let form = Frame::Form {
                cluster,
                genesis,
                engine,
            };
            let body = form.encode();
            for (connection, hello) in peers.everyone() {
                if others.contains(&hello.node) {
                    out.push(Output::Frame {
                        connection,
                        body: body.clone(),
                    });
                }
            }
        }
        Progress::Waiting
    }

    /// An id for the cluster that is tried next: one that nobody else draws, and greater than those
    /// that this folder has tried before, so that everybody knows which is the newest.
    fn next_cluster(&mut self) -> ClusterId {
        let draw = self.random.next_u64();
        match &self.standing {
            Standing::Forming { cluster, .. } => {
                ClusterId(cluster.0.saturating_add(1 + (draw >> 32)))
            }
            _ => ClusterId((draw >> 1).max(1)),
        }
    }

    /// Whether this is a question of the coordinator as it is now, and its newest. Questions may
    /// come late, over another connection than later ones; following them would break the promise
    /// that the newest was answered with.
    fn is_newest(&self, cluster: ClusterId, genesis: &Membership, peers: &Peers) -> bool {
        let Some((_, coordinator)) = self.coordinator(peers) else {
            return false;
        };
        if !genesis.members.contains_key(&coordinator.node) {
            return false;
        }
        match &self.standing {
            Standing::Forming {
                cluster: promised,
                genesis,
                ..
            } if genesis.members.contains_key(&coordinator.node) => cluster >= *promised,
            _ => true,
        }
    }

    /// All members, and which of them are witnesses.
    fn members_as_seen(&self, peers: &Peers) -> (BTreeMap<NodeId, Member>, BTreeSet<NodeId>) {
        let (mut members, mut witnesses) = (BTreeMap::new(), BTreeSet::new());
        for (name, address) in &self.config.cluster {
            let member = Member {
                name: name.clone(),
                peer_address: address.clone(),
            };
            if *name == self.config.name {
                members.insert(self.own, member);
                witnesses.extend(self.is_witness.then_some(self.own));
            } else if let Some((_, hello)) = peers.at_address(address) {
                members.insert(hello.node, member);
                witnesses.extend(hello.is_witness.then_some(hello.node));
            }
        }
        (members, witnesses)
    }

    /// The coordinator, called `from`, asks this node to be part of a cluster: that of `asked`.
    pub fn form(
        &mut self,
        connection: ConnectionId,
        asked: Standing,
        from: &str,
        peers: &Peers,
        out: &mut Vec<Output>,
    ) -> Progress {
        let Standing::Forming {
            cluster, genesis, ..
        } = &asked
        else {
            return Progress::Waiting;
        };
        let cluster = *cluster;
        let coordinator = self
            .config
            .cluster
            .iter()
            .min()
            .map(|(name, _)| name.as_str());
        let own_place = genesis
            .members
            .get(&self.own)
            .is_some_and(|m| m.name == self.config.name);
        if self.persisting || coordinator != Some(from) || !own_place {
            return Progress::Waiting;
        }
        if !self.is_newest(cluster, genesis, peers) {
            return Progress::Waiting;
        }
        if self.standing == asked {
            out.push(Output::Frame {
                connection,
                body: Frame::FormPromised(cluster).encode(),
            });
            return Progress::Waiting;
        }
        let names: BTreeSet<&str> = genesis.members.values().map(|m| m.name.as_str()).collect();
        let configured: BTreeSet<&str> = self
            .config
            .cluster
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        if names != configured {
            let all = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
            return Progress::Refused(format!(
                "{from} was started with --cluster naming {}, this node with --cluster naming {}; \
                 start all nodes of a new cluster with the same list",
                all(names),
                all(configured)
            ));
        }
        self.persist(from, asked, self.own)
    }

    /// A node has promised.
    pub fn promised(&mut self, cluster: ClusterId, from: NodeId) {
        if matches!(&self.standing, Standing::Forming { cluster: own, .. } if *own == cluster) {
            self.promised.insert(from);
        }
    }

    /// The coordinator says that everyone has promised.
    pub fn formed(&mut self, cluster: ClusterId, from: NodeId) -> Progress {
        match &self.standing {
            Standing::Forming {
                cluster: promised,
                genesis,
                engine,
            } if *promised == cluster
                && genesis.members.contains_key(&from)
                && !self.persisting =>
            {
                let witness = genesis.members[&from].name.clone();
                let member = Standing::Member {
                    cluster,
                    genesis: genesis.clone(),
                    engine: *engine,
                };
                self.persist(&witness, member, self.own)
            }
            _ => Progress::Waiting,
        }
    }

    fn ask_to_join(&self, peers: &Peers, out: &mut Vec<Output>) {
        let request = Frame::JoinRequest {
            name: self.config.name.clone(),
            claimant: self.own,
        }
        .encode();
        // Any of them may be cut off from the others; it is enough that one is not.
        let mut asked = BTreeSet::new();
        for (connection, hello) in peers.everyone() {
            let is_member = matches!(hello.standing, HelloStanding::Member(_));
            if is_member && asked.insert(hello.node) {
                out.push(Output::Frame {
                    connection,
                    body: request.clone(),
                });
            }
        }
    }

    /// A member answered a request to join.
    pub fn join_reply(
        &mut self,
        now: Instant,
        reply: JoinReply,
        out: &mut Vec<Output>,
    ) -> Progress {
        if self.persisting || self.config.join.is_empty() {
            return Progress::Waiting;
        }
        match reply {
            JoinReply::Welcome(welcome) => {
                let standing = Standing::Member {
                    cluster: welcome.cluster,
                    genesis: welcome.genesis,
                    engine: welcome.engine,
                };
                self.persist("those it asked to join", standing, welcome.node)
            }
            JoinReply::Refused(reason) => Progress::Refused(reason),
            JoinReply::NotYet(reason) => {
                if now >= self.next_reminder {
                    self.next_reminder = now + REMIND;
                    out.push(Output::Note(Note::WaitingToJoin { reason }));
                }
                Progress::Waiting
            }
        }
    }
}

/// Why a node cannot be part of a cluster that takes it for something else than it is.
pub(crate) fn other_kind(name: &str, is_witness: bool) -> String {
    match is_witness {
        true => format!(
            "{name} is started as a witness, and its cluster has promised it data: whoever holds \
             data never becomes a witness. Start it without --witness; or remove it with `quorate \
             member remove {name}`, add it with `quorate member add {name} HOST:PORT --witness`, \
             and start it on an empty folder with --witness and --join"
        ),
        false => format!(
            "{name} is started to hold data, and its cluster takes it for a witness, which holds \
             none and never will. Start it with --witness; or remove it with `quorate member \
             remove {name}`, add it with `quorate member add {name} HOST:PORT`, and start it on an \
             empty folder with --join"
        ),
    }
}

/// Why a node that is told to agree by `asked` cannot be part of what agrees by `engine`.
pub(crate) fn other_engine(what: &str, engine: EngineKind, asked: EngineKind) -> String {
    format!(
        "{what} agrees by {engine}, and this node is told to agree by {asked}. A cluster keeps the \
         engine it was formed with: start this node with --engine {engine}, or without --engine"
    )
}
