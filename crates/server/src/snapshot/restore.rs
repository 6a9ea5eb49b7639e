//! From a snapshot to the data folders of a new cluster.
//!
//! ```text
//!   snapshot ─▶ state, begun anew ─▶ one checkpoint ─┬─▶ DIR/n1: checkpoint, identity
//!                                                    ├─▶ DIR/n2: the same state, another identity
//!                                                    └─▶ ...
//! ```
//!
//! All folders are made in one go, with ids that nobody has had before: a folder that was made
//! twice would have a vote twice. The identity is written last, so that a folder without one was
//! not finished.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use base::{ClusterId, DiskId, Incarnation, NodeId, Random};
use bytes::{Bytes, BytesMut};
pub use consensus::EngineKind;
use consensus::Membership;
use consensus::membership::Member;
use journal::disk;
use node::group::META;
use node::{Identity, Standing};
use state::{CheckpointHead, CheckpointWriter, Fate, Limits, Revision, State};

use super::Loaded;
use crate::folder::{Folder, FolderError, path_of, sync_folder};
use crate::seed;

/// How far the revision is raised unless said otherwise: further than any cluster comes between two
/// snapshots.
pub const RAISE_BY: u64 = 1_000_000_000;

/// A member of the new cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Its name.
    pub name: String,
    /// Where its peers reach it; empty for a node alone.
    pub peer_address: String,
    /// Its data folder: absent or empty.
    pub folder: PathBuf,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster.
    pub cluster: ClusterId,
    /// Its members, in the order in which they were given.
    pub members: Vec<NodeId>,
    /// The revision that it begins with.
    pub revision: i64,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A folder holds something.
    #[error("{}: is not empty; give a folder that does not exist yet", .0.display())]
    NotEmpty(PathBuf),
    /// The revision would be too high.
    #[error("the revision cannot be raised by so much")]
    Revision,
    /// A folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A checkpoint cannot be written.
    #[error("{}: cannot be written: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
}

/// Makes the folders of a new cluster. `progress` is told how many bytes have been written.
///
/// # Errors
/// Nothing can be used then: what was begun may be deleted.
pub fn restore(
    loaded: Loaded,
    members: &[NewMember],
    engine: EngineKind,
    raise_by: u64,
    mut progress: impl FnMut(u64),
) -> Result<Restored, RestoreError> {
    for member in members {
        let entries = std::fs::read_dir(&member.folder).ok();
        if entries.is_some_and(|mut entries| entries.next().is_some()) {
            return Err(RestoreError::NotEmpty(member.folder.clone()));
        }
    }
    let mut state = loaded.state;
    let room = Revision::MAX.0 - state.reader().revision().0;
    if i64::try_from(raise_by).map_or(true, |raise_by| raise_by > room) {
        return Err(RestoreError::Revision);
    }
    // Tokens of the old cluster are worth nothing in the new one.
    let token_key =
        Bytes::copy_from_slice(&seed::bytes_from_system::<{ etcd::auth::TOKEN_KEY_BYTES }>());
    state.begin_anew(raise_by, |space, key| {
        if etcd::maintenance::is_of_cluster(space, key) {
            Fate::Dropped
        } else if etcd::auth::is_token_key(space, key) {
            Fate::Replaced(token_key.clone())
        } else {
            Fate::Kept
        }
    });
    let mut random = Random::from_seed(seed::from_system());
    let mut id = || random.next_u64().max(1);
    let cluster = ClusterId(id());
    let ids: Vec<NodeId> = members.iter().map(|_| NodeId(id())).collect();
    let genesis = Membership {
        members: ids
            .iter()
            .copied()
            .zip(members.iter().map(described))
            .collect(),
        voters: ids.iter().copied().collect(),
        ..Membership::default()
    };
    let mut written = 0;
    for (member, node) in members.iter().zip(&ids) {
        let folder = Folder::open(&member.folder)?;
        write_checkpoint(&state, cluster, &genesis, folder.path(), |bytes| {
            written += bytes;
            progress(written);
        })?;
        let identity = Identity {
            node: *node,
            disk: DiskId(id()),
            name: member.name.clone(),
            incarnation: Incarnation(0),
            journal_created: false,
            epochs: base::Epoch(node::Limits::default().epochs_ahead),
            is_doubtful: false,
            has_others: false,
            is_witness: false,
            standing: Standing::Member {
                cluster,
                genesis: genesis.clone(),
                engine,
            },
        };
        folder.identity_writer().write(&identity)?;
    }
    Ok(Restored {
        cluster,
        members: ids,
        revision: state.reader().revision().0,
    })
}

fn described(member: &NewMember) -> Member {
    Member {
        name: member.name.clone(),
        peer_address: member.peer_address.clone(),
    }
}

fn write_checkpoint(
    state: &State,
    cluster: ClusterId,
    genesis: &Membership,
    folder: &Path,
    mut progress: impl FnMut(u64),
) -> Result<(), RestoreError> {
    let mut membership = BytesMut::new();
    genesis.encode(&mut membership);
    let head = CheckpointHead {
        cluster,
        group: META,
        membership: membership.freeze(),
    };
    let file = disk::File::Checkpoint(META, state.reader().applied());
    let path = folder.join(path_of(file));
    let failed = |error| RestoreError::Io {
        path: path.clone(),
        error,
    };
    let mut file = File::create(&path).map_err(failed)?;
    let mut writer = CheckpointWriter::new(state.snapshot(), head, Limits::default());
    while let Some(block) = writer.next_block() {
        file.write_all(&block).map_err(failed)?;
        progress(block.len() as u64);
    }
    file.sync_all().map_err(failed)?;
    let parent = path.parent().unwrap_or(folder);
    sync_folder(parent).map_err(failed)
}
