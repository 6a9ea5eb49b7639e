//! What bounds the state.
//!
//! Some bounds decide what a command does ([`Settings`]): these are part of the replicated state,
//! of its digest and of its checkpoints, so that a replica that is restored from a checkpoint goes
//! on with the numbers of its group, and replicas that began with different numbers are found out
//! at the first comparison of digests. The others ([`Limits`]) only bound what one replica holds
//! or reads, and may differ.

/// The newest level that this build can execute. A group at a higher level is not opened.
pub const LEVEL_MAX: u32 = 1;

/// What each version and each row counts in [`crate::Reader::held_bytes`] beyond its key and its
/// value: places in the tree and in the index of revisions, and the allocations' own overhead.
/// Part of level 1: it decides when the quota is reached.
pub const OVERHEAD_BYTES: u64 = 192;

/// The longest key plus value, in bytes, that can be stored. Protocols refuse far shorter ones;
/// this bound is what a reader of checkpoints relies on.
pub const ROW_BYTES_MAX: usize = 16 << 20;

/// Bounds that decide results. All replicas of a group have the same, from its first state on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many bytes may be held before [`crate::Transaction::room_for`] says no.
    pub quota_bytes: u64,
    /// How many versions at most are looked at for compaction at the end of an entry that changes
    /// no key; for others, see [`Settings::compaction_steps`].
    pub compaction_steps_per_entry: u32,
    /// How far below the highest executed sequence of an origin a sequence can still be told from
    /// one that was executed.
    pub origin_window: u64,
    /// How many separate runs of executed sequences are remembered per origin; with more, the
    /// lowest is forgotten and everything up to its end counts as stale.
    pub origin_ranges_max: u32,
    /// A lease is granted for at least so many seconds, whatever was asked for: clients need time
    /// to renew it, also while leadership changes.
    pub lease_floor_seconds: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            quota_bytes: 2 << 30,
            compaction_steps_per_entry: 1000,
            origin_window: 65_536,
            origin_ranges_max: 1024,
            lease_floor_seconds: 2,
        }
    }
}

/// Part of level 1: an entry looks at as many versions for compaction as it changes, and at one
/// more for so many of them or a part of as many. So compaction comes to its end however much is
/// written meanwhile, and costs little more than it must: what is written leaves as much behind.
const CHANGES_PER_COMPACTION_STEP_AHEAD: u32 = 4;

impl Settings {
    /// How many versions are looked at for compaction at the end of an entry with so many changes.
    /// While much is written, entries come fast, and what each does for compaction is what the
    /// writes behind it wait for: so that is in proportion to what it writes, a fraction of their
    /// cost, and more than they leave behind. While nothing is, it is as much as may be.
    pub(crate) fn compaction_steps(&self, changes: usize) -> u32 {
        let Ok(changes) = u32::try_from(changes) else {
            return u32::MAX;
        };
        if changes == 0 {
            return self.compaction_steps_per_entry;
        }
        changes.saturating_add(changes.div_ceil(CHANGES_PER_COMPACTION_STEP_AHEAD))
    }
}

/// All bounds of one replica's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The bounds that decide results, for a state that begins empty.
    pub settings: Settings,
    /// A checkpoint's block is closed once its content reaches this many bytes. Replicas with the
    /// same value write the same bytes.
    pub checkpoint_block_bytes: usize,
    /// The longest membership record accepted in a checkpoint, in bytes.
    pub checkpoint_membership_bytes_max: usize,
    /// The newest level that this replica executes: what its build knows, [`LEVEL_MAX`], unless
    /// somebody tries out how builds of different levels get along.
    pub level_max: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            settings: Settings::default(),
            checkpoint_block_bytes: 64 << 10,
            checkpoint_membership_bytes_max: 1 << 20,
            level_max: LEVEL_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compaction_does_as_much_as_may_be_when_nothing_is_written_and_else_keeps_ahead_of_it() {
        let settings = Settings {
            compaction_steps_per_entry: 100,
            ..Settings::default()
        };
        assert_eq!(settings.compaction_steps(0), 100);
        assert_eq!(settings.compaction_steps(1), 2);
        assert_eq!(settings.compaction_steps(20), 25);
        assert_eq!(settings.compaction_steps(4000), 5000);
        assert_eq!(settings.compaction_steps(usize::MAX), u32::MAX);
        for changes in 1..5000 {
            assert!(settings.compaction_steps(changes) > changes as u32);
        }
    }
}
