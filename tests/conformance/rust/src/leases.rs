//! Leases: what a client may ask, and one that is kept alive while the leader dies.

use std::time::{Duration, Instant};

use etcd_client::{Client, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions};
use tonic::Code;

use crate::cases::refusal;
use crate::{Cluster, Outcome};

/// How long anything may take that waits for a lease to end.
const PATIENCE: Duration = Duration::from_secs(60);

async fn put(client: &mut Client, key: &str, lease: i64) -> Result<(), etcd_client::Error> {
    let options = PutOptions::new().with_lease(lease);
    client.put(key, "x", Some(options)).await.map(|_| ())
}

async fn is_there(client: &mut Client, key: &str) -> Result<bool, etcd_client::Error> {
    Ok(!client.get(key, None).await?.kvs().is_empty())
}

pub async fn a_lease_takes_its_keys_along(cluster: Cluster) -> Outcome {
    let mut first = cluster.client(Some(0)).await?;
    let mut second = cluster.client(Some(1)).await?;
    let granted = first.lease_grant(60, None).await?;
    let id = granted.id();
    assert!(id > 0 && granted.ttl() == 60);
    for key in ["rust/lease/b", "rust/lease/a"] {
        put(&mut second, key, id).await?;
    }
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let told = first.lease_time_to_live(id, Some(options)).await?;
    assert_eq!((told.id(), told.granted_ttl()), (id, 60));
    assert!((1..=60).contains(&told.ttl()), "{}", told.ttl());
    let mut keys = told.keys().to_vec();
    keys.sort();
    assert_eq!(keys, [b"rust/lease/a", b"rust/lease/b"]);
    let listed = second.leases().await?;
    assert!(listed.leases().iter().any(|each| each.id() == id));
    second.lease_revoke(id).await?;
    assert!(!is_there(&mut first, "rust/lease/a").await?);
    assert_eq!(first.lease_time_to_live(id, None).await?.ttl(), -1);
    Ok(())
}

pub async fn errors_of_leases_are_typed(cluster: Cluster) -> Outcome {
    let mut client = cluster.client(None).await?;
    let chosen = || Some(LeaseGrantOptions::new().with_id(-4711));
    assert_eq!(client.lease_grant(60, chosen()).await?.id(), -4711);
    assert_eq!(
        refusal(client.lease_grant(60, chosen()).await),
        (
            Code::FailedPrecondition,
            "etcdserver: lease already exists".to_owned()
        )
    );
    client.lease_revoke(-4711).await?;
    assert_eq!(
        refusal(client.lease_revoke(-4711).await),
        (
            Code::NotFound,
            "etcdserver: requested lease not found".to_owned()
        )
    );
    assert_eq!(
        refusal(client.lease_grant(9_000_000_001, None).await),
        (
            Code::OutOfRange,
            "etcdserver: too large lease TTL".to_owned()
        )
    );
    Ok(())
}

/// Renews over a stream of one node; whoever does not answer is left for the next.
async fn keep_alive(cluster: &Cluster, id: i64, until: Instant, dead: usize) -> Outcome {
    let mut node = 0;
    while Instant::now() < until {
        node = (node + 1) % cluster.size();
        if node == dead {
            continue;
        }
        let Ok(mut client) = cluster.client(Some(node)).await else {
            continue;
        };
        let Ok((mut keeper, mut answers)) = client.lease_keep_alive(id).await else {
            continue;
        };
        while Instant::now() < until {
            if keeper.keep_alive().await.is_err() {
                break;
            }
            match tokio::time::timeout(Duration::from_secs(2), answers.message()).await {
                Ok(Ok(Some(answer))) if answer.ttl() > 0 => {}
                Ok(Ok(Some(_))) => return Err("the lease has ended".into()),
                _ => break,
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    Ok(())
}

pub async fn a_lease_is_kept_alive_while_the_leader_dies(cluster: Cluster) -> Outcome {
    let mut client = cluster.client(None).await?;
    let id = client.lease_grant(6, None).await?.id();
    put(&mut client, "rust/kept", id).await?;
    let short = client.lease_grant(2, None).await?.id();
    put(&mut client, "rust/short", short).await?;
    let dead = cluster.kill_leader();
    // Twice as long as it would live by itself.
    keep_alive(&cluster, id, Instant::now() + Duration::from_secs(12), dead).await?;
    let alive = (dead + 1) % cluster.size();
    let mut client = cluster.client(Some(alive)).await?;
    assert!(is_there(&mut client, "rust/kept").await?);
    assert!(!is_there(&mut client, "rust/short").await?);
    let started = Instant::now();
    while is_there(&mut client, "rust/kept").await? {
        assert!(started.elapsed() < PATIENCE, "the lease never ends");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.start_killed();
    Ok(())
}
