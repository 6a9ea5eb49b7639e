//! What the journal answers: what is on stable storage, what was read back, what is damaged.

use base::{GroupId, Slot};
use journal::{Done, FetchedEntry};

use super::Running;
use crate::group::Moment;
use crate::group::journaling::fetched_entry;
use crate::interface::{Halt, Output};
use crate::notes::Note;
use crate::peers::Peers;

impl Running {
    pub(super) fn journal_done(
        &mut self,
        moment: Moment,
        done: Vec<Done>,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        if done.is_empty() {
            return;
        }
        for each in done {
            match each {
                Done::Durable { mark } => self.durable(moment, mark, peers, out),
                Done::Fetched { ticket, entries } => {
                    self.fetched(moment, ticket, entries, peers, out);
                }
                Done::Scrubbed { bytes, finding } => self.journal_scrubbed(bytes, finding, out),
                Done::Damage {
                    ticket,
                    group,
                    slot,
                    description,
                } => self.damaged(moment, ticket, (group, slot), description, peers, out),
                Done::Fatal(reason) => out.push(Output::Halt(Halt::Refused(reason))),
            }
        }
    }

    /// Entries have been read back, and their checksums are right.
    fn fetched(
        &mut self,
        moment: Moment,
        ticket: u64,
        entries: Vec<FetchedEntry>,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let Some((opening, id, from)) = self.fetches.remove(&ticket) else {
            return;
        };
        if !self.openings.contains_key(&opening) {
            return;
        }
        let first = entries.first().map(|entry| entry.slot);
        let entries: Vec<_> = entries.into_iter().map_while(fetched_entry).collect();
        // To ask again and again would bring the same.
        if let Some(slot) = first.filter(|_| entries.is_empty()) {
            return out.push(Output::Halt(Halt::Refused(format!(
                "the entry at slot {slot} of group {id} cannot be read although its checksum is \
                 right; it was probably written by a newer version of Quorate: start that version"
            ))));
        }
        self.with(id, out, |group, out| {
            group.fetched(moment, from, entries, peers, out);
        });
    }

    /// An entry that was to be read back is not as it was written. What is executed stands in the
    /// state as well: a checkpoint takes the entry's place. What is not, a start repairs, because
    /// there the replica leaves every quorum before it learns from the others what it has lost.
    fn damaged(
        &mut self,
        moment: Moment,
        ticket: u64,
        (id, slot): (GroupId, Slot),
        description: String,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        let fetch = self.fetches.remove(&ticket);
        self.counted.damage_found += 1;
        // Of a group that was closed since: nobody needs it, also where it is here again.
        let fetch = fetch.filter(|(opening, ..)| self.openings.contains_key(opening));
        let Some(((_, _, from), opened)) = fetch.zip(self.groups.get(&id)) else {
            return;
        };
        out.push(Output::Note(
            Note::EntryDamaged {
                slot,
                description: description.clone(),
            }
            .of(id),
        ));
        if slot > opened.group.replica().applied() {
            return out.push(Output::Halt(Halt::Again(format!(
                "the entry at slot {slot} of group {id} is damaged on this disk: {description}. It \
                 is not executed here yet, so this node starts again to learn it from the others"
            ))));
        }
        self.with(id, out, |group, out| {
            group.do_without_log(moment, slot, peers, out);
            group.fetched(moment, from, Vec::new(), peers, out);
        });
    }

    /// All flushes up to this one are on stable storage. A group is told once, however many of its
    /// writes that makes durable.
    fn durable(&mut self, moment: Moment, flush: u64, peers: &mut Peers, out: &mut Vec<Output>) {
        let mut reached = Vec::new();
        while let Some((number, id, mark)) = self.flushed.front().copied()
            && number <= flush
        {
            self.flushed.pop_front();
            if let Some(opened) = self.groups.get_mut(&id)
                && opened.durable.replace(mark).is_none()
            {
                reached.push(id);
            }
        }
        self.groups_durable(flush, out);
        for id in reached {
            let mark = self
                .groups
                .get_mut(&id)
                .and_then(|each| each.durable.take());
            let mark = mark.expect("a group that is reached has a mark");
            self.with(id, out, |group, out| {
                group.durable(moment, mark, peers, out);
            });
        }
    }
}
