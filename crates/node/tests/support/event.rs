//! What happens in the simulated world, in the order of time.

use base::Instant;
use journal::disk::Request;
use quorate_node::{DialId, Identity, Input};

pub(super) enum Happening {
    Input(Input),
    Wake,
    TryDial(DialId),
    Persisted(Identity),
    Disk(Request),
}

pub(super) struct Event {
    pub(super) at: Instant,
    pub(super) sequence: u64,
    pub(super) host: usize,
    pub(super) life: u64,
    pub(super) what: Happening,
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Event) -> std::cmp::Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}
