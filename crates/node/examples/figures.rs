//! What a put and a get cost inside the machines: three nodes on one thread, through their real
//! inputs and outputs, with disks that forget and connections that deliver at once. No socket, no
//! file and no thread is in the figures, so they show what the pure part of the server costs.
//!
//! ```text
//!  256 calls ──▶ node ──frames──▶ node     a round: one pass of each node over all that is ready;
//!     ▲           │  ▲              │      frames and completed writes are ready in the next one
//!     └──answers──┘  └─completions──┘
//! ```
//!
//! Run by hand: `cargo run --release -p quorate-node --example figures -- [put|get|local] [COUNT]`;
//! under `valgrind --tool=callgrind` it tells instructions, which do not depend on the machine.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "measures real time and prints what it measured"
)]

use std::time::Instant as Clock;

use base::{Instant, WallTime};
use bytes::Bytes;
use etcd::proto::etcdserverpb::{PutRequest, RangeRequest};
use journal::disk::{Completion, File, Operation};
use quorate_node::{
    Answer, Call, CallId, Config, ConnectionId, DialId, Input, Limits, Node, Output, Startup,
    Timing,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NODES: usize = 3;
const IN_FLIGHT: usize = 256;
const VALUE_BYTES: usize = 256;
const KEYS: usize = 1 << 16;
/// What a round takes, as the nodes are told: about a sync.
const ROUND_NANOS: u64 = 200_000;

/// What the clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Put,
    Get { serializable: bool },
}

/// One node and what is ready for it.
struct Host {
    node: Node,
    ready: Vec<Input>,
    /// What its present pass takes in.
    inputs: Vec<Input>,
    /// Wall nanoseconds spent in its passes.
    busy: u64,
    journal_bytes: u64,
    syncs: u64,
}

struct Cluster {
    now: Instant,
    hosts: Vec<Host>,
    /// Where a dial of a host leads.
    dials: Vec<(usize, DialId, usize)>,
    keys: Vec<Bytes>,
    value: Bytes,
    last_call: u64,
    out: Vec<Output>,
}

fn address(index: usize) -> String {
    format!("host{index}:2380")
}

fn node(index: usize) -> Node {
    let name = |index: usize| format!("n{}", index + 1);
    let config = Config {
        name: name(index),
        engine: None,
        quorums: None,
        copies: None,
        is_witness: false,
        peer_address: Some(address(index)),
        place_is_logged: false,
        client_urls: vec![format!("http://host{index}:2379")],
        peers_are_encrypted: false,
        cluster: (0..NODES).map(|each| (name(each), address(each))).collect(),
        join: Vec::new(),
        domains: quorate_node::Domains::default(),
        tending: quorate_node::Tending::OFF,
        timing: Timing::default(),
        limits: Limits::default(),
    };
    let startup = Startup {
        config,
        identity: None,
        files: Vec::new(),
        seed: index as u64 + 1,
    };
    Node::new(startup)
}

/// The end of the connection between two hosts that `host` sees.
fn connection(host: usize, other: usize) -> ConnectionId {
    ConnectionId((host * NODES + other) as u64 + 1)
}

impl Cluster {
    fn new() -> Cluster {
        let hosts = (0..NODES).map(|index| Host {
            node: node(index),
            ready: Vec::new(),
            inputs: Vec::new(),
            busy: 0,
            journal_bytes: 0,
            syncs: 0,
        });
        let key = |number: u64| {
            let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            Bytes::from(format!(
                "/registry/pods/namespace-{:03}/{spread:016x}",
                spread % 500
            ))
        };
        Cluster {
            now: Instant(1),
            hosts: hosts.collect(),
            dials: Vec::new(),
            keys: (0..KEYS as u64).map(key).collect(),
            value: Bytes::from(vec![b'v'; VALUE_BYTES]),
            last_call: 0,
            out: Vec::new(),
        }
    }

    /// One pass of every node; returns how many calls each answered.
    fn round(&mut self) -> [usize; NODES] {
        self.now = Instant(self.now.0 + ROUND_NANOS);
        let wall = WallTime(1_700_000_000_000 + self.now.0 / 1_000_000);
        let mut answered = [0; NODES];
        for host in &mut self.hosts {
            std::mem::swap(&mut host.ready, &mut host.inputs);
        }
        for (index, answered) in answered.iter_mut().enumerate() {
            let host = &mut self.hosts[index];
            let start = Clock::now();
            for input in host.inputs.drain(..) {
                host.node.step(self.now, wall, input, &mut self.out);
            }
            if host.node.deadline().is_some_and(|at| at <= self.now) {
                host.node
                    .step(self.now, wall, Input::Deadline, &mut self.out);
            }
            host.node.flush(self.now, wall, &mut self.out);
            host.busy += start.elapsed().as_nanos() as u64;
            let mut out = std::mem::take(&mut self.out);
            *answered = out
                .drain(..)
                .filter_map(|each| self.carry_out(index, each))
                .count();
            self.out = out;
        }
        answered
    }

    fn send(&mut self, index: usize, end: ConnectionId, body: Bytes) {
        let other = (end.0 - 1) as usize % NODES;
        let input = Input::Frame {
            connection: connection(other, index),
            body,
        };
        self.hosts[other].ready.push(input);
    }

    /// Does what a node asks for; `Some` if it was an answer.
    fn carry_out(&mut self, index: usize, output: Output) -> Option<()> {
        match output {
            Output::Dial { dial, address: to } => {
                let other = (0..NODES)
                    .find(|each| address(*each) == to)
                    .expect("a host");
                self.dials.push((index, dial, other));
                let input = Input::Connected {
                    connection: connection(index, other),
                    dial: Some(dial),
                };
                self.hosts[index].ready.push(input);
            }
            Output::Frame {
                connection: end,
                body,
            } => self.send(index, end, body),
            // Requests end at once.
            Output::FramesAfter { frames, .. } => {
                for (end, body) in frames {
                    self.send(index, end, body);
                }
            }
            Output::Answer {
                answer: Answer::Etcd(result),
                ..
            } => {
                assert!(result.is_ok(), "{result:?}");
                return Some(());
            }
            Output::Disk(request) => {
                if let Operation::Write {
                    file: File::Segment(_),
                    data,
                    sync,
                    ..
                } = &request.operation
                {
                    let bytes: usize = data.iter().map(Bytes::len).sum();
                    self.hosts[index].journal_bytes += bytes as u64;
                    self.hosts[index].syncs += u64::from(*sync);
                }
                let completion = Completion {
                    id: request.id,
                    result: Ok(Bytes::new()),
                };
                self.hosts[index].ready.push(Input::Disk(completion));
            }
            Output::PersistIdentity(_) => self.hosts[index].ready.push(Input::IdentityPersisted),
            Output::Halt(halt) => panic!("node {index} stops: {halt:?}"),
            Output::Offload { .. } | Output::HangUp { .. } | Output::Disconnect { .. } => {
                panic!("this load needs none of that")
            }
            _ => {}
        }
        None
    }

    fn call(&mut self, host: usize, load: Load) {
        self.last_call += 1;
        let key = self.keys[(self.last_call as usize * 7919) % KEYS].clone();
        let request = match load {
            Load::Put => etcd::Request::Put(PutRequest {
                key,
                value: self.value.clone(),
                ..PutRequest::default()
            }),
            Load::Get { serializable } => etcd::Request::Range(RangeRequest {
                key,
                serializable,
                ..RangeRequest::default()
            }),
        };
        self.hosts[host].ready.push(Input::Call {
            id: CallId(self.last_call),
            call: Call::Etcd(request),
        });
    }

    /// Keeps calls in flight until `count` were answered; returns the rounds it took.
    fn run(&mut self, load: Load, count: usize) -> usize {
        let (mut asked, mut done, mut rounds) = (0, 0, 0);
        for index in 0..IN_FLIGHT.min(count) {
            self.call(index % NODES, load);
            asked += 1;
        }
        while done < count {
            rounds += 1;
            for (host, answered) in self.round().into_iter().enumerate() {
                done += answered;
                for _ in 0..answered.min(count - asked) {
                    self.call(host, load);
                    asked += 1;
                }
            }
        }
        rounds
    }
}

/// Milliseconds that this process has computed, and that the kernel has worked for it (for us:
/// made new pages, since nothing is ever freed). Other work on the machine does not count.
fn own_time() -> (u64, u64) {
    let statistics = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let mut ticks = statistics.split(' ').skip(13);
    let mut next = || ticks.next().and_then(|each| each.parse::<u64>().ok());
    (next().unwrap_or(0) * 10, next().unwrap_or(0) * 10)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let which = arguments.next();
    let count: usize = arguments
        .next()
        .map_or(300_000, |count| count.parse().expect("a number"));
    let mut cluster = Cluster::new();
    while !cluster
        .hosts
        .iter()
        .all(|host| host.node.status().leader.is_some())
    {
        cluster.round();
    }
    let warm_up = if count < KEYS { count } else { KEYS };
    cluster.run(Load::Put, warm_up);
    let loads = [
        ("put", Load::Put),
        (
            "get",
            Load::Get {
                serializable: false,
            },
        ),
        ("local", Load::Get { serializable: true }),
    ];
    for (name, load) in loads {
        if which
            .as_deref()
            .is_some_and(|which| which != name && which != "all")
        {
            continue;
        }
        for host in &mut cluster.hosts {
            (host.busy, host.journal_bytes, host.syncs) = (0, 0, 0);
        }
        let start = own_time();
        let rounds = cluster.run(load, count);
        let end = own_time();
        let each = |millis: u64| millis * 1_000_000 / count as u64;
        let busy: Vec<u64> = cluster.hosts.iter().map(|host| host.busy).collect();
        let all = busy.iter().sum::<u64>().max(1);
        let share: Vec<String> = cluster
            .hosts
            .iter()
            .map(|host| {
                let leads = host.node.status().role == consensus::Role::Leader;
                format!(
                    "{}{}%",
                    if leads { "leader " } else { "" },
                    host.busy * 100 / all
                )
            })
            .collect();
        let bytes: u64 = cluster.hosts.iter().map(|host| host.journal_bytes).sum();
        let syncs: u64 = cluster.hosts.iter().map(|host| host.syncs).sum();
        println!(
            "{name:<6} {:>6} ns each over {NODES} nodes ({}), kernel {} ns, {} \
             journal bytes each per node, {:.1} \
             per round, {:.1} per sync",
            each(end.0 - start.0),
            share.join(", "),
            each(end.1 - start.1),
            bytes / (count * NODES) as u64,
            count as f64 / rounds as f64,
            (count * NODES) as f64 / syncs.max(1) as f64,
        );
    }
}
