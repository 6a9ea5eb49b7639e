//! etcd's Watch service: a [`Hub`] behind the streams of one worker.
//!
//! The hub decides everything; this translates. What the hub has for many streams is one buffer
//! that all of them share on its way to the sockets.

use std::collections::HashMap;

use base::Instant;
use bytes::Bytes;
use etcd::proto::etcdserverpb::WatchRequest;
use etcd::proto::etcdserverpb::watch_request::RequestUnion;
use http::HeaderMap;
use node::Call;
use node::hub::{HistoryResult, Hub, HubId, HubInput, HubOutput};
use prost::Message as _;

use super::Publication;
use super::grpc::Status;
use super::slots::Key;
use super::streams::{Effect, StreamId, StreamService, Ticket};
use super::worker::Setting;
use crate::authority::TokenCache;
use crate::calls::{Calls, Identity};
use crate::metrics::Metrics;
use crate::node_loop::{Asked, Clock};

/// Where the service is found.
pub(super) const PATH: &str = "/etcdserverpb.Watch/Watch";

/// A client whose streams are to end when nobody leads says so in this piece of metadata.
const REQUIRE_LEADER: &str = "hasleader";

/// The watches of one worker.
pub(super) struct WatchService {
    hub: Hub,
    id: HubId,
    clock: Clock,
    /// What each stream begins with.
    credit_bytes: usize,
    calls: Calls,
    metrics: Metrics,
    /// What of the hub's counts the metrics have.
    counted: node::hub::HubMetrics,
    /// Kept for its memory.
    outputs: Vec<HubOutput>,
    /// Who has opened the streams of those who say so.
    identities: HashMap<StreamId, Identity>,
    tokens: TokenCache,
}

impl WatchService {
    pub(super) fn new(worker: usize, setting: &Setting) -> WatchService {
        let limits = setting.limits.hub;
        WatchService {
            hub: Hub::new(limits, crate::seed::from_system()),
            id: HubId(worker as u32),
            clock: setting.clock,
            credit_bytes: setting.limits.stream_credit_bytes,
            calls: setting.calls.clone(),
            metrics: setting.metrics.clone(),
            counted: node::hub::HubMetrics::default(),
            outputs: Vec::new(),
            identities: HashMap::new(),
            tokens: TokenCache::new(&setting.limits.auth),
        }
    }

    fn step(&mut self, now: Instant, input: HubInput, out: &mut Vec<Effect>) {
        self.hub.step(now, input, &mut self.outputs);
        self.carry_out(out);
    }

    fn carry_out(&mut self, out: &mut Vec<Effect>) {
        for output in self.outputs.drain(..) {
            match output {
                HubOutput::Message { stream, bytes } => out.push(Effect::Send {
                    stream: Key::from_bits(stream.0),
                    message: bytes,
                }),
                HubOutput::End { stream, error } => {
                    let stream = Key::from_bits(stream.0);
                    self.identities.remove(&stream);
                    out.push(Effect::End {
                        stream,
                        status: Status::from(&error),
                    });
                }
                HubOutput::ReadHistory(request) => {
                    let hub = self.id;
                    // A node that has stopped ends all streams.
                    let _ = self.calls.tell(vec![Asked::ReadHistory { hub, request }]);
                }
            }
        }
    }

    /// Whether a stream's client may have what it asks for, while users have to sign in. As in
    /// etcd, only opening a watch is checked: it goes on when permissions change. When signing in
    /// becomes necessary, the hub ends what is open.
    fn check(&mut self, stream: StreamId, request: &WatchRequest) -> Result<(), etcd::Error> {
        let authority = self.calls.authority();
        if !authority.is_enabled() {
            return Ok(());
        }
        let Some(RequestUnion::CreateRequest(create)) = &request.request_union else {
            return Ok(());
        };
        let caller = match self.identities.get(&stream) {
            Some(identity) => identity.caller(authority, &mut self.tokens)?,
            None => None,
        };
        authority.access().check_watch(caller.as_deref(), create)
    }

    fn count(&mut self) {
        let now = self.hub.metrics();
        if now == self.counted {
            return;
        }
        let before = std::mem::replace(&mut self.counted, now);
        let gauge = |now: u64, before: u64| now as i64 - before as i64;
        let watch = &self.metrics.watch;
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
        if identity.is_given() {
            self.identities.insert(stream, identity);
        }
        let require_leader = headers
            .get(REQUIRE_LEADER)
            .is_some_and(|value| value.as_bytes() == b"true");
        let opened = HubInput::Opened {
            stream: name(stream),
            require_leader,
        };
        let now = self.clock.now();
        self.step(now, opened, out);
        let credit = HubInput::Credit {
            stream: name(stream),
            bytes: self.credit_bytes as u64,
        };
        self.step(now, credit, out);
    }

    fn message(&mut self, stream: StreamId, message: Bytes, out: &mut Vec<Effect>) {
        match WatchRequest::decode(message) {
            Ok(request) => {
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
                self.step(self.clock.now(), input, out);
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
        let stream = name(stream);
        let closed = HubInput::Closed { stream };
        // What it says then is for nobody.
        self.hub.step(Instant::default(), closed, &mut Vec::new());
    }

    fn taken(&mut self, stream: StreamId, bytes: usize, _: usize, out: &mut Vec<Effect>) {
        let credit = HubInput::Credit {
            stream: name(stream),
            bytes: bytes as u64,
        };
        // Credit alone says nothing; the flush that follows may.
        self.step(Instant::default(), credit, out);
    }

    fn published(&mut self, now: Instant, publication: &Publication, out: &mut Vec<Effect>) {
        self.step(now, HubInput::Publication(publication.clone()), out);
    }

    fn history(&mut self, now: Instant, result: HistoryResult, out: &mut Vec<Effect>) {
        self.step(now, HubInput::History(result), out);
    }

    fn flush(&mut self, now: Instant, out: &mut Vec<Effect>, _: &mut Vec<(Ticket, Call)>) {
        self.hub.flush(now, &mut self.outputs);
        self.carry_out(out);
        self.count();
    }

    fn deadline(&self) -> Option<Instant> {
        self.hub.deadline()
    }
}
