//! The side of clients and operators: what their connections are served with, and by whom.
//!
//! ```text
//!   etcd listeners ─┐                  ┌▶ a worker ─┐
//!   other nodes ────┼─▶ acceptors ─────┤            ├─▶ calls of the node
//!   admin, probes ──┘                  └▶ a router ─┘
//! ```

use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::talk::Talk;
use crate::authority::Authority;
use crate::calls::Calls;
use crate::changes::Changes;
use crate::configuration::Configuration;
use crate::gateway::{Gateway, OwnCalls};
use crate::http::Site;
use crate::inbox::Sender;
use crate::keyspace::{Choice, Keyspaces};
use crate::limits::{ClientLimits, Limits};
use crate::listeners::{Acceptor, Held, Listener, Service, Source};
use crate::metrics::{Exposition, Metrics};
use crate::node_loop::{Clock, Event, Phase};
use crate::serving::{Accepted, Mailboxes, Seat, Setting, WeakWorkers, Workers};
use crate::tied::Followers;
use crate::tls::Tls;
use crate::transport::Relayed;
use crate::{admin, cors, etcd_service, http};

/// What the client side is started with.
pub(super) struct Clients<'a> {
    pub(super) changes: Changes,
    pub(super) configuration: &'a Configuration,
    pub(super) limits: &'a Limits,
    pub(super) metrics: &'a Metrics,
    /// How many files may be open, if that is bounded.
    pub(super) open_files: Option<u64>,
    pub(super) clock: Clock,
    pub(super) mailboxes: Mailboxes,
    pub(super) authority: Authority,
    pub(super) keyspaces: Keyspaces,
    pub(super) tls: Option<Arc<Tls>>,
}

/// Where those come from who are served.
pub(super) struct Listeners {
    /// etcd's clients.
    pub(super) etcd: Vec<Listener>,
    /// Those of one keyspace.
    pub(super) keyspaces: Vec<(String, Listener)>,
    /// Other nodes, on behalf of theirs.
    pub(super) relayed: mpsc::Receiver<Relayed>,
    pub(super) admin: Option<Listener>,
    /// Probes alone.
    pub(super) probed: Vec<Listener>,
}

impl Clients<'_> {
    pub(super) fn start(
        &self,
        runtime: &Runtime,
        listeners: Listeners,
        talk: Talk,
        events: &Sender<Event>,
        phases: &watch::Receiver<Phase>,
    ) -> (JoinSet<()>, Vec<Seat>) {
        let limits = &self.client_limits();
        let max_calls = self.configuration.max_calls;
        let calls = Calls::new(
            events.clone(),
            max_calls,
            limits.clone(),
            self.metrics.clone(),
            self.authority.clone(),
            self.keyspaces.clone(),
        );
        let exposition = Exposition::new(self.metrics);
        let (of_node, clock) = (calls.clone(), self.clock);
        let witness = talk.witness(of_node, exposition.clone(), clock, self.limits);
        let _context = runtime.enter();
        let site = Site {
            calls,
            limits: limits.clone(),
            exposition,
            metrics: self.metrics.clone(),
            gateway: Gateway::new(limits, &self.configuration.cors, phases.clone()),
            asker: talk.asker.clone(),
            witness: witness.clone(),
        };
        let acceptor = |places| Acceptor {
            limits: limits.clone(),
            metrics: self.metrics.clone(),
            places: Arc::new(Semaphore::new(places)),
            phase: phases.clone(),
            closes_early: false,
            tls: None,
            choice: Choice::default(),
        };
        let mut acceptors = JoinSet::new();
        talk.begin(witness, self.limits, self.metrics, phases, &mut acceptors);
        let mut seats = Vec::new();
        if !listeners.etcd.is_empty() || !listeners.keyspaces.is_empty() {
            let own_calls = OwnCalls::new(limits);
            let patience = self.configuration.request_timeout;
            let followers = Followers::new(own_calls.clone(), patience, &limits.relays);
            let grpc = etcd_service::routes(&site.calls, &self.changes, followers.clone(), limits);
            let grpc = etcd_service::with_health_and_reflection(grpc, phases.clone());
            let setting = Setting {
                calls: site.calls.clone(),
                limits: limits.clone(),
                metrics: self.metrics.clone(),
                clock: self.clock,
                router: cors::allow(http::client_router(&site, grpc), &self.configuration.cors),
                asker: site.asker.clone(),
                followers,
            };
            let (workers, all_seats) = Workers::new(&setting, &self.mailboxes);
            seats = all_seats;
            site.gateway.attach(&workers);
            own_calls.attach(&workers);
            runtime.spawn(serve_nodes(workers.downgrade(), listeners.relayed));
            let service = Service {
                router: setting.router,
                workers: Some(workers),
            };
            let acceptor = Acceptor {
                tls: self.tls.clone(),
                choice: self.choice(None),
                closes_early: true,
                ..acceptor(self.places())
            };
            let of_keyspaces = listeners.keyspaces.into_iter();
            let of_keyspaces = of_keyspaces.map(|(name, listener)| (Some(name), listener));
            let unnamed = listeners.etcd.into_iter().map(|listener| (None, listener));
            for (name, listener) in unnamed.chain(of_keyspaces) {
                let acceptor = Acceptor {
                    choice: self.choice(name),
                    ..acceptor.clone()
                };
                acceptors.spawn(self.serve_once_ready(acceptor, listener, &service, phases));
            }
        }
        for listener in listeners.probed {
            let acceptor = acceptor(limits.operator_connections);
            let service = Service {
                router: http::probe_router(&site),
                workers: None,
            };
            acceptors.spawn(acceptor.serve(listener, service));
        }
        if let Some(listener) = listeners.admin {
            let acceptor = acceptor(limits.operator_connections);
            let service = Service {
                router: admin::router(&site),
                workers: None,
            };
            acceptors.spawn(acceptor.serve(listener, service));
        }
        (acceptors, seats)
    }

    /// What chooses a keyspace for those who name none and come through a listener of this name.
    fn choice(&self, listener: Option<String>) -> Choice {
        Choice {
            domain: self.configuration.keyspace_domain.as_deref().map(Arc::from),
            otherwise: listener.map(Arc::from),
        }
    }

    /// Accepts on a listener, as in etcd: whoever connects to a node that is still joining waits,
    /// and a client that knows others goes there, instead of hearing that nobody leads.
    fn serve_once_ready(
        &self,
        acceptor: Acceptor,
        listener: Listener,
        service: &Service,
        phases: &watch::Receiver<Phase>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let joins = !self.configuration.join.is_empty();
        let (service, mut phases) = (service.clone(), phases.clone());
        async move {
            if joins {
                let _ = phases.wait_for(|phase| *phase != Phase::Starting).await;
            }
            acceptor.serve(listener, service).await;
        }
    }

    /// The limits, with what the configuration says of them.
    fn client_limits(&self) -> ClientLimits {
        let mut limits = self.limits.clients.clone();
        limits.hub.progress_interval = self.configuration.watch_progress_interval;
        // As in etcd.
        limits.hub.leaderless_patience = self.configuration.election_timeout * 3;
        limits
    }

    /// How many connections of clients are held at a time.
    fn places(&self) -> usize {
        let wanted = self.configuration.max_connections;
        let places = places(wanted, self.open_files, self.limits);
        if places < wanted {
            let files = self.open_files.unwrap_or(u64::MAX);
            tracing::warn!(
                "only {places} client connections are held at a time, not max-connections \
                 ({wanted}): the system allows {files} open files"
            );
        }
        places
    }
}

/// Has the calls served that other nodes carry on, as long as there are workers.
async fn serve_nodes(workers: WeakWorkers, mut relayed: mpsc::Receiver<Relayed>) {
    while let Some(Relayed { stream, place }) = relayed.recv().await {
        let Some(workers) = workers.upgrade() else {
            return;
        };
        workers.hand_over(Accepted {
            stream,
            source: Source::Peer,
            common_name: None,
            choice: Choice::default(),
            held: Held::by_a_node(place),
        });
    }
}

/// Acceptors wait for a place rather than fail for want of a file, which would hit peers and disks
/// as well.
pub(super) fn places(wanted: usize, open_files: Option<u64>, limits: &Limits) -> usize {
    let Some(open_files) = open_files else {
        return wanted;
    };
    let clients = &limits.clients;
    let others = limits.disk.open_files
        + limits.transport.accepted_connections
        + clients.operator_connections
        + clients.spare_files;
    let left = usize::try_from(open_files).map_or(usize::MAX, |files| files.saturating_sub(others));
    wanted.min(left.max(clients.fewest_connections))
}
