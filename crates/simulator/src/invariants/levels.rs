//! Rolling upgrades (design, section 4): a level is raised only once every member has been seen
//! running a build that knows it, and no node goes by a level that its own build does not know.
//!
//! That builds of different levels come to the same state is `agreement`'s.

use std::collections::BTreeMap;

use base::NodeId;
use node::replica::Replica;

use super::{Violation, violated};

/// What each member's builds know, and the level of the group.
#[derive(Debug, Default)]
pub struct Levels {
    known: BTreeMap<NodeId, u32>,
    raised_to: u32,
}

impl Levels {
    /// A node runs, with a build that knows levels up to this one.
    pub fn runs(&mut self, node: NodeId, level_max: u32) {
        let known = self.known.entry(node).or_default();
        *known = level_max.max(*known);
    }

    /// A replica has executed more.
    ///
    /// # Errors
    /// If somebody does not know the level that it is at.
    pub fn executed(&mut self, own: NodeId, replica: &Replica) -> Result<(), Violation> {
        let level = replica.reader().level();
        if !replica.knows_level() {
            return violated(
                "nobody goes by a level that it does not know",
                format!(
                    "{own} is at level {level} and knows {}",
                    replica.level_max()
                ),
            );
        }
        if level <= self.raised_to {
            return Ok(());
        }
        self.raised_to = level;
        // A witness executes nothing, whatever its level.
        let membership = replica.membership();
        let mut behind = membership.members.keys().filter(|member| {
            let known = self.known.get(member);
            known.is_some_and(|known| *known < level) && !membership.is_witness(**member)
        });
        match behind.next() {
            None => Ok(()),
            Some(member) => violated(
                "a level is raised once all members know it",
                format!("{own} is at level {level}, which {member} has never known"),
            ),
        }
    }
}
