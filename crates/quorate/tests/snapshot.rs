//! Snapshots of real clusters: saved while they serve, verified, and made a new cluster.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts processes"
)]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod support;

use std::fs;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};

use client::etcd::proto::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthUserAddRequest, AuthUserGrantRoleRequest,
    PutRequest, RangeRequest,
};
use client::{Client, Options, Security, Tls};
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

/// A snapshot holds every value, and what signs tokens. What an attempt that was broken off has
/// left may be open to everybody.
#[tokio::test]
async fn nobody_but_its_owner_may_read_a_snapshot() {
    let (cluster, folder) = serving(1).await;
    let endpoint = &cluster.endpoints()[0];
    let client = Client::new([endpoint], Options::default()).unwrap();
    client.put(put(1)).await.unwrap();
    let path = folder.path().join("saved.snapshot");
    let part = folder.path().join("saved.snapshot.part");
    let mut options = fs::File::options();
    let left = options.write(true).create_new(true).mode(0o644).open(&part);
    drop(left.unwrap());
    let saved = path.to_str().unwrap();
    quorate(["snapshot", "save", saved, "--endpoints", endpoint]).succeeded();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    assert!(!part.exists());
    // Nor is anything left where it cannot have its name.
    let taken = folder.path().join("taken");
    fs::create_dir_all(taken.join("by something")).unwrap();
    let name = taken.to_str().unwrap();
    quorate(["snapshot", "save", name, "--endpoints", endpoint]).refused(&["taken"]);
    assert!(!folder.path().join("taken.part").exists());
}

#[tokio::test]
async fn a_cluster_with_tls_and_users_is_saved_by_its_root() {
    let (cluster, folder) = laid_out(1);
    let certificates = folder.path().join("certificates");
    let directory = certificates.to_str().unwrap();
    quorate(["cert", "authority", "--dir", directory]).succeeded();
    let host = "localhost,127.0.0.1";
    quorate(["cert", "node", "n1", "--host", host, "--dir", directory]).succeeded();
    let file = |name: &str| certificates.join(name).to_str().unwrap().to_owned();
    let (authority, cert, key) = (file("ca.pem"), file("n1.pem"), file("n1-key.pem"));
    let mut cluster = cluster.with_flags(&["--cert-file", &cert, "--key-file", &key]);
    cluster.start_all().await.unwrap();
    let endpoint = &cluster.endpoints()[0];
    let security = Security {
        tls: Some(Tls {
            authorities: fs::read(&authority).unwrap(),
            own: None,
        }),
        user: None,
    };
    let client = Client::secured([endpoint], Options::default(), security).unwrap();
    client.put(put(1)).await.unwrap();
    let (name, password) = ("root".to_owned(), "secret".to_owned());
    let user = AuthUserAddRequest {
        name: name.clone(),
        password,
        ..Default::default()
    };
    client.user_add(user).await.unwrap();
    let role = AuthRoleAddRequest { name: name.clone() };
    client.role_add(role).await.unwrap();
    let (user, role) = (name.clone(), name);
    let grant = AuthUserGrantRoleRequest { user, role };
    client.user_grant_role(grant).await.unwrap();
    client.auth_enable(AuthEnableRequest {}).await.unwrap();

    let path = folder.path().join("saved.snapshot");
    let saved = path.to_str().unwrap();
    let save = ["snapshot", "save", saved, "--endpoints", endpoint];
    let trusting = [&save[..], &["--cacert", &authority]].concat();
    quorate(&trusting).refused(&["user name is empty"]);
    quorate([&trusting[..], &["--user", "root:wrong"]].concat())
        .refused(&["authentication failed"]);
    quorate([&trusting[..], &["--user", "root"]].concat()).refused(&["NAME:PASSWORD"]);
    assert!(!path.exists());
    let told = quorate([&trusting[..], &["--user", "root:secret"]].concat()).succeeded();
    assert!(told.contains("1 keys"), "{told}");
}
