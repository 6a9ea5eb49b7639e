//! How an installation ends that is not that of a state: a witness is given a membership to begin
//! with, and what cannot be used is given back with the reason.

use base::Instant;
use consensus::Membership;
use journal::disk::{File, Operation};
use state::State;

use super::{Checkpoints, Event, Purpose, Unusable};
use crate::interface::Output;

impl Checkpoints {
    /// All of what a witness is given has been read: it begins there, with a state without data,
    /// once that is written.
    pub(super) fn begin_there(&mut self, out: &mut Vec<Output>) -> Option<Event> {
        let installing = self.installing.as_mut()?;
        let (checkpoint, bytes) = (installing.checkpoint, installing.beginning.split().freeze());
        if base::checksum::crc32c(&bytes) != checkpoint.checksum {
            let other = "it is not the membership that was announced";
            return self.reject(Unusable::Damaged(other.into()), out);
        }
        let Ok(membership) = Membership::decode(bytes) else {
            let unreadable = "the membership cannot be decoded";
            return self.reject(Unusable::Damaged(unreadable.into()), out);
        };
        let state = State::passed(self.limits.state, checkpoint.slot, checkpoint.epoch);
        let snapshot = state.snapshot();
        installing.loaded = Some(Box::new((state, membership.clone())));
        let file = File::IncomingCheckpoint(self.group, checkpoint.slot);
        self.request(Operation::Delete { file }, Purpose::Nothing, out);
        self.incoming = None;
        // A few bytes, which the leader waits for: they are not paced.
        self.write(Instant::default(), snapshot, &membership);
        None
    }

    pub(super) fn reject(&mut self, unusable: Unusable, out: &mut Vec<Output>) -> Option<Event> {
        let checkpoint = self.installing.take()?.checkpoint;
        self.incoming = None;
        let file = File::IncomingCheckpoint(self.group, checkpoint.slot);
        self.request(Operation::Delete { file }, Purpose::Nothing, out);
        Some(match unusable {
            Unusable::Damaged(reason) => Event::Rejected(checkpoint, reason),
            Unusable::Newer(reason) => Event::TooNew(reason),
        })
    }
}
