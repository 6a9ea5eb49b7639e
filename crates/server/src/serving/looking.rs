//! What is found out before a user's leases are renewed: whether keys of keyspaces that he may not
//! use go with them.
//!
//! Keys that clients put under a prefix of another keyspace go with leases of the default one (see
//! [`crate::tied`]), whose group knows nothing of them. While nobody has to sign in, where no
//! prefix leads anywhere, and for who may use all keyspaces that prefixes lead to, nothing has to
//! be found out, and a call goes on at once.

use std::rc::Rc;
use std::sync::Arc;

use node::Call;

use super::streams::Asker;
use super::worker::Worker;
use crate::tied;

/// A call of a streaming service, if it can be made at once; otherwise that is done later.
pub(super) fn look(worker: &Rc<Worker>, asker: Asker, call: Call) -> Option<Call> {
    let calls = &worker.setting.calls;
    if !calls.may_be_routed() {
        return Some(call);
    }
    let closed = match &call {
        Call::As { caller, call } if matches!(**call, Call::RenewLeases { .. }) => {
            tied::closed(calls, Some(caller))
        }
        _ => Vec::new(),
    };
    if closed.is_empty() {
        return Some(call);
    }
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let call = with_refused(&worker, &closed, call).await;
        worker.ask_for_service(asker, call);
    });
    None
}

async fn with_refused(worker: &Worker, closed: &[(Arc<str>, etcd::Error)], call: Call) -> Call {
    match call {
        Call::As { caller, call } => {
            let call = match *call {
                Call::RenewLeases { leases, .. } => {
                    let (followers, calls) = (&worker.setting.followers, &worker.setting.calls);
                    let refused = followers.refused_renewals(calls, closed, &leases).await;
                    Call::RenewLeases { leases, refused }
                }
                call => call,
            };
            Call::As {
                caller,
                call: Box::new(call),
            }
        }
        call => call,
    }
}
