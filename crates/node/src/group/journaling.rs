//! What a group asks of the node's journal, and how the two name the same things.

use base::{GroupId, NodeId, Slot};
use bytes::{Buf as _, Bytes};
use consensus::{Entry, Mark, Message, Payload, PayloadKind, Record, Records};
use journal::RecordKind;
use journal::format::record::BALLOT_BYTES;

use super::Group;

/// What a group asks of the journal, in this order.
#[derive(Debug)]
pub(crate) enum ToJournal {
    /// Keep this, with the next write.
    Keep(journal::Record),
    /// Keep these, and tell when they are on stable storage.
    Write {
        /// The engine's name for this write.
        mark: Mark,
        /// What to keep.
        records: Records,
    },
    /// Read entries back.
    Fetch {
        /// The first slot.
        from: Slot,
        /// The last slot.
        upto: Slot,
        /// How much to return at once.
        max_bytes: u64,
    },
    /// Entries up to this slot are no longer needed.
    Release(Slot),
}

impl Group {
    /// Whether nothing here waits to hear that what this group has written is on the disk, apart
    /// from who has been told by the disk itself. It follows, and its leader is going to say that
    /// what was written is chosen; or it leads, and has to hear of others before anything is.
    pub(crate) fn is_patient(&self) -> bool {
        let glance = self.engine.glance();
        self.leader.is_some()
            && (!self.leads() || self.engine.waits_for_others())
            && glance.chosen < glance.last
            && !glance.is_uncertain
            && self.held.is_empty()
            && self.unreported.is_none()
    }

    /// Gives away what may leave once everything up to a mark is on the disk.
    pub(crate) fn take_held(&mut self, upto: Mark) -> impl Iterator<Item = (NodeId, Message)> {
        let count = self.held.partition_point(|(after, _, _)| *after <= upto);
        let messages = self.held.drain(..count);
        messages.map(|(_, to, message)| (to, message))
    }
}

/// How the journal keeps what an engine writes.
pub(crate) fn journal_records(
    group: GroupId,
    record: Record,
    mut append: impl FnMut(journal::Record),
) {
    let mut keep = |kind, slot, epoch, body| {
        append(journal::Record {
            group,
            kind,
            slot,
            epoch,
            body,
        });
    };
    match record {
        Record::HardState(hard_state) => keep(
            RecordKind::HardState,
            hard_state.chosen,
            hard_state.epoch,
            hard_state.encode(),
        ),
        Record::Entries(entries) => {
            for entry in &entries {
                let (kind, body) = entry.payload.to_body();
                let kind = match kind {
                    PayloadKind::Commands => RecordKind::Entry,
                    PayloadKind::Membership => RecordKind::MembershipEntry,
                    PayloadKind::Header => RecordKind::Header,
                };
                keep(kind, entry.slot, entry.epoch, body);
            }
        }
        Record::Accepted { ballot, entries } => {
            for entry in &entries {
                let (kind, body) = entry.payload.to_body();
                let (kind, body) = match (kind, ballot > entry.epoch) {
                    (PayloadKind::Commands, false) => (RecordKind::Accepted, body),
                    (PayloadKind::Membership, false) => (RecordKind::AcceptedMembership, body),
                    (PayloadKind::Header, false) => (RecordKind::AcceptedHeader, body),
                    (kind, true) => {
                        let later = match kind {
                            PayloadKind::Commands => RecordKind::AcceptedLater,
                            PayloadKind::Membership => RecordKind::AcceptedMembershipLater,
                            PayloadKind::Header => RecordKind::AcceptedHeaderLater,
                        };
                        let ballot = ballot.0.to_le_bytes();
                        (later, Bytes::from([&ballot[..], &body[..]].concat()))
                    }
                };
                keep(kind, entry.slot, entry.epoch, body);
            }
        }
        Record::LogStarts { slot, epoch } => {
            keep(RecordKind::LogStarts, slot, epoch, Bytes::new());
        }
        Record::SnapshotInstalled { slot, epoch } => {
            keep(RecordKind::SnapshotInstalled, slot, epoch, Bytes::new());
        }
    }
}

/// The engine's view of an entry that the journal read back and verified.
pub(crate) fn fetched_entry(fetched: journal::FetchedEntry) -> Option<Entry> {
    let mut body = fetched.body;
    if !fetched.kind.is_entry() {
        return None;
    }
    if fetched.kind.has_ballot() {
        if body.len() < BALLOT_BYTES {
            return None;
        }
        body.advance(BALLOT_BYTES);
    }
    let kind = match fetched.kind {
        kind if kind.is_membership() => PayloadKind::Membership,
        kind if kind.is_header() => PayloadKind::Header,
        _ => PayloadKind::Commands,
    };
    let payload = Payload::from_body(kind, body).ok()?;
    Some(Entry {
        slot: fetched.slot,
        epoch: fetched.epoch,
        payload,
    })
}
