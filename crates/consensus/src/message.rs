//! What replicas say to each other, and its encoding.

/// A message between two replicas of a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {}
