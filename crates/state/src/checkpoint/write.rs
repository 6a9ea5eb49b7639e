//! Writing a checkpoint, block by block.

use bytes::{BufMut, Bytes, BytesMut};

use super::format::{
    BLOCK_HEAD_LENGTH, BLOCK_TAIL_LENGTH, FORMAT, KIND_FOOTER, KIND_HEAD, KIND_ROWS, KIND_VERSIONS,
    MAGIC, ROW_LENGTH, VERSION_LENGTH, chain,
};
use super::{CheckpointHead, CheckpointSummary};
use crate::keyspace::{Row, Version};
use crate::limits::Limits;
use crate::reader::Snapshot;
use crate::space::Space;

/// Where writing goes on.
#[derive(Debug)]
enum Position {
    Head,
    /// In a space, after the version (key and revision) or the row (key) that was written last.
    Space {
        space: Space,
        after: Option<(Bytes, i64)>,
    },
    Footer,
    Done,
}

/// Yields the blocks of a checkpoint, at the pace of whoever asks for them.
#[derive(Debug)]
pub struct CheckpointWriter {
    snapshot: Snapshot,
    head: CheckpointHead,
    block_bytes: usize,
    position: Position,
    length: u64,
    checksum: u64,
    versions: u64,
    rows: u64,
}

impl CheckpointWriter {
    /// Begins a checkpoint of what the snapshot holds.
    ///
    /// # Panics
    /// If the snapshot was taken within an entry.
    #[must_use]
    pub fn new(snapshot: Snapshot, head: CheckpointHead, limits: Limits) -> CheckpointWriter {
        assert!(!snapshot.executing, "a checkpoint is taken between entries");
        CheckpointWriter {
            snapshot,
            head,
            block_bytes: limits.checkpoint_block_bytes,
            position: Position::Head,
            length: 0,
            checksum: 0,
            versions: 0,
            rows: 0,
        }
    }

    /// The next block; the footer is the last.
    pub fn next_block(&mut self) -> Option<Bytes> {
        loop {
            match std::mem::replace(&mut self.position, Position::Done) {
                Position::Head => {
                    let space = Space::all().next().expect("there is a space");
                    self.position = Position::Space { space, after: None };
                    return Some(self.head_block());
                }
                Position::Space { space, after } => {
                    if let Some(block) = self.records_block(space, after) {
                        return Some(block);
                    }
                    self.position = match Space::from_number(space.number() + 1) {
                        Some(space) => Position::Space { space, after: None },
                        None => Position::Footer,
                    };
                }
                Position::Footer => return Some(self.footer_block()),
                Position::Done => return None,
            }
        }
    }

    /// What identifies the checkpoint, once its footer has been written.
    #[must_use]
    pub fn summary(&self) -> Option<CheckpointSummary> {
        matches!(self.position, Position::Done).then(|| CheckpointSummary {
            slot: self.snapshot.applied(),
            epoch: self.snapshot.epoch(),
            length: self.length,
            checksum: self.checksum,
        })
    }

    fn head_block(&mut self) -> Bytes {
        let mut content = begin_block(128 + self.head.membership.len());
        content.put_slice(&MAGIC);
        content.put_u32_le(FORMAT);
        content.put_u32_le(self.snapshot.level());
        content.put_u64_le(self.head.cluster.0);
        content.put_u64_le(self.head.group.0);
        content.put_slice(&self.snapshot.scalars.encode());
        content.put_u32_le(self.head.membership.len() as u32);
        content.put_slice(&self.head.membership);
        self.finish_block(KIND_HEAD, content)
    }

    fn footer_block(&mut self) -> Bytes {
        let mut content = begin_block(64);
        content.put_u64_le(self.versions);
        content.put_u64_le(self.rows);
        content.put_u64_le(self.snapshot.held_bytes());
        content.put_u64_le(self.snapshot.live_bytes());
        content.put_u128_le(self.snapshot.digest().0);
        content.put_u64_le(self.checksum);
        self.finish_block(KIND_FOOTER, content)
    }

    /// The next block of a space, and moves the position; `None` if the space is written.
    fn records_block(&mut self, space: Space, after: Option<(Bytes, i64)>) -> Option<Bytes> {
        let mut content = begin_block(self.block_bytes + self.block_bytes / 8);
        content.put_u8(space.number());
        content.put_u32_le(0);
        let (kind, count, last) = if space.keeps_history() {
            let (count, last) = self.put_versions(space, after, &mut content);
            self.versions += u64::from(count);
            (KIND_VERSIONS, count, last)
        } else {
            let (count, last) = self.put_rows(space, after, &mut content);
            self.rows += u64::from(count);
            (KIND_ROWS, count, last)
        };
        // An empty block is not written.
        last.as_ref()?;
        let count_at = BLOCK_HEAD_LENGTH + 1;
        content[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
        self.position = Position::Space { space, after: last };
        Some(self.finish_block(kind, content))
    }

    /// Appends versions until the block is full; says how many, and which was the last.
    fn put_versions(
        &self,
        space: Space,
        after: Option<(Bytes, i64)>,
        content: &mut BytesMut,
    ) -> (u32, Option<(Bytes, i64)>) {
        let history = self.snapshot.rows.history(space);
        let near = after.as_ref().map_or(&[][..], |(last, _)| last);
        // Pairs that come before or at `after` are written already.
        let is_written = |key: &Bytes, revision: i64| {
            after
                .as_ref()
                .is_some_and(|(last, at)| (key, revision) <= (last, *at))
        };
        let mut older = history
            .older
            .iterate_from(near, |name| is_written(&name.key, name.revision))
            .peekable();
        // A key whose newest version is not written yet is not before `after`, even if older
        // versions of it were.
        let latest = history
            .latest
            .iterate_from(near, |key| {
                after.as_ref().is_some_and(|(last, _)| key < last)
            })
            .filter(|(key, version)| !is_written(key, version.mod_revision));
        let (mut count, mut last) = (0, None);
        for (key, newest) in latest {
            while let Some((name, version)) = older.next_if(|(name, _)| name.key == *key) {
                put_version(content, key, version);
                count += 1;
                if self.is_full(content) {
                    return (count, Some((key.clone(), name.revision)));
                }
            }
            put_version(content, key, newest);
            count += 1;
            last = Some((key.clone(), newest.mod_revision));
            if self.is_full(content) {
                break;
            }
        }
        (count, last)
    }

    /// Appends rows until the block is full; says how many, and which was the last.
    fn put_rows(
        &self,
        space: Space,
        after: Option<(Bytes, i64)>,
        content: &mut BytesMut,
    ) -> (u32, Option<(Bytes, i64)>) {
        let near = after.as_ref().map_or(&[][..], |(last, _)| last);
        let is_written = |key: &Bytes| after.as_ref().is_some_and(|(last, _)| key <= last);
        let (mut count, mut last) = (0, None);
        for (key, Row(value)) in self
            .snapshot
            .rows
            .plain(space)
            .iterate_from(near, is_written)
        {
            content.reserve(ROW_LENGTH + key.len() + value.len());
            content.put_u32_le(key.len() as u32);
            content.put_u32_le(value.len() as u32);
            content.put_slice(key);
            content.put_slice(value);
            count += 1;
            last = Some((key.clone(), 0));
            if self.is_full(content) {
                break;
            }
        }
        (count, last)
    }

    fn is_full(&self, content: &BytesMut) -> bool {
        content.len() - BLOCK_HEAD_LENGTH >= self.block_bytes
    }

    /// Fills in the block's head, appends its checksum, and counts it.
    fn finish_block(&mut self, kind: u32, mut block: BytesMut) -> Bytes {
        let length = u32::try_from(block.len() - BLOCK_HEAD_LENGTH)
            .expect("a block is not much longer than its longest record");
        block[..4].copy_from_slice(&kind.to_le_bytes());
        block[4..8].copy_from_slice(&length.to_le_bytes());
        let checksum = base::checksum::crc32c(&block);
        block.put_u32_le(checksum);
        self.length += block.len() as u64;
        self.checksum = chain(self.checksum, &block);
        block.freeze()
    }
}

/// A buffer with room for the block's head, which is filled in at the end.
fn begin_block(capacity: usize) -> BytesMut {
    let mut block = BytesMut::with_capacity(BLOCK_HEAD_LENGTH + capacity + BLOCK_TAIL_LENGTH);
    block.put_bytes(0, BLOCK_HEAD_LENGTH);
    block
}

fn put_version(content: &mut BytesMut, key: &Bytes, version: &Version) {
    content.reserve(VERSION_LENGTH + key.len() + version.value.len());
    content.put_u32_le(key.len() as u32);
    content.put_u32_le(version.value.len() as u32);
    content.put_i64_le(version.mod_revision);
    content.put_i64_le(version.create_revision);
    content.put_i64_le(version.version);
    content.put_i64_le(version.lease);
    content.put_u32_le(version.order);
    content.put_slice(key);
    content.put_slice(&version.value);
}
