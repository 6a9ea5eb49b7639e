//! What a node has published, checked as it comes.

use quorate_node::Answer;
use quorate_node::hub::Publication;
use state::{Event, Revision};

/// What the hubs of a node would know.
#[derive(Default)]
pub(super) struct Published {
    /// `None` before they were told anything.
    revision: Option<Revision>,
    /// Events since the test last looked.
    pub(super) events: Vec<Event>,
}

impl Published {
    /// The node starts (again).
    pub(super) fn begin(&mut self) {
        self.revision = None;
    }

    /// Publications follow each other without a gap, or say that they do not.
    pub(super) fn take_in(&mut self, publication: &Publication) {
        let batches = publication.batches.iter();
        match self.revision {
            Some(mut revision) if !publication.reset => {
                for batch in batches.clone() {
                    revision = Revision(revision.0 + 1);
                    assert_eq!(batch.revision, revision, "no revision is left out");
                }
                assert_eq!(publication.revision, revision);
            }
            known => {
                assert!(publication.reset, "the first one says that it begins");
                assert!(known.is_none_or(|known| known <= publication.revision));
                assert!(publication.batches.is_empty());
            }
        }
        self.revision = Some(publication.revision);
        self.events
            .extend(batches.flat_map(|batch| batch.events.clone()));
    }

    /// Whoever is answered finds what it was told about published.
    pub(super) fn check_answer(&self, answer: &mut Answer) {
        if let Answer::Etcd(Ok(response)) = answer {
            let revision = Revision(response.header_mut().revision);
            assert!(
                self.revision.is_some_and(|known| revision <= known),
                "an answer at revision {revision} comes before its events"
            );
        }
    }
}
