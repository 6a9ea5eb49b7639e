//! Where replicas can be: nodes with a capacity, in failure domains.

use std::fmt;

use base::NodeId;

/// How much a node takes, relative to the others; 100 for an ordinary one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    /// What a node weighs that says nothing about it.
    pub const ORDINARY: Weight = Weight(100);
    /// The most a node may weigh; keeps every product within its integer.
    pub const MAX: Weight = Weight(1_000_000);

    /// A weight of `1..=1_000_000`, or nothing.
    #[must_use]
    pub fn new(weight: u32) -> Option<Weight> {
        (1..=Weight::MAX.0)
            .contains(&weight)
            .then_some(Weight(weight))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// Where a node stands: what fails together. An empty name is "not said", the same for all who do
/// not say it. Racks are told apart within their zone, hosts within their rack.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Domains {
    /// A building, or what a provider calls an availability zone.
    pub zone: String,
    /// A rack: one switch, one power supply.
    pub rack: String,
    /// A machine, which may run several nodes.
    pub host: String,
}

/// How two nodes fail together: the widest domain that they share is what counts most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflicts {
    /// Pairs in one zone.
    pub zone: u32,
    /// Pairs in one rack.
    pub rack: u32,
    /// Pairs on one host.
    pub host: u32,
}

impl Conflicts {
    /// What `one` shares with `other`.
    #[must_use]
    pub fn between(one: &Domains, other: &Domains) -> Conflicts {
        let zone = one.zone == other.zone;
        let rack = zone && one.rack == other.rack;
        let host = rack && one.host == other.host;
        Conflicts {
            zone: u32::from(zone),
            rack: u32::from(rack),
            host: u32::from(host),
        }
    }

    /// All pairs of one set of replicas.
    #[must_use]
    pub fn within(domains: &[&Domains]) -> Conflicts {
        let mut sum = Conflicts::default();
        for (index, one) in domains.iter().enumerate() {
            for other in &domains[..index] {
                sum = sum.plus(Conflicts::between(one, other));
            }
        }
        sum
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Conflicts) -> Conflicts {
        Conflicts {
            zone: self.zone + other.zone,
            rack: self.rack + other.rack,
            host: self.host + other.host,
        }
    }
}

/// What may be asked of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Holds replicas and takes new ones.
    Serving,
    /// Is alive and is being emptied.
    Draining,
    /// Has been dead for so long that its replicas are to be replaced.
    Gone,
}

impl fmt::Display for Standing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Standing::Serving => "serving",
            Standing::Draining => "draining",
            Standing::Gone => "gone",
        })
    }
}

/// One node, as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Which node.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// How much it takes.
    pub weight: Weight,
    /// What it fails together with.
    pub domains: Domains,
    /// What may be asked of it.
    pub standing: Standing,
}
