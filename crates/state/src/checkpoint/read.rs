//! Reading a checkpoint: bytes from a disk or a peer, of which nothing is believed.

use base::{ClusterId, GroupId};
use bytes::{Buf, Bytes};

use super::format::{
    BLOCK_HEAD_LENGTH, BLOCK_TAIL_LENGTH, FOOTER_LENGTH, FORMAT, KIND_FOOTER, KIND_HEAD, KIND_ROWS,
    KIND_VERSIONS, MAGIC, chain, content_length_max,
};
use super::{CheckpointDamage, CheckpointError, CheckpointHead, CheckpointSummary};
use crate::keyspace::{Change, ChangedKey, History, Row, Rows, Version, VersionKey};
use crate::lease::{Lease, LeaseIndexBuilder};
use crate::limits::{Limits, ROW_BYTES_MAX};
use crate::origin::Window;
use crate::reader::Scalars;
use crate::space::Space;
use crate::state::State;
use crate::tree::TreeBuilder;

#[cfg(test)]
mod tests;

/// What a step of reading ends with: what is wrong, if anything. The offset is added once.
type Step<T> = Result<T, Fault>;

/// What is wrong with a block.
enum Fault {
    Damaged(&'static str),
    Newer { format: u32, level: u32 },
}

/// Rebuilds a state from the bytes of a checkpoint, fed in pieces of any length.
#[derive(Debug)]
pub struct CheckpointReader {
    limits: Limits,
    /// Bytes that do not make a whole block yet.
    buffer: Vec<u8>,
    /// Where the buffer begins in the checkpoint.
    offset: u64,
    checksum: u64,
    head: Option<(CheckpointHead, Scalars)>,
    content: Content,
    /// What the footer promised; nothing may follow it.
    footer: Option<Footer>,
    failure: Option<CheckpointError>,
}

/// The rows that have been read.
#[derive(Debug, Default)]
struct Content {
    rows: Rows,
    version_count: u64,
    row_count: u64,
    space: Option<Space>,
    latest: TreeBuilder<Bytes, Version>,
    older: TreeBuilder<VersionKey, Version>,
    plain: TreeBuilder<Bytes, Row>,
    index: Vec<(Change, ChangedKey)>,
    leases: LeaseIndexBuilder,
    /// The last version read; whether it is its key's newest shows with the next.
    last_version: Option<(Bytes, Version)>,
    last_key: Option<Bytes>,
}

#[derive(Clone, Copy, Debug)]
struct Footer {
    versions: u64,
    rows: u64,
    held_bytes: u64,
    live_bytes: u64,
    digest: u128,
}

impl CheckpointReader {
    /// A reader that has seen nothing.
    #[must_use]
    pub fn new(limits: Limits) -> CheckpointReader {
        CheckpointReader {
            limits,
            buffer: Vec::new(),
            offset: 0,
            checksum: 0,
            head: None,
            content: Content::default(),
            footer: None,
            failure: None,
        }
    }

    /// Takes the next bytes, in pieces of any length.
    ///
    /// # Errors
    /// As soon as a block is complete and wrong; the same error again from then on.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.buffer.extend_from_slice(bytes);
        let mut used = 0;
        let result = loop {
            match self.read_block(used) {
                Ok(0) => break Ok(()),
                Ok(length) => used += length,
                Err(fault) => break Err(fault.at(self.offset + used as u64)),
            }
        };
        self.buffer.drain(..used);
        self.offset += used as u64;
        self.failure = result.err();
        result
    }

    /// The state, once everything has been fed.
    ///
    /// # Errors
    /// If the checkpoint is incomplete, or its rows are not those that its footer and its head
    /// promise.
    pub fn finish(self) -> Result<(State, CheckpointHead, CheckpointSummary), CheckpointError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let offset = self.offset;
        let length = offset + self.buffer.len() as u64;
        let checksum = self.checksum;
        let (state, head) = self.assemble().map_err(|fault| fault.at(offset))?;
        let scalars = &state.reader.scalars;
        let summary = CheckpointSummary {
            slot: scalars.applied,
            epoch: scalars.epoch,
            length,
            checksum,
        };
        Ok((state, head, summary))
    }

    /// Puts the state together, and holds it against the footer.
    fn assemble(self) -> Step<(State, CheckpointHead)> {
        let content = (self.content.version_count, self.content.row_count);
        let (state, head, footer) = self.build()?;
        require(
            content.0 == footer.versions,
            "a version is missing or too many",
        )?;
        require(content.1 == footer.rows, "a row is missing or too many")?;
        let Rows {
            held_bytes,
            live_bytes,
            ..
        } = state.reader.rows;
        require(
            held_bytes == footer.held_bytes,
            "the held bytes are not those promised",
        )?;
        require(
            live_bytes == footer.live_bytes,
            "the live bytes are not those promised",
        )?;
        require(
            state.digest().0 == footer.digest,
            "the rows do not have the digest promised",
        )?;
        Ok((state, head))
    }

    /// Puts the state together from rows that are well formed, whatever their sums are.
    fn build(mut self) -> Step<(State, CheckpointHead, Footer)> {
        let (Some((head, scalars)), Some(footer)) = (self.head.take(), self.footer) else {
            return Err(Fault::Damaged("it ends before its footer"));
        };
        require(self.buffer.is_empty(), "something follows the footer")?;
        self.content.finish_space();
        self.content.build_index()?;
        self.content.build_lease_index()?;
        Ok((State::from_parts(self.content.rows, scalars), head, footer))
    }

    /// Reads the block at `start` of the buffer and returns its length; 0 if it is incomplete.
    fn read_block(&mut self, start: usize) -> Step<usize> {
        let unread = &self.buffer[start..];
        let mut block_head = unread;
        let Ok(kind) = block_head.try_get_u32_le() else {
            return Ok(0);
        };
        let Ok(length) = block_head.try_get_u32_le() else {
            return Ok(0);
        };
        require(self.footer.is_none(), "something follows the footer")?;
        let length = length as usize;
        let length_max = content_length_max(self.limits.checkpoint_block_bytes)
            .max(self.limits.checkpoint_membership_bytes_max);
        require(
            length <= length_max,
            "a block is longer than any block can be",
        )?;
        let content_end = BLOCK_HEAD_LENGTH + length;
        let Some(mut tail) = unread.get(content_end..content_end + BLOCK_TAIL_LENGTH) else {
            return Ok(0);
        };
        let checksum = base::checksum::crc32c(&unread[..content_end]);
        require(
            tail.get_u32_le() == checksum,
            "a block does not have its checksum",
        )?;
        let before = self.checksum;
        let end = content_end + BLOCK_TAIL_LENGTH;
        self.checksum = chain(before, &unread[..end]);
        let content = &self.buffer[start + BLOCK_HEAD_LENGTH..start + content_end];
        match (kind, &self.head) {
            (KIND_HEAD, None) => self.head = Some(read_head(content, &self.limits)?),
            (KIND_VERSIONS, Some((_, scalars))) => self.content.read_versions(content, scalars)?,
            (KIND_ROWS, Some((_, scalars))) => self.content.read_rows(content, scalars)?,
            (KIND_FOOTER, Some(_)) => self.footer = Some(read_footer(content, before)?),
            (KIND_HEAD, Some(_)) => return Err(Fault::Damaged("there is a second head")),
            (_, None) => return Err(Fault::Damaged("it does not begin with a head")),
            _ => return Err(Fault::Damaged("a block is of an unknown kind")),
        }
        Ok(end)
    }
}

impl Content {
    /// Makes `space` the current one; spaces come in order.
    fn enter_space(&mut self, number: u8, keeps_history: bool) -> Step<Space> {
        let space = Space::from_number(number).ok_or(Fault::Damaged("a space is unknown"))?;
        require(
            space.keeps_history() == keeps_history,
            "a space has rows of the wrong kind",
        )?;
        if self.space != Some(space) {
            require(self.space < Some(space), "the spaces are not in order")?;
            self.finish_space();
            self.space = Some(space);
        }
        Ok(space)
    }

    /// Puts the trees of the current space together.
    fn finish_space(&mut self) {
        let Some(space) = self.space.take() else {
            return;
        };
        self.last_key = None;
        if space.keeps_history() {
            self.push_latest(space);
            let latest = std::mem::take(&mut self.latest).finish();
            let older = std::mem::take(&mut self.older).finish();
            self.rows.install_history(space, History { latest, older });
        } else {
            self.rows
                .install_plain(space, std::mem::take(&mut self.plain).finish());
        }
    }

    fn push_latest(&mut self, space: Space) {
        if let Some((key, version)) = self.last_version.take() {
            self.rows.count_latest(&key, &version);
            self.leases.newest_version(space, &key, version.lease);
            self.latest.push(key, version);
        }
    }

    fn read_versions(&mut self, mut content: &[u8], scalars: &Scalars) -> Step<()> {
        let space = self.enter_space(get_u8(&mut content)?, true)?;
        let count = get_u32(&mut content)?;
        require(count > 0, "a block holds no records")?;
        for _ in 0..count {
            let (key, version) = read_version(&mut content, scalars)?;
            self.take_version(space, key, version, scalars)?;
        }
        self.version_count += u64::from(count);
        require(content.is_empty(), "a block is longer than its records")
    }

    fn take_version(
        &mut self,
        space: Space,
        key: &[u8],
        version: Version,
        scalars: &Scalars,
    ) -> Step<()> {
        let change = Change {
            revision: version.mod_revision,
            order: version.order,
        };
        let is_indexed = change >= scalars.indexed_from();
        let mut replaced = 0;
        let key = match self.last_version.take() {
            Some((last, older)) if last == key => {
                let in_order = older.mod_revision < version.mod_revision;
                require(in_order, "the versions of a key are not in order")?;
                require(is_indexed, "a version is there that compaction has freed")?;
                let revision = older.mod_revision;
                replaced = revision;
                self.older.push(
                    VersionKey {
                        key: last.clone(),
                        revision,
                    },
                    older,
                );
                last
            }
            last => {
                let in_order = last.as_ref().is_none_or(|(last, _)| last.as_ref() < key);
                require(in_order, "the keys are not in order")?;
                self.last_version = last;
                self.push_latest(space);
                Bytes::copy_from_slice(key)
            }
        };
        self.rows.count_version(space, &key, &version);
        if is_indexed {
            let changed = ChangedKey::new(space, &key, &version, replaced);
            self.index.push((change, changed));
        }
        self.last_version = Some((key, version));
        Ok(())
    }

    fn read_rows(&mut self, mut content: &[u8], scalars: &Scalars) -> Step<()> {
        let space = self.enter_space(get_u8(&mut content)?, false)?;
        let count = get_u32(&mut content)?;
        require(count > 0, "a block holds no records")?;
        for _ in 0..count {
            let key_length = get_u32(&mut content)?;
            let value_length = get_u32(&mut content)?;
            let (key, value) = get_pair(&mut content, key_length, value_length)?;
            let in_order = self
                .last_key
                .as_ref()
                .is_none_or(|last| last.as_ref() < key);
            require(in_order, "the keys are not in order")?;
            if space == Space::ORIGINS {
                let window = Window::decode(value).filter(|_| key.len() == size_of::<u64>());
                let fits = window.is_some_and(|window| window.fits(&scalars.settings));
                require(fits, "an origin's row is not one")?;
            }
            if space == Space::LEASES {
                let lease = Lease::decode(key, value);
                let lease = lease.ok_or(Fault::Damaged("a lease's row is not one"))?;
                self.leases.lease(&lease);
            }
            self.rows.count_row(space, key, value);
            let key = Bytes::copy_from_slice(key);
            self.last_key = Some(key.clone());
            self.plain.push(key, Row(Bytes::copy_from_slice(value)));
        }
        self.row_count += u64::from(count);
        require(content.is_empty(), "a block is longer than its records")
    }

    /// Sorts what belongs into the index of revisions, and builds it.
    fn build_index(&mut self) -> Step<()> {
        let mut index = std::mem::take(&mut self.index);
        index.sort_unstable_by_key(|(change, _)| *change);
        let is_unique = index.windows(2).all(|pair| pair[0].0 < pair[1].0);
        require(is_unique, "two changes stand at one place of a revision")?;
        let mut builder = TreeBuilder::default();
        for (change, changed) in index {
            builder.push(change, changed);
        }
        self.rows.index = builder.finish();
        Ok(())
    }

    fn build_lease_index(&mut self) -> Step<()> {
        let index = std::mem::take(&mut self.leases).finish();
        self.rows.lease_index = index.ok_or(Fault::Damaged(
            "a key is attached to a lease that does not exist",
        ))?;
        Ok(())
    }
}

impl Fault {
    fn at(self, offset: u64) -> CheckpointError {
        match self {
            Fault::Damaged(what) => CheckpointDamage { offset, what }.into(),
            Fault::Newer { format, level } => CheckpointError::Newer { format, level },
        }
    }
}

fn read_head(mut content: &[u8], limits: &Limits) -> Step<(CheckpointHead, Scalars)> {
    let magic = content.split_off(..MAGIC.len()).ok_or(SHORT)?;
    require(magic == MAGIC, "it does not begin as a checkpoint does")?;
    let format = get_u32(&mut content)?;
    let level = get_u32(&mut content)?;
    if format > FORMAT || level > limits.level_max {
        return Err(Fault::Newer { format, level });
    }
    require(format == FORMAT, "its format's version does not exist")?;
    let cluster = ClusterId(get_u64(&mut content)?);
    let group = GroupId(get_u64(&mut content)?);
    let scalars = Scalars::decode(&mut content).ok_or(Fault::Damaged("its scalars are wrong"))?;
    require(scalars.level == level, "it names two levels")?;
    let length = get_u32(&mut content)? as usize;
    require(
        length <= limits.checkpoint_membership_bytes_max,
        "its membership is too long",
    )?;
    require(
        content.len() == length,
        "its membership does not have its length",
    )?;
    let membership = Bytes::copy_from_slice(content);
    Ok((
        CheckpointHead {
            cluster,
            group,
            membership,
        },
        scalars,
    ))
}

fn read_version<'a>(content: &mut &'a [u8], scalars: &Scalars) -> Step<(&'a [u8], Version)> {
    let key_length = get_u32(content)?;
    let value_length = get_u32(content)?;
    let mod_revision = get_u64(content)? as i64;
    let create_revision = get_u64(content)? as i64;
    let number = get_u64(content)? as i64;
    let lease = get_u64(content)? as i64;
    let order = get_u32(content)?;
    let (key, value) = get_pair(content, key_length, value_length)?;
    let version = Version {
        value: Bytes::copy_from_slice(value),
        mod_revision,
        create_revision,
        version: number,
        lease,
        order,
    };
    let exists = (1..=scalars.revision).contains(&mod_revision) && order < u32::MAX;
    require(exists, "a version is of a revision that does not exist")?;
    let is_deletion = version == Version::deletion(mod_revision, order);
    // A revision counts at most one version of a key.
    let is_live = (1..=mod_revision).contains(&create_revision)
        && (1..=mod_revision - create_revision + 1).contains(&number);
    require(is_deletion || is_live, "a version contradicts itself")?;
    Ok((key, version))
}

fn read_footer(mut content: &[u8], checksum: u64) -> Step<Footer> {
    require(
        content.len() == FOOTER_LENGTH,
        "the footer does not have its length",
    )?;
    let footer = Footer {
        versions: get_u64(&mut content)?,
        rows: get_u64(&mut content)?,
        held_bytes: get_u64(&mut content)?,
        live_bytes: get_u64(&mut content)?,
        digest: content.try_get_u128_le().map_err(|_| SHORT)?,
    };
    let promised = get_u64(&mut content)?;
    require(
        promised == checksum,
        "a block is missing, repeated or exchanged",
    )?;
    Ok(footer)
}

const SHORT: Fault = Fault::Damaged("a block is shorter than its records");

fn require(condition: bool, otherwise: &'static str) -> Step<()> {
    if condition {
        Ok(())
    } else {
        Err(Fault::Damaged(otherwise))
    }
}

fn get_u8(content: &mut &[u8]) -> Step<u8> {
    content.try_get_u8().map_err(|_| SHORT)
}

fn get_u32(content: &mut &[u8]) -> Step<u32> {
    content.try_get_u32_le().map_err(|_| SHORT)
}

fn get_u64(content: &mut &[u8]) -> Step<u64> {
    content.try_get_u64_le().map_err(|_| SHORT)
}

/// Takes a key and a value of these lengths off the content.
fn get_pair<'a>(
    content: &mut &'a [u8],
    key_length: u32,
    value_length: u32,
) -> Step<(&'a [u8], &'a [u8])> {
    let (key_length, value_length) = (key_length as usize, value_length as usize);
    let fits = key_length.saturating_add(value_length) <= ROW_BYTES_MAX;
    require(fits, "a row is longer than any row can be")?;
    let key = content.split_off(..key_length).ok_or(SHORT)?;
    let value = content.split_off(..value_length).ok_or(SHORT)?;
    Ok((key, value))
}
