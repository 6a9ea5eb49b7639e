//! openraft 0.10 (alpha), three of its `Raft` handles on one thread of one runtime.
//!
//! Per entry: a proposal travels through a channel to the core task, becomes an `Entry`, is
//! appended to the store, read back from it for each follower (cloned into a request), cloned
//! into the follower's store, read and cloned again when it is applied, and answered through a
//! channel of its own. A write is reported durable inside `append`. Around it work four to six
//! tasks per node that wake each other by channels; with single entries that is nearly all of the
//! cost. It does its own waiting, so it is not driven by turns: a batch is given with
//! `client_write_many`, and done when every replica has applied it (perfect network) or its
//! answers are there (lossy). Calls between the nodes go straight into the other's handle; on the
//! lossy network question and answer sleep on the runtime's paused clock, which jumps to the next
//! timer when nobody has anything to do, and what is lost ends as a timeout, as its documentation
//! asks.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::Random;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Timeout};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder,
    RaftStateMachine,
};
use openraft::type_config::alias::{
    EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf,
};
use openraft::{Config, EntryPayload, OptionalSend};
use tokio::runtime::{Builder, Runtime};

use crate::group::{ELECTION_TICKS, HEARTBEAT_TICKS, Microseconds, REPLICAS, Run, TICK};

/// What its log holds.
#[derive(Clone, Debug)]
pub struct Payload(Bytes);

impl fmt::Display for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

openraft::declare_raft_types!(
    /// The types of this benchmark.
    pub Types:
        D = Payload,
        R = (),
        Node = openraft::impls::EmptyNode,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

type Handle = openraft::Raft<Types, Machine>;

/// The log in memory, from index 0 on.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    entries: Vec<EntryOf<Types>>,
    vote: Option<VoteOf<Types>>,
}

impl Store {
    fn with<T>(&self, look: impl FnOnce(&mut Log) -> T) -> T {
        look(&mut self.0.lock().expect("nobody panics holding it"))
    }
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<EntryOf<Types>>, io::Error> {
        self.with(|log| {
            let first = match range.start_bound() {
                Bound::Included(first) => *first as usize,
                Bound::Excluded(before) => *before as usize + 1,
                Bound::Unbounded => 0,
            };
            let end = match range.end_bound() {
                Bound::Included(last) => *last as usize + 1,
                Bound::Excluded(end) => *end as usize,
                Bound::Unbounded => log.entries.len(),
            };
            let end = end.min(log.entries.len());
            Ok(log.entries[first.min(end)..end].to_vec())
        })
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        Ok(self.with(|log| log.vote))
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        Ok(LogState {
            last_purged_log_id: None,
            last_log_id: self.with(|log| log.entries.last().map(|entry| entry.log_id)),
        })
    }

    async fn get_log_reader(&mut self) -> Store {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        self.with(|log| log.vote = Some(*vote));
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.with(|log| log.entries.extend(entries));
        done.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let kept = last.map_or(0, |last| last.index as usize + 1);
        self.with(|log| log.entries.truncate(kept));
        Ok(())
    }

    async fn purge(&mut self, _upto: LogIdOf<Types>) -> Result<(), io::Error> {
        Ok(())
    }
}

/// Counts what it executes.
#[derive(Clone, Default)]
struct Machine {
    applied: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
    executed: Arc<AtomicU64>,
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, ()>, io::Error> {
        Err(io::Error::other("nobody needs one"))
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Machine;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut executed = 0;
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(Payload(payload)) => {
                    executed += u64::from(!payload.is_empty());
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembershipOf::<Types>::new(self.applied, membership);
                }
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        self.executed.fetch_add(executed, Ordering::Relaxed);
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<Types>,
        _snapshot: (),
    ) -> Result<(), io::Error> {
        Err(io::Error::other("nobody sends one"))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, ()>>, io::Error> {
        Ok(None)
    }
}

/// What connects the nodes.
struct Wires {
    handles: Mutex<BTreeMap<u64, Handle>>,
    random: Mutex<Random>,
    /// Messages take time and are lost with this probability, or neither.
    loss: Option<f64>,
    messages: AtomicU64,
}

/// From one node.
#[derive(Clone)]
struct Outgoing {
    from: u64,
    wires: Arc<Wires>,
}

/// From one node to another.
struct Wire {
    outgoing: Outgoing,
    to: u64,
    handle: Handle,
}

impl RaftNetworkFactory<Types> for Outgoing {
    type Network = Wire;

    async fn new_client(&mut self, to: u64, _node: &openraft::impls::EmptyNode) -> Wire {
        let handles = self.wires.handles.lock().expect("nobody panics holding it");
        let handle = handles
            .get(&to)
            .expect("all nodes are made at once")
            .clone();
        let outgoing = self.clone();
        Wire {
            outgoing,
            to,
            handle,
        }
    }
}

impl Wire {
    /// A message is on its way; returns whether it arrives.
    async fn travel(&self) -> bool {
        let wires = &self.outgoing.wires;
        wires.messages.fetch_add(1, Ordering::Relaxed);
        let Some(loss) = wires.loss else { return true };
        let (arrives, delay) = {
            let mut random = wires.random.lock().expect("nobody panics holding it");
            (!random.chance(loss), 200 + random.below(1_800))
        };
        tokio::time::sleep(Duration::from_micros(delay)).await;
        arrives
    }

    /// Nothing came back in time.
    async fn time_out(&self, action: RPCTypes, option: &RPCOption) -> RPCError<Types> {
        let timeout = option.hard_ttl();
        tokio::time::sleep(timeout).await;
        RPCError::Timeout(Timeout {
            action,
            id: self.outgoing.from,
            target: self.to,
            timeout,
        })
    }
}

impl RaftNetworkV2<Types> for Wire {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        if !self.travel().await {
            return Err(self.time_out(RPCTypes::AppendEntries, &option).await);
        }
        let answer = self.handle.append_entries(request).await;
        let answer = answer.expect("nobody stops");
        match self.travel().await {
            true => Ok(answer),
            false => Err(self.time_out(RPCTypes::AppendEntries, &option).await),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        if !self.travel().await {
            return Err(self.time_out(RPCTypes::Vote, &option).await);
        }
        let answer = self.handle.vote(request).await.expect("nobody stops");
        match self.travel().await {
            true => Ok(answer),
            false => Err(self.time_out(RPCTypes::Vote, &option).await),
        }
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<Types>,
        _snapshot: SnapshotOf<Types, ()>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        unreachable!("nobody needs a snapshot")
    }
}

/// Three nodes, and the runtime that they share.
pub struct Group {
    runtime: Runtime,
    handles: Vec<Handle>,
    machines: Vec<Machine>,
    wires: Arc<Wires>,
}

impl Group {
    /// A group that node 1 leads, on a network that loses so much, or is perfect.
    pub fn start(loss: Option<f64>) -> Group {
        let builder = Builder::new_current_thread()
            .enable_time()
            // Nobody sleeps on the perfect network, so its clock may be the real one.
            .start_paused(loss.is_some())
            .build();
        let runtime = builder.expect("a runtime");
        let wires = Arc::new(Wires {
            handles: Mutex::new(BTreeMap::new()),
            random: Mutex::new(Random::from_seed(1)),
            loss,
            messages: AtomicU64::new(0),
        });
        let machines: Vec<Machine> = (0..REPLICAS).map(|_| Machine::default()).collect();
        let milliseconds = |ticks: u64| ticks * TICK / 1_000;
        let config = Config {
            heartbeat_interval: milliseconds(HEARTBEAT_TICKS),
            election_timeout_min: milliseconds(ELECTION_TICKS),
            election_timeout_max: milliseconds(2 * ELECTION_TICKS),
            max_payload_entries: 4_096,
            snapshot_policy: openraft::SnapshotPolicy::Never,
            ..Config::default()
        };
        let config = Arc::new(config.validate().expect("the settings are valid"));
        let handles = runtime.block_on(async {
            let mut handles = Vec::new();
            for (from, machine) in (1..).zip(&machines) {
                let wires = Arc::clone(&wires);
                let outgoing = Outgoing { from, wires };
                let config = Arc::clone(&config);
                let store = Store::default();
                let handle = Handle::new(from, config, outgoing, store, machine.clone()).await;
                handles.push(handle.expect("it starts"));
            }
            *wires.handles.lock().expect("nobody panics holding it") =
                (1..).zip(handles.iter().cloned()).collect();
            let members: BTreeMap<u64, openraft::impls::EmptyNode> =
                (1..=REPLICAS).map(|id| (id, Default::default())).collect();
            handles[0].initialize(members).await.expect("it is new");
            let wait = handles[0].wait(Some(Duration::from_secs(60)));
            wait.current_leader(1, "node 1 stands first")
                .await
                .expect("it is elected");
            handles
        });
        Group {
            runtime,
            handles,
            machines,
            wires,
        }
    }

    /// What was executed, by whoever executed most.
    fn executed(&self) -> u64 {
        let each = self.machines.iter();
        let each = each.map(|machine| machine.executed.load(Ordering::Relaxed));
        each.max().unwrap_or(0)
    }

    /// Proposes `entries` payloads, `batch` at a time, each batch when the one before is answered,
    /// until so many are executed or `patience` has passed.
    pub fn run(&self, payloads: &[Bytes], batch: u64, entries: u64, patience: Microseconds) -> Run {
        let before = self.executed();
        let messages = self.wires.messages.load(Ordering::Relaxed);
        let patience = Duration::from_micros(patience);
        let simulated = self.runtime.block_on(async {
            let began = tokio::time::Instant::now();
            while self.executed() < before + entries && began.elapsed() < patience {
                let Some(leader) = self.handles.iter().find(|handle| handle.is_leader()) else {
                    tokio::time::sleep(Duration::from_micros(TICK)).await;
                    continue;
                };
                let batch = payloads[..batch as usize].iter().cloned().map(Payload);
                let answers = leader.client_write_many(batch).await;
                let mut answers = answers.expect("nobody stops");
                while let Some(answer) = answers.try_next().await.expect("nobody stops") {
                    if answer.is_err() {
                        // It leads no more, or its lease is over: somebody will.
                        tokio::time::sleep(Duration::from_micros(TICK)).await;
                    }
                }
            }
            began.elapsed()
        });
        Run {
            entries: self.executed() - before,
            messages: self.wires.messages.load(Ordering::Relaxed) - messages,
            simulated: self
                .wires
                .loss
                .map_or(0, |_| simulated.as_micros() as Microseconds),
        }
    }
}
