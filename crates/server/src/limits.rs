//! Every queue, buffer and wait of the runtime has its bound here, as a value that is passed in.

use std::num::NonZeroUsize;
use std::time::Duration;

/// All limits of the runtime.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Of the disk threads.
    pub disk: DiskLimits,
    /// Of connections to peers.
    pub transport: TransportLimits,
    /// Of connections to clients and operators.
    pub clients: ClientLimits,
    /// Of the node's thread.
    pub node: NodeLimits,
    /// Of TLS.
    pub tls: TlsLimits,
    /// Of what carries gossip.
    pub gossip: GossipLimits,
}

/// Limits of TLS.
#[derive(Clone, Debug)]
pub struct TlsLimits {
    /// The files of certificates are looked at this often.
    pub refresh_interval: Duration,
}

impl Default for TlsLimits {
    fn default() -> TlsLimits {
        TlsLimits {
            refresh_interval: Duration::from_secs(1),
        }
    }
}

/// Limits of the disk threads.
#[derive(Clone, Debug)]
pub struct DiskLimits {
    /// So many bytes are written before a sync, at most, when writes wait behind each other: more
    /// would make the first of them wait for the last.
    pub group_bytes: usize,
    /// Writes of up to so many bytes go to a segment past the page cache.
    pub direct_bytes: usize,
    /// The same for a checkpoint: somewhat more than the node writes at once.
    pub bulk_bytes: usize,
    /// Zeros are written in pieces of this many bytes: a sync of the journal that comes at the same
    /// time waits for one of them.
    pub zero_chunk_bytes: usize,
    /// After so many zeros that went through the page cache the file is synced, so that writing
    /// back does not pile up into one long stall.
    pub zero_sync_bytes: u64,
    /// A piece of background work waits for the journal this long, at most.
    pub give_way: Duration,
    /// So many files are kept open.
    pub open_files: usize,
}

impl Default for DiskLimits {
    fn default() -> DiskLimits {
        DiskLimits {
            group_bytes: 4 << 20,
            direct_bytes: 1 << 20,
            bulk_bytes: 2 << 20,
            zero_chunk_bytes: 256 << 10,
            zero_sync_bytes: 8 << 20,
            give_way: Duration::from_millis(5),
            open_files: 32,
        }
    }
}

/// Limits of connections to peers.
#[derive(Clone, Debug)]
pub struct TransportLimits {
    /// The longest frame's body: the node's own limit.
    pub frame_bytes: usize,
    /// What may wait to be sent over one connection; then the connection is given up, since a
    /// peer that far behind is better served by what the engine sends it after reconnecting.
    pub send_queue_bytes: usize,
    /// What one connection may have handed to the node that the node has not looked at yet; then
    /// the connection is not read any further.
    pub receive_queue_bytes: usize,
    /// The first size of a connection's read buffer.
    pub read_buffer_bytes: usize,
    /// Bodies up to this length are copied out of the read buffer; longer ones keep it.
    pub copied_body_bytes: usize,
    /// So many frames go into one call of the operating system.
    pub frames_per_write: usize,
    /// How many connections are accepted at a time.
    pub accepted_connections: usize,
    /// How many connections of other nodes are accepted at a time that carry on their clients'
    /// calls.
    pub relay_connections: usize,
    /// The longest question, and the longest answer.
    pub question_bytes: usize,
    /// How long answering a question may take.
    pub question_timeout: Duration,
    /// How many questions wait for whoever answers them.
    pub questions: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long the other side may take to say what it is.
    pub preamble_timeout: Duration,
    /// How long whoever dialed here may take to send its first frame after that: a peer
    /// introduces itself at once.
    pub first_frame_timeout: Duration,
    /// How long sending what is queued may take once a connection is to be closed.
    pub drain_timeout: Duration,
    /// The first wait before dialing again; it doubles up to `longest_backoff`.
    pub first_backoff: Duration,
    /// The longest wait before dialing again.
    pub longest_backoff: Duration,
    /// Sent data that is not acknowledged for this long ends the connection.
    pub unacknowledged_timeout: Duration,
    /// A connection without traffic is probed after this long.
    pub keepalive_idle: Duration,
}

impl Default for TransportLimits {
    fn default() -> TransportLimits {
        TransportLimits {
            frame_bytes: 16 << 20,
            send_queue_bytes: 64 << 20,
            receive_queue_bytes: 32 << 20,
            read_buffer_bytes: 128 << 10,
            copied_body_bytes: 16 << 10,
            frames_per_write: 256,
            accepted_connections: 256,
            relay_connections: 1024,
            question_bytes: 16 << 20,
            question_timeout: Duration::from_secs(10),
            questions: 64,
            connect_timeout: Duration::from_secs(1),
            preamble_timeout: Duration::from_secs(2),
            first_frame_timeout: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(1),
            first_backoff: Duration::from_millis(10),
            longest_backoff: Duration::from_secs(1),
            unacknowledged_timeout: Duration::from_secs(3),
            keepalive_idle: Duration::from_secs(5),
        }
    }
}

/// When connections over which only renewals of leases come are read.
#[derive(Clone, Copy, Debug)]
pub struct VisitLimits {
    /// So long after one another: what a renewal waits at most. Short beside the third of a second
    /// after which the client of the shortest lease, of one second, renews.
    pub interval: Duration,
    /// For so long nothing else has come before that begins, and it is looked at again that often.
    pub window: Duration,
    /// So many renewals have come in that time, at least; half of it lets it go on.
    pub fewest: u32,
    /// So many bytes a renewal and its answer take at most; more is something else.
    pub bytes_each: u64,
}

/// Limits of connections to clients and operators.
#[derive(Clone, Debug)]
pub struct ClientLimits {
    /// The longest request message (etcd's limit).
    pub receive_bytes: usize,
    /// Threads that serve etcd's clients; none means that the node's own thread does.
    pub workers: usize,
    /// The longest list of headers of an HTTP/2 request: tokens may be long. A call holds as much
    /// beside its message, of whose length it is an eighth.
    pub header_bytes: u32,
    /// What the HTTP/2 library may need besides their bytes for short frames that nobody has taken
    /// from it yet, as it counts it: some 250 bytes each. More ends the connection, so that what
    /// comes between two turns, up to 2 MiB, must fit.
    pub unread_frames_bytes: usize,
    /// What is waiting to be written to one HTTP/2 connection goes out at once when it has grown
    /// to this.
    pub write_buffer_bytes: usize,
    /// So much of one stream's answer is taken at a time from whoever can wait with the rest.
    pub stream_send_bytes: usize,
    /// How many calls the JSON gateway has under way; at most `streams_per_connection`.
    pub gateway_calls: usize,
    /// The longest text of one JSON message that is taken in: a message of `receive_bytes`, as
    /// base64, with room for names.
    pub gateway_text_bytes: usize,
    /// The texts that the gateway holds for calls with one message each way, all together.
    pub gateway_held_bytes: usize,
    /// The longest message that is made into JSON.
    pub gateway_answer_bytes: usize,
    /// How far the answer of one call goes ahead of what its JSON client takes.
    pub gateway_window_bytes: u32,
    /// What lies between the gateway and its worker, each way.
    pub gateway_pipe_bytes: usize,
    /// How far a streaming service may go ahead of what a stream's client has taken.
    pub stream_credit_bytes: usize,
    /// What bounds the watches of one worker.
    pub hub: node::HubLimits,
    /// Bytes of events, and of messages made of them, that a hub of another keyspace than the
    /// default one keeps: there may be many.
    pub keyspace_hub_bytes: usize,
    /// How many streams of streaming services one worker holds.
    pub streams_per_worker: usize,
    /// So many messages of one stream of a streaming service are read at a time, before others
    /// have their turn.
    pub messages_per_look: usize,
    /// Renewals of leases that come within this time of each other go to the node together.
    pub renewal_gathering: Duration,
    /// When connections over which only such renewals come are read.
    pub visits: VisitLimits,
    /// So many renewals go to the node together, at most; the rest go with the next ones.
    pub renewals_per_batch: usize,
    /// So many calls that renew leases one worker has under way in a keyspace; while users have to
    /// sign in, the last of them may be one for each user.
    pub renewal_batches: usize,
    /// A client's own time limit longer than this is none.
    pub longest_call: Duration,
    /// The shortest time between two looks for calls whose clients' time limits have passed.
    pub deadline_glance: Duration,
    /// How many calls one HTTP/2 connection may have under way.
    pub streams_per_connection: u32,
    /// The window of one HTTP/2 stream: a request of the longest length fits.
    pub stream_window_bytes: u32,
    /// The window of one HTTP/2 connection.
    pub connection_window_bytes: u32,
    /// How long a client may take to agree on TLS, to send its first bytes, and the head of an
    /// HTTP/1 request.
    pub header_timeout: Duration,
    /// How long a connection of gRPC waits for a node that is still starting: longer than clients
    /// wait for the first word. Whether one has gone is not seen before.
    pub starting_timeout: Duration,
    /// How long a request may take to arrive on an HTTP/2 stream, and a message of one that has
    /// many: until then, what has come of it is held.
    pub message_timeout: Duration,
    /// How long the body of an operator's request may take to arrive.
    pub body_timeout: Duration,
    /// An HTTP/2 connection is probed this often.
    pub keepalive_interval: Duration,
    /// ... and given up when a probe is not answered for this long.
    pub keepalive_timeout: Duration,
    /// How long a call waits for its turn when too many are under way.
    pub turn_timeout: Duration,
    /// Calls that are let in beyond `max-calls` if they make room: deletes, compaction,
    /// membership, probes.
    pub reserved_calls: usize,
    /// How many callers may wait for locks, in elections and for their outcome at a time.
    pub waiters: usize,
    /// How long a probe or an operator's call may take.
    pub operator_timeout: Duration,
    /// How long another member is waited for that an operator asks about.
    pub evidence_timeout: Duration,
    /// How long a scraper of metrics waits for what the node itself counts; the rest is served
    /// without it.
    pub metrics_timeout: Duration,
    /// Keep-alives of one stream whose answers its client has not taken; more wait in the stream's
    /// window.
    pub renewals_per_stream: usize,
    /// How long the stream of a snapshot may take; the state it is made from is held as long.
    pub snapshot_time: Duration,
    /// How long connections may take to end once the node has stopped.
    pub drain_timeout: Duration,
    /// The longest body of an operator's request.
    pub operator_body_bytes: usize,
    /// How many connections the operators' port holds at a time; those of clients never take
    /// their places.
    pub operator_connections: usize,
    /// Open files that are left for everything that is neither a connection nor a disk's file.
    pub spare_files: usize,
    /// So many connections of clients are let in however few files may be open.
    pub fewest_connections: usize,
    /// Of users who sign in.
    pub auth: AuthLimits,
    /// Of calls that are carried on to other nodes.
    pub relays: RelayLimits,
}

/// Limits of calls in keyspaces that other nodes hold.
#[derive(Clone, Debug)]
pub struct RelayLimits {
    /// How many calls one worker carries on at a time, and so, how many one connection of another
    /// node may have under way here.
    pub calls: usize,
    /// For so long a node is looked for that serves a call.
    pub patience: Duration,
    /// So long after nobody served a call all are asked again, and a node that could not be
    /// reached is dialed again.
    pub pause: Duration,
    /// For so long a node that could not be reached is asked last.
    pub avoided: Duration,
    /// For so long it is found out whether keys that are elsewhere go with a lease that is to be
    /// renewed: short beside the shortest lease.
    pub look_patience: Duration,
    /// ... of so many leases at a time, for one keyspace.
    pub looks: usize,
    /// What of a call is kept at most in case that another node has to be asked.
    pub replay_bytes: usize,
    /// How long connecting to a node may take, with all that belongs to it.
    pub connect_timeout: Duration,
    /// The window of one call.
    pub stream_window_bytes: u32,
    /// The window of all calls over one connection.
    pub connection_window_bytes: u32,
    /// The other node is probed this often.
    pub probe_interval: Duration,
    /// ... and given up when a probe is not answered for this long.
    pub probe_timeout: Duration,
}

impl Default for RelayLimits {
    fn default() -> RelayLimits {
        RelayLimits {
            calls: 16 << 10,
            patience: Duration::from_secs(3),
            pause: Duration::from_millis(50),
            avoided: Duration::from_secs(5),
            look_patience: Duration::from_millis(500),
            looks: 32,
            replay_bytes: 4 << 20,
            connect_timeout: Duration::from_secs(1),
            stream_window_bytes: 256 << 10,
            connection_window_bytes: (1 << 31) - 1,
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_secs(3),
        }
    }
}

/// Limits of users who sign in.
#[derive(Clone, Debug)]
pub struct AuthLimits {
    /// Passwords that are looked at at a time; each takes one processor for a while.
    pub logins: usize,
    /// How long a password waits to be looked at.
    pub login_patience: Duration,
    /// How long a simple token is good that is not used.
    pub token_ttl: Duration,
    /// Tokens that a node remembers having seen.
    pub tokens: usize,
    /// Tokens that a thread remembers having checked.
    pub cached_tokens: usize,
    /// How long it does.
    pub cached: Duration,
}

impl Default for AuthLimits {
    fn default() -> AuthLimits {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        AuthLimits {
            logins: (cores / 2).max(1),
            login_patience: Duration::from_secs(5),
            token_ttl: Duration::from_secs(300),
            tokens: 64 << 10,
            cached_tokens: 4 << 10,
            cached: Duration::from_secs(5),
        }
    }
}

impl Default for ClientLimits {
    fn default() -> ClientLimits {
        ClientLimits {
            receive_bytes: 2 << 20,
            workers: default_workers(),
            header_bytes: 256 << 10,
            unread_frames_bytes: 32 << 20,
            write_buffer_bytes: 64 << 10,
            stream_send_bytes: 64 << 10,
            stream_credit_bytes: 256 << 10,
            gateway_calls: 4096,
            gateway_text_bytes: 4 << 20,
            gateway_held_bytes: 256 << 20,
            gateway_answer_bytes: 1 << 30,
            gateway_window_bytes: 256 << 10,
            gateway_pipe_bytes: 256 << 10,
            hub: node::HubLimits::default(),
            keyspace_hub_bytes: 4 << 20,
            streams_per_worker: 256 << 10,
            messages_per_look: 64,
            renewal_gathering: Duration::from_millis(10),
            visits: VisitLimits {
                interval: Duration::from_millis(100),
                window: Duration::from_millis(500),
                fewest: 20,
                bytes_each: 512,
            },
            renewals_per_batch: 8192,
            renewal_batches: 16,
            longest_call: Duration::from_secs(24 * 3600),
            deadline_glance: Duration::from_millis(10),
            streams_per_connection: 4096,
            stream_window_bytes: 4 << 20,
            connection_window_bytes: 16 << 20,
            header_timeout: Duration::from_secs(10),
            starting_timeout: Duration::from_secs(30),
            message_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            turn_timeout: Duration::from_secs(1),
            reserved_calls: 256,
            waiters: 100_000,
            operator_timeout: Duration::from_secs(30),
            evidence_timeout: Duration::from_secs(5),
            metrics_timeout: Duration::from_secs(1),
            renewals_per_stream: 128,
            snapshot_time: Duration::from_secs(900),
            drain_timeout: Duration::from_secs(1),
            operator_body_bytes: 64 << 10,
            operator_connections: 128,
            spare_files: 64,
            fewest_connections: 16,
            auth: AuthLimits::default(),
            relays: RelayLimits::default(),
        }
    }
}

impl ClientLimits {
    /// What bounds the watches of one worker in another keyspace than the default one.
    pub(crate) fn keyspace_hub(&self) -> node::HubLimits {
        node::HubLimits {
            ring_bytes: self.hub.ring_bytes.min(self.keyspace_hub_bytes),
            shared_bytes: self.hub.shared_bytes.min(self.keyspace_hub_bytes),
            ..self.hub
        }
    }
}

/// With two cores, further threads only wait for the node's and are waited for; with more, all
/// but the node's core can serve clients.
fn default_workers() -> usize {
    const FEW: usize = 2;
    const MOST: usize = 64;
    match std::thread::available_parallelism().map_or(1, NonZeroUsize::get) {
        ..=FEW => 0,
        cores => (cores - 1).min(MOST),
    }
}

/// Limits of the node's thread.
#[derive(Clone, Debug)]
pub struct NodeLimits {
    /// So many inputs are stepped before the outputs are carried out, at most.
    pub inputs_per_pass: usize,
    /// Long reads that run elsewhere at a time.
    pub jobs: usize,
    /// Threads for whatever else takes long, which long reads never take: history that watches have
    /// missed, passwords, files.
    pub other_jobs: usize,
    /// How long a node that was told to stop serves clients that do not say that they know, before
    /// it hands over what it leads and ends.
    pub leave_time: Duration,
    /// How long it serves on once all have said so: calls that they had made before may be on
    /// their way, and clients over HTTP/1 say nothing.
    pub leave_pause: Duration,
    /// How long a node that has halted waits for its last frames to leave.
    pub farewell_timeout: Duration,
    /// How long a node that has halted waits for its disk threads. What they have not finished by
    /// then has not been promised to anybody.
    pub disk_timeout: Duration,
}

impl Default for NodeLimits {
    fn default() -> NodeLimits {
        NodeLimits {
            inputs_per_pass: 4096,
            jobs: 64,
            other_jobs: 64,
            leave_time: Duration::from_secs(1),
            leave_pause: Duration::from_millis(50),
            farewell_timeout: Duration::from_millis(100),
            disk_timeout: Duration::from_secs(3),
        }
    }
}

/// Limits of what carries gossip; what it says is bounded by `cluster::gossip::config`.
#[derive(Clone, Debug)]
pub struct GossipLimits {
    /// The longest packet that is looked at.
    pub packet_bytes: usize,
    /// How long an exchange that this node has begun may take.
    pub exchange_timeout: Duration,
    /// Exchanges that this node has begun, and those of others that wait, at a time.
    pub exchanges: usize,
    /// Commands that wait.
    pub commands: usize,
    /// What status shows is at most this old.
    pub view_interval: Duration,
    /// Changes are shown together that come within this time.
    pub view_pause: Duration,
    /// How often it is looked at whom to join through, how busy this node is, and the keys.
    pub look_interval: Duration,
    /// How busy this node is, is told in steps of this.
    pub load_step_thousandths: u32,
    /// How long a goodbye may take.
    pub leave_timeout: Duration,
    /// The same thing is said in the log again after this long.
    pub name_again: Duration,
    /// So many are named within that time, for each reason.
    pub named: usize,
    /// How often a port is drawn that must be free for packets as well as for connections.
    pub port_draws: usize,
}

impl Default for GossipLimits {
    fn default() -> GossipLimits {
        GossipLimits {
            packet_bytes: 2048,
            exchange_timeout: Duration::from_secs(10),
            exchanges: 128,
            commands: 16,
            view_interval: Duration::from_secs(1),
            view_pause: Duration::from_millis(50),
            look_interval: Duration::from_secs(5),
            load_step_thousandths: 100,
            leave_timeout: Duration::from_millis(500),
            name_again: Duration::from_secs(600),
            named: 16,
            port_draws: 8,
        }
    }
}
