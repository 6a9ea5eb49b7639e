//! Replicas agree: at the same slot they have the same state, by its digest, and the same
//! membership, which is a pure function of snapshot and log (openraft#1808: a snapshot was
//! installed and a stale voter set kept; etcd finds such things hours later, by its corruption
//! check). Builds that know different levels agree as well: all go by the level of their group.

use std::sync::Arc;

use base::{NodeId, Slot};
use consensus::{AnyEngine, Membership};
use node::replica::Replica;

use super::{Violation, violated};

#[derive(Clone, Copy, Debug)]
struct Known {
    digest: u128,
    membership: usize,
    by: NodeId,
    /// The newest level that its build knows.
    level_max: u32,
}

/// Digest and membership by slot.
#[derive(Debug, Default)]
pub struct Agreement {
    slots: Vec<Option<Known>>,
    /// All that differ.
    memberships: Vec<Arc<Membership>>,
    /// Where some that are held by somebody stand in `memberships`: what is held here does not
    /// change, so that one that has been compared need not be compared again.
    compared: Vec<(Arc<Membership>, usize)>,
    /// Builds that know different levels have been compared since somebody last looked here.
    pub is_mixed: bool,
}

impl Agreement {
    fn number_of(&mut self, membership: &Arc<Membership>) -> usize {
        let mut compared = self.compared.iter().rev();
        if let Some((_, number)) = compared.find(|(held, _)| Arc::ptr_eq(held, membership)) {
            return *number;
        }
        let known = self
            .memberships
            .iter()
            .rposition(|known| known == membership);
        let number = known.unwrap_or_else(|| {
            self.memberships.push(Arc::clone(membership));
            self.memberships.len() - 1
        });
        self.compared.push((Arc::clone(membership), number));
        number
    }

    /// A replica has executed more.
    ///
    /// # Errors
    /// If another one was different at that slot.
    pub fn executed(&mut self, own: NodeId, replica: &Replica) -> Result<(), Violation> {
        let Slot(slot) = replica.applied();
        let index = slot as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, None);
        }
        let now = Known {
            digest: replica.digest(),
            membership: self.number_of(replica.membership_shared()),
            by: own,
            level_max: replica.level_max(),
        };
        let Some(known) = self.slots[index] else {
            self.slots[index] = Some(now);
            return Ok(());
        };
        self.is_mixed |= known.level_max != now.level_max;
        if known.membership != now.membership {
            return violated(
                "membership is a function of snapshot and log",
                format!(
                    "at slot {slot}, {} has {:?} and {own} has {:?}",
                    known.by, self.memberships[known.membership], self.memberships[now.membership]
                ),
            );
        }
        if known.digest != now.digest {
            return violated(
                "state digests are equal",
                format!(
                    "at slot {slot}, {} has {:032x} and {own} has {:032x}",
                    known.by, known.digest, now.digest
                ),
            );
        }
        Ok(())
    }

    /// The engine's membership is the replica's, unless it stands in an entry not yet executed.
    ///
    /// # Errors
    /// If they differ.
    pub fn in_force(
        &mut self,
        own: NodeId,
        engine: &AnyEngine,
        replica: &Replica,
    ) -> Result<(), Violation> {
        let (slot, membership) = engine.membership_in_force();
        if slot > replica.applied() {
            return Ok(());
        }
        let counted = self.number_of(engine.membership_shared());
        if counted != self.number_of(replica.membership_shared()) {
            return violated(
                "membership is a function of snapshot and log",
                format!(
                    "{own} counts votes by {membership:?} of slot {slot}, and has executed up to \
                     {}, which makes it {:?}",
                    replica.applied(),
                    replica.membership()
                ),
            );
        }
        Ok(())
    }
}
