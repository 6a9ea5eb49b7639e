//! Read rounds in Paxos: when one may begin, and what it proves.
//!
//! A leader knows everything that may have been chosen before it once it has proposed what phase 1
//! found and that is chosen; no round begins before. A round is proven by a committing quorum that
//! named its number: none of them had promised a higher ballot by then, so no later leader had an
//! electing quorum, and nothing was chosen without this leader knowing.

use base::mutant::{self, Mutant};
use base::{NodeId, Slot};

use crate::paxos::Paxos;
use crate::reading::Reading;
use crate::reads::{Forwards, ReadRounds};

impl Reading for Paxos {
    fn rounds(&mut self) -> Option<&mut ReadRounds> {
        self.leading.as_mut().map(|leading| &mut leading.reads)
    }

    fn forwards(&mut self) -> &mut Forwards {
        &mut self.forwards
    }

    fn asked(&self) -> &Forwards {
        &self.forwards
    }

    fn readable(&self) -> Option<Slot> {
        let leading = self.leading.as_ref()?;
        let chosen = self.log.chosen();
        let is_open = leading.first_open.is_some_and(|first| chosen >= first);
        (is_open || mutant::is_on(Mutant::ReadBeforeOpen)).then_some(chosen)
    }

    fn begin_round(&mut self) -> u64 {
        let leading = self.leading.as_mut().expect("only a leader begins rounds");
        leading.begin_round()
    }

    fn is_named(&self, number: u64) -> bool {
        let Some(leading) = &self.leading else {
            return false;
        };
        let named = |id: NodeId| id == self.config.id || leading.peers.has_named(id, number);
        self.membership().commits(named)
    }

    fn draw(&mut self) -> u64 {
        self.random.next_u64()
    }
}
