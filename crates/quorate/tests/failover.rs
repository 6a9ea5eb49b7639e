//! Clusters of real processes that lose nodes while clients write, and nothing else.
//!
//! No test here measures time. What must happen is waited for, with a limit far beyond anything
//! that a slow machine needs; what must not be lost is looked for on every node.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts processes"
)]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod support;

use quorate::load::Load;
use support::{more_writes, nothing_is_lost, serving, writers};

/// Writes that show that a cluster works.
const SOME: u64 = 200;

#[tokio::test]
async fn killing_the_leader_loses_nothing() {
    let (mut cluster, _folder) = serving(3).await;
    let load = writers(&cluster);
    for _ in 0..3 {
        more_writes(&load, SOME).await;
        let leader = cluster.leader().await.unwrap();
        cluster.kill(leader);
        more_writes(&load, SOME).await;
        cluster.start(leader).unwrap();
        cluster.ready(leader).await.unwrap();
    }
    nothing_is_lost(&cluster, load).await;
}

#[tokio::test]
async fn killing_a_follower_loses_nothing() {
    let (mut cluster, _folder) = serving(3).await;
    let load = writers(&cluster);
    more_writes(&load, SOME).await;
    let follower = (cluster.leader().await.unwrap() + 1) % 3;
    cluster.kill(follower);
    more_writes(&load, SOME).await;
    cluster.start(follower).unwrap();
    cluster.ready(follower).await.unwrap();
    more_writes(&load, SOME).await;
    nothing_is_lost(&cluster, load).await;
}

/// A paused leader keeps its connections, so nobody is told; when it goes on, it still believes
/// that it leads.
#[tokio::test]
async fn pausing_the_leader_loses_nothing() {
    let (cluster, _folder) = serving(3).await;
    let load = writers(&cluster);
    more_writes(&load, SOME).await;
    let leader = cluster.leader().await.unwrap();
    cluster.pause(leader);
    // Most writers are soon stuck at the paused node, which is not to be held against the others:
    // their own clients must go on.
    let others: Vec<String> = (0..3)
        .filter(|node| *node != leader)
        .map(|node| cluster.endpoints()[node].clone())
        .collect();
    let onlookers = Load::start(&others, 4, "onlooker").unwrap();
    more_writes(&onlookers, SOME).await;
    assert_ne!(cluster.leader().await.unwrap(), leader);
    cluster.resume(leader);
    more_writes(&load, SOME).await;
    nothing_is_lost(&cluster, onlookers).await;
    nothing_is_lost(&cluster, load).await;
}

#[tokio::test]
async fn killing_all_nodes_at_once_loses_nothing() {
    let (mut cluster, _folder) = serving(3).await;
    let load = writers(&cluster);
    for _ in 0..2 {
        more_writes(&load, SOME).await;
        for node in 0..3 {
            cluster.kill(node);
        }
        cluster.start_all().await.unwrap();
    }
    more_writes(&load, SOME).await;
    nothing_is_lost(&cluster, load).await;
}

#[tokio::test]
async fn five_nodes_survive_two() {
    let (mut cluster, _folder) = serving(5).await;
    let load = writers(&cluster);
    more_writes(&load, SOME).await;
    let leader = cluster.leader().await.unwrap();
    let dead = [leader, (leader + 2) % 5];
    for node in dead {
        cluster.kill(node);
    }
    more_writes(&load, SOME).await;
    for node in dead {
        cluster.start(node).unwrap();
        cluster.ready(node).await.unwrap();
    }
    nothing_is_lost(&cluster, load).await;
}

/// SIGTERM hands over leadership, answers what is under way, and ends with status 0.
#[tokio::test]
async fn every_node_restarts_in_turn_without_loss() {
    let (mut cluster, _folder) = serving(3).await;
    let load = writers(&cluster);
    for node in 0..3 {
        more_writes(&load, SOME).await;
        let status = cluster.terminate(node).unwrap();
        assert!(
            status.success(),
            "{status}:\n{}",
            cluster.nodes()[node].said()
        );
        more_writes(&load, SOME).await;
        cluster.start(node).unwrap();
        cluster.ready(node).await.unwrap();
    }
    nothing_is_lost(&cluster, load).await;
}
