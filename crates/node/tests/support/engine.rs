//! The engine of the clusters of these tests.

use consensus::EngineKind;

/// Which engine the clusters of these tests are created with: `QUORATE_TEST_ENGINE`, or Raft.
#[allow(clippy::disallowed_methods)] // A developer asks for the other by the environment.
pub(super) fn chosen() -> Option<EngineKind> {
    let asked = std::env::var("QUORATE_TEST_ENGINE").ok();
    asked.map(|name| name.parse().expect("the name of an engine"))
}
