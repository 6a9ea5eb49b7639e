//! A snapshot as a file: what `etcdctl snapshot save` and `quorate snapshot save` write.
//!
//! ```text
//!   checkpoint (docs/internals/state.md) │ zeroes │ length of the checkpoint, u64 │ SHA-256, 32
//!   └──────────────── a multiple of 512 bytes ────────────────────────────────────┘
//! ```
//!
//! etcd's client takes a stream only if its length leaves 32 when divided by 512, as that of a file
//! made of pages with a checksum behind it does. The checksum covers all before it; the checkpoint
//! has checksums of its own, per block and as a whole.

pub mod restore;

use std::io::{self, Read};

use bytes::Bytes;
use etcd::proto::etcdserverpb::SnapshotResponse;
use node::SnapshotSource;
use sha2::{Digest as _, Sha256};
use state::{
    CheckpointError, CheckpointHead, CheckpointReader, CheckpointSummary, CheckpointWriter, State,
};

/// What the length without the checksum is a multiple of.
const PAGE: u64 = 512;
/// The length of the checkpoint stands before the checksum.
const LENGTH_BYTES: u64 = 8;
const CHECKSUM_BYTES: u64 = 32;
/// The longest piece of a stream.
const PIECE: usize = 64 << 10;

/// The messages of the stream.
pub(crate) struct Pieces {
    writer: CheckpointWriter,
    /// What has been made and not been given out.
    rest: Bytes,
    hasher: Sha256,
    checkpoint_bytes: u64,
    remaining: u64,
    part: Part,
}

/// What comes next when the rest is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Checkpoint,
    Padding,
    Checksum,
    Done,
}

impl Pieces {
    /// Measures first: each message says how much is still to come.
    pub(crate) fn new(source: SnapshotSource) -> Pieces {
        let SnapshotSource {
            snapshot,
            head,
            limits,
        } = source;
        let mut measured = CheckpointWriter::new(snapshot.clone(), head.clone(), limits);
        let mut checkpoint_bytes = 0;
        while let Some(block) = measured.next_block() {
            checkpoint_bytes += block.len() as u64;
        }
        Pieces {
            writer: CheckpointWriter::new(snapshot, head, limits),
            rest: Bytes::new(),
            hasher: Sha256::new(),
            checkpoint_bytes,
            remaining: padded(checkpoint_bytes) + CHECKSUM_BYTES,
            part: Part::Checkpoint,
        }
    }

    fn make(&mut self) -> Option<Bytes> {
        loop {
            match self.part {
                Part::Checkpoint => match self.writer.next_block() {
                    Some(block) => return Some(block),
                    None => self.part = Part::Padding,
                },
                Part::Padding => {
                    self.part = Part::Checksum;
                    let zeroes = padded(self.checkpoint_bytes) - self.checkpoint_bytes;
                    let mut padding = vec![0; (zeroes - LENGTH_BYTES) as usize];
                    padding.extend_from_slice(&self.checkpoint_bytes.to_le_bytes());
                    return Some(padding.into());
                }
                Part::Checksum => {
                    self.part = Part::Done;
                    let hasher = std::mem::take(&mut self.hasher);
                    return Some(Bytes::copy_from_slice(&hasher.finalize()));
                }
                Part::Done => return None,
            }
        }
    }
}

impl Iterator for Pieces {
    type Item = SnapshotResponse;

    fn next(&mut self) -> Option<SnapshotResponse> {
        if self.rest.is_empty() {
            self.rest = self.make()?;
        }
        let blob = self.rest.split_to(self.rest.len().min(PIECE));
        if self.part != Part::Done {
            self.hasher.update(&blob);
        }
        self.remaining -= blob.len() as u64;
        Some(SnapshotResponse {
            header: None,
            remaining_bytes: self.remaining,
            blob,
            version: node::ETCD_STORAGE_VERSION.to_owned(),
        })
    }
}

/// How long everything before the checksum is.
fn padded(checkpoint_bytes: u64) -> u64 {
    (checkpoint_bytes + LENGTH_BYTES).next_multiple_of(PAGE)
}

/// Why a file is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It does not have the length of any snapshot.
    #[error("is not a snapshot of Quorate, or not a whole one: {0}")]
    Shape(&'static str),
    /// Bytes have changed since it was written.
    #[error("is damaged: its SHA-256 does not match")]
    Checksum,
    /// The checkpoint in it is wrong.
    #[error("holds a checkpoint that cannot be used: {0}")]
    Checkpoint(#[from] CheckpointError),
}

/// A snapshot that has been read and verified.
#[derive(Debug)]
pub struct Loaded {
    /// The state.
    pub state: State,
    /// What the checkpoint says beside it.
    pub head: CheckpointHead,
    /// What identifies the checkpoint.
    pub summary: CheckpointSummary,
    /// The SHA-256 of the file.
    pub sha256: [u8; 32],
}

/// Reads and verifies a whole file of `length` bytes. `progress` is told how many were read.
///
/// # Errors
/// What is wrong with it.
pub fn load(
    file: &mut impl Read,
    length: u64,
    mut progress: impl FnMut(u64),
) -> Result<Loaded, SnapshotError> {
    if length % PAGE != CHECKSUM_BYTES || length < PAGE {
        return Err(SnapshotError::Shape("its length is not that of one"));
    }
    let payload = length - CHECKSUM_BYTES;
    let mut reader = CheckpointReader::new(state::Limits::default());
    let mut hasher = Sha256::new();
    // The last page is held back: where the checkpoint ends in it stands at its end, and a longer
    // padding there is none.
    let mut held: Vec<u8> = Vec::new();
    let mut read = 0;
    let mut buffer = vec![0; 1 << 20];
    while read < payload {
        let most = buffer.len().min((payload - read) as usize);
        let count = file.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(SnapshotError::Shape("it is shorter than it was"));
        }
        read += count as u64;
        hasher.update(&buffer[..count]);
        held.extend_from_slice(&buffer[..count]);
        let ahead = held.len().saturating_sub((PAGE + LENGTH_BYTES) as usize);
        reader.feed(&held[..ahead])?;
        held.drain(..ahead);
        progress(read);
    }
    let mut sha256 = [0; CHECKSUM_BYTES as usize];
    file.read_exact(&mut sha256)?;
    if hasher.finalize()[..] != sha256 {
        return Err(SnapshotError::Checksum);
    }
    let shape = SnapshotError::Shape("it does not end as one does");
    let fed = payload - held.len() as u64;
    let (_, end) = held
        .split_last_chunk::<8>()
        .ok_or(SnapshotError::Shape("it is too short"))?;
    let checkpoint_bytes = u64::from_le_bytes(*end);
    let is_its = checkpoint_bytes >= fed
        && checkpoint_bytes <= payload
        && padded(checkpoint_bytes) == payload;
    if !is_its {
        return Err(shape);
    }
    reader.feed(&held[..(checkpoint_bytes - fed) as usize])?;
    let (state, head, summary) = reader.finish()?;
    Ok(Loaded {
        state,
        head,
        summary,
        sha256,
    })
}
