//! What both engines have, as far as the machines that they share need it.
//!
//! The engines agree in different ways, but around a leadership much is alike: reads
//! (`reading.rs`) and handing over (`handover.rs`). Those are written once, as provided methods of
//! traits whose required ones say where an engine stands.

use base::NodeId;

use crate::engine::{Outputs, Refusal, Ticket};
use crate::message::Body;
use crate::raft::Config;

/// An engine that can be asked who leads, and that speaks to peers and to whoever asked it.
pub(crate) trait Speaking {
    /// Its settings.
    fn config(&self) -> &Config;

    /// Who leads, as far as known.
    fn leader(&self) -> Option<NodeId>;

    /// Puts a message of the current epoch into the outbox; `when_durable`: it leaves only when
    /// everything that this pass writes is.
    fn post(&mut self, to: NodeId, body: Body, when_durable: bool);

    /// Tells someone here that nothing was done, and who leads.
    fn refuse(&self, ticket: Ticket, reason: Refusal, out: &mut Outputs);
}
