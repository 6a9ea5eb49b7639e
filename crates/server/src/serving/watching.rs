//! etcd's Watch service: [`Hub`]s behind the streams of one worker, one for each keyspace that
//! somebody watches.
//!
//! The hubs decide everything; this translates. What a hub has for many streams is one buffer that
//! all of them share on its way to the sockets.
//!
//! ```text
//!   published ─▶ group 0 ─▶ its hub, which is always there
//!             ─▶ group 7 ─▶ its hub, while it has streams; else only where it stands is kept
//! ```
//!
//! A keyspace that nobody watches costs its worker a few numbers, one whose hub has nothing to do a
//! look at the agenda. A hub that is made for the first stream begins where the group stands; what
//! is older is read from history.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use base::{GroupId, Instant};
use bytes::Bytes;
use etcd::proto::etcdserverpb::watch_request::RequestUnion;
use etcd::proto::etcdserverpb::{ResponseHeader, WatchRequest, WatchResponse};
use etcd::watch::NO_WATCH_ID;
use http::HeaderMap;
use node::Call;
use node::group::META;
use node::hub::{
    HistoryResult, Hub, HubId, HubInput, HubLimits, HubMetrics, HubOutput, Publication,
};
use prost::Message as _;
use state::EventBatch;

use super::News;
use super::demands;
use super::grpc::Status;
use super::slots::Key;
use super::streams::{Effect, StreamId, StreamService, Ticket};
use super::worker::Setting;
use crate::authority::TokenCache;
use crate::calls::{Calls, Identity};
use crate::keyspace;
use crate::metrics::Metrics;
use crate::node_loop::{Asked, Clock};

/// Where the service is found.
pub(super) const PATH: &str = "/etcdserverpb.Watch/Watch";

/// A hub, and what is kept of it.
struct Served {
    hub: Hub,
    /// What of the hub's counts the metrics have.
    counted: HubMetrics,
    /// When it wants to be flushed; stands in the agenda.
    due: Option<Instant>,
}

/// The watches of one worker.
pub(super) struct WatchService {
    hubs: BTreeMap<GroupId, Served>,
    /// Where each group but the first stands, without its events.
    standing: BTreeMap<GroupId, Publication>,
    /// Users have to sign in, as the first group has said.
    is_guarded: bool,
    /// Hubs that something has happened to since they were last flushed.
    touched: BTreeSet<GroupId>,
    /// Which hub wants to be flushed when.
    agenda: BTreeSet<(Instant, GroupId)>,
    /// The streams that watch another keyspace than the default one.
    of_keyspaces: HashMap<StreamId, GroupId>,
    nothing: Arc<[EventBatch]>,
    limits: HubLimits,
    keyspace_limits: HubLimits,
    id: HubId,
    clock: Clock,
    /// What each stream begins with.
    credit_bytes: usize,
    calls: Calls,
    metrics: Metrics,
    /// Kept for its memory.
    outputs: Vec<HubOutput>,
    /// Who has opened the streams of those who say so.
    identities: HashMap<StreamId, Identity>,
    tokens: TokenCache,
}

impl WatchService {
    pub(super) fn new(worker: usize, setting: &Setting) -> WatchService {
        let limits = setting.limits.hub;
        let mut service = WatchService {
            hubs: BTreeMap::new(),
            standing: BTreeMap::new(),
            is_guarded: false,
            touched: BTreeSet::new(),
            agenda: BTreeSet::new(),
            of_keyspaces: HashMap::new(),
            nothing: Arc::new([]),
            limits,
            keyspace_limits: setting.limits.keyspace_hub(),
            id: HubId(worker as u32),
            clock: setting.clock,
            credit_bytes: setting.limits.stream_credit_bytes,
            calls: setting.calls.clone(),
            metrics: setting.metrics.clone(),
            outputs: Vec::new(),
            identities: HashMap::new(),
            tokens: TokenCache::new(&setting.limits.auth),
        };
        service.begin(Instant::default(), META);
        service
    }

    /// Makes sure that a group has a hub.
    fn begin(&mut self, now: Instant, group: GroupId) {
        if self.hubs.contains_key(&group) {
            return;
        }
        let limits = match group {
            META => self.limits,
            _ => self.keyspace_limits,
        };
        let mut hub = Hub::new(limits, crate::seed::from_system());
        let guarded = HubInput::Guarded(self.is_guarded);
        hub.step(now, guarded, &mut self.outputs);
        if let Some(standing) = self.standing.get(&group) {
            let standing = HubInput::Publication(standing.clone());
            hub.step(now, standing, &mut self.outputs);
        }
        let served = Served {
            hub,
            counted: HubMetrics::default(),
            due: None,
        };
        self.hubs.insert(group, served);
    }

    fn group_of(&self, stream: StreamId) -> GroupId {
        self.of_keyspaces.get(&stream).copied().unwrap_or(META)
    }

    fn step(&mut self, now: Instant, group: GroupId, input: HubInput, out: &mut Vec<Effect>) {
        let Some(served) = self.hubs.get_mut(&group) else {
            return;
        };
        self.touched.insert(group);
        served.hub.step(now, input, &mut self.outputs);
        self.carry_out(group, out);
    }

    fn carry_out(&mut self, group: GroupId, out: &mut Vec<Effect>) {
        for output in self.outputs.drain(..) {
            match output {
                HubOutput::Message { stream, bytes } => out.push(Effect::Send {
                    stream: Key::from_bits(stream.0),
                    message: bytes,
                }),
                HubOutput::End { stream, error } => {
                    let stream = Key::from_bits(stream.0);
                    self.identities.remove(&stream);
                    self.of_keyspaces.remove(&stream);
                    out.push(Effect::End {
                        stream,
                        status: Status::from(&error),
                    });
                }
                HubOutput::ReadHistory(request) => {
                    let asked = Asked::ReadHistory {
                        group,
                        hub: self.id,
                        request,
                    };
                    // A node that has stopped ends all streams.
                    let _ = self.calls.tell(vec![asked]);
                }
            }
        }
    }

    /// Whether a stream's client may have what it asks for, while users have to sign in. As in
    /// etcd, only opening a watch is checked: it goes on when permissions change. When signing in
    /// becomes necessary, the hubs end what is open.
    fn check(&mut self, stream: StreamId, request: &WatchRequest) -> Result<(), etcd::Error> {
        let authority = self.calls.authority();
        if !authority.is_enabled() {
            return Ok(());
        }
        let Some(RequestUnion::CreateRequest(create)) = &request.request_union else {
            return Ok(());
        };
        let identity = self.identities.get(&stream);
        let caller = match identity {
            Some(identity) => identity.caller(authority, &mut self.tokens)?,
            None => None,
        };
        let access = authority.access();
        match identity.and_then(Identity::keyspace) {
            Some(keyspace) => access.check_keyspace(caller.as_deref(), keyspace),
            None => access.check_watch(caller.as_deref(), create),
        }
    }

    /// Why a watch cannot be on a stream, if the keys choose the keyspace: it belongs to another
    /// one, or to two.
    fn astray(&self, stream: StreamId, request: &WatchRequest) -> Option<String> {
        let keyspaces = self.calls.keyspaces();
        if !keyspaces.has_routes() {
            return None;
        }
        let Some(RequestUnion::CreateRequest(create)) = &request.request_union else {
            return None;
        };
        let identity = self.identities.get(&stream);
        let here = identity.and_then(Identity::keyspace);
        if here.is_some() && !identity.is_some_and(Identity::is_by_prefix) {
            return None;
        }
        let name = |keyspace: Option<&Arc<str>>| match keyspace {
            Some(keyspace) => keyspace.to_string(),
            None => keyspace::DEFAULT.to_owned(),
        };
        match keyspaces.route_watch(create) {
            Ok(there) if there.as_ref() == here => None,
            Ok(there) => Some(format!(
                "quorate: the keys are in the keyspace {}, and the stream's first watch was in {}; \
                 open a stream for each",
                name(there.as_ref()),
                name(here)
            )),
            Err(astray) => Some(astray.text()),
        }
    }

    /// A group has said something.
    fn published(
        &mut self,
        now: Instant,
        group: GroupId,
        publication: &Publication,
        out: &mut Vec<Effect>,
    ) {
        if group != META {
            let standing = Publication {
                batches: Arc::clone(&self.nothing),
                reset: true,
                ..publication.clone()
            };
            self.standing.insert(group, standing);
        }
        let publication_for_hub = HubInput::Publication(publication.clone());
        self.step(now, group, publication_for_hub, out);
        if let Some(access) = publication.access.as_ref().filter(|_| group == META) {
            self.is_guarded = access.status().is_enabled;
            let others: Vec<GroupId> = self.hubs.keys().copied().filter(|id| *id != META).collect();
            for other in others {
                self.step(now, other, HubInput::Guarded(self.is_guarded), out);
            }
        }
    }

    /// A group is no longer on this node.
    fn gone(&mut self, now: Instant, group: GroupId, error: etcd::Error, out: &mut Vec<Effect>) {
        self.standing.remove(&group);
        self.step(now, group, HubInput::Gone(error), out);
        self.end_if_unused(group);
    }

    /// Lets go of a hub that nobody watches. One of the default keyspace stays.
    fn end_if_unused(&mut self, group: GroupId) {
        if group == META {
            return;
        }
        let is_unused = |served: &Served| served.hub.metrics().streams == 0;
        if self.hubs.get(&group).is_some_and(is_unused) {
            let mut served = self.hubs.remove(&group).expect("it was just looked at");
            count(&self.metrics, &mut served);
            self.touched.remove(&group);
            if let Some(due) = served.due {
                self.agenda.remove(&(due, group));
            }
        }
    }

    /// Ends a hub's turn.
    fn flush_hub(&mut self, now: Instant, group: GroupId, out: &mut Vec<Effect>) {
        let Some(served) = self.hubs.get_mut(&group) else {
            return;
        };
        served.hub.flush(now, &mut self.outputs);
        let due = served.hub.deadline();
        if due != served.due {
            if let Some(before) = std::mem::replace(&mut served.due, due) {
                self.agenda.remove(&(before, group));
            }
            self.agenda.extend(due.map(|at| (at, group)));
        }
        count(&self.metrics, served);
        self.carry_out(group, out);
        self.end_if_unused(group);
    }
}

/// Adds to the metrics what a hub has counted since this was last done.
fn count(metrics: &Metrics, served: &mut Served) {
    let now = served.hub.metrics();
    if now == served.counted {
        return;
    }
    let before = std::mem::replace(&mut served.counted, now);
    let gauge = |now: u64, before: u64| now as i64 - before as i64;
    let watch = &metrics.watch;
    watch.streams.inc_by(gauge(now.streams, before.streams));
    watch.watchers.inc_by(gauge(now.watchers, before.watchers));
    watch
        .lagging
        .inc_by(gauge(now.watchers_lagging, before.watchers_lagging));
    watch
        .events
        .inc_by(now.events_delivered - before.events_delivered);
    watch.messages.inc_by(now.messages - before.messages);
    watch
        .history_reads
        .inc_by(now.history_reads - before.history_reads);
    watch.refused.inc_by(now.refused - before.refused);
}

/// What a client is told whose watch is not opened. It says nothing of a revision.
fn refusal(reason: String) -> Bytes {
    let response = WatchResponse {
        header: Some(ResponseHeader::default()),
        watch_id: NO_WATCH_ID,
        created: true,
        canceled: true,
        cancel_reason: reason,
        ..WatchResponse::default()
    };
    response.encode_to_vec().into()
}

fn name(stream: StreamId) -> node::hub::StreamId {
    node::hub::StreamId(stream.bits())
}

impl StreamService for WatchService {
    fn opened(
        &mut self,
        stream: StreamId,
        headers: &HeaderMap,
        identity: Identity,
        out: &mut Vec<Effect>,
    ) {
        let keyspace = identity.keyspace().map(|name| &**name);
        let group = match self.calls.keyspaces().group(keyspace) {
            Ok(group) => group,
            // It has gone since the stream was let in.
            Err(error) => {
                let status = Status::from(&error);
                return out.push(Effect::End { stream, status });
            }
        };
        if identity.is_given() || group != META {
            self.identities.insert(stream, identity);
        }
        let now = self.clock.now();
        if group != META {
            self.begin(now, group);
            self.of_keyspaces.insert(stream, group);
        }
        let require_leader = demands::needs_leader(headers);
        let opened = HubInput::Opened {
            stream: name(stream),
            require_leader,
        };
        self.step(now, group, opened, out);
        let credit = HubInput::Credit {
            stream: name(stream),
            bytes: self.credit_bytes as u64,
        };
        self.step(now, group, credit, out);
    }

    fn message(&mut self, stream: StreamId, message: Bytes, out: &mut Vec<Effect>) {
        match WatchRequest::decode(message) {
            Ok(request) => {
                if let Some(reason) = self.astray(stream, &request) {
                    let message = refusal(reason);
                    return out.push(Effect::Send { stream, message });
                }
                let input = match self.check(stream, &request) {
                    Ok(()) => HubInput::Request {
                        stream: name(stream),
                        request,
                    },
                    Err(error) => HubInput::Refuse {
                        stream: name(stream),
                        refusal: error.into(),
                    },
                };
                self.step(self.clock.now(), self.group_of(stream), input, out);
            }
            Err(error) => {
                self.closed(stream);
                let text = format!("the message cannot be decoded: {error}");
                let status = Status::with_text(etcd::Code::Internal, text);
                out.push(Effect::End { stream, status });
            }
        }
    }

    /// The client still listens.
    fn finished(&mut self, _: StreamId, _: &mut Vec<Effect>) {}

    fn closed(&mut self, stream: StreamId) {
        self.identities.remove(&stream);
        let group = self.of_keyspaces.remove(&stream).unwrap_or(META);
        let stream = name(stream);
        let closed = HubInput::Closed { stream };
        if let Some(served) = self.hubs.get_mut(&group) {
            self.touched.insert(group);
            // What it says then is for nobody.
            served.hub.step(Instant::default(), closed, &mut Vec::new());
        }
    }

    fn taken(&mut self, stream: StreamId, bytes: usize, _: usize, out: &mut Vec<Effect>) {
        let credit = HubInput::Credit {
            stream: name(stream),
            bytes: bytes as u64,
        };
        // Credit alone says nothing; the flush that follows may.
        self.step(Instant::default(), self.group_of(stream), credit, out);
    }

    fn told(&mut self, now: Instant, news: &News, out: &mut Vec<Effect>) {
        match news {
            News::Published { group, publication } => {
                self.published(now, *group, publication, out);
            }
            News::Gone { group, error } => self.gone(now, *group, *error, out),
        }
    }

    fn history(
        &mut self,
        now: Instant,
        group: GroupId,
        result: HistoryResult,
        out: &mut Vec<Effect>,
    ) {
        self.step(now, group, HubInput::History(result), out);
    }

    fn flush(&mut self, now: Instant, out: &mut Vec<Effect>, _: &mut Vec<(Ticket, Call)>) {
        let mut groups = std::mem::take(&mut self.touched);
        let due = self.agenda.range(..=(now, GroupId(u64::MAX)));
        groups.extend(due.map(|(_, group)| *group));
        for group in groups {
            self.flush_hub(now, group, out);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.agenda.first().map(|(at, _)| *at)
    }
}
