//! Users, roles and permissions.
//!
//! etcd tells nobody what a password hashes to. So a user's password is known from the command line
//! or from a file, or else becomes one that nobody knows, until an administrator sets it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use client::Client;
use client::etcd::Error as Refusal;
use client::etcd::proto::authpb::Permission;
use client::etcd::proto::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest,
    AuthRoleGrantPermissionRequest, AuthRoleListRequest, AuthRoleRevokePermissionRequest,
    AuthStatusRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest,
    AuthUserGetRequest, AuthUserGrantRoleRequest, AuthUserListRequest, AuthUserRevokeRoleRequest,
};

use super::options::Passwords;

/// The user, and the role, that administers users and roles; neither is ever removed here.
const ROOT: &str = "root";

/// Permissions of a role: the kind, by key and range end.
type Permissions = BTreeMap<(Bytes, Bytes), i32>;

/// The users and roles of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Users {
    /// Whether users have to sign in.
    pub(super) is_enabled: bool,
    /// The roles of each.
    pub(super) users: BTreeMap<String, BTreeSet<String>>,
    pub(super) roles: BTreeMap<String, Permissions>,
}

/// The users and roles of a cluster, now.
pub(super) async fn read(client: &Client) -> Result<Users, client::Error> {
    let mut found = Users::default();
    for name in client.role_list(AuthRoleListRequest {}).await?.roles {
        let role = name.clone();
        let answer = client.role_get(AuthRoleGetRequest { role }).await?;
        let permissions = answer.perm.into_iter();
        let permissions = permissions.map(|each| ((each.key, each.range_end), each.perm_type));
        found.roles.insert(name, permissions.collect());
    }
    for name in client.user_list(AuthUserListRequest {}).await?.users {
        let request = AuthUserGetRequest { name: name.clone() };
        let roles = client.user_get(request).await?.roles.into_iter().collect();
        found.users.insert(name, roles);
    }
    found.is_enabled = match client.auth_status(AuthStatusRequest {}).await {
        Ok(status) => status.enabled,
        // etcd 3.4 has no such call: whoever signs in there gets a token only if it is on.
        Err(error) if error.code() == tonic::Code::Unimplemented => client.has_token(),
        Err(error) => return Err(error),
    };
    Ok(found)
}

/// What is done to a cluster so that its users and roles become others.
struct Change<'a> {
    target: &'a Client,
    wanted: &'a Users,
    present: &'a Users,
}

/// Makes the users and roles of `target`, which are `present`, those that are wanted; the users
/// whose new password nobody knows.
pub(super) async fn make(
    target: &Client,
    wanted: &Users,
    present: &Users,
    passwords: &Passwords,
) -> Result<Vec<String>, client::Error> {
    let change = Change {
        target,
        wanted,
        present,
    };
    change.roles().await?;
    change.users(passwords).await
}

impl Change<'_> {
    async fn roles(&self) -> Result<(), client::Error> {
        for name in self.present.roles.keys() {
            if !self.wanted.roles.contains_key(name) && name != ROOT {
                let role = name.clone();
                let request = AuthRoleDeleteRequest { role };
                let deleted = self.target.role_delete(request).await;
                done(deleted, Refusal::RoleNotFound)?;
            }
        }
        let none = Permissions::new();
        for (name, wanted) in &self.wanted.roles {
            let present = self.present.roles.get(name);
            if present.is_none() {
                let name = name.clone();
                let added = self.target.role_add(AuthRoleAddRequest { name }).await;
                done(added, Refusal::RoleExists)?;
            }
            if name != ROOT {
                self.permissions(name, wanted, present.unwrap_or(&none))
                    .await?;
            }
        }
        Ok(())
    }

    async fn permissions(
        &self,
        role: &str,
        wanted: &Permissions,
        present: &Permissions,
    ) -> Result<(), client::Error> {
        for (key, range_end) in present.keys().filter(|range| !wanted.contains_key(*range)) {
            let request = AuthRoleRevokePermissionRequest {
                role: role.to_owned(),
                key: key.clone(),
                range_end: range_end.clone(),
            };
            let revoked = self.target.role_revoke_permission(request).await;
            done(revoked, Refusal::PermissionNotGranted)?;
        }
        for (range, kind) in wanted
            .iter()
            .filter(|(range, kind)| present.get(range) != Some(kind))
        {
            let request = AuthRoleGrantPermissionRequest {
                name: role.to_owned(),
                perm: Some(Permission {
                    perm_type: *kind,
                    key: range.0.clone(),
                    range_end: range.1.clone(),
                }),
            };
            self.target.role_grant_permission(request).await?;
        }
        Ok(())
    }

    async fn users(&self, passwords: &Passwords) -> Result<Vec<String>, client::Error> {
        for name in self.present.users.keys() {
            if !self.wanted.users.contains_key(name) && name != ROOT {
                let request = AuthUserDeleteRequest { name: name.clone() };
                let deleted = self.target.user_delete(request).await;
                done(deleted, Refusal::UserNotFound)?;
            }
        }
        let mut locked = Vec::new();
        let none = BTreeSet::new();
        for (name, wanted) in &self.wanted.users {
            let present = self.present.users.get(name);
            if present.is_none() {
                let password = passwords.get(name).cloned().unwrap_or_else(|| {
                    locked.push(name.clone());
                    unknown_password()
                });
                let request = AuthUserAddRequest {
                    name: name.clone(),
                    password,
                    ..AuthUserAddRequest::default()
                };
                let added = self.target.user_add(request).await;
                done(added, Refusal::UserExists)?;
            }
            let present = present.unwrap_or(&none);
            for role in present.difference(wanted).filter(|role| *role != ROOT) {
                let (name, role) = (name.clone(), role.clone());
                let request = AuthUserRevokeRoleRequest { name, role };
                // It may also have gone with the role itself.
                let revoked = self.target.user_revoke_role(request).await;
                done(revoked, Refusal::RoleNotGranted)?;
            }
            for role in wanted.difference(present) {
                let (user, role) = (name.clone(), role.clone());
                let request = AuthUserGrantRoleRequest { user, role };
                self.target.user_grant_role(request).await?;
            }
        }
        Ok(locked)
    }
}

/// Whether it is as wanted. What was done is sent again if its answer is lost, and is refused then
/// because it has been done `before`.
fn done<T>(outcome: Result<T, client::Error>, before: Refusal) -> Result<(), client::Error> {
    match outcome {
        Err(error) if !error.is(before) => Err(error),
        _ => Ok(()),
    }
}

/// 32 random bytes in hexadecimal.
fn unknown_password() -> String {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)
            .expect("the kernel has random bytes for everybody");
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gives the user root, who is never removed, the password that is known, if one is: what it was
/// given before nobody may know.
pub(super) async fn reset_root(
    target: &Client,
    present: &Users,
    passwords: &Passwords,
) -> Result<(), client::Error> {
    let known = passwords.get(ROOT);
    let Some(password) = known.filter(|_| present.users.contains_key(ROOT)) else {
        return Ok(());
    };
    let request = AuthUserChangePasswordRequest {
        name: ROOT.to_owned(),
        password: password.clone(),
        ..AuthUserChangePasswordRequest::default()
    };
    target.user_change_password(request).await?;
    Ok(())
}

/// Whether authentication can be turned on without locking everybody out.
pub(super) fn can_be_enabled(wanted: &Users, passwords: &Passwords) -> bool {
    let root = wanted.users.get(ROOT);
    root.is_some_and(|roles| roles.contains(ROOT)) && passwords.contains_key(ROOT)
}

/// Turns authentication on.
pub(super) async fn enable(target: &Client) -> Result<(), client::Error> {
    // Who has not signed in is refused from the moment on at which it is done.
    let enabled = target.auth_enable(AuthEnableRequest {}).await;
    done(enabled, Refusal::UserEmpty)
}
