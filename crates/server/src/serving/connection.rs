//! A client's connection over HTTP/2, to its end.
//!
//! ```text
//!   socket ── read ──▶ h2 ── accept ──▶ call, stream, or the router
//!          ◀─ write ── h2 ◀── fill ──── answers of a turn
//! ```
//!
//! All that is read at once is taken in before anything is written. Dead clients are found by
//! probes, slow ones bounded by HTTP/2's windows and the number of its streams.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, RecvStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use super::demands;
use super::grpc::{self, Payload, Prebuilt, Status};
use super::outgoing::Outgoing;
use super::prefixed;
use super::relaying;
use super::routed;
use super::socket::{ClientStream, Socket};
use super::unary::{self, Method};
use super::visited::{Traffic, Visiting, Visits};
use super::worker::Worker;
use crate::keyspace::{self, Choice, Found};
use crate::limits::ClientLimits;
use crate::listeners::{Closed, Held, Source};
use crate::opening::Opened;
use crate::tls::CommonName;

/// A connection that speaks HTTP/2, on its way to a worker.
pub(crate) struct Accepted {
    pub(crate) stream: Opened<Socket>,
    pub(crate) source: Source,
    /// Who the client is, as a certificate says.
    pub(crate) common_name: Option<CommonName>,
    /// What chooses a keyspace for requests that name none.
    pub(crate) choice: Choice,
    pub(crate) held: Held,
}

/// Serves a connection to its end.
pub(super) async fn serve(worker: &Rc<Worker>, number: u64, accepted: Accepted) {
    let Accepted {
        stream,
        source,
        common_name,
        choice,
        held,
    } = accepted;
    let client = Client {
        worker,
        number,
        source,
        common_name,
        choice,
        is_a_nodes: matches!(stream.get_ref(), Socket::Peer(_)),
        traffic: Rc::default(),
    };
    held.end(match stream.try_map(Socket::arrive) {
        Ok(stream) => client.serve(stream).await,
        Err(error) => failed(&error),
    });
}

/// Who is served.
struct Client<'a> {
    worker: &'a Rc<Worker>,
    number: u64,
    source: Source,
    common_name: Option<CommonName>,
    choice: Choice,
    /// The connection is another node's, and encrypted: only then is believed what is said of its
    /// clients' certificates.
    is_a_nodes: bool,
    traffic: Rc<Traffic>,
}

impl Client<'_> {
    async fn serve(&self, stream: Opened<ClientStream>) -> Closed {
        let limits = &self.worker.setting.limits;
        let metrics = &self.worker.setting.metrics;
        let outgoing = Outgoing::new(stream, limits.write_buffer_bytes, metrics);
        let mut connection = match builder(limits, self.source)
            .handshake(outgoing.clone())
            .await
        {
            Ok(connection) => connection,
            Err(error) => return failed(&error),
        };
        let mut probe = Probe::new(&mut connection, limits);
        let can_be_visited = outgoing.with(|stream| stream.get_ref().can_be_visited());
        let mut visits =
            can_be_visited.then(|| Visits::new(&limits.visits, self.worker.setting.clock));
        let mut has_begun = false;
        let mut is_ending = false;
        std::future::poll_fn(|context| {
            if !std::mem::replace(&mut has_begun, true) {
                self.worker.listen(self.number, context.waker());
            }
            if self.worker.is_leaving() && !std::mem::replace(&mut is_ending, true) {
                connection.graceful_shutdown();
                probe.say_farewell();
                self.traffic.urgent();
            }
            if let Some(visits) = &mut visits
                && let Err(error) = self.visit(visits, context, &outgoing)
            {
                return Poll::Ready(failed(&error));
            }
            loop {
                match connection.poll_accept(context) {
                    Poll::Pending => break,
                    Poll::Ready(None) => return Poll::Ready(Closed::Ended),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(failed(&error)),
                    Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond),
                }
            }
            if let Poll::Ready(Err(error)) = outgoing.poll_drain(context) {
                return Poll::Ready(failed(&error));
            }
            let polled = probe.poll(context, &outgoing);
            if probe.take_is_answered() {
                self.worker.is_aware(self.number);
            }
            polled
        })
        .await
    }

    /// Watches the socket or not, and lets one be read that is not watched.
    fn visit(
        &self,
        visits: &mut Visits,
        context: &mut Context<'_>,
        outgoing: &Outgoing<Opened<ClientStream>>,
    ) -> io::Result<()> {
        let visiting = visits.poll(context, &self.traffic, outgoing.moved_bytes());
        outgoing.with(|stream| match visiting {
            Visiting::Unchanged => Ok(()),
            Visiting::Begin => stream.get_mut().begin_visits(),
            Visiting::End => stream.get_mut().end_visits(),
            Visiting::Visit => {
                stream.get_mut().visit();
                Ok(())
            }
        })
    }

    /// Takes in a call.
    fn begin(&self, mut request: Request<RecvStream>, mut respond: SendResponse<Payload>) {
        self.traffic.urgent();
        let of_relay = match self.source {
            // Chosen where it came from; and that node knows whom it serves.
            Source::Peer if self.is_a_nodes => relaying::common_name(request.headers()),
            Source::Itself => relaying::common_name(request.headers()),
            Source::Peer => None,
            _ => {
                self.choose(&mut request);
                None
            }
        };
        let common_name = of_relay.as_ref().or(self.common_name.as_ref());
        match self.place(&request) {
            Where::Here => match self.check_metadata(&request) {
                Ok(()) => self.serve_here(request, common_name, respond),
                Err(error) => self
                    .worker
                    .prebuilt
                    .refuse(&mut respond, &Status::from(&error)),
            },
            Where::There(keyspace) => {
                relaying::begin(self.worker, keyspace, request, common_name, respond);
            }
            Where::Nowhere(error) => self.refuse(&error, request, respond),
        }
    }

    /// Writes into a request which keyspace it is about, where the connection says so.
    fn choose(&self, request: &mut Request<RecvStream>) {
        if self.choice.says_something() {
            let uri = request.uri().clone();
            self.choice.apply(&uri, request.headers_mut());
        }
    }

    /// Where a call is to be served.
    fn place(&self, request: &Request<RecvStream>) -> Where {
        let keyspaces = self.worker.setting.calls.keyspaces();
        let is_of_keyspace = || keyspace::is_served_by_keyspace(request.uri().path());
        if keyspaces.is_of_witness() && is_of_keyspace() {
            return Where::Nowhere(etcd::Error::Witness);
        }
        let Some(keyspace) = keyspace::named(request.headers()) else {
            return Where::Here;
        };
        if !is_of_keyspace() {
            return Where::Here;
        }
        match keyspaces.find(Some(&keyspace)) {
            Ok(Found::Here(_)) => Where::Here,
            Ok(Found::Elsewhere(_)) if self.source == Source::Peer => {
                Where::Nowhere(etcd::Error::KeyspaceElsewhere)
            }
            Ok(Found::Elsewhere(_)) => Where::There(keyspace),
            Err(error) => Where::Nowhere(error),
        }
    }

    /// What etcd looks at before it looks at a call.
    fn check_metadata(&self, request: &Request<RecvStream>) -> Result<(), etcd::Error> {
        let keyspaces = self.worker.setting.calls.keyspaces();
        // By its keys it may be another keyspace's, which is seen once they have arrived.
        let may_be_routed = self.source != Source::Peer
            && keyspaces.has_routes()
            && prefixed::is_placed_by_keys(request.uri().path());
        // A witness says of itself what it does not serve.
        let is_led = || may_be_routed || keyspaces.is_of_witness() || keyspaces.is_led();
        demands::check(request, is_led)
    }

    fn refuse(
        &self,
        error: &etcd::Error,
        request: Request<RecvStream>,
        mut respond: SendResponse<Payload>,
    ) {
        if let Err(status) = grpc::check(&request) {
            return Prebuilt::refuse_stranger(&mut respond, status);
        }
        match self.source {
            // The node that asks may know more of the table than this one, or less.
            Source::Peer => relaying::refuse(self.worker, &mut respond),
            _ => self.worker.prebuilt.refuse(&mut respond, &error.into()),
        }
    }

    /// Serves a call on this node.
    fn serve_here(
        &self,
        request: Request<RecvStream>,
        common_name: Option<&CommonName>,
        mut respond: SendResponse<Payload>,
    ) {
        let worker = self.worker;
        let path = request.uri().path();
        let (method, service) = (Method::of(path), worker.service_of(path));
        if method.is_none() && service.is_none() {
            let mut request = request;
            let extensions = request.extensions_mut();
            extensions.insert(self.source);
            if let Some(name) = common_name {
                extensions.insert(name.clone());
            }
            return routed::begin(worker, request, respond);
        }
        if let Err(status) = grpc::check(&request) {
            return Prebuilt::refuse_stranger(&mut respond, status);
        }
        if let Err(status) = grpc::check_encoding(request.headers()) {
            return worker.prebuilt.refuse(&mut respond, &status);
        }
        let (head, body) = request.into_parts();
        if let Some(method) = method {
            unary::begin(worker, method, &head.headers, common_name, body, respond);
        } else if let Some(service) = service {
            let traffic = Rc::clone(&self.traffic);
            if prefixed::may_choose(worker, self.source, &head) {
                let opening = prefixed::Opening {
                    service,
                    traffic,
                    head,
                    common_name: common_name.cloned(),
                };
                return prefixed::begin_watch(worker, opening, body, respond);
            }
            let rest = (Bytes::new(), body);
            worker.open_stream(service, &head.headers, common_name, traffic, rest, respond);
        }
    }
}

/// Where a call is to be served.
enum Where {
    /// On this node.
    Here,
    /// On another one, which holds this keyspace.
    There(Arc<str>),
    /// Nowhere that is known.
    Nowhere(etcd::Error),
}

fn failed(error: &dyn std::error::Error) -> Closed {
    tracing::debug!(%error, "a client's connection failed");
    Closed::Failed
}

fn builder(limits: &ClientLimits, source: Source) -> h2::server::Builder {
    let streams = match source {
        // All that a worker of another node carries on comes over one connection. What found no
        // place on it would wait at that node without an end.
        Source::Peer => u32::try_from(limits.relays.calls).unwrap_or(u32::MAX),
        _ => limits.streams_per_connection,
    };
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_concurrent_streams(streams)
        // A client may give up all its calls before they are looked at, and send on before it
        // hears that they have ended: that is no attack yet.
        .max_pending_accept_reset_streams(streams as usize)
        .max_concurrent_reset_streams(streams as usize)
        .data_frame_budget(limits.unread_frames_bytes)
        .max_header_list_size(limits.header_bytes)
        .max_send_buffer_size(limits.stream_send_bytes);
    builder
}

/// Finds out whether a client is still there: if nothing has come for a while, it is asked.
struct Probe {
    pings: Option<PingPong>,
    alarm: Pin<Box<Sleep>>,
    is_waiting: bool,
    farewell: Farewell,
    interval: Duration,
    patience: Duration,
}

/// Whether the client has read that it is to go elsewhere. The library sends a probe of ours only
/// when the client has answered its own, and the number of the last call that is served has been
/// sent: whoever answers ours has read that, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// It need not yet, or that has been told.
    None,
    /// It is to be asked.
    Wanted,
    /// The probe under way asks it.
    Asked,
    /// It has answered.
    Answered,
}

impl Probe {
    fn new<S>(connection: &mut Connection<Outgoing<S>, Payload>, limits: &ClientLimits) -> Probe
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        Probe {
            pings: connection.ping_pong(),
            alarm: Box::pin(tokio::time::sleep(limits.keepalive_interval)),
            is_waiting: false,
            farewell: Farewell::None,
            interval: limits.keepalive_interval,
            patience: limits.keepalive_timeout,
        }
    }

    /// Asks the client whether it has read that it is to go elsewhere.
    fn say_farewell(&mut self) {
        self.farewell = Farewell::Wanted;
    }

    /// Whether it has just said so.
    fn take_is_answered(&mut self) -> bool {
        let is_answered = self.farewell == Farewell::Answered;
        if is_answered {
            self.farewell = Farewell::None;
        }
        is_answered
    }

    /// Ready when the client did not answer in time.
    fn poll<S>(&mut self, context: &mut Context<'_>, outgoing: &Outgoing<S>) -> Poll<Closed>
    where
        S: AsyncWrite + Unpin,
    {
        let Some(pings) = &mut self.pings else {
            return Poll::Pending;
        };
        if self.is_waiting && pings.poll_pong(context).is_ready() {
            self.is_waiting = false;
            self.alarm.as_mut().reset(Instant::now() + self.interval);
            if self.farewell == Farewell::Asked {
                self.farewell = Farewell::Answered;
            }
        }
        if self.farewell == Farewell::Wanted && !self.is_waiting {
            if pings.send_ping(Ping::opaque()).is_ok() {
                self.is_waiting = true;
                // Says when the answer is there.
                let _ = pings.poll_pong(context);
                self.alarm.as_mut().reset(Instant::now() + self.patience);
            }
            self.farewell = Farewell::Asked;
        }
        while self.alarm.as_mut().poll(context).is_ready() {
            if self.is_waiting {
                return Poll::Ready(Closed::TimedOut);
            }
            let wait = if outgoing.take_has_read() || pings.send_ping(Ping::opaque()).is_err() {
                self.interval
            } else {
                self.is_waiting = true;
                // Says when the answer is there.
                let _ = pings.poll_pong(context);
                self.patience
            };
            self.alarm.as_mut().reset(Instant::now() + wait);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::duplex;

    use super::*;

    /// A worker that may carry on sixteen thousand calls had room for four thousand of them on
    /// its connection to a node; the rest waited, puts behind watches, and were told nothing.
    #[tokio::test]
    async fn another_nodes_connection_takes_all_that_its_worker_carries_on() {
        let limits = ClientLimits::default();
        for (source, calls) in [
            (Source::Peer, limits.relays.calls),
            (Source::Remote, limits.streams_per_connection as usize),
        ] {
            let (ours, theirs) = duplex(4096);
            let builder = builder(&limits, source);
            let (client, server) = tokio::join!(
                h2::client::handshake(ours),
                builder.handshake::<_, Bytes>(theirs),
            );
            let (requests, mut connection) = client.unwrap();
            let _server = server.unwrap();
            let told = poll_fn(|context| {
                assert!(Pin::new(&mut connection).poll(context).is_pending());
                match requests.current_max_send_streams() {
                    usize::MAX => Poll::Pending,
                    told => Poll::Ready(told),
                }
            });
            assert_eq!(told.await, calls, "{source:?}");
        }
    }
}
