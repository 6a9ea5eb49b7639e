//! The rows of one plain space as they were at some moment.
//!
//! A [`crate::Snapshot`] holds everything, so while one is kept, every write copies a path of some
//! tree. Who needs only what changes rarely (users and roles, say) can keep this for as long as it
//! likes: it shares one space's tree, and costs only what is written there.

use bytes::Bytes;

use crate::keyspace::Row;
use crate::reader::{Reader, RowIterator};
use crate::space::Space;
use crate::tree::Tree;

/// One plain space's rows; made in constant time, never changing, shared by clones.
#[derive(Clone, Debug, Default)]
pub struct SharedRows(Tree<Bytes, Row>);

impl SharedRows {
    /// A row.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        let (_, Row(value)) = self.0.find(key, |other| other.as_ref().cmp(key))?;
        Some(value.clone())
    }

    /// Whether nothing was written to this space of a state since these rows were taken from it.
    /// Compares two addresses: what these rows share cannot change while they are kept.
    ///
    /// # Panics
    /// If the space keeps history.
    #[must_use]
    pub fn are_those_of(&self, reader: &Reader, space: Space) -> bool {
        self.0.is_shared_with(reader.rows.plain(space))
    }

    /// All rows, in the order of their keys.
    #[must_use]
    pub fn iterate(&self) -> RowIterator<'_> {
        RowIterator::new(&self.0)
    }
}

impl Reader {
    /// The rows of a plain space, for keeping; takes constant time.
    ///
    /// # Panics
    /// If the space keeps history.
    #[must_use]
    pub fn shared_rows(&self, space: Space) -> SharedRows {
        SharedRows(self.rows.plain(space).clone())
    }
}

#[cfg(test)]
mod tests {
    use base::{Epoch, Slot, WallTime};
    use std::time::Duration;

    use super::*;
    use crate::{EntryStamp, Limits, State};

    fn set(state: &mut State, key: &[u8], value: &[u8]) {
        let slot = Slot(state.reader().applied().0 + 1);
        state.begin_entry(&EntryStamp {
            slot,
            epoch: Epoch(1),
            wall: WallTime(0),
            elapsed: Duration::ZERO,
        });
        let mut transaction = state.transaction();
        transaction.set_row(Space::USERS, key, value);
        transaction.commit();
        assert!(state.end_entry().is_empty());
    }

    #[test]
    fn shared_rows_stay_as_they_were() {
        let mut state = State::new(Limits::default());
        set(&mut state, b"a", b"1");
        let shared = state.reader().shared_rows(Space::USERS);
        set(&mut state, b"a", b"2");
        set(&mut state, b"b", b"3");
        assert_eq!(shared.get(b"a"), Some(Bytes::from_static(b"1")));
        assert_eq!(shared.get(b"b"), None);
        assert_eq!(shared.iterate().count(), 1);
        let later = state.reader().shared_rows(Space::USERS);
        assert_eq!(later.get(b"a"), Some(Bytes::from_static(b"2")));
        assert_eq!(later.iterate().count(), 2);
    }

    #[test]
    fn shared_rows_tell_whether_their_space_was_written_to() {
        let mut state = State::new(Limits::default());
        let nothing = SharedRows::default();
        assert!(nothing.are_those_of(state.reader(), Space::USERS));
        set(&mut state, b"a", b"1");
        assert!(!nothing.are_those_of(state.reader(), Space::USERS));
        let shared = state.reader().shared_rows(Space::USERS);
        assert!(shared.are_those_of(state.reader(), Space::USERS));
        // Nor is it forgotten when the same is written again.
        set(&mut state, b"a", b"1");
        assert!(!shared.are_those_of(state.reader(), Space::USERS));
        assert!(nothing.are_those_of(state.reader(), Space::ROLES));
    }
}
