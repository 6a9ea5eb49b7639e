//! Figures of gossip in simulation: how soon a crash is known to all, how often the living are
//! taken for dead, what it costs. Lifeguard and plain SWIM on the same network and seeds.
//!
//! ```text
//! cargo run --release --package quorate-cluster --example gossip_figures -- 1000 2 [which]
//! ```
//!
//! Members, seeds, and which: a part of a name, such as `ours` or `plain`; if not said, all. A line
//! is printed as soon as its figures are there; a thousand members take some minutes each.
//!
//! *Slow*: a quarter of the members stand still for 2 to 31 seconds at a time, a third of the time,
//! while 10 % of all packets are lost; every death that is declared is false. Counted is who was
//! blamed: a member that was well, or one that was slow.

#![allow(clippy::print_stdout, clippy::disallowed_methods)] // a program for people

#[path = "../tests/network/mod.rs"]
mod network;

use std::time::Duration;

use quorate_cluster::gossip::Event;
use quorate_cluster::gossip::config::Config;
use quorate_cluster::gossip::member::State;

use network::Network;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise: usize| {
        let argument = arguments.next();
        argument
            .and_then(|text| text.parse().ok())
            .unwrap_or(otherwise)
    };
    let (members, seeds) = (number(1000), number(5) as u64);
    let which = arguments.next().unwrap_or_default();
    println!("{members} members, {seeds} seeds\n");
    for (name, config) in [
        ("ours", Config::local_network()),
        (
            "no sleep",
            Config {
                notices_sleep: false,
                ..Config::local_network()
            },
        ),
        ("plain SWIM", Config::plain_swim()),
    ]
    .into_iter()
    .filter(|(name, _)| name.contains(&which))
    {
        let mut known: Vec<f64> = (0..seeds)
            .map(|seed| crash(seed, members, &config))
            .collect();
        known.sort_by(f64::total_cmp);
        let (mut well, mut slow, mut denied) = (0, 0, 0);
        for seed in 0..seeds {
            let blamed = blame(seed, members, &config);
            well += blamed.0;
            slow += blamed.1;
            denied += blamed.2;
        }
        let joined = joined(members, &config);
        let (packets, bytes) = cost(members, &config);
        println!(
            "{name:<11} all joined after {joined:.1} s; crash known to all: {:.1} s median, \
             {:.1} s at most; false deaths of well members {well}, of slow ones {slow}, \
             suspicions denied {denied}; quiet: {packets:.1} packets and {bytes:.0} bytes a \
             member and second",
            known[known.len() / 2],
            known[known.len() - 1],
        );
    }
}

fn settled(seed: u64, members: usize, config: &Config) -> Network {
    let mut network = Network::cluster(seed, members, config);
    let until = network.now + Duration::from_secs(300);
    let whole = network.run_until(until, Network::is_whole);
    assert!(whole, "everybody finds everybody");
    network.run(Duration::from_secs(60));
    network.events.clear();
    network
}

/// Seconds until all who start at the same moment know each other.
fn joined(members: usize, config: &Config) -> f64 {
    let mut network = Network::cluster(98, members, config);
    let start = network.now;
    network.run_until(start + Duration::from_secs(300), Network::is_whole);
    network.now.since(start).as_secs_f64()
}

/// Seconds until everybody knows of a crash.
fn crash(seed: u64, members: usize, config: &Config) -> f64 {
    let mut network = settled(seed, members, config);
    let start = network.now;
    network.crash(members / 2);
    let until = start + Duration::from_secs(120);
    let known = network.run_until(until, |network| network.all_see(members / 2, State::Dead));
    assert!(known, "a crash is noticed");
    network.now.since(start).as_secs_f64()
}

/// Declarations of death, of well and of slow members, in five minutes; and denials.
fn blame(seed: u64, members: usize, config: &Config) -> (usize, usize, usize) {
    let mut network = settled(seed, members, config);
    network.loss = 0.1;
    let is_slow = |index: usize| index % 4 == 3;
    let mut next = vec![0u64; members];
    for second in 0..300u64 {
        for index in (0..members).filter(|index| is_slow(*index)) {
            if next[index] <= second {
                let still = 2 + network.random.below(30);
                network.stand_still(index, Duration::from_secs(still));
                next[index] = second + still + 1 + network.random.below(still * 4);
            }
        }
        network.run(Duration::from_secs(1));
    }
    let (mut well, mut slow, mut denied) = (0, 0, 0);
    for (_, by, event) in &network.events {
        match event {
            Event::Died(node) if is_slow(node.0 as usize - 1) => slow += 1,
            Event::Died(_) => well += 1,
            Event::Denied { .. } if !is_slow(*by) => denied += 1,
            _ => {}
        }
    }
    (well, slow, denied)
}

/// Packets and bytes that a member sends in a second when nothing happens.
fn cost(members: usize, config: &Config) -> (f64, f64) {
    let mut network = settled(99, members, config);
    network.run(Duration::from_secs(40));
    let (packets, bytes) = (network.packets, network.packet_bytes);
    network.run(Duration::from_secs(20));
    let each = 20.0 * members as f64;
    let packets = (network.packets - packets) as f64 / each;
    (packets, (network.packet_bytes - bytes) as f64 / each)
}
