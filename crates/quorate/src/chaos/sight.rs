//! What the nodes say of themselves and of their groups, and whether all is well.
//!
//! All is well when every keyspace has a leader that all its replicas know, no replica is in doubt,
//! none is far behind, and those that have executed the same have the same state.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::admin;
use crate::local::LocalCluster;

/// How long one node's answer is waited for: one that is paused answers nothing.
const PATIENCE: Duration = Duration::from_millis(1000);
/// A replica that lacks fewer entries keeps up.
const NEAR: u64 = 64;

/// A keyspace and who holds it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Keyspace {
    pub(super) name: String,
    pub(super) group: u64,
    pub(super) replicas: Vec<String>,
}

/// What a node says of one of its groups.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Replica {
    pub(super) group: u64,
    pub(super) in_doubt: bool,
    pub(super) role: String,
    pub(super) leader: Option<String>,
    pub(super) applied: u64,
    pub(super) digest: String,
    pub(super) voters: usize,
    /// By how many entries the farthest is behind, as the leader knows.
    pub(super) farthest_behind: Option<u64>,
    #[serde(default)]
    pub(super) alarms: Vec<String>,
}

/// One look at all nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Sight {
    pub(super) keyspaces: Vec<Keyspace>,
    /// By name; `None`: it does not answer.
    pub(super) nodes: BTreeMap<String, Option<Vec<Replica>>>,
}

async fn ask<T: DeserializeOwned>(address: &str, path: &str) -> Option<T> {
    let asked = admin::request(address, Method::GET, path, None);
    let text = timeout(PATIENCE, asked).await.ok()?.ok()?;
    serde_json::from_str(&text).ok()
}

impl Sight {
    /// Asks all nodes. Which keyspaces there are is asked of them as long as it is not known.
    pub(super) async fn of(addresses: &[(String, String)], known: &[Keyspace]) -> Sight {
        let mut sight = Sight {
            keyspaces: known.to_vec(),
            ..Sight::default()
        };
        let asked: Vec<_> = addresses
            .iter()
            .map(|(name, address)| {
                let (name, address) = (name.clone(), address.clone());
                tokio::spawn(async move { (name, ask(&address, "/groups").await) })
            })
            .collect();
        for task in asked {
            if let Ok((name, replicas)) = task.await {
                sight.nodes.insert(name, replicas);
            }
        }
        for (_, address) in addresses {
            if !sight.keyspaces.is_empty() {
                break;
            }
            sight.keyspaces = ask(address, "/keyspaces").await.unwrap_or_default();
        }
        sight
    }

    fn replica(&self, node: &str, group: u64) -> Option<&Replica> {
        let replicas = self.nodes.get(node)?.as_ref()?;
        replicas.iter().find(|replica| replica.group == group)
    }

    /// What is not well, the first thing only; `None` if all is.
    pub(super) fn complaint(&self) -> Option<String> {
        if self.keyspaces.is_empty() {
            return Some("nobody says which keyspaces there are".to_owned());
        }
        if let Some((name, _)) = self.nodes.iter().find(|(_, replicas)| replicas.is_none()) {
            return Some(format!("{name} does not answer"));
        }
        self.keyspaces.iter().find_map(|each| self.lacks(each))
    }

    fn lacks(&self, keyspace: &Keyspace) -> Option<String> {
        let name = &keyspace.name;
        let mut leaders = BTreeSet::new();
        for node in &keyspace.replicas {
            let Some(replica) = self.replica(node, keyspace.group) else {
                return Some(format!("{node} has no replica of {name}"));
            };
            if replica.in_doubt {
                return Some(format!("the replica of {name} on {node} is in doubt"));
            }
            if replica.voters != keyspace.replicas.len() {
                return Some(format!("{name} has {} voters on {node}", replica.voters));
            }
            if let Some(alarm) = replica.alarms.first() {
                return Some(format!("{name} has the alarm {alarm}"));
            }
            let Some(leader) = &replica.leader else {
                return Some(format!("{node} knows no leader of {name}"));
            };
            leaders.insert(leader);
            if replica.role == "leader" && replica.farthest_behind.is_none_or(|far| far > NEAR) {
                return Some(format!("a replica of {name} is behind"));
            }
        }
        match leaders.len() {
            1 => None,
            _ => Some(format!("the replicas of {name} follow different leaders")),
        }
    }

    /// Replicas that have executed the same and differ: never right, whatever is done to nodes.
    pub(super) fn contradiction(&self) -> Option<String> {
        let mut digests: BTreeMap<(u64, u64), (&str, &str)> = BTreeMap::new();
        for (node, replicas) in &self.nodes {
            for replica in replicas.iter().flatten() {
                let said = (node.as_str(), replica.digest.as_str());
                let first = digests.entry((replica.group, replica.applied));
                let (other, digest) = first.or_insert(said);
                if *digest != replica.digest {
                    return Some(format!(
                        "group {} differs on {other} and {node} at slot {}",
                        replica.group, replica.applied
                    ));
                }
            }
        }
        None
    }

    /// How many groups a node leads, holds, and doubts.
    pub(super) fn counts(&self, node: &str) -> Option<(usize, usize, usize)> {
        let replicas = self.nodes.get(node)?.as_ref()?;
        let leads = replicas.iter().filter(|each| each.role == "leader").count();
        let doubts = replicas.iter().filter(|each| each.in_doubt).count();
        Some((leads, replicas.len(), doubts))
    }

    /// By how many entries a node is behind the farthest replica of its groups, at most.
    pub(super) fn behind(&self, node: &str) -> Option<u64> {
        let own = self.nodes.get(node)?.as_ref()?;
        let others = || self.nodes.values().flatten().flatten();
        let behind = own.iter().map(|replica| {
            let same = others().filter(|other| other.group == replica.group);
            let farthest = same.map(|other| other.applied).max().unwrap_or(0);
            farthest - replica.applied.min(farthest)
        });
        behind.max()
    }
}

/// Names and admin addresses of all nodes.
pub(super) fn addresses(cluster: &LocalCluster) -> Vec<(String, String)> {
    let nodes = cluster.nodes().iter();
    nodes
        .map(|node| (node.name.clone(), node.admin.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight() -> Sight {
        let replica = |role: &str| Replica {
            group: 1,
            in_doubt: false,
            role: role.to_owned(),
            leader: Some("n1".to_owned()),
            applied: 7,
            digest: "aa".to_owned(),
            voters: 2,
            farthest_behind: Some(0),
            alarms: Vec::new(),
        };
        Sight {
            keyspaces: vec![Keyspace {
                name: "pods".to_owned(),
                group: 1,
                replicas: vec!["n1".to_owned(), "n2".to_owned()],
            }],
            nodes: BTreeMap::from([
                ("n1".to_owned(), Some(vec![replica("leader")])),
                ("n2".to_owned(), Some(vec![replica("follower")])),
            ]),
        }
    }

    fn changed(change: impl Fn(&mut Replica)) -> Sight {
        let mut sight = sight();
        let replicas = sight.nodes.get_mut("n2").unwrap().as_mut().unwrap();
        change(&mut replicas[0]);
        sight
    }

    #[test]
    fn whatever_is_not_well_is_said() {
        assert_eq!(sight().complaint(), None);
        assert!(changed(|each| each.in_doubt = true).complaint().is_some());
        assert!(changed(|each| each.leader = None).complaint().is_some());
        assert!(changed(|each| each.group = 2).complaint().is_some());
        let other = |each: &mut Replica| each.leader = Some("n2".to_owned());
        assert!(changed(other).complaint().is_some());
        let mut silent = sight();
        silent.nodes.insert("n2".to_owned(), None);
        assert_eq!(silent.complaint().unwrap(), "n2 does not answer");
        assert!(Sight::default().complaint().is_some());
    }

    #[test]
    fn only_states_of_the_same_slot_are_compared() {
        assert_eq!(sight().contradiction(), None);
        let differs = |each: &mut Replica| each.digest = "bb".to_owned();
        assert!(changed(differs).contradiction().is_some());
        let later = |each: &mut Replica| {
            each.digest = "bb".to_owned();
            each.applied = 9;
        };
        assert_eq!(changed(later).contradiction(), None);
        assert_eq!(changed(later).behind("n1"), Some(2));
        assert_eq!(sight().counts("n1"), Some((1, 1, 0)));
    }
}
