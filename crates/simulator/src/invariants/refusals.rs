//! A node refuses to run only for a reason that the run gave it, and says what to do.
//!
//! Damage must be refused, not interpreted (design, promise 3); but a node that refuses without
//! cause is an outage, and a refusal that does not name the place or the cure helps nobody.

use super::{Violation, violated};

/// What was done to a host that may make its node refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    /// Its disk was damaged, lied, or lost something.
    pub damaged: bool,
    /// A sync failed, or its disk was full or unreadable, since it was started.
    pub failed: bool,
    /// It was removed from its cluster, or is being replaced.
    pub removed: bool,
    /// Its folder was emptied.
    pub wiped: bool,
}

impl Reasons {
    /// What is on its disk can be relied on.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        !self.damaged && !self.wiped
    }
}

/// A node has refused to go on.
///
/// # Errors
/// If nothing in the run explains it.
pub fn refused(name: &str, reason: &str, reasons: Reasons) -> Result<(), Violation> {
    let explained = reasons.damaged || reasons.failed || reasons.removed || reasons.wiped;
    if !explained {
        return violated(
            "a node refuses only for a reason",
            format!("{name} refuses to run although nothing was done to it: {reason}"),
        );
    }
    if reason.len() < 20 {
        return violated(
            "a refusal explains itself",
            format!("{name} says only: {reason}"),
        );
    }
    Ok(())
}
