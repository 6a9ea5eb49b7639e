//! The identity file: readable by people, checked by its last line.
//!
//! ```text
//!   # Whom this data folder belongs to. Written by quorate; the last line guards it.
//!   format = 1
//!   name = "n1"
//!   node = "8c1f0f64c2ab90d1"
//!   disk = "51b8b3fe6a2f3c07"
//!   incarnation = 3
//!   journal-created = true
//!   epochs = "0000000000100000"          nothing was promised in this epoch or a later one
//!   doubtful = false                     what was promised is not known of all groups
//!   others = false                       began alone, and others have had votes since
//!   witness = false                      it votes and holds no data
//!   standing = "member"                  alone, forming or member
//!   cluster = "0d6e8ad1f4b7c2a9"         not if alone
//!   engine = "raft"                      likewise: how its members agree
//!   copies = 1                           if a number was chosen
//!   [[genesis]]                          the first membership, a table per member
//!   id = "8c1f0f64c2ab90d1"
//!   name = "n1"
//!   peer-address = "10.0.0.1:2380"
//!   voter = true
//!   outgoing = false
//!   witness = false
//!   # crc32c 1a2b3c4d                    of every byte before this line
//! ```
//!
//! The checksum is there because a flipped bit in `node` would make this node another one, whose
//! vote could be cast twice.

use base::{ClusterId, DiskId, Epoch, Incarnation, NodeId};
use consensus::membership::Member;
use consensus::{EngineKind, Membership, QuorumRule};
use node::{Identity, Standing};
use serde::{Deserialize, Serialize};

/// The format that this build writes, and the newest it reads.
const FORMAT: u32 = 1;
const HEADING: &str =
    "# Whom this data folder belongs to. Written by quorate; the last line guards it.\n";
const CHECKSUM: &str = "# crc32c ";

/// Why a file is not a usable identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// Bytes are not what was written.
    Checksum,
    /// Written by a newer build.
    Newer(u32),
    /// Well guarded, but not what an identity is.
    Content(String),
}

impl Damage {
    pub(super) fn what(&self) -> String {
        match self {
            Damage::Checksum => "is damaged: its checksum does not match".into(),
            Damage::Newer(format) => {
                format!("has format {format}, and this build knows formats up to {FORMAT}")
            }
            Damage::Content(problem) => format!("cannot be understood: {problem}"),
        }
    }

    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Damage::Newer(_) => "start a build at least as new as the one that wrote it",
            Damage::Checksum | Damage::Content(_) => {
                "put back an undamaged copy, or remove this node from the cluster and add it anew \
                 with an empty folder"
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Contents {
    format: u32,
    name: String,
    node: String,
    disk: String,
    incarnation: u64,
    journal_created: bool,
    epochs: String,
    doubtful: bool,
    others: bool,
    witness: bool,
    standing: String,
    cluster: Option<String>,
    engine: Option<String>,
    /// `elect=N,commit=N`, unless majorities do both.
    quorums: Option<String>,
    /// Copies of each entry, unless as many as commit.
    copies: Option<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    genesis: Vec<GenesisMember>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct GenesisMember {
    id: String,
    name: String,
    peer_address: String,
    voter: bool,
    outgoing: bool,
    witness: bool,
}

/// The text of the file.
pub(super) fn encode(identity: &Identity) -> String {
    let (standing, group) = match &identity.standing {
        Standing::Alone => ("alone", None),
        Standing::Forming {
            cluster,
            genesis,
            engine,
        } => ("forming", Some((*cluster, genesis, *engine))),
        Standing::Member {
            cluster,
            genesis,
            engine,
        } => ("member", Some((*cluster, genesis, *engine))),
    };
    let contents = Contents {
        format: FORMAT,
        name: identity.name.clone(),
        node: identity.node.to_string(),
        disk: identity.disk.to_string(),
        incarnation: identity.incarnation.0,
        journal_created: identity.journal_created,
        epochs: format!("{:016x}", identity.epochs.0),
        doubtful: identity.is_doubtful,
        others: identity.has_others,
        witness: identity.is_witness,
        standing: standing.to_owned(),
        cluster: group.map(|(cluster, _, _)| cluster.to_string()),
        engine: group.map(|(_, _, engine)| engine.to_string()),
        quorums: group
            .and_then(|(_, genesis, _)| genesis.quorums.chosen())
            .map(|(_, sizes)| sizes.to_string()),
        copies: group.and_then(|(_, genesis, _)| genesis.quorums.copies()),
        genesis: group
            .map(|(_, genesis, _)| members(genesis))
            .unwrap_or_default(),
    };
    let body = toml::to_string(&contents).expect("strings, numbers and flags are always TOML");
    let text = format!("{HEADING}{body}");
    let checksum = base::checksum::crc32c(text.as_bytes());
    format!("{text}{CHECKSUM}{checksum:08x}\n")
}

/// Reads the text of a file.
pub(super) fn decode(bytes: &[u8]) -> Result<Identity, Damage> {
    let text = std::str::from_utf8(bytes).map_err(|_| Damage::Checksum)?;
    let guarded = text.rfind(CHECKSUM).ok_or(Damage::Checksum)?;
    let (text, guard) = text.split_at(guarded);
    let written = base::checksum::crc32c(text.as_bytes());
    if guard != format!("{CHECKSUM}{written:08x}\n") {
        return Err(Damage::Checksum);
    }
    // The format decides how the rest is to be read, so it is read first and alone.
    let table: toml::Table = text.parse().map_err(content)?;
    let format = table.get("format").and_then(toml::Value::as_integer);
    let format = format.and_then(|format| u32::try_from(format).ok());
    let format = format.ok_or_else(|| Damage::Content("it has no format".into()))?;
    if format > FORMAT {
        return Err(Damage::Newer(format));
    }
    let contents: Contents = table.try_into().map_err(content)?;
    identity(contents)
}

fn content(error: toml::de::Error) -> Damage {
    Damage::Content(error.message().to_owned())
}

fn members(membership: &Membership) -> Vec<GenesisMember> {
    let members = membership.members.iter().map(|(id, member)| GenesisMember {
        id: id.to_string(),
        name: member.name.clone(),
        peer_address: member.peer_address.clone(),
        voter: membership.voters.contains(id),
        outgoing: membership.outgoing.contains(id),
        witness: membership.is_witness(*id),
    });
    members.collect()
}

fn identity(contents: Contents) -> Result<Identity, Damage> {
    let mut genesis = Membership::default();
    for member in &contents.genesis {
        let id = NodeId(number(&member.id)?);
        let entry = Member {
            name: member.name.clone(),
            peer_address: member.peer_address.clone(),
        };
        if genesis.members.insert(id, entry).is_some() {
            return Err(Damage::Content(format!("member {id} stands there twice")));
        }
        if member.voter {
            genesis.voters.insert(id);
        }
        if member.outgoing {
            genesis.outgoing.insert(id);
        }
        if member.witness {
            genesis.witnesses.insert(id);
        }
    }
    if let Some(sizes) = &contents.quorums {
        let sizes = sizes.parse().map_err(Damage::Content)?;
        let rule = QuorumRule::new(genesis.voters.len(), sizes);
        genesis.quorums = rule.map_err(Damage::Content)?;
    }
    if let Some(copies) = contents.copies {
        let rule = genesis.quorums.with_copies(copies);
        genesis.quorums = rule.map_err(Damage::Content)?;
    }
    let cluster = contents
        .cluster
        .as_deref()
        .map(number)
        .transpose()?
        .map(ClusterId);
    let engine = contents.engine.as_deref().map(str::parse::<EngineKind>);
    let engine = engine.transpose().map_err(Damage::Content)?;
    let standing = match (contents.standing.as_str(), cluster.zip(engine)) {
        ("alone", None) if contents.genesis.is_empty() => Standing::Alone,
        ("forming", Some((cluster, engine))) => Standing::Forming {
            cluster,
            genesis,
            engine,
        },
        ("member", Some((cluster, engine))) => Standing::Member {
            cluster,
            genesis,
            engine,
        },
        (other, _) => {
            return Err(Damage::Content(format!(
                "standing {other:?} does not fit the rest"
            )));
        }
    };
    Ok(Identity {
        node: NodeId(number(&contents.node)?),
        disk: DiskId(number(&contents.disk)?),
        name: contents.name,
        incarnation: Incarnation(contents.incarnation),
        journal_created: contents.journal_created,
        epochs: Epoch(number(&contents.epochs)?),
        is_doubtful: contents.doubtful,
        has_others: contents.others,
        is_witness: contents.witness,
        standing,
    })
}

fn number(digits: &str) -> Result<u64, Damage> {
    let number = u64::from_str_radix(digits, 16)
        .ok()
        .filter(|_| digits.len() == 16);
    number.ok_or_else(|| Damage::Content(format!("{digits:?} is not 16 hexadecimal digits")))
}
