//! The named spaces that share one state.
//!
//! Everything that is replicated is rows in a space. A space says who owns it and whether it
//! keeps history: one that does is a keyspace with revisions, as etcd's clients see it; one that
//! does not is a plain ordered map. Ranges, counts, events and the revision see only spaces with
//! history; the checkpoint, the digest and the quota cover all.

use std::fmt;

/// Who alone writes to a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The etcd protocol.
    Etcd,
    /// This crate.
    State,
    /// The node's own commands.
    Node,
    /// What the cluster's first group agrees on about all groups.
    Cluster,
}

/// Names a space. The number stands in checkpoints and digests and never changes its meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space(u8);

/// What is known about one space.
struct Description {
    name: &'static str,
    owner: Owner,
    history: bool,
}

/// By number, from 1.
const DESCRIPTIONS: [Description; 9] = [
    Description {
        name: "etcd",
        owner: Owner::Etcd,
        history: true,
    },
    Description {
        name: "system",
        owner: Owner::Node,
        history: false,
    },
    Description {
        name: "origins",
        owner: Owner::State,
        history: false,
    },
    Description {
        name: "members",
        owner: Owner::Node,
        history: false,
    },
    Description {
        name: "leases",
        owner: Owner::State,
        history: false,
    },
    Description {
        name: "users",
        owner: Owner::Etcd,
        history: false,
    },
    Description {
        name: "roles",
        owner: Owner::Etcd,
        history: false,
    },
    Description {
        name: "authentication",
        owner: Owner::Etcd,
        history: false,
    },
    Description {
        name: "meta",
        owner: Owner::Cluster,
        history: false,
    },
];

/// How many spaces there are.
pub(crate) const SPACE_COUNT: usize = DESCRIPTIONS.len();

impl Space {
    /// The keys of etcd's clients.
    pub const ETCD: Space = Space(1);
    /// What the group as a whole agrees on.
    pub const SYSTEM: Space = Space(2);
    /// Which commands of which node have been executed.
    pub const ORIGINS: Space = Space(3);
    /// What is known about the members beyond their votes.
    pub const MEMBERS: Space = Space(4);
    /// The leases; [`crate::Transaction`] has its own operations for them.
    pub const LEASES: Space = Space(5);
    /// Who may sign in.
    pub const USERS: Space = Space(6);
    /// What users may do who have a role.
    pub const ROLES: Space = Space(7);
    /// Whether users have to sign in, and the revision of users and roles.
    pub const AUTHENTICATION: Space = Space(8);
    /// Keyspaces, and the groups that they live in.
    pub const META: Space = Space(9);

    /// All spaces, by number.
    pub fn all() -> impl Iterator<Item = Space> {
        (1..=SPACE_COUNT as u8).map(Space)
    }

    /// The space of this number, as it stands in a checkpoint.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Space> {
        (1..=SPACE_COUNT as u8)
            .contains(&number)
            .then_some(Space(number))
    }

    /// The number that stands in checkpoints.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// Its name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.description().name
    }

    /// Who writes to it.
    #[must_use]
    pub fn owner(self) -> Owner {
        self.description().owner
    }

    /// Whether old versions can be read, and writing makes a revision.
    #[must_use]
    pub fn keeps_history(self) -> bool {
        self.description().history
    }

    /// Its place in an array over all spaces.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0) - 1
    }

    fn description(self) -> &'static Description {
        &DESCRIPTIONS[self.index()]
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
