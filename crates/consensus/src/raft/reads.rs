//! Read rounds in Raft: when one may begin, and what it proves.
//!
//! A leader knows that everything chosen before it stands in its log, but only knows *up to where*
//! once an entry of its own epoch is chosen; no round begins before. Where there are witnesses it
//! is enough that all that it found in its log was known to be chosen: nothing else can be, and a
//! leader without enough copies, whose entries are not chosen, has nothing else to serve reads by.
//! A round is proven by a quorum that named its number: at that moment none of them had yet helped
//! to elect a later leader, so nothing later was chosen without this leader knowing (Raft thesis,
//! section 6.4).

use base::mutant::{self, Mutant};
use base::{NodeId, Slot};

use crate::raft::Raft;
use crate::reading::Reading;
use crate::reads::{Forwards, ReadRounds};

impl Reading for Raft {
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
        let first = match self.membership().witnesses.is_empty() {
            true => leading.first,
            false => leading.first.previous(),
        };
        let is_open = self.chosen >= first || mutant::is_on(Mutant::ReadBeforeOpen);
        is_open.then_some(self.chosen)
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
