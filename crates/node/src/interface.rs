//! What can happen to a node, and what it may ask to be done: its whole contact with the world.
//!
//! `server` maps these to sockets, disks and clocks; the simulator to its event heap.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{ClusterId, DiskId, Epoch, GroupId, Incarnation, NodeId, Slot};
use bytes::Bytes;
use consensus::{EngineKind, Membership, QuorumSizes, Role};
use etcd::Wanted;
use etcd::auth::Caller;
use journal::disk;
use state::LeaseId;

use crate::directory::Directory;
use crate::hub::{HistoryJob, HistoryRequest, HubId, Publication};
use crate::leases::Parent;
use crate::notes::Note;

/// Names a connection to a peer, dialed or accepted. Chosen by the host, never used twice in one
/// incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Names an address that the node wants to stay connected to. Chosen by the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u32);

/// Names a client's call. Chosen by the host, never used twice in one incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A connection is up: one that was dialed for `dial`, or one that was accepted.
    Connected {
        /// The new connection.
        connection: ConnectionId,
        /// For which [`Output::Dial`]; `None` if it was accepted.
        dial: Option<DialId>,
    },
    /// A frame arrived, its checksum verified by the host.
    Frame {
        /// Over which connection.
        connection: ConnectionId,
        /// Its body.
        body: Bytes,
    },
    /// A connection is gone: closed by the peer, by an error, or by [`Output::Disconnect`].
    Disconnected {
        /// Which.
        connection: ConnectionId,
        /// The peer's process closed or reset it (as opposed to a time-out of ours).
        by_peer: bool,
    },
    /// A client asks for something.
    Call {
        /// Comes back with the answer.
        id: CallId,
        /// What it asks for.
        call: Call,
    },
    /// The client no longer waits for the answer. What it asked for may still happen.
    Forget {
        /// Which call.
        id: CallId,
    },
    /// A disk request has ended.
    Disk(disk::Completion),
    /// The identity given out by [`Output::PersistIdentity`] is on stable storage.
    IdentityPersisted,
    /// A job given out by [`Output::Offload`] has ended.
    JobDone {
        /// The call it belonged to.
        id: CallId,
        /// The answer.
        answer: Answer,
    },
    /// A hub needs history; the answer is [`Output::ReadHistory`].
    ReadHistory {
        /// Whose keyspace.
        group: GroupId,
        /// Which hub.
        hub: HubId,
        /// What it needs.
        request: Box<HistoryRequest>,
    },
    /// The moment named by [`crate::Node::deadline`] has come.
    Deadline,
    /// Hand over leadership, answer what is under way, then halt with [`Halt::Stopped`].
    Shutdown,
}

/// Something to be done.
#[derive(Debug)]
pub enum Output {
    /// Keep a connection to this address: dial, and dial again with backoff whenever it is lost,
    /// resolving names anew each time. Replaces the address if `dial` is in use.
    Dial {
        /// Names the wish.
        dial: DialId,
        /// `host:port`.
        address: String,
    },
    /// Stop dialing, and close the connection if there is one.
    HangUp {
        /// Which wish ends.
        dial: DialId,
    },
    /// Send a frame. May be dropped, with the connection, if its queue is full.
    Frame {
        /// Over which connection.
        connection: ConnectionId,
        /// Its body.
        body: Bytes,
    },
    /// Send what is queued, then close a connection.
    Disconnect {
        /// Which.
        connection: ConnectionId,
    },
    /// Answer a call.
    Answer {
        /// Which.
        id: CallId,
        /// With what.
        answer: Answer,
    },
    /// Do something with a file.
    Disk(disk::Request),
    /// Send frames once a disk request has succeeded, never if it fails: what they say is true
    /// from then on. They need not wait for the node to hear of it, which is what they are given
    /// away for. There may be none: then only this is said, that the node may not be in a hurry to
    /// hear of the end (see [`crate::Node::is_patient`]).
    FramesAfter {
        /// A request that was given out in the same pass, before this.
        request: disk::RequestId,
        /// Each like an [`Output::Frame`], in their order.
        frames: Vec<(ConnectionId, Bytes)>,
    },
    /// Write the identity file (replace atomically, sync), then report
    /// [`Input::IdentityPersisted`].
    PersistIdentity(Identity),
    /// Run a long read elsewhere and report [`Input::JobDone`]. No time of the node's ends it: it
    /// is wanted until [`Input::Forget`] comes for its call, or [`Output::Answer`].
    Offload {
        /// The call it belongs to.
        id: CallId,
        /// What to run; it owns an immutable snapshot.
        job: Job,
        // `FnOnce` has no `Debug`; see the manual implementation below.
    },
    /// Let go of this where nobody waits for it.
    Discard(Discarded),
    /// Hand this to every hub of the group, before any answer that follows.
    Publish {
        /// Whose keyspace has changed.
        group: GroupId,
        /// How.
        publication: Publication,
    },
    /// A group is no longer on this node: its hubs end their streams. Nothing more is published
    /// for it, unless it begins anew with a publication that says so.
    Unpublish {
        /// Which group.
        group: GroupId,
        /// What its streams are told.
        error: etcd::Error,
    },
    /// Which keyspaces there are and where, from now on; before any answer that follows.
    Keyspaces(Arc<Directory>),
    /// Run this elsewhere and give the result to its hub.
    ReadHistory {
        /// Whose keyspace.
        group: GroupId,
        /// What to run.
        job: Box<HistoryJob>,
    },
    /// Something for the log, the metrics, or the simulator's timeline.
    Note(Note),
    /// The node can serve clients: it has executed everything that was chosen when it came back
    /// (told once). Nobody may be let in before, who would be judged by users of long ago.
    Ready,
    /// Stop. Nothing may be done after this.
    Halt(Halt),
}

/// A long read, ready to run on any thread.
pub struct Job(Box<dyn FnOnce(Wanted) -> Answer + Send>);

impl Job {
    /// What is run. It ends soon, whatever it answers then, when it is not wanted any more.
    pub fn new(job: impl FnOnce(Wanted) -> Answer + Send + 'static) -> Job {
        Job(Box::new(job))
    }

    /// Runs it, on the thread that this is called on.
    #[must_use]
    pub fn run(self, wanted: Wanted) -> Answer {
        (self.0)(wanted)
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Job")
    }
}

/// What takes long to let go of: the versions of a large state that only it still holds.
pub struct Discarded(pub Box<dyn Send>);

impl std::fmt::Debug for Discarded {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Discarded")
    }
}

/// Why a node stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// It was asked to, and everything is in order: exit status 0.
    Stopped,
    /// It cannot or must not go on: what is wrong, where, and what to do. Exit status not 0.
    Refused(String),
    /// It belongs to its cluster no more ([`crate::group::trust::REMOVED`]). Exit status not 0, but
    /// in etcd's place.
    Removed,
    /// What is wrong here is made up for by a start: whoever runs the node starts it again at once,
    /// in a new process if there is one. What is wrong.
    Again(String),
}

/// What a client may ask of a node.
#[derive(Debug)]
pub enum Call {
    /// A request about etcd's keys, leases, users or roles, by nobody in particular.
    Etcd(etcd::Request),
    /// Renew leases, for as many clients as there may be, which are all the same user's.
    RenewLeases {
        /// Which.
        leases: Vec<LeaseId>,
        /// Those that are known not to be the user's to renew, by their places, and why: keys of
        /// other keyspaces go with them.
        refused: Vec<(usize, etcd::Error)>,
    },
    /// What the first group knows of these leases: keys of other groups shall go with them. A user
    /// who asks must be allowed to write those that do already.
    ParentLeases(Vec<LeaseId>),
    /// Tells a group what is known of leases of the first group.
    FollowParents(Vec<Parent>),
    /// Which of these leases of the first group keys of a keyspace go with. Asked by a server for
    /// itself: nobody is checked.
    TiedLeases {
        /// Which.
        leases: Vec<LeaseId>,
        /// Confirm with the leader first. Otherwise what this node knows is told, and wakes nobody.
        linearizable: bool,
    },
    /// What somebody asks for who has signed in.
    As {
        /// Who.
        caller: Arc<Caller>,
        /// What; never another one of this kind.
        call: Box<Call>,
    },
    /// What is asked of a keyspace by its name. Anything else is asked of the default one, or of
    /// the cluster.
    In {
        /// The keyspace's name.
        keyspace: Arc<str>,
        /// What; never another one of this kind.
        call: Box<Call>,
    },
    /// Create keyspaces: all of these, or none.
    KeyspaceCreate {
        /// Their names.
        names: Vec<String>,
        /// How many nodes hold each.
        replicas: usize,
        /// How their groups agree.
        engine: EngineKind,
        /// How many of them elect and commit; `None`: majorities.
        quorums: Option<QuorumSizes>,
    },
    /// End a keyspace, with all that it holds.
    KeyspaceDrop {
        /// Its name.
        name: String,
    },
    /// List the keyspaces.
    Keyspaces,
    /// What this node sees of each group that it holds a replica of.
    Groups,
    /// A group has lost its quorum for good: go on with the replica here.
    GroupRecover(RecoveryOrder),
    /// What operators ask about where keyspaces are.
    Placement(Placement),
    /// etcd's `Cluster.MemberList`.
    EtcdMemberList {
        /// Confirm with the leader first.
        linearizable: bool,
    },
    /// etcd's `Maintenance.Status`.
    EtcdStatus,
    /// A change of the members, asked for as etcd's clients do.
    EtcdCluster(etcd::ClusterRequest),
    /// The rest of etcd's maintenance service.
    EtcdMaintenance(etcd::MaintenanceRequest),
    /// The state as it is here and now, to be written out as a checkpoint.
    Snapshot,
    /// What this node sees.
    Status,
    /// Whether a linearizable read can be served now (for readiness probes).
    Ready,
    /// Add a member as learner.
    MemberAdd {
        /// Its name.
        name: String,
        /// Where its peers will reach it.
        peer_address: String,
        /// It is to vote and to hold no data.
        is_witness: bool,
    },
    /// Give a learner a vote.
    MemberPromote {
        /// Its name, or its id in hexadecimal.
        member: String,
    },
    /// A learner shall get its vote by itself, once it has caught up and that is of use.
    MemberGrow {
        /// Its name.
        name: String,
    },
    /// Remove a member.
    MemberRemove {
        /// Its name, or its id in hexadecimal.
        member: String,
    },
    /// Hand leadership over.
    TransferLeadership {
        /// To whom (name or id); `None` lets the leader choose.
        to: Option<String>,
    },
}

/// What operators ask about where keyspaces are. Nodes are named by their names, or by their ids in
/// hexadecimal.
#[derive(Clone, Debug)]
pub enum Placement {
    /// A keyspace shall be on other nodes.
    Move {
        /// Its name.
        name: String,
        /// Who gives up its replica; `None`: `to` names all who shall hold it.
        from: Option<String>,
        /// Who gets it.
        to: Vec<String>,
    },
    /// A keyspace shall stay where it is.
    Cancel {
        /// Its name.
        name: String,
    },
    /// A node shall hold nothing but the default keyspace, and lead nothing; or as the others
    /// again.
    Drain {
        /// Which node.
        node: String,
        /// `false`: it takes its share again.
        is_draining: bool,
    },
    /// What would move if it were for the plan, in words and pictures.
    Plan,
    /// Move what the plan says.
    Apply {
        /// Refuse if the table is not of this epoch.
        epoch: Option<u64>,
    },
    /// Why a keyspace is where it is.
    Explain {
        /// Its name.
        name: String,
    },
    /// A node shall hold a keyspace without a vote, to serve reads and watches; or no longer.
    Observe {
        /// The keyspace's name.
        name: String,
        /// Which node.
        node: String,
        /// Whether it shall.
        observes: bool,
    },
    /// Keys with a prefix shall be in a keyspace, for clients that name none.
    Route {
        /// What they begin with.
        prefix: Bytes,
        /// The keyspace's name.
        name: String,
    },
    /// Keys with a prefix shall be in the default keyspace again.
    Unroute {
        /// What they begin with.
        prefix: Bytes,
    },
    /// Which prefixes lead where.
    Routes,
    /// How the cluster looks after itself; what is not given stays as it is.
    Tend {
        /// How long a node must be dead before its replicas are made anew; zero: never.
        replace_after: Option<Duration>,
        /// Replicas move by themselves to even out what nodes hold.
        rebalances: Option<bool>,
    },
}

/// What came of renewing leases.
#[derive(Clone, Debug, PartialEq)]
pub struct RenewedLeases {
    /// What etcd's answers begin with; the same for all of them.
    pub header: etcd::proto::etcdserverpb::ResponseHeader,
    /// For how many seconds each is granted from now, in the order of the call; 0 if there is no
    /// such lease. An error if it is not the user's to renew: then it was not.
    pub seconds: Vec<Result<i64, etcd::Error>>,
}

/// What a node answers.
#[derive(Debug)]
pub enum Answer {
    /// To [`Call::Etcd`].
    Etcd(Result<etcd::Response, etcd::Error>),
    /// To [`Call::RenewLeases`].
    LeasesRenewed(Result<RenewedLeases, etcd::Error>),
    /// To [`Call::ParentLeases`], in its order.
    ParentLeases(Result<Vec<Parent>, etcd::Error>),
    /// To [`Call::FollowParents`].
    ParentsFollowed(Result<(), etcd::Error>),
    /// To [`Call::TiedLeases`].
    TiedLeases(Result<Vec<LeaseId>, etcd::Error>),
    /// To [`Call::EtcdMemberList`].
    EtcdMemberList(Result<etcd::proto::etcdserverpb::MemberListResponse, etcd::Error>),
    /// To [`Call::EtcdStatus`].
    EtcdStatus(Result<etcd::proto::etcdserverpb::StatusResponse, etcd::Error>),
    /// To [`Call::EtcdCluster`].
    EtcdCluster(Result<etcd::ClusterResponse, etcd::Error>),
    /// To [`Call::EtcdMaintenance`].
    EtcdMaintenance(Result<etcd::MaintenanceResponse, etcd::Error>),
    /// To [`Call::Snapshot`].
    Snapshot(Result<Box<SnapshotSource>, etcd::Error>),
    /// To [`Call::Status`].
    Status(Box<Status>),
    /// To [`Call::Ready`]: ready, or why not.
    Ready(Result<(), String>),
    /// To [`Call::Keyspaces`].
    Keyspaces(Vec<KeyspaceStatus>),
    /// To [`Call::Groups`].
    Groups(Vec<GroupStatus>),
    /// To the member and keyspace calls and the transfer: done (a sentence for people), or why not.
    Operator(Result<String, String>),
}

/// What a checkpoint is written from. Holding it takes memory: what changes meanwhile is kept
/// twice.
#[derive(Debug)]
pub struct SnapshotSource {
    /// The state.
    pub snapshot: state::Snapshot,
    /// What a checkpoint says beside it.
    pub head: state::CheckpointHead,
    /// What bounds its blocks.
    pub limits: state::Limits,
}

/// What a node sees of itself and its group.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// This node's name.
    pub name: String,
    /// This node's id.
    pub id: NodeId,
    /// The cluster, once it has formed.
    pub cluster: Option<ClusterId>,
    /// The part this node plays.
    pub role: Role,
    /// What it is doing at large: `recovering`, `forming`, `joining`, `serving`, `stopping`.
    pub phase: &'static str,
    /// The leader's name, if known.
    pub leader: Option<String>,
    /// The current epoch (Raft: term).
    pub term: Epoch,
    /// Everything up to here is chosen, as far as this node knows.
    pub chosen: Slot,
    /// Everything up to here is executed here.
    pub applied: Slot,
    /// The revision of the keyspace.
    pub revision: i64,
    /// The revision up to which history is compacted.
    pub compacted: i64,
    /// The replicated state's level.
    pub level: u32,
    /// The state's digest at `applied`, for comparing replicas.
    pub digest: u128,
    /// Bytes held: live keys and history.
    pub held_bytes: u64,
    /// Bytes of live keys and values alone.
    pub live_bytes: u64,
    /// The quota that bounds `held_bytes`.
    pub quota_bytes: u64,
    /// The alarms that are raised, by etcd's names.
    pub alarms: Vec<String>,
    /// How many voters elect and commit.
    pub quorums: QuorumSizes,
    /// How many of those that hold data must have an entry.
    pub copies: usize,
    /// Who belongs to the group.
    pub members: Vec<MemberStatus>,
}

impl Status {
    /// Whether this node votes and holds no data, as far as it knows.
    #[must_use]
    pub fn is_witness(&self) -> bool {
        let mut members = self.members.iter();
        members.any(|member| member.id == self.id && member.is_witness)
    }
}

/// What a node sees of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupStatus {
    /// Which.
    pub group: GroupId,
    /// The replica here has lost something, and no leader has made up for it.
    pub is_in_doubt: bool,
    /// How it agrees.
    pub engine: EngineKind,
    /// The last entry of the log here, chosen or not.
    pub last: Slot,
    /// The epoch of that entry.
    pub last_term: Epoch,
    /// How many voters elect and commit, by the newest membership in the log here.
    pub quorums: QuorumSizes,
    /// The replica here has a vote.
    pub is_voter: bool,
    /// The replica here keeps headers instead of entries.
    pub is_witness: bool,
    /// The other members.
    pub others: Vec<OtherReplica>,
    /// What the group asks of its leader, in commands, KiB and read rounds a second.
    pub load: u64,
    /// What the replica here sees.
    pub status: Status,
}

/// Another replica of a group, as this node hears of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherReplica {
    /// Its node.
    pub id: NodeId,
    /// The node's name; its id if it has none yet.
    pub name: String,
    /// It has a vote.
    pub is_voter: bool,
    /// It keeps headers instead of entries.
    pub is_witness: bool,
    /// There is a connection to it.
    pub is_reachable: bool,
    /// How long it has said nothing; `None` if it never did since this node was started.
    pub silent_for: Option<Duration>,
}

/// What an operator orders who gives up a quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryOrder {
    /// Whose group.
    pub keyspace: String,
    /// Where the log of the node that is asked ended when the operator was told.
    pub last: Slot,
    /// The epoch of that entry.
    pub term: Epoch,
    /// The names of all who do not answer: the operator has agreed to lose what only they hold.
    pub given_up: Vec<String>,
}

/// One keyspace, as the table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceStatus {
    /// Its name.
    pub name: String,
    /// The group that it lives in.
    pub group: GroupId,
    /// How the group agrees.
    pub engine: EngineKind,
    /// How many replicas elect and commit.
    pub quorums: QuorumSizes,
    /// The names of the nodes that hold it.
    pub replicas: Vec<String>,
    /// The names of those that hold it without a vote, or are to.
    pub observers: Vec<String>,
    /// Who leads it, if the node that was asked knows.
    pub leader: Option<String>,
    /// Its way to other nodes, if it is on one.
    pub moving: Option<MovingStatus>,
}

/// How far a keyspace has come on its way to other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovingStatus {
    /// The names of the nodes that shall hold it.
    pub to: Vec<String>,
    /// The names of those that let go of it.
    pub from: Vec<String>,
    /// All who shall hold it vote; the others leave.
    pub is_leaving: bool,
    /// How much of the log the new replicas have executed, in percent, if the node that was asked
    /// holds a replica.
    pub filled: BTreeMap<String, u8>,
}

/// One member as another sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberStatus {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Where clients reach it, once it has said so.
    pub client_urls: Vec<String>,
    /// Has a vote.
    pub voter: bool,
    /// Votes, or is to vote, and holds no data.
    pub is_witness: bool,
    /// Slots it is behind; only the leader knows this of others.
    pub lag: Option<u64>,
    /// Where there are witnesses: whether a copy there is waited for. Only the leader knows.
    pub is_counted_on: Option<bool>,
    /// Bytes held there, as it last said.
    pub data_bytes: Option<u64>,
}

/// Who a data folder belongs to; stands in the identity file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// This node's id, drawn when the folder was first used.
    pub node: NodeId,
    /// The folder's id, likewise.
    pub disk: DiskId,
    /// The node's name.
    pub name: String,
    /// How often a node has been started on this folder.
    pub incarnation: Incarnation,
    /// A journal has been created in this folder. If it is missing, its promises are lost.
    pub journal_created: bool,
    /// This node has promised nothing, and voted for nobody, in an epoch as late as this or later,
    /// in whichever group. What it knows of its promises when its journal is lost.
    pub epochs: Epoch,
    /// The journal was lost, with all that this node had promised and acknowledged in groups that
    /// the journal does not know now.
    pub is_doubtful: bool,
    /// The cluster began with this node alone, and others have had votes since: they have what is
    /// lost here.
    pub has_others: bool,
    /// This folder is that of a witness: it holds votes and headers, and never any data.
    pub is_witness: bool,
    /// How far the node has come in belonging to a cluster.
    pub standing: Standing,
}

/// How far a node has come in belonging to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is agreed on.
    Alone,
    /// This node has promised to be part of this cluster, if it forms; it may hold no vote yet.
    Forming {
        /// Which cluster.
        cluster: ClusterId,
        /// Its first membership.
        genesis: Membership,
        /// How its members will agree.
        engine: EngineKind,
    },
    /// The cluster exists and this node is or was a member.
    Member {
        /// Which cluster.
        cluster: ClusterId,
        /// The membership that the log starts from (empty for a node that joined later and got
        /// its membership from the others).
        genesis: Membership,
        /// How its members agree.
        engine: EngineKind,
    },
}
