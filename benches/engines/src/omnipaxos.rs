//! OmniPaxos 0.2.4, driven by hand, over its own `MemoryStorage`.
//!
//! Per entry and replica: moved or cloned into the storage's vector, cloned into the message to each
//! follower, and cloned when the decided suffix is read. Messages that are not taken yet are
//! extended in place, so that one goes to each follower per turn. There is no epoch and no position
//! in an entry, and storage is written inside the call: what it would cost to wait for a disk is
//! not in it.

use bytes::Bytes;
use omnipaxos::messages::Message;
use omnipaxos::storage::{Entry, NoSnapshot};
use omnipaxos::util::LogEntry;
use omnipaxos::{ClusterConfig, OmniPaxos, OmniPaxosConfig, ServerConfig};
use omnipaxos_storage::memory_storage::MemoryStorage;

use crate::group::{ELECTION_TICKS, HEARTBEAT_TICKS, Microseconds, REPLICAS, Replica};

/// What its log holds.
#[derive(Clone, Debug)]
pub struct Payload(Bytes);

impl Entry for Payload {
    type Snapshot = NoSnapshot;
}

/// One replica.
pub struct Omni {
    id: u64,
    node: OmniPaxos<Payload, MemoryStorage<Payload>>,
    executed: u64,
    outgoing: Vec<Message<Payload>>,
}

/// Three replicas.
pub fn replicas() -> Vec<Omni> {
    let replica = |id| {
        let config = OmniPaxosConfig {
            cluster_config: ClusterConfig {
                configuration_id: 1,
                nodes: (1..=REPLICAS).collect(),
                flexible_quorum: None,
            },
            server_config: ServerConfig {
                pid: id,
                election_tick_timeout: ELECTION_TICKS,
                resend_message_tick_timeout: HEARTBEAT_TICKS,
                leader_priority: u32::from(id == 1),
                ..ServerConfig::default()
            },
        };
        let storage = MemoryStorage::default();
        let node = config.build(storage).expect("the settings are valid");
        Omni {
            id,
            node,
            executed: 0,
            outgoing: Vec::new(),
        }
    };
    (1..=REPLICAS).map(replica).collect()
}

impl Replica for Omni {
    type Message = Message<Payload>;

    fn propose(&mut self, payload: Bytes) {
        let appended = self.node.append(Payload(payload));
        appended.expect("no reconfiguration is under way");
    }

    fn receive(&mut self, _from: u64, message: Message<Payload>) {
        self.node.handle_incoming(message);
    }

    fn turn(&mut self, _now: Microseconds, out: &mut Vec<(u64, Message<Payload>)>) {
        self.node.take_outgoing_messages(&mut self.outgoing);
        let messages = self.outgoing.drain(..);
        out.extend(messages.map(|message| (message.get_receiver(), message)));
        if self.node.get_decided_idx() as u64 > self.executed {
            let decided = self.node.read_decided_suffix(self.executed as usize);
            for entry in decided.unwrap_or_default() {
                if let LogEntry::Decided(Payload(payload)) = entry {
                    self.executed += u64::from(!payload.is_empty());
                }
            }
        }
    }

    fn tick(&mut self, _now: Microseconds) {
        self.node.tick();
    }

    fn executed(&self) -> u64 {
        self.executed
    }

    fn leads(&self) -> bool {
        matches!(self.node.get_current_leader(), Some((leader, true)) if leader == self.id)
    }

    fn stand(&mut self) {
        self.node.try_become_leader();
    }
}
