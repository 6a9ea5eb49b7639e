//! Locks and elections that the server takes part in for the client.

use std::time::Duration;

use etcd_client::{Client, LeaderKey, LockOptions, ProclaimOptions, ResignOptions};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::{Cluster, Outcome};

/// Long enough for whoever would wrongly get a lock to get it.
const A_WHILE: Duration = Duration::from_millis(400);

async fn grant(client: &mut Client, seconds: i64) -> Result<i64, etcd_client::Error> {
    Ok(client.lease_grant(seconds, None).await?.id())
}

async fn lock(client: &mut Client, name: &str, lease: i64) -> Result<Vec<u8>, etcd_client::Error> {
    let options = LockOptions::new().with_lease(lease);
    let held = client.lock(name, Some(options)).await?;
    Ok(held.key().to_vec())
}

/// Waits for a lock in a task of its own.
fn waiting(
    client: &Client,
    name: &'static str,
    lease: i64,
) -> JoinHandle<Result<Vec<u8>, etcd_client::Error>> {
    let mut client = client.clone();
    tokio::spawn(async move { lock(&mut client, name, lease).await })
}

async fn created(client: &mut Client, key: &[u8]) -> Result<i64, etcd_client::Error> {
    let found = client.get(key, None).await?;
    Ok(found.kvs().first().map_or(0, |kv| kv.create_revision()))
}

pub async fn a_lock_is_held_by_one(cluster: Cluster) -> Outcome {
    let (mut first, mut second) = (
        cluster.client(Some(0)).await?,
        cluster.client(Some(1)).await?,
    );
    let leases = (grant(&mut first, 60).await?, grant(&mut second, 60).await?);
    let held = lock(&mut first, "locks/one", leases.0).await?;
    assert_eq!(held, format!("locks/one/{:x}", leases.0).into_bytes());
    let again = lock(&mut first, "locks/one", leases.0).await?;
    assert_eq!(again, held, "the same lease has the lock already");
    let fence = created(&mut first, &held).await?;
    let other = waiting(&second, "locks/one", leases.1);
    sleep(A_WHILE).await;
    assert!(!other.is_finished(), "two hold one lock");
    first.unlock(held.clone()).await?;
    let other = timeout(Duration::from_secs(10), other).await???;
    assert!(
        created(&mut second, &other).await? > fence,
        "fencing tokens grow"
    );
    assert_eq!(created(&mut second, &held).await?, 0);
    second.unlock(other).await?;
    Ok(())
}

pub async fn a_lock_goes_with_its_lease(cluster: Cluster) -> Outcome {
    let (mut first, mut second) = (
        cluster.client(Some(1)).await?,
        cluster.client(Some(2)).await?,
    );
    let leases = (grant(&mut first, 60).await?, grant(&mut second, 60).await?);
    lock(&mut first, "locks/lease", leases.0).await?;
    let other = waiting(&second, "locks/lease", leases.1);
    sleep(A_WHILE).await;
    assert!(!other.is_finished());
    first.lease_revoke(leases.0).await?;
    let other = timeout(Duration::from_secs(10), other).await???;
    second.unlock(other).await?;
    Ok(())
}

pub async fn who_gives_up_leaves_the_line(cluster: Cluster) -> Outcome {
    let mut first = cluster.client(Some(0)).await?;
    let quitter = cluster.client(Some(1)).await?;
    let mut third = cluster.client(Some(2)).await?;
    let leases = [
        grant(&mut first, 60).await?,
        grant(&mut first, 60).await?,
        grant(&mut first, 60).await?,
    ];
    let held = lock(&mut first, "locks/line", leases[0]).await?;
    let impatient = waiting(&quitter, "locks/line", leases[1]);
    sleep(A_WHILE).await;
    let patient = waiting(&third, "locks/line", leases[2]);
    sleep(A_WHILE).await;
    impatient.abort();
    drop(quitter);
    sleep(A_WHILE).await;
    first.unlock(held).await?;
    let key = timeout(Duration::from_secs(10), patient).await???;
    third.unlock(key).await?;
    Ok(())
}

pub async fn a_lock_without_a_lease_gets_one(cluster: Cluster) -> Outcome {
    let mut client = cluster.client(None).await?;
    let key = client.lock("locks/session", None).await?.key().to_vec();
    let found = client.get(key.clone(), None).await?;
    let lease = found.kvs()[0].lease();
    let left = client.lease_time_to_live(lease, None).await?;
    assert_eq!(left.granted_ttl(), 60);
    client.unlock(key).await?;
    let refused = lock(&mut client, "locks/session", 0x7777).await;
    let text = refused.expect_err("there is no such lease").to_string();
    assert!(text.contains("requested lease not found"), "{text}");
    Ok(())
}

async fn campaign(
    client: &mut Client,
    value: &str,
    lease: i64,
) -> Result<LeaderKey, etcd_client::Error> {
    let won = client.campaign("elections/e", value, lease).await?;
    Ok(won.leader().expect("who wins is told its key").clone())
}

pub async fn an_election_has_one_leader(cluster: Cluster) -> Outcome {
    let (mut first, mut second) = (
        cluster.client(Some(0)).await?,
        cluster.client(Some(2)).await?,
    );
    let nobody = first.leader("elections/e").await;
    let text = nobody.expect_err("nobody leads").to_string();
    assert!(text.contains("election: no leader"), "{text}");
    let leases = (grant(&mut first, 60).await?, grant(&mut second, 60).await?);
    // etcd answers an observer only once somebody leads.
    let mut observer = cluster.client(Some(1)).await?;
    let seen = tokio::spawn(async move {
        let seen = observer.observe("elections/e").await;
        seen.map(|seen| (observer, seen))
    });
    let won = campaign(&mut first, "alice", leases.0).await?;
    let (_observer, mut seen) = seen.await??;
    let rival = tokio::spawn(async move {
        let won = campaign(&mut second, "bob", leases.1).await;
        won.map(|won| (second, won))
    });
    let mut next = async |what: &str| -> Outcome {
        let message = timeout(Duration::from_secs(10), seen.message()).await??;
        let message = message.expect("the stream goes on");
        let value = message.kv().expect("a leader is a key").value().to_vec();
        assert_eq!(value, what.as_bytes());
        Ok(())
    };
    next("alice").await?;
    let proclaim = |leader: &LeaderKey| ProclaimOptions::new().with_leader(leader.clone());
    first.proclaim("alice again", Some(proclaim(&won))).await?;
    next("alice again").await?;
    let leader = first.leader("elections/e").await?;
    assert_eq!(leader.kv().expect("somebody leads").value(), b"alice again");
    sleep(A_WHILE).await;
    assert!(!rival.is_finished(), "two lead");
    let resign = ResignOptions::new().with_leader(won.clone());
    first.resign(Some(resign)).await?;
    let (mut second, won_later) = timeout(Duration::from_secs(10), rival).await???;
    next("bob").await?;
    assert!(won_later.rev() > won.rev(), "fencing tokens grow");
    let deposed = first.proclaim("still alice", Some(proclaim(&won))).await;
    let text = deposed.expect_err("it leads no more").to_string();
    assert!(text.contains("election: not leader"), "{text}");
    let resign = ResignOptions::new().with_leader(won_later);
    second.resign(Some(resign)).await?;
    Ok(())
}

/// Who waits keeps its place, and gets the lock, whoever leads meanwhile.
pub async fn a_line_outlives_the_leader(cluster: Cluster) -> Outcome {
    let mut setup = cluster.client(None).await?;
    let holder = grant(&mut setup, 60).await?;
    let held = lock(&mut setup, "locks/failover", holder).await?;
    let mut places = Vec::new();
    for node in 0..cluster.size() {
        let client = cluster.client(Some(node)).await?;
        let lease = grant(&mut setup, 60).await?;
        places.push((node, lease, waiting(&client, "locks/failover", lease)));
        sleep(A_WHILE).await;
    }
    let killed = cluster.kill_leader();
    let living = (0..cluster.size()).find(|node| *node != killed);
    let mut client = cluster.client(living).await?;
    sleep(A_WHILE).await;
    for (node, _, other) in &places {
        assert!(*node == killed || !other.is_finished(), "two hold one lock");
    }
    // Nobody answers while there is no leader; unlocking twice does no harm.
    let mut tries = 0;
    while let Err(error) = client.unlock(held.clone()).await {
        tries += 1;
        if tries == 5 {
            return Err(error.into());
        }
    }
    for (node, lease, other) in places {
        if node == killed {
            // Its call has died with the node; its place goes with its lease.
            client.lease_revoke(lease).await?;
            continue;
        }
        let key = timeout(Duration::from_secs(20), other).await???;
        client.unlock(key).await?;
    }
    cluster.start_killed();
    Ok(())
}
