//! A level that no build has, so that mixed levels can be tried before there is a second one.
//!
//! In builds with planted bugs a node can be told to know one level more than its build does
//! ([`state::Limits::level_max`]). What is different there does no harm: each command of etcd's
//! protocol also counts itself in a row of its own. So a replica that executes a command at another
//! level than its group's has another digest, at once.

use base::mutant::{self, Mutant};
use state::{LEVEL_MAX, Space, State};

/// The level that is tried out.
pub const LEVEL: u32 = LEVEL_MAX + 1;

const ROW: &[u8] = b"rehearsal";

/// What every command of etcd's protocol does at [`LEVEL`] beyond what it does.
pub(crate) fn execute(state: &mut State, own_level: u32) {
    let level = match mutant::is_on(Mutant::OwnLevel) {
        true => own_level,
        false => state.reader().level(),
    };
    if level < LEVEL {
        return;
    }
    let count = state.reader().row(Space::SYSTEM, ROW);
    let count = count.and_then(|row| row[..].try_into().ok());
    let next = count.map_or(0, u64::from_le_bytes) + 1;
    let mut transaction = state.transaction();
    transaction.set_row(Space::SYSTEM, ROW, &next.to_le_bytes());
    transaction.commit();
}
