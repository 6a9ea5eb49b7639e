//! *Log Matching* (Raft thesis, figure 3.2): entries with the same slot and epoch have the same
//! content, and so has everything before them. Seen on the frames that carry entries: whoever
//! sends an entry must send the one that everybody else sends.

use base::{Epoch, NodeId, checksum};
use consensus::{Entry, PayloadKind};

use super::{Violation, violated};

#[derive(Clone, Copy, Debug)]
struct Known {
    epoch: Epoch,
    /// The epoch of the entry before it.
    previous: Epoch,
    content: u32,
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
            let (kind, body) = entry.payload.to_body();
            let content = checksum::crc32c(&body) ^ u32::from(kind == PayloadKind::Membership);
            let known = Known {
                epoch: entry.epoch,
                previous,
                content,
            };
            self.one(from, entry, known)?;
            previous = entry.epoch;
        }
        Ok(())
    }

    fn one(&mut self, from: NodeId, entry: &Entry, known: Known) -> Result<(), Violation> {
        let index = entry.slot.0 as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, Vec::new());
        }
        let here = &mut self.slots[index];
        match here.iter().find(|other| other.epoch == known.epoch) {
            None => here.push(known),
            Some(other) if other.content == known.content && other.previous == known.previous => {}
            Some(other) => {
                return violated(
                    "log matching",
                    format!(
                        "{from} sends for slot {} and epoch {} another entry than is known \
                         (content {:08x}, not {:08x}; predecessor of epoch {}, not {})",
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
