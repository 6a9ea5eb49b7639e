//! What the first group of a cluster agrees on: which keyspaces there are, and who holds each.
//!
//! ```text
//!   quorate keyspace create ─▶ plan ─▶ Create(epoch seen, replicas) ─▶ log of the first group
//!                                                                        │ executed
//!                    every node: opens what it shall hold  ◀── table ◀───┘
//! ```
//!
//! Commands execute in the state as those of a protocol do: deterministic, and judged by what the
//! table says when their turn comes. A plan names the epoch of the table that it was made on; if
//! the table has changed since, the command is refused, and whoever made the plan makes another
//! one.
//!
//! A keyspace is a group of its own, with its own revisions, users and limits. The keyspace
//! [`DEFAULT`] is the one that clients get who name none; it lives in the first group itself and
//! has no row. Numbers of groups are never used twice, so that what is left of a dropped group
//! anywhere can never be taken for another one.

mod command;
mod moving;
mod nodes;
mod planning;
mod report;
mod routing;
mod table;

pub use command::{CREATED_MAX, MetaCommand, PROTOCOL, execute, is_about_routes};
pub use nodes::{REPLACE_AFTER_MIN, Tending, domains, sites, standing, tending};
pub use planning::{Picture, Proposal, replica_of};
pub use report::{cannot_be_emptied, explain_report, plan_report};
pub use routing::{PREFIX_BYTES_MAX, ROUTES_MAX, Route, routes, shown};
pub use table::{
    DEFAULT, KEYSPACES_MAX, Keyspace, Moving, Replica, all_keyspaces, check_name, epoch, keyspace,
    keyspaces, last_group,
};
