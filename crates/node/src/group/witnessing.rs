//! A node that votes and holds no data: what it keeps in place of a state, and what it answers.
//!
//! ```text
//!   headers, as they are chosen ──▶ every so many: an anchor (slot, who votes there)
//!                                        │ enough headers behind it
//!                                        ▼
//!                          a checkpoint without rows: here the log begins
//! ```
//!
//! It is a group like any other whose entries do nothing: its state passes them and stays empty. So
//! starting, recovering, joining, being repaired and being removed are the same code. What differs
//! stands here. A checkpoint covers an *older* slot than the last one, because a witness must still
//! be able to tell of the headers behind it ([`consensus::Limits::headers_kept`]), and its log
//! begins exactly there.
//!
//! What a client asks for is refused: a witness does not know who may see what, nor what there is.
//! See `docs/decisions/0018-witnesses.md`.

use std::collections::VecDeque;

use base::{Instant, NodeId, Slot};
use consensus::Membership;
use state::Snapshot;

use super::Group;
use crate::calls::Waiter;
use crate::checkpoints::Gathered;
use crate::interface::{Call, Output};
use crate::notes::Note;
use crate::operator::Asker;
use crate::peers::Peers;
use crate::system::{self, SystemCommand};
use crate::wire::{GroupFrame, Operation};

/// The number under which a witness introduces itself to a leader. No request of an operator has
/// it.
pub(super) const INTRODUCTION: u64 = u64::MAX;

/// What an operator is told who asks a witness for what it does not have.
pub(super) const REFUSAL: &str = "a witness, which votes and holds no data";

/// However few headers must be kept, so many lie between two checkpoints.
const HEADERS_BETWEEN: u64 = 64;

/// What a witness keeps of the slots that it has passed.
#[derive(Default)]
pub(super) struct Witnessing {
    /// Where the log may begin one day, oldest first; a handful.
    anchors: VecDeque<(Snapshot, Membership)>,
}

impl Witnessing {
    fn newest(&self) -> Slot {
        let newest = self.anchors.back();
        newest.map_or(Slot(0), |(snapshot, _)| snapshot.applied())
    }

    /// Takes the newest anchor with at least `kept` slots behind it.
    fn take(&mut self, applied: Slot, kept: u64) -> Option<(Snapshot, Membership)> {
        let is_old = |anchor: &(Snapshot, Membership)| anchor.0.applied().0 + kept <= applied.0;
        let old = self.anchors.iter().take_while(|anchor| is_old(anchor));
        let count = old.count();
        self.anchors.drain(..count).next_back()
    }
}

/// Whether a witness can answer this: what is about the node itself, and what only the leader
/// decides.
pub(super) fn answers(call: &Call) -> bool {
    matches!(
        call,
        Call::Status
            | Call::Groups
            | Call::Ready
            | Call::MemberAdd { .. }
            | Call::MemberPromote { .. }
            | Call::MemberRemove { .. }
            | Call::TransferLeadership { .. }
    )
}

impl Group {
    /// Whether this node votes in the group and holds no data.
    #[must_use]
    pub fn is_witness(&self) -> bool {
        self.witnessing.is_some()
    }

    /// A slot has been passed: the log may begin there one day.
    pub(super) fn remember_header(&mut self) {
        let Some(witnessing) = &mut self.witnessing else {
            return;
        };
        let between = self.config.limits.consensus.headers_kept();
        let between = between.max(HEADERS_BETWEEN);
        let newest = self.checkpoints.newest();
        let newest = newest.map_or(Slot(0), |newest| newest.slot);
        if self.replica.applied().0 >= witnessing.newest().max(newest).0 + between {
            let anchor = (self.replica.snapshot(), self.replica.membership().clone());
            witnessing.anchors.push_back(anchor);
        }
    }

    /// Begins a checkpoint if enough headers lie behind an anchor; goes on with the one that is
    /// being written.
    pub(super) fn forget_headers(&mut self, now: Instant, out: &mut Vec<Output>) {
        let wanted = Gathered {
            is_wanted: true,
            ..Gathered::default()
        };
        let may_begin = self.unreported.is_none() && self.checkpoints.is_due(now, wanted);
        let kept = self.config.limits.consensus.headers_kept();
        let applied = self.replica.applied();
        if may_begin
            && let Some(witnessing) = &mut self.witnessing
            && let Some((snapshot, membership)) = witnessing.take(applied, kept)
        {
            let slot = snapshot.applied();
            out.push(Output::Note(Note::CheckpointStarted { slot }));
            self.checkpoints.start(now, snapshot, &membership, 0);
        }
        self.checkpoints.drain(now, 0, out);
    }

    /// Tells the leader that this witness runs, until it says that this is known.
    pub(super) fn introduce_itself(&self, peers: &Peers, out: &mut Vec<Output>) {
        if let Some(leader) = self.leader {
            let (id, operation) = (INTRODUCTION, Operation::Introduce { id: self.own });
            let body = GroupFrame::Operate { id, operation }.encode(self.id);
            peers.send(leader, body, out);
        }
    }

    /// On the leader: a witness runs. It is written down as that of the others is, so that nobody
    /// else takes its place; it serves no client, and knows every level, because it executes
    /// nothing.
    pub(super) fn introduce(
        &mut self,
        now: Instant,
        asker: Asker,
        witness: NodeId,
        peers: &Peers,
        out: &mut Vec<Output>,
    ) {
        let (level, client_urls) = (u32::MAX, Vec::new());
        let known = system::published(self.replica.reader(), witness);
        let result = match known == Some((level, client_urls.clone())) {
            true => Ok("it is known".to_owned()),
            false => {
                let command = SystemCommand::Publish {
                    member: witness,
                    level,
                    client_urls,
                };
                self.add_system_command(now, &command, Waiter::Nobody);
                Err("it will be".to_owned())
            }
        };
        self.operated(asker, result, peers, out);
    }
}
