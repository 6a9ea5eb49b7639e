//! How a keyspace gets from some nodes to others, as the table sees it.
//!
//! ```text
//!            move                    leave                       settle
//!   at rest ──────▶ filling ───────────────────▶ leaving ──────────────────▶ at rest
//!                    │  ▲   all of the target vote      nobody else is a member
//!                    └──┘ cancel, or another move: a target in place of the one before
//! ```
//!
//! Nothing of this is in a hurry: whoever leads the group looks at what its membership is and at
//! what stands here, and takes the next step ([`crate::placement::mover`]). It may die at any
//! point; the next leader goes on. To turn back is a move as well, to where the keyspace is.
//!
//! Each move has a number, the epoch of the table that it made, and *leave* and *settle* name it:
//! one that comes late is about another move than the present one, though it may go to the same
//! nodes.
//!
//! A node that let go of a keyspace has forgotten what its replica had promised. Replicas go by the
//! ids of their nodes, so that it could accept from a leader of long ago what it has refused
//! before. The row remembers such nodes, and one that gets the keyspace again begins in doubt.
//!
//! Beside those who vote, nodes may *observe* a keyspace: they get its log, serve reads and
//! watches, and nobody waits for them. An observer that a keyspace is sent to becomes one of its
//! replicas.

use base::{GroupId, NodeId};
use consensus::Membership;
use state::{Space, Transaction};

use super::command::check_replicas;
use super::table::{
    Count, EPOCH_KEY, FORMER_MAX, Keyspace, Moving, OBSERVERS_MAX, REPLICAS_MAX, Replica,
    check_epoch, count_change, row_key,
};
use crate::placement::plan::TableEpoch;

/// Keyspaces shall be on other nodes: all of these, or none.
pub(super) fn begin(
    mut transaction: Transaction<'_>,
    membership: &Membership,
    seen: TableEpoch,
    moves: Vec<(String, Vec<Replica>)>,
) -> Result<String, String> {
    let begun = next_epoch(check_epoch(&transaction, seen)?);
    let mut moved = Vec::new();
    for (name, target) in moves {
        check_replicas(membership, &target)?;
        let mut keyspace = find(&transaction, &name)?;
        send(&mut keyspace, target, begun)?;
        keyspace.stays = false;
        transaction.set_row(Space::META, &row_key(&name), &keyspace.encode());
        moved.push(keyspace.name);
    }
    if moved.is_empty() {
        return Err("there is nothing to move".to_owned());
    }
    count_change(&mut transaction);
    transaction.commit();
    Ok(match &moved[..] {
        [one] => format!("{one} is on its way; `quorate keyspace describe {one}` shows how far"),
        _ => format!(
            "{} keyspaces are on their way; `quorate keyspace list` shows how far",
            moved.len()
        ),
    })
}

/// Gives a keyspace another target than it has.
fn send(keyspace: &mut Keyspace, target: Vec<Replica>, begun: TableEpoch) -> Result<(), String> {
    let name = &keyspace.name;
    if keyspace
        .moving
        .as_ref()
        .is_some_and(|moving| moving.is_leaving)
    {
        return Err(format!(
            "{name} is on its new nodes, and the others are leaving already; wait until that is \
             done"
        ));
    }
    if is_alike(keyspace.target(), &target) {
        return Err(format!("{name} is there already, or on its way there"));
    }
    let before = keyspace.moving.take();
    let (one, other) = before.map_or((Vec::new(), Vec::new()), |moving| {
        (moving.target, moving.leaving)
    });
    let mut leaving: Vec<Replica> = Vec::new();
    for replica in keyspace.replicas.iter().chain(&one).chain(&other) {
        let is_known = |all: &[Replica]| all.iter().any(|each| each.node == replica.node);
        if !is_known(&target) && !is_known(&leaving) {
            leaving.push(replica.clone());
        }
    }
    if leaving.len() > REPLICAS_MAX || keyspace.former.len() + leaving.len() > FORMER_MAX {
        return Err(format!(
            "too many nodes are letting go of {name} already; wait until they have"
        ));
    }
    for replica in &target {
        keyspace.observers.remove(&replica.node);
    }
    keyspace.moving = Some(Moving {
        begun,
        target,
        leaving,
        is_leaving: false,
    });
    Ok(())
}

/// A keyspace shall stay where it is.
pub(super) fn cancel(mut transaction: Transaction<'_>, name: &str) -> Result<String, String> {
    let mut keyspace = find(&transaction, name)?;
    if keyspace.moving.is_none() {
        return Err(format!("{name} is not moving"));
    }
    let home = keyspace.replicas.clone();
    let count = Count::of_row(transaction.row(Space::META, EPOCH_KEY));
    send(&mut keyspace, home, next_epoch(count))?;
    keyspace.stays = true;
    store(&mut transaction, &keyspace);
    transaction.commit();
    Ok(format!("{name} stays where it was"))
}

/// A node observes a keyspace from now on, or no longer.
pub(super) fn observe(
    mut transaction: Transaction<'_>,
    membership: &Membership,
    name: &str,
    node: NodeId,
    observes: bool,
) -> Result<String, String> {
    let mut keyspace = find(&transaction, name)?;
    let Some(member) = membership.members.get(&node).filter(|_| observes) else {
        if observes {
            return Err("this node is not a member of the cluster any more".to_owned());
        }
        return let_go(transaction, keyspace, node);
    };
    let who = &member.name;
    if membership.is_witness(node) {
        return Err(format!("{who} is a witness: it holds no keyspace"));
    }
    if keyspace.is_held_by(node) {
        return Err(format!(
            "{who} holds {name}, with a vote, or is letting go of it"
        ));
    }
    let members = &membership.members;
    keyspace.observers.retain(|node| members.contains_key(node));
    if keyspace.observers.len() >= OBSERVERS_MAX {
        return Err(format!(
            "{name} has {OBSERVERS_MAX} observers, to each of which its leader sends what is \
             written: no more"
        ));
    }
    if !keyspace.observers.insert(node) {
        return Ok(format!("{who} observes {name} already"));
    }
    let done = format!("{who} observes {name} as soon as it has what is there");
    store(&mut transaction, &keyspace);
    transaction.commit();
    Ok(done)
}

/// An observer goes. It is remembered as all who let go of a keyspace are.
fn let_go(
    mut transaction: Transaction<'_>,
    mut keyspace: Keyspace,
    node: NodeId,
) -> Result<String, String> {
    let name = keyspace.name.clone();
    if !keyspace.observers.remove(&node) {
        return Err(format!("this node does not observe {name}"));
    }
    if keyspace.former.len() >= FORMER_MAX {
        return Err(format!("too many nodes have let go of {name} already"));
    }
    keyspace.former.insert(node);
    store(&mut transaction, &keyspace);
    transaction.commit();
    Ok(format!("{name} is no longer observed there"))
}

/// All of the target vote.
pub(super) fn leave(
    mut transaction: Transaction<'_>,
    group: GroupId,
    begun: TableEpoch,
) -> Result<String, String> {
    let mut keyspace = of_group(&transaction, group)?;
    match &mut keyspace.moving {
        Some(moving) if !moving.is_leaving && moving.begun == begun => {
            moving.is_leaving = true;
        }
        _ => return Err("it is not on this way any more".to_owned()),
    }
    store(&mut transaction, &keyspace);
    transaction.commit();
    Ok(String::new())
}

/// Nobody but the target is a member.
pub(super) fn settle(
    mut transaction: Transaction<'_>,
    membership: &Membership,
    group: GroupId,
    begun: TableEpoch,
) -> Result<String, String> {
    let mut keyspace = of_group(&transaction, group)?;
    match keyspace.moving.take() {
        Some(moving) if moving.is_leaving && moving.begun == begun => {
            let left = moving.leaving.iter().map(|each| each.node);
            keyspace.former.extend(left);
            // Whoever is removed from the cluster never comes back under its id.
            let members = &membership.members;
            keyspace.former.retain(|node| members.contains_key(node));
            keyspace.replicas = moving.target;
        }
        _ => return Err("it is not on this way any more".to_owned()),
    }
    store(&mut transaction, &keyspace);
    transaction.commit();
    Ok(String::new())
}

/// The epoch that the table has once it is changed.
fn next_epoch(count: Count) -> TableEpoch {
    TableEpoch(count.epoch + 1)
}

fn store(transaction: &mut Transaction<'_>, keyspace: &Keyspace) {
    transaction.set_row(Space::META, &row_key(&keyspace.name), &keyspace.encode());
    count_change(transaction);
}

fn find(transaction: &Transaction<'_>, name: &str) -> Result<Keyspace, String> {
    let row = transaction.row(Space::META, &row_key(name));
    let keyspace = row.and_then(|row| Keyspace::decode(name, &row));
    keyspace.ok_or_else(|| format!("there is no keyspace called {name} that could be moved"))
}

fn of_group(transaction: &Transaction<'_>, group: GroupId) -> Result<Keyspace, String> {
    let rows = transaction.rows(Space::META);
    let mut all = rows.filter_map(|(key, row)| Keyspace::of_row(&key, &row));
    let found = all.find(|keyspace| keyspace.group == group);
    found.ok_or_else(|| format!("no keyspace lives in group {group} any more"))
}

/// Whether the same nodes are named; never one of them twice.
fn is_alike(one: &[Replica], other: &[Replica]) -> bool {
    let is_named = |replica: &Replica| other.iter().any(|each| each.node == replica.node);
    one.len() == other.len() && one.iter().all(is_named)
}
