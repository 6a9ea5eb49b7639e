//! gRPC's calls, counted under the names that everybody's dashboards know: begun, and ended with
//! which code.
//!
//! What is counted for a hot call is a number behind a pointer that is at hand: every call of the
//! protocol's definitions has its counters from the start, so that no name is looked up and no
//! lock is taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use prost_reflect::{DescriptorPool, MethodDescriptor};

/// gRPC's codes, in the order of their numbers.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

const CANCELED: usize = 1;
const UNKNOWN: usize = 2;

type Started = [(&'static str, String); 3];
type Handled = [(&'static str, String); 4];

/// The counters of one call.
#[derive(Debug)]
pub(crate) struct CallCounters {
    started: Counter,
    handled: [Counter; CODES.len()],
}

/// A call under way. When it is dropped it counts as ended: given up by its client, unless
/// something else was said.
#[derive(Debug)]
pub(crate) struct CountedCall {
    counters: Option<Arc<CallCounters>>,
    code: usize,
}

impl CountedCall {
    /// One more call has begun; nothing is counted if the call is none of the definitions'.
    pub(crate) fn begin(counters: Option<&Arc<CallCounters>>) -> CountedCall {
        if let Some(counters) = counters {
            counters.started.inc();
        }
        CountedCall {
            counters: counters.cloned(),
            code: CANCELED,
        }
    }

    /// How the call has ended.
    pub(crate) fn end(&mut self, code: i32) {
        let known = usize::try_from(code)
            .ok()
            .filter(|code| *code < CODES.len());
        self.code = known.unwrap_or(UNKNOWN);
    }
}

impl Drop for CountedCall {
    fn drop(&mut self) {
        if let Some(counters) = &self.counters {
            counters.handled[self.code].inc();
        }
    }
}

/// The counters of all calls, by gRPC's path.
#[derive(Clone, Debug)]
pub(crate) struct RpcMetrics {
    started: Family<Started, Counter>,
    handled: Family<Handled, Counter>,
    calls: Arc<BTreeMap<String, Arc<CallCounters>>>,
}

impl Default for RpcMetrics {
    fn default() -> RpcMetrics {
        let pool = DescriptorPool::decode(etcd::FILE_DESCRIPTOR_SET)
            .expect("the definitions are checked when they are compiled");
        let (started, handled) = (Family::default(), Family::default());
        let mut calls = BTreeMap::new();
        for service in pool.services() {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                calls.insert(path, Arc::new(counters(&method, &started, &handled)));
            }
        }
        RpcMetrics {
            started,
            handled,
            calls: Arc::new(calls),
        }
    }
}

fn counters(
    method: &MethodDescriptor,
    started: &Family<Started, Counter>,
    handled: &Family<Handled, Counter>,
) -> CallCounters {
    let kind = match (method.is_client_streaming(), method.is_server_streaming()) {
        (false, false) => "unary",
        (true, false) => "client_stream",
        (false, true) => "server_stream",
        (true, true) => "bidi_stream",
    };
    let name = || ("grpc_method", method.name().to_owned());
    let service = || {
        (
            "grpc_service",
            method.parent_service().full_name().to_owned(),
        )
    };
    let kind = || ("grpc_type", kind.to_owned());
    CallCounters {
        started: started.get_or_create(&[name(), service(), kind()]).clone(),
        handled: CODES.map(|code| {
            let code = ("grpc_code", code.to_owned());
            handled
                .get_or_create(&[code, name(), service(), kind()])
                .clone()
        }),
    }
}

impl RpcMetrics {
    /// The counters of the call behind gRPC's path.
    pub(crate) fn of(&self, path: &str) -> Option<&Arc<CallCounters>> {
        self.calls.get(path)
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("grpc_server_started", "Calls begun", self.started.clone());
        registry.register(
            "grpc_server_handled",
            "Calls ended, by code",
            self.handled.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_once_under_how_it_ended() {
        let metrics = RpcMetrics::default();
        let counters = metrics.of("/etcdserverpb.KV/Put");
        CountedCall::begin(counters).end(0);
        CountedCall::begin(counters).end(99);
        drop(CountedCall::begin(counters));
        let counters = counters.unwrap();
        assert_eq!(counters.started.get(), 3);
        let counted: Vec<u64> = counters.handled.iter().map(Counter::get).collect();
        assert_eq!(counted[..4], [1, 1, 1, 0]);
        assert!(metrics.of("/nobody/Nothing").is_none());
    }
}
