//! The vocabulary that every other crate shares, and nothing else.
//!
//! - [`id`]: who and where: nodes, clusters, groups, log positions, epochs.
//! - [`time`]: instants and wall time as plain values; reading a clock is `server`'s business.
//! - [`checksum`]: CRC32C, the one checksum of disk blocks and peer frames.
//! - [`mutant`]: planted bugs, in the simulator's build only.
//! - [`random`]: a seeded generator, so that a run can be repeated from its seed.
//!
//! A test (`tests/only_vocabulary.rs`) keeps this list closed: a crate that everything depends on
//! must not become the place where things are put because everything depends on it.

pub mod checksum;
pub mod id;
pub mod mutant;
pub mod random;
pub mod time;

pub use id::{ClusterId, DiskId, Epoch, GroupId, Incarnation, NodeId, Slot};
pub use random::Random;
pub use time::{Instant, WallTime};
