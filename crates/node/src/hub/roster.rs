//! Streams and watchers: who is there, how far each has come, and what each waits for.
//!
//! ```text
//!            ┌────────────────── no credit, or started in the past ────────────────┐
//!            │                                                                      ▼
//!   Future ─▶ Live ◀──────────── has caught up ─────────────── Lagging ──out of the ring──▶ Behind
//!            has all that was    reads the ring when its stream has    ▲                     │
//!            delivered           credit; a cursor, nothing else        └────── Reading ◀─────┘
//! ```
//!
//! A live watcher has no cursor: it has everything up to what the hub has delivered, so that an
//! event costs nothing for those that it does not concern, and one push for those it does.
//! [`Roster::place`] alone changes what a watcher waits for, and keeps every list right.

use std::collections::{BTreeSet, VecDeque};

use base::Instant;

use super::chunks::Chunks;
use super::groups::GroupKey;
use super::ids::Ids;
use super::index::{HashMap, Seed};
use super::interface::StreamId;

/// Names a stream by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StreamIndex(pub(super) u32);

/// Names a watcher by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WatcherIndex(pub(super) u32);

/// How far a watcher has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// It has everything that was delivered; where it stands in its group.
    Live { place: u32 },
    /// It waits for its turn, or for room on its connection; the next revision it needs.
    Lagging { next: i64 },
    /// It waits for a read of history; the next revision it needs.
    Behind { next: i64 },
    /// It is part of the read under way; the next revision it needs.
    Reading { next: i64 },
    /// It begins at a revision that is not there yet.
    Future { start: i64 },
}

/// One watch of a client.
#[derive(Clone, Debug)]
pub(super) struct Watcher {
    pub(super) stream: StreamIndex,
    /// What it watches, in which form, under which id.
    pub(super) group: GroupKey,
    pub(super) progress_notify: bool,
    pub(super) position: Position,
    /// When it last got an event while it was not live, or alone with its keys.
    pub(super) last_event: Instant,
}

/// What delivering looks at, apart from the rest so that a thousand streams stay in the cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) id: StreamId,
    /// Bytes that the connection can take; below zero is what is owed.
    pub(super) credit: i64,
}

/// One stream of watches.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) watchers: Ids,
    /// Where choosing an id for a watch goes on.
    pub(super) next_id: i64,
    pub(super) lagging: BTreeSet<WatcherIndex>,
    /// Which of those had its turn last.
    pub(super) last_turn: Option<WatcherIndex>,
    /// In [`Roster::ready`].
    pub(super) queued: bool,
    /// Watchers that are not live.
    pub(super) not_live: u32,
    /// Watchers that begin in the future.
    pub(super) future: u32,
    /// The client has asked for the stream's progress.
    pub(super) progress_asked: bool,
    /// Watchers that want to hear of progress.
    pub(super) progress_watchers: u32,
    /// When they last could have.
    pub(super) last_tick: Instant,
    /// When they can next.
    pub(super) next_tick: Option<Instant>,
    /// Bytes of answers given out while there was no credit.
    pub(super) debt: u64,
}

/// All streams and watchers.
#[derive(Debug)]
pub(super) struct Roster {
    names: HashMap<u64, StreamIndex>,
    pub(super) flows: Vec<Flow>,
    streams: Vec<Option<Stream>>,
    unused_streams: Vec<StreamIndex>,
    watchers: Chunks<Option<Watcher>>,
    unused_watchers: Vec<WatcherIndex>,
    /// Streams that have credit and watchers that lag.
    pub(super) ready: VecDeque<StreamIndex>,
    /// Watchers that wait for history, by the revision they need.
    pub(super) behind: BTreeSet<(i64, WatcherIndex)>,
    /// Watchers that begin in the future, by when.
    pub(super) future: BTreeSet<(i64, WatcherIndex)>,
    /// Streams that owe an answer about their progress, and could give it.
    pub(super) answerable: Vec<StreamIndex>,
    /// Streams by when their watchers hear of progress.
    pub(super) ticks: BTreeSet<(Instant, StreamIndex)>,
    /// Streams that must not live without a leader.
    pub(super) need_leader: BTreeSet<StreamIndex>,
    /// The debts of all streams.
    pub(super) debt: u64,
    pub(super) lagging: u64,
}

impl Roster {
    pub(super) fn new(seed: u64) -> Roster {
        Roster {
            names: HashMap::with_hasher(Seed(seed)),
            flows: Vec::new(),
            streams: Vec::new(),
            unused_streams: Vec::new(),
            watchers: Chunks::default(),
            unused_watchers: Vec::new(),
            ready: VecDeque::new(),
            behind: BTreeSet::new(),
            future: BTreeSet::new(),
            answerable: Vec::new(),
            ticks: BTreeSet::new(),
            need_leader: BTreeSet::new(),
            debt: 0,
            lagging: 0,
        }
    }

    // --- streams

    pub(super) fn stream_count(&self) -> usize {
        self.names.len()
    }

    pub(super) fn all_streams(&self) -> Vec<StreamIndex> {
        let open = self.streams.iter().enumerate();
        let open = open.filter(|(_, stream)| stream.is_some());
        open.map(|(index, _)| StreamIndex(index as u32)).collect()
    }

    pub(super) fn find(&self, id: StreamId) -> Option<StreamIndex> {
        self.names.get(&id.0).copied()
    }

    pub(super) fn open(&mut self, id: StreamId, require_leader: bool) {
        let flow = Flow { id, credit: 0 };
        let stream = Some(Stream {
            watchers: Ids::default(),
            next_id: 0,
            lagging: BTreeSet::new(),
            last_turn: None,
            queued: false,
            not_live: 0,
            future: 0,
            progress_asked: false,
            progress_watchers: 0,
            last_tick: Instant::default(),
            next_tick: None,
            debt: 0,
        });
        let index = match self.unused_streams.pop() {
            Some(index) => {
                self.flows[index.0 as usize] = flow;
                self.streams[index.0 as usize] = stream;
                index
            }
            None => {
                self.flows.push(flow);
                self.streams.push(stream);
                StreamIndex((self.streams.len() - 1) as u32)
            }
        };
        let before = self.names.insert(id.0, index);
        assert!(before.is_none(), "a stream's name is never used twice");
        if require_leader {
            self.need_leader.insert(index);
        }
    }

    /// Forgets a stream without watchers.
    pub(super) fn close(&mut self, index: StreamIndex) {
        let stream = self.streams[index.0 as usize].take();
        let stream = stream.expect("a stream is closed once");
        assert!(
            stream.watchers.is_empty(),
            "a stream's watchers go before it"
        );
        self.names.remove(&self.flows[index.0 as usize].id.0);
        self.need_leader.remove(&index);
        if let Some(at) = stream.next_tick {
            self.ticks.remove(&(at, index));
        }
        if stream.queued {
            self.ready.retain(|queued| *queued != index);
        }
        self.answerable.retain(|each| *each != index);
        self.debt -= stream.debt;
        self.unused_streams.push(index);
    }

    pub(super) fn stream(&self, index: StreamIndex) -> &Stream {
        let stream = self.streams[index.0 as usize].as_ref();
        stream.expect("a stream that is named is open")
    }

    pub(super) fn stream_mut(&mut self, index: StreamIndex) -> &mut Stream {
        let stream = self.streams[index.0 as usize].as_mut();
        stream.expect("a stream that is named is open")
    }

    pub(super) fn credit(&self, index: StreamIndex) -> i64 {
        self.flows[index.0 as usize].credit
    }

    /// A connection can take more.
    pub(super) fn add_credit(&mut self, index: StreamIndex, bytes: u64) {
        let flow = &mut self.flows[index.0 as usize];
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        flow.credit = flow.credit.saturating_add(bytes);
        if flow.credit > 0 {
            let stream = self.streams[index.0 as usize].as_mut();
            let stream = stream.expect("a stream that is named is open");
            self.debt -= std::mem::take(&mut stream.debt);
            self.queue(index);
        }
    }

    /// Takes what a message costs.
    pub(super) fn charge(&mut self, index: StreamIndex, bytes: usize) {
        self.flows[index.0 as usize].credit -= bytes as i64;
    }

    /// Gives a stream a turn if it can use one.
    pub(super) fn queue(&mut self, index: StreamIndex) {
        let has_credit = self.credit(index) > 0;
        let stream = self.stream_mut(index);
        if has_credit && !stream.queued && !stream.lagging.is_empty() {
            stream.queued = true;
            self.ready.push_back(index);
        }
    }

    /// Moves the moment at which a stream's watchers hear of progress.
    pub(super) fn set_tick(&mut self, index: StreamIndex, at: Option<Instant>) {
        let before = std::mem::replace(&mut self.stream_mut(index).next_tick, at);
        if let Some(before) = before {
            self.ticks.remove(&(before, index));
        }
        if let Some(at) = at {
            self.ticks.insert((at, index));
        }
    }

    // --- watchers

    pub(super) fn watcher_count(&self) -> usize {
        self.watchers.len() - self.unused_watchers.len()
    }

    pub(super) fn watcher(&self, index: WatcherIndex) -> &Watcher {
        let watcher = self.watchers[index.0 as usize].as_ref();
        watcher.expect("a watcher that is named is there")
    }

    pub(super) fn watcher_mut(&mut self, index: WatcherIndex) -> &mut Watcher {
        let watcher = self.watchers[index.0 as usize].as_mut();
        watcher.expect("a watcher that is named is there")
    }

    /// The watcher, unless its place is empty.
    pub(super) fn get(&self, index: WatcherIndex) -> Option<&Watcher> {
        self.watchers[index.0 as usize].as_ref()
    }

    pub(super) fn add(&mut self, watcher: Watcher) -> WatcherIndex {
        let index = match self.unused_watchers.pop() {
            Some(index) => index,
            None => {
                self.watchers.push(None);
                WatcherIndex((self.watchers.len() - 1) as u32)
            }
        };
        let position = watcher.position;
        let stream = self.stream_mut(watcher.stream);
        stream.watchers.insert(watcher.group.id, index);
        stream.progress_watchers += u32::from(watcher.progress_notify);
        let stream = watcher.stream;
        self.watchers[index.0 as usize] = Some(watcher);
        self.enter(stream, index, position);
        index
    }

    /// Forgets a watcher that its group has forgotten.
    pub(super) fn remove(&mut self, index: WatcherIndex) -> Watcher {
        let watcher = self.watchers[index.0 as usize].take();
        let watcher = watcher.expect("a watcher is removed once");
        self.leave(watcher.stream, index, watcher.position);
        let stream = self.stream_mut(watcher.stream);
        stream.watchers.remove(watcher.group.id);
        stream.progress_watchers -= u32::from(watcher.progress_notify);
        if stream.progress_watchers == 0 {
            self.set_tick(watcher.stream, None);
        }
        self.unused_watchers.push(index);
        watcher
    }

    /// Says what a watcher waits for from now on.
    pub(super) fn place(&mut self, index: WatcherIndex, position: Position) {
        let watcher = self.watcher_mut(index);
        let stream = watcher.stream;
        let before = std::mem::replace(&mut watcher.position, position);
        self.leave(stream, index, before);
        self.enter(stream, index, position);
    }

    fn leave(&mut self, stream: StreamIndex, index: WatcherIndex, position: Position) {
        match position {
            Position::Live { .. } => return,
            Position::Lagging { .. } => {
                self.lagging -= 1;
                self.stream_mut(stream).lagging.remove(&index);
            }
            Position::Behind { next } => {
                self.lagging -= 1;
                self.behind.remove(&(next, index));
            }
            Position::Reading { .. } => self.lagging -= 1,
            Position::Future { start } => {
                self.future.remove(&(start, index));
                self.stream_mut(stream).future -= 1;
            }
        }
        let stream_now = self.stream_mut(stream);
        stream_now.not_live -= 1;
        if stream_now.not_live == 0 && stream_now.progress_asked {
            self.answerable.push(stream);
        }
    }

    fn enter(&mut self, stream: StreamIndex, index: WatcherIndex, position: Position) {
        if matches!(position, Position::Live { .. }) {
            return;
        }
        self.stream_mut(stream).not_live += 1;
        match position {
            Position::Live { .. } => {}
            Position::Lagging { .. } => {
                self.lagging += 1;
                self.stream_mut(stream).lagging.insert(index);
                self.queue(stream);
            }
            Position::Behind { next } => {
                self.lagging += 1;
                self.behind.insert((next, index));
            }
            Position::Reading { .. } => self.lagging += 1,
            Position::Future { start } => {
                self.future.insert((start, index));
                self.stream_mut(stream).future += 1;
            }
        }
    }
}
