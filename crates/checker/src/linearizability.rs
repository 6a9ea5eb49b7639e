//! Two searches for an order in which one copy of the data would have given the same answers.
//!
//! - [`revisions`]: for histories of etcd's keyspace. Every answer carries a revision, which places
//!   it; only revisions that nobody acknowledged are searched for. Near linear in practice.
//! - [`generic`]: Wing and Gong's search with Lowe's memory, for any sequential [`Model`], split
//!   into parts that do not touch each other. It knows nothing of revisions: registers are judged
//!   with it, and it cross-checks the other.
//!
//! J. Wing, C. Gong: Testing and verifying concurrent objects (1993). G. Lowe: Testing for
//! linearizability (2016). A. Horn, D. Kroening: Faster linearizability checking via
//! P-compositionality (2015).

pub mod generic;
pub mod keyspace;
pub mod register;
pub(crate) mod revisions;

pub use generic::{Call, Model, Outcome, judge, judge_parts};
