//! What clients were told fits one order of revisions (etcd's API guarantees: strict
//! serializability; each change has a revision of its own, an answer names the revision it saw).
//!
//! ```text
//!   key k:   put@3 ────────── put@9 ──────────
//!   a read at revision 7 that shows put@3 claims: nothing happened to k in (3, 7]
//! ```
//!
//! Checked as answers come in, at little cost; the checker crate judges the whole history once more
//! without trusting revisions. Values are unique, so that a command that took effect twice shows as
//! one value at two revisions. What replicas execute is looked at, not only what clients see.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use checker::history::{Key as Name, Value};
use etcd::proto::mvccpb::KeyValue;

use super::{Violation, violated};

#[derive(Debug, Default)]
struct Key {
    /// Revisions at which it was certainly put or deleted.
    changes: BTreeSet<i64>,
    /// By revision of the version seen: the last revision at which it was still the newest.
    claims: BTreeMap<i64, i64>,
    /// The version that was shown last: its revision and its value, which fit what else is known.
    shown: Option<(i64, Bytes)>,
}

/// Everything clients were told about revisions.
#[derive(Debug, Default)]
pub struct Revisions {
    /// The highest revision that any answer has named.
    newest: i64,
    keys: BTreeMap<Name, Key>,
    /// At which revision a value was put.
    values: BTreeMap<Value, i64>,
    /// Values whose put certainly failed.
    failed: BTreeSet<Value>,
    /// Revisions whose change an answer claimed as its own.
    owned: BTreeSet<i64>,
    /// How many answers were checked.
    pub answers: u64,
}

impl Revisions {
    /// The highest revision that any answer has named: what is asked from now on must see it.
    #[must_use]
    pub fn newest(&self) -> i64 {
        self.newest
    }

    /// An answer came at `revision` to something asked when `floor` was the newest revision.
    ///
    /// # Errors
    /// If it must have seen more.
    pub fn answered(
        &mut self,
        floor: i64,
        revision: i64,
        stale_is_fine: bool,
    ) -> Result<(), Violation> {
        self.answers += 1;
        self.newest = self.newest.max(revision);
        if revision < floor && !stale_is_fine {
            return violated(
                "linearizable by revision",
                format!(
                    "an answer at revision {revision} to what was asked after {floor} was seen"
                ),
            );
        }
        Ok(())
    }

    /// A change got this revision for itself.
    ///
    /// # Errors
    /// If another has it, or it should have come later.
    pub fn owns(&mut self, floor: i64, revision: i64) -> Result<(), Violation> {
        if revision <= floor {
            return violated(
                "linearizable by revision",
                format!("a change got revision {revision} after {floor} was seen"),
            );
        }
        if !self.owned.insert(revision) {
            return violated(
                "revisions are unique",
                format!("two changes got revision {revision}"),
            );
        }
        Ok(())
    }

    /// A key was put or deleted at this revision.
    ///
    /// # Errors
    /// If somebody saw that nothing happened then.
    pub fn changed(&mut self, key: &Bytes, revision: i64) -> Result<(), Violation> {
        let known = self.keys.entry(Name(key.clone())).or_default();
        if !known.changes.insert(revision) {
            return Ok(());
        }
        let before = known.claims.range(..revision).next_back();
        if let Some((seen, until)) = before
            && *until >= revision
        {
            return violated(
                "reads see every change",
                format!(
                    "{key:?} changed at {revision}, but at {until} the version of {seen} was shown"
                ),
            );
        }
        Ok(())
    }

    /// A value was put at this revision.
    ///
    /// # Errors
    /// If it was put at another one as well.
    pub fn put(&mut self, value: &Bytes, revision: i64) -> Result<(), Violation> {
        let name = Value(value.clone());
        if self.failed.contains(&name) {
            return violated(
                "what failed had no effect",
                format!(
                    "{value:?} was put at {revision} though its client was told that it failed"
                ),
            );
        }
        let known = *self.values.entry(name).or_insert(revision);
        if known != revision {
            return violated(
                "a command takes effect at most once",
                format!("{value:?} was put at revision {known} and at revision {revision}"),
            );
        }
        Ok(())
    }

    /// A client was told that its put of this value certainly failed.
    ///
    /// # Errors
    /// If somebody has seen it.
    pub fn failed(&mut self, value: &Bytes) -> Result<(), Violation> {
        let name = Value(value.clone());
        if let Some(revision) = self.values.get(&name) {
            return violated(
                "what failed had no effect",
                format!("{value:?} was put at {revision}, and its client is told that it failed"),
            );
        }
        self.failed.insert(name);
        Ok(())
    }

    /// An answer at `revision` showed this version as the newest.
    ///
    /// # Errors
    /// If it was not.
    pub fn saw(&mut self, shown: &KeyValue, revision: i64) -> Result<(), Violation> {
        let seen = shown.mod_revision;
        if seen > revision || shown.create_revision > seen || shown.version < 1 {
            return violated(
                "reads make sense",
                format!("at revision {revision}: {shown:?}"),
            );
        }
        // Most answers show what the one before has shown.
        let name = Name(shown.key.clone());
        let known = self.keys.get(&name).and_then(|key| key.shown.as_ref());
        let is_known = known.is_some_and(|(at, value)| *at == seen && *value == shown.value);
        if !is_known {
            self.put(&shown.value, seen)?;
            self.changed(&shown.key, seen)?;
        }
        let known = self.keys.get_mut(&name);
        let known = known.expect("a key that has changed is known");
        if !is_known {
            known.shown = Some((seen, shown.value.clone()));
        }
        let next = known.changes.range(seen + 1..).next();
        if let Some(next) = next
            && *next <= revision
        {
            return violated(
                "reads see every change",
                format!(
                    "{:?} changed at {next}, but at {revision} the version of {seen} was shown",
                    shown.key
                ),
            );
        }
        let until = known.claims.entry(seen).or_insert(revision);
        *until = (*until).max(revision);
        Ok(())
    }

    /// A revision as the first replica that executed it published it: every command, whether or not
    /// a client ever hears of it.
    ///
    /// # Errors
    /// If it does not fit what was told.
    pub fn executed(&mut self, events: &[state::Event]) -> Result<(), Violation> {
        for event in events {
            let shown = &event.key_value;
            // Values of these keys are unique; those of locks are not.
            if event.space != state::Space::ETCD || !shown.key.starts_with(b"k") {
                continue;
            }
            if event.kind == state::EventKind::Put {
                self.put(&shown.value, shown.mod_revision)?;
            }
            self.changed(&shown.key, shown.mod_revision)?;
        }
        Ok(())
    }

    /// How many changes are known to have happened.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.owned.len()
    }

    /// The last known change of each key.
    #[must_use]
    pub fn last_changes(&self) -> Vec<(Bytes, i64)> {
        let last = |(Name(key), known): (&Name, &Key)| Some((key.clone(), *known.changes.last()?));
        self.keys.iter().filter_map(last).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &'static str, revision: i64) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(value.as_bytes()),
            mod_revision: revision,
            create_revision: 2,
            version: 1,
            lease: 0,
        }
    }

    #[test]
    fn a_read_that_misses_a_change_is_found_whichever_is_known_first() {
        let key = Bytes::from_static(b"k");
        let mut revisions = Revisions::default();
        revisions.changed(&key, 3).unwrap();
        revisions.saw(&shown("a", 3), 7).unwrap();
        assert!(revisions.changed(&key, 5).is_err());

        let mut revisions = Revisions::default();
        revisions.changed(&key, 5).unwrap();
        assert!(revisions.saw(&shown("a", 3), 7).is_err());
    }

    #[test]
    fn a_value_at_two_revisions_is_found() {
        let mut revisions = Revisions::default();
        revisions.saw(&shown("a", 3), 3).unwrap();
        assert!(revisions.saw(&shown("a", 4), 4).is_err());
    }

    #[test]
    fn stale_answers_and_shared_revisions_are_found() {
        let mut revisions = Revisions::default();
        revisions.answered(1, 5, false).unwrap();
        assert!(revisions.answered(5, 4, false).is_err());
        revisions.answered(5, 4, true).unwrap();
        revisions.owns(5, 6).unwrap();
        assert!(revisions.owns(5, 6).is_err());
        assert!(revisions.owns(6, 6).is_err());
    }
}
