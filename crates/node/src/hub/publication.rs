//! What a node tells its hubs: the changes that it has just executed, and where it stands.

use std::sync::Arc;

use base::{ClusterId, Epoch, NodeId};
use etcd::auth::Access;
use state::{EventBatch, Revision};

/// Who serves; stands in the header of every answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
}

/// What has changed on a node since its last publication. A clone shares the events.
///
/// A host hands every publication to all hubs before it gives out answers that follow it in the
/// node's outputs, and a hub takes in all that there are before it handles a client's request. So
/// a client whose put was answered never gets that put from a watch "from now on".
#[derive(Clone, Debug)]
pub struct Publication {
    /// Who serves.
    pub member: Member,
    /// One batch per revision, in the order of revisions and without a gap; perhaps none.
    pub batches: Arc<[EventBatch]>,
    /// The revision of the keyspace after them.
    pub revision: Revision,
    /// The floor of history: the oldest revision that can be read.
    pub compacted: Revision,
    /// The engine's epoch, which etcd calls term.
    pub term: Epoch,
    /// Somebody is known to lead.
    pub has_leader: bool,
    /// The batches do not follow the last publication: a snapshot has jumped over revisions, or
    /// the node has just started. What was jumped over can be read from history.
    pub reset: bool,
    /// Users and roles, if they have changed since the last publication.
    pub access: Option<Arc<Access>>,
}
