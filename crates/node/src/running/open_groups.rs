//! The groups that this node has open, by their ids.
//!
//! Every pass and every frame looks for groups several times, and nearly always for the first one:
//! most clusters have no other. So that one is found without a search.

use std::collections::{BTreeMap, BTreeSet};

use base::{GroupId, Instant, NodeId};
use consensus::Mark;

use super::loading::Load;
use crate::group::{Group, META};

/// A group with what the node keeps of it.
pub(super) struct Opened {
    pub(super) group: Group,
    pub(super) opening: u32,
    /// When it wants to be looked at; stands in the agenda.
    pub(super) due: Option<Instant>,
    /// Something has happened to it in this pass.
    pub(super) is_awake: bool,
    /// Its last write that has been appended and is not part of a flush yet.
    pub(super) unflushed: Option<Mark>,
    /// Its last write that is on stable storage, and of which it has not been told.
    pub(super) durable: Option<Mark>,
    /// Who may still be asleep under this node: they fell asleep when it led, and have said nothing
    /// since.
    pub(super) asleep_below: BTreeSet<NodeId>,
    /// Since when nobody is known to lead those, and how often they were told.
    pub(super) unled: Option<(Instant, u32)>,
    pub(super) load: Load,
    /// The epoch in which this node, which stops, gave it away.
    pub(super) given_in: Option<base::Epoch>,
}

/// All of them.
#[derive(Default)]
pub(super) struct OpenGroups {
    meta: Option<Box<Opened>>,
    others: BTreeMap<GroupId, Opened>,
}

impl OpenGroups {
    /// The first group, which is on every node.
    pub(super) fn meta(&self) -> &Opened {
        let meta = self.meta.as_deref();
        meta.expect("the first group is on every node")
    }

    /// The same, to be changed.
    pub(super) fn meta_mut(&mut self) -> &mut Opened {
        let meta = self.meta.as_deref_mut();
        meta.expect("the first group is on every node")
    }

    /// A group, if it is open.
    pub(super) fn get(&self, id: &GroupId) -> Option<&Opened> {
        match *id {
            META => self.meta.as_deref(),
            _ => self.others.get(id),
        }
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, id: &GroupId) -> Option<&mut Opened> {
        match *id {
            META => self.meta.as_deref_mut(),
            _ => self.others.get_mut(id),
        }
    }

    /// Whether a group is open.
    pub(super) fn contains_key(&self, id: &GroupId) -> bool {
        self.get(id).is_some()
    }

    /// Takes in a group that has been opened.
    pub(super) fn insert(&mut self, id: GroupId, opened: Opened) {
        match id {
            META => self.meta = Some(Box::new(opened)),
            _ => _ = self.others.insert(id, opened),
        }
    }

    /// Takes out a group that is closed.
    pub(super) fn remove(&mut self, id: &GroupId) -> Option<Opened> {
        match *id {
            META => self.meta.take().map(|opened| *opened),
            _ => self.others.remove(id),
        }
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        usize::from(self.meta.is_some()) + self.others.len()
    }

    /// All, in the order of their ids, of which that of the first group is the least.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&GroupId, &Opened)> {
        let meta = self.meta.as_deref().map(|opened| (&META, opened));
        meta.into_iter().chain(&self.others)
    }

    /// Those from this one on, in the order of their ids.
    pub(super) fn from(&self, first: GroupId) -> impl Iterator<Item = (&GroupId, &Opened)> {
        let meta = self.meta.as_deref().filter(|_| first == META);
        let meta = meta.map(|opened| (&META, opened));
        meta.into_iter().chain(self.others.range(first..))
    }

    /// Their ids, ascending.
    pub(super) fn keys(&self) -> impl Iterator<Item = &GroupId> {
        self.iter().map(|(id, _)| id)
    }

    /// All, in the order of their ids.
    pub(super) fn values(&self) -> impl Iterator<Item = &Opened> {
        self.iter().map(|(_, opened)| opened)
    }

    /// All, in the order of their ids, to be changed.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Opened> {
        self.meta
            .as_deref_mut()
            .into_iter()
            .chain(self.others.values_mut())
    }
}
