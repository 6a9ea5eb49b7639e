//! Users, roles and permissions, as etcd's clients see them: every rule and every refusal, by what
//! a request is answered.

mod harness;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use harness::Keyspace;
use quorate_etcd::auth::{self, Access, AuthContent, AuthRequest, Caller, Requirement};
use quorate_etcd::proto::authpb::Permission;
use quorate_etcd::proto::etcdserverpb::compare::{CompareResult, CompareTarget};
use quorate_etcd::proto::etcdserverpb::request_op::Request as Operation;
use quorate_etcd::proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};
use quorate_etcd::{Error, Plan, ReadBudget, ReadOutcome, Request, Response, plan_for, read};
use state::LeaseId;

const READ: i32 = 0;
const WRITE: i32 = 1;
const BOTH: i32 = 2;

/// A keyspace, and who asks.
#[derive(Default)]
struct World {
    keyspace: Keyspace,
}

impl World {
    /// With root, and authentication on.
    fn enabled() -> World {
        let mut world = World::default();
        world.add_user("root");
        world.done(AuthRequest::UserGrantRole {
            user: "root".into(),
            role: "root".into(),
        });
        world.done(enable());
        world
    }

    fn revision(&self) -> u64 {
        auth::status(self.keyspace.state.reader()).revision
    }

    fn caller(&self, user: &str) -> Option<Arc<Caller>> {
        let (user, revision) = (user.to_owned(), self.revision());
        (!user.is_empty()).then(|| Arc::new(Caller { user, revision }))
    }

    /// Asks as a user who has just signed in; as nobody, if the name is empty.
    fn ask(&mut self, user: &str, request: Request) -> Result<Response, Error> {
        let caller = self.caller(user);
        self.ask_as(caller, request)
    }

    fn ask_as(&mut self, caller: Option<Arc<Caller>>, request: Request) -> Result<Response, Error> {
        match plan_for(caller, request, &self.keyspace.limits)? {
            Plan::Command(record) => self.keyspace.execute(&record),
            Plan::Read(request) => {
                let reader = self.keyspace.state.reader();
                match read(reader, &request, ReadBudget::UNLIMITED) {
                    ReadOutcome::Done(answer) => answer,
                    ReadOutcome::TooLarge => panic!("an unlimited budget was used up"),
                }
            }
            Plan::Renew(_) => panic!("nothing is renewed here"),
        }
    }

    fn auth(&mut self, user: &str, request: AuthRequest) -> Result<AuthContent, Error> {
        match self.ask(user, Request::Auth(request))? {
            Response::Auth(response) => Ok(response.content),
            other => panic!("not an answer about users: {other:?}"),
        }
    }

    /// Root, or anybody while authentication is off.
    fn done(&mut self, request: AuthRequest) {
        assert_eq!(self.auth("root", request), Ok(AuthContent::Done));
    }

    fn add_user(&mut self, name: &str) {
        self.done(user_add(name));
    }

    /// A user with a role of his own and these permissions.
    fn add(&mut self, name: &str, permissions: &[(i32, &str, &str)]) {
        self.add_user(name);
        let role = name.to_owned();
        self.done(AuthRequest::RoleAdd { name: role.clone() });
        for (kind, key, range_end) in permissions {
            self.done(grant(&role, *kind, key, range_end));
        }
        let user = name.to_owned();
        self.done(AuthRequest::UserGrantRole { user, role });
    }

    fn names(&mut self, user: &str, request: AuthRequest) -> Result<Vec<String>, Error> {
        match self.auth(user, request)? {
            AuthContent::Names(names) => Ok(names),
            other => panic!("not names: {other:?}"),
        }
    }
}

fn enable() -> AuthRequest {
    AuthRequest::Enable { token_key: [7; 32] }
}

fn user_add(name: &str) -> AuthRequest {
    AuthRequest::UserAdd {
        name: name.into(),
        password_hash: Some(Bytes::from_static(b"hash")),
    }
}

fn grant(role: &str, kind: i32, key: &str, range_end: &str) -> AuthRequest {
    AuthRequest::RoleGrantPermission {
        role: role.into(),
        permission: Some(Permission {
            perm_type: kind,
            key: Bytes::copy_from_slice(key.as_bytes()),
            range_end: Bytes::copy_from_slice(range_end.as_bytes()),
        }),
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, lease: i64, prev_kv: bool) -> PutRequest {
    PutRequest {
        key: bytes(key),
        value: bytes("v"),
        lease,
        prev_kv,
        ..PutRequest::default()
    }
}

fn range(key: &str, range_end: &str) -> RangeRequest {
    RangeRequest {
        key: bytes(key),
        range_end: bytes(range_end),
        ..RangeRequest::default()
    }
}

fn delete(key: &str, range_end: &str, prev_kv: bool) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(range_end),
        prev_kv,
    }
}

fn compare(key: &str) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        key: bytes(key),
        ..Compare::default()
    }
}

fn txn(compares: &[&str], success: Vec<Operation>, failure: Vec<Operation>) -> TxnRequest {
    let operations = |requests: Vec<Operation>| {
        let operations = requests.into_iter().map(|request| RequestOp {
            request: Some(request),
        });
        operations.collect()
    };
    TxnRequest {
        compare: compares.iter().map(|key| compare(key)).collect(),
        success: operations(success),
        failure: operations(failure),
    }
}

#[test]
fn enabling_needs_root_with_its_role_and_moves_no_revision() {
    let mut world = World::default();
    assert_eq!(world.revision(), 1);
    assert_eq!(world.auth("", enable()), Err(Error::RootUserMissing));
    assert_eq!(world.auth("", user_add("root")), Ok(AuthContent::Done));
    assert_eq!(world.revision(), 2);
    assert_eq!(world.auth("", enable()), Err(Error::RootRoleMissing));
    world.done(AuthRequest::UserGrantRole {
        user: "root".into(),
        role: "root".into(),
    });
    world.done(enable());
    assert_eq!(world.revision(), 3);
    // Again, it changes nothing, not even the key that tokens are signed with.
    let again = AuthRequest::Enable { token_key: [8; 32] };
    world.done(again);
    let access = Access::of(world.keyspace.state.reader());
    assert_eq!(access.token_key(), Some([7; 32]));
    assert_eq!(world.auth("", AuthRequest::Disable), Err(Error::UserEmpty));
    world.done(AuthRequest::Disable);
    assert_eq!(world.revision(), 4);
    let again = world.auth("", AuthRequest::Disable);
    assert_eq!((again, world.revision()), (Ok(AuthContent::Done), 4));
    let status = auth::Status {
        is_enabled: false,
        revision: 4,
    };
    let told = world.auth("", AuthRequest::Status);
    assert_eq!(told, Ok(AuthContent::Status(status)));
}

#[test]
fn changes_are_refused_in_etcds_order_and_words() {
    let mut world = World::enabled();
    world.add("u", &[(READ, "a", "")]);
    let name = || String::from("x");
    let known = || String::from("u");
    let root = || String::from("root");
    let hash = Bytes::from_static(b"h");
    let cases = [
        (user_add(""), Error::UserEmpty),
        (user_add("u"), Error::UserExists),
        (
            AuthRequest::UserDelete { name: name() },
            Error::UserNotFound,
        ),
        (
            AuthRequest::UserDelete { name: root() },
            Error::InvalidAuthManagement,
        ),
        (AuthRequest::UserGet { name: name() }, Error::UserNotFound),
        (
            AuthRequest::UserChangePassword {
                name: name(),
                password_hash: hash,
            },
            Error::UserNotFound,
        ),
        (
            AuthRequest::UserGrantRole {
                user: name(),
                role: name(),
            },
            Error::UserNotFound,
        ),
        (
            AuthRequest::UserGrantRole {
                user: known(),
                role: name(),
            },
            Error::RoleNotFound,
        ),
        (
            AuthRequest::UserRevokeRole {
                user: name(),
                role: name(),
            },
            Error::UserNotFound,
        ),
        (
            AuthRequest::UserRevokeRole {
                user: known(),
                role: name(),
            },
            Error::RoleNotGranted,
        ),
        (
            AuthRequest::UserRevokeRole {
                user: root(),
                role: root(),
            },
            Error::InvalidAuthManagement,
        ),
        (
            AuthRequest::RoleAdd {
                name: String::new(),
            },
            Error::RoleEmpty,
        ),
        (AuthRequest::RoleAdd { name: known() }, Error::RoleExists),
        (
            AuthRequest::RoleDelete { role: name() },
            Error::RoleNotFound,
        ),
        (
            AuthRequest::RoleDelete { role: root() },
            Error::InvalidAuthManagement,
        ),
        (AuthRequest::RoleGet { role: name() }, Error::RoleNotFound),
        (grant("x", READ, "a", ""), Error::RoleNotFound),
        (grant("u", READ, "", ""), Error::InvalidAuthManagement),
        (grant("u", READ, "b", "a"), Error::InvalidAuthManagement),
        (grant("u", 3, "a", ""), Error::InvalidAuthManagement),
        (
            AuthRequest::RoleGrantPermission {
                role: known(),
                permission: None,
            },
            Error::PermissionNotGiven,
        ),
        (
            AuthRequest::RoleRevokePermission {
                role: name(),
                key: bytes("a"),
                range_end: Bytes::new(),
            },
            Error::RoleNotFound,
        ),
        (
            AuthRequest::RoleRevokePermission {
                role: known(),
                key: bytes("a"),
                range_end: bytes("b"),
            },
            Error::PermissionNotGranted,
        ),
    ];
    let revision = world.revision();
    for (request, expected) in cases {
        let answer = world.auth("root", request.clone());
        assert_eq!(answer, Err(expected), "{request:?}");
    }
    assert_eq!(
        world.revision(),
        revision,
        "what is refused changes nothing"
    );
    // A role that the user has already is granted without changing anything.
    world.done(AuthRequest::UserGrantRole {
        user: known(),
        role: known(),
    });
    assert_eq!(world.revision(), revision);
}

#[test]
fn only_root_administers_and_everybody_sees_himself() {
    let mut world = World::enabled();
    world.add("u", &[]);
    world.add("other", &[]);
    let own = AuthRequest::UserGet { name: "u".into() };
    assert_eq!(world.names("u", own.clone()), Ok(vec!["u".to_owned()]));
    assert_eq!(
        world.names("other", own.clone()),
        Err(Error::PermissionDenied)
    );
    assert_eq!(world.names("", own), Err(Error::UserEmpty));
    let role = AuthRequest::RoleGet { role: "u".into() };
    assert_eq!(
        world.auth("u", role.clone()),
        Ok(AuthContent::Permissions(vec![]))
    );
    assert_eq!(world.auth("other", role), Err(Error::PermissionDenied));
    for request in [
        AuthRequest::UserList,
        AuthRequest::RoleList,
        AuthRequest::Disable,
        enable(),
        user_add("x"),
        AuthRequest::RoleAdd { name: "x".into() },
        grant("u", BOTH, "\0", "\0"),
    ] {
        assert_eq!(world.auth("", request.clone()), Err(Error::UserEmpty));
        assert_eq!(
            world.auth("u", request.clone()),
            Err(Error::PermissionDenied)
        );
        let gone = world.auth("nobody", request);
        assert_eq!(gone, Err(Error::UserNotFound));
    }
    let all = world.names("root", AuthRequest::UserList);
    assert_eq!(all, Ok(vec!["other".into(), "root".into(), "u".into()]));
    let compact = Request::Compact(CompactionRequest::default());
    assert_eq!(
        world.ask("u", compact.clone()),
        Err(Error::PermissionDenied)
    );
    assert!(world.ask("root", compact).is_ok());
    // Whoever has the role root may do the same.
    world.done(AuthRequest::UserGrantRole {
        user: "u".into(),
        role: "root".into(),
    });
    assert!(world.names("u", AuthRequest::RoleList).is_ok());
    assert!(world.ask("u", Request::Put(put("z", 0, true))).is_ok());
}

/// Who may do what: `u` may read `r`, write `w`, both `b`, read all of `[p, q)`.
#[test]
fn keys_are_guarded_wherever_they_are_named() {
    let mut world = World::enabled();
    let permissions = [
        (READ, "r", ""),
        (WRITE, "w", ""),
        (BOTH, "b", ""),
        (READ, "p", "q"),
        (READ, "q", "r"),
    ];
    world.add("u", &permissions);
    let (yes, no) = (true, false);
    let put_op = |key, prev| Operation::RequestPut(put(key, 0, prev));
    let range_op = |key| Operation::RequestRange(range(key, ""));
    let delete_op = |key, prev| Operation::RequestDeleteRange(delete(key, "", prev));
    let nested = |inner| Operation::RequestTxn(inner);
    let cases: Vec<(Request, bool)> = vec![
        (Request::Range(range("r", "")), yes),
        (Request::Range(range("w", "")), no),
        (Request::Range(range("p", "q")), yes),
        (Request::Range(range("p", "r")), yes),
        (Request::Range(range("p", "r\0")), yes),
        (Request::Range(range("p", "s")), no),
        (Request::Range(range("p", "\0")), no),
        (Request::Put(put("w", 0, no)), yes),
        (Request::Put(put("w", 0, yes)), no),
        (Request::Put(put("b", 0, yes)), yes),
        (Request::Put(put("r", 0, no)), no),
        (Request::DeleteRange(delete("w", "", no)), yes),
        (Request::DeleteRange(delete("w", "", yes)), no),
        (Request::DeleteRange(delete("w", "x", no)), no),
        (Request::Txn(txn(&["r"], vec![range_op("b")], vec![])), yes),
        (Request::Txn(txn(&["w"], vec![range_op("b")], vec![])), no),
        (
            Request::Txn(txn(&["r"], vec![put_op("w", no)], vec![])),
            yes,
        ),
        (
            Request::Txn(txn(&["r"], vec![put_op("w", yes)], vec![])),
            no,
        ),
        // The branch that is not taken counts as well.
        (Request::Txn(txn(&["r"], vec![], vec![put_op("r", no)])), no),
        (
            Request::Txn(txn(&[], vec![delete_op("w", no)], vec![])),
            yes,
        ),
        (
            Request::Txn(txn(&[], vec![delete_op("w", yes)], vec![])),
            no,
        ),
        (
            Request::Txn(txn(
                &[],
                vec![nested(txn(&["b"], vec![put_op("b", yes)], vec![]))],
                vec![],
            )),
            yes,
        ),
        (
            Request::Txn(txn(
                &[],
                vec![nested(txn(&["w"], vec![put_op("b", no)], vec![]))],
                vec![],
            )),
            no,
        ),
        (
            Request::Txn(txn(
                &[],
                vec![nested(txn(&[], vec![], vec![range_op("w")]))],
                vec![],
            )),
            no,
        ),
    ];
    for (request, allowed) in cases {
        let before = world.keyspace.state.reader().revision();
        let answer = world.ask("u", request.clone()).map(|_| ());
        let after = world.keyspace.state.reader().revision();
        assert!(
            allowed || before == after,
            "what is refused changes nothing"
        );
        let expected = if allowed {
            Ok(())
        } else {
            Err(Error::PermissionDenied)
        };
        assert_eq!(answer, expected, "{request:?}");
        assert_eq!(world.ask("", request.clone()), Err(Error::UserEmpty));
        let denied = world.ask("nobody", request.clone());
        assert_eq!(denied, Err(Error::PermissionDenied), "who does not exist");
        assert!(world.ask("root", request).is_ok());
    }
}

#[test]
fn an_old_revision_is_refused_before_anything_is_judged() {
    let mut world = World::enabled();
    world.add("u", &[(BOTH, "a", "")]);
    let old = world.caller("u");
    let old_root = world.caller("root");
    world.add_user("other");
    let put = Request::Put(put("a", 0, false));
    let refused = world.ask_as(old.clone(), put.clone());
    assert_eq!(refused, Err(Error::AuthOldRevision));
    let range = Request::Range(range("a", ""));
    assert_eq!(world.ask_as(old, range), Err(Error::AuthOldRevision));
    assert_eq!(
        world.ask_as(old_root.clone(), put),
        Err(Error::AuthOldRevision)
    );
    // As in etcd, users and roles are administered by what holds now.
    let list = Request::Auth(AuthRequest::UserList);
    assert!(world.ask_as(old_root, list).is_ok());
}

#[test]
fn leases_are_guarded_by_their_keys() {
    let mut world = World::enabled();
    world.add("u", &[(BOTH, "a", ""), (WRITE, "c", "")]);
    let grant = |id| Request::LeaseGrant(LeaseGrantRequest { id, ttl: 60 });
    assert_eq!(world.ask("", grant(1)), Err(Error::UserEmpty));
    assert!(world.ask("u", grant(1)).is_ok());
    assert!(world.ask("root", grant(2)).is_ok());
    assert!(world.ask("u", Request::Put(put("a", 1, false))).is_ok());
    assert!(world.ask("root", Request::Put(put("b", 2, false))).is_ok());
    // A lease that ends takes all its keys along: who attaches one must be able to end it.
    let attach = Request::Put(put("a", 2, false));
    assert_eq!(world.ask("u", attach), Err(Error::PermissionDenied));
    let attach = Operation::RequestPut(put("a", 2, false));
    let attach = Request::Txn(txn(&[], vec![attach], vec![]));
    assert_eq!(world.ask("u", attach), Err(Error::PermissionDenied));
    let missing = Request::Put(put("a", 9, false));
    assert_eq!(world.ask("u", missing), Err(Error::LeaseNotFound));

    let left = |id, keys| Request::LeaseTimeToLive(LeaseTimeToLiveRequest { id, keys });
    assert!(world.ask("u", left(1, true)).is_ok());
    assert_eq!(world.ask("u", left(2, true)), Err(Error::PermissionDenied));
    assert!(
        world.ask("u", left(2, false)).is_ok(),
        "how long a lease lives tells nothing of its keys"
    );
    assert_eq!(world.ask("", left(1, false)), Err(Error::UserEmpty));
    assert!(
        world.ask("u", left(9, true)).is_ok(),
        "what does not exist hides nothing"
    );
    assert_eq!(
        world.ask("u", Request::LeaseLeases),
        Err(Error::PermissionDenied)
    );
    assert!(world.ask("root", Request::LeaseLeases).is_ok());

    let revoke = |id| Request::LeaseRevoke(LeaseRevokeRequest { id });
    assert_eq!(world.ask("u", revoke(2)), Err(Error::PermissionDenied));
    assert_eq!(world.ask("", revoke(1)), Err(Error::UserEmpty));
    assert!(world.ask("u", revoke(1)).is_ok());
    assert!(world.ask("root", revoke(2)).is_ok());
    assert!(world.ask("u", Request::LeaseLeases).is_ok(), "none is left");
}

/// Any user, and nobody in particular, could keep every lease alive.
#[test]
fn whoever_renews_a_lease_must_be_allowed_to_write_its_keys() {
    let mut world = World::default();
    world.add("u", &[(BOTH, "a", "")]);
    let grant = |id| Request::LeaseGrant(LeaseGrantRequest { id, ttl: 60 });
    for (lease, keys) in [(1, &["a", "b"][..]), (2, &["a"]), (3, &[])] {
        world.ask("", grant(lease)).unwrap();
        for key in keys {
            world.ask("", Request::Put(put(key, lease, false))).unwrap();
        }
    }
    fn refused(
        world: &mut World,
        caller: Option<Arc<Caller>>,
    ) -> Result<Vec<(usize, Error)>, Error> {
        let leases = [3, 1, 2, 9, 1].map(LeaseId);
        let Keyspace { state, gates, .. } = &mut world.keyspace;
        gates.refused_renewals(state.reader(), caller.as_deref(), &leases)
    }
    assert_eq!(refused(&mut world, None), Ok(vec![]), "nobody has to");
    world.add_user("root");
    world.done(AuthRequest::UserGrantRole {
        user: "root".into(),
        role: "root".into(),
    });
    world.done(enable());
    let everywhere = |error| Ok(vec![(1, error), (2, error), (4, error)]);
    let denied = Error::PermissionDenied;
    for (user, expected) in [
        ("", Err(Error::UserEmpty)),
        ("root", Ok(vec![])),
        ("u", Ok(vec![(1, denied), (4, denied)])),
        ("x", everywhere(denied)),
    ] {
        let caller = world.caller(user);
        assert_eq!(refused(&mut world, caller), expected, "{user}");
    }
    // A token of before some change: of no use to anybody but root, where there are keys.
    let (before, root) = (world.caller("u"), world.caller("root"));
    world.done(AuthRequest::UserRevokeRole {
        user: "u".into(),
        role: "u".into(),
    });
    let old = Error::AuthOldRevision;
    assert_eq!(refused(&mut world, before), everywhere(old));
    assert_eq!(refused(&mut world, root), Ok(vec![]));
    let caller = world.caller("u");
    assert_eq!(refused(&mut world, caller), everywhere(denied));
}

#[test]
fn permissions_are_kept_in_order_and_the_same_range_again_changes_its_kind() {
    let mut world = World::enabled();
    world.add("u", &[(READ, "b", "c"), (READ, "a", ""), (READ, "b", "")]);
    world.done(grant("u", WRITE, "b", ""));
    let permission = |perm_type, key, range_end| Permission {
        perm_type,
        key: bytes(key),
        range_end: bytes(range_end),
    };
    let get = |role: &str| AuthRequest::RoleGet { role: role.into() };
    let expected = vec![
        permission(READ, "a", ""),
        permission(WRITE, "b", ""),
        permission(READ, "b", "c"),
    ];
    let told = world.auth("root", get("u"));
    assert_eq!(told, Ok(AuthContent::Permissions(expected)));
    world.done(AuthRequest::RoleRevokePermission {
        role: "u".into(),
        key: bytes("b"),
        range_end: Bytes::new(),
    });
    let expected = vec![permission(READ, "a", ""), permission(READ, "b", "c")];
    let told = world.auth("root", get("u"));
    assert_eq!(told, Ok(AuthContent::Permissions(expected)));
    // Root's role need not exist, but may; what it may do is fixed.
    assert_eq!(world.auth("root", get("root")), Err(Error::RoleNotFound));
    world.done(AuthRequest::RoleAdd {
        name: "root".into(),
    });
    let told = world.auth("root", get("root"));
    let all = permission(BOTH, "", "\0");
    assert_eq!(told, Ok(AuthContent::Permissions(vec![all])));
}

#[test]
fn a_role_that_goes_is_taken_from_all_who_had_it() {
    let mut world = World::enabled();
    world.add("u", &[(BOTH, "a", "")]);
    world.done(AuthRequest::RoleDelete { role: "u".into() });
    let get = AuthRequest::UserGet { name: "u".into() };
    assert_eq!(world.names("root", get), Ok(vec![]));
    let put = Request::Put(put("a", 0, false));
    assert_eq!(world.ask("u", put.clone()), Err(Error::PermissionDenied));
    // A new role of the same name is not his.
    world.done(AuthRequest::RoleAdd { name: "u".into() });
    world.done(grant("u", BOTH, "a", ""));
    assert_eq!(world.ask("u", put), Err(Error::PermissionDenied));
}

#[test]
fn credentials_name_the_password_and_hide_who_has_none() {
    let mut world = World::enabled();
    world.add_user("u");
    world.done(AuthRequest::UserAdd {
        name: "certificate".into(),
        password_hash: None,
    });
    let ask = |world: &mut World, user: &str| {
        let user = user.to_owned();
        match world.auth("", AuthRequest::Credentials { user }) {
            Ok(AuthContent::Credentials(credentials)) => credentials,
            other => panic!("not credentials: {other:?}"),
        }
    };
    let before = ask(&mut world, "u");
    assert_eq!(before.password_hash.as_deref(), Some(&b"hash"[..]));
    assert_eq!(ask(&mut world, "certificate").password_hash, None);
    assert_eq!(ask(&mut world, "nobody").password_hash, None);
    world.done(AuthRequest::UserChangePassword {
        name: "u".into(),
        password_hash: bytes("new"),
    });
    let after = ask(&mut world, "u");
    assert_eq!(after.password_hash.as_deref(), Some(&b"new"[..]));
    assert!(after.generation > before.generation);
    let access = Access::of(world.keyspace.state.reader());
    assert_eq!(access.generation("u"), Some(after.generation));
    assert_eq!(access.generation("nobody"), None);
    // A user added again under the same name is another one.
    world.done(AuthRequest::UserDelete { name: "u".into() });
    world.add_user("u");
    assert!(ask(&mut world, "u").generation > after.generation);
    // Someone who never signs in by password does not begin to by having one set.
    world.done(AuthRequest::UserChangePassword {
        name: "certificate".into(),
        password_hash: bytes("new"),
    });
    assert_eq!(ask(&mut world, "certificate").password_hash, None);
    world.done(AuthRequest::Disable);
    let user = "u".to_owned();
    let refused = world.auth("", AuthRequest::Credentials { user });
    assert_eq!(refused, Err(Error::AuthNotEnabled));
}

#[test]
fn watches_are_checked_by_what_a_node_was_told() {
    let mut world = World::enabled();
    world.add("u", &[(READ, "a", "b"), (WRITE, "w", "")]);
    let access = Access::of(world.keyspace.state.reader());
    let (user, old) = (world.caller("u"), world.revision() - 1);
    let check = |caller: Option<&Caller>, key: &str, range_end: &str| {
        let request = WatchCreateRequest {
            key: bytes(key),
            range_end: bytes(range_end),
            ..WatchCreateRequest::default()
        };
        access.check_watch(caller, &request)
    };
    let user = user.as_deref();
    assert_eq!(check(user, "a", ""), Ok(()));
    assert_eq!(check(user, "a", "b"), Ok(()));
    // From a permitted key on is not what was permitted.
    assert_eq!(check(user, "a", "\0"), Err(Error::PermissionDenied));
    assert_eq!(check(user, "", "\0"), Err(Error::PermissionDenied));
    assert_eq!(check(user, "w", ""), Err(Error::PermissionDenied));
    assert_eq!(check(None, "a", ""), Err(Error::UserEmpty));
    let stale = Caller {
        user: "u".into(),
        revision: old,
    };
    assert_eq!(check(Some(&stale), "a", ""), Err(Error::AuthOldRevision));
    let root = world.caller("root");
    assert_eq!(check(root.as_deref(), "", "\0"), Ok(()));
}

#[test]
fn calls_about_the_cluster_need_a_user_or_root() {
    let mut world = World::enabled();
    world.add("u", &[]);
    let (user, root) = (world.caller("u"), world.caller("root"));
    let (user, root) = (user.as_deref(), root.as_deref());
    let reader = world.keyspace.state.reader();
    let gone = Caller {
        user: "gone".into(),
        revision: world.revision(),
    };
    for (caller, requirement, expected) in [
        (None, Requirement::Nothing, Ok(())),
        (None, Requirement::User, Err(Error::UserEmpty)),
        (None, Requirement::Root, Err(Error::UserEmpty)),
        (Some(&gone), Requirement::User, Err(Error::UserNotFound)),
        (user, Requirement::User, Ok(())),
        (user, Requirement::Root, Err(Error::PermissionDenied)),
        (root, Requirement::Root, Ok(())),
    ] {
        assert_eq!(auth::check(reader, caller, requirement), expected);
    }
    let off = World::default();
    let reader = off.keyspace.state.reader();
    assert_eq!(auth::check(reader, None, Requirement::Root), Ok(()));
}

#[test]
fn users_are_not_keys_and_a_role_cannot_grow_without_bound() {
    let mut world = World::enabled();
    let revision = world.keyspace.state.reader().revision();
    world.add("u", &[(READ, "a", "")]);
    assert_eq!(world.keyspace.state.reader().revision(), revision);
    assert!(world.keyspace.events.is_empty());
    let all = world.ask("root", Request::Range(range("\0", "\0")));
    assert!(matches!(all, Ok(Response::Range(found)) if found.count == 0));
    let long = "k".repeat(600 << 10);
    world.done(grant("u", READ, &long, ""));
    let other = format!("l{long}");
    let refused = world.auth("root", grant("u", READ, &other, ""));
    assert_eq!(refused, Err(Error::RequestTooLarge));
    world.keyspace.wait(Duration::ZERO);
    assert_eq!(
        world.keyspace.state.digest(),
        world.keyspace.state.reader().recompute_digest()
    );
}
