//! A node follows the table of keyspaces: opens the groups that it shall hold, closes those that
//! are no more.
//!
//! ```text
//!   in the table, with this node ──▶ GroupOpened into the journal, then the group runs
//!   dropped                      ──▶ GroupClosed into the journal; once that is on stable storage,
//!                                    the group's checkpoints are deleted
//! ```
//!
//! A node may know less than it knew before it was restarted, until it has executed its log again.
//! A group with a number that the table has not given out yet is therefore left alone, and one that
//! was closed is never opened again, although the table of before may still name it: what it had
//! promised is gone.
//!
//! The order matters: were the checkpoints deleted first, a crash in between would leave a log
//! whose beginning is missing, which looks like damage.

use std::collections::BTreeSet;

use base::{GroupId, Instant};
use cluster::meta::{self, Keyspace};
use consensus::{Member, Membership};
use journal::disk::{File, Lane, Operation, Request};
use journal::{Record, RecordKind};

use super::Running;
use crate::checkpoints::own_request;
use crate::description::Description;
use crate::group::META;
use crate::interface::{Halt, Output};
use crate::notes::Note;
use crate::recovery::{Loss, RecoveredReplica};

/// The opening that stands in requests of the node itself.
pub(super) const OF_NODE: u32 = (1 << 31) - 1;

impl Running {
    /// Opens and closes groups, if the table has changed.
    pub(super) fn follow_table(&mut self, now: Instant, out: &mut Vec<Output>) {
        let opened = self.groups.get_mut(&META);
        if !opened.is_some_and(|opened| opened.group.take_table_change()) {
            return;
        }
        self.is_directory_old = true;
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
        let in_table: BTreeSet<GroupId> = table.iter().map(|each| each.group).collect();
        let over: Vec<GroupId> = self
            .groups
            .keys()
            .copied()
            .filter(|id| *id != META && *id <= last && !in_table.contains(id))
            .collect();
        for id in over {
            self.close(id, out);
        }
        for keyspace in table {
            let holds = keyspace.replicas.iter().any(|each| each.node == self.own);
            let is_new = !self.groups.contains_key(&keyspace.group);
            if holds && is_new && !self.closed.contains(&keyspace.group) {
                self.open(&keyspace, now, out);
            }
        }
    }

    /// Opens a group that has never been on this node.
    fn open(&mut self, keyspace: &Keyspace, now: Instant, out: &mut Vec<Output>) {
        let id = keyspace.group;
        let description = Description {
            engine: keyspace.engine,
            genesis: genesis(keyspace),
        };
        // On stable storage with the first write of the group, before anything of it counts.
        self.journal.append(Record {
            group: id,
            kind: RecordKind::GroupOpened,
            slot: base::Slot(0),
            epoch: base::Epoch(0),
            body: description.encode(),
        });
        let mut fresh = RecoveredReplica::fresh(description, &self.config.limits);
        if self.promises.is_doubtful {
            // It may have been here before the journal was lost.
            let epochs = self.promises.epochs;
            fresh.loss = Some(Loss::Log { epochs });
        }
        let name = keyspace.name.clone();
        out.push(Output::Note(Note::GroupOpened { name }.of(id)));
        if let Err(reason) = self.start(id, fresh, now) {
            out.push(Output::Halt(Halt::Refused(reason)));
        }
    }

    /// Closes a group and lets go of all that it holds here.
    fn close(&mut self, id: GroupId, out: &mut Vec<Output>) {
        let Some(mut closed) = self.groups.remove(&id) else {
            return;
        };
        self.closed.insert(id);
        self.openings.remove(&closed.opening);
        self.pulses.unshare(id);
        if closed.led_asleep {
            self.pulses.surrender();
        }
        self.agenda.retain(|(_, other)| *other != id);
        for (call, kind) in closed.group.calls.close_all() {
            let answer = kind.failure(etcd::Error::KeyspaceNotFound);
            out.push(Output::Answer { id: call, answer });
        }
        let error = etcd::Error::KeyspaceNotFound;
        out.push(Output::Unpublish { group: id, error });
        self.counted.add(closed.group.metrics());
        self.journal.append(Record {
            group: id,
            kind: RecordKind::GroupClosed,
            slot: base::Slot(0),
            epoch: base::Epoch(0),
            body: bytes::Bytes::new(),
        });
        self.closing.push((None, closed.group.checkpoint_files()));
        out.push(Output::Note(Note::GroupClosed.of(id)));
    }

    /// What was closed before this flush goes with it.
    pub(super) fn closing_flushed(&mut self, flush: u64) {
        for (number, _) in &mut self.closing {
            number.get_or_insert(flush);
        }
    }

    /// Deletes the files of groups that were closed, and whose end is on stable storage now.
    pub(super) fn delete_closed(&mut self, durable: u64, out: &mut Vec<Output>) {
        if self.closing.is_empty() {
            return;
        }
        let is_over = |number: &Option<u64>| number.is_some_and(|number| number <= durable);
        let closing = std::mem::take(&mut self.closing);
        let (over, rest): (Vec<_>, Vec<_>) =
            closing.into_iter().partition(|(number, _)| is_over(number));
        self.closing = rest;
        for file in over.into_iter().flat_map(|(_, files)| files) {
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
    let replicas = &keyspace.replicas;
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
