//! The data folder: who may use it, whom it belongs to, and what is in it.
//!
//! ```text
//!   quorate-data/            mode 0700
//!     lock                   held by the process that uses the folder; holds its process id
//!     identity.toml          whom the folder belongs to; replaced as a whole or not at all
//!     journal/               NNNNNNNNNNNNNNNN.segment, .spare       (16 hexadecimal digits)
//!     checkpoints/           NNNNNNNNNNNNNNNN.checkpoint, .partial, .incoming
//! ```
//!
//! Whatever is wrong here, nothing is changed: the message says which file, what is wrong with it
//! and what to do, and the process ends. A folder is cheap to leave alone and dear to lose.

mod identity;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::Slot;
use journal::disk;
use node::Identity;
use rustix::fs::{FlockOperation, flock};

const IDENTITY: &str = "identity.toml";
const IDENTITY_DRAFT: &str = "identity.toml.new";
const LOCK: &str = "lock";
const JOURNAL: &str = "journal";
const CHECKPOINTS: &str = "checkpoints";

/// Something is wrong with the data folder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}; {remedy}", path.display())]
pub struct FolderError {
    /// Which file or folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl FolderError {
    fn new(path: &Path, what: impl Into<String>, remedy: impl Into<String>) -> FolderError {
        FolderError {
            path: path.to_owned(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    fn access(path: &Path, doing: &str, error: &io::Error) -> FolderError {
        let what = format!("cannot be {doing}: {error}");
        FolderError::new(
            path,
            what,
            "make it accessible to this user, or choose another data-dir",
        )
    }
}

/// A data folder that this process, and no other, uses.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    // Held for its lock, which ends with the last who holds it.
    lock: Arc<File>,
}

impl Folder {
    /// Creates the folder if need be and takes possession of it.
    ///
    /// # Errors
    /// It cannot be created or read, or another process uses it.
    pub fn open(path: &Path) -> Result<Folder, FolderError> {
        for folder in [path.to_owned(), path.join(JOURNAL), path.join(CHECKPOINTS)] {
            create_folder(&folder)
                .map_err(|error| FolderError::access(&folder, "created", &error))?;
        }
        let lock = lock(path)?;
        Ok(Folder {
            path: path.to_owned(),
            lock: Arc::new(lock),
        })
    }

    /// The folder stays locked while this is kept: for threads that may outlive their server.
    pub(crate) fn hold(&self) -> Arc<File> {
        Arc::clone(&self.lock)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whom the folder belongs to; `None` if there is no identity file.
    ///
    /// # Errors
    /// The identity file is damaged, of a newer format, or unreadable.
    pub fn identity(&self) -> Result<Option<Identity>, FolderError> {
        let path = self.path.join(IDENTITY);
        match fs::read(&path) {
            Ok(bytes) => identity::decode(&bytes)
                .map(Some)
                .map_err(|damage| FolderError::new(&path, damage.what(), damage.remedy())),
            // Whether a folder without one may hold anything else, the node decides.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FolderError::access(&path, "read", &error)),
        }
    }

    /// What the journal and the checkpoints consist of, with lengths. Files of other names are
    /// left alone.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn files(&self) -> Result<Vec<(disk::File, u64)>, FolderError> {
        let mut files = Vec::new();
        for part in [JOURNAL, CHECKPOINTS] {
            let folder = self.path.join(part);
            let failure = |error: io::Error| FolderError::access(&folder, "read", &error);
            for entry in fs::read_dir(&folder).map_err(failure)? {
                let entry = entry.map_err(failure)?;
                let name = entry.file_name();
                let Some(file) = name.to_str().and_then(|name| parse_name(part, name)) else {
                    continue;
                };
                files.push((file, entry.metadata().map_err(failure)?.len()));
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// How to write the identity from another thread.
    #[must_use]
    pub fn identity_writer(&self) -> IdentityWriter {
        IdentityWriter {
            folder: self.path.clone(),
        }
    }
}

/// Writes the identity file.
#[derive(Clone, Debug)]
pub struct IdentityWriter {
    folder: PathBuf,
}

impl IdentityWriter {
    /// Replaces the identity file; when this returns, it is on stable storage. A crash at any
    /// point leaves the old file or the new one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, identity: &Identity) -> Result<(), FolderError> {
        let draft = self.folder.join(IDENTITY_DRAFT);
        let path = self.folder.join(IDENTITY);
        let replace = || -> io::Result<()> {
            let mut file = File::create(&draft)?;
            file.write_all(identity::encode(identity).as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            sync_folder(&self.folder)
        };
        replace().map_err(|error| FolderError::access(&path, "written", &error))
    }
}

/// Where a file of the journal or the checkpoints stands, below the data folder.
#[must_use]
pub fn path_of(file: disk::File) -> PathBuf {
    let (part, number, kind) = match file {
        disk::File::Segment(number) => (JOURNAL, number, "segment"),
        disk::File::SpareSegment(number) => (JOURNAL, number, "spare"),
        disk::File::Checkpoint(Slot(number)) => (CHECKPOINTS, number, "checkpoint"),
        disk::File::PartialCheckpoint(Slot(number)) => (CHECKPOINTS, number, "partial"),
        disk::File::IncomingCheckpoint(Slot(number)) => (CHECKPOINTS, number, "incoming"),
    };
    Path::new(part).join(format!("{number:016x}.{kind}"))
}

/// The opposite of [`path_of`].
fn parse_name(part: &str, name: &str) -> Option<disk::File> {
    let (digits, kind) = name.split_once('.')?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    let file = match (part, kind) {
        (JOURNAL, "segment") => disk::File::Segment(number),
        (JOURNAL, "spare") => disk::File::SpareSegment(number),
        (CHECKPOINTS, "checkpoint") => disk::File::Checkpoint(Slot(number)),
        (CHECKPOINTS, "partial") => disk::File::PartialCheckpoint(Slot(number)),
        (CHECKPOINTS, "incoming") => disk::File::IncomingCheckpoint(Slot(number)),
        _ => return None,
    };
    // Only the one spelling: `+1.segment` is a number too, and nobody wrote it.
    (path_of(file) == Path::new(part).join(name)).then_some(file)
}

/// Creates a folder for this user alone, with those it stands in, and makes sure that each one's
/// own entry is durable: one that is lost takes everything below along.
fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_folder(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_folder(parent),
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            sync_folder(parent)
        }
        Err(error) => Err(error),
    }
}

/// Makes created, renamed and deleted names of a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn lock(folder: &Path) -> Result<File, FolderError> {
    let path = folder.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| FolderError::access(&path, "opened", &error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let holder = match file.read_to_string(&mut holder) {
                Ok(_) if !holder.trim().is_empty() => format!("process {}", holder.trim()),
                _ => "another process".to_owned(),
            };
            let remedy = "stop it, or give this server another data-dir";
            return Err(FolderError::new(
                folder,
                format!("is in use by {holder}"),
                remedy,
            ));
        }
        Err(error) => return Err(FolderError::access(&path, "locked", &error.into())),
    }
    // The process id is a help for people; the lock does not depend on it.
    let note = |file: &mut File| -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    note(&mut file).map_err(|error| FolderError::access(&path, "written", &error))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
