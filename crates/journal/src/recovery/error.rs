//! Why a journal cannot be used as it is, in words for whoever has to do something about it.

use std::fmt;

use crate::Identity;
use crate::disk::{DiskError, File};
use crate::format::head::FORMAT_VERSION;

/// Why recovery refuses. Whatever it is, the files are left as they were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryError {
    /// A segment belongs to another cluster, node or disk.
    ForeignIdentity {
        /// The segment.
        file: File,
        /// Whose it says it is.
        found: Identity,
        /// Whose journal this is.
        expected: Identity,
    },
    /// A segment was written by a newer version of the program.
    NewerFormat {
        /// The segment.
        file: File,
        /// The version of its format.
        found: u32,
    },
    /// Something that was durable is not there, or not as it was written.
    Damaged {
        /// The segment.
        file: File,
        /// The byte at which the damage starts.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A segment does not have the length that it was made with.
    WrongLength {
        /// The segment.
        file: File,
        /// How long it is.
        found: u64,
        /// How long it was made.
        expected: u64,
    },
    /// A segment of the log is not there.
    MissingSegment {
        /// The segment.
        file: File,
    },
    /// A request failed.
    Disk {
        /// What was to be done, such as "read".
        action: &'static str,
        /// With which file.
        file: File,
        /// How it failed.
        error: DiskError,
    },
}

/// The path of a journal file below the data folder, for messages: 16 hexadecimal digits, as the
/// server names them.
pub(crate) fn path(file: File) -> String {
    match file {
        File::Segment(sequence) => format!("journal/{sequence:016x}.segment"),
        File::SpareSegment(number) => format!("journal/{number:016x}.spare"),
        other => format!("{other:?}"),
    }
}

/// What to do when a file of the log is not as it was.
const JOIN_ANEW: &str = "remove this node from the cluster and let it join anew with an empty \
                         data folder.";

impl RecoveryError {
    /// Whether something that was durable is not there, or not as it was, on this disk alone.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            RecoveryError::Damaged { .. }
            | RecoveryError::WrongLength { .. }
            | RecoveryError::MissingSegment { .. } => true,
            RecoveryError::Disk { action, error, .. } => {
                let says_nothing = matches!(error, DiskError::Full | DiskError::Inaccessible(_));
                *action == "read" && !says_nothing
            }
            RecoveryError::ForeignIdentity { .. } | RecoveryError::NewerFormat { .. } => false,
        }
    }

    /// What was found, without what to do about it.
    #[must_use]
    pub fn finding(&self) -> String {
        let text = self.to_string();
        let end = text.len() - self.cure().len();
        text[..end].trim_end_matches([' ', '.']).to_owned()
    }

    /// What to do about it.
    fn cure(&self) -> String {
        match self {
            RecoveryError::ForeignIdentity { .. } => "A file or folder has been copied or \
                exchanged: put back the journal folder that belongs here, or start this node \
                with an empty data folder and let it join as a new member."
                .to_owned(),
            RecoveryError::NewerFormat { .. } => {
                "Start the newer version of the program that wrote it.".to_owned()
            }
            RecoveryError::Damaged { .. } => format!(
                "What stood there may have been acknowledged, so it is not cut off, and nothing \
                 was changed. Check the disk; then restore the journal folder from a copy taken \
                 while this node was stopped, or {JOIN_ANEW}"
            ),
            RecoveryError::WrongLength { .. } => format!(
                "Something other than this program has changed it, or copied it incompletely; \
                 nothing was changed. Put back the whole file, or {JOIN_ANEW}"
            ),
            RecoveryError::MissingSegment { .. } => {
                format!("Nothing was changed. Put the file back, or {JOIN_ANEW}")
            }
            RecoveryError::Disk {
                error: DiskError::Full,
                ..
            } => "Free some space (the journal needs room for two segments), then start again."
                .to_owned(),
            RecoveryError::Disk {
                error: DiskError::Inaccessible(_),
                ..
            } => "Nothing was changed. Check who owns the files of the data folder, their \
                permissions and the limits of this process, then start again."
                .to_owned(),
            RecoveryError::Disk { .. } => {
                "Check the disk and the permissions of the data folder, then start again."
                    .to_owned()
            }
        }
    }
}

impl fmt::Display for RecoveryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryError::ForeignIdentity {
                file,
                found,
                expected,
            } => write!(
                formatter,
                "{} belongs to {}, but this data folder is that of {}.",
                path(*file),
                describe(found),
                describe(expected)
            ),
            RecoveryError::NewerFormat { file, found } => write!(
                formatter,
                "{} has format version {found}, but this program reads versions up to \
                 {FORMAT_VERSION}.",
                path(*file)
            ),
            RecoveryError::Damaged { file, offset, what } => {
                write!(
                    formatter,
                    "{} is damaged at byte {offset}: {what}.",
                    path(*file)
                )
            }
            RecoveryError::WrongLength {
                file,
                found,
                expected,
            } => write!(
                formatter,
                "{} is {found} bytes long, but was made with {expected}.",
                path(*file)
            ),
            RecoveryError::MissingSegment { file } => {
                write!(
                    formatter,
                    "{} is missing, but the log needs it.",
                    path(*file)
                )
            }
            RecoveryError::Disk {
                action,
                file,
                error,
            } => {
                write!(formatter, "cannot {action} {}: {error}.", path(*file))
            }
        }?;
        write!(formatter, " {}", self.cure())
    }
}

/// An identity in words.
fn describe(identity: &Identity) -> String {
    let Identity {
        cluster,
        node,
        disk,
    } = identity;
    format!("cluster {cluster}, node {node}, disk {disk}")
}

impl std::error::Error for RecoveryError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever started the node once as another user has damaged nothing.
    #[test]
    fn a_file_that_cannot_be_opened_is_not_damaged() {
        let read = |error| RecoveryError::Disk {
            action: "read",
            file: File::Segment(1),
            error,
        };
        let text = || "Permission denied (os error 13)".to_owned();
        assert!(!read(DiskError::Inaccessible(text())).is_damage());
        assert!(read(DiskError::Other("Input/output error".to_owned())).is_damage());
        let said = read(DiskError::Inaccessible(text())).to_string();
        assert!(
            said.contains("Nothing was changed. Check who owns"),
            "{said}"
        );
    }

    #[test]
    fn files_are_named_as_on_disk() {
        assert_eq!(path(File::Segment(31)), "journal/000000000000001f.segment");
        assert_eq!(
            path(File::SpareSegment(31)),
            "journal/000000000000001f.spare"
        );
    }
}
