//! What the hubs are told of this node, and the history that they read.

use std::sync::Arc;

use base::Epoch;
use base::mutant::{self, Mutant};
use etcd::auth::{Access, Status};
use state::Revision;

use super::Group;
use crate::hub::{HistoryJob, HistoryRequest, HubId, Member, Publication};
use crate::interface::Output;

/// What the hubs know beside the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    revision: Revision,
    compacted: Revision,
    term: Epoch,
    has_leader: bool,
    authentication: Status,
}

impl Group {
    /// Tells the hubs what has changed since they were last told, if anything has.
    pub(super) fn publish_changes(&mut self, out: &mut Vec<Output>) {
        // A witness has nothing to tell, and nobody watches it.
        if self.is_witness() {
            return;
        }
        let reader = self.replica.reader();
        // The rest follows from the state, which only what is executed changes.
        let seen = (reader.applied(), self.epoch, self.leader.is_some());
        if self.told_hubs.is_some() && self.seen_for_hubs == seen {
            return;
        }
        self.seen_for_hubs = seen;
        let now = Told {
            revision: reader.revision(),
            compacted: reader.compacted(),
            term: self.epoch,
            has_leader: self.leader.is_some(),
            authentication: etcd::auth::status(reader),
        };
        if self.told_hubs == Some(now) {
            return;
        }
        // The planted bug keeps every other revision to itself until the next one.
        if mutant::is_on(Mutant::PublishLate) && self.told_hubs.is_some() && now.revision.0 % 2 == 0
        {
            return;
        }
        let before = self.told_hubs.replace(now);
        let reset = before.is_none();
        let knows = before.is_some_and(|before| before.authentication == now.authentication);
        let access = (!knows).then(|| Arc::new(Access::of(reader)));
        let batches = self.replica.take_events();
        let publication = Publication {
            member: Member {
                cluster: self.cluster,
                node: self.own,
            },
            batches: if reset { [].into() } else { batches.into() },
            revision: now.revision,
            compacted: now.compacted,
            term: now.term,
            has_leader: now.has_leader,
            reset,
            access,
        };
        out.push(Output::Publish {
            group: self.id,
            publication,
        });
    }

    /// Makes a read of history ready to run elsewhere, on the state as it is now.
    pub(crate) fn read_history(&self, hub: HubId, request: HistoryRequest, out: &mut Vec<Output>) {
        let job = HistoryJob::new(hub, self.replica.snapshot(), request);
        out.push(Output::ReadHistory {
            group: self.id,
            job: Box::new(job),
        });
    }
}
