//! Phase 1: what may have been chosen before this ballot?
//!
//! One question covers the whole log behind what the candidate knows to be chosen. Each acceptor
//! promises, durably, and tells what it accepted there, in pieces that the candidate asks for one
//! after another; a lost question or answer is repeated. Between the first and the last piece the
//! acceptor accepts nothing under lower ballots any more, so the pieces fit together.
//!
//! Once a quorum has told everything, and the candidate has caught up with what any of them knew to
//! be chosen, it leads. It proposes what it was told, the value under the highest ballot where
//! several were accepted, and no-ops in the holes between. Where that is a *header*, told by a
//! witness, it is no hole: whoever has the entry of that slot and epoch, under whatever ballot, has
//! what the header stands for, because an epoch has one leader and that proposes one entry a slot.
//! Until somebody tells it, the campaign waits. The promises stay good as long as the
//! ballot: behind a stop-sign it needs those of a quorum of the new members, and asks only those
//! for them who have not given theirs.

use std::collections::BTreeMap;

use base::mutant::{self, Mutant};
use base::{Epoch, Instant, NodeId, Slot};

use crate::engine::{Outputs, Role};
use crate::entry::{Entry, Payload};
use crate::message::{Accepted, Body, PaxosBody};
use crate::paxos::Paxos;
use crate::speaking::Speaking;

/// What one acceptor has told so far.
#[derive(Clone, Copy, Debug)]
struct Teller {
    /// Where the next piece begins.
    next: Slot,
    /// What it knew to be chosen.
    chosen: Slot,
    is_done: bool,
}

/// Phase 1 of one ballot.
#[derive(Clone, Debug, Default)]
pub(super) struct Preparation {
    tellers: BTreeMap<NodeId, Teller>,
    /// By slot, what was accepted under the highest ballot among what was told.
    found: BTreeMap<Slot, (Epoch, Entry)>,
    /// Every entry that was told, while there are witnesses: what headers may stand for.
    entries: BTreeMap<(Slot, Epoch), Entry>,
}

impl Preparation {
    /// Puts entries in the place of headers, from this slot on. Returns whether no header is left.
    fn supply(&mut self, from: Slot) -> bool {
        let mut is_whole = true;
        for (slot, (_, found)) in self.found.range_mut(from..) {
            if found.is_header() {
                match self.entries.get(&(*slot, found.epoch)) {
                    Some(entry) => *found = entry.clone(),
                    None => is_whole = false,
                }
            }
        }
        is_whole
    }

    /// Whether an acceptor has promised and told everything.
    pub(super) fn is_done(&self, id: NodeId) -> bool {
        self.tellers.get(&id).is_some_and(|teller| teller.is_done)
    }

    fn find(&mut self, ballot: Epoch, entry: Entry, has_witnesses: bool) {
        let slot = entry.slot;
        if has_witnesses && !entry.is_header() {
            self.entries.insert((slot, entry.epoch), entry.clone());
        }
        let known = self.found.get(&slot).map(|known| known.0);
        let is_better = |known| match mutant::is_on(Mutant::PreferLowerBallot) {
            true => known > ballot,
            false => known < ballot,
        };
        if known.is_none_or(is_better) {
            self.found.insert(slot, (ballot, entry));
        }
    }
}

/// An acceptor's answer; the fields of [`PaxosBody::Promise`].
pub(super) struct Promise {
    pub(super) granted: bool,
    pub(super) first: Slot,
    pub(super) next: Slot,
    pub(super) chosen: Slot,
    pub(super) accepted: Vec<Accepted>,
}

impl Paxos {
    /// Begins phase 1 of this ballot.
    pub(super) fn prepare(&mut self, now: Instant) {
        let mut preparation = Preparation::default();
        let has_witnesses = !self.membership().witnesses.is_empty();
        for cell in self.log.cells(self.log.chosen().next()) {
            preparation.find(cell.ballot, cell.entry.clone(), has_witnesses);
        }
        self.preparation = Some(Box::new(preparation));
        self.ask_for_promises(now, true);
    }

    /// Asks every voter that has not told everything: of the membership in force, and of the one
    /// that is to follow.
    pub(super) fn ask_for_promises(&mut self, now: Instant, when_durable: bool) {
        self.election.repeat_at = now + self.config.heartbeat_interval;
        let Some(preparation) = &self.preparation else {
            return;
        };
        let first = self.log.chosen().next();
        let mut voters: Vec<NodeId> = self.membership().all_voters().collect();
        if let Some(next) = self.next_membership_to_be() {
            voters.extend(next.all_voters());
            voters.sort_unstable();
            voters.dedup();
        }
        voters.retain(|id| *id != self.config.id && !preparation.is_done(*id));
        let occasion = self.election.occasion;
        for to in voters {
            let preparation = self.preparation.as_ref().expect("it prepares");
            let teller = preparation.tellers.get(&to);
            let first = teller.map_or(first, |teller| teller.next);
            let body = PaxosBody::Prepare { first, occasion };
            self.post(to, Body::Paxos(body), when_durable);
        }
    }

    /// A candidate asks those once more who have not answered: question or answer may be lost.
    pub(super) fn repeat_prepare(&mut self, now: Instant) {
        if self.role != Role::Candidate || now < self.election.repeat_at {
            return;
        }
        let own = self.election.own_vote;
        let durable = own.is_some_and(|mark| self.writes.is_durable(mark));
        if durable {
            return self.ask_for_promises(now, false);
        }
        // The first question still waits for the own promise to be durable.
        self.election.repeat_at = now + self.config.heartbeat_interval;
    }

    /// Tells a candidate what was accepted from `first` on, as much as one message holds.
    pub(super) fn tell_accepted(&mut self, to: NodeId, first: Slot) {
        let chosen = match self.is_witness() {
            true => self.told_by_headers(),
            false => self.log.chosen(),
        };
        let mut accepted: Vec<Accepted> = Vec::new();
        let (mut bytes, mut next) = (0, Slot(0));
        for cell in self.log.cells(first.max(chosen.next())) {
            bytes += cell.entry.bytes();
            if bytes > self.limits().append_bytes && !accepted.is_empty() {
                next = cell.entry.slot;
                break;
            }
            accepted.push(Accepted {
                ballot: cell.ballot,
                entry: cell.entry.clone(),
            });
        }
        let body = PaxosBody::Promise {
            granted: true,
            first,
            next,
            chosen,
            accepted,
        };
        let when_durable = !mutant::is_on(Mutant::VoteBeforeSync);
        self.post(to, Body::Paxos(body), when_durable);
    }

    /// A witness can teach nobody what is chosen. So it tells the headers of that as well, as far
    /// back as it has them and a candidate believes: behind this slot.
    fn told_by_headers(&self) -> Slot {
        let chosen = self.log.chosen();
        let held = self.log.start().slot.max(self.log.cached_from().previous());
        let believed = chosen.0.saturating_sub(self.limits().headers_kept());
        held.max(Slot(believed)).min(chosen)
    }

    /// An acceptor answers in this ballot.
    pub(super) fn on_promise(
        &mut self,
        now: Instant,
        from: NodeId,
        promise: Promise,
        out: &mut Outputs,
    ) {
        let is_open = self.leading.as_ref().is_some_and(|leading| leading.is_open);
        let chosen = self.log.chosen();
        let known = match self.leading {
            Some(_) => chosen,
            None => promise.chosen.max(chosen),
        };
        let epoch = self.epoch;
        let has_witnesses = !self.membership().witnesses.is_empty();
        let Some(preparation) = &mut self.preparation else {
            return;
        };
        if !promise.granted {
            if self.role == Role::Candidate {
                self.count_refusal(now, from);
            }
            return;
        }
        let first = promise.first;
        let teller = preparation.tellers.entry(from).or_insert(Teller {
            next: first,
            chosen: Slot(0),
            is_done: false,
        });
        if teller.is_done || teller.next != first {
            return;
        }
        let end = known.0 + 4 * self.config.limits.window_entries;
        let is_sound = |each: &Accepted| {
            let Accepted { ballot, entry } = each;
            *ballot <= epoch
                && entry.epoch <= *ballot
                && (first.0..=end).contains(&entry.slot.0)
                && (promise.next == Slot(0) || entry.slot < promise.next)
        };
        let goes_on = promise.next == Slot(0) || promise.next > first;
        if !goes_on || !promise.accepted.iter().all(is_sound) {
            return self.drop_message(from, "a promise that no acceptor gives", out);
        }
        teller.chosen = teller.chosen.max(promise.chosen);
        teller.is_done = promise.next == Slot(0);
        teller.next = promise.next;
        if self.role == Role::Candidate {
            // It goes on, in as many pieces as there are: who begins anew begins at the first.
            let later = now + self.config.election_timeout;
            self.election.deadline = self.election.deadline.max(later);
        }
        if !is_open {
            // Of a leader that is open, a quorum has told everything before.
            for Accepted { ballot, entry } in promise.accepted {
                let is_new = self.log.get(entry.slot).is_none();
                if is_new && mutant::is_on(Mutant::FillOverAccepted) {
                    continue;
                }
                preparation.find(ballot, entry, has_witnesses);
            }
        }
        if promise.next != Slot(0) {
            let occasion = self.election.occasion;
            let first = promise.next;
            let body = PaxosBody::Prepare { first, occasion };
            self.post(from, Body::Paxos(body), false);
        }
    }

    /// An acceptor that told of more to be chosen than it knows now has died since: what it knew is
    /// among what it has accepted, and it is asked again. To go on asking what is chosen would be
    /// an exchange without end.
    pub(super) fn doubt_teller(&mut self, id: NodeId, chosen: Slot) {
        let Some(preparation) = self.preparation.as_mut().filter(|_| self.leading.is_none()) else {
            return;
        };
        let tellers = &mut preparation.tellers;
        if tellers
            .get(&id)
            .is_some_and(|teller| teller.chosen > chosen)
        {
            tellers.remove(&id);
        }
    }

    /// Goes on once a quorum has told everything: to leading, or over a stop-sign.
    pub(super) fn advance_preparation(&mut self, now: Instant, out: &mut Outputs) {
        let closed = |leading: &super::Leading| {
            !leading.is_open && leading.stop_sign.is_none() && leading.awaiting.is_none()
        };
        let is_open = !self.leading.as_deref().is_none_or(closed);
        let own_durable = |mark| self.writes.is_durable(mark);
        let own = self.election.own_vote.is_some_and(own_durable) || self.leading.is_some();
        let Some(preparation) = self.preparation.as_ref().filter(|_| !is_open) else {
            return;
        };
        let done = |id: NodeId| match id == self.config.id {
            true => own,
            false => preparation.is_done(id),
        };
        let fewer = mutant::is_on(Mutant::CountVoteTwice) && self.role == Role::Candidate && own;
        let fewer = fewer || mutant::is_on(Mutant::OpenWithoutPromises) && self.leading.is_some();
        if !self.membership().elects(done) && !fewer {
            return;
        }
        if self.leading.is_none() && self.is_installing() {
            // A snapshot that somebody outside this quorum had sent takes the place of the state:
            // nothing may be chosen, and executed, past it meanwhile.
            return;
        }
        let tellers = preparation.tellers.iter();
        let ahead = tellers
            .filter(|(_, teller)| teller.is_done && teller.chosen > self.log.chosen())
            .max_by_key(|(id, teller)| (!self.membership().is_witness(**id), teller.chosen));
        if ahead.is_some() && self.leading.is_some() {
            // Behind a change of the membership others may have gone on without this one.
            return self.step_down(now, "others know more to be chosen", out);
        }
        if let Some(id) = ahead.map(|(id, _)| *id) {
            // What it knows to be chosen is not told by promises.
            return match self.membership().is_witness(id) {
                true => self.ask_anybody(now),
                false => self.learn_from(now, id),
            };
        }
        // What stands further behind was told by nobody who told the truth about what is chosen.
        let chosen = self.log.chosen();
        let end = chosen.0 + 4 * self.limits().window_entries;
        let preparation = self.preparation.as_mut().expect("it has prepared");
        preparation.found.split_off(&Slot(end + 1));
        if !preparation.supply(chosen.next()) {
            return;
        }
        if self.leading.is_none() {
            self.become_leader(now, out);
        }
        self.propose_found(out);
    }

    /// Proposes what acceptors had told, up to the next stop-sign; then takes new proposals.
    fn propose_found(&mut self, out: &mut Outputs) {
        let epoch = self.epoch;
        let ignores = mutant::is_on(Mutant::IgnoreCandidateLog);
        let leading = self.leading.as_ref().expect("only a leader proposes");
        let preparation = self.preparation.as_mut().expect("a leader has prepared");
        let first = leading.proposed.next();
        let mut found = preparation.found.split_off(&first);
        if ignores {
            found.clear();
        }
        let is_stop_sign = |entry: &Entry| matches!(entry.payload, Payload::Membership(_));
        let mut run = Vec::with_capacity(found.len());
        let mut slot = first;
        let mut stop_sign = None;
        while let Some(next) = found.first_entry() {
            let is_here = *next.key() == slot;
            if is_here && is_stop_sign(&next.get().1) {
                stop_sign = Some(slot);
                break;
            }
            run.push(match is_here {
                true => next.remove().1,
                false => Entry {
                    slot,
                    epoch,
                    payload: Payload::Empty,
                },
            });
            slot = slot.next();
        }
        preparation.found = found;
        self.propose_run(run);
        if let Some(slot) = stop_sign {
            if self.log.chosen() == slot.previous() {
                let found = self.preparation.as_mut().expect("a leader has prepared");
                let (_, entry) = found.found.remove(&slot).expect("it has just been seen");
                self.propose_run(vec![entry]);
                let leading = self.leading.as_mut().expect("only a leader proposes");
                leading.stop_sign = Some(slot);
            }
            return;
        }
        let leading = self.leading.as_mut().expect("only a leader proposes");
        leading.is_open = true;
        let proposed = leading.proposed;
        leading.first_open.get_or_insert(proposed);
        self.release_held(out);
    }

    /// Proposes entries that follow each other and what was proposed before, at once: one by one,
    /// each would cut its slot out of a batch that was accepted as a whole.
    fn propose_run(&mut self, run: Vec<Entry>) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return;
        };
        let (first, last) = (first.slot, last.slot);
        let leading = self.leading.as_mut().expect("only a leader proposes");
        assert!(
            first == leading.proposed.next(),
            "slots are proposed in order"
        );
        leading.proposed = last;
        leading.unchosen_bytes += run.iter().map(Entry::bytes).sum::<u64>();
        self.accepted(first, last);
        let limit = self.config.limits.append_bytes;
        self.log.propose_again(run, self.epoch, limit);
    }
}
