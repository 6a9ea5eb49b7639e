//! What a node says about itself; `server` makes logs and metrics of it, the simulator a timeline.

/// Something worth a log line, a metric, or a mark on a timeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Note;
