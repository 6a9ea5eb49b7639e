//! What a leader knows of each peer, whichever way the engine agrees.
//!
//! How far a peer is, and what is on its way to it, is the engine's own (`raft/progress.rs`,
//! `paxos/peer.rs`). When it was heard, what it was told, whether it is on its way out and whether
//! a copy there is waited for is alike, and so is what is done with that: here, for all peers of a
//! leader at once.

use std::time::Duration;

use base::{Instant, NodeId, Slot};

use crate::copying::Copying;
use crate::engine::Liveness;
use crate::membership::Membership;
use crate::peers::Peers;

/// What both engines keep of one peer.
#[derive(Clone, Debug)]
pub(crate) struct Contact {
    /// The replication session; answers that name another do not count.
    pub(crate) session: u64,
    /// It keeps headers instead of entries.
    pub(crate) is_witness: bool,
    /// Whether a copy there is waited for.
    pub(crate) copying: Copying,
    /// When an answer in this epoch last arrived.
    pub(crate) last_heard: Option<Instant>,
    /// The highest round that it named.
    pub(crate) round: u64,
    /// A heartbeat is to be sent in this pass.
    pub(crate) heartbeat_due: bool,
    /// What it was last told is chosen.
    pub(crate) chosen_told: Slot,
    /// It was removed, and is only told so: since when.
    pub(crate) departing_since: Option<Instant>,
}

impl Contact {
    /// With a peer of which nothing is known.
    pub(crate) fn new(session: u64, is_witness: bool, now: Instant) -> Contact {
        Contact {
            session,
            is_witness,
            copying: Copying::new(now),
            last_heard: None,
            round: 0,
            heartbeat_due: true,
            chosen_told: Slot(0),
            departing_since: None,
        }
    }

    /// It answered, and named this round, or 0.
    #[inline(always)]
    pub(crate) fn heard(&mut self, now: Instant, round: u64) {
        self.last_heard = Some(now);
        self.round = self.round.max(round);
    }
}

/// What an engine keeps of one peer.
pub(crate) trait Followed {
    /// What both engines keep.
    fn contact(&self) -> &Contact;

    /// The same, to change it.
    fn contact_mut(&mut self) -> &mut Contact;

    /// Everything up to here is durable there.
    fn durable(&self) -> Slot;
}

impl<P: Followed> Peers<P> {
    /// Everybody is to answer in this pass.
    pub(crate) fn ask_all(&mut self) {
        for peer in self.values_mut() {
            peer.contact_mut().heartbeat_due = true;
        }
    }

    /// Everybody counts as heard from just now.
    pub(crate) fn hear_all(&mut self, now: Instant) {
        for peer in self.values_mut() {
            peer.contact_mut().last_heard = Some(now);
        }
    }

    /// Whether a peer has named this round or a later one.
    pub(crate) fn has_named(&self, id: NodeId, round: u64) -> bool {
        let peer = self.get(&id);
        peer.is_some_and(|peer| peer.contact().round >= round)
    }

    /// When a peer was last heard.
    pub(crate) fn heard_at(&self, id: NodeId) -> Option<Instant> {
        self.get(&id).and_then(|peer| peer.contact().last_heard)
    }

    /// The one of these, if there is any, that has most and was heard last.
    pub(crate) fn furthest(&self, is_asked: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let asked = self.into_iter().filter(|(id, _)| is_asked(**id));
        let furthest = asked.max_by_key(|(_, peer)| (peer.durable(), peer.contact().last_heard));
        furthest.map(|(id, _)| *id)
    }

    /// Who is no member any more is told so for a while.
    pub(crate) fn see_off(&mut self, membership: &Membership, now: Instant) {
        for (id, peer) in self {
            if !membership.members.contains_key(id) {
                let since = &mut peer.contact_mut().departing_since;
                since.get_or_insert(now);
            }
        }
    }

    /// Whether this one is not followed yet, or was to be followed no more.
    pub(crate) fn is_new(&self, id: NodeId) -> bool {
        let peer = self.get(&id);
        peer.is_none_or(|peer| peer.contact().departing_since.is_some())
    }

    /// Lets go of those removed at `slot` who know, as `has` tells, or have had time enough.
    pub(crate) fn dismiss(
        &mut self,
        now: Instant,
        patience: Duration,
        slot: Slot,
        has: impl Fn(&P) -> Slot,
    ) {
        self.retain(|_, peer| match peer.contact().departing_since {
            None => true,
            Some(since) => {
                let knows = has(peer) >= slot && peer.contact().chosen_told >= slot;
                !knows && now.since(since) < patience
            }
        });
    }

    /// The transport has learned something about a peer.
    pub(crate) fn hint(&mut self, id: NodeId, liveness: Liveness) {
        let Some(peer) = self.get_mut(&id) else {
            return;
        };
        match liveness {
            Liveness::ConnectionClosed => peer.contact_mut().copying.left(),
            Liveness::Reachable => peer.contact_mut().heartbeat_due = true,
        }
    }

    /// Whether a copy there is waited for.
    pub(crate) fn count_on(&self, id: NodeId) -> bool {
        let peer = self.get(&id);
        peer.is_some_and(|peer| peer.contact().copying.is_counted_on())
    }

    /// Somebody has said what is durable there.
    pub(crate) fn note_copy(&mut self, now: Instant, from: NodeId, chosen: Slot) {
        if let Some(peer) = self.get_mut(&from) {
            let durable = peer.durable();
            peer.contact_mut().copying.reached(durable, chosen, now);
        }
    }

    /// Looks who keeps up with a leader whose own disk has everything up to `durable`, and that
    /// leads since `since`.
    pub(crate) fn look_for_copies(
        &mut self,
        now: Instant,
        since: Instant,
        durable: Slot,
        times: (Duration, Duration),
    ) {
        for peer in self.values_mut() {
            let contact = peer.contact_mut();
            let heard_at = contact.last_heard.unwrap_or(since);
            contact.copying.look(now, heard_at, durable, times);
        }
    }
}
