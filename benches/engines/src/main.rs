//! What a committed entry costs in our log engines and in those of other libraries: three replicas
//! in one process, on one thread, storage in memory, the same shared payloads of 256 bytes.
//!
//! ```text
//! cargo run --release                     all, five rounds; a table
//! cargo run --release -- --rounds 9 --json results.json
//! cargo run --release -- --only raft,paxos,omnipaxos,raft-rs --perfect --batches 1,64
//! ```
//!
//! Every file beside this one says how it drives a library, and what the library does per entry.
//! `group.rs` has the networks. Not part of anything: encoding, checksums, disks, sockets.

mod counting;
mod group;
mod omnipaxos;
mod openraft;
mod ours;
mod raft_rs;

use bytes::Bytes;
use counting::{Counting, Used};
use group::{Lossy, Perfect, Replica, Run};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PAYLOAD_BYTES: usize = 256;
const BATCHES: [u64; 3] = [1, 64, 1024];
/// On the lossy network: how long a run may take on its clock, in microseconds.
const PATIENCE: u64 = 120_000_000;

/// One run's figures.
struct Figures {
    used: Used,
    run: Run,
}

fn measure(run: impl FnOnce() -> Run) -> Figures {
    let before = Used::now();
    let run = run();
    Figures {
        used: Used::now().since(before),
        run,
    }
}

/// How many entries a run on the perfect network has.
fn perfect_entries(batch: u64) -> u64 {
    if batch == 1 {
        20_000
    } else {
        200_000 / batch * batch
    }
}

/// How many entries a run on the lossy network has.
fn lossy_entries(batch: u64) -> u64 {
    if batch == 1 {
        5_000
    } else {
        100_000 / batch * batch
    }
}

/// How many come before those that are measured.
fn warm_up(batch: u64, entries: u64) -> u64 {
    (entries / 10 / batch).max(1) * batch
}

fn perfect<R: Replica>(replicas: Vec<R>, payloads: &[Bytes], batch: u64) -> Figures {
    let entries = perfect_entries(batch);
    let mut group = Perfect::start(replicas);
    group.run(payloads, batch, warm_up(batch, entries));
    measure(|| group.run(payloads, batch, entries))
}

fn lossy<R: Replica>(replicas: Vec<R>, payloads: &[Bytes], batch: u64) -> Figures {
    let entries = lossy_entries(batch);
    let mut group = Lossy::start(replicas);
    measure(|| group.run(payloads, batch, entries, PATIENCE))
}

/// The run with the least processor time: what else the machine does only ever adds to it.
fn least(runs: Vec<Figures>) -> Figures {
    let cost = |figures: &Figures| figures.used.nanoseconds / figures.run.entries.max(1);
    let least = runs.into_iter().min_by_key(cost);
    least.expect("at least one round")
}

/// A library's name, and its runs on both networks.
struct Library {
    name: &'static str,
    perfect: fn(&[Bytes], u64) -> Figures,
    lossy: fn(&[Bytes], u64) -> Figures,
}

const LIBRARIES: [Library; 5] = [
    Library {
        name: "raft",
        perfect: |payloads, batch| perfect(ours::raft(), payloads, batch),
        lossy: |payloads, batch| lossy(ours::raft(), payloads, batch),
    },
    Library {
        name: "paxos",
        perfect: |payloads, batch| perfect(ours::paxos(), payloads, batch),
        lossy: |payloads, batch| lossy(ours::paxos(), payloads, batch),
    },
    Library {
        name: "omnipaxos",
        perfect: |payloads, batch| perfect(omnipaxos::replicas(), payloads, batch),
        lossy: |payloads, batch| lossy(omnipaxos::replicas(), payloads, batch),
    },
    Library {
        name: "raft-rs",
        perfect: |payloads, batch| perfect(raft_rs::replicas(), payloads, batch),
        lossy: |payloads, batch| lossy(raft_rs::replicas(), payloads, batch),
    },
    Library {
        name: "openraft",
        perfect: |payloads, batch| {
            let group = openraft::Group::start(None);
            let entries = perfect_entries(batch);
            group.run(payloads, batch, warm_up(batch, entries), u64::MAX);
            measure(|| group.run(payloads, batch, entries, u64::MAX))
        },
        lossy: |payloads, batch| {
            let group = openraft::Group::start(Some(0.01));
            measure(|| group.run(payloads, batch, lossy_entries(batch), PATIENCE))
        },
    },
];

/// What the command line asks for.
struct Options {
    rounds: usize,
    only: Option<Vec<String>>,
    json: Option<String>,
    perfect_only: bool,
    batches: Vec<u64>,
}

impl Options {
    fn read() -> Options {
        let mut options = Options {
            rounds: 5,
            only: None,
            json: None,
            perfect_only: false,
            batches: BATCHES.to_vec(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .unwrap_or_else(|| panic!("{word} needs a value"))
            };
            match word.as_str() {
                "--rounds" => options.rounds = value().parse().expect("--rounds is a number"),
                "--only" => options.only = Some(value().split(',').map(str::to_owned).collect()),
                "--json" => options.json = Some(value()),
                "--perfect" => options.perfect_only = true,
                "--batches" => {
                    let batches = value();
                    let batches = batches.split(',').map(|batch| batch.parse());
                    let batches: Result<Vec<u64>, _> = batches.collect();
                    options.batches = batches.expect("--batches are numbers");
                    let fit = |batch: &u64| (1..=1024).contains(batch);
                    assert!(options.batches.iter().all(fit), "--batches are 1 to 1024");
                }
                other => panic!("unknown option {other}"),
            }
        }
        assert!(options.rounds > 0, "at least one round");
        options
    }

    fn wants(&self, name: &str) -> bool {
        let listed = |only: &Vec<String>| only.iter().any(|each| each == name);
        self.only.as_ref().is_none_or(listed)
    }
}

fn main() {
    let options = Options::read();
    let payload = |index: usize| {
        let bytes = Bytes::from(vec![index as u8; PAYLOAD_BYTES]);
        // The first clone of such bytes makes them shared; that is not what is measured.
        drop(bytes.clone());
        bytes
    };
    let payloads: Vec<Bytes> = (0..1024).map(payload).collect();
    let mut json = Vec::new();
    println!(
        "| network | batch | library | ns/entry | allocations | bytes | messages | ms/batch |"
    );
    println!("|---|---:|---|---:|---:|---:|---:|---:|");
    for is_lossy in [false, true] {
        for batch in options.batches.iter().copied() {
            if is_lossy && options.perfect_only {
                continue;
            }
            let wanted = LIBRARIES.iter().filter(|each| options.wants(each.name));
            let wanted: Vec<&Library> = wanted.collect();
            let mut runs: Vec<Vec<Figures>> = wanted.iter().map(|_| Vec::new()).collect();
            // In turns, so that all of them see the machine in the same moods.
            for _ in 0..options.rounds {
                for (library, runs) in wanted.iter().zip(&mut runs) {
                    let run = if is_lossy {
                        library.lossy
                    } else {
                        library.perfect
                    };
                    runs.push(run(&payloads, batch));
                }
            }
            let network = if is_lossy { "lossy" } else { "perfect" };
            for (library, runs) in wanted.iter().zip(runs) {
                report(network, batch, library.name, &least(runs), &mut json);
            }
        }
    }
    if let Some(path) = options.json {
        let text = format!("[\n{}\n]\n", json.join(",\n"));
        std::fs::write(&path, text).expect("the figures can be written");
    }
}

fn report(network: &str, batch: u64, name: &str, figures: &Figures, json: &mut Vec<String>) {
    let Figures { used, run } = figures;
    let per = |total: u64| total as f64 / run.entries.max(1) as f64;
    let batches = run.entries as f64 / batch as f64;
    let latency = run.simulated as f64 / 1000.0 / batches.max(1.0);
    let (ns, allocations) = (per(used.nanoseconds), per(used.allocations));
    let (bytes, messages) = (per(used.bytes), per(run.messages));
    println!(
        "| {network} | {batch} | {name} | {ns:.0} | {allocations:.2} | {bytes:.0} | \
         {messages:.3} | {latency:.1} |"
    );
    json.push(format!(
        "{{\"network\": \"{network}\", \"batch\": {batch}, \"library\": \"{name}\", \
         \"entries\": {}, \"ns_per_entry\": {ns:.1}, \"allocations_per_entry\": \
         {allocations:.4}, \"bytes_per_entry\": {bytes:.1}, \"messages_per_entry\": \
         {messages:.4}, \"simulated_ms_per_batch\": {latency:.3}}}",
        run.entries
    ));
}
