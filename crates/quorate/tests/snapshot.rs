//! Snapshots of real clusters: saved while they serve, verified, and made a new cluster.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts processes"
)]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod support;

use std::fs;

use client::etcd::proto::etcdserverpb::{PutRequest, RangeRequest};
use client::{Client, Options};
use server::snapshot::restore::RAISE_BY;
use support::{laid_out, quorate, serving};

fn put(number: usize) -> PutRequest {
    PutRequest {
        key: format!("key {number}").into(),
        value: vec![b'x'; 1000].into(),
        ..Default::default()
    }
}

fn all() -> RangeRequest {
    RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_saved_cluster_comes_back_as_another_one() {
    let (cluster, folder) = serving(3).await;
    let old = Client::new(cluster.endpoints(), Options::default()).unwrap();
    for number in 0..300 {
        old.put(put(number % 250)).await.unwrap();
    }
    let before = old.range(all()).await.unwrap();
    let saved = folder.path().join("saved.snapshot");
    let saved = saved.to_str().unwrap();
    let endpoint = &cluster.nodes()[1].etcd;
    let told = quorate(["snapshot", "save", saved, "--endpoints", endpoint]).succeeded();
    assert!(told.contains("250 keys"), "{told}");
    let told = quorate(["snapshot", "status", saved, "--json"]).succeeded();
    let facts: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(facts["keys"], 250);
    drop(cluster);

    let (mut cluster, _folder) = laid_out(3);
    let restored = folder.path().join("restored");
    let data_dir = restored.to_str().unwrap();
    let members = cluster.members();
    let task = [
        "snapshot",
        "restore",
        saved,
        "--data-dir",
        data_dir,
        "--cluster",
        &members,
    ];
    quorate(task).succeeded();
    quorate(task).refused(&["is not empty"]);
    for node in cluster.nodes() {
        fs::rename(restored.join(&node.name), node.data()).unwrap();
    }
    cluster.start_all().await.unwrap();
    let new = Client::new(cluster.endpoints(), Options::default()).unwrap();
    let after = new.range(all()).await.unwrap();
    assert_eq!(after.kvs, before.kvs, "every key is as it was");
    let (old_header, header) = (before.header.unwrap(), after.header.unwrap());
    assert_ne!(header.cluster_id, old_header.cluster_id);
    let raised = old_header.revision + RAISE_BY as i64;
    assert_eq!(header.revision, raised, "nothing was written since");
    let past = RangeRequest {
        revision: old_header.revision,
        ..all()
    };
    let refused = new.range(past).await.unwrap_err();
    assert!(refused.is(client::etcd::Error::Compacted), "{refused}");
    let put = new.put(put(0)).await.unwrap();
    assert_eq!(put.header.unwrap().revision, raised + 1);
    // They come back from their own journals, too.
    for index in 0..3 {
        cluster.kill(index);
    }
    cluster.start_all().await.unwrap();
    assert_eq!(new.range(all()).await.unwrap().count, 250);
}

#[tokio::test]
async fn a_damaged_file_is_refused_whatever_is_damaged() {
    let (cluster, folder) = serving(1).await;
    let client = Client::new(cluster.endpoints(), Options::default()).unwrap();
    for number in 0..100 {
        client.put(put(number)).await.unwrap();
    }
    let path = folder.path().join("saved.snapshot");
    let saved = path.to_str().unwrap();
    quorate([
        "snapshot",
        "save",
        saved,
        "--endpoints",
        &cluster.endpoints()[0],
    ])
    .succeeded();
    let good = fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        quorate(["snapshot", "status", saved]).refused(&["saved.snapshot"]);
    };
    for at in [0, 40, good.len() / 2, good.len() - 100, good.len() - 1] {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        refused(&flipped);
    }
    refused(&good[..good.len() - 512]);
    refused(&good[..100]);
    refused(&[]);
    let mut longer = good.clone();
    longer.extend([0; 512]);
    refused(&longer);
}
