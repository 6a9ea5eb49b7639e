//! Migrations between real nodes, embedded here.

use client::etcd::proto::etcdserverpb::{LeaseGrantRequest, PutRequest, RangeRequest};
use client::{Options, Security};
use server::configuration::Listen;
use server::{Configuration, Handle, Server};
use tempfile::TempDir;

use super::*;

/// A cluster of one node.
struct Node {
    handle: Handle,
    _folder: TempDir,
}

impl Node {
    fn start() -> Node {
        let folder = tempfile::tempdir().expect("there is room");
        let handle = Server::start(Configuration {
            data_dir: folder.path().join("data"),
            listen_etcd: Listen::Tcp("127.0.0.1:0".into()),
            listen_admin: Listen::None,
            // The cheapest there is: what is tested is not how slow hashing is.
            bcrypt_cost: 4,
            ..Configuration::default()
        });
        let handle = handle.expect("it starts");
        assert!(handle.wait_until_ready());
        Node {
            handle,
            _folder: folder,
        }
    }

    fn address(&self) -> String {
        self.handle.endpoints().etcd.to_string()
    }

    /// A client of nobody, or of a user with the password of the same name.
    fn client(&self, user: Option<&str>) -> Client {
        let user = user.map(|user| (user.to_owned(), password_of(user)));
        let security = Security { tls: None, user };
        let client = Client::secured([self.address()], Options::default(), security);
        client.expect("it is an address")
    }

    fn stop(self) {
        self.handle.shutdown();
        self.handle.wait().expect("it stops");
    }
}

fn password_of(user: &str) -> String {
    format!("{user}'s password")
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Runtime::new().expect("there are threads");
    runtime.block_on(test)
}

async fn put(client: &Client, key: &str, lease: i64) {
    let put = client.put(PutRequest {
        key: key.to_owned().into(),
        value: "value".into(),
        lease,
        ..PutRequest::default()
    });
    put.await.expect("it can be put");
}

async fn has(client: &Client, key: &str) -> Result<bool, client::Error> {
    let range = RangeRequest {
        key: key.to_owned().into(),
        ..RangeRequest::default()
    };
    Ok(client.range(range).await?.count > 0)
}

/// A lease ended in the old cluster, and before that was done in the new one it was granted again
/// under the same number: its new key went with the old lease.
#[test]
fn a_lease_that_was_granted_again_keeps_its_keys() {
    let (old, new) = (Node::start(), Node::start());
    run(async {
        let (source, target) = (old.client(None), new.client(None));
        let granted = || source.lease_grant(LeaseGrantRequest { id: 7, ttl: 600 });
        let revision = || async { pages::revision(&source).await.expect("it answers") };
        let mut leases = Leases::new(source.clone(), target.clone());
        granted().await.expect("it is new");
        put(&source, "key", 7).await;
        leases.look().await.expect("both answer");
        put(&target, "key", 7).await;
        let written = revision().await;

        source.lease_revoke(7).await.expect("it is there");
        leases.look().await.expect("both answer");
        // That the key is gone has not been written yet.
        leases.reap(written).await.expect("both answer");
        assert!(has(&target, "key").await.expect("it answers"));
        granted().await.expect("it is new again");
        put(&source, "key", 7).await;
        assert!(leases.ensure(7).await.expect("both answer"));
        put(&target, "key", 7).await;
        for _ in 0..2 {
            leases.look().await.expect("both answer");
            leases.reap(revision().await).await.expect("both answer");
            assert!(has(&target, "key").await.expect("it answers"));
            assert_eq!(leases.count(), 1);
        }

        source.lease_revoke(7).await.expect("it is there");
        leases.look().await.expect("both answer");
        leases.reap(revision().await).await.expect("both answer");
        assert!(!has(&target, "key").await.expect("it answers"));
        assert_eq!(leases.count(), 0);
    });
    old.stop();
    new.stop();
}
