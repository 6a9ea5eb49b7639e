//! What a node sees of itself, its group and its members, as JSON: beside what the log says of each
//! member stands what gossip says.

use cluster::gossip::member as seen;
use consensus::Role;
use node::Status;
use serde::Serialize;

use crate::gossip::View;
use crate::http::QUORATE_VERSION;
use crate::node_loop::Clock;

/// [`Status`] as JSON: ids in hexadecimal, the digest too, everything else as it is.
#[derive(Serialize)]
pub(crate) struct StatusBody {
    name: String,
    id: String,
    cluster: Option<String>,
    release: &'static str,
    role: &'static str,
    phase: &'static str,
    leader: Option<String>,
    term: u64,
    chosen: u64,
    applied: u64,
    revision: i64,
    compacted: i64,
    level: u32,
    digest: String,
    held_bytes: u64,
    live_bytes: u64,
    quota_bytes: u64,
    alarms: Vec<String>,
    /// How many voters elect a leader.
    elect: usize,
    /// How many voters commit a write.
    commit: usize,
    /// How many members that hold data must have a write.
    copies: usize,
    /// This node votes and holds no data.
    witness: bool,
    /// By this node's wall clock, since 1970.
    wall_milliseconds: u64,
    members: Vec<MemberBody>,
    /// `None`: this node takes no part in gossip.
    gossip: Option<GossipBody>,
}

#[derive(Serialize)]
struct MemberBody {
    id: String,
    name: String,
    peer_address: String,
    client_urls: Vec<String>,
    voter: bool,
    witness: bool,
    lag: Option<u64>,
    counted_on: Option<bool>,
    data_bytes: Option<u64>,
}

#[derive(Serialize)]
struct GossipBody {
    /// 0 is healthy; more: this node, or its network, is slow.
    unhealthiness: u32,
    members: Vec<SeenBody>,
}

/// One member as gossip sees it: a hint, and perhaps one whom the log does not know.
#[derive(Serialize)]
struct SeenBody {
    id: String,
    name: String,
    state: String,
    for_seconds: u64,
    address: String,
    peer_address: String,
    client_address: String,
    release: String,
    load_thousandths: u32,
    table_epoch: u64,
    zone: String,
    rack: String,
    host: String,
    round_trip_microseconds: Option<u64>,
    clock_ahead_milliseconds: Option<i64>,
}

impl StatusBody {
    /// Puts together what the node and gossip say.
    pub(crate) fn new(status: Status, view: &View, clock: Clock) -> StatusBody {
        let witness = status.is_witness();
        let members = status.members.into_iter().map(|member| MemberBody {
            id: member.id.to_string(),
            name: member.name,
            peer_address: member.peer_address,
            client_urls: member.client_urls,
            voter: member.voter,
            witness: member.is_witness,
            lag: member.lag,
            counted_on: member.is_counted_on,
            data_bytes: member.data_bytes,
        });
        StatusBody {
            name: status.name,
            id: status.id.to_string(),
            cluster: status.cluster.map(|cluster| cluster.to_string()),
            release: QUORATE_VERSION,
            role: role_name(status.role),
            phase: status.phase,
            leader: status.leader,
            term: status.term.0,
            chosen: status.chosen.0,
            applied: status.applied.0,
            revision: status.revision,
            compacted: status.compacted,
            level: status.level,
            digest: format!("{:032x}", status.digest),
            held_bytes: status.held_bytes,
            live_bytes: status.live_bytes,
            quota_bytes: status.quota_bytes,
            alarms: status.alarms,
            elect: status.quorums.elect,
            commit: status.quorums.commit,
            copies: status.copies,
            witness,
            wall_milliseconds: clock.wall().0,
            members: members.collect(),
            gossip: gossip(view, clock),
        }
    }
}

fn gossip(view: &View, clock: Clock) -> Option<GossipBody> {
    if view.members.is_empty() {
        return None;
    }
    let now = clock.now();
    let members = view.members.iter().map(|member| {
        let seen::Member { facts, .. } = member;
        let measured = member.measured;
        let microseconds = |measured: seen::Measured| measured.round_trip.as_micros();
        SeenBody {
            id: member.node.to_string(),
            name: member.name.clone(),
            state: member.state.to_string(),
            for_seconds: now.since(member.since).as_secs(),
            address: member.address.to_string(),
            peer_address: facts.peer_address.clone(),
            client_address: facts.client_address.clone(),
            release: facts.release.clone(),
            load_thousandths: facts.load_thousandths,
            table_epoch: facts.table_epoch,
            zone: facts.domains.zone.clone(),
            rack: facts.domains.rack.clone(),
            host: facts.domains.host.clone(),
            round_trip_microseconds: measured
                .map(|measured| u64::try_from(microseconds(measured)).unwrap_or(u64::MAX)),
            clock_ahead_milliseconds: measured.map(|measured| measured.clock_ahead_milliseconds),
        }
    });
    Some(GossipBody {
        unhealthiness: view.unhealthiness,
        members: members.collect(),
    })
}

pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate | Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Learner => "learner",
    }
}
