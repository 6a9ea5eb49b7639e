//! Migrations between real nodes, embedded here.

use std::collections::BTreeMap;

use bytes::Bytes;
use clap::Parser as _;
use client::etcd::proto::etcdserverpb::{
    AuthRoleAddRequest, AuthUserAddRequest, AuthUserChangePasswordRequest,
    AuthUserGrantRoleRequest, LeaseGrantRequest, PutRequest, RangeRequest,
};
use client::{Options, Security};
use server::configuration::Listen;
use server::{Configuration, Handle, Server};
use tempfile::TempDir;

use super::*;
use crate::command_line::{CommandLine, Task};

/// Only something that hangs reaches this.
const HANG: Duration = Duration::from_secs(60);

/// A cluster of one node.
struct Node {
    handle: Handle,
    folder: TempDir,
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
        Node { handle, folder }
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

/// A user with the role root.
async fn add_administrator(client: &Client, name: &str) {
    let role = AuthRoleAddRequest {
        name: "root".to_owned(),
    };
    match client.role_add(role).await {
        Err(error) if !error.is(Refusal::RoleExists) => panic!("{error}"),
        _ => {}
    }
    let user = AuthUserAddRequest {
        name: name.to_owned(),
        password: password_of(name),
        ..AuthUserAddRequest::default()
    };
    client.user_add(user).await.expect("there is no such user");
    grant(client, name, "root").await;
}

async fn grant(client: &Client, user: &str, role: &str) {
    let (user, role) = (user.to_owned(), role.to_owned());
    let granted = client.user_grant_role(AuthUserGrantRoleRequest { user, role });
    granted.await.expect("both are there");
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

/// What `quorate migrate` is told.
fn told(from: &Node, to: &Node, flags: &[&str]) -> Box<Migrate> {
    let addresses = [format!("etcd://{}", from.address()), to.address()];
    let line = [
        "quorate",
        "migrate",
        "--from",
        &addresses[0],
        "--to",
        &addresses[1],
    ];
    let line = line.iter().chain(flags).copied();
    let parsed = CommandLine::try_parse_from(line).expect("it is a command");
    match parsed.task {
        Task::Migrate(options) => options,
        other => panic!("{other:?}"),
    }
}

/// A copy that was begun without the password of root had given it one that nobody knows. The next
/// one, which was told the password, left it so, and had everybody sign in.
#[test]
fn root_has_the_password_that_is_known() {
    let (old, new) = (Node::start(), Node::start());
    let file = new.folder.path().join("passwords");
    let passwords = file.to_str().expect("it is text");
    run(async {
        let (from, to) = (old.client(None), new.client(None));
        put(&from, "key", 0).await;
        add_administrator(&from, "root").await;
        add_administrator(&from, "admin").await;
        users::enable(&from).await.expect("there is a root");

        let admin = format!("admin:{}", password_of("admin"));
        let report = migrate(&told(&old, &new, &["--from-user", &admin])).await;
        let report = report.expect("it is copied");
        assert!(report.contains("NOT in the new one"), "{report}");
        assert!(has(&to, "key").await.expect("nobody has to sign in"));

        std::fs::write(&file, format!("root:{}\n", password_of("root"))).expect("there is room");
        let flags = [
            "--from-user",
            &admin,
            "--overwrite",
            "--passwords",
            passwords,
        ];
        let report = migrate(&told(&old, &new, &flags)).await;
        let report = report.expect("it is copied again");
        assert!(report.ends_with("\nauthentication is on"), "{report}");
        assert!(has(&to, "key").await.is_err(), "everybody has to sign in");
        let there = has(&new.client(Some("root")), "key").await;
        assert!(there.expect("root can sign in"));

        // Who signs in as root there goes on, whatever else the file says.
        std::fs::write(&file, "root:another\n").expect("there is room");
        let root = format!("root:{}", password_of("root"));
        let flags = [&flags[..], &["--to-user", &root]].concat();
        let report = migrate(&told(&old, &new, &flags)).await;
        let report = report.expect("it is copied once more");
        assert!(report.ends_with("\nauthentication is on"), "{report}");
        let there = has(&new.client(Some("root")), "key").await;
        assert!(there.expect("root can sign in"));
    });
    old.stop();
    new.stop();
}

/// A change whose answer was lost is sent again, and was refused then: there is such a user by now.
/// The copy was broken off by that.
#[test]
fn a_change_of_users_may_be_sent_again() {
    let node = Node::start();
    run(async {
        let client = node.client(None);
        add_administrator(&client, "root").await;
        add_administrator(&client, "leaves").await;
        let role = |name: &str| AuthRoleAddRequest {
            name: name.to_owned(),
        };
        for name in ["gone", "kept"] {
            client.role_add(role(name)).await.expect("it is new");
            grant(&client, "root", name).await;
        }
        let mut present = users::read(&client).await.expect("it answers");
        // As if the role had had a permission, and that had been revoked.
        let range = (Bytes::from_static(b"a"), Bytes::new());
        let kept = present.roles.get_mut("kept").expect("it is there");
        kept.insert(range, 0);
        let set = |names: &[&str]| -> BTreeSet<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        let wanted = Users {
            is_enabled: false,
            users: [
                ("root".to_owned(), set(&["root"])),
                ("comes".to_owned(), set(&[])),
            ]
            .into(),
            roles: ["root", "kept", "new"]
                .map(|role| (role.to_owned(), BTreeMap::new()))
                .into(),
        };
        for time in 1..=2 {
            let made = users::make(&client, &wanted, &present, &Passwords::new()).await;
            let locked = made.unwrap_or_else(|error| panic!("time {time}: {error}"));
            assert_eq!(locked, ["comes"]);
            let now = users::read(&client).await.expect("it answers");
            assert_eq!(now.users, wanted.users);
            assert!(now.roles.keys().eq(wanted.roles.keys()), "{now:?}");
        }
        // What has another reason is an error as before.
        let mut wrong = wanted.clone();
        wrong.users.insert("comes".to_owned(), set(&["missing"]));
        let made = users::make(&client, &wrong, &wanted, &Passwords::new()).await;
        assert!(made.is_err());
        for time in 1..=2 {
            let enabled = users::enable(&client).await;
            enabled.unwrap_or_else(|error| panic!("time {time}: {error}"));
        }
    });
    node.stop();
}

/// etcd says so in a message of the stream and not by its end, and the copy was broken off.
#[test]
fn who_follows_signs_in_again() {
    let node = Node::start();
    run(async {
        let nobody = node.client(None);
        put(&nobody, "first", 0).await;
        add_administrator(&nobody, "root").await;
        users::enable(&nobody).await.expect("there is a root");
        let follower = node.client(Some("root"));
        follower.sign_in().await.expect("root may");
        let root = node.client(Some("root"));
        let same = AuthUserChangePasswordRequest {
            name: "root".to_owned(),
            password: password_of("root"),
            ..AuthUserChangePasswordRequest::default()
        };
        let changed = root.user_change_password(same).await;
        changed.expect("root may change it, which ends the tokens of before");
        let mut feed = following::follow(follower, 2, LIMITS);
        let first = tokio::time::timeout(HANG, feed.recv()).await;
        let first = first.expect("it comes").expect("it is not over");
        let first = first.expect("it goes on");
        assert_eq!((first.revision, first.changes.len()), (2, 1));
    });
    node.stop();
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
