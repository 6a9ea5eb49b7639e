//! raft-rs 0.7, driven by hand: its `RawNode` over its `MemStorage`.
//!
//! Per entry and replica: an `Entry` (a protobuf message, here with shared bytes) is put into the
//! unstable log, cloned into a `Ready`, cloned into the storage, cloned again to be executed; the
//! leader clones it once more into each follower's append. `batch_append` lets one append to a
//! follower carry what was proposed since the last turn; without it each proposal is a message of
//! its own, whatever the batch.

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};

use crate::group::{ELECTION_TICKS, HEARTBEAT_TICKS, Microseconds, REPLICAS, Replica};

/// One replica.
pub struct RaftRs {
    id: u64,
    node: RawNode<MemStorage>,
    executed: u64,
}

/// Three replicas.
pub fn replicas() -> Vec<RaftRs> {
    let replica = |id| {
        let config = Config {
            id,
            election_tick: ELECTION_TICKS as usize,
            heartbeat_tick: HEARTBEAT_TICKS as usize,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            ..Config::new(id)
        };
        let state = ConfState::from(((1..=REPLICAS).collect::<Vec<u64>>(), Vec::new()));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let storage = MemStorage::new_with_conf_state(state);
        let node = RawNode::new(&config, storage, &logger).expect("the settings are valid");
        RaftRs {
            id,
            node,
            executed: 0,
        }
    };
    (1..=REPLICAS).map(replica).collect()
}

impl RaftRs {
    fn execute(&mut self, entries: Vec<Entry>) {
        let commands = entries
            .iter()
            .filter(|entry| entry.entry_type == EntryType::EntryNormal && !entry.data.is_empty());
        self.executed += commands.count() as u64;
    }
}

impl Replica for RaftRs {
    type Message = Message;

    fn propose(&mut self, payload: Bytes) {
        // `RawNode::propose` takes a vector; the message that it makes of it takes shared bytes.
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.id;
        let entry = Entry {
            data: payload,
            ..Entry::default()
        };
        message.set_entries(vec![entry].into());
        // Refused while it does not lead, or has too much under way: then nothing is proposed.
        let _ = self.node.raft.step(message);
    }

    fn receive(&mut self, _from: u64, message: Message) {
        // Messages of past terms are errors here, and mean nothing.
        let _ = self.node.step(message);
    }

    fn turn(&mut self, _now: Microseconds, out: &mut Vec<(u64, Message)>) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            let send = |messages: Vec<Message>, out: &mut Vec<(u64, Message)>| {
                out.extend(messages.into_iter().map(|message| (message.to, message)));
            };
            send(ready.take_messages(), out);
            self.execute(ready.take_committed_entries());
            let storage = self.node.mut_store();
            if !ready.entries().is_empty() {
                storage.wl().append(ready.entries()).expect("they follow");
            }
            if let Some(state) = ready.hs() {
                storage.wl().set_hardstate(state.clone());
            }
            send(ready.take_persisted_messages(), out);
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.node
                    .mut_store()
                    .wl()
                    .mut_hard_state()
                    .set_commit(commit);
            }
            send(light.take_messages(), out);
            self.execute(light.take_committed_entries());
            self.node.advance_apply();
        }
    }

    fn tick(&mut self, _now: Microseconds) {
        self.node.tick();
    }

    fn executed(&self) -> u64 {
        self.executed
    }

    fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    fn stand(&mut self) {
        self.node.campaign().expect("it may campaign");
    }
}
