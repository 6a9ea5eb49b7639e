//! What operators ask for: members and leadership.
//!
//! Any node may be asked; the leader carries it out. A request is answered with a sentence for
//! people, by the node that was asked.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use base::{Instant, NodeId};
use consensus::{Change, Member, Membership, Refusal, Ticket};

use crate::interface::CallId;
use crate::wire::Operation;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// A client of this node.
    Call(CallId),
    /// A client of another node.
    Node {
        /// Which node.
        node: NodeId,
        /// Its number for the request.
        id: u64,
    },
    /// A client of etcd's at this node.
    Client(CallId),
    /// A client of etcd's at another node.
    ClientOf {
        /// Which node.
        node: NodeId,
        /// Its number for the request.
        id: u64,
    },
    /// This node itself, which looks at what came of it by other means.
    Itself,
}

/// What the engine is to be asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Change the membership.
    Change(Change),
    /// Hand over leadership.
    Transfer(Option<NodeId>),
}

/// Requests under way.
#[derive(Debug, Default)]
pub struct Operators {
    /// Asked of this node's engine: who asked, and what to say when it is done.
    engine: BTreeMap<Ticket, (Asker, String)>,
    /// Sent to the leader, with the time by which it must answer.
    remote: BTreeMap<u64, (CallId, Instant)>,
    last_remote: u64,
}

impl Operators {
    /// The engine has been asked.
    pub fn asked_engine(&mut self, ticket: Ticket, asker: Asker, success: String) {
        self.engine.insert(ticket, (asker, success));
    }

    /// The engine has answered.
    pub fn engine_answered(&mut self, ticket: Ticket) -> Option<(Asker, String)> {
        self.engine.remove(&ticket)
    }

    /// Whether the engine is carrying out something that this node itself asked for.
    #[must_use]
    pub fn is_asked_by_itself(&self) -> bool {
        self.engine
            .values()
            .any(|(asker, _)| *asker == Asker::Itself)
    }

    /// Notes a request sent to the leader; its number.
    pub fn asked_leader(&mut self, call: CallId, now: Instant, patience: Duration) -> u64 {
        self.last_remote += 1;
        self.remote.insert(self.last_remote, (call, now + patience));
        self.last_remote
    }

    /// The leader has answered.
    pub fn leader_answered(&mut self, id: u64) -> Option<CallId> {
        self.remote.remove(&id).map(|(call, _)| call)
    }

    /// When a request must be given up.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        // Asked for in every pass, and nearly always there are none.
        if self.remote.is_empty() {
            return None;
        }
        self.remote.values().map(|(_, deadline)| *deadline).min()
    }

    /// Requests that the leader did not answer in time.
    pub fn expire(&mut self, now: Instant) -> Vec<CallId> {
        // Asked in every pass, and nearly always there are none.
        if self.remote.is_empty() {
            return Vec::new();
        }
        let expired: Vec<u64> = self
            .remote
            .iter()
            .filter(|(_, (_, deadline))| *deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        expired
            .iter()
            .filter_map(|id| self.leader_answered(*id))
            .collect()
    }
}

/// What to ask the engine for, and what to say when it is done.
///
/// # Errors
/// If the request makes no sense for this membership; a sentence for people.
pub fn translate(
    operation: &Operation,
    membership: &Membership,
) -> Result<(Request, String), String> {
    match operation {
        Operation::MemberAdd {
            id,
            name,
            address,
            is_witness,
        } => {
            check_name(name).map_err(|expected| format!("the name {name:?}: {expected}"))?;
            check_address(address).map_err(|expected| format!("{address:?}: {expected}"))?;
            let taken = membership
                .members
                .values()
                .find(|member| member.name == *name);
            if let Some(member) = taken {
                return Err(format!(
                    "a member called {name} exists already (at {}); choose another name, or remove \
                     it first",
                    member.peer_address
                ));
            }
            let taken = membership
                .members
                .values()
                .find(|each| each.peer_address == *address);
            if let Some(member) = taken {
                return Err(format!(
                    "the address {address} belongs to member {}",
                    member.name
                ));
            }
            let member = Member {
                name: name.clone(),
                peer_address: address.clone(),
            };
            let (kind, flag) = match is_witness {
                true => ("witness without a vote yet", " --witness"),
                false => ("learner", ""),
            };
            let success = format!(
                "{name} ({id}) has been added as a {kind}; start it with --name {name}{flag} \
                 --listen-peer {address} --join and the peer address of a member"
            );
            let id = *id;
            let change = match is_witness {
                true => Change::AddWitness { id, member },
                false => Change::AddLearner { id, member },
            };
            Ok((Request::Change(change), success))
        }
        Operation::MemberPromote { member } => {
            let id = find(membership, member)?;
            Ok((
                Request::Change(Change::Promote(id)),
                format!("{member} has a vote now"),
            ))
        }
        Operation::MemberRemove { member } => {
            let id = find(membership, member)?;
            Ok((
                Request::Change(Change::Remove(id)),
                format!("{member} has been removed"),
            ))
        }
        // A node says where it is. Another one may have been there, and not have said yet that it
        // is elsewhere: two that have exchanged their addresses would wait for each other.
        Operation::MemberUpdate { id, name, address } => {
            check_address(address).map_err(|expected| format!("{address:?}: {expected}"))?;
            let known = membership.members.get(id).ok_or("no member has this id")?;
            // Only one that was added without a name gets one.
            let name = match known.name.is_empty() {
                true => name.clone(),
                false => known.name.clone(),
            };
            let success = format!("{name} is reached at {address} now");
            let member = Member {
                name,
                peer_address: address.clone(),
            };
            Ok((Request::Change(Change::Update { id: *id, member }), success))
        }
        Operation::Introduce { .. } => Err("a witness is heard by the leader itself".to_owned()),
        Operation::TransferLeadership { to } => {
            let target = to.as_deref().map(|to| find(membership, to)).transpose()?;
            if let Some(witness) = target.filter(|id| membership.is_witness(*id)) {
                let name = &membership.members[&witness].name;
                return Err(format!(
                    "{name} is a witness: it votes and holds no data, so it never leads"
                ));
            }
            Ok((
                Request::Transfer(target),
                "leadership has been handed over".to_owned(),
            ))
        }
    }
}

/// Whether a node may have this name.
///
/// # Errors
/// If not; what is expected instead.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 128 || !name.chars().all(allowed) {
        return Err("expected 1 to 128 of the characters A-Z a-z 0-9 - _ .");
    }
    Ok(())
}

/// Whether other nodes can be told to reach a node at this address.
///
/// # Errors
/// If not; what is expected instead.
pub fn check_address(address: &str) -> Result<(), &'static str> {
    const EXPECTED: &str = "expected HOST:PORT, such as 10.0.0.1:2380 or [fe80::1]:2380";
    let (host, port) = address.rsplit_once(':').ok_or(EXPECTED)?;
    if port.parse::<u16>().is_ok_and(|port| port == 0) {
        return Err("port 0 stands for any port; give the one that the node listens on");
    }
    let digits = port.chars().all(|c| c.is_ascii_digit());
    if !digits || port.parse::<u16>().is_err() || host.len() > 255 {
        return Err(EXPECTED);
    }
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let literal: Option<IpAddr> = match inner {
        // The scope of a link-local address (`%eth0`) is nothing that the address means.
        Some(inner) => {
            let bare = inner.split('%').next().unwrap_or(inner);
            let parsed: Ipv6Addr = bare.parse().map_err(|_| EXPECTED)?;
            Some(parsed.into())
        }
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::from),
    };
    if literal.is_some_and(|literal| literal.is_unspecified()) {
        return Err("this address stands for any address; give one that the others can reach");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let named = inner.is_some() || (!host.is_empty() && host.chars().all(allowed));
    if named { Ok(()) } else { Err(EXPECTED) }
}

/// The member with this name, or with this id in hexadecimal.
pub(crate) fn find(membership: &Membership, member: &str) -> Result<NodeId, String> {
    let by_name = membership
        .members
        .iter()
        .find(|(_, each)| each.name == member && !member.is_empty());
    let by_id = || {
        let id = NodeId(u64::from_str_radix(member, 16).ok()?);
        membership.members.contains_key(&id).then_some(id)
    };
    by_name.map(|(id, _)| *id).or_else(by_id).ok_or_else(|| {
        let names: Vec<&str> = membership
            .members
            .values()
            .map(|each| each.name.as_str())
            .collect();
        format!(
            "no member is called {member} or has that id; there are {}",
            names.join(", ")
        )
    })
}

/// Why the engine refused, for people.
#[must_use]
pub fn explain(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotLeader => "this node does not lead (any more); ask again".to_owned(),
        Refusal::Transferring => "leadership is being handed over; ask again".to_owned(),
        Refusal::WindowFull => "the leader has no room just now; ask again".to_owned(),
        Refusal::ChangeInProgress => {
            "another change of the membership is under way; ask again when it is complete"
                .to_owned()
        }
        Refusal::InvalidChange(reason) => reason.clone(),
        Refusal::NotCaughtUp { behind } => format!(
            "the learner is {behind} entries behind; promote it when it has caught up (see \
             `quorate status`)"
        ),
        Refusal::LacksCopies { have, needed } => format!(
            "{have} of the members that hold data answer, and every write needs {needed} copies: \
             bring back the one that is away, or remove it first if it is gone for good"
        ),
        Refusal::Abandoned => {
            "it was given up: leadership was lost meanwhile, or the target did not take over"
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        let member = |name: &str| Member {
            name: name.into(),
            peer_address: format!("{name}:1"),
        };
        Membership {
            members: [(NodeId(1), member("n1")), (NodeId(0xab), member("n2"))].into(),
            voters: [NodeId(1), NodeId(0xab)].into(),
            ..Membership::default()
        }
    }

    #[test]
    fn members_are_found_by_name_or_id_and_the_error_lists_them() {
        assert_eq!(find(&membership(), "n2"), Ok(NodeId(0xab)));
        assert_eq!(find(&membership(), "ab"), Ok(NodeId(0xab)));
        let error = find(&membership(), "n9").unwrap_err();
        assert!(error.contains("n1, n2"), "{error}");
    }

    #[test]
    fn names_and_addresses_are_not_given_twice() {
        let add = |name: &str, address: &str| {
            let (name, address) = (name.to_owned(), address.to_owned());
            translate(
                &Operation::MemberAdd {
                    id: NodeId(9),
                    name,
                    address,
                    is_witness: false,
                },
                &membership(),
            )
        };
        assert!(add("n1", "h:1").unwrap_err().contains("exists already"));
        assert!(
            add("n3", "n1:1")
                .unwrap_err()
                .contains("belongs to member n1")
        );
        assert!(add("n3", "n3:1").is_ok());
    }

    #[test]
    fn nodes_get_no_name_or_address_that_cannot_be_used() {
        for name in ["", "a b", "a,b", "a=b", "\u{e4}", &"x".repeat(129)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert_eq!(check_name("n1-a_b.c"), Ok(()));
        for address in [
            "",
            "h",
            ":1",
            "h:",
            "h:0",
            "h:00",
            "h:65536",
            "h:+1",
            "h:x",
            "0.0.0.0:1",
            "[::]:1",
            "::1:2380",
            "http://h:1",
            "[h]:1",
            "a b:1",
            "h:1/",
            "[::0%1]:1",
        ] {
            assert!(check_address(address).is_err(), "{address}");
        }
        for address in [
            "h:1",
            "10.0.0.1:2380",
            "[::1]:2380",
            "n1.example.org:65535",
            "0.0.0.1:1",
        ] {
            assert_eq!(check_address(address), Ok(()), "{address}");
        }
        let operation = Operation::MemberAdd {
            id: NodeId(9),
            name: "n3".into(),
            address: "0.0.0.0:2380".into(),
            is_witness: false,
        };
        let error = translate(&operation, &membership()).unwrap_err();
        assert!(error.contains("any address"), "{error}");
    }
}
