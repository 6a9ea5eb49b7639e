//! Alarms: what the group is in distress about. Part of the state, so that every replica refuses
//! the same commands.
//!
//! ```text
//! row "alarms" of Space::SYSTEM:   count u32 | per alarm: kind u8 | member u64     (little-endian)
//!                                  ascending, none twice; no row if there is none
//! row "no-space" of Space::SYSTEM: held u64 | quota u64    when a write found no room, in bytes;
//!                                  no row unless NOSPACE was raised by that
//! ```
//!
//! | alarm | raised | refuses | ends |
//! |---|---|---|---|
//! | NOSPACE | a write found no room | what takes space | by a client, or when there is room |
//! | CORRUPT | replicas differ, and none of them is the majority | every change | by a client |
//!
//! One row for all of them, because each writing command looks whether it is there.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use state::{Reader, Space, Transaction};

use crate::proto::etcdserverpb::{AlarmMember, AlarmType};

pub(super) const ROW: &[u8] = b"alarms";

/// What was held, and the quota, when a write found no room.
const NO_SPACE_ROW: &[u8] = b"no-space";

/// Below this share of the quota, in percent, a NOSPACE alarm ends by itself. Less than all of it,
/// so that it does not come and go with each key.
pub const CLEAR_BELOW_PERCENT: u64 = 95;

/// One alarm. The order is that of lists: by kind, then by member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// What it is about.
    pub kind: AlarmKind,
    /// The member that noticed; 0 if a client raised it without naming one.
    pub member: u64,
}

/// What an alarm is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum AlarmKind {
    /// What is held exceeds the quota.
    NoSpace = 1,
    /// Replicas differ.
    Corrupt = 2,
}

impl AlarmKind {
    /// The kind of this number, on the wire and in rows.
    #[must_use]
    pub fn from_number(number: i32) -> Option<AlarmKind> {
        match AlarmType::try_from(number) {
            Ok(AlarmType::Nospace) => Some(AlarmKind::NoSpace),
            Ok(AlarmType::Corrupt) => Some(AlarmKind::Corrupt),
            Ok(AlarmType::None) | Err(_) => None,
        }
    }

    /// As etcd's clients know it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        }
    }
}

impl Alarm {
    /// As etcd's clients know it.
    #[must_use]
    pub fn message(self) -> AlarmMember {
        AlarmMember {
            member_id: self.member,
            alarm: self.kind as i32,
        }
    }
}

impl std::fmt::Display for Alarm {
    /// As etcd's status says it.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Alarm { kind, member } = self;
        if *member != 0 {
            write!(formatter, "memberID:{member} ")?;
        }
        write!(formatter, "alarm:{}", kind.name())
    }
}

/// Which kinds of alarms there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raised {
    /// Nothing may be written that takes space.
    pub no_space: bool,
    /// Nothing may be changed.
    pub corrupt: bool,
}

/// Which kinds of alarms there are. Costs a look into an empty tree when all is well.
#[must_use]
pub fn raised(reader: &Reader) -> Raised {
    let Some(row) = reader.row(Space::SYSTEM, ROW) else {
        return Raised::default();
    };
    let alarms = decode(row);
    Raised {
        no_space: alarms.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace),
        corrupt: alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt),
    }
}

/// All alarms, in order.
#[must_use]
pub fn list(reader: &Reader) -> Vec<Alarm> {
    reader.row(Space::SYSTEM, ROW).map_or_else(Vec::new, decode)
}

/// The alarms of this kind, or all, as etcd's clients know them.
#[must_use]
pub fn messages(reader: &Reader, kind: Option<AlarmKind>) -> Vec<AlarmMember> {
    let alarms = list(reader).into_iter();
    let wanted = alarms.filter(|alarm| kind.is_none_or(|kind| kind == alarm.kind));
    wanted.map(Alarm::message).collect()
}

/// More alarms than members a group can have of each kind; who makes up members gets no further.
const ALARMS: usize = 128;

/// Raises an alarm, if it is not there yet and there are not too many.
pub fn raise(transaction: &mut Transaction<'_>, alarm: Alarm) {
    let mut alarms = list(transaction.base());
    if let Err(place) = alarms.binary_search(&alarm)
        && alarms.len() < ALARMS
    {
        alarms.insert(place, alarm);
        write(transaction, &alarms);
    }
}

/// Ends those that are not to be kept; says which.
pub fn clear(transaction: &mut Transaction<'_>, ends: impl Fn(&Alarm) -> bool) -> Vec<Alarm> {
    let mut alarms = list(transaction.base());
    let ended: Vec<Alarm> = alarms.extract_if(.., |alarm| ends(alarm)).collect();
    if !ended.is_empty() {
        write(transaction, &alarms);
    }
    if ended.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace) {
        transaction.delete_row(Space::SYSTEM, NO_SPACE_ROW);
    }
    ended
}

/// A write found no room: everything that takes space is refused from the next command on. Each
/// replica says so after the same command.
pub fn no_space(mut transaction: Transaction<'_>, member: u64) {
    if raised(transaction.base()).no_space {
        return;
    }
    let kind = AlarmKind::NoSpace;
    raise(&mut transaction, Alarm { kind, member });
    let reader = transaction.base();
    let mut row = BytesMut::new();
    row.put_u64_le(reader.held_bytes());
    row.put_u64_le(reader.quota_bytes());
    transaction.set_row(Space::SYSTEM, NO_SPACE_ROW, &row);
    transaction.commit();
}

/// Whether a NOSPACE alarm may end by itself: there is room, and it is new. A large write may find
/// none while little is held; unless something was let go of since, it would find none again.
#[must_use]
pub fn has_room_again(reader: &Reader) -> bool {
    let (held, quota) = (reader.held_bytes(), reader.quota_bytes());
    let most = u128::from(quota) * u128::from(CLEAR_BELOW_PERCENT) / 100;
    let has_changed = match reader.row(Space::SYSTEM, NO_SPACE_ROW) {
        None => true,
        Some(mut row) => {
            held < row.try_get_u64_le().unwrap_or(u64::MAX) || row.try_get_u64_le() != Ok(quota)
        }
    };
    u128::from(held) <= most && has_changed
}

fn write(transaction: &mut Transaction<'_>, alarms: &[Alarm]) {
    if alarms.is_empty() {
        return transaction.delete_row(Space::SYSTEM, ROW);
    }
    let mut row = BytesMut::new();
    row.put_u32_le(u32::try_from(alarms.len()).expect("alarms are few"));
    for alarm in alarms {
        row.put_u8(alarm.kind as u8);
        row.put_u64_le(alarm.member);
    }
    transaction.set_row(Space::SYSTEM, ROW, &row);
}

/// What `write` wrote; whatever else stands there ends the list.
fn decode(mut row: Bytes) -> Vec<Alarm> {
    let count = row.try_get_u32_le().unwrap_or(0);
    let mut alarms = Vec::new();
    for _ in 0..count {
        let (Ok(kind), Ok(member)) = (row.try_get_u8(), row.try_get_u64_le()) else {
            break;
        };
        if let Some(kind) = AlarmKind::from_number(i32::from(kind)) {
            alarms.push(Alarm { kind, member });
        }
    }
    alarms
}
