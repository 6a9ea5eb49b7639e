//! Records: one thing that a group wants to remember, with its own checksum.

use base::checksum::{crc32c, crc32c_append};
use base::{Epoch, GroupId, Slot};
use bytes::Bytes;

use super::{read_u32, read_u64};

/// What stands before the body of a record.
pub const HEADER_BYTES: u64 = 36;

/// What a record says. The numbers stand on disk and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordKind {
    /// The promises of a replica; the newest one of a group counts. The body is opaque.
    HardState = 1,
    /// An entry at a slot. It replaces what stands there **and everything after it**.
    Entry = 2,
    /// An entry that changes the membership, told apart so that recovery can hand it out.
    MembershipEntry = 3,
    /// A snapshot was installed: the log starts behind this slot, whatever it held before.
    SnapshotInstalled = 4,
    /// An entry that stands at its slot alone: it replaces what stands there and nothing else, and
    /// may leave gaps before it. It was accepted under a ballot that is its epoch.
    Accepted = 6,
    /// The same for an entry that changes the membership.
    AcceptedMembership = 7,
    /// As [`RecordKind::Accepted`], under a later ballot: the body begins with it (8 bytes).
    AcceptedLater = 8,
    /// As [`RecordKind::AcceptedMembership`], under a later ballot, likewise.
    AcceptedMembershipLater = 9,
    /// A snapshot was installed: the log starts behind this slot and keeps what is behind.
    LogStarts = 10,
    /// The group is on this disk from here on; the newest one of a group counts, as long as the
    /// group is not closed. The body is opaque: what is needed to open the group.
    GroupOpened = 11,
    /// The group is on this disk no more: nothing before this counts. The body is opaque: what is
    /// to be known if it comes back.
    GroupClosed = 12,
    /// What the group's log held does not count any more: it is empty and starts with slot 1. Hard
    /// state and description stay. Written when the state that the log belongs to is lost.
    LogForgotten = 13,
    /// As [`RecordKind::Entry`], of which only the header is kept: the body is empty.
    Header = 14,
    /// As [`RecordKind::Accepted`], likewise.
    AcceptedHeader = 15,
    /// As [`RecordKind::AcceptedLater`], likewise: the body is the ballot.
    AcceptedHeaderLater = 16,
}

/// The bytes of a ballot before a body.
pub const BALLOT_BYTES: usize = 8;

/// What a record on disk says: what a group asked to remember, or what the journal itself adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredKind {
    /// A record that was appended.
    Given(RecordKind),
    /// The log starts behind this slot and keeps the entries after it (number 5). Written by the
    /// journal when it recycles the segments in which the released entries stand.
    Start,
}

impl StoredKind {
    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<StoredKind> {
        match number {
            1 => Some(StoredKind::Given(RecordKind::HardState)),
            2 => Some(StoredKind::Given(RecordKind::Entry)),
            3 => Some(StoredKind::Given(RecordKind::MembershipEntry)),
            4 => Some(StoredKind::Given(RecordKind::SnapshotInstalled)),
            5 => Some(StoredKind::Start),
            6 => Some(StoredKind::Given(RecordKind::Accepted)),
            7 => Some(StoredKind::Given(RecordKind::AcceptedMembership)),
            8 => Some(StoredKind::Given(RecordKind::AcceptedLater)),
            9 => Some(StoredKind::Given(RecordKind::AcceptedMembershipLater)),
            10 => Some(StoredKind::Given(RecordKind::LogStarts)),
            11 => Some(StoredKind::Given(RecordKind::GroupOpened)),
            12 => Some(StoredKind::Given(RecordKind::GroupClosed)),
            13 => Some(StoredKind::Given(RecordKind::LogForgotten)),
            14 => Some(StoredKind::Given(RecordKind::Header)),
            15 => Some(StoredKind::Given(RecordKind::AcceptedHeader)),
            16 => Some(StoredKind::Given(RecordKind::AcceptedHeaderLater)),
            _ => None,
        }
    }

    /// The number of the kind.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            StoredKind::Given(kind) => kind as u8,
            StoredKind::Start => 5,
        }
    }
}

impl RecordKind {
    /// Whether it stands at a slot of the log.
    #[must_use]
    pub fn is_entry(self) -> bool {
        self.is_in_order() || self.is_accepted()
    }

    /// Whether it is an entry that follows what is before it, and replaces what is behind.
    #[must_use]
    pub fn is_in_order(self) -> bool {
        matches!(
            self,
            RecordKind::Entry | RecordKind::MembershipEntry | RecordKind::Header
        )
    }

    /// Whether it is an entry that stands at its slot alone.
    #[must_use]
    pub fn is_accepted(self) -> bool {
        matches!(
            self,
            RecordKind::Accepted
                | RecordKind::AcceptedMembership
                | RecordKind::AcceptedLater
                | RecordKind::AcceptedMembershipLater
                | RecordKind::AcceptedHeader
                | RecordKind::AcceptedHeaderLater
        )
    }

    /// Whether its body begins with a ballot.
    #[must_use]
    pub fn has_ballot(self) -> bool {
        matches!(
            self,
            RecordKind::AcceptedLater
                | RecordKind::AcceptedMembershipLater
                | RecordKind::AcceptedHeaderLater
        )
    }

    /// Whether only the header of the entry is kept.
    #[must_use]
    pub fn is_header(self) -> bool {
        matches!(
            self,
            RecordKind::Header | RecordKind::AcceptedHeader | RecordKind::AcceptedHeaderLater
        )
    }

    /// Whether the entry changes the membership.
    #[must_use]
    pub fn is_membership(self) -> bool {
        matches!(
            self,
            RecordKind::MembershipEntry
                | RecordKind::AcceptedMembership
                | RecordKind::AcceptedMembershipLater
        )
    }
}

/// One thing that a group wants to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub group: GroupId,
    /// What it says.
    pub kind: RecordKind,
    /// Where it stands in the group's log; without meaning for a hard state.
    pub slot: Slot,
    /// The epoch of the entry at that slot; without meaning for a hard state.
    pub epoch: Epoch,
    /// What it carries; opaque. Shared, and copied once: into the buffer that is written.
    pub body: Bytes,
}

/// A record as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Whose it is.
    pub group: GroupId,
    /// What it says.
    pub kind: StoredKind,
    /// Where it stands in the group's log.
    pub slot: Slot,
    /// The epoch of the entry at that slot.
    pub epoch: Epoch,
    /// What it carries.
    pub body: Bytes,
}

impl From<Record> for StoredRecord {
    fn from(record: Record) -> StoredRecord {
        StoredRecord {
            group: record.group,
            kind: StoredKind::Given(record.kind),
            slot: record.slot,
            epoch: record.epoch,
            body: record.body,
        }
    }
}

impl StoredRecord {
    /// The record's length on disk without block headers.
    #[must_use]
    pub fn encoded_bytes(&self) -> u64 {
        HEADER_BYTES + self.body.len() as u64
    }

    /// The header, and the checksum in it, which covers header and body.
    pub(crate) fn encode_header(&self) -> ([u8; HEADER_BYTES as usize], u32) {
        let mut header = [0u8; HEADER_BYTES as usize];
        let length = u32::try_from(self.body.len()).expect("bodies are shorter than a segment");
        header[4..8].copy_from_slice(&length.to_le_bytes());
        header[8] = self.kind.number();
        header[12..20].copy_from_slice(&self.group.0.to_le_bytes());
        header[20..28].copy_from_slice(&self.slot.0.to_le_bytes());
        header[28..36].copy_from_slice(&self.epoch.0.to_le_bytes());
        let checksum = crc32c_append(crc32c(&header[4..]), &self.body);
        header[0..4].copy_from_slice(&checksum.to_le_bytes());
        (header, checksum)
    }
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFault {
    /// The bytes end before the record does.
    TooShort,
    /// The checksum is wrong.
    Checksum,
    /// The kind is unknown, or reserved bytes are not zero.
    Kind(u8),
}

impl std::fmt::Display for RecordFault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RecordFault::TooShort => write!(formatter, "a record is cut short"),
            RecordFault::Checksum => write!(formatter, "the checksum of a record is wrong"),
            RecordFault::Kind(kind) => write!(formatter, "a record has the unknown kind {kind}"),
        }
    }
}

/// The total length of the record whose header starts `bytes`; `None` if the header is cut short.
#[must_use]
pub fn peek_length(bytes: &[u8]) -> Option<u64> {
    if (bytes.len() as u64) < HEADER_BYTES {
        return None;
    }
    Some(HEADER_BYTES + u64::from(read_u32(bytes, 4)?))
}

/// Reads the record at the start of `bytes`; also returns its checksum. The body is a slice of
/// `bytes`, not a copy.
///
/// # Errors
/// If the bytes are no record.
pub fn decode(bytes: &Bytes) -> Result<(StoredRecord, u32), RecordFault> {
    let length = peek_length(bytes).ok_or(RecordFault::TooShort)?;
    if length > bytes.len() as u64 {
        return Err(RecordFault::TooShort);
    }
    let length = length as usize;
    let field = |at: usize| read_u64(bytes, at).ok_or(RecordFault::TooShort);
    let checksum = read_u32(bytes, 0).ok_or(RecordFault::TooShort)?;
    if crc32c(&bytes[4..length]) != checksum {
        return Err(RecordFault::Checksum);
    }
    let kind = StoredKind::from_number(bytes[8]).ok_or(RecordFault::Kind(bytes[8]))?;
    if bytes[9..12] != [0; 3] {
        return Err(RecordFault::Kind(bytes[8]));
    }
    let record = StoredRecord {
        group: GroupId(field(12)?),
        kind,
        slot: Slot(field(20)?),
        epoch: Epoch(field(28)?),
        body: bytes.slice(HEADER_BYTES as usize..length),
    };
    Ok((record, checksum))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> StoredRecord {
        StoredRecord {
            group: GroupId(1),
            kind: StoredKind::Given(RecordKind::Entry),
            slot: Slot(2),
            epoch: Epoch(3),
            body: Bytes::from_static(b"four"),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_every_flip_is_seen() {
        let (header, checksum) = record().encode_header();
        let mut bytes = [&header[..], b"four"].concat();
        assert_eq!(
            decode(&Bytes::from(bytes.clone())),
            Ok((record(), checksum))
        );
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&Bytes::from(bytes.clone())).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for end in 0..bytes.len() {
            let cut = Bytes::copy_from_slice(&bytes[..end]);
            assert_eq!(decode(&cut), Err(RecordFault::TooShort));
        }
    }

    #[test]
    fn kinds_keep_their_numbers() {
        for number in 0..=u8::MAX {
            if let Some(kind) = StoredKind::from_number(number) {
                assert_eq!(kind.number(), number);
            }
        }
        assert_eq!(StoredKind::from_number(17), None);
    }
}
