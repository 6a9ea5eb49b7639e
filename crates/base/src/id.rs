//! Identifiers as distinct types, so that two numbers cannot be swapped by mistake.

use std::fmt;

/// Declares a numeric identifier with the same small set of traits for all of them.
macro_rules! identifier {
    ($(#[$documentation:meta])* $name:ident, $format:literal) => {
        $(#[$documentation])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, $format, self.0)
            }
        }
    };
}

identifier!(
    /// One member of a cluster, drawn at random when its data folder is first used. A node that
    /// lost its folder comes back with another id, so that its old vote cannot be cast twice.
    NodeId,
    "{:016x}"
);
identifier!(
    /// One cluster, drawn at random when it forms.
    ClusterId,
    "{:016x}"
);
identifier!(
    /// One data folder, so that a copied or exchanged folder is noticed.
    DiskId,
    "{:016x}"
);
identifier!(
    /// One consensus group.
    GroupId,
    "{}"
);
identifier!(
    /// A position in a group's log. The first entry has slot 1; slot 0 is "before everything".
    Slot,
    "{}"
);
identifier!(
    /// A leadership period of a group (Raft: the term). Epoch 0 is "never had a leader".
    Epoch,
    "{}"
);
identifier!(
    /// Counts the starts of one node. Commands of an earlier incarnation are never executed after
    /// those of a later one.
    Incarnation,
    "{}"
);

impl Slot {
    /// The slot after this one.
    #[must_use]
    pub fn next(self) -> Slot {
        Slot(self.0 + 1)
    }

    /// The slot before this one.
    ///
    /// # Panics
    /// If this is slot 0: nothing is before the beginning.
    #[must_use]
    pub fn previous(self) -> Slot {
        assert!(self.0 > 0, "slot 0 has no predecessor");
        Slot(self.0 - 1)
    }
}

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}
