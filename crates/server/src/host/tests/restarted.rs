//! Three real nodes that start again as etcd does: their configuration says no more where peers
//! reach them, their log does.

use std::time::Duration;

use super::clocks::{asked, peers};
use super::*;

/// Names and addresses in a list of members.
fn places(members: &serde_json::Value) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let members = members.as_array().into_iter().flatten();
    let mut places: Vec<_> = members
        .map(|member| (text(&member["name"]), text(&member["peer_address"])))
        .collect();
    places.sort_unstable();
    places
}

#[test]
fn gossip_takes_a_nodes_own_address_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let peers = peers();
    let start = |place: Place| -> Vec<Handle> {
        let nodes = peers.iter().map(|(name, address)| {
            let configuration = Configuration {
                name: Some(name.clone()),
                listen_peer: Some(Listen::Tcp(address.clone())),
                cluster: match place {
                    Place::Configured | Place::AsEtcd => peers.clone(),
                    Place::Logged => Vec::new(),
                },
                place,
                gossip: Some(true),
                ..configuration(&folder.path().join(name))
            };
            let mut limits = Limits::default();
            limits.gossip.look_interval = Duration::from_millis(500);
            start_within(configuration, limits, Node::new).unwrap()
        });
        nodes.collect()
    };
    let nodes = start(Place::Configured);
    assert!(nodes.iter().all(Handle::wait_until_ready));
    nodes.iter().for_each(Handle::shutdown);
    nodes.into_iter().for_each(|node| node.wait().unwrap());

    let nodes = start(Place::Logged);
    assert!(nodes.iter().all(Handle::wait_until_ready));
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    for node in &nodes {
        loop {
            let status = asked(node, "/status");
            assert_eq!(places(&status["members"]), peers, "{status}");
            if places(&status["gossip"]["members"]) == peers {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{status}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    nodes.iter().for_each(Handle::shutdown);
    nodes.into_iter().for_each(|node| node.wait().unwrap());
}
