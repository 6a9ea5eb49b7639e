//! Connections to other nodes: who is at the other end, and how to reach a node by its id.
//!
//! Each node dials every other one, so that two nodes usually have two connections; frames go out
//! on the dialed one if it is up, else on the accepted one. A connection means nothing before its
//! first frame, a [`Hello`]; a later Hello replaces the first, which is how a node says that its
//! standing has changed. Whoever does not belong here is told why and disconnected.

use std::collections::BTreeMap;

use base::{ClusterId, GroupId, NodeId};
use bytes::Bytes;
use consensus::Message;

use crate::interface::{ConnectionId, DialId, Output};
use crate::notes::Note;
use crate::wire::{Frame, Hello, HelloStanding, Packet, VERSIONS};

/// One connection.
#[derive(Debug)]
struct Connection {
    dial: Option<DialId>,
    hello: Option<Hello>,
}

/// All connections of this node, and what it dials.
#[derive(Debug)]
pub struct Peers {
    own: Hello,
    dials: BTreeMap<DialId, String>,
    dials_made: u32,
    connections: BTreeMap<ConnectionId, Connection>,
    /// Per node the connection that frames go out on.
    routes: BTreeMap<NodeId, ConnectionId>,
    /// What the engines of all groups have said in this pass, by the node that it is for.
    packets: BTreeMap<NodeId, Packet>,
    /// A frame with what engines say is ended when it has about so many bytes.
    packet_bytes: usize,
}

/// What a lost connection means.
#[derive(Debug, PartialEq, Eq)]
pub struct LostPeer {
    /// Which node was there.
    pub node: NodeId,
    /// Its name.
    pub name: String,
}

impl Peers {
    /// No connections; `own` is what this node says of itself. What engines say goes into frames of
    /// about `packet_bytes` at most.
    #[must_use]
    pub fn new(own: Hello, packet_bytes: usize) -> Peers {
        Peers {
            own,
            dials: BTreeMap::new(),
            dials_made: 0,
            connections: BTreeMap::new(),
            routes: BTreeMap::new(),
            packets: BTreeMap::new(),
            packet_bytes,
        }
    }

    /// Dials exactly these addresses from now on.
    pub fn dial_only(&mut self, addresses: &[String], out: &mut Vec<Output>) {
        let stale: Vec<DialId> = self
            .dials
            .iter()
            .filter(|(_, address)| !addresses.contains(address))
            .map(|(dial, _)| *dial)
            .collect();
        for dial in stale {
            self.dials.remove(&dial);
            out.push(Output::HangUp { dial });
        }
        for address in addresses {
            if !self.dials.values().any(|dialed| dialed == address) {
                self.dials_made += 1;
                let dial = DialId(self.dials_made);
                self.dials.insert(dial, address.clone());
                out.push(Output::Dial {
                    dial,
                    address: address.clone(),
                });
            }
        }
    }

    /// Says on every connection that this node's standing (or id) is now another.
    pub fn introduce(&mut self, own: Hello, out: &mut Vec<Output>) {
        self.own = own;
        let body = Frame::Hello(self.own.clone()).encode();
        for connection in self.connections.keys() {
            out.push(Output::Frame {
                connection: *connection,
                body: body.clone(),
            });
        }
    }

    /// A connection is up: the first thing said is who is here.
    pub fn connected(
        &mut self,
        connection: ConnectionId,
        dial: Option<DialId>,
        out: &mut Vec<Output>,
    ) {
        self.connections
            .insert(connection, Connection { dial, hello: None });
        let body = Frame::Hello(self.own.clone()).encode();
        out.push(Output::Frame { connection, body });
    }

    /// A connection is gone. Tells whom it led to if no other connection leads there.
    pub fn disconnected(&mut self, connection: ConnectionId) -> Option<LostPeer> {
        let hello = self.connections.remove(&connection)?.hello?;
        self.route(hello.node);
        let still_there = self.connections.values().any(|other| {
            other
                .hello
                .as_ref()
                .is_some_and(|each| each.node == hello.node)
        });
        (!still_there).then_some(LostPeer {
            node: hello.node,
            name: hello.name,
        })
    }

    /// Takes a Hello. Tells whether it is the first connection to that node.
    ///
    /// # Errors
    /// If the two cannot talk; the other side has been told and disconnected.
    pub fn hello(
        &mut self,
        connection: ConnectionId,
        hello: Hello,
        out: &mut Vec<Output>,
    ) -> Result<bool, String> {
        let verdict = self
            .check(&hello)
            .and_then(|()| self.check_others(connection, &hello));
        if let Err(reason) = verdict {
            self.refuse(connection, &reason, out);
            return Err(format!("{}: {reason}", named(&hello)));
        }
        self.replace_earlier(&hello, out);
        let Some(entry) = self.connections.get_mut(&connection) else {
            return Ok(false);
        };
        let before = entry.hello.replace(hello.clone());
        if let Some(before) = before.filter(|before| before.node != hello.node) {
            self.route(before.node);
        }
        let first = !self.routes.contains_key(&hello.node);
        self.route(hello.node);
        Ok(first)
    }

    fn check(&self, hello: &Hello) -> Result<(), String> {
        let (oldest, newest) = hello.versions;
        if newest < VERSIONS.0 || oldest > VERSIONS.1 {
            return Err(format!(
                "speaks peer protocol versions {oldest} to {newest}, this node {} to {}; upgrade \
                 one version at a time",
                VERSIONS.0, VERSIONS.1
            ));
        }
        if hello.node == self.own.node && hello.process != self.own.process {
            return Err(copied(hello, &self.own));
        }
        match (self.own.standing, hello.standing) {
            (HelloStanding::Member(own), HelloStanding::Member(other)) if own != other => {
                Err(format!(
                    "belongs to cluster {other}, this node ({}) to cluster {own}; check the \
                     addresses in --cluster and --join",
                    self.own.name
                ))
            }
            _ => Ok(()),
        }
    }

    /// What speaks against a Hello that other connections say of the same node.
    fn check_others(&self, connection: ConnectionId, hello: &Hello) -> Result<(), String> {
        for other in self.others(connection, hello.node) {
            if other.incarnation > hello.incarnation {
                return Err(format!(
                    "is start {} of a node of which start {} is connected; end the older process, \
                     or, if its data folder was restored from an older copy, replace the node",
                    hello.incarnation.0, other.incarnation.0
                ));
            }
            if other.incarnation == hello.incarnation && other.process != hello.process {
                return Err(copied(hello, other));
            }
        }
        Ok(())
    }

    fn others(&self, connection: ConnectionId, node: NodeId) -> impl Iterator<Item = &Hello> {
        self.everyone()
            .filter(move |(id, hello)| *id != connection && hello.node == node)
            .map(|(_, hello)| hello)
    }

    /// A node has been started again: what still leads to its earlier process is half open.
    fn replace_earlier(&mut self, hello: &Hello, out: &mut Vec<Output>) {
        let earlier: Vec<ConnectionId> = self
            .everyone()
            .filter(|(_, old)| old.node == hello.node && old.incarnation < hello.incarnation)
            .map(|(connection, _)| connection)
            .collect();
        for connection in earlier {
            self.connections.remove(&connection);
            out.push(Output::Disconnect { connection });
        }
        self.route(hello.node);
    }

    /// Tells a peer why it cannot stay, and disconnects.
    pub fn refuse(&mut self, connection: ConnectionId, reason: &str, out: &mut Vec<Output>) {
        let body = Frame::Goodbye(reason.to_owned()).encode();
        out.push(Output::Frame { connection, body });
        out.push(Output::Disconnect { connection });
        let refused = self.connections.remove(&connection);
        if let Some(hello) = refused.and_then(|refused| refused.hello) {
            self.route(hello.node);
        }
    }

    /// Chooses the connection that leads to `node`: a dialed one first, then the newest.
    fn route(&mut self, node: NodeId) {
        let best = self
            .connections
            .iter()
            .filter(|(_, each)| each.hello.as_ref().is_some_and(|hello| hello.node == node))
            .max_by_key(|(id, each)| (each.dial.is_some(), **id))
            .map(|(id, _)| *id);
        match best {
            Some(connection) => self.routes.insert(node, connection),
            None => self.routes.remove(&node),
        };
    }

    /// Whether a connection is up, and not closed by this node.
    #[must_use]
    pub fn is_open(&self, connection: ConnectionId) -> bool {
        self.connections.contains_key(&connection)
    }

    /// Who is at the other end of a connection, once it has said so.
    #[must_use]
    pub fn who(&self, connection: ConnectionId) -> Option<&Hello> {
        self.connections.get(&connection)?.hello.as_ref()
    }

    /// Whether the other end is a member of this node's cluster, and which.
    #[must_use]
    pub fn member(&self, connection: ConnectionId, cluster: ClusterId) -> Option<NodeId> {
        let hello = self.who(connection)?;
        (hello.standing == HelloStanding::Member(cluster)).then_some(hello.node)
    }

    /// What the node at a dialed address says of itself, if it is connected.
    #[must_use]
    pub fn at_address(&self, address: &str) -> Option<(ConnectionId, &Hello)> {
        let (dial, _) = self.dials.iter().find(|(_, dialed)| *dialed == address)?;
        self.connections.iter().find_map(|(id, connection)| {
            let hello = connection.hello.as_ref()?;
            (connection.dial == Some(*dial)).then_some((*id, hello))
        })
    }

    /// What every connected node says of itself.
    pub fn everyone(&self) -> impl Iterator<Item = (ConnectionId, &Hello)> {
        self.connections
            .iter()
            .filter_map(|(id, each)| Some((*id, each.hello.as_ref()?)))
    }

    /// Nodes that a frame can be sent to.
    pub fn reachable(&self) -> impl Iterator<Item = NodeId> {
        self.routes.keys().copied()
    }

    /// Sends a frame body to a node; tells whether there was a connection to send it on.
    pub fn send(&self, to: NodeId, body: Bytes, out: &mut Vec<Output>) -> bool {
        let Some(connection) = self.route_to(to) else {
            return false;
        };
        out.push(Output::Frame { connection, body });
        true
    }

    /// The connection over which frames go to a node, if it can be reached.
    #[must_use]
    pub fn route_to(&self, to: NodeId) -> Option<ConnectionId> {
        self.routes.get(&to).copied()
    }

    /// About how long a frame of engines' messages becomes at most.
    #[must_use]
    pub fn packet_bytes(&self) -> usize {
        self.packet_bytes
    }

    /// Takes what a group's engine says to another node; it goes with what all others say to that
    /// node in this pass.
    pub fn say(&mut self, group: GroupId, to: NodeId, message: Message, out: &mut Vec<Output>) {
        let most = self.packet_bytes;
        let packet = self.packets.entry(to).or_default();
        if let Some(body) = packet.add(group, message, most) {
            self.send(to, body, out);
        }
    }

    /// Ends a pass: sends what engines have said. What is for nodes without a connection is lost.
    pub fn flush(&mut self, out: &mut Vec<Output>) {
        let Peers {
            packets, routes, ..
        } = self;
        packets.retain(|to, packet| {
            let route = routes.get(to).copied();
            let body = packet.take();
            if let (Some(connection), Some(body)) = (route, body) {
                out.push(Output::Frame { connection, body });
            }
            route.is_some()
        });
    }

    /// Takes a note of a connection that spoke nonsense, and disconnects it.
    pub fn nonsense(&mut self, connection: ConnectionId, reason: &str, out: &mut Vec<Output>) {
        let who = self
            .who(connection)
            .map_or_else(|| "a stranger".into(), |h| h.name.clone());
        out.push(Output::Note(Note::BadFrame {
            reason: format!("{who}: {reason}"),
        }));
        out.push(Output::Disconnect { connection });
    }
}

/// Why two processes with one node id cannot both take part.
fn copied(hello: &Hello, other: &Hello) -> String {
    format!(
        "has the same node id {} as {}, which is another process: a data folder has been copied; \
         give one of them an empty folder and add it as a new member",
        hello.node,
        named(other)
    )
}

/// A node's name, with its address if it says one: it need not know its own.
fn named(hello: &Hello) -> String {
    match hello.address.as_str() {
        "" => hello.name.clone(),
        address => format!("{} ({address})", hello.name),
    }
}

#[cfg(test)]
mod tests {
    use base::Incarnation;

    use super::*;

    fn hello(node: u64, name: &str, standing: HelloStanding) -> Hello {
        Hello {
            versions: VERSIONS,
            node: NodeId(node),
            incarnation: Incarnation(1),
            process: node,
            standing,
            name: name.into(),
            address: format!("{name}:1"),
            is_witness: false,
        }
    }

    #[test]
    fn frames_prefer_the_dialed_connection_and_fall_back_on_the_accepted_one() {
        let member = HelloStanding::Member(ClusterId(1));
        let mut peers = Peers::new(hello(1, "n1", member), 1 << 20);
        let mut out = Vec::new();
        peers.dial_only(&["n2:1".into()], &mut out);
        peers.connected(ConnectionId(1), Some(DialId(1)), &mut out);
        peers.connected(ConnectionId(2), None, &mut out);
        assert_eq!(
            peers.hello(ConnectionId(2), hello(2, "n2", member), &mut out),
            Ok(true)
        );
        assert_eq!(
            peers.hello(ConnectionId(1), hello(2, "n2", member), &mut out),
            Ok(false)
        );
        out.clear();
        assert!(peers.send(NodeId(2), Bytes::new(), &mut out));
        assert!(matches!(
            out[0],
            Output::Frame {
                connection: ConnectionId(1),
                ..
            }
        ));
        assert_eq!(
            peers.disconnected(ConnectionId(1)),
            None,
            "another connection is left"
        );
        out.clear();
        assert!(peers.send(NodeId(2), Bytes::new(), &mut out));
        assert!(matches!(
            out[0],
            Output::Frame {
                connection: ConnectionId(2),
                ..
            }
        ));
        let lost = LostPeer {
            node: NodeId(2),
            name: "n2".into(),
        };
        assert_eq!(peers.disconnected(ConnectionId(2)), Some(lost));
        assert!(!peers.send(NodeId(2), Bytes::new(), &mut out));
    }

    #[test]
    fn members_of_other_clusters_and_copied_folders_are_told_and_disconnected() {
        let mut peers = Peers::new(hello(1, "n1", HelloStanding::Member(ClusterId(1))), 1 << 20);
        let mut out = Vec::new();
        peers.connected(ConnectionId(1), None, &mut out);
        let foreign = hello(2, "n2", HelloStanding::Member(ClusterId(2)));
        assert!(peers.hello(ConnectionId(1), foreign, &mut out).is_err());
        assert!(matches!(out.last(), Some(Output::Disconnect { .. })));
        peers.connected(ConnectionId(2), None, &mut out);
        let mut copy = hello(1, "n1", HelloStanding::Member(ClusterId(1)));
        copy.process = 9;
        assert!(peers.hello(ConnectionId(2), copy, &mut out).is_err());
        let mut newer = hello(3, "n3", HelloStanding::Alone);
        newer.versions = (9, 9);
        assert!(peers.hello(ConnectionId(2), newer, &mut out).is_err());
    }

    #[test]
    fn a_later_start_replaces_an_earlier_one_and_a_copy_or_an_earlier_one_is_refused() {
        let member = HelloStanding::Member(ClusterId(1));
        let start = |incarnation, process| Hello {
            incarnation: Incarnation(incarnation),
            process,
            ..hello(2, "n2", member)
        };
        let mut peers = Peers::new(hello(1, "n1", member), 1 << 20);
        let mut out = Vec::new();
        (1..=5).for_each(|id| peers.connected(ConnectionId(id), None, &mut out));
        assert_eq!(
            peers.hello(ConnectionId(1), start(1, 7), &mut out),
            Ok(true)
        );
        assert_eq!(
            peers.hello(ConnectionId(2), start(1, 7), &mut out),
            Ok(false),
            "its second connection"
        );
        let copy = peers.hello(ConnectionId(3), start(1, 8), &mut out);
        assert!(copy.unwrap_err().contains("has been copied"));
        out.clear();
        assert!(peers.hello(ConnectionId(4), start(2, 9), &mut out).is_ok());
        let closed = out
            .iter()
            .filter(|output| matches!(output, Output::Disconnect { .. }));
        assert_eq!(closed.count(), 2, "both of the earlier start");
        assert_eq!(peers.disconnected(ConnectionId(1)), None);
        out.clear();
        assert!(peers.send(NodeId(2), Bytes::new(), &mut out));
        match &out[0] {
            Output::Frame { connection, .. } => assert_eq!(*connection, ConnectionId(4)),
            other => panic!("{other:?}"),
        }
        let earlier = peers.hello(ConnectionId(5), start(1, 7), &mut out);
        assert!(earlier.unwrap_err().contains("start 1"));
    }
}
