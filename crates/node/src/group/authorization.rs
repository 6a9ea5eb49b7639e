//! Who may make a call: what is checked before anything else is done for it.
//!
//! Whatever concerns keys, leases, users and roles is checked where it is executed or read
//! ([`etcd::auth`]), since only there it is known what holds. Everything else is about this node or
//! the cluster, and is checked here, by what this replica knows: once that is no less than it was
//! before the node was started ([`super::readiness`]).

use std::sync::Arc;

use etcd::MaintenanceRequest;
use etcd::auth::{Caller, Requirement};
use etcd::proto::etcdserverpb::alarm_request::AlarmAction;

use super::{Group, Moment, witnessing};
use crate::interface::{Call, CallId, Output};
use crate::peers::Peers;

impl Group {
    /// A client asks for something.
    pub fn call(
        &mut self,
        moment: Moment,
        id: CallId,
        call: Call,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        match call {
            Call::As { caller, call } => {
                self.check_call(moment, id, Some(caller), *call, peers, out)
            }
            call => self.check_call(moment, id, None, call, peers, out),
        }
    }

    fn check_call(
        &mut self,
        moment: Moment,
        id: CallId,
        caller: Option<Arc<Caller>>,
        call: Call,
        peers: &mut Peers,
        out: &mut Vec<Output>,
    ) {
        if self.is_witness() && !witnessing::answers(&call) {
            let answer = crate::node::refuse(&call, etcd::Error::Witness, witnessing::REFUSAL);
            return out.push(Output::Answer { id, answer });
        }
        let (reader, requirement) = (self.replica.reader(), requirement(&call));
        // What is left of the state may be nothing at all, and nobody could tell from a snapshot.
        let error = if matches!(call, Call::Snapshot) && self.is_in_doubt {
            Some(etcd::Error::InDoubt)
        } else if requirement != Requirement::Nothing && !self.is_restored() {
            Some(etcd::Error::NoLeader)
        } else {
            None
        };
        if let Some(error) = error {
            let answer = crate::node::refuse(&call, error, "starting");
            return out.push(Output::Answer { id, answer });
        }
        match etcd::auth::check(reader, caller.as_deref(), requirement) {
            Ok(()) => self.call_for(moment, id, caller, call, peers, out),
            Err(error) => {
                let answer = crate::node::refuse(&call, error, "serving users who have signed in");
                out.push(Output::Answer { id, answer });
            }
        }
    }
}

/// What a call needs, as etcd demands it. The calls of operators come over a listener of their
/// own, which users and roles have no say in.
pub(crate) fn requirement(call: &Call) -> Requirement {
    match call {
        Call::EtcdMemberList { .. } | Call::EtcdStatus => Requirement::User,
        Call::EtcdMaintenance(MaintenanceRequest::Alarm(request))
            if request.action() == AlarmAction::Get =>
        {
            Requirement::User
        }
        Call::EtcdCluster(_) | Call::EtcdMaintenance(_) | Call::Snapshot => Requirement::Root,
        // Its own caller is asked about when its turn comes.
        Call::As { .. }
        | Call::In { .. }
        | Call::KeyspaceCreate { .. }
        | Call::KeyspaceDrop { .. }
        | Call::Keyspaces
        | Call::Groups
        | Call::GroupRecover(_)
        | Call::Placement(_)
        | Call::Etcd(_)
        | Call::RenewLeases { .. }
        | Call::ParentLeases(_)
        | Call::FollowParents(_)
        | Call::TiedLeases { .. }
        | Call::Status
        | Call::Ready
        | Call::MemberAdd { .. }
        | Call::MemberPromote { .. }
        | Call::MemberGrow { .. }
        | Call::MemberRemove { .. }
        | Call::TransferLeadership { .. } => Requirement::Nothing,
    }
}
