//! What is going to happen, and the agenda that holds it: ordered by time, then by the order in
//! which it was decided, so that a run never depends on how ties are broken.

use base::Instant;
use bytes::Bytes;
use journal::disk::{Completion, Lane};
use node::hub::HubInput;
use node::{Answer, Call, CallId, ConnectionId, DialId, Identity, Input};

use super::spaces::Asker;

/// Something that will happen on a host.
#[derive(Debug)]
pub(crate) enum What {
    /// An input for the node of this life.
    Input(Box<Input>),
    /// A connection is up, unless it is over by then.
    Connected {
        /// This end of it.
        connection: ConnectionId,
        /// For which wish, if it was dialed here.
        dial: Option<DialId>,
    },
    /// A frame arrives, unless its connection is gone by then.
    Frame {
        /// At which end.
        connection: ConnectionId,
        /// What.
        body: Bytes,
    },
    /// An end of a connection learns that it is over.
    Closed {
        /// Which end.
        connection: ConnectionId,
        /// By the other side.
        by_peer: bool,
    },
    /// A connection has heard nothing for too long.
    TimedOut(ConnectionId),
    /// The node wanted to be woken.
    Wake,
    /// The node's thread is free again.
    Free,
    /// A request arrives at the thread that serves its lane.
    DiskRequest(Box<journal::disk::Request>),
    /// What came of a request arrives at the node.
    DiskEnd {
        /// What came of it.
        completion: Box<Completion>,
        /// What was to be sent once it had succeeded has been sent.
        may_wait: bool,
    },
    /// A request that a lane was serving ends, unless it was planned anew.
    Disk(Lane, u64),
    /// The identity file is written.
    Persisted(Box<Identity>),
    /// A connection is tried.
    Dial(DialId),
    /// Something at the host's worker for a keyspace, or from there to a client that watches.
    Watching(usize, Watching),
    /// A client's connection gets an answer to send.
    Answer(CallId, Box<Answer>),
    /// A client's request arrives.
    Call {
        /// Its number.
        id: CallId,
        /// What.
        call: Box<Call>,
    },
}

/// Something about watches.
#[derive(Debug)]
pub(crate) enum Watching {
    /// The worker takes what has arrived.
    Pass,
    /// The worker wanted to be woken.
    Wake,
    /// Something arrives at the worker.
    Input(Box<HubInput>),
    /// A message arrives at a client.
    Message {
        /// Which client.
        client: usize,
        /// Over which of its connections.
        turn: u64,
        /// An encoded `WatchResponse`.
        bytes: Bytes,
    },
    /// A client learns that its stream was ended.
    Ended {
        /// Which client.
        client: usize,
        /// Which of its connections.
        turn: u64,
    },
}

/// Something that will happen to the world.
#[derive(Debug)]
pub(crate) enum World {
    /// On a host, if the node there is still of this life.
    Host {
        /// Which host.
        host: usize,
        /// Which life of it; 0: whatever lives there then.
        life: u64,
        /// What.
        what: What,
    },
    /// A host's node is started if it does not run.
    Start(usize),
    /// A host goes on after a pause.
    Resume(usize),
    /// The nth planned fault strikes.
    Fault(usize),
    /// The links that the nth fault cut are whole again.
    Heal(usize),
    /// A client asks its next question.
    Client(Asker),
    /// A client's patience may end.
    Patience(Asker),
    /// A client that watches does something.
    Watcher(usize),
    /// An old engine message comes again.
    Replay(usize),
    /// Operators look after what they do.
    Operators,
    /// Operators look after the nth keyspace.
    Keyspace(usize),
}

/// When something happens, by which number it was decided, and where it is kept until then, from
/// the highest bits to the lowest: to compare two of them takes one comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry(u128);

/// Bits of a place: so much may be planned at once, and 2^40 things may happen in a run.
const PLACE_BITS: u32 = 24;

impl Entry {
    fn new(at: Instant, sequence: u64, place: u32) -> Entry {
        let rest = sequence << PLACE_BITS | u64::from(place);
        Entry(u128::from(at.0) << u64::BITS | u128::from(rest))
    }

    fn at(self) -> Instant {
        Instant((self.0 >> u64::BITS) as u64)
    }

    fn place(self) -> usize {
        self.0 as usize & ((1 << PLACE_BITS) - 1)
    }
}

/// Everything that is going to happen. What it is stays where it was put: only the small entries
/// move. They are few, and most that come happen soon, so that keeping them in order, the next one
/// last, costs less than a heap.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    entries: Vec<Entry>,
    sequence: u64,
    kept: Vec<Option<World>>,
    free: Vec<u32>,
}

impl Agenda {
    /// Something will happen; after what was decided before for the same moment.
    pub(crate) fn push(&mut self, at: Instant, what: World) {
        self.sequence += 1;
        assert!(
            self.sequence >> (u64::BITS - PLACE_BITS) == 0,
            "a run ends before that"
        );
        let place = match self.free.pop() {
            Some(place) => {
                self.kept[place as usize] = Some(what);
                place
            }
            None => {
                assert!(
                    self.kept.len() < 1 << PLACE_BITS,
                    "not so much is planned at once"
                );
                self.kept.push(Some(what));
                self.kept.len() as u32 - 1
            }
        };
        let entry = Entry::new(at, self.sequence, place);
        let place = self.entries.partition_point(|each| *each > entry);
        self.entries.insert(place, entry);
    }

    /// What happens next, if it does by then, and when.
    pub(crate) fn pop(&mut self, until: Instant) -> Option<(Instant, World)> {
        let first = self.entries.pop_if(|first| first.at() <= until)?;
        let place = first.place();
        self.free.push(place as u32);
        let what = self.kept[place].take();
        Some((first.at(), what.expect("it is kept until it happens")))
    }
}
