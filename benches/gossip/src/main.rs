//! How soon a crash is known to all, and how often the living are taken for dead: our gossip beside
//! the library `foca`, on the same simulated network.
//!
//! ```text
//! cargo run --release [members] [seeds]        in benches/gossip
//! ```
//!
//! The scenes are those of `crates/cluster/examples/gossip_figures.rs`, where ours is measured
//! against itself without Lifeguard.

mod theirs;

use std::time::Duration;

const SLOW_SECONDS: u64 = 300;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise: usize| {
        let argument = arguments.next();
        argument
            .and_then(|text| text.parse().ok())
            .unwrap_or(otherwise)
    };
    let (members, seeds) = (number(1000), number(2) as u64);
    println!("foca, {members} members, {seeds} seeds");
    let mut known: Vec<f64> = (0..seeds).map(|seed| crash(seed, members)).collect();
    known.sort_by(f64::total_cmp);
    let (mut well, mut slow) = (0, 0);
    for seed in 0..seeds {
        let blamed = blame(seed, members);
        well += blamed.0;
        slow += blamed.1;
    }
    let (packets, bytes) = cost(members);
    println!(
        "crash known to all: {:.1} s median, {:.1} s at most; false deaths of well members {well}, \
         of slow ones {slow}; quiet: {packets:.1} packets and {bytes:.0} bytes a member and second",
        known[known.len() / 2],
        known[known.len() - 1],
    );
}

fn settled(seed: u64, members: usize) -> theirs::Network {
    let mut network = theirs::Network::cluster(seed, members);
    let until = network.now + Duration::from_secs(600);
    let whole = network.run_until(until, theirs::Network::is_whole);
    if !whole {
        println!("(seed {seed}: not everybody knows everybody after ten minutes)");
    }
    network.run(Duration::from_secs(60));
    network.deaths.clear();
    network
}

fn crash(seed: u64, members: usize) -> f64 {
    let mut network = settled(seed, members);
    let start = network.now;
    network.crash(members / 2);
    let until = start + Duration::from_secs(300);
    network.run_until(until, |network| network.all_miss(members / 2));
    network.now.since(start).as_secs_f64()
}

fn blame(seed: u64, members: usize) -> (usize, usize) {
    let mut network = settled(seed, members);
    network.loss = 0.1;
    let is_slow = |index: usize| index % 4 == 3;
    let mut next = vec![0u64; members];
    for second in 0..SLOW_SECONDS {
        for index in (0..members).filter(|index| is_slow(*index)) {
            if next[index] <= second {
                let still = 2 + network.random.below(30);
                network.stand_still(index, Duration::from_secs(still));
                next[index] = second + still + 1 + network.random.below(still * 4);
            }
        }
        network.run(Duration::from_secs(1));
    }
    let slow = network.deaths.iter().filter(|(_, dead)| is_slow(*dead));
    let slow = slow.count();
    (network.deaths.len() - slow, slow)
}

fn cost(members: usize) -> (f64, f64) {
    let mut network = settled(99, members);
    let (packets, bytes) = (network.packets, network.packet_bytes);
    network.run(Duration::from_secs(20));
    let each = 20.0 * members as f64;
    let packets = (network.packets - packets) as f64 / each;
    (packets, (network.packet_bytes - bytes) as f64 / each)
}
