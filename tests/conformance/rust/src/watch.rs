//! Watches.

use std::time::Duration;

use etcd_client::{
    Client, EventType, Txn, TxnOp, WatchFilterType, WatchOptions, WatchResponse, WatchStream,
};

use crate::{Cluster, Outcome};

/// How long a message may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// The next message that tells of something.
async fn next(
    stream: &mut WatchStream,
) -> Result<WatchResponse, Box<dyn std::error::Error + Send + Sync>> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await??;
    message.ok_or_else(|| "the stream has ended".into())
}

/// The next message with events.
async fn next_events(
    stream: &mut WatchStream,
) -> Result<WatchResponse, Box<dyn std::error::Error + Send + Sync>> {
    loop {
        let message = next(stream).await?;
        if !message.events().is_empty() {
            return Ok(message);
        }
    }
}

async fn put(client: &mut Client, key: &str, value: &str) -> Result<i64, etcd_client::Error> {
    let answer = client.put(key, value, None).await?;
    Ok(answer.header().map_or(0, |header| header.revision()))
}

pub async fn many_watches_share_a_stream(cluster: Cluster) -> Outcome {
    let mut writer = cluster.client(Some(0)).await?;
    let mut client = cluster.client(Some(1)).await?;
    let first = put(&mut writer, "stream/a", "1").await?;
    let options = WatchOptions::new()
        .with_start_revision(first)
        .with_watch_id(7);
    let mut stream = client.watch("stream/a", Some(options)).await?;
    let created = next(&mut stream).await?;
    // The past is told at once, on some servers in front of nothing else.
    assert!(created.created() && created.watch_id() == 7);
    let options = WatchOptions::new()
        .with_prefix()
        .with_prev_key()
        .with_filters([WatchFilterType::NoPut]);
    stream.watch("stream/", Some(options)).await?;
    stream
        .watch("stream/a", Some(WatchOptions::new().with_watch_id(7)))
        .await?;
    let (mut ids, mut refused, mut events) = (Vec::new(), Vec::new(), Vec::new());
    while ids.is_empty() || refused.is_empty() || events.is_empty() {
        let message = next(&mut stream).await?;
        match (message.created(), message.canceled()) {
            (true, false) => ids.push(message.watch_id()),
            (true, true) => refused.push(message.cancel_reason().to_owned()),
            (false, _) => events.extend(message.events().iter().map(|event| event.event_type())),
        }
    }
    assert_eq!(events, [EventType::Put]);
    assert_eq!(
        refused,
        ["mvcc: duplicate watch ID provided on the WatchStream"]
    );
    writer.delete("stream/a", None).await?;
    let (mut seen, mut previous) = (Vec::new(), Vec::new());
    while seen.len() < 2 {
        let message = next_events(&mut stream).await?;
        seen.push(message.watch_id());
        for event in message.events() {
            assert_eq!(event.event_type(), EventType::Delete);
            previous.extend(event.prev_kv().map(|pair| pair.value().to_vec()));
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [ids[0], 7]);
    assert_eq!(previous, [b"1"], "only one of them has asked for it");
    stream.cancel(7).await?;
    let canceled = next(&mut stream).await?;
    assert!(canceled.canceled() && canceled.watch_id() == 7);
    Ok(())
}

pub async fn progress_overtakes_no_event(cluster: Cluster) -> Outcome {
    let mut writer = cluster.client(Some(2)).await?;
    let mut stream = cluster
        .client(Some(2))
        .await?
        .watch("progress/", Some(WatchOptions::new().with_prefix()))
        .await?;
    let mut heard = next(&mut stream)
        .await?
        .header()
        .map_or(0, |header| header.revision());
    for number in 0..50 {
        let revision = put(&mut writer, &format!("progress/{number}"), "x").await?;
        stream.request_progress().await?;
        // What the node has answered itself, it has published before.
        loop {
            let message = next(&mut stream).await?;
            let header = message.header().map_or(0, |header| header.revision());
            if let Some(event) = message.events().last() {
                heard = event.kv().map_or(0, |pair| pair.mod_revision());
            } else {
                assert_eq!(message.watch_id(), -1);
                assert!(
                    header < revision || heard == revision,
                    "progress came first"
                );
                if header >= revision {
                    break;
                }
                stream.request_progress().await?;
            }
            if heard == revision && header < revision {
                stream.request_progress().await?;
            }
        }
    }
    Ok(())
}

pub async fn a_large_revision_comes_whole_or_in_pieces(cluster: Cluster) -> Outcome {
    let mut client = cluster.client(Some(0)).await?;
    let value = "v".repeat(1 << 20);
    let start = put(&mut client, "large/0", &value).await?;
    for number in 1..6 {
        put(&mut client, &format!("large/{number}"), &value).await?;
    }
    let last = client
        .delete(
            "large/",
            Some(etcd_client::DeleteOptions::new().with_prefix()),
        )
        .await?;
    let last = last.header().map_or(0, |header| header.revision());
    for fragments in [false, true] {
        let mut options = WatchOptions::new()
            .with_prefix()
            .with_prev_key()
            .with_start_revision(last);
        if fragments {
            options = options.with_fragment();
        }
        let mut client = cluster
            .client(Some(1))
            .await?
            .watch_client()
            .max_decoding_message_size(64 << 20);
        let mut stream = client.watch("large/", Some(options)).await?;
        let (mut keys, mut pieces) = (Vec::new(), 0);
        while keys.len() < 6 {
            let message = next_events(&mut stream).await?;
            pieces += 1;
            keys.extend(message.events().iter().map(|event| {
                assert_eq!(
                    event.prev_kv().map(|pair| pair.value().len()),
                    Some(1 << 20)
                );
                event.kv().map_or(Vec::new(), |pair| pair.key().to_vec())
            }));
        }
        let expected: Vec<Vec<u8>> = (0..6)
            .map(|at| format!("large/{at}").into_bytes())
            .collect();
        assert_eq!(keys, expected);
        assert_eq!(pieces > 1, fragments, "{pieces} pieces");
    }
    assert!(start < last);
    Ok(())
}

pub async fn a_transaction_is_one_message(cluster: Cluster) -> Outcome {
    let mut client = cluster.client(Some(1)).await?;
    let mut stream = client
        .watch("one/", Some(WatchOptions::new().with_prefix()))
        .await?;
    next(&mut stream).await?;
    for _ in 0..20 {
        let operations: Vec<TxnOp> = (0..10)
            .map(|number| TxnOp::put(format!("one/{number}"), "x", None))
            .collect();
        client.txn(Txn::new().and_then(operations)).await?;
    }
    let mut events = 0;
    while events < 200 {
        let message = next_events(&mut stream).await?;
        assert_eq!(message.events().len() % 10, 0, "a revision is never split");
        events += message.events().len();
    }
    Ok(())
}

/// Watches of all nodes, resumed elsewhere when they end, while the leader dies.
pub async fn no_event_is_lost_or_repeated_with_the_leader(cluster: Cluster) -> Outcome {
    let mut writer = cluster.client(None).await?;
    let first = put(&mut writer, "resume/begin", "x").await?;
    let mut followers = Vec::new();
    for node in 0..cluster.size() {
        followers.push(tokio::spawn(follow(cluster.clone(), node, first)));
    }
    let mut acknowledged = Vec::new();
    for number in 0..300 {
        if number == 100 {
            cluster.kill_leader();
        }
        let key = format!("resume/{number:04}");
        let node = number % cluster.size();
        if let Ok(mut client) = cluster.client(Some(node)).await
            && client.put(key.as_str(), "x", None).await.is_ok()
        {
            acknowledged.push(key);
        }
    }
    cluster.start_killed();
    put(&mut cluster.client(None).await?, "resume/~", "end").await?;
    assert!(
        acknowledged.len() > 100,
        "{} acknowledged",
        acknowledged.len()
    );
    let mut all: Option<Vec<(i64, String)>> = None;
    for follower in followers {
        let heard = follower.await??;
        let mut keys: Vec<&String> = heard.iter().map(|(_, key)| key).collect();
        assert!(
            heard.is_sorted_by(|one, other| one.0 < other.0),
            "in order, none twice"
        );
        keys.sort_unstable();
        for key in &acknowledged {
            assert!(keys.binary_search(&key).is_ok(), "{key} was lost");
        }
        assert!(
            all.is_none_or(|all| all == heard),
            "all nodes tell the same"
        );
        all = Some(heard);
    }
    Ok(())
}

async fn follow(
    cluster: Cluster,
    mut node: usize,
    first: i64,
) -> Result<Vec<(i64, String)>, Box<dyn std::error::Error + Send + Sync>> {
    let started = std::time::Instant::now();
    let mut heard: Vec<(i64, String)> = Vec::new();
    while heard.last().is_none_or(|(_, key)| key != "resume/~") {
        if started.elapsed() > 2 * PATIENCE {
            return Err("the last event does not come".into());
        }
        let start = heard.last().map_or(first, |(revision, _)| revision + 1);
        let options = WatchOptions::new().with_prefix().with_start_revision(start);
        let stream = match cluster.client(Some(node)).await {
            Ok(mut client) => client.watch("resume/", Some(options)).await,
            Err(error) => Err(error),
        };
        node = (node + 1) % cluster.size();
        let Ok(mut stream) = stream else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while let Ok(Ok(Some(message))) = tokio::time::timeout(PATIENCE, stream.message()).await {
            for event in message.events() {
                let pair = event.kv().ok_or("an event without a key")?;
                heard.push((pair.mod_revision(), pair.key_str()?.to_owned()));
            }
            if heard.last().is_some_and(|(_, key)| key == "resume/~") {
                break;
            }
        }
    }
    Ok(heard)
}
