//! A node refuses to run only for a reason that the run gave it, and says which, and what to do.
//!
//! Damage must be refused, not interpreted (design, promise 3); but a node that refuses without
//! cause is an outage, and a refusal that names another place or cause than there was sends its
//! operator the wrong way. So each message is held against what was done to that very host: the
//! files that it names are those that were damaged, and a full disk is not called a failed one.

use std::collections::BTreeSet;

use journal::disk::File;

use super::{Violation, violated};

/// What was done to a host that may make its node refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    /// Its disk was damaged, lied, or lost something.
    pub damaged: bool,
    /// It was, and its node has made up for that since.
    pub mended: bool,
    /// There is no other host, or none with a copy of some keyspace.
    pub alone: bool,
    /// A sync failed, or its disk was full or unreadable, since it was started.
    pub failed: bool,
    /// It was removed from its cluster, or is being replaced.
    pub removed: bool,
    /// Its folder was emptied.
    pub wiped: bool,
    /// Its build does not know the newest level.
    pub outdated: bool,
}

impl Reasons {
    /// What is on its disk can be relied on.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        (!self.damaged || self.mended) && !self.wiped
    }
}

/// What was done to the files of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Injuries {
    /// Files with bits flipped, sectors unreadable or overwritten, by their paths.
    files: BTreeSet<String>,
    /// It may have lost what it reported as written, in any file.
    pub has_lied: bool,
    /// It was full.
    pub was_full: bool,
}

impl Injuries {
    /// Something in these files was damaged. A file that was damaged under another name counts: a
    /// segment that is used again keeps its sectors.
    pub fn hurt(&mut self, files: impl Iterator<Item = File>) {
        self.files.extend(files.map(path));
    }

    /// Whether each of these files was damaged, and there is one.
    fn explain<'t>(&self, mut named: impl Iterator<Item = &'t str>) -> bool {
        let mut is_any = false;
        let all = named.all(|path| {
            is_any = true;
            self.files.contains(path)
        });
        self.has_lied || all && is_any
    }
}

/// The path of a file below the data folder, as messages name it.
fn path(file: File) -> String {
    match file {
        File::Segment(sequence) => format!("journal/{sequence:016x}.segment"),
        File::Checkpoint(group, slot) => {
            format!("checkpoints/{:016x}-{:016x}.checkpoint", group.0, slot.0)
        }
        other => format!("{other:?}"),
    }
}

/// The paths that a message names.
fn paths(reason: &str) -> impl Iterator<Item = &str> {
    let words = reason.split(|letter: char| letter.is_whitespace() || letter == ',');
    words
        .map(|word| {
            word.trim_start_matches('(')
                .trim_end_matches([':', '.', ')'])
        })
        .filter(|word| word.starts_with("journal/") || word.starts_with("checkpoints/"))
}

/// Whether a refusal says that the node's build does not know its group's level.
#[must_use]
pub fn is_about_the_level(reason: &str) -> bool {
    reason.contains("this version of Quorate knows levels up to")
}

/// What a refusal blames, and whether that was so. `None`: words that nobody knows here.
fn was_so(reason: &str, reasons: Reasons, injuries: &Injuries) -> Option<(&'static str, bool)> {
    let says = |words: &str| reason.contains(words);
    Some(if is_about_the_level(reason) {
        ("an old build", reasons.outdated)
    } else if says("differs from that of the majority") {
        // Whatever is read from a disk has a checksum: no damage makes a state wrong.
        ("a wrong state", false)
    } else if says("has been removed") {
        ("a removal", reasons.removed)
    } else if says("could not be written and synced") || says("cannot write") {
        ("a failed write", reasons.failed)
    } else if says("no space left") {
        ("a full disk", injuries.was_full)
    } else if says("starts again to learn it from the others") {
        (
            "damage to what was not executed",
            injuries.explain(paths(reason)),
        )
    } else if says("is damaged") || says("is missing") || says("cannot read") {
        if !reasons.alone {
            return Some(("damage that others can repair", false));
        }
        let names_files = paths(reason).next().is_some();
        let hurt = injuries.has_lied || !injuries.files.is_empty();
        (
            "damage",
            match names_files {
                true => injuries.explain(paths(reason)),
                false => hurt,
            },
        )
    } else if says("what is missing is lost here") {
        let explained = reasons.alone && injuries.explain(paths(reason));
        ("a damaged checkpoint", explained)
    } else if says("something is lost here") {
        let hurt = injuries.has_lied || !injuries.files.is_empty();
        ("a log with a gap", hurt)
    } else if says("is empty") || says("data folder") {
        ("a lost folder", reasons.wiped || reasons.removed)
    } else {
        return None;
    })
}

/// A node has refused to go on.
///
/// # Errors
/// If nothing in the run explains it, or it names something else.
pub fn refused(
    name: &str,
    reason: &str,
    reasons: Reasons,
    injuries: &Injuries,
) -> Result<(), Violation> {
    let explained = reasons.damaged
        || reasons.failed
        || reasons.removed
        || reasons.wiped
        || reasons.outdated && is_about_the_level(reason);
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
    match was_so(reason, reasons, injuries) {
        Some((_, true)) => Ok(()),
        Some((blamed, false)) => violated(
            "a refusal names what was done",
            format!("{name} blames {blamed}; {reasons:?}, {injuries:?}: {reason}"),
        ),
        None => violated(
            "a refusal names what was done",
            format!("nobody knows what {name} means; {reasons:?}, {injuries:?}: {reason}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_must_name_the_files_that_were_damaged() {
        let reasons = Reasons {
            damaged: true,
            alone: true,
            ..Reasons::default()
        };
        let mut injuries = Injuries::default();
        injuries.hurt(std::iter::once(File::Segment(31)));
        let judged = |reason: &str| refused("n1", reason, reasons, &injuries).is_ok();
        assert!(judged(
            "journal/000000000000001f.segment is damaged at byte 512: a batch is missing."
        ));
        assert!(!judged(
            "journal/0000000000000020.segment is damaged at byte 512: a batch is missing."
        ));
        assert!(!judged(
            "cannot create journal/7.spare: no space left on it"
        ));
        assert!(!judged(
            "the data folder of n1 is empty, and was not before"
        ));
        assert!(!judged("something that nobody has ever said is not right"));
        let reasons = Reasons {
            alone: false,
            ..reasons
        };
        let reason = "journal/000000000000001f.segment is damaged at byte 512: a batch is missing.";
        let judged = refused("n1", reason, reasons, &injuries);
        assert!(judged.is_err(), "the others can repair it");
    }

    #[test]
    fn a_wrong_state_has_no_excuse() {
        let reasons = Reasons {
            damaged: true,
            mended: false,
            alone: true,
            failed: true,
            removed: true,
            wiped: true,
            outdated: true,
        };
        let injuries = Injuries {
            has_lied: true,
            ..Injuries::default()
        };
        let reason = "the state of this node differs from that of the majority at slot 7";
        assert!(refused("n1", reason, reasons, &injuries).is_err());
    }
}
