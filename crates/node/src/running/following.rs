//! A node follows the table of keyspaces: opens the groups that it shall hold, closes those that
//! are no more.
//!
//! ```text
//!   in the table, with this node ──▶ GroupOpened into the journal, then the group runs
//!   moved to other nodes, or
//!   dropped                      ──▶ GroupClosed into the journal, with what the replica promised;
//!                                    once that is on stable storage, its checkpoints are deleted
//! ```
//!
//! A node may know less than it knew before it was restarted, until it has executed its log again.
//! A group with a number that the table has not given out yet is therefore left alone, and until
//! this node's table has been current once, none is closed that has moved away, and none is opened
//! that the journal does not know: it may have been here and be over, and a journal that was lost
//! meanwhile would not tell. One that comes back later begins in doubt: what it had acknowledged
//! here is gone.
//!
//! The order matters: were the checkpoints deleted first, a crash in between would leave a log
//! whose beginning is missing, which looks like damage.

use std::collections::{BTreeMap, BTreeSet};

use base::mutant::{self, Mutant};
use base::{GroupId, Instant, NodeId};
use cluster::meta::{self, Keyspace};
use cluster::placement::plan::TableEpoch;
use consensus::{EngineKind, HardState, Member, Membership};
use journal::disk::{File, Lane, Operation, Request};
use journal::{Record, RecordKind};

use super::Running;
use crate::checkpoints::own_request;
use crate::description::Description;
use crate::group::META;
use crate::interface::{Halt, Output};
use crate::notes::Note;
use crate::recovery::RecoveredReplica;
use crate::wire::GroupFrame;

/// The opening that stands in requests of the node itself.
pub(super) const OF_NODE: u32 = (1 << 31) - 1;

/// A group that was closed. It is not opened again before its end is on stable storage, and its
/// files are about to be deleted: until then, writes of before may become durable, which say
/// nothing of those of after, and files of after could have names of before.
pub(super) struct Closing {
    group: GroupId,
    /// The flush that its end is part of, once there is one.
    flush: Option<u64>,
    files: Vec<File>,
}

/// Why a group is closed.
#[derive(Clone, Copy)]
enum Ending {
    /// Its keyspace is no more.
    Dropped,
    /// Other nodes hold it.
    Moved,
}

impl Running {
    /// Opens and closes groups, if the table has changed.
    pub(super) fn follow_table(&mut self, now: Instant, out: &mut Vec<Output>) {
        let meta = &mut self.groups.meta_mut().group;
        let is_current = meta.was_current;
        let was_current = std::mem::replace(&mut self.is_table_current, is_current);
        let has_changed = meta.take_table_change();
        let opens_late = std::mem::take(&mut self.opens_late);
        if !has_changed && is_current == was_current && !opens_late {
            return;
        }
        self.is_directory_old = true;
        self.plan_anew();
        let reader = self.meta().replica().reader();
        let last = meta::last_group(reader);
        let table = match meta::all_keyspaces(reader) {
            Ok(table) => table,
            Err(name) => {
                // What is taken for dropped is deleted.
                let reason = format!(
                    "the table of keyspaces has a row that this build cannot read: {name}. Nothing \
                     has been deleted; start the build that the other nodes run"
                );
                out.push(Output::Halt(Halt::Refused(reason)));
                return;
            }
        };
        let rows: BTreeMap<GroupId, &Keyspace> =
            table.iter().map(|each| (each.group, each)).collect();
        let end_of = |id: GroupId| match rows.get(&id) {
            None => (id <= last).then_some(Ending::Dropped),
            Some(keyspace) if keyspace.is_open_on(self.own) || !is_current => None,
            Some(_) => Some(Ending::Moved),
        };
        let groups = self.groups.keys().filter(|id| **id != META);
        let over: Vec<(GroupId, Ending)> =
            groups.filter_map(|id| Some((*id, end_of(*id)?))).collect();
        for (id, ending) in over {
            self.close(id, ending, out);
        }
        self.follow_moves(&table, now);
        self.follow_observers(&table);
        // One that leaves answers what was sent to it before the others heard so; one that is being
        // filled serves nobody yet.
        let is_own = |all: &[meta::Replica]| all.iter().any(|each| each.node == self.own);
        let place = |each: &Keyspace| {
            let observes = each.observers.contains(&self.own);
            let serves = observes || is_own(&each.replicas) || is_own(each.serving());
            (each.name.clone(), (each.group, serves))
        };
        self.places = table.iter().map(place).collect();
        let mut is_followed = true;
        for keyspace in &table {
            let is_new = !self.groups.contains_key(&keyspace.group);
            if !keyspace.is_open_on(self.own) || !is_new {
                continue;
            }
            match is_current && !self.closes(keyspace.group) {
                true => self.open(keyspace, now, out),
                false => is_followed = false,
            }
        }
        if is_followed {
            let epoch = meta::epoch(self.meta().replica().reader());
            let first = self.meta_mut();
            first.followed = epoch;
            if opens_late {
                first.tell_facts_now(now);
            }
        }
        self.follow_names(&table);
    }

    /// Who may have each keyspace's group open, by the table as this node has it.
    #[must_use]
    pub fn table(&self) -> (TableEpoch, BTreeMap<GroupId, BTreeSet<NodeId>>) {
        let reader = self.meta().replica().reader();
        let holders = meta::keyspaces(reader).into_iter();
        let holders = holders.map(|each| (each.group, each.open_on().collect()));
        (meta::epoch(reader), holders.collect())
    }

    /// Which version of the table this node has.
    #[must_use]
    pub fn table_epoch(&self) -> TableEpoch {
        meta::epoch(self.meta().replica().reader())
    }

    /// Whether this node serves a keyspace's clients, by the table as it has it.
    #[must_use]
    pub fn serves(&self, id: GroupId) -> bool {
        self.places
            .values()
            .any(|(group, serves)| *group == id && *serves)
    }

    /// Opens a group that is not on this node.
    fn open(&mut self, keyspace: &Keyspace, now: Instant, out: &mut Vec<Output>) {
        let id = keyspace.group;
        let promised = self.promised_in(keyspace);
        let description = Description {
            promised,
            ..Description::new(keyspace.engine, genesis(keyspace))
        };
        // On stable storage before the group hears of anything, see `Running::is_founded`.
        self.founding.push((id, None));
        self.journal.append(Record {
            group: id,
            kind: RecordKind::GroupOpened,
            slot: base::Slot(0),
            epoch: base::Epoch(0),
            body: description.encode(),
        });
        let fresh = RecoveredReplica::fresh(description, &self.config.limits);
        let name = keyspace.name.clone();
        out.push(Output::Note(Note::GroupOpened { name }.of(id)));
        if let Err(reason) = self.start(id, fresh, now) {
            out.push(Output::Halt(Halt::Refused(reason)));
        }
        if promised.is_some() {
            // Whoever leads may sleep, and have this replica among the members all the time.
            let others = keyspace.open_on().filter(|node| *node != self.own);
            let others: BTreeSet<NodeId> = others.collect();
            let body = GroupFrame::Wake.encode(id);
            let said = others.into_iter().map(|node| (node, body.clone()));
            self.pulses.said.extend(said);
        }
    }

    /// What this node has promised in a group that it has not open, if it has been here before, or
    /// may have been before the journal was lost. Who remembers that disturbs nobody when it is
    /// back. A leader has to begin anew for who does not: in the first epoch in which nothing is
    /// promised.
    fn promised_in(&mut self, keyspace: &Keyspace) -> Option<HardState> {
        let remembered = self.closed.remove(&keyspace.group);
        let was_here = remembered.is_some() || keyspace.former.contains(&self.own);
        if mutant::is_on(Mutant::OpenLostAnew) || !(was_here || self.promises.is_doubtful) {
            return None;
        }
        let remembered = remembered.and_then(|body| HardState::decode(body).ok());
        // A ballot that it began itself may be another's too, of somebody who knew other members:
        // it would not listen to that one.
        let is_shared = |promised: &HardState| {
            promised.engine == EngineKind::Paxos && promised.vote == Some(self.own)
        };
        let beyond_all = || HardState {
            epoch: self.promises.epochs,
            engine: keyspace.engine,
            ..HardState::default()
        };
        let remembered = remembered.filter(|promised| !is_shared(promised));
        Some(remembered.unwrap_or_else(beyond_all))
    }

    /// Closes a group and lets go of all that it holds here.
    fn close(&mut self, id: GroupId, ending: Ending, out: &mut Vec<Output>) {
        let Some(mut closed) = self.groups.remove(&id) else {
            return;
        };
        let promised = closed.group.engine().hard_state().encode();
        self.closed.insert(id, promised.clone());
        self.founding.retain(|(each, _)| *each != id);
        let newest = closed.group.last_sequence();
        self.last_sequence = self.last_sequence.max(newest);
        self.openings.remove(&closed.opening);
        self.pulses.unshare(id);
        self.pulses.waking.forget(id);
        // Where it is dropped, whoever sleeps under this node closes it as well.
        if matches!(ending, Ending::Moved) && !closed.asleep_below.is_empty() {
            self.pulses.surrender();
        }
        if let Some(at) = closed.due {
            self.agenda.remove(&(at, id));
        }
        for (call, kind) in closed.group.calls.close_all() {
            // What is under way in a keyspace that goes on elsewhere may happen there yet.
            let answer = kind.failure(match ending {
                Ending::Dropped => etcd::Error::KeyspaceNotFound,
                Ending::Moved => etcd::Error::Timeout,
            });
            out.push(Output::Answer { id: call, answer });
        }
        let error = match ending {
            Ending::Dropped => etcd::Error::KeyspaceNotFound,
            Ending::Moved => etcd::Error::KeyspaceElsewhere,
        };
        out.push(Output::Unpublish { group: id, error });
        self.counted.add(closed.group.metrics());
        self.journal.append(Record {
            group: id,
            kind: RecordKind::GroupClosed,
            slot: base::Slot(0),
            epoch: base::Epoch(0),
            body: promised,
        });
        self.closing.push(Closing {
            group: id,
            flush: None,
            files: closed.group.checkpoint_files(),
        });
        out.push(Output::Note(Note::GroupClosed.of(id)));
    }

    /// Whether the end of a group that was closed is not on stable storage yet.
    fn closes(&self, id: GroupId) -> bool {
        self.closing.iter().any(|closing| closing.group == id)
    }

    /// Whether it is on stable storage that a group was opened. Before that it hears nothing: what
    /// it writes would wait for that in any case, but a checkpoint that it receives is a file, and
    /// nobody's once the power has failed.
    pub(super) fn is_founded(&self, id: GroupId) -> bool {
        self.founding.iter().all(|(each, _)| *each != id)
    }

    /// Whether a group was opened or closed, and that is not on stable storage yet.
    pub(super) fn waits_for_groups(&self) -> bool {
        !self.founding.is_empty() || !self.closing.is_empty()
    }

    /// Whether a group was opened or closed, and no flush says so yet.
    pub(super) fn has_unflushed_groups(&self) -> bool {
        self.founding.iter().any(|(_, flush)| flush.is_none())
            || self.closing.iter().any(|each| each.flush.is_none())
    }

    /// What was opened and closed before this flush goes with it.
    pub(super) fn groups_flushed(&mut self, flush: u64) {
        for (_, founding) in &mut self.founding {
            founding.get_or_insert(flush);
        }
        for closing in &mut self.closing {
            closing.flush.get_or_insert(flush);
        }
    }

    /// What was opened and closed in flushes up to this one is on stable storage now: deletes the
    /// files of groups that were closed.
    pub(super) fn groups_durable(&mut self, durable: u64, out: &mut Vec<Output>) {
        let is_founded = |flush: &Option<u64>| flush.is_some_and(|flush| flush <= durable);
        self.founding.retain(|(_, flush)| !is_founded(flush));
        if self.closing.is_empty() {
            return;
        }
        let is_over = |each: &Closing| each.flush.is_some_and(|flush| flush <= durable);
        let closing = std::mem::take(&mut self.closing);
        let (over, rest): (Vec<_>, Vec<_>) = closing.into_iter().partition(is_over);
        self.closing = rest;
        if !over.is_empty() {
            // The table may want some of them here again.
            self.opens_late = true;
            self.wake(META);
        }
        for file in over.into_iter().flat_map(|each| each.files) {
            self.delete(file, out);
        }
    }

    fn delete(&mut self, file: File, out: &mut Vec<Output>) {
        self.last_request = self.last_request.wrapping_add(1);
        out.push(Output::Disk(Request {
            id: own_request(OF_NODE, self.last_request),
            lane: Lane::Background,
            operation: Operation::Delete { file },
        }));
    }
}

/// The membership that a keyspace's log starts from.
fn genesis(keyspace: &Keyspace) -> Membership {
    let member = |replica: &meta::Replica| Member {
        name: replica.name.clone(),
        peer_address: replica.address.clone(),
    };
    let replicas = &keyspace.genesis;
    Membership {
        members: replicas
            .iter()
            .map(|each| (each.node, member(each)))
            .collect(),
        voters: replicas.iter().map(|each| each.node).collect(),
        quorums: keyspace.quorums,
        ..Membership::default()
    }
}
