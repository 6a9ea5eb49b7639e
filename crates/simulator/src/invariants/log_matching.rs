//! *Log Matching* (Raft thesis, figure 3.2): entries with the same slot and epoch have the same
//! content, and so has everything before them. Seen on the frames that carry entries: whoever
//! sends an entry must send the one that everybody else sends.
//!
//! In Paxos entries stand alone, and an entry is told apart by slot and ballot (*a ballot proposes
//! one value per slot*, "Paxos Made Simple", 2.2). An entry keeps the epoch of the leader that
//! proposed it first, so equal slot and epoch mean equal content, and equal slot and ballot mean
//! equal epoch: whether a leader proposes it, an acceptor reports it, or somebody teaches it.

use base::{Epoch, NodeId, checksum};
use consensus::{Entry, PayloadKind};

use super::ballots::Ballots;
use super::{Violation, violated};

#[derive(Clone, Copy, Debug)]
struct Known {
    epoch: Epoch,
    /// The epoch of the entry before it.
    previous: Epoch,
    /// `None` as long as only its header was sent, to or by a witness.
    content: Option<u32>,
}

impl Known {
    /// Whether both may be the same entry.
    fn agrees(&self, other: &Known) -> bool {
        let may_be_equal = match (self.content, other.content) {
            (Some(here), Some(there)) => here == there,
            (None, _) | (_, None) => true,
        };
        may_be_equal && self.previous == other.previous
    }
}

/// Every entry that was ever sent, by slot.
#[derive(Debug, Default)]
pub struct LogMatching {
    slots: Vec<Vec<Known>>,
}

impl LogMatching {
    /// A node sends entries that follow one of epoch `previous`.
    ///
    /// # Errors
    /// If another content, or another predecessor, is known for one of them.
    pub fn sent(
        &mut self,
        from: NodeId,
        previous: Epoch,
        entries: &[Entry],
    ) -> Result<(), Violation> {
        let mut previous = previous;
        for entry in entries {
            let known = Known {
                epoch: entry.epoch,
                previous,
                content: content(entry),
            };
            self.one(from, entry, known)?;
            previous = entry.epoch;
        }
        Ok(())
    }

    /// Paxos: a node sends an entry, and says under which ballot it was proposed, if it says so.
    ///
    /// # Errors
    /// If another one is known for this slot and epoch, or for this slot and ballot.
    pub fn told(
        &mut self,
        from: NodeId,
        ballot: Option<Epoch>,
        entry: &Entry,
        ballots: &mut Ballots,
    ) -> Result<(), Violation> {
        let known = Known {
            epoch: entry.epoch,
            previous: Epoch(0),
            content: content(entry),
        };
        self.one(from, entry, known)?;
        let other = ballot.and_then(|ballot| ballots.proposed(ballot, entry));
        match other {
            None => Ok(()),
            Some(other) => violated(
                "a ballot proposes one value per slot",
                format!(
                    "{from} tells of {} at slot {} under ballot {ballot:?}; {other} was proposed \
                     there under the same",
                    entry.epoch, entry.slot
                ),
            ),
        }
    }

    fn one(&mut self, from: NodeId, entry: &Entry, known: Known) -> Result<(), Violation> {
        let index = entry.slot.0 as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, Vec::new());
        }
        let here = &mut self.slots[index];
        match here.iter_mut().find(|other| other.epoch == known.epoch) {
            None => here.push(known),
            Some(other) if other.agrees(&known) => other.content = other.content.or(known.content),
            Some(other) => {
                return violated(
                    "log matching",
                    format!(
                        "{from} sends for slot {} and epoch {} another entry than is known \
                         (content {:08x?}, not {:08x?}; predecessor of epoch {}, not {})",
                        entry.slot,
                        entry.epoch,
                        known.content,
                        other.content,
                        known.previous,
                        other.previous
                    ),
                );
            }
        }
        Ok(())
    }
}

fn content(entry: &Entry) -> Option<u32> {
    let (kind, body) = entry.payload.to_body();
    let is_here = kind != PayloadKind::Header;
    is_here.then(|| checksum::crc32c(&body) ^ u32::from(kind == PayloadKind::Membership))
}
