//! What has been read and waits to be written: pairs in a file, and in which order they are due.
//!
//! ```text
//!   pair, created at 5, changed at 9     due at 5: the key comes into being
//!                                        due at 9: it gets its value
//!   pair, created and changed at 7       due at 7: both at once
//! ```
//!
//! **Why twice.** Locks and elections go by the order in which keys were created, so that it must
//! be the same on both sides; others go by the order of the last changes. A key that has changed
//! since it was created takes part in both orders, so it is written twice.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use client::etcd::proto::mvccpb::KeyValue;
use prost::Message as _;

use super::changes::{Change, Put};

/// What is due at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    revision: i64,
    /// Where in the file the pair stands; so that those of one revision come in key order.
    place: u64,
    length: u32,
}

/// Pairs, being collected.
#[derive(Debug)]
pub(super) struct Collecting {
    file: BufWriter<File>,
    written: u64,
    due: Vec<Due>,
}

/// Pairs, all there.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    due: Vec<Due>,
}

impl Collecting {
    /// Nothing yet, in a file that vanishes when it is closed.
    pub(super) fn new(folder: Option<&Path>) -> io::Result<Collecting> {
        let file = match folder {
            Some(folder) => tempfile::tempfile_in(folder)?,
            None => tempfile::tempfile()?,
        };
        Ok(Collecting {
            file: BufWriter::new(file),
            written: 0,
            due: Vec::new(),
        })
    }

    /// Takes in a pair.
    pub(super) fn push(&mut self, pair: &KeyValue) -> io::Result<()> {
        let bytes = pair.encode_to_vec();
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.file.write_all(&bytes)?;
        let mut due = |revision| {
            self.due.push(Due {
                revision,
                place: self.written,
                length,
            });
        };
        due(pair.create_revision);
        if pair.create_revision != pair.mod_revision {
            due(pair.mod_revision);
        }
        self.written += u64::from(length);
        Ok(())
    }

    /// All is there.
    pub(super) fn finish(mut self) -> io::Result<Spool> {
        self.due.sort_unstable();
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        Ok(Spool {
            file,
            due: self.due,
        })
    }
}

impl Spool {
    /// How many changes there are.
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    /// The changes in their order, those of one revision together.
    pub(super) fn revisions(&self) -> impl Iterator<Item = io::Result<Vec<Change>>> {
        let same = |one: &Due, other: &Due| one.revision == other.revision;
        self.due
            .chunk_by(same)
            .map(|due| due.iter().map(|due| self.change(due)).collect())
    }

    fn change(&self, due: &Due) -> io::Result<Change> {
        let mut bytes = vec![0; due.length as usize];
        self.file.read_exact_at(&mut bytes, due.place)?;
        let pair = KeyValue::decode(&*bytes).map_err(io::Error::other)?;
        let is_new = due.revision == pair.create_revision;
        let is_final = due.revision == pair.mod_revision;
        Ok(Change::Put(Put {
            key: pair.key,
            // What is written again need not be written now.
            value: if is_final {
                pair.value
            } else {
                Default::default()
            },
            lease: if is_final { pair.lease } else { 0 },
            is_new,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_in_the_order_of_creation_and_of_change() {
        let mut collecting = Collecting::new(None).unwrap();
        // key, created, changed
        for (key, create_revision, mod_revision) in [("a", 5, 9), ("b", 3, 3), ("c", 3, 7)] {
            let pair = KeyValue {
                key: key.into(),
                value: "value".into(),
                create_revision,
                mod_revision,
                ..KeyValue::default()
            };
            collecting.push(&pair).unwrap();
        }
        let spool = collecting.finish().unwrap();
        assert_eq!(spool.len(), 5);
        let shown: Vec<String> = spool
            .revisions()
            .map(|changes| {
                let changes = changes.unwrap();
                let shown = changes.iter().map(|change| match change {
                    Change::Put(put) => {
                        let value = if put.value.is_empty() { "" } else { "=" };
                        let new = if put.is_new { "+" } else { "" };
                        format!("{new}{}{value}", put.key.escape_ascii())
                    }
                    Change::Delete(_) => unreachable!("nothing is deleted"),
                });
                shown.collect::<Vec<_>>().join(" ")
            })
            .collect();
        assert_eq!(shown, ["+b= +c", "+a", "c=", "a="]);
    }
}
