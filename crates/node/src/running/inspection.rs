//! What a simulator may look at between two passes; nothing here changes anything.

use base::NodeId;
use consensus::AnyEngine;

use super::Running;
use crate::replica::Replica;

impl Running {
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
