//! Watchers that lag behind what was delivered, while the ring still has what they need.
//!
//! A stream that has credit again gets turns: each of its lagging watchers in its turn gets one
//! message, with as many revisions as fit. What is made for one is kept for others that stand at
//! the same place. Work per flush is bounded; what is left goes on with the next one.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use base::Instant;
use base::mutant::{self, Mutant};
use etcd::watch::{WatchNews, WatchRefusal, event_length};
use state::Space;

use super::Hub;
use super::groups::GroupKey;
use super::interface::HubOutput;
use super::messages::{Message, RevisionTooLarge, compose};
use super::roster::{Position, StreamIndex, WatcherIndex};

/// What a watcher at some place gets next.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) messages: Arc<[Message]>,
    /// The last revision that was looked at.
    pub(super) through: i64,
    /// The revision after the messages is too large to be told.
    pub(super) too_large: bool,
}

/// Pieces that were made since the last publication, for others at the same place.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pieces: BTreeMap<(GroupKey, i64), Piece>,
    bytes: usize,
}

impl Shared {
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
    }

    fn keep(&mut self, key: (GroupKey, i64), piece: &Piece, bytes_max: usize) {
        /// What a piece takes beside its messages.
        const OVERHEAD: usize = 128;
        let messages = piece.messages.iter();
        let bytes: usize = messages.map(|message| message.bytes.len()).sum();
        self.bytes += bytes + OVERHEAD;
        if self.bytes > bytes_max {
            self.clear();
        } else {
            self.pieces.insert(key, piece.clone());
        }
    }
}

impl Hub {
    /// Gives turns to the streams that have credit and watchers that lag.
    pub(super) fn serve_lagging(&mut self, now: Instant, out: &mut Vec<HubOutput>) {
        let mut steps = self.limits.lagging_steps;
        while steps > 0
            && let Some(stream) = self.roster.ready.pop_front()
        {
            self.roster.stream_mut(stream).queued = false;
            while steps > 0 && self.roster.credit(stream) > 0 {
                let Some(watcher) = self.next_turn(stream) else {
                    break;
                };
                self.serve(now, watcher, &mut steps, out);
            }
            self.roster.queue(stream);
        }
    }

    /// Whose turn it is among a stream's lagging watchers.
    fn next_turn(&mut self, stream: StreamIndex) -> Option<WatcherIndex> {
        let stream = self.roster.stream_mut(stream);
        let after = stream.last_turn.map_or(Bound::Unbounded, Bound::Excluded);
        let mut later = stream.lagging.range((after, Bound::Unbounded));
        let next = later.next().or_else(|| stream.lagging.first()).copied();
        stream.last_turn = next;
        next
    }

    /// Gives a lagging watcher one turn.
    fn serve(
        &mut self,
        now: Instant,
        index: WatcherIndex,
        steps: &mut usize,
        out: &mut Vec<HubOutput>,
    ) {
        let Position::Lagging { next } = self.roster.watcher(index).position else {
            unreachable!("only watchers that lag have turns")
        };
        *steps = steps.saturating_sub(1);
        if next > self.delivered {
            return self.go_live(index);
        }
        if next < self.ring.first() {
            let told = self
                .told
                .expect("watchers are there only once the node has spoken");
            if next < told.compacted.0 {
                self.metrics.watchers_compacted += 1;
                let news = WatchNews::Compacted(told.compacted.0);
                return self.end_watcher(index, news, out);
            }
            return self.roster.place(index, Position::Behind { next });
        }
        let piece = self.piece(index, next, steps);
        let reached = self.give(now, index, &piece, out);
        if piece.too_large && reached > piece.through {
            let news = WatchNews::Ended(WatchRefusal::RevisionTooLarge);
            self.end_watcher(index, news, out);
        } else if reached > self.delivered {
            self.go_live(index);
        } else {
            // Still the same list.
            self.roster.watcher_mut(index).position = Position::Lagging { next: reached };
        }
    }

    /// What the ring has for a watcher that needs `next`.
    fn piece(&mut self, index: WatcherIndex, next: i64, steps: &mut usize) -> Piece {
        let group = self.roster.watcher(index).group;
        if let Some(piece) = self.shared.pieces.get(&(group, next)) {
            return piece.clone();
        }
        let (mut events, mut bytes, mut through) = (Vec::new(), 0, self.delivered);
        for batch in self.ring.from(next) {
            if batch.revision.0 > self.delivered {
                break;
            }
            for event in &batch.events {
                *steps = steps.saturating_sub(1);
                let key = &event.key_value.key;
                let is_ours = event.space == Space::ETCD && self.index.holds(group.interest, key);
                if is_ours && group.form.takes(event) {
                    bytes += event_length(event, group.form.previous);
                    events.push(event);
                }
            }
            if bytes >= self.limits.message_bytes || *steps == 0 {
                through = batch.revision.0;
                break;
            }
        }
        let told = self
            .told
            .expect("watchers are there only once the node has spoken");
        let mut messages = Vec::new();
        let composed = compose(
            &told.header(),
            group.form,
            group.id,
            &events,
            &self.limits,
            &mut messages,
        );
        self.metrics.messages_encoded += messages.len() as u64;
        let piece = Piece {
            messages: messages.into(),
            through,
            too_large: composed == Err(RevisionTooLarge),
        };
        let bytes_max = self.limits.shared_bytes;
        self.shared.keep((group, next), &piece, bytes_max);
        piece
    }

    /// Gives a watcher what its stream has credit for; the next revision that it needs then.
    pub(super) fn give(
        &mut self,
        now: Instant,
        index: WatcherIndex,
        piece: &Piece,
        out: &mut Vec<HubOutput>,
    ) -> i64 {
        let stream = self.roster.watcher(index).stream;
        for message in piece.messages.iter() {
            if self.roster.credit(stream) <= 0 && !message.continues {
                return message.first;
            }
            self.metrics.events_delivered += u64::from(message.events);
            self.roster.watcher_mut(index).last_event = now;
            self.send(stream, message.bytes.clone(), out);
        }
        piece.through + 1 - i64::from(self.tells_twice(index, piece))
    }

    /// The planted bug: a watcher's place is one revision behind, once.
    fn tells_twice(&self, index: WatcherIndex, piece: &Piece) -> bool {
        let next = match self.roster.watcher(index).position {
            Position::Lagging { next } => next,
            _ => return false,
        };
        mutant::is_on(Mutant::TellTwice) && !piece.messages.is_empty() && next < piece.through
    }
}
