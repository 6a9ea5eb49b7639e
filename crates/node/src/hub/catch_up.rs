//! Watchers behind the ring, served by reads of history that many share.
//!
//! At most one read is under way, and reads keep a pause between them, so that catching up takes a
//! bounded share of the machine. Reads sweep upward through the revisions that watchers need and
//! begin again at the lowest: whoever joins the sweep is carried along with it, and nobody starves
//! however many new watchers begin far in the past.

use std::time::Duration;

use base::Instant;
use base::mutant::{self, Mutant};
use etcd::watch::{WatchNews, WatchRefusal, event_length};
use state::{Event, EventBatch, KeyRange, Revision, Space};

use super::Hub;
use super::history::{HistoryOutcome, HistoryRequest, HistoryResult, Wanted};
use super::index::InterestIndex;
use super::interface::HubOutput;
use super::lagging::Piece;
use super::limits::HubLimits;
use super::messages::{RevisionTooLarge, compose};
use super::roster::{Position, WatcherIndex};

/// Reads of history: the one under way, and where they go on.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    /// Counts the reads.
    number: u64,
    /// Who takes part in the read under way.
    reading: Option<Vec<WatcherIndex>>,
    /// When the next read may begin.
    next: Instant,
    /// The revision that the sweep has reached.
    sweep: i64,
    /// How many reads in a row could not be made.
    failures: u32,
}

impl CatchUp {
    /// Counts from `number` on. A hub that takes the place of another begins elsewhere, so that it
    /// takes no result for its own that the other one had asked for.
    pub(super) fn counting_from(number: u64) -> CatchUp {
        CatchUp {
            number,
            ..CatchUp::default()
        }
    }
}

impl Hub {
    pub(super) fn history_deadline(&self) -> Option<Instant> {
        let idle = self.catch_up.reading.is_none();
        (idle && !self.roster.behind.is_empty()).then_some(self.catch_up.next)
    }

    /// Begins the next read, if somebody needs one and it is time.
    pub(super) fn read_history(&mut self, now: Instant, out: &mut Vec<HubOutput>) {
        if self.catch_up.reading.is_some() || now < self.catch_up.next {
            return;
        }
        let lowest = (i64::MIN, WatcherIndex(0));
        let sweep = (self.catch_up.sweep, WatcherIndex(0));
        let behind = &self.roster.behind;
        let ahead = behind.range(sweep..).next();
        let Some((from, _)) = ahead.or_else(|| behind.range(lowest..).next()).copied() else {
            return;
        };
        // Who needs more than the read can reach has no use for it.
        let reach = from.saturating_add(self.limits.history_steps as i64);
        let candidates: Vec<(i64, WatcherIndex)> = behind
            .range((from, WatcherIndex(0))..(reach, WatcherIndex(0)))
            .take(self.limits.history_watchers)
            .copied()
            .collect();
        let mut members = Vec::new();
        for (next, index) in candidates {
            let watcher = self.roster.watcher(index);
            if self.roster.credit(watcher.stream) > 0 {
                self.roster.place(index, Position::Reading { next });
                members.push((next, index));
            } else {
                self.roster.place(index, Position::Lagging { next });
            }
        }
        let Some(from) = members.iter().map(|(next, _)| *next).min() else {
            return;
        };
        let ranges = members.iter().map(|(_, index)| {
            let watcher = self.roster.watcher(*index);
            self.index.range(watcher.group.interest)
        });
        let ranges: Vec<KeyRange> = ranges.collect();
        self.catch_up.number += 1;
        self.metrics.history_reads += 1;
        out.push(HubOutput::ReadHistory(Box::new(HistoryRequest {
            number: self.catch_up.number,
            from: Revision(from),
            upto: Revision(self.ring.first() - 1),
            wanted: Wanted::any_of(&ranges),
            steps: self.limits.history_steps,
            bytes: self.limits.history_bytes,
        })));
        self.catch_up.reading = Some(members.into_iter().map(|(_, index)| index).collect());
    }

    /// A read has ended.
    pub(super) fn history(
        &mut self,
        now: Instant,
        result: HistoryResult,
        out: &mut Vec<HubOutput>,
    ) {
        if result.number != self.catch_up.number {
            return;
        }
        let Some(members) = self.catch_up.reading.take() else {
            return;
        };
        let failed = matches!(result.outcome, HistoryOutcome::Failed);
        self.catch_up.failures = match failed {
            true => self.catch_up.failures.saturating_add(1),
            false => 0,
        };
        self.catch_up.next = now + self.pause();
        // Who is gone may have left its place to somebody else, who is not in this read.
        let is_reading = |index: &WatcherIndex| {
            let watcher = self.roster.get(*index);
            watcher.is_some_and(|each| matches!(each.position, Position::Reading { .. }))
        };
        let members: Vec<WatcherIndex> = members.into_iter().filter(is_reading).collect();
        match result.outcome {
            HistoryOutcome::Read { batches, through } => {
                self.catch_up.sweep = through.0 + 1;
                self.give_history(now, &members, &batches, through.0, out);
            }
            HistoryOutcome::Compacted { compacted } => {
                for index in members {
                    self.read_again(index);
                    self.end_if_compacted(index, compacted, out);
                }
            }
            HistoryOutcome::Failed => {
                // The next read is for others, if there are any.
                let needs = members.iter().filter_map(|index| self.next_of(*index));
                self.catch_up.sweep = needs.min().map_or(self.catch_up.sweep, |next| next + 1);
                members.into_iter().for_each(|each| self.read_again(each));
            }
        }
    }

    /// How long to wait after a read: longer each time that one could not be made, since that is a
    /// bug, or a machine without memory.
    fn pause(&self) -> Duration {
        let HubLimits {
            history_pause,
            history_pause_max,
            ..
        } = self.limits;
        let factor = 1_u32.checked_shl(self.catch_up.failures);
        let pause = factor.and_then(|factor| history_pause.checked_mul(factor));
        pause.map_or(history_pause_max, |pause| {
            pause.min(history_pause_max.max(history_pause))
        })
    }

    /// What a watcher that takes part in a read needs.
    fn next_of(&self, index: WatcherIndex) -> Option<i64> {
        match self.roster.watcher(index).position {
            Position::Reading { next } => Some(next),
            _ => None,
        }
    }

    fn read_again(&mut self, index: WatcherIndex) {
        if let Position::Reading { next } = self.roster.watcher(index).position {
            self.roster.place(index, Position::Behind { next });
        }
    }

    fn give_history(
        &mut self,
        now: Instant,
        members: &[WatcherIndex],
        batches: &[EventBatch],
        through: i64,
        out: &mut Vec<HubOutput>,
    ) {
        let mut matched: Vec<(InterestIndex, &Event)> = Vec::new();
        for event in batches.iter().flat_map(|batch| &batch.events) {
            if event.space == Space::ETCD {
                let key = &event.key_value.key;
                self.index
                    .holding(key, |found| matched.push((found, event)));
            }
        }
        // Keeps the order of revisions within each.
        matched.sort_by_key(|(interest, _)| *interest);
        // Alike watchers stand together, so that they share what is made for one of them.
        let mut members: Vec<_> = members
            .iter()
            .map(|index| (self.roster.watcher(*index).group, *index))
            .collect();
        members.sort_unstable();
        let mut made = None;
        for (group, index) in members {
            let Position::Reading { next } = self.roster.watcher(index).position else {
                unreachable!("a member of a read waits for it")
            };
            if next > through {
                self.read_again(index);
                continue;
            }
            let credit = self.roster.credit(self.roster.watcher(index).stream);
            if credit <= 0 {
                self.roster.place(index, Position::Lagging { next });
                continue;
            }
            let piece = match made.take_if(|(key, _)| *key == (group, next)) {
                Some((_, piece)) => piece,
                None => self.history_piece(index, next, &matched, through, credit),
            };
            let reached = self.give(now, index, &piece, out);
            let is_stuck = piece.too_large && reached > piece.through;
            made = Some(((group, next), piece));
            if is_stuck {
                let news = WatchNews::Ended(WatchRefusal::RevisionTooLarge);
                self.end_watcher(index, news, out);
            } else {
                let position = Position::Lagging { next: reached };
                self.roster.place(index, position);
            }
        }
    }

    /// What a read has for a watcher that needs `next`, as far as its stream's credit goes: nothing
    /// is written that cannot be sent.
    fn history_piece(
        &mut self,
        index: WatcherIndex,
        next: i64,
        matched: &[(InterestIndex, &Event)],
        mut through: i64,
        credit: i64,
    ) -> Piece {
        let mut group = self.roster.watcher(index).group;
        group.form.previous &= !mutant::is_on(Mutant::DropPrevious);
        let begin = matched.partition_point(|(interest, _)| *interest < group.interest);
        let candidates = matched[begin..]
            .iter()
            .take_while(|(interest, _)| *interest == group.interest)
            .map(|(_, event)| *event)
            .filter(|event| event.key_value.mod_revision >= next && group.form.takes(event));
        let (mut events, mut bytes) = (Vec::<&Event>::new(), 0);
        for event in candidates {
            let before = events.last().map(|last| last.key_value.mod_revision);
            if let Some(before) = before.filter(|before| *before < event.key_value.mod_revision)
                && bytes >= credit
            {
                through = before;
                break;
            }
            bytes += event_length(event, group.form.previous) as i64;
            events.push(event);
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
        Piece {
            messages: messages.into(),
            through,
            too_large: composed == Err(RevisionTooLarge),
        }
    }

    // --- compaction

    /// The floor of history has risen: ends the watchers that wait for what is below it.
    pub(super) fn cancel_compacted(&mut self, out: &mut Vec<HubOutput>) {
        let Some(told) = self.told else {
            return;
        };
        while let Some((next, index)) = self.roster.behind.first().copied()
            && next < told.compacted.0
        {
            self.end_if_compacted(index, told.compacted, out);
        }
    }

    fn end_if_compacted(
        &mut self,
        index: WatcherIndex,
        compacted: Revision,
        out: &mut Vec<HubOutput>,
    ) {
        let position = self.roster.watcher(index).position;
        if matches!(position, Position::Behind { next } if next < compacted.0) {
            self.metrics.watchers_compacted += 1;
            self.end_watcher(index, WatchNews::Compacted(compacted.0), out);
        }
    }
}
