//! What a simulator may look at between two passes; nothing here changes anything.

use base::NodeId;
use consensus::AnyEngine;

use super::Group;
use crate::replica::Replica;

impl Group {
    /// This node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.own
    }

    /// The engine of the group.
    #[must_use]
    pub fn engine(&self) -> &AnyEngine {
        &self.engine
    }

    /// The replica of the group's state.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }
}
