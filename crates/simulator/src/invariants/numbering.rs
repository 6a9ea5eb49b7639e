//! A command is known by its node, the node's start and a number (`state`'s origins): a number that
//! was given twice would make a new command a repetition of an old one, answered with what came of
//! that. So a node that gets a keyspace again goes on counting (etcd's request ids, which are never
//! used twice by one start of a member).

use std::collections::BTreeMap;

use base::GroupId;

use super::{Violation, violated};

/// The highest number that the node on each host has given in a group, since it was started.
#[derive(Debug, Default)]
pub struct Numbering(BTreeMap<(usize, GroupId), u64>);

impl Numbering {
    /// The node on this host is gone; the next one there is another start.
    pub fn stopped(&mut self, host: usize) {
        self.0.retain(|(of, _), _| *of != host);
    }

    /// A node has given numbers up to this one.
    ///
    /// # Errors
    /// If it had given higher ones before.
    pub fn numbered(&mut self, host: usize, group: GroupId, last: u64) -> Result<(), Violation> {
        let before = self.0.insert((host, group), last).unwrap_or(0);
        match last < before {
            true => violated(
                "numbers of commands are given once",
                format!("host {host} has given {before} in group {group}, and goes on from {last}"),
            ),
            false => Ok(()),
        }
    }
}
