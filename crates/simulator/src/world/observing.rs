//! What is looked at while it is sent: the messages of engines.
//!
//! ```text
//!   node ──frame for after a write──▶ disk ──▶ sent        looked at twice, read once
//!        ──frame──────────────────────────────▶ sent        looked at once
//! ```

use bytes::Bytes;

use super::World;
use crate::invariants::groups::{Said, unreadable};

impl World {
    /// Looks at what a node has its disk send once a write has ended, and keeps what it says for
    /// when it is sent: the same bytes say the same then.
    pub(super) fn observe_departing(
        &mut self,
        from: usize,
        to: usize,
        body: &Bytes,
    ) -> Option<Said> {
        let (from, to) = self.hosts[from].id().zip(self.hosts[to].id())?;
        let said = Said::in_frame(body);
        let looked = match &said {
            Some(said) => self.invariants.gives_away(from, to, said),
            None => unreadable(from),
        };
        if let Err(violation) = looked {
            self.fail(violation);
        }
        said
    }

    /// Looks at an engine's message, which may have been read before; whether that ends the run.
    pub(crate) fn observe_frame(
        &mut self,
        (from, to): (usize, usize),
        body: &Bytes,
        said: Option<Said>,
    ) -> bool {
        let Some((own, other)) = self.hosts[from].id().zip(self.hosts[to].id()) else {
            return false;
        };
        let said = said.or_else(|| Said::in_frame(body));
        let looked = match &said {
            Some(said) => self.invariants.sent(own, other, said),
            None => unreadable(own),
        };
        if let Err(violation) = looked {
            self.fail(violation);
            return true;
        }
        self.invariants.take_reached(|mark| self.marks.reach(mark));
        let mut promises = said.iter().flat_map(|said| said.promises(other));
        promises.any(|promise| self.hold_to_disk(from, own, promise))
    }
}
