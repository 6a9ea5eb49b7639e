//! The data folder: who may use it, whom it belongs to, and what is in it.
//!
//! ```text
//!   quorate-data/            mode 0700
//!     lock                   held by the process that uses the folder; holds its process id
//!     identity.toml          whom the folder belongs to; replaced as a whole or not at all
//!     identity.copy.toml     the same, so that one of the two may be damaged
//!     journal/               NNNNNNNNNNNNNNNN.segment, .spare       (16 hexadecimal digits)
//!     checkpoints/           GGGGGGGGGGGGGGGG-NNNNNNNNNNNNNNNN.checkpoint, .partial, .incoming
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

use base::{GroupId, Slot};
use journal::disk;
use node::{Identity, Standing};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::watch;

const IDENTITY: &str = "identity.toml";
const IDENTITY_DRAFT: &str = "identity.toml.new";
const IDENTITY_COPY: &str = "identity.copy.toml";
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
        let remedy = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "nothing is lost: free some space on the disk and start again with this data-dir"
            }
            _ => "make it accessible to this user, or choose another data-dir",
        };
        FolderError::new(path, what, remedy)
    }
}

/// A data folder that this process, and no other, uses.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    // Ends with the last who holds it.
    lock: Arc<Lock>,
    written: watch::Sender<Option<Identity>>,
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
            written: watch::Sender::new(None),
        })
    }

    /// The folder stays locked while this is kept: for threads that may outlive their server.
    pub(crate) fn hold(&self) -> Arc<Lock> {
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
        read_identity(&self.path)
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
            written: self.written.clone(),
        }
    }

    /// The identity that was last written since this process has the folder.
    pub(crate) fn identities(&self) -> watch::Receiver<Option<Identity>> {
        self.written.subscribe()
    }
}

/// Whether the folder at `path` belongs to a member in whose log it stands where its peers reach
/// it. Nothing is locked. Where nobody can tell, as of a folder that is damaged, it is not so: the
/// start says what is wrong.
#[must_use]
pub fn place_is_logged(path: &Path) -> bool {
    let Ok(Some(identity)) = read_identity(path) else {
        return false;
    };
    let Standing::Member { genesis, .. } = &identity.standing else {
        return false;
    };
    // A node that has formed a cluster alone and without peers is reached nowhere. One that has
    // joined is not in the first membership, and was added with its address.
    let own = genesis.members.get(&identity.node);
    own.is_none_or(|own| !own.peer_address.is_empty())
}

/// The identity in the folder at `path`, from the better one of its two copies.
fn read_identity(path: &Path) -> Result<Option<Identity>, FolderError> {
    let copies = [IDENTITY, IDENTITY_COPY].map(|name| read_copy(&path.join(name)));
    let newest = |identity: &&Identity| (identity.incarnation, identity.epochs);
    let known = copies.iter().flatten().flatten();
    if let Some(identity) = known.max_by_key(newest) {
        return Ok(Some(identity.clone()));
    }
    // Whichever is damaged, it is told; else there is none.
    copies.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(None)
}

/// One of the two copies. One that is of a newer format counts as damaged, and only if the other
/// one cannot be read either.
fn read_copy(path: &Path) -> Result<Option<Identity>, FolderError> {
    match fs::read(path) {
        Ok(bytes) => identity::decode(&bytes)
            .map(Some)
            .map_err(|damage| FolderError::new(path, damage.what(), damage.remedy())),
        // Whether a folder without one may hold anything else, the node decides.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FolderError::access(path, "read", &error)),
    }
}

/// Writes the identity file.
#[derive(Clone, Debug)]
pub struct IdentityWriter {
    folder: PathBuf,
    written: watch::Sender<Option<Identity>>,
}

impl IdentityWriter {
    /// Replaces the identity file; when this returns, it is on stable storage. A crash at any
    /// point leaves the old file or the new one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, identity: &Identity) -> Result<(), FolderError> {
        let draft = self.folder.join(IDENTITY_DRAFT);
        let text = identity::encode(identity);
        for name in [IDENTITY, IDENTITY_COPY] {
            let path = self.folder.join(name);
            let replace = || -> io::Result<()> {
                let mut file = File::create(&draft)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                fs::rename(&draft, &path)?;
                sync_folder(&self.folder)
            };
            replace().map_err(|error| FolderError::access(&path, "written", &error))?;
        }
        self.written.send_replace(Some(identity.clone()));
        Ok(())
    }
}

/// Where a file of the journal or the checkpoints stands, below the data folder.
#[must_use]
pub fn path_of(file: disk::File) -> PathBuf {
    let segment = |number: u64, kind| (JOURNAL, format!("{number:016x}.{kind}"));
    let checkpoint = |GroupId(group): GroupId, Slot(slot): Slot, kind| {
        (CHECKPOINTS, format!("{group:016x}-{slot:016x}.{kind}"))
    };
    let (part, name) = match file {
        disk::File::Segment(number) => segment(number, "segment"),
        disk::File::SpareSegment(number) => segment(number, "spare"),
        disk::File::Checkpoint(group, slot) => checkpoint(group, slot, "checkpoint"),
        disk::File::PartialCheckpoint(group, slot) => checkpoint(group, slot, "partial"),
        disk::File::IncomingCheckpoint(group, slot) => checkpoint(group, slot, "incoming"),
    };
    Path::new(part).join(name)
}

/// The opposite of [`path_of`].
fn parse_name(part: &str, name: &str) -> Option<disk::File> {
    let (digits, kind) = name.split_once('.')?;
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let place = |digits: &str| {
        let (group, slot) = digits.split_once('-')?;
        Some((GroupId(number(group)?), Slot(number(slot)?)))
    };
    let file = match (part, kind) {
        (JOURNAL, "segment") => disk::File::Segment(number(digits)?),
        (JOURNAL, "spare") => disk::File::SpareSegment(number(digits)?),
        (CHECKPOINTS, kind) => {
            let (group, slot) = place(digits)?;
            match kind {
                "checkpoint" => disk::File::Checkpoint(group, slot),
                "partial" => disk::File::PartialCheckpoint(group, slot),
                "incoming" => disk::File::IncomingCheckpoint(group, slot),
                _ => return None,
            }
        }
        _ => return None,
    };
    // Only the one spelling: `+1.segment` is a number too, and nobody wrote it.
    (path_of(file) == Path::new(part).join(name)).then_some(file)
}

/// Every file of a data folder, by its path below it. What vanishes meanwhile is left out.
pub(crate) fn all_files(folder: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        for entry in fs::read_dir(folder.join(&below)).into_iter().flatten() {
            let Some((name, metadata)) = entry
                .ok()
                .and_then(|entry| Some((below.join(entry.file_name()), entry.metadata().ok()?)))
            else {
                continue;
            };
            if metadata.is_dir() {
                folders.push(name);
            } else {
                found.push((name, metadata));
            }
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found
}

/// What a file of a data folder is for: `segment`, `spare`, `checkpoint`, `partial`, `incoming`,
/// `own` (identity and lock), or `unknown`: nobody reads it.
pub(crate) fn kind_of(name: &Path) -> &'static str {
    let below = name.parent().and_then(Path::to_str);
    let file = name.file_name().and_then(|name| name.to_str());
    let (Some(below), Some(file)) = (below, file) else {
        return "unknown";
    };
    if below.is_empty() && matches!(file, IDENTITY | IDENTITY_DRAFT | IDENTITY_COPY | LOCK) {
        return "own";
    }
    match parse_name(below, file) {
        Some(disk::File::Segment(_)) => "segment",
        Some(disk::File::SpareSegment(_)) => "spare",
        Some(disk::File::Checkpoint(..)) => "checkpoint",
        Some(disk::File::PartialCheckpoint(..)) => "partial",
        Some(disk::File::IncomingCheckpoint(..)) => "incoming",
        None => "unknown",
    }
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

/// Two locks: a file that says who holds it can be deleted by somebody who means well, and the
/// folder itself cannot.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
    _folder: Option<File>,
}

fn lock(folder: &Path) -> Result<Lock, FolderError> {
    let path = folder.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| FolderError::access(&path, "opened", &error))?;
    // Some network file systems lock no folders; there the file has to do.
    let held = File::open(folder).map_err(|error| FolderError::access(folder, "opened", &error))?;
    let of_folder = flock(&held, FlockOperation::NonBlockingLockExclusive);
    let is_free = match of_folder {
        Err(rustix::io::Errno::WOULDBLOCK) => of_folder,
        _ => flock(&file, FlockOperation::NonBlockingLockExclusive),
    };
    match is_free {
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
    // So neither does the start: there may be no room, and a start may make some.
    let _ = note(&mut file);
    Ok(Lock {
        _file: file,
        _folder: of_folder.ok().map(|()| held),
    })
}

#[cfg(test)]
mod tests;
