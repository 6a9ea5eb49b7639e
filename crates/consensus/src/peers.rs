//! What a leader keeps of each peer, by id.
//!
//! A group has a handful of members, and every acknowledgement looks two or three of them up: a
//! short row that is searched from its beginning answers in a few instructions, where a tree takes
//! some dozens. It is used as a map is.

use base::NodeId;

/// See the head of this file: in the order of ids.
#[derive(Clone, Debug)]
pub(crate) struct Peers<P>(Vec<(NodeId, P)>);

/// Splits a pair that is borrowed into borrowed halves.
fn halves<P>((id, kept): &(NodeId, P)) -> (&NodeId, &P) {
    (id, kept)
}

/// The same, to change what is kept.
fn halves_mut<P>((id, kept): &mut (NodeId, P)) -> (&NodeId, &mut P) {
    (id, kept)
}

impl<P> Peers<P> {
    /// Nobody.
    pub(crate) fn new() -> Peers<P> {
        Peers(Vec::new())
    }

    /// What is kept of this peer.
    #[inline]
    pub(crate) fn get(&self, id: &NodeId) -> Option<&P> {
        let found = self.0.iter().find(|(peer, _)| peer == id);
        found.map(|(_, kept)| kept)
    }

    /// The same, to change it.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: &NodeId) -> Option<&mut P> {
        let found = self.0.iter_mut().find(|(peer, _)| peer == id);
        found.map(|(_, kept)| kept)
    }

    /// Keeps this of a peer, instead of what was kept before.
    pub(crate) fn insert(&mut self, id: NodeId, kept: P) {
        match self.0.binary_search_by_key(&id, |(peer, _)| *peer) {
            Ok(at) => self.0[at].1 = kept,
            Err(at) => self.0.insert(at, (id, kept)),
        }
    }

    /// Lets go of those for whom `stays` is false.
    pub(crate) fn retain(&mut self, mut stays: impl FnMut(&NodeId, &mut P) -> bool) {
        self.0.retain_mut(|(id, kept)| stays(id, kept));
    }

    /// Who they are.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &NodeId> {
        self.0.iter().map(|(id, _)| id)
    }

    /// What is kept of each.
    pub(crate) fn values(&self) -> impl Iterator<Item = &P> {
        self.0.iter().map(|(_, kept)| kept)
    }

    /// The same, to change it.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut P> {
        self.0.iter_mut().map(|(_, kept)| kept)
    }
}

type Halves<'a, P> = fn(&'a (NodeId, P)) -> (&'a NodeId, &'a P);
type HalvesMut<'a, P> = fn(&'a mut (NodeId, P)) -> (&'a NodeId, &'a mut P);

impl<'a, P> IntoIterator for &'a Peers<P> {
    type Item = (&'a NodeId, &'a P);
    type IntoIter = std::iter::Map<std::slice::Iter<'a, (NodeId, P)>, Halves<'a, P>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(halves)
    }
}

impl<'a, P> IntoIterator for &'a mut Peers<P> {
    type Item = (&'a NodeId, &'a mut P);
    type IntoIter = std::iter::Map<std::slice::IterMut<'a, (NodeId, P)>, HalvesMut<'a, P>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut().map(halves_mut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_kept_by_id_and_in_its_order() {
        let mut peers = Peers::new();
        for id in [5, 2, 9, 2] {
            peers.insert(NodeId(id), id * 10);
        }
        peers.insert(NodeId(5), 51);
        let all: Vec<(u64, u64)> = (&peers)
            .into_iter()
            .map(|(id, kept)| (id.0, *kept))
            .collect();
        assert_eq!(all, [(2, 20), (5, 51), (9, 90)]);
        *peers.get_mut(&NodeId(9)).expect("it is there") = 91;
        peers.retain(|_, kept| *kept > 50);
        assert_eq!(peers.get(&NodeId(2)), None);
        assert_eq!(peers.get(&NodeId(9)), Some(&91));
        assert_eq!(peers.keys().count(), 2);
    }
}
