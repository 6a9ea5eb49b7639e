//! Consistent hashing: which nodes hold which group, and how to get there with the fewest moves.
//!
//! ```text
//!  sites, groups, table ──▶ plan ──▶ Plan (target, moves, reasons) ──▶ mover ──▶ steps
//!        (rendezvous proposes, capacity and failure domains bound,       add learner, promote,
//!         sticky: what may stay stays)                                   hand over, remove
//! ```
//!
//! Nodes and clients compute nothing: they read the table, which stands in the log of group 0, by
//! its epoch. So a plan can be thought about, shown and refused before anything moves, and two
//! versions of this code never disagree about where a group is.
//!
//! [`ring`] and [`maglev`] are for balancing work over workers without a table, for instance in a
//! client. All arithmetic is on integers: the same input gives the same answer everywhere.

pub mod explain;
pub mod leaders;
pub mod maglev;
pub mod mover;
pub mod plan;
pub mod rendezvous;
pub mod ring;
pub mod site;
