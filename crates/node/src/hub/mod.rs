//! Watches: a machine of its own, one per worker, that tells clients what has changed.
//!
//! ```text
//!   node ──Publication──▶ ring ──▶ index ──▶ groups ──one Bytes, cloned──▶ streams with credit
//!                          │                                                    │ none left
//!                          │ ◀──────────── a cursor, nothing else ◀─────────────┘
//!                          └ too old: history, read for many at once, on a snapshot, elsewhere
//! ```
//!
//! [`Hub::step`] takes what happened, [`Hub::flush`] ends a pass over everything that was ready,
//! and both append what is to be done. What has been published since the last flush goes out in
//! one message per watcher, however many revisions it was.
//!
//! - [`publication`]: what the node says. [`interface`]: what else can happen, and what follows.
//! - `ring`: the newest revisions. `index`, `table`, `intervals`: which watched ranges hold a key.
//! - `groups`: live watchers that get the very same bytes. `messages`: these bytes.
//! - `roster`: streams and watchers, and what each waits for. `ids`, `chunks`: in little memory.
//! - `requests`: what clients ask for. `delivery`: what is new. `lagging`: what some have missed.
//! - [`history`], `catch_up`: what has left the ring. `progress`: notices that nothing is missed.
//! - [`limits`]: what bounds it all.
//!
//! **What clients may rely on**, as with etcd: a watcher gets each event of its keys once, in the
//! order of revisions, from its first revision on, with nothing left out; a revision is never split
//! over messages (but for fragments, which say so); after a notice of progress no event comes whose
//! revision is not greater; what is sent last is where the client can go on with a new watch.
//! `docs/internals/watch.md` tells how, and why this way.

mod catch_up;
mod chunks;
mod delivery;
mod groups;
pub mod history;
mod ids;
mod index;
pub mod interface;
mod intervals;
mod lagging;
pub mod limits;
mod messages;
mod progress;
pub mod publication;
mod requests;
mod ring;
mod roster;
mod table;

pub use history::{HistoryJob, HistoryOutcome, HistoryRequest, HistoryResult, Wanted};
pub use interface::{HubId, HubInput, HubMetrics, HubOutput, StreamId};
pub use limits::HubLimits;
pub use publication::{Member, Publication};

use base::{Epoch, Instant, Random};
use bytes::Bytes;
use etcd::watch::{NO_WATCH_ID, WatchHeader, WatchNews, encode_news};
use state::Revision;

use catch_up::CatchUp;
use groups::Groups;
use index::Index;
use lagging::Shared;
use ring::Ring;
use roster::{Position, Roster, StreamIndex, WatcherIndex};

/// Where the node stands, as it last said.
#[derive(Clone, Copy, Debug)]
struct Told {
    member: Member,
    revision: Revision,
    compacted: Revision,
    term: Epoch,
    has_leader: bool,
}

impl Told {
    fn header(&self) -> WatchHeader {
        WatchHeader {
            cluster: self.member.cluster.0,
            member: self.member.node.0,
            revision: self.revision.0,
            term: self.term.0,
        }
    }
}

/// One hub: the watches of one worker.
#[derive(Debug)]
pub struct Hub {
    limits: HubLimits,
    random: Random,
    /// `None` before the first publication.
    told: Option<Told>,
    /// Users have to sign in.
    is_guarded: bool,
    /// Since when nobody leads.
    leaderless_since: Option<Instant>,
    ring: Ring,
    /// Live watchers have everything up to here.
    delivered: i64,
    index: Index,
    groups: Groups,
    roster: Roster,
    shared: Shared,
    catch_up: CatchUp,
    /// Streams that are to be ended for what they owe.
    overdue: Vec<StreamIndex>,
    last_flush: Instant,
    metrics: HubMetrics,
}

impl Hub {
    /// A hub without streams. The seed decides what is random about it.
    #[must_use]
    pub fn new(limits: HubLimits, seed: u64) -> Hub {
        let mut random = Random::from_seed(seed);
        Hub {
            limits,
            told: None,
            is_guarded: false,
            leaderless_since: None,
            ring: Ring::new(Revision(0)),
            delivered: 0,
            index: Index::new(&mut random),
            groups: Groups::default(),
            roster: Roster::new(random.next_u64()),
            shared: Shared::default(),
            catch_up: CatchUp::counting_from(random.next_u64() >> 1),
            overdue: Vec::new(),
            last_flush: Instant::default(),
            metrics: HubMetrics::default(),
            random,
        }
    }

    /// Takes one input. What can wait for the others that are ready is done by [`Hub::flush`].
    pub fn step(&mut self, now: Instant, input: HubInput, out: &mut Vec<HubOutput>) {
        match input {
            HubInput::Publication(publication) => self.take_in(now, publication, out),
            HubInput::Opened {
                stream,
                require_leader,
            } => self.open(stream, require_leader, out),
            HubInput::Request { stream, request } => {
                if let Some(stream) = self.roster.find(stream) {
                    // "From now on" is behind everything that was published.
                    self.deliver(now, out);
                    self.request(now, stream, request, out);
                }
            }
            HubInput::Refuse { stream, refusal } => {
                if let Some(stream) = self.roster.find(stream) {
                    self.metrics.refused += 1;
                    self.answer(stream, NO_WATCH_ID, WatchNews::Refused(refusal), out);
                }
            }
            HubInput::Guarded(is_guarded) => self.guard(is_guarded, out),
            HubInput::Gone(error) => {
                for stream in self.roster.all_streams() {
                    self.end(stream, error, out);
                }
            }
            HubInput::Closed { stream } => {
                if let Some(stream) = self.roster.find(stream) {
                    self.forget_stream(stream);
                }
            }
            HubInput::Credit { stream, bytes } => {
                if let Some(stream) = self.roster.find(stream) {
                    self.roster.add_credit(stream, bytes);
                }
            }
            HubInput::History(result) => self.history(now, result, out),
            HubInput::Deadline => {}
        }
        self.end_overdue(out);
    }

    /// Ends a pass over everything that was ready.
    pub fn flush(&mut self, now: Instant, out: &mut Vec<HubOutput>) {
        self.last_flush = now;
        self.deliver(now, out);
        self.serve_lagging(now, out);
        self.read_history(now, out);
        self.answer_progress(out);
        self.tick(now, out);
        self.end_leaderless(now, out);
        self.end_overdue(out);
    }

    /// When to call [`Hub::step`] with [`HubInput::Deadline`], and [`Hub::flush`], if nothing
    /// happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let leader = self
            .leaderless_since
            .filter(|_| !self.roster.need_leader.is_empty())
            .map(|since| since + self.limits.leaderless_patience);
        let progress = self.roster.ticks.first().map(|(at, _)| *at);
        let lagging = (!self.roster.ready.is_empty()).then_some(self.last_flush);
        [leader, progress, lagging, self.history_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What this hub counts.
    #[must_use]
    pub fn metrics(&self) -> HubMetrics {
        HubMetrics {
            streams: self.roster.stream_count() as u64,
            watchers: self.roster.watcher_count() as u64,
            watchers_lagging: self.roster.lagging,
            ..self.metrics
        }
    }

    // --- what the node says

    fn take_in(&mut self, now: Instant, publication: Publication, out: &mut Vec<HubOutput>) {
        let Publication {
            member,
            batches,
            revision,
            compacted,
            term,
            has_leader,
            reset,
            access,
        } = publication;
        if let Some(access) = access {
            self.guard(access.status().is_enabled, out);
        }
        if reset || self.told.is_none() {
            self.deliver(now, out);
            self.start_anew(revision);
        } else {
            self.ring.push(batches);
        }
        assert!(
            self.ring.last() == revision.0,
            "the events published end at revision {}, the keyspace is at {revision}",
            self.ring.last()
        );
        let raised = self.told.is_some_and(|told| told.compacted < compacted);
        self.told = Some(Told {
            member,
            revision,
            compacted,
            term,
            has_leader,
        });
        self.shared.clear();
        match (has_leader, self.leaderless_since) {
            (true, _) => self.leaderless_since = None,
            (false, None) => self.leaderless_since = Some(now),
            (false, Some(_)) => {}
        }
        if raised {
            self.cancel_compacted(out);
        }
    }

    /// A snapshot has jumped over revisions. Whoever had everything now needs history.
    fn start_anew(&mut self, revision: Revision) {
        let next = self.delivered + 1;
        let everybody = self.groups.take_all();
        self.ring = Ring::new(revision);
        self.delivered = revision.0;
        for watcher in everybody {
            self.roster.place(watcher, Position::Lagging { next });
        }
        self.release_future();
    }

    /// Users have to sign in from now on, or need not any more. Watches are checked when they are
    /// opened, so those that were opened while nobody had to sign in have to be opened again; also
    /// those of a node that has just started, and did not know yet.
    fn guard(&mut self, is_guarded: bool, out: &mut Vec<HubOutput>) {
        if is_guarded && !self.is_guarded {
            for stream in self.roster.all_streams() {
                self.end(stream, etcd::Error::AuthTurnedOn, out);
            }
        }
        self.is_guarded = is_guarded;
    }

    /// The group has had no leader for too long: those who insist on one look elsewhere.
    fn end_leaderless(&mut self, now: Instant, out: &mut Vec<HubOutput>) {
        let patience = self.limits.leaderless_patience;
        if self
            .leaderless_since
            .is_some_and(|since| since + patience <= now)
        {
            for stream in std::mem::take(&mut self.roster.need_leader) {
                self.end(stream, etcd::Error::NoLeader, out);
            }
        }
    }

    // --- streams

    fn open(&mut self, id: StreamId, require_leader: bool, out: &mut Vec<HubOutput>) {
        let refused = match self.told {
            None => Some(etcd::Error::NoLeader),
            Some(told) if require_leader && !told.has_leader => Some(etcd::Error::NoLeader),
            Some(_) if self.roster.stream_count() >= self.limits.streams => {
                self.metrics.refused += 1;
                Some(etcd::Error::TooManyWatchStreams)
            }
            Some(_) => None,
        };
        match refused {
            Some(error) => out.push(HubOutput::End { stream: id, error }),
            None => self.roster.open(id, require_leader),
        }
    }

    fn end(&mut self, stream: StreamIndex, error: etcd::Error, out: &mut Vec<HubOutput>) {
        let id = self.roster.flows[stream.0 as usize].id;
        self.forget_stream(stream);
        out.push(HubOutput::End { stream: id, error });
    }

    fn forget_stream(&mut self, stream: StreamIndex) {
        let watchers = self.roster.stream(stream).watchers.watchers().to_vec();
        // From the end, where nothing has to move for it.
        for watcher in watchers.into_iter().rev() {
            self.forget(watcher);
        }
        self.overdue.retain(|each| *each != stream);
        self.roster.close(stream);
    }

    fn end_overdue(&mut self, out: &mut Vec<HubOutput>) {
        for stream in std::mem::take(&mut self.overdue) {
            self.metrics.refused += 1;
            self.end(stream, etcd::Error::WatchNotRead, out);
        }
    }

    // --- watchers

    /// Forgets a watcher.
    fn forget(&mut self, index: WatcherIndex) {
        let watcher = self.roster.remove(index);
        if let Position::Live { place } = watcher.position
            && let Some(moved) = self.groups.remove(watcher.group, place)
        {
            self.roster.watcher_mut(moved).position = Position::Live { place };
        }
        if self.index.remove(watcher.group.interest) {
            // What was made for this range must not be given to the next one of its index.
            self.shared.clear();
        }
    }

    /// Ends a watcher for a reason of ours.
    fn end_watcher(&mut self, index: WatcherIndex, news: WatchNews, out: &mut Vec<HubOutput>) {
        let watcher = self.roster.watcher(index);
        let (stream, id) = (watcher.stream, watcher.group.id);
        self.forget(index);
        self.answer(stream, id, news, out);
    }

    // --- messages

    /// Sends a message without events. It does not wait for credit, but what is owed is bounded.
    fn answer(
        &mut self,
        stream: StreamIndex,
        watch: i64,
        news: WatchNews,
        out: &mut Vec<HubOutput>,
    ) {
        let told = self
            .told
            .expect("streams are open only once the node has spoken");
        let bytes = encode_news(&told.header(), watch, news);
        self.metrics.messages_encoded += 1;
        if self.roster.credit(stream) <= 0 {
            let length = bytes.len() as u64;
            self.roster.debt += length;
            let debt = &mut self.roster.stream_mut(stream).debt;
            *debt += length;
            let over =
                *debt > self.limits.stream_debt_bytes || self.roster.debt > self.limits.debt_bytes;
            if over && !self.overdue.contains(&stream) {
                self.overdue.push(stream);
            }
        }
        self.send(stream, bytes, out);
    }

    fn send(&mut self, stream: StreamIndex, bytes: Bytes, out: &mut Vec<HubOutput>) {
        self.roster.charge(stream, bytes.len());
        self.metrics.messages += 1;
        let stream = self.roster.flows[stream.0 as usize].id;
        out.push(HubOutput::Message { stream, bytes });
    }
}
