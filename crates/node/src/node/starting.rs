//! From an empty or full data folder to a running member: identity, formation, recovery.
//!
//! Each start writes the identity file first, then forms or joins a cluster or goes straight to
//! recovering. What refuses a folder says what is to be done about it.

use base::{ClusterId, Instant};
use consensus::{Member, Membership};
use journal::disk::File;

use super::{Moment, Node, Phase};
use crate::config::Config;
use crate::description::Description;
use crate::formation::{self, Formation, other_engine, other_kind};
use crate::group::META;
use crate::group::trust::was_removed;
use crate::interface::{Halt, Identity, Output, Standing};
use crate::notes::Note;
use crate::recovery::{self, Past, Recovered, Recovery};
use crate::running::Running;
use crate::wire::{Frame, Hello, HelloStanding, VERSIONS};

impl Node {
    pub(super) fn start(&mut self, out: &mut Vec<Output>) {
        if let Some(reason) = self.startup_refusal.take() {
            out.push(Output::Halt(Halt::Refused(reason)));
            return;
        }
        let alone = self.config.cluster.is_empty() && self.config.join.is_empty();
        let mut identity = self.identity.clone();
        if alone && identity.is_witness && identity.standing == Standing::Alone {
            let reason = "a witness alone would hold nothing at all: name the nodes that form the \
                          cluster with --cluster, or one of a cluster that exists with --join";
            return out.push(Output::Halt(Halt::Refused(reason.to_owned())));
        }
        if alone && identity.standing == Standing::Alone {
            let member = Member {
                name: self.config.name.clone(),
                peer_address: self.config.peer_address.clone().unwrap_or_default(),
            };
            let genesis = Membership {
                members: [(identity.node, member)].into(),
                voters: [identity.node].into(),
                quorums: self.config.quorum_rule(1),
                ..Membership::default()
            };
            if let Err(flaw) = genesis.check_copies() {
                return out.push(Output::Halt(Halt::Refused(flaw)));
            }
            let other = self.config.counts_otherwise(&genesis);
            if let Some(other) = other {
                out.push(Output::Halt(Halt::Refused(other.explain("a node alone"))));
                return;
            }
            let cluster = ClusterId(self.random.next_u64().max(1));
            identity.standing = Standing::Member {
                cluster,
                genesis,
                engine: self.config.engine.unwrap_or_default(),
            };
        }
        self.persist(identity, out);
    }

    fn persist(&mut self, identity: Identity, out: &mut Vec<Output>) {
        assert!(
            self.persisting.is_none(),
            "one identity is written at a time"
        );
        self.persisting = Some(identity.clone());
        out.push(Output::PersistIdentity(identity));
    }

    pub(super) fn identity_persisted(&mut self, moment: Moment, out: &mut Vec<Output>) {
        let Some(identity) = self.persisting.take() else {
            return;
        };
        let joined = identity.node != self.identity.node;
        self.identity = identity;
        self.peers
            .introduce(hello(&self.config, &self.identity, self.process), out);
        let member = member_of(&self.identity);
        match (&mut self.phase, member) {
            (Phase::Halted, _) => {}
            (Phase::Starting, Some((cluster, first))) => self.recover(cluster, first, out),
            (Phase::Starting, None) => {
                let formation = Formation::new(
                    self.config.clone(),
                    &self.identity,
                    self.random.fork(),
                    moment.now,
                    &mut self.peers,
                    out,
                );
                self.phase = Phase::Forming(Box::new(formation));
            }
            (Phase::Forming(formation), None) => {
                formation.persisted(self.identity.standing.clone(), &self.peers, out);
            }
            (Phase::Forming(_), Some((cluster, first))) => {
                let node = self.identity.node;
                out.push(Output::Note(match joined {
                    true => Note::Joined { cluster, node },
                    false => Note::ClusterFormed { cluster },
                }));
                let body = Frame::Formed(cluster).encode();
                for other in first.genesis.members.keys().filter(|other| **other != node) {
                    self.peers.send(*other, body.clone(), out);
                }
                self.recover(cluster, first, out);
            }
            (Phase::Confirming { .. }, _) => {
                if let Phase::Confirming {
                    recovered,
                    completions,
                } = std::mem::replace(&mut self.phase, Phase::Halted)
                {
                    self.run(moment.now, *recovered, out);
                    for completion in completions {
                        self.disk(moment, completion, out);
                    }
                }
            }
            (Phase::Running(running), _) => running.promises_remembered(&self.identity),
            (Phase::Recovering(_), _) => {}
        }
    }

    /// Writes down how far the promises of this node may go, before they come near that, whether
    /// it is in doubt, and whether a cluster that began with it has grown.
    pub(super) fn remember_promises(&mut self, out: &mut Vec<Output>) {
        if self.persisting.is_some() {
            return;
        }
        let Phase::Running(running) = &self.phase else {
            return;
        };
        let has_others = self.began_alone() && running.has_others();
        let promises = running.promises_to_remember();
        if promises.is_some() || has_others != self.identity.has_others {
            let known = (self.identity.epochs, self.identity.is_doubtful);
            let (epochs, is_doubtful) = promises.unwrap_or(known);
            let identity = Identity {
                epochs,
                is_doubtful,
                has_others,
                ..self.identity.clone()
            };
            self.persist(identity, out);
        }
    }

    /// Whether nobody else had a vote when the cluster began.
    fn began_alone(&self) -> bool {
        match &self.identity.standing {
            Standing::Member { genesis, .. } => genesis.voters.len() == 1,
            Standing::Alone | Standing::Forming { .. } => false,
        }
    }

    pub(super) fn formation_progress(
        &mut self,
        progress: formation::Progress,
        out: &mut Vec<Output>,
    ) {
        match progress {
            formation::Progress::Waiting => {}
            formation::Progress::Persist(standing, node) => {
                let identity = Identity {
                    node,
                    standing,
                    ..self.identity.clone()
                };
                self.persist(identity, out);
            }
            formation::Progress::Refused(reason) => {
                out.push(Output::Halt(Halt::Refused(reason)));
            }
        }
    }

    fn recover(&mut self, cluster: ClusterId, first: Description, out: &mut Vec<Output>) {
        let identity = journal::Identity {
            cluster,
            node: self.identity.node,
            disk: self.identity.disk,
        };
        let files = std::mem::take(&mut self.files);
        let limits = self.config.limits.clone();
        let past = Past {
            journal_created: self.identity.journal_created,
            epochs: self.identity.epochs,
            is_doubtful: self.identity.is_doubtful,
            has_others: self.identity.has_others,
        };
        let mut recovery = Recovery::new(identity, first, past, limits, files);
        let progress = recovery.start(out);
        self.phase = Phase::Recovering(Box::new(recovery));
        self.recovery_progress(Instant::default(), progress, out);
    }

    pub(super) fn recovery_progress(
        &mut self,
        now: Instant,
        progress: recovery::Progress,
        out: &mut Vec<Output>,
    ) {
        let recovered = match progress {
            recovery::Progress::Working => return,
            recovery::Progress::Refused(reason) => {
                out.push(Output::Halt(Halt::Refused(reason)));
                return;
            }
            recovery::Progress::Done(recovered) => *recovered,
        };
        // A journal that is there without being confirmed: an earlier start came no further.
        if recovered.journal_created || !self.identity.journal_created {
            self.phase = Phase::Confirming {
                recovered: Box::new(recovered),
                completions: Vec::new(),
            };
            return self.confirm(out);
        }
        self.run(now, recovered, out);
    }

    /// Writes down that there is a journal, once its first segment is in place.
    pub(super) fn confirm(&mut self, out: &mut Vec<Output>) {
        if let Phase::Confirming {
            recovered,
            completions,
        } = &self.phase
            && completions.len() == recovered.outstanding
        {
            let identity = Identity {
                journal_created: true,
                is_doubtful: recovered.is_doubtful,
                ..self.identity.clone()
            };
            self.persist(identity, out);
        }
    }

    fn run(&mut self, now: Instant, recovered: Recovered, out: &mut Vec<Output>) {
        let (cluster, first) =
            member_of(&self.identity).expect("only members have anything to recover");
        let meta = &recovered.groups[&META];
        let (reader, chosen) = (meta.state.reader(), &meta.membership);
        if was_removed(reader, chosen, &first.genesis, self.identity.node) {
            out.push(Output::Note(Note::Removed));
            out.push(Output::Halt(Halt::Removed));
            return;
        }
        let config = self.config.clone();
        let random = self.random.fork();
        let running = Running::new(config, &self.identity, cluster, recovered, random, now);
        match running {
            Ok(running) => self.phase = Phase::Running(Box::new(running)),
            Err(reason) => out.push(Output::Halt(Halt::Refused(reason))),
        }
    }
}

/// The cluster that a folder belongs to, and what its first group starts from.
pub(super) fn member_of(identity: &Identity) -> Option<(ClusterId, Description)> {
    match &identity.standing {
        Standing::Member {
            cluster,
            genesis,
            engine,
        } => {
            let (engine, genesis) = (*engine, genesis.clone());
            Some((*cluster, Description::new(engine, genesis)))
        }
        Standing::Alone | Standing::Forming { .. } => None,
    }
}

pub(super) fn hello(config: &Config, identity: &Identity, process: u64) -> Hello {
    Hello {
        versions: VERSIONS,
        node: identity.node,
        incarnation: identity.incarnation,
        process,
        standing: match &identity.standing {
            Standing::Alone => HelloStanding::Alone,
            Standing::Forming { cluster, .. } => HelloStanding::Forming(*cluster),
            Standing::Member { cluster, .. } => HelloStanding::Member(*cluster),
        },
        name: config.name.clone(),
        address: config.peer_address.clone().unwrap_or_default(),
        is_witness: identity.is_witness,
    }
}

/// What speaks against starting on this folder.
pub(super) fn check_folder(
    identity: Option<&Identity>,
    config: &Config,
    files: &[(File, u64)],
) -> Option<String> {
    let has_data = files
        .iter()
        .any(|(file, _)| matches!(file, File::Segment(_) | File::Checkpoint(..)));
    match identity {
        None if has_data => Some(
            "the data folder holds a journal or checkpoints, but no identity file, so nobody knows \
             whose they are. Nothing has been changed. Restore identity.toml from a copy, or \
             choose an empty folder with --data-dir"
                .to_owned(),
        ),
        Some(found) if found.name != config.name => Some(format!(
            "the data folder belongs to the node {}, but this node is called {}; correct --name, \
             or choose another folder with --data-dir",
            found.name, config.name
        )),
        Some(Identity { standing: Standing::Member { .. }, is_witness: false, .. })
            if config.is_witness =>
        {
            Some(other_kind(&config.name, true))
        }
        Some(Identity { standing: Standing::Member { engine, genesis, .. }, .. }) => {
            let what = "the group in this data folder";
            if let Some(asked) = config.engine.filter(|asked| asked != engine) {
                return Some(other_engine(what, *engine, asked));
            }
            // Who joined later has no first membership: it counts as the others' log says.
            let counts_otherwise = config.counts_otherwise(genesis)?;
            (!genesis.voters.is_empty()).then(|| counts_otherwise.explain(what))
        }
        None => None,
        Some(Identity { standing: Standing::Forming { .. }, .. })
            if config.cluster.is_empty() && config.join.is_empty() =>
        {
            Some(
                "this data folder has promised to be part of a cluster that was forming, so the \
                 node cannot stand alone. Start it with the same --cluster as before, or choose an \
                 empty folder with --data-dir"
                    .to_owned(),
            )
        }
        Some(_) if has_data => Some(
            "the data folder holds a journal although its identity file says that the node never \
             was a member of a cluster. Nothing has been changed. Restore identity.toml from a \
             copy, or choose an empty folder with --data-dir"
                .to_owned(),
        ),
        Some(_) => None,
    }
}
