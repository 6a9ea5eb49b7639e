//! A disk in memory, by the sector, that loses what was not synced, and can be told to be worse.
//!
//! ```text
//!  write ──▶ dirty sector (old bytes kept) ──sync──▶ stable
//!               │  ▲                └─lying or failed sync, death of the process─▶ orphan
//!  power cut:   └──┴── each dirty or orphaned sector keeps its new bytes, or gets the old ones
//! ```
//!
//! An *orphan* is a sector whose bytes programs see, but which no later sync makes stable: what an
//! earlier process left behind, or what a failed or lying sync covered. That is the worst that
//! kernels have done, so it is what is assumed. Writing the sector again makes it an ordinary dirty
//! one. Everything is decided by sector because disks do, in any order within one request.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use base::{Instant, Random};
use bytes::Bytes;
use journal::disk::{DiskError, File, Lane, Operation, Request};
use node::Identity;

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// How a node dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crash {
    /// The machine loses its power: what is not stable may be lost.
    Power,
    /// The process dies: what it wrote is still seen, but may never become stable.
    Process,
}

/// Why a sector is not stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// Nobody has synced it yet.
    Dirty,
    /// No later sync will make it stable, and nobody was told otherwise.
    Orphan,
    /// It was reported stable and is not.
    Lied,
}

/// A sector that is not stable.
#[derive(Clone, Debug)]
struct Unstable {
    sector: usize,
    /// What stood there before it was written, as far as the file went; `None`: zeros, or nothing
    /// at all. Shared by the sectors of one write.
    before: Option<Bytes>,
    doubt: Doubt,
}

/// The bytes of a file, for those who read them while nobody writes.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A file.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Shared with copies of the disk that somebody looks at, until one of them writes.
    bytes: Arc<Vec<u8>>,
    /// The length that would survive.
    stable_length: usize,
    /// In the order of sectors.
    unstable: Vec<Unstable>,
    unreadable: BTreeSet<usize>,
    /// Something was damaged here, under whatever name the file had then.
    is_injured: bool,
}

impl Contents {
    fn zeroed(length: usize) -> Contents {
        Contents {
            bytes: Arc::new(vec![0; length]),
            stable_length: length,
            ..Contents::default()
        }
    }

    fn sector(&self, sector: usize) -> [u8; SECTOR_BYTES] {
        let mut copy = [0; SECTOR_BYTES];
        let start = (sector * SECTOR_BYTES).min(self.bytes.len());
        let end = (start + SECTOR_BYTES).min(self.bytes.len());
        copy[..end - start].copy_from_slice(&self.bytes[start..end]);
        copy
    }

    fn write(&mut self, at: usize, piece: &[u8]) {
        if piece.is_empty() {
            return;
        }
        let sectors = at / SECTOR_BYTES..(at + piece.len()).div_ceil(SECTOR_BYTES);
        if !self.unreadable.is_empty() {
            self.unreadable.retain(|sector| !sectors.contains(sector));
        }
        self.dirty(sectors);
        let bytes = Arc::make_mut(&mut self.bytes);
        let overwritten = bytes.len().saturating_sub(at).min(piece.len());
        if bytes.len() < at {
            bytes.resize(at, 0);
        }
        bytes[at..at + overwritten].copy_from_slice(&piece[..overwritten]);
        bytes.extend_from_slice(&piece[overwritten..]);
    }

    /// Sectors are about to be written.
    fn dirty(&mut self, sectors: Range<usize>) {
        let start = (sectors.start * SECTOR_BYTES).min(self.bytes.len());
        let end = (sectors.end * SECTOR_BYTES).min(self.bytes.len());
        let written = &self.bytes[start..end];
        let before = (!is_zero(written)).then(|| Bytes::copy_from_slice(written));
        for sector in sectors {
            let place = match self.unstable.last() {
                Some(last) if last.sector < sector => Err(self.unstable.len()),
                _ => self.place_of(sector),
            };
            match place {
                Ok(place) => self.unstable[place].doubt = Doubt::Dirty,
                Err(place) => {
                    let from = (sector * SECTOR_BYTES).clamp(start, end);
                    let to = (from + SECTOR_BYTES).min(end);
                    let own = |before: &Bytes| before.slice(from - start..to - start);
                    let unstable = Unstable {
                        sector,
                        before: before.as_ref().map(own),
                        doubt: Doubt::Dirty,
                    };
                    self.unstable.insert(place, unstable);
                }
            }
        }
    }

    /// Where a read finds its bytes; `None` if one of them cannot be read.
    fn readable(&self, offset: u64, length: u64) -> Option<Range<usize>> {
        let start = (offset as usize).min(self.bytes.len());
        let end = start.saturating_add(length as usize);
        let end = end.min(self.bytes.len());
        let sectors = start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        let mut unreadable = self.unreadable.range(sectors);
        unreadable.next().is_none().then_some(start..end)
    }

    fn place_of(&self, sector: usize) -> Result<usize, usize> {
        self.unstable
            .binary_search_by_key(&sector, |unstable| unstable.sector)
    }

    fn sync(&mut self, is_true: bool) {
        if self.unstable.is_empty() {
            return;
        }
        if is_true {
            self.unstable
                .retain(|unstable| unstable.doubt != Doubt::Dirty);
        } else {
            self.doubt(Doubt::Lied);
        }
        self.stable_length = self.bytes.len();
    }

    /// What is dirty stays in doubt whatever is synced later.
    fn doubt(&mut self, doubt: Doubt) {
        for unstable in &mut self.unstable {
            if unstable.doubt == Doubt::Dirty {
                unstable.doubt = doubt;
            }
        }
    }

    fn restore(&mut self, unstable: &Unstable) {
        let start = unstable.sector * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(self.bytes.len());
        if start < end {
            let written = &mut Arc::make_mut(&mut self.bytes)[start..end];
            let before = unstable.before.as_deref().unwrap_or_default();
            let (known, grown) = written.split_at_mut(before.len().min(end - start));
            known.copy_from_slice(&before[..known.len()]);
            grown.fill(0);
        }
    }

    /// The power goes: each unstable sector for which `keep` says no gets its old bytes back.
    fn power_cut(&mut self, mut keep: impl FnMut(Doubt) -> bool) {
        for unstable in std::mem::take(&mut self.unstable) {
            if !keep(unstable.doubt) {
                self.restore(&unstable);
            }
        }
        if self.stable_length < self.bytes.len() && !keep(Doubt::Dirty) {
            Arc::make_mut(&mut self.bytes).truncate(self.stable_length);
        }
        self.stable_length = self.bytes.len();
    }
}

/// Whether these are zeros alone.
fn is_zero(bytes: &[u8]) -> bool {
    // Not one byte at a time.
    let words = bytes.chunks_exact(16);
    words.clone().all(|word| word == [0; 16]) && words.remainder().iter().all(|byte| *byte == 0)
}

/// What is wrong with a disk at the moment.
#[derive(Clone, Debug, Default)]
pub struct Ailments {
    /// Nothing ends before this moment.
    pub stalled_until: Instant,
    /// Nothing that the journal asks for ends before this moment.
    pub journal_stalled_until: Instant,
    /// Everything takes this many times as long, until that moment.
    pub slow: Option<(u64, Instant)>,
    /// Files cannot be created or grow until this moment.
    pub full_until: Instant,
    /// The next sync fails.
    pub fails_next_sync: bool,
    /// Syncs are reported and not done until this moment.
    pub lies_until: Instant,
    /// The next write is reported and never becomes stable.
    pub loses_next_write: bool,
}

impl Ailments {
    /// Until when nothing ends in this lane.
    #[must_use]
    pub fn stalled_until(&self, lane: Lane) -> Instant {
        match lane {
            Lane::Journal => self.stalled_until.max(self.journal_stalled_until),
            Lane::Background => self.stalled_until,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Queue {
    waiting: VecDeque<Request>,
    /// Names what is being served, so that an end that was planned anew is told from the old one.
    turn: u64,
}

/// A disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: BTreeMap<File, Contents>,
    journal: Queue,
    background: Queue,
    /// The identity file; replaced atomically.
    pub identity: Option<Identity>,
    /// What is wrong with it.
    pub ailments: Ailments,
}

impl Disk {
    fn queue(&mut self, lane: Lane) -> &mut Queue {
        match lane {
            Lane::Journal => &mut self.journal,
            Lane::Background => &mut self.background,
        }
    }

    /// The files with their lengths in bytes.
    #[must_use]
    pub fn list(&self) -> Vec<(File, u64)> {
        self.files
            .iter()
            .map(|(file, contents)| (*file, contents.bytes.len() as u64))
            .collect()
    }

    /// How much there is to read, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        let lengths = self.files.values().map(|contents| contents.bytes.len());
        lengths.sum::<usize>() as u64
    }

    /// Takes a request; whether its lane was idle, so that it is served at once.
    pub fn submit(&mut self, request: Request) -> bool {
        let queue = self.queue(request.lane);
        queue.waiting.push_back(request);
        queue.waiting.len() == 1
    }

    /// Begins to serve a lane's next request, if there is one: names the turn, which takes so many
    /// times as long as usual.
    pub fn serve(&mut self, now: Instant, lane: Lane) -> Option<(u64, u32)> {
        let times = match self.ailments.slow {
            Some((times, until)) if now < until => u32::try_from(times).unwrap_or(1000),
            _ => 1,
        };
        let queue = self.queue(lane);
        queue.turn += 1;
        (!queue.waiting.is_empty()).then_some((queue.turn, times))
    }

    /// Whether this is what the lane is at.
    #[must_use]
    pub fn is_at(&mut self, lane: Lane, turn: u64) -> bool {
        let queue = self.queue(lane);
        queue.turn == turn && !queue.waiting.is_empty()
    }

    /// Carries out the next request of a lane.
    pub fn complete(&mut self, now: Instant, lane: Lane) -> (Request, Result<Bytes, DiskError>) {
        let request = self.queue(lane).waiting.pop_front();
        let request = request.expect("each request ends once");
        let result = self.carry_out(now, &request.operation);
        (request, result)
    }

    /// What a read finds, without copying it; `None` if it is no read, or finds nothing readable.
    pub(crate) fn read_shared(&self, operation: &Operation) -> Option<Bytes> {
        let Operation::Read {
            file,
            offset,
            length,
        } = operation
        else {
            return None;
        };
        let contents = self.files.get(file)?;
        let range = contents.readable(*offset, *length)?;
        Some(Bytes::from_owner(Shared(contents.bytes.clone())).slice(range))
    }

    pub(crate) fn carry_out(
        &mut self,
        now: Instant,
        operation: &Operation,
    ) -> Result<Bytes, DiskError> {
        let is_full = now < self.ailments.full_until;
        match operation {
            Operation::CreateZeroed { file, length } => {
                if is_full {
                    return Err(DiskError::Full);
                }
                self.files.insert(*file, Contents::zeroed(*length as usize));
            }
            Operation::Write {
                file,
                offset,
                data,
                sync,
            } => return self.write(now, *file, *offset as usize, data, *sync),
            Operation::Read {
                file,
                offset,
                length,
            } => {
                let contents = self.files.get(file).ok_or(DiskError::NotFound)?;
                let Some(range) = contents.readable(*offset, *length) else {
                    return Err(DiskError::Other(
                        "Input/output error (os error 5)".to_owned(),
                    ));
                };
                return Ok(Bytes::copy_from_slice(&contents.bytes[range]));
            }
            Operation::Sync { file } => {
                if !self.files.contains_key(file) {
                    return Err(DiskError::NotFound);
                }
                return self.sync(now, *file);
            }
            Operation::Rename { from, to } => {
                let contents = self.files.remove(from).ok_or(DiskError::NotFound)?;
                self.files.insert(*to, contents);
            }
            Operation::Delete { file } => {
                self.files.remove(file);
            }
        }
        Ok(Bytes::new())
    }

    fn write(
        &mut self,
        now: Instant,
        file: File,
        offset: usize,
        data: &[Bytes],
        sync: bool,
    ) -> Result<Bytes, DiskError> {
        let is_full = now < self.ailments.full_until;
        let length: usize = data.iter().map(Bytes::len).sum();
        let contents = self.files.entry(file).or_default();
        if is_full && offset + length > contents.bytes.len() {
            return Err(DiskError::Full);
        }
        let mut at = offset;
        for piece in data {
            contents.write(at, piece);
            at += piece.len();
        }
        if std::mem::take(&mut self.ailments.loses_next_write) {
            contents.doubt(Doubt::Lied);
        }
        match sync {
            true => self.sync(now, file),
            false => Ok(Bytes::new()),
        }
    }

    fn sync(&mut self, now: Instant, file: File) -> Result<Bytes, DiskError> {
        let contents = self.files.get_mut(&file).expect("the caller has looked");
        if std::mem::take(&mut self.ailments.fails_next_sync) {
            contents.doubt(Doubt::Orphan);
            return Err(DiskError::Other(
                "Input/output error (os error 5)".to_owned(),
            ));
        }
        contents.sync(now >= self.ailments.lies_until);
        Ok(Bytes::new())
    }

    /// The node dies. Of what was under way in each lane, the next was done, or in part, or not.
    /// What a sync lied about goes only if `lose_lied` says so: whoever calls has asked the atlas.
    pub fn crash(&mut self, crash: Crash, lose_lied: bool, random: &mut Random) {
        for lane in [Lane::Journal, Lane::Background] {
            let waiting = std::mem::take(&mut self.queue(lane).waiting);
            self.queue(lane).turn += 1;
            let mut waiting = waiting.into_iter();
            if let Some(request) = waiting.next() {
                match random.below(3) {
                    0 => {}
                    1 => {
                        let _ = self.carry_out(Instant(u64::MAX), &request.operation);
                    }
                    _ => self.carry_out_in_part(&request.operation, random),
                }
            }
        }
        let share = [0.0, 0.2, 0.5, 0.8, 1.0][random.below(5) as usize];
        for contents in self.files.values_mut() {
            match crash {
                Crash::Power => contents.power_cut(|doubt| match doubt {
                    Doubt::Lied => !lose_lied || random.chance(share),
                    Doubt::Dirty | Doubt::Orphan => random.chance(share),
                }),
                Crash::Process => contents.doubt(Doubt::Orphan),
            }
        }
        self.ailments = Ailments::default();
    }

    fn carry_out_in_part(&mut self, operation: &Operation, random: &mut Random) {
        match operation {
            Operation::Write {
                file, offset, data, ..
            } => {
                let Some(contents) = self.files.get_mut(file) else {
                    return;
                };
                let data = data.concat();
                for (index, piece) in data.chunks(SECTOR_BYTES).enumerate() {
                    let at = *offset as usize + index * SECTOR_BYTES;
                    if random.chance(0.5) {
                        contents.write(at, piece);
                        if let Ok(place) = contents.place_of(at / SECTOR_BYTES) {
                            contents.unstable.remove(place);
                        }
                        contents.stable_length = contents.stable_length.max(at + piece.len());
                    }
                }
            }
            Operation::CreateZeroed { file, length } => {
                let kept = random.below(*length / SECTOR_BYTES as u64 + 1) as usize;
                // What an unfinished file holds is anyone's guess.
                let mut contents = Contents::zeroed(kept * SECTOR_BYTES);
                Arc::make_mut(&mut contents.bytes).fill(0xEE);
                self.files.insert(*file, contents);
            }
            _ => {}
        }
    }

    /// Whether a power cut could lose what was reported as synced.
    #[must_use]
    pub fn has_lied(&self) -> bool {
        let lied = |contents: &Contents| {
            let mut unstable = contents.unstable.iter();
            unstable.any(|each| each.doubt == Doubt::Lied)
        };
        self.files.values().any(lied)
    }

    /// The disk after the worst power cut: nothing is there that nobody could rely on.
    #[must_use]
    pub fn worst(&self) -> Disk {
        let mut copy = self.clone();
        for contents in copy.files.values_mut() {
            contents.power_cut(|_| false);
        }
        copy
    }

    /// The bytes that programs see of a file.
    #[must_use]
    pub fn bytes(&self, file: File) -> &[u8] {
        self.files
            .get(&file)
            .map_or(&[], |contents| &contents.bytes)
    }

    /// The files in which something was damaged, by the names that they have now.
    pub fn injured(&self) -> impl Iterator<Item = File> {
        let files = self.files.iter();
        let injured = files.filter(|(_, contents)| contents.is_injured);
        injured.map(|(file, _)| *file)
    }

    /// A sector of this file that is not all zero, chosen at random.
    #[must_use]
    pub fn used_sector(&self, file: File, random: &mut Random) -> Option<usize> {
        let contents = self.files.get(&file)?;
        let used: Vec<usize> = contents
            .bytes
            .chunks(SECTOR_BYTES)
            .enumerate()
            .filter(|(_, sector)| sector.iter().any(|byte| *byte != 0))
            .map(|(index, _)| index)
            .collect();
        (!used.is_empty()).then(|| used[random.below(used.len() as u64) as usize])
    }

    /// Flips one bit of a sector, for good.
    pub fn flip(&mut self, file: File, sector: usize, random: &mut Random) {
        let Some(contents) = self.files.get_mut(&file) else {
            return;
        };
        contents.is_injured = true;
        let at = sector * SECTOR_BYTES + random.below(SECTOR_BYTES as u64) as usize;
        if let Some(byte) = Arc::make_mut(&mut contents.bytes).get_mut(at) {
            *byte ^= 1 << random.below(8);
        }
    }

    /// A sector can no longer be read.
    pub fn make_unreadable(&mut self, file: File, sector: usize) {
        if let Some(contents) = self.files.get_mut(&file) {
            contents.is_injured = true;
            contents.unreadable.insert(sector);
        }
    }

    /// A sector gets the bytes of another one of the same file, as a misdirected write leaves it.
    pub fn misdirect(&mut self, file: File, from: usize, to: usize) {
        if let Some(contents) = self.files.get_mut(&file) {
            contents.is_injured = true;
            let bytes = contents.sector(from);
            let start = to * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(contents.bytes.len());
            if start < end {
                let written = Arc::make_mut(&mut contents.bytes);
                written[start..end].copy_from_slice(&bytes[..end - start]);
            }
        }
    }
}
