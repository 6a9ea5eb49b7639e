//! Judges what a cluster told its clients, from the record of one run.
//!
//! ```text
//!  history (JSON lines) ──▶ linearizability ──▶ the timeline: what each revision did
//!                                │                       │
//!                                ▼                       ▼
//!                             report ◀──────── watch · lease · lock
//! ```
//!
//! It knows what clients were promised and nothing of how the server keeps it: none of the server's
//! crates is used here. Simulated runs and recorded live runs are the same to it.

mod certain;
mod compaction;
mod evidence;
mod expectations;
mod explain;
pub mod history;
mod lease;
pub mod limits;
pub mod linearizability;
mod lock;
pub mod oracle;
mod order;
pub mod report;
mod run;
mod same_answer;
mod verdict;
mod watch;

pub use limits::Limits;
pub use report::{Counts, Finding, Report, Rule, Verdict};
pub use verdict::{Options, check, check_history};
