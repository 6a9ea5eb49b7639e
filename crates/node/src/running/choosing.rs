//! Which group a call goes to, by the name of its keyspace, and who may make it there.
//!
//! Users and roles are those of the cluster: they stand in the first group, and this node judges by
//! its own replica of that. So two things are asked before it does:
//!
//! - Has that replica been current since this node was started? What was executed again so far may
//!   be old: keyspaces would be missing that exist, and authentication that is on would not count.
//! - While users have to sign in: is there a leader of the first group, or was there one a moment
//!   ago ([`crate::Limits::users_patience`])? A node that is cut off from the first group does not
//!   hear that somebody may do something no longer; it stops judging instead of judging by old
//!   rules.

use std::sync::Arc;

use base::{GroupId, Instant};
use cluster::meta;
use etcd::auth::Requirement;

use super::Running;
use crate::directory::Directory;
use crate::group::authorization::requirement;
use crate::group::{META, Moment};
use crate::interface::{Answer, Call, CallId, Output};
use crate::peers::Peers;

impl Running {
    /// A client asks for something.
    pub fn call(
        &mut self,
        moment: Moment,
        id: CallId,
        call: Call,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        self.moment = moment;
        let (group, call) = match call {
            Call::Keyspaces if self.is_witness => (META, call),
            Call::Keyspaces => {
                let mut keyspaces = self.meta().keyspaces();
                self.add_progress(&mut keyspaces);
                let answer = Answer::Keyspaces(keyspaces);
                return out.push(Output::Answer { id, answer });
            }
            Call::In { keyspace, call } => match self.group_of(moment.now, &keyspace, &call) {
                Ok(META) => (META, *call),
                // Users are those of the cluster: who calls has been looked at here, and means
                // nothing to the keyspace's own state.
                Ok(group) => match *call {
                    Call::As { call, .. } => (group, *call),
                    call => (group, call),
                },
                Err(error) => {
                    let answer = crate::node::refuse(&call, error, "not serving this keyspace");
                    return out.push(Output::Answer { id, answer });
                }
            },
            Call::Groups => {
                let answer = Answer::Groups(self.group_statuses(moment.now, peers));
                return out.push(Output::Answer { id, answer });
            }
            Call::GroupRecover(order) => {
                return self.recover_group(moment, id, &order, peers, out);
            }
            call => (META, call),
        };
        // What this node knows wakes nobody.
        if let Call::TiedLeases {
            linearizable: false,
            ..
        } = &call
            && let Some(opened) = self.groups.get_mut(&group)
        {
            return opened.group.call(moment, id, call, peers, out);
        }
        self.with(group, out, |group, out| {
            group.call(moment, id, call, peers, out);
        });
    }

    /// The group that a call in a keyspace goes to. What is about the cluster goes to the first.
    fn group_of(&self, now: Instant, keyspace: &str, call: &Call) -> Result<GroupId, etcd::Error> {
        if self.is_witness {
            return Ok(META);
        }
        let (caller, call) = match call {
            Call::As { caller, call } => (Some(&**caller), &**call),
            call => (None, call),
        };
        if !is_of_keyspace(call) || keyspace == meta::DEFAULT {
            return Ok(META);
        }
        if !self.meta().was_current {
            return Err(etcd::Error::NoLeader);
        }
        let reader = self.meta().replica().reader();
        // A group is told of leases by its node, and asked about them.
        let is_of_node = matches!(call, Call::FollowParents(_) | Call::TiedLeases { .. });
        if !is_of_node && etcd::auth::status(reader).is_enabled {
            // A lease that is not renewed takes its keys along: that must not come of what happens
            // to another group. So renewals are judged by what is known, however old.
            let is_renewal = matches!(call, Call::RenewLeases { .. });
            if !is_renewal && self.may_judge_by_old_users(now) {
                return Err(etcd::Error::NoLeader);
            }
            etcd::auth::check_keyspace(reader, caller, keyspace)?;
            if requirement(call) == Requirement::Root {
                etcd::auth::check(reader, caller, Requirement::Root)?;
            }
        }
        let (group, serves) = self.places.get(keyspace).copied().unwrap_or_default();
        match (group, serves) {
            (META, _) => Err(etcd::Error::KeyspaceNotFound),
            (group, true) if self.groups.contains_key(&group) && self.has_all(group) => Ok(group),
            _ => Err(etcd::Error::KeyspaceElsewhere),
        }
    }

    fn may_judge_by_old_users(&self, now: Instant) -> bool {
        let patience = self.config.limits.users_patience;
        self.meta().leader.is_none() && now > self.meta_led_at + patience
    }

    /// Tells which keyspaces there are and where, if that has changed.
    pub(super) fn tell_keyspaces(&mut self, now: Instant, out: &mut Vec<Output>) {
        let meta = &mut self.groups.meta_mut().group;
        let (was_current, has_changed) = (meta.was_current, meta.take_membership_change());
        if meta.leader.is_some() {
            self.meta_led_at = now;
        }
        if has_changed {
            self.is_directory_old = true;
            self.look_at_observers();
        }
        if !self.is_directory_old || !(was_current || self.is_witness) {
            return;
        }
        if self.is_witness {
            self.is_directory_old = false;
            let directory = Directory {
                is_witness: true,
                ..Directory::default()
            };
            return out.push(Output::Keyspaces(Arc::new(directory)));
        }
        self.is_directory_old = false;
        let meta = self.meta();
        let table = meta::keyspaces(meta.replica().reader());
        let is_open = |group| self.groups.contains_key(&group) && self.has_all(group);
        let routes = meta.replica().routes();
        let directory = Directory::new(self.own, (table, routes), &meta.membership, is_open);
        out.push(Output::Keyspaces(Arc::new(directory)));
    }
}

/// Whether a call is about what a keyspace holds. Users and members are those of the cluster,
/// whatever keyspace is named along with them.
fn is_of_keyspace(call: &Call) -> bool {
    match call {
        Call::Etcd(request) => !matches!(request, etcd::Request::Auth(_)),
        Call::RenewLeases { .. }
        | Call::ParentLeases(_)
        | Call::FollowParents(_)
        | Call::TiedLeases { .. }
        | Call::EtcdStatus
        | Call::EtcdMaintenance(_)
        | Call::Snapshot
        | Call::Ready => true,
        _ => false,
    }
}
