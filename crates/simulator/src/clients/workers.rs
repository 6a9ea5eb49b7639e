//! The workers of each host, one for a keyspace: the production hub, fed as the server's workers
//! feed theirs.
//!
//! ```text
//!   node ──Publication──▶ mailbox ┐
//!   node ──history─────▶          ├─▶ a pass: publications first, then requests, then flush
//!   client ──request, credit────▶ ┘        └─▶ messages, in order, to the client's connection
//! ```
//!
//! It is another thread than the node's: between what one gives out and what the other takes in,
//! any time may pass. But what lies in the mailbox is taken before any request of a client, which
//! is all that the hub demands of its host.

use std::time::Duration;

use base::{Instant, Random};
use node::hub::{HistoryJob, Hub, HubId, HubInput, HubLimits, HubOutput, Publication, StreamId};
use node::{Answer, Directory, Input, Node};

use crate::invariants::Violation;
use crate::marks::Mark;
use crate::scenario::Scenario;
use crate::streams::Streams;
use crate::world::World;
use crate::world::event::{Watching, What};
use crate::world::spaces::DEFAULT;

/// Bits of a stream's number that name the client.
const STREAM_BITS: u32 = 8;

/// A hub and what waits for it.
#[derive(Debug)]
pub(crate) struct Worker {
    hub: Option<Hub>,
    published: Vec<Publication>,
    inbox: Vec<HubInput>,
    is_due: bool,
    woken_at: Option<Instant>,
    /// The highest revision in an answer of this host's node.
    pub(crate) answered: i64,
    /// The node has said that it serves the keyspace.
    is_here: bool,
    random: Random,
}

impl Worker {
    /// Those of a host, one for each keyspace.
    pub(crate) fn of_host(host: usize, scenario: &Scenario, streams: Streams) -> Vec<Worker> {
        let name = |space| match space {
            DEFAULT => format!("worker.{host}"),
            space => format!("worker.{host}.{space}"),
        };
        let spaces = 0..=scenario.keyspaces.len();
        spaces
            .map(|space| Worker::new(streams.named(&name(space))))
            .collect()
    }

    fn new(random: Random) -> Worker {
        Worker {
            hub: None,
            published: Vec::new(),
            inbox: Vec::new(),
            is_due: false,
            woken_at: None,
            answered: 0,
            is_here: false,
            random,
        }
    }

    /// How long it takes until another thread turns to something: little, but now and then much.
    fn delay(&mut self) -> Duration {
        let most = match self.random.below(16) {
            0 => 20_000,
            1..4 => 1_000,
            _ => 50,
        };
        Duration::from_micros(self.random.below(most) + 5)
    }
}

/// The name of a stream at a hub: of this client, at its nth connection.
pub(super) fn stream_id(client: usize, turn: u64) -> StreamId {
    StreamId(turn << STREAM_BITS | client as u64)
}

fn limits(scenario: &Scenario) -> HubLimits {
    let ring = scenario.small.ring_revisions.max(1);
    HubLimits {
        ring_revisions: ring,
        message_bytes: ring * 64,
        fragment_bytes: 256,
        history_steps: ring * 2,
        history_bytes: ring * 128,
        history_watchers: 2,
        lagging_steps: ring * 4,
        shared_bytes: 4 << 10,
        progress_interval: Duration::from_millis(300),
        ..HubLimits::default()
    }
}

impl World {
    /// A node begins on this host, and its workers with it.
    pub(crate) fn start_workers(&mut self, index: usize) {
        let limits = limits(&self.scenario);
        for (space, worker) in self.workers[index].iter_mut().enumerate() {
            if self.watchers.has(space) {
                let seed = worker.random.next_u64();
                worker.hub = Some(Hub::new(limits, seed));
                worker.answered = 0;
            }
        }
    }

    /// The process on this host is gone: its streams end, and what was on its way is lost.
    pub(crate) fn end_workers(&mut self, index: usize) {
        for worker in &mut self.workers[index] {
            worker.hub = None;
            worker.published.clear();
            worker.inbox.clear();
            worker.is_here = false;
            worker.is_due = false;
            worker.woken_at = None;
        }
        self.streams_lost(index);
    }

    /// A keyspace is no longer on this host: its streams there end. What was answered counts on:
    /// should it come back, it is not served before it has all that was there.
    pub(crate) fn end_worker(&mut self, index: usize, space: usize) {
        let limits = limits(&self.scenario);
        let worker = &mut self.workers[index][space];
        worker.published.clear();
        worker.inbox.clear();
        if worker.hub.is_some() {
            let seed = worker.random.next_u64();
            worker.hub = Some(Hub::new(limits, seed));
        }
        self.streams_in_lost(index, space);
    }

    /// The node says which keyspaces it serves.
    pub(crate) fn keyspaces_told(&mut self, index: usize, directory: &Directory) {
        let known = &directory.keyspaces;
        for (space, worker) in self.spaces.iter().zip(&mut self.workers[index]) {
            worker.is_here = known.get(&*space.name).is_some_and(|each| each.is_here);
        }
    }

    /// The node says what has changed.
    pub(crate) fn published(&mut self, index: usize, space: usize, publication: Publication) {
        let worker = &mut self.workers[index][space];
        if worker.hub.is_some() {
            worker.published.push(publication);
            self.call_worker(index, space);
        }
    }

    /// The node gives out an answer: what it tells of was published before. It reaches its client
    /// later, when the keyspace may have left the node.
    pub(crate) fn answer_seen(&mut self, index: usize, space: usize, answer: &mut Answer) {
        if let Answer::Etcd(Ok(response)) = answer {
            let answered = &mut self.workers[index][space].answered;
            *answered = (*answered).max(response.header_mut().revision);
        }
    }

    /// The node has made a read of history ready.
    pub(crate) fn history_read(&mut self, index: usize, job: HistoryJob) {
        self.marks.reach(Mark::HistoryRead);
        let space = job.hub().0 as usize;
        let input = HubInput::History(job.run());
        let delay = self.workers[index][space].delay();
        self.on_worker((index, space), delay, Watching::Input(Box::new(input)));
    }

    /// Something will happen at a host's worker, unless the host's node ends before.
    pub(super) fn on_worker(
        &mut self,
        (index, space): (usize, usize),
        delay: Duration,
        what: Watching,
    ) {
        self.on_host(delay, index, What::Watching(space, what));
    }

    fn call_worker(&mut self, index: usize, space: usize) {
        let worker = &mut self.workers[index][space];
        if !std::mem::replace(&mut worker.is_due, true) {
            let delay = worker.delay();
            self.on_worker((index, space), delay, Watching::Pass);
        }
    }

    /// Something happens at a worker, or comes from there.
    pub(crate) fn watching(&mut self, index: usize, space: usize, what: Watching) {
        match what {
            Watching::Pass => self.worker_passes(index, space),
            Watching::Wake => {
                let worker = &mut self.workers[index][space];
                if worker.woken_at == Some(self.now) {
                    worker.woken_at = None;
                    worker.inbox.push(HubInput::Deadline);
                    self.call_worker(index, space);
                }
            }
            Watching::Input(input) => {
                self.workers[index][space].inbox.push(*input);
                self.call_worker(index, space);
            }
            Watching::Message {
                client,
                turn,
                bytes,
            } => self.watcher_hears(client, turn, bytes),
            Watching::Ended { client, turn } => self.watcher_ended(client, turn),
        }
    }

    fn worker_passes(&mut self, index: usize, space: usize) {
        let now = self.now;
        let host = &self.hosts[index];
        if host.is_paused(now) {
            let until = host.paused_until;
            let pass = What::Watching(space, Watching::Pass);
            self.on_host_at(until, index, pass);
            return;
        }
        let local = host.clock.local(now);
        let worker = &mut self.workers[index][space];
        worker.is_due = false;
        let Some(hub) = &mut worker.hub else {
            return;
        };
        let published = worker.published.drain(..).map(HubInput::Publication);
        let inputs: Vec<HubInput> = published.chain(worker.inbox.drain(..)).collect();
        let mut out = Vec::new();
        let taken = crate::run::in_node(|| {
            for input in inputs {
                hub.step(local, input, &mut out);
            }
            hub.flush(local, &mut out);
        });
        if let Err(text) = taken {
            return self.fail(Violation {
                invariant: "a node never panics",
                text: format!("the hub of n{}: {text}", index + 1),
            });
        }
        if hub.metrics().watchers_lagging > 0 {
            self.marks.reach(Mark::WatchLagged);
        }
        for output in out {
            self.worker_says(index, space, output);
        }
        self.set_worker_alarm(index, space);
    }

    fn worker_says(&mut self, index: usize, space: usize, output: HubOutput) {
        let named = |stream: StreamId| {
            let client = (stream.0 & ((1 << STREAM_BITS) - 1)) as usize;
            (client, stream.0 >> STREAM_BITS)
        };
        match output {
            HubOutput::Message { stream, bytes } => {
                let (client, turn) = named(stream);
                let at = self.arrival(client);
                let message = Watching::Message {
                    client,
                    turn,
                    bytes,
                };
                self.on_host_at(at, index, What::Watching(space, message));
            }
            HubOutput::End { stream, .. } => {
                let (client, turn) = named(stream);
                let at = self.arrival(client);
                let ended = Watching::Ended { client, turn };
                self.on_host_at(at, index, What::Watching(space, ended));
            }
            HubOutput::ReadHistory(request) => {
                let Some(group) = self.spaces[space].group else {
                    return;
                };
                let delay = self.workers[index][space].delay();
                let input = Input::ReadHistory {
                    group,
                    hub: HubId(space as u32),
                    request,
                };
                self.on_host(delay, index, What::Input(Box::new(input)));
            }
        }
    }

    fn set_worker_alarm(&mut self, index: usize, space: usize) {
        let now = self.now;
        let worker = &mut self.workers[index][space];
        let Some(deadline) = worker.hub.as_ref().and_then(Hub::deadline) else {
            return;
        };
        let at = self.hosts[index].clock.when(now, deadline);
        let at = at.max(Instant(now.0 + 1_000));
        if worker
            .woken_at
            .is_none_or(|woken| at < woken || woken < now)
        {
            worker.woken_at = Some(at);
            let wake = What::Watching(space, Watching::Wake);
            self.on_host_at(at, index, wake);
        }
    }

    /// Whether the node on this host is asked for watches in a keyspace: like the server, which
    /// carries them on to other nodes where its own does not serve the keyspace.
    pub(super) fn is_serving(&self, index: usize, space: usize) -> bool {
        let host = &self.hosts[index];
        let running = host.node.as_ref().and_then(Node::running);
        let group = self.spaces[space].group;
        let held = running.zip(group).and_then(|(each, id)| each.group(id));
        let is_here = space == DEFAULT || self.workers[index][space].is_here;
        !host.is_given_up && is_here && held.is_some_and(|group| !group.is_witness())
    }
}
