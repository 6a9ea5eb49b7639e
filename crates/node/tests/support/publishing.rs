//! What a node has published, checked as it comes.

use std::collections::BTreeMap;

use base::GroupId;
use quorate_node::Answer;
use quorate_node::group::META;
use quorate_node::hub::Publication;
use state::{Event, Revision};

/// What the hubs of a node would know.
#[derive(Default)]
pub(super) struct Published {
    groups: BTreeMap<GroupId, OfGroup>,
    /// Events of the first group since the test last looked.
    pub(super) events: Vec<Event>,
    /// How many events there were of each group, since the host is there.
    pub(super) counted: BTreeMap<GroupId, usize>,
}

/// What the hubs of one group would know: the revision, `None` before they were told anything.
type OfGroup = Option<Revision>;

impl Published {
    /// The node starts (again).
    pub(super) fn begin(&mut self) {
        self.groups.clear();
    }

    /// A group is no longer there; if it comes back it begins anew.
    pub(super) fn end(&mut self, group: GroupId) {
        self.groups.remove(&group);
    }

    /// Publications follow each other without a gap, or say that they do not.
    pub(super) fn take_in(&mut self, group: GroupId, publication: &Publication) {
        let batches = publication.batches.iter();
        let known = self.groups.entry(group).or_default();
        match *known {
            Some(mut revision) if !publication.reset => {
                for batch in batches.clone() {
                    revision = Revision(revision.0 + 1);
                    assert_eq!(batch.revision, revision, "no revision is left out");
                }
                assert_eq!(publication.revision, revision);
            }
            before => {
                assert!(publication.reset, "the first one says that it begins");
                assert!(before.is_none_or(|before| before <= publication.revision));
                assert!(publication.batches.is_empty());
            }
        }
        *known = Some(publication.revision);
        let events = batches.clone().map(|batch| batch.events.len());
        *self.counted.entry(group).or_default() += events.sum::<usize>();
        if group == META {
            let events = batches.flat_map(|batch| batch.events.clone());
            self.events.extend(events);
        }
    }

    /// Whoever is answered finds what it was told about published.
    pub(super) fn check_answer(&self, answer: &mut Answer) {
        if let Answer::Etcd(Ok(response)) = answer {
            let revision = Revision(response.header_mut().revision);
            assert!(
                self.groups
                    .values()
                    .any(|known| known.is_some_and(|known| revision <= known)),
                "an answer at revision {revision} comes before its events"
            );
        }
    }
}
