//! The records of what changes, byte by byte, and how they are executed.
//!
//! ```text
//! record = version u8 (1) | kind u8 | fields                                   (little-endian)
//!
//! kind 1  raise      alarm u8   member u64
//! kind 2  clear      alarm u8   member u64
//! kind 3  room       NOSPACE ends, if there is room again and the settings say so
//! kind 4  downgrade  own u32 u32   target u32 u32                  major and minor
//! kind 5  stay       the downgrade is given up
//! kind 6  settings   quota u64   alarm ends by itself u8 (0 or 1)
//! kind 7  compact    revision i64: the group's own wish, which needs nobody's permission
//! ```
//!
//! row "settings" of Space::SYSTEM: 1 byte, whether NOSPACE ends by itself; no row: it does.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use state::{Reader, Revision, Space, Transaction};

use super::MaintenanceResponse;
use super::alarm::{self, Alarm, AlarmKind};
use super::downgrade::{self, ClusterVersion};
use crate::error::Error;
use crate::proto::etcdserverpb::{AlarmResponse, DowngradeResponse};
use crate::request::header;

/// The number of this protocol in an entry.
pub const PROTOCOL: u8 = 4;

const VERSION: u8 = 1;
const SETTINGS_ROW: &[u8] = b"settings";

/// What an operator decides for the group's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceSettings {
    /// How many bytes may be held: live keys and history.
    pub quota_bytes: u64,
    /// A NOSPACE alarm ends once there is room again; otherwise a client must end it.
    pub alarm_ends_by_itself: bool,
}

impl SpaceSettings {
    /// What the group has agreed on.
    #[must_use]
    pub fn of(reader: &Reader) -> SpaceSettings {
        let row = reader.row(Space::SYSTEM, SETTINGS_ROW);
        SpaceSettings {
            quota_bytes: reader.quota_bytes(),
            alarm_ends_by_itself: row.is_none_or(|row| row.first() != Some(&0)),
        }
    }
}

/// What is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaintenanceCommand {
    /// Raise this alarm.
    Raise(Alarm),
    /// End this alarm.
    Clear(Alarm),
    /// End a NOSPACE alarm, if there is room again and the settings say so.
    Room,
    /// Prepare to go back a version.
    Downgrade {
        /// The cluster's version.
        own: ClusterVersion,
        /// The one to go back to.
        target: ClusterVersion,
    },
    /// Do not go back.
    Stay {
        /// The cluster's version.
        own: ClusterVersion,
    },
    /// Set how much may be held, and what happens when it is more.
    Settings(SpaceSettings),
    /// Let go of the history before this revision, if there is any.
    Compact {
        /// The oldest revision that stays readable.
        revision: i64,
    },
}

impl MaintenanceCommand {
    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32);
        out.put_u8(VERSION);
        let put_alarm = |out: &mut BytesMut, kind, alarm: &Alarm| {
            out.put_u8(kind);
            out.put_u8(alarm.kind as u8);
            out.put_u64_le(alarm.member);
        };
        let put_version = |out: &mut BytesMut, version: &ClusterVersion| {
            out.put_u32_le(version.major);
            out.put_u32_le(version.minor);
        };
        match self {
            MaintenanceCommand::Raise(alarm) => put_alarm(&mut out, 1, alarm),
            MaintenanceCommand::Clear(alarm) => put_alarm(&mut out, 2, alarm),
            MaintenanceCommand::Room => out.put_u8(3),
            MaintenanceCommand::Downgrade { own, target } => {
                out.put_u8(4);
                put_version(&mut out, own);
                put_version(&mut out, target);
            }
            MaintenanceCommand::Stay { own } => {
                out.put_u8(5);
                put_version(&mut out, own);
            }
            MaintenanceCommand::Settings(settings) => {
                out.put_u8(6);
                out.put_u64_le(settings.quota_bytes);
                out.put_u8(u8::from(settings.alarm_ends_by_itself));
            }
            MaintenanceCommand::Compact { revision } => {
                out.put_u8(7);
                out.put_i64_le(*revision);
            }
        }
        out.freeze()
    }

    /// The command in `bytes`, or `None` if there is none.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<MaintenanceCommand> {
        let input = &mut bytes;
        if input.try_get_u8().ok()? != VERSION {
            return None;
        }
        let command = match input.try_get_u8().ok()? {
            1 => MaintenanceCommand::Raise(get_alarm(input)?),
            2 => MaintenanceCommand::Clear(get_alarm(input)?),
            3 => MaintenanceCommand::Room,
            4 => MaintenanceCommand::Downgrade {
                own: get_version(input)?,
                target: get_version(input)?,
            },
            5 => MaintenanceCommand::Stay {
                own: get_version(input)?,
            },
            6 => MaintenanceCommand::Settings(SpaceSettings {
                quota_bytes: input.try_get_u64_le().ok()?,
                alarm_ends_by_itself: match input.try_get_u8().ok()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                },
            }),
            7 => MaintenanceCommand::Compact {
                revision: input.try_get_i64_le().ok()?,
            },
            _ => return None,
        };
        (!input.has_remaining()).then_some(command)
    }
}

fn get_alarm(input: &mut &[u8]) -> Option<Alarm> {
    let kind = AlarmKind::from_number(i32::from(input.try_get_u8().ok()?))?;
    let member = input.try_get_u64_le().ok()?;
    Some(Alarm { kind, member })
}

fn get_version(input: &mut &[u8]) -> Option<ClusterVersion> {
    Some(ClusterVersion {
        major: input.try_get_u32_le().ok()?,
        minor: input.try_get_u32_le().ok()?,
    })
}

/// Executes a record: the same on every replica, from nothing but the record and the state. `None`
/// if there is nothing to answer.
///
/// # Errors
/// What speaks against it; nothing has changed then.
pub fn execute(
    mut transaction: Transaction<'_>,
    record: &[u8],
) -> Result<Option<MaintenanceResponse>, Error> {
    let command = MaintenanceCommand::decode(record)
        .ok_or(Error::Internal("quorate: a malformed maintenance record"))?;
    let header = header(transaction.base().revision().0);
    let alarms = |alarms: Vec<Alarm>| {
        let alarms = alarms.into_iter().map(Alarm::message).collect();
        Some(MaintenanceResponse::Alarm(AlarmResponse { header, alarms }))
    };
    let version = |version: ClusterVersion| {
        let version = version.to_string();
        Some(MaintenanceResponse::Downgrade(DowngradeResponse {
            header,
            version,
        }))
    };
    let response = match command {
        MaintenanceCommand::Raise(alarm) => {
            alarm::raise(&mut transaction, alarm);
            alarms(vec![alarm])
        }
        MaintenanceCommand::Clear(alarm) => {
            alarms(alarm::clear(&mut transaction, |other| *other == alarm))
        }
        MaintenanceCommand::Room => {
            let settings = SpaceSettings::of(transaction.base());
            if settings.alarm_ends_by_itself && alarm::has_room_again(transaction.base()) {
                alarm::clear(&mut transaction, |each| each.kind == AlarmKind::NoSpace);
            }
            None
        }
        MaintenanceCommand::Downgrade { own, target } => {
            downgrade::enable(&mut transaction, own, target)?;
            version(own)
        }
        MaintenanceCommand::Stay { own } => {
            downgrade::cancel(&mut transaction);
            version(own)
        }
        MaintenanceCommand::Settings(settings) => {
            transaction.set_quota(settings.quota_bytes);
            let row = [u8::from(settings.alarm_ends_by_itself)];
            transaction.set_row(Space::SYSTEM, SETTINGS_ROW, &row);
            None
        }
        MaintenanceCommand::Compact { revision } => {
            let reader = transaction.base();
            // Whoever was faster, or leads a state that is behind, has nothing to do.
            if revision > reader.compacted().0 && revision <= reader.revision().0 {
                transaction.compact(Revision(revision));
            }
            None
        }
    };
    transaction.commit();
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_survives_and_no_part_of_one_does() {
        let alarm = Alarm {
            kind: AlarmKind::Corrupt,
            member: 7,
        };
        let version = |minor| ClusterVersion { major: 3, minor };
        let (own, target) = (version(7), version(6));
        for command in [
            MaintenanceCommand::Raise(alarm),
            MaintenanceCommand::Clear(alarm),
            MaintenanceCommand::Room,
            MaintenanceCommand::Downgrade { own, target },
            MaintenanceCommand::Stay { own },
            MaintenanceCommand::Settings(SpaceSettings {
                quota_bytes: 1 << 40,
                alarm_ends_by_itself: false,
            }),
            MaintenanceCommand::Compact { revision: 9 },
        ] {
            let bytes = command.encode();
            assert_eq!(MaintenanceCommand::decode(&bytes), Some(command));
            for length in 0..bytes.len() {
                assert_eq!(MaintenanceCommand::decode(&bytes[..length]), None);
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(MaintenanceCommand::decode(&longer), None);
        }
    }
}
