//! Three replicas of one library, and the network between them.
//!
//! A library is driven as its documentation asks: proposals and messages go in, one *turn* ends
//! the pass (what is to be stored is stored in memory, at once durable), messages come out, chosen
//! entries are counted. On the *perfect* network whatever was sent in a turn arrives, in order,
//! in the receiver's next. The *lossy* one has a clock of its own: each message takes 0.2 to 2 ms, so
//! that messages overtake each other, and one in a hundred is lost; libraries with ticks get one
//! every 10 ms.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use base::Random;
use bytes::Bytes;

/// Time of the lossy network, in microseconds.
pub type Microseconds = u64;

/// How often libraries that count ticks are given one.
pub const TICK: Microseconds = 10_000;

/// Heartbeats, and repetition of what was lost, in ticks.
pub const HEARTBEAT_TICKS: u64 = 10;

/// Patience of followers, in ticks.
pub const ELECTION_TICKS: u64 = 100;

/// How many replicas there are; they are called 1, 2 and 3.
pub const REPLICAS: u64 = 3;

/// One replica of a library that does no I/O of its own.
pub trait Replica {
    /// What replicas say to each other.
    type Message;

    /// Puts a payload into the log; only asked of a leader.
    fn propose(&mut self, payload: Bytes);

    /// A message arrived.
    fn receive(&mut self, from: u64, message: Self::Message);

    /// Ends a pass: stores, and says what to send.
    fn turn(&mut self, now: Microseconds, out: &mut Vec<(u64, Self::Message)>);

    /// Lets time pass: called every [`TICK`].
    fn tick(&mut self, now: Microseconds);

    /// How many payloads this replica has executed.
    fn executed(&self) -> u64;

    /// Whether it leads.
    fn leads(&self) -> bool;

    /// Asks it to become the leader of a fresh group.
    fn stand(&mut self);
}

/// What happened in a run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Payloads executed by the leader.
    pub entries: u64,
    /// Messages sent.
    pub messages: u64,
    /// Time on the network's clock; 0 on the perfect network.
    pub simulated: Microseconds,
}

/// A perfect network.
pub struct Perfect<R: Replica> {
    replicas: Vec<R>,
    inboxes: Vec<Vec<(u64, R::Message)>>,
    /// Who was given something since its last turn.
    awake: Vec<bool>,
    outbox: Vec<(u64, R::Message)>,
    messages: u64,
}

impl<R: Replica> Perfect<R> {
    /// A group that replica 1 leads.
    pub fn start(replicas: Vec<R>) -> Perfect<R> {
        let inboxes = replicas.iter().map(|_| Vec::new()).collect();
        let awake = replicas.iter().map(|_| true).collect();
        let mut group = Perfect {
            replicas,
            inboxes,
            awake,
            outbox: Vec::new(),
            messages: 0,
        };
        group.replicas[0].stand();
        let mut now = 0;
        while !group.replicas[0].leads() {
            now += TICK;
            group
                .replicas
                .iter_mut()
                .for_each(|replica| replica.tick(now));
            group.awake.fill(true);
            group.settle(now);
            assert!(now < 10_000 * TICK, "a perfect network elects a leader");
        }
        group
    }

    /// Turns until nobody has anything to say.
    fn settle(&mut self, now: Microseconds) {
        while self.awake.contains(&true) {
            for index in 0..self.replicas.len() {
                if !std::mem::take(&mut self.awake[index]) {
                    continue;
                }
                let replica = &mut self.replicas[index];
                for (from, message) in self.inboxes[index].drain(..) {
                    replica.receive(from, message);
                }
                replica.turn(now, &mut self.outbox);
                let from = index as u64 + 1;
                for (to, message) in self.outbox.drain(..) {
                    self.messages += 1;
                    let inbox = &mut self.inboxes[to as usize - 1];
                    // `push` would put the pair together elsewhere and copy it.
                    inbox.extend(std::iter::once_with(|| (from, message)));
                    self.awake[to as usize - 1] = true;
                }
            }
        }
    }

    /// Proposes `entries` payloads, `batch` at a time; each batch is executed everywhere before
    /// the next one begins.
    pub fn run(&mut self, payloads: &[Bytes], batch: u64, entries: u64) -> Run {
        let (messages, before) = (self.messages, self.replicas[0].executed());
        for done in (0..entries).step_by(batch as usize) {
            let leader = &mut self.replicas[0];
            assert!(leader.leads(), "nobody deposes it");
            for payload in &payloads[..batch as usize] {
                leader.propose(payload.clone());
            }
            self.awake[0] = true;
            self.settle(0);
            let wanted = before + done + batch;
            for replica in &self.replicas {
                assert!(replica.executed() == wanted, "a batch is executed");
            }
        }
        Run {
            entries: self.replicas[0].executed() - before,
            messages: self.messages - messages,
            simulated: 0,
        }
    }
}

/// A network that delays, reorders and loses.
pub struct Lossy<R: Replica> {
    replicas: Vec<R>,
    /// Who was given something since its last turn.
    awake: Vec<bool>,
    random: Random,
    now: Microseconds,
    arrivals: BinaryHeap<Reverse<(Microseconds, u64)>>,
    on_the_way: BTreeMap<u64, (u64, u64, R::Message)>,
    outbox: Vec<(u64, R::Message)>,
    loss: f64,
    messages: u64,
}

impl<R: Replica> Lossy<R> {
    /// A group with a leader, on a network that has not lost anything yet.
    pub fn start(replicas: Vec<R>) -> Lossy<R> {
        let awake = replicas.iter().map(|_| true).collect();
        let mut group = Lossy {
            replicas,
            awake,
            random: Random::from_seed(1),
            now: 0,
            arrivals: BinaryHeap::new(),
            on_the_way: BTreeMap::new(),
            outbox: Vec::new(),
            loss: 0.0,
            messages: 0,
        };
        group.replicas[0].stand();
        let elected = group.pass_until(100_000_000, |replicas| replicas[0].leads());
        assert!(elected, "a leader is elected");
        group.loss = 0.01;
        group
    }

    fn turn(&mut self, index: usize) {
        self.replicas[index].turn(self.now, &mut self.outbox);
        let from = index as u64 + 1;
        for (to, message) in self.outbox.drain(..) {
            self.messages += 1;
            if self.random.chance(self.loss) {
                continue;
            }
            let at = self.now + 200 + self.random.below(1_800);
            self.arrivals.push(Reverse((at, self.messages)));
            self.on_the_way.insert(self.messages, (from, to, message));
        }
    }

    /// Lets time pass until `done`, or until so much has passed; returns which.
    fn pass_until(&mut self, patience: Microseconds, done: impl Fn(&[R]) -> bool) -> bool {
        let until = self.now + patience;
        loop {
            for index in 0..self.replicas.len() {
                if std::mem::take(&mut self.awake[index]) {
                    self.turn(index);
                }
            }
            if done(&self.replicas) {
                return true;
            }
            let tick = self.now - self.now % TICK + TICK;
            let arrival = self.arrivals.peek().map_or(u64::MAX, |next| next.0.0);
            self.now = tick.min(arrival);
            if self.now > until {
                return false;
            }
            if arrival <= tick {
                let Reverse((_, number)) = self.arrivals.pop().expect("it was seen");
                let (from, to, message) = self.on_the_way.remove(&number).expect("it is there");
                self.replicas[to as usize - 1].receive(from, message);
                self.awake[to as usize - 1] = true;
            } else {
                let now = self.now;
                self.awake.fill(true);
                self.replicas
                    .iter_mut()
                    .for_each(|replica| replica.tick(now));
            }
        }
    }

    /// Proposes batches, each when the leader has executed the one before, until `entries` are
    /// executed or `patience` has passed.
    pub fn run(
        &mut self,
        payloads: &[Bytes],
        batch: u64,
        entries: u64,
        patience: Microseconds,
    ) -> Run {
        let (began, messages) = (self.now, self.messages);
        let executed = |replicas: &[R]| replicas.iter().map(R::executed).max().unwrap_or(0);
        let before = executed(&self.replicas);
        let mut wanted = before;
        while wanted < before + entries && self.now < began + patience {
            let left = began + patience - self.now;
            if !self.pass_until(left, |replicas| replicas.iter().any(R::leads)) {
                break;
            }
            let leads = self.replicas.iter().position(R::leads);
            let index = leads.expect("one leads");
            for payload in &payloads[..batch as usize] {
                self.replicas[index].propose(payload.clone());
            }
            self.awake[index] = true;
            wanted += batch;
            let left = (began + patience).saturating_sub(self.now);
            self.pass_until(left, |replicas| executed(replicas) >= wanted);
        }
        Run {
            entries: executed(&self.replicas) - before,
            messages: self.messages - messages,
            simulated: self.now - began,
        }
    }
}
