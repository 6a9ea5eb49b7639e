//! What is held against every state and step of a walk.

use super::*;

impl Model {
    /// What was executed stands on the disks of enough.
    pub(super) fn check_kept(&self, state: &State) {
        let past = &self.pasts.things[state.past as usize];
        let of = |voters| self.setting.quorums.of(voters).commit;
        let enough = (NODES - 1..=NODES).map(of).min().unwrap();
        for entry in past.executed.values() {
            let holds = |local: &&u32| {
                let known = &self.locals.things[**local as usize];
                known.covered >= entry.slot || known.stored.contains(&(entry.slot, entry.epoch))
            };
            let count = state.locals.iter().filter(holds).count();
            assert!(count >= enough, "{} is lost but at {count}", entry.slot);
            let keeps = |local: &&u32| {
                let known = &self.locals.things[**local as usize];
                holds(local) && !known.lacks_entries
            };
            let copies = state.locals.iter().filter(keeps).count();
            let most = self.copies().min(enough);
            assert!(copies >= most, "{} has {copies} copies", entry.slot);
        }
    }

    /// How many hold what is chosen, whoever leaves.
    fn copies(&self) -> usize {
        let leaves = self.setting.change.is_some();
        let copies = self.setting.quorums.copies();
        copies.unwrap_or(if leaves { 1 } else { NODES - 1 })
    }

    /// What a witness has a header of, somebody can tell: as many as an entry has copies.
    pub(super) fn check_headers(&self, state: &State) {
        let holders: Vec<&Known> = state
            .locals
            .iter()
            .map(|local| &*self.locals.things[*local as usize])
            .collect();
        let Some(witness) = holders.iter().find(|known| known.lacks_entries) else {
            return;
        };
        for stored in &witness.stored {
            let has = |known: &&&Known| {
                !known.lacks_entries && (known.covered >= stored.0 || known.stored.contains(stored))
            };
            let copies = holders.iter().filter(has).count();
            let least = self.copies();
            assert!(
                copies >= least,
                "a header at {} of {copies} entries",
                stored.0
            );
        }
    }
}

/// What a message says of its sender is on its sender's disk.
pub(super) fn check_said(id: NodeId, host: &Host, message: &Message) {
    let disk = &host.disk;
    match &message.body {
        Body::Vote { .. }
        | Body::VoteReply { granted: true }
        | Body::Paxos(PaxosBody::Prepare { .. } | PaxosBody::Promise { granted: true, .. }) => {
            let promised = disk.hard_state.epoch;
            assert!(
                promised >= message.epoch,
                "{id} promised {message:?} on its disk"
            );
        }
        Body::AppendReply { matched, .. } if message.epoch == host.engine.hard_state().epoch => {
            assert!(*matched <= disk.last(), "{id} acknowledged {matched}");
        }
        Body::Paxos(PaxosBody::AcceptReply { durable, .. }) => {
            let has = |slot: &Slot| !durable.contains(*slot) || disk.entries.contains_key(slot);
            let mut slots = (disk.start.0.0 + 1..=durable.highest().0).map(Slot);
            assert!(
                slots.all(|slot| has(&slot)),
                "{id} acknowledged {durable:?}"
            );
        }
        _ => {}
    }
}

/// What was promised before is promised after: of two processes what the engine says, and across a
/// death what stood on the disk.
pub(super) fn check_promises(before: &Local, after: &Local) {
    let promises = |local: &Local, dies: bool| match &local.node {
        Node::Up(host) if !dies => host.engine.hard_state(),
        _ => local.disk().hard_state,
    };
    let dies = matches!(after.node, Node::Down(_));
    let (was, is) = (promises(before, dies), promises(after, dies));
    assert!(
        is.epoch >= was.epoch,
        "{} went back to {}",
        after.id,
        is.epoch
    );
    let is_kept = is.epoch > was.epoch || was.vote.is_none() || is.vote == was.vote;
    assert!(is_kept, "{} changed its vote in {}", after.id, is.epoch);
}
