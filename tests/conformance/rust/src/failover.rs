//! What a client may rely on while the leader dies.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions};

use crate::{Cluster, Outcome};

/// Clients that write at once, each to one node after the other.
const WRITERS: usize = 16;
/// Writes of each client.
const WRITES: usize = 300;
/// How long a node that was dead may take to catch up.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Writes keys of its own and returns those that were acknowledged. A write that fails is sent
/// once more elsewhere under the next number: the failed one may or may not have happened.
async fn write(
    writer: usize,
    mut clients: Vec<Client>,
    prefix: &'static str,
) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    for number in 0..WRITES {
        let (key, value) = (
            format!("{prefix}/{writer:02}/{number:04}"),
            format!("{number}"),
        );
        let nodes = clients.len();
        let client = &mut clients[(writer + number) % nodes];
        if client.put(key.as_str(), value.as_str(), None).await.is_ok() {
            acknowledged.insert(key, value);
        }
    }
    acknowledged
}

/// All keys below a prefix on one node, without asking the others.
async fn read(client: &mut Client, prefix: &str) -> Option<BTreeMap<String, String>> {
    let options = GetOptions::new().with_prefix().with_serializable();
    let answer = client.get(prefix, Some(options)).await.ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(
        answer
            .kvs()
            .iter()
            .map(|pair| (text(pair.key()), text(pair.value())))
            .collect(),
    )
}

pub async fn no_acknowledged_write_is_lost_with_the_leader(cluster: Cluster) -> Outcome {
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let mut clients = Vec::new();
        for node in 0..cluster.size() {
            clients.push(cluster.client(Some(node)).await?);
        }
        writers.push(tokio::spawn(write(writer, clients, "failover")));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.kill_leader();
    let mut acknowledged = BTreeMap::new();
    for writer in writers {
        acknowledged.extend(writer.await?);
    }
    // A third of the writes went to the dead node after the kill; most others must succeed.
    let attempted = WRITERS * WRITES;
    assert!(
        acknowledged.len() > attempted / 2,
        "{} of {attempted} acknowledged",
        acknowledged.len()
    );
    cluster.start_killed();

    // The log has one order: a node that has this has all that was acknowledged before.
    cluster
        .client(None)
        .await?
        .put("failover/~", "the end", None)
        .await?;
    for node in 0..cluster.size() {
        let started = Instant::now();
        let mut client = cluster.client(Some(node)).await?;
        let found = loop {
            match read(&mut client, "failover/").await {
                Some(found) if found.contains_key("failover/~") => break found,
                _ => assert!(
                    started.elapsed() < CATCH_UP,
                    "node {node} does not catch up"
                ),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let lost: Vec<&String> = acknowledged
            .iter()
            .filter(|(key, value)| found.get(*key) != Some(*value))
            .map(|(key, _)| key)
            .collect();
        assert!(
            lost.is_empty(),
            "node {node} lost {} writes, e.g. {}",
            lost.len(),
            lost[0]
        );
    }
    Ok(())
}

/// Every request that a living node takes is answered, by success or by error.
pub async fn requests_sent_into_the_gap_are_answered(cluster: Cluster) -> Outcome {
    let dead = cluster.kill_leader();
    for node in (0..cluster.size()).filter(|node| *node != dead) {
        let mut client = cluster.client(Some(node)).await?;
        let put = client.put("gap", "value", None);
        // Ten seconds is the client's own limit; this one finds a client that hangs for good.
        if tokio::time::timeout(Duration::from_secs(30), put)
            .await
            .is_err()
        {
            return Err(format!("node {node} left a put unanswered").into());
        }
    }
    cluster.start_killed();
    cluster
        .client(None)
        .await?
        .put("gap", "after", None)
        .await?;
    Ok(())
}
